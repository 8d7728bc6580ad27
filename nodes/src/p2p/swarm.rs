//! The TCP swarm: accepts and dials peers, shakes hands, and carries frames both ways.
//!
//! One task per connection, both directions in it. Whom to dial and to refuse is decided in
//! `peers.rs`; what a frame means in `gossip.rs`. Every dial leaves from the node's own address.

use super::codec::WireError;
use super::frame::{self, Frame, Handshake};
use super::gossip;
use super::peers::{Direction, Refusal};
use super::wire::{self, PublicKey, SharedKey};
use crate::mesh;
use crate::node::{Contact, Node};
use crate::runtime::{events, lock};
use bytes::{Bytes, BytesMut};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Frames that wait are written together up to this size, to save system calls.
const BATCH_BYTES: usize = 64 << 10;
/// A handshake is some 150 bytes.
const HANDSHAKE_MAX: usize = 1024;
/// Room for a typical burst; grows to the frame limit when a long frame comes.
const READ_BUFFER: usize = 4 << 10;
/// After a failed accept, usually for lack of descriptors, wait this long for some to come back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Without anybody to dial there is nothing to wait for but a change; look again this often anyway.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Why a connection came to nothing, or to an end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("nothing came for too long")]
    Silent,
    #[error("closed by the peer")]
    Closed,
    #[error("closed by this node")]
    ClosedHere,
    #[error("refused: {}", .0.reason())]
    Refused(Refusal),
    #[error("another node answered than the one dialled")]
    Stranger,
}

impl Ended {
    fn reason(&self) -> &'static str {
        match self {
            Self::Io(_) => "io",
            Self::Wire(error) => error.reason(),
            Self::Silent => "silent",
            Self::Closed => "closed",
            Self::ClosedHere => "closed-here",
            Self::Refused(refusal) => refusal.reason(),
            Self::Stranger => "stranger",
        }
    }
}

/// Accepts connections for ever.
pub(crate) async fn accept(node: Arc<Node>, listener: TcpListener) {
    let pending = Arc::new(Semaphore::new(node.settings.max_pending));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        let Ok((stream, _)) = accepted else {
            node.metrics.handshake_rejected("accept-error");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&pending).try_acquire_owned() else {
            node.metrics.handshake_rejected("too-many-pending");
            continue;
        };
        let node = Arc::clone(&node);
        connections.spawn(async move { incoming(&node, stream, permit).await });
    }
}

/// Keeps the wanted peers connected, for ever.
pub(crate) async fn dial_around(node: Arc<Node>) {
    let mut dials = JoinSet::new();
    loop {
        let now = Instant::now();
        let (batch, again) = lock(&node.peers).next_dials(now);
        for contact in batch {
            let node = Arc::clone(&node);
            dials.spawn(async move { outgoing(&node, &contact).await });
        }
        let wait = again.map_or(LOOK_AGAIN, |again| again.saturating_duration_since(now));
        tokio::select! {
            () = node.peers_changed.notified() => {}
            () = tokio::time::sleep(wait) => {}
            Some(_) = dials.join_next(), if !dials.is_empty() => {}
        }
    }
}

async fn incoming(
    node: &Arc<Node>,
    mut stream: TcpStream,
    permit: tokio::sync::OwnedSemaphorePermit,
) {
    let greeting = async {
        stream.set_nodelay(true)?;
        let first = read_first(&mut stream).await?;
        let key = wire::sender_of(&first)?;
        let contact = node.contact(&key);
        let shared = contact.map_or_else(
            || SharedKey::new(&node.identity.secret, &key),
            |contact| contact.shared(&node.identity.secret).clone(),
        );
        check(node, &Handshake::decode(&shared.open_datagram(&first)?)?)?;
        let (queue, queued) = mpsc::channel(node.settings.peer_queue);
        let id = lock(&node.peers)
            .admit(&key, Direction::Inbound, Instant::now(), queue)
            .map_err(Ended::Refused)?;
        Ok::<_, Ended>(Link {
            id,
            key,
            shared,
            queued,
            direction: Direction::Inbound,
        })
    };
    let greeted = timeout(node.settings.handshake_timeout, greeting).await;
    drop(permit);
    match greeted.unwrap_or(Err(Ended::Silent)) {
        Ok(link) => {
            let hello = own_handshake(node, &link.shared);
            converse(node, stream, link, Some(hello)).await;
        }
        Err(ended) => {
            node.metrics.handshake_rejected(ended.reason());
        }
    }
}

async fn outgoing(node: &Arc<Node>, contact: &Contact) {
    let shared = contact.shared(&node.identity.secret);
    let greeting = async {
        let mut stream = connect(node, contact.p2p).await?;
        stream.write_all(&own_handshake(node, shared)).await?;
        let first = read_first(&mut stream).await?;
        if wire::sender_of(&first)? != contact.key {
            return Err(Ended::Stranger);
        }
        check(node, &Handshake::decode(&shared.open_datagram(&first)?)?)?;
        Ok::<_, Ended>(stream)
    };
    let greeted = timeout(node.settings.handshake_timeout, greeting).await;
    let (queue, queued) = mpsc::channel(node.settings.peer_queue);
    let admitted = greeted.unwrap_or(Err(Ended::Silent)).and_then(|stream| {
        let id = lock(&node.peers)
            .admit(&contact.key, Direction::Outbound, Instant::now(), queue)
            .map_err(Ended::Refused)?;
        Ok((stream, id))
    });
    match admitted {
        Ok((stream, id)) => {
            let shared = shared.clone();
            let link = Link {
                id,
                key: contact.key,
                shared,
                queued,
                direction: Direction::Outbound,
            };
            converse(node, stream, link, None).await;
        }
        Err(ended) => {
            node.metrics.handshake_rejected(ended.reason());
            lock(&node.peers).dial_failed(&contact.key, Instant::now());
            node.peers_changed.notify_one();
        }
    }
}

