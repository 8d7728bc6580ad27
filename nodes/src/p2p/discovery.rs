//! Discovery over UDP: what a node answers, and the requests it makes itself.
//!
//! Ping and get-addresses, as in 2020. Each own request leaves from a fresh port, since
//! `net.DialUDP` gave each dial one; that is what fills the tables of others. To answer another
//! request, add its kind to [`body_of_answer`]. Addresses learned here are told to those who ask and
//! never dialled: a node talks to the network of its file only.

use super::wire::{
    self, Addresses, KIND_GET_ADDRESSES, KIND_PING, MAX_ADDRESSES, MAX_DATAGRAM, Message, Payload,
    PublicKey, SharedKey, WireError, Wrapped,
};
use crate::node::{Contact, Node};
use crate::runtime::{clock, lock};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// Open requests at a time; with one request a second and 5 s of patience there are at most five.
const DIALS_MAX: usize = 8;

/// Opens a datagram of a session and answers it if it is a request.
///
/// # Errors
/// Whatever is not a message of this network from the session's key.
pub(crate) fn answer(
    node: &Node,
    key: &PublicKey,
    shared: &SharedKey,
    datagram: &[u8],
) -> Result<Option<Vec<u8>>, WireError> {
    let message = Message::decode(&shared.open_datagram(datagram)?)?;
    message.check(key, node.network.netid)?;
    let Payload::Wrapped(request) = &message.payload else {
        return Ok(None);
    };
    if !request.request || message.next_protocol != wire::DISCOVERY {
        return Ok(None);
    }
    let body = body_of_answer(node, key, request)?;
    let wrapped = Wrapped {
        request: false,
        kind: request.kind,
        id: request.id,
        body,
    };
    Ok(Some(sealed(node, shared, wrapped)))
}

fn body_of_answer(node: &Node, key: &PublicKey, request: &Wrapped) -> Result<Vec<u8>, WireError> {
    match request.kind {
        KIND_PING => {
            if let Some(listens) = wire::decode_listens(&request.body)? {
                lock(&node.addresses).learn(*key, listens);
            }
            Ok(wire::encode_listens(Some(node.settings.p2p)))
        }
        KIND_GET_ADDRESSES => Ok(lock(&node.addresses).all().encode()),
        other => Err(WireError::BadValue {
            what: "the message kind",
            value: other.into(),
        }),
    }
}

fn sealed(node: &Node, shared: &SharedKey, wrapped: Wrapped) -> Vec<u8> {
    let me = node.identity.public;
    let message = Message::discovery(me, node.network.netid, clock::unix_ns(), wrapped);
    shared.seal_datagram(&me, &node.nonces.next(), &message.encode())
}

/// Asks one peer after another, each in its turn, one per interval, for ever.
pub(crate) async fn ask_around(node: Arc<Node>) {
    let contacts = &node.contacts;
    if contacts.is_empty() {
        return;
    }
    let interval = node.settings.discovery_interval;
    // Nodes that were started together do not ask together, and not the same peer first.
    let phase = node.draw("discovery", &[]);
    let phase_share =
        interval.mul_f64(f64::from(u16::try_from(phase & 0xffff).unwrap_or(0)) / 65536.0);
    let mut ticks = tokio::time::interval_at(Instant::now() + phase_share, interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut dials = JoinSet::new();
    for turn in 0.. {
        ticks.tick().await;
        while dials.try_join_next().is_some() {}
        if dials.len() >= DIALS_MAX {
            node.metrics.queue_drop("discovery");
            continue;
        }
        let count = u64::try_from(contacts.len()).unwrap_or(u64::MAX);
        let which = usize::try_from((phase % count + turn % count) % count).unwrap_or(0);
        // The first round asks each peer whom it knows; all later ones are pings.
        let kind = if turn < count {
            KIND_GET_ADDRESSES
        } else {
            KIND_PING
        };
        let node = Arc::clone(&node);
        let contact = Arc::clone(&contacts[which]);
        dials.spawn(async move {
            node.metrics.discovery_dials.inc();
            let patience = node.settings.discovery_timeout;
            if let Ok(Ok(())) = timeout(patience, ask(&node, &contact, kind, turn)).await {
                node.metrics.discovery_answers.inc();
            }
        });
    }
}

/// One request from a fresh port, and its answer.
async fn ask(node: &Node, contact: &Contact, kind: u32, id: u64) -> Result<(), AskError> {
    let socket = UdpSocket::bind(SocketAddr::new(node.settings.p2p.ip(), 0)).await?;
    socket.connect(contact.p2p).await?;
    let shared = contact.shared(&node.identity.secret);
    let listens = (kind == KIND_PING).then_some(node.settings.p2p);
    let request = Wrapped {
        request: true,
        kind,
        id,
        body: wire::encode_listens(listens),
    };
    socket.send(&sealed(node, shared, request)).await?;
    let mut buffer = vec![0; MAX_DATAGRAM];
    let len = socket.recv(&mut buffer).await?;
    let message = Message::decode(&shared.open_datagram(&buffer[..len])?)?;
    message.check(&contact.key, node.network.netid)?;
    let answer = message.answer_to(kind, id)?;
    if kind == KIND_GET_ADDRESSES {
        let learned = Addresses::decode(&answer.body)?;
        let mut addresses = lock(&node.addresses);
        for (key, listens) in learned.0 {
            addresses.learn(key, listens);
        }
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Wire(#[from] WireError),
}

/// Who is known to listen where: the network file, and what pings and answers said.
#[derive(Debug, Default)]
pub(crate) struct AddressBook {
    /// Of the network file; these are certain and never change.
    given: BTreeMap<PublicKey, SocketAddr>,
    /// Hearsay, at most as many as one answer carries.
    learned: BTreeMap<PublicKey, SocketAddr>,
}

impl AddressBook {
    pub(crate) fn new(given: impl Iterator<Item = (PublicKey, SocketAddr)>) -> Self {
        Self {
            given: given.collect(),
            learned: BTreeMap::new(),
        }
    }

    /// Remembers hearsay, while there is room.
    pub(crate) fn learn(&mut self, key: PublicKey, listens: SocketAddr) {
        let known = self.given.contains_key(&key);
        if !known && (self.learned.len() < MAX_ADDRESSES || self.learned.contains_key(&key)) {
            self.learned.insert(key, listens);
        }
    }

    /// The answer to get-addresses: the certain ones first.
    pub(crate) fn all(&self) -> Addresses {
        let all = self.given.iter().chain(&self.learned);
        Addresses(
            all.take(MAX_ADDRESSES)
                .map(|(key, at)| (*key, *at))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_book_is_bounded_and_never_forgets_the_given() {
        let at = |n: u16| SocketAddr::from(([127, 0, 0, 1], n));
        let mut book = AddressBook::new([([0xff; 32], at(1))].into_iter());
        book.learn([0xff; 32], at(2));
        for n in 0..400_u16 {
            let mut key = [0; 32];
            key[..2].copy_from_slice(&n.to_be_bytes());
            book.learn(key, at(n));
        }
        let all = book.all();
        assert_eq!(all.0.len(), MAX_ADDRESSES);
        assert_eq!(all.0[0], ([0xff; 32], at(1)));
        assert_eq!(Addresses::decode(&all.encode()).unwrap(), all);
    }
}