/// Connects from the node's own address and a fresh port.
async fn connect(node: &Node, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if to.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.bind(SocketAddr::new(node.settings.p2p.ip(), 0))?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn own_handshake(node: &Node, shared: &SharedKey) -> Vec<u8> {
    let hello = Handshake::new(node.network.netid, node.settings.p2p.port()).encode();
    let datagram = shared.seal_datagram(&node.identity.public, &node.nonces.next(), &hello);
    let mut out = Vec::with_capacity(frame::LENGTH_LEN + datagram.len());
    frame::append(&mut out, |out| out.extend_from_slice(&datagram));
    out
}

fn check(node: &Node, handshake: &Handshake) -> Result<(), WireError> {
    let (expected, found) = (node.network.netid, handshake.netid);
    if expected == found {
        Ok(())
    } else {
        Err(WireError::NetId { expected, found })
    }
}

/// The first frame of a connection, read without taking a byte of the second.
async fn read_first(stream: &mut TcpStream) -> Result<Vec<u8>, Ended> {
    let len = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if len > HANDSHAKE_MAX {
        let limit = HANDSHAKE_MAX;
        return Err(WireError::TooLong {
            what: "a handshake",
            len,
            limit,
        }
        .into());
    }
    let mut first = vec![0; len];
    stream.read_exact(&mut first).await?;
    Ok(first)
}

/// A connection that was admitted.
struct Link {
    id: u64,
    key: PublicKey,
    shared: SharedKey,
    queued: mpsc::Receiver<Bytes>,
    direction: Direction,
}

/// Carries frames until the connection ends, and reports both ends of its life.
async fn converse(node: &Arc<Node>, mut stream: TcpStream, link: Link, hello: Option<Vec<u8>>) {
    let Link {
        id,
        key,
        shared,
        queued,
        direction,
    } = link;
    node.talking.send_modify(|connections| *connections += 1);
    node.peer_connected(&key, direction);
    let (reading, writing) = stream.split();
    let ended = tokio::select! {
        ended = read(node, reading, &shared, &key) => ended,
        ended = write(node, writing, &shared, queued, hello) => ended,
    };
    let reason = ended.err().unwrap_or(Ended::Closed);
    if lock(&node.peers).gone(&key, id, Instant::now()) {
        node.peer_lost(&key, &reason.to_string());
    }
    node.talking.send_modify(|connections| *connections -= 1);
    node.peers_changed.notify_one();
}

async fn read(
    node: &Arc<Node>,
    mut stream: ReadHalf<'_>,
    shared: &SharedKey,
    from: &PublicKey,
) -> Result<(), Ended> {
    let limit = node.settings.max_frame + wire::NONCE_LEN + wire::TAG_LEN;
    let mut buffer = BytesMut::with_capacity(READ_BUFFER);
    loop {
        while let Some(sealed) = frame::split(&mut buffer, limit)? {
            match Frame::decode(&shared.open_box(&sealed)?)? {
                Frame::KeepAlive => {}
                Frame::Gossip { topic, body } => gossip::receive(node, from, topic, body),
                Frame::Request { id, body } => mesh::asked(node, from, id, &body),
                Frame::Answer { id, body } => mesh::answered(node, from, id, &body),
            }
        }
        let reading = timeout(node.settings.idle_timeout, stream.read_buf(&mut buffer));
        if reading.await.map_err(|_| Ended::Silent)?? == 0 {
            return Err(Ended::Closed);
        }
    }
}

async fn write(
    node: &Arc<Node>,
    mut stream: WriteHalf<'_>,
    shared: &SharedKey,
    mut queued: mpsc::Receiver<Bytes>,
    hello: Option<Vec<u8>>,
) -> Result<(), Ended> {
    let keep_alive = node.settings.idle_timeout / 4;
    let mut out = hello.unwrap_or_default();
    loop {
        if !out.is_empty() {
            let writing = timeout(node.settings.idle_timeout, stream.write_all(&out));
            writing.await.map_err(|_| Ended::Silent)??;
            out.clear();
        }
        let mut next = match timeout(keep_alive, queued.recv()).await {
            Ok(Some(frame)) => Some(frame),
            Ok(None) => {
                stream.shutdown().await?;
                return Err(Ended::ClosedHere);
            }
            Err(_) => Some(Frame::KeepAlive.encode()),
        };
        while let Some(plain) = next {
            frame::append(&mut out, |out| {
                shared.seal_into(&node.nonces.next(), &plain, out);
            });
            next = if out.len() < BATCH_BYTES {
                queued.try_recv().ok()
            } else {
                None
            };
        }
    }
}

impl Node {
    fn peer_connected(&self, key: &PublicKey, direction: Direction) {
        let peers = self.count_peers();
        let peer = self.name_of(key);
        let fields = json!({ "peer": peer, "direction": direction.name(), "peers": peers });
        events::emit("peer-connected", fields);
        self.now_ready();
    }

    fn peer_lost(&self, key: &PublicKey, reason: &str) {
        let peers = self.count_peers();
        let fields = json!({ "peer": self.name_of(key), "reason": reason, "peers": peers });
        events::emit("peer-lost", fields);
    }

    fn count_peers(&self) -> usize {
        let peers = lock(&self.peers).len();
        self.metrics
            .peers
            .set(i64::try_from(peers).unwrap_or(i64::MAX));
        peers
    }
}
