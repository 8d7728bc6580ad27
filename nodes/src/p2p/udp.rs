//! The UDP listener: one socket, its session table, and a reader task per session.
//!
//! Every datagram goes to a session; the session's reader opens it and `discovery.rs` answers. What
//! differs between releases is in `session_table.rs` alone. This file owns the socket and counts.

use super::discovery;
use super::session_table::{Evicted, Reader, Received, SessionTable};
use super::wire::MAX_DATAGRAM;
use crate::node::Node;
use crate::runtime::events;
use bytes::Bytes;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// At most one `session-evicted` line in this time, with a count, or a flood would fill the log.
const EVICTION_LINE_EVERY: Duration = Duration::from_secs(1);
/// Receiving may fail now and then (a failed send is reported there); this often in a row is a socket
/// that is gone.
const FAILURES_MAX: u32 = 100;

/// Serves the socket until the task is dropped.
///
/// # Errors
/// The socket fails again and again.
pub(crate) async fn serve(node: Arc<Node>, socket: Arc<UdpSocket>) -> std::io::Result<()> {
    let limits = node.settings.session_limits();
    let behaviour = node.release.behaviour.session_table;
    let mut table = SessionTable::new(limits, behaviour, node.identity.secret, node.network.netid);
    let mut readers = JoinSet::new();
    let mut evictions = Evictions::default();
    // One byte more than is allowed, to tell the longest datagram from one that was cut off.
    let mut buffer = vec![0; MAX_DATAGRAM + 1];
    let mut failures = 0;
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => match received {
                Ok((len, from)) => {
                    failures = 0;
                    let reader = take(&node, &mut table, &mut evictions, from, &buffer[..len]);
                    if let Some(reader) = reader {
                        readers.spawn(read(Arc::clone(&node), Arc::clone(&socket), reader));
                    }
                }
                Err(error) => {
                    failures += 1;
                    if failures == FAILURES_MAX {
                        return Err(error);
                    }
                    node.metrics.datagram_rejected("receive-error");
                }
            },
            Some(_) = readers.join_next(), if !readers.is_empty() => {}
        }
    }
}

fn take(
    node: &Node,
    table: &mut SessionTable,
    evictions: &mut Evictions,
    from: SocketAddr,
    datagram: &[u8],
) -> Option<Reader> {
    let metrics = &node.metrics;
    metrics.datagrams_received.inc();
    if datagram.len() > MAX_DATAGRAM {
        metrics.datagram_rejected("too-long");
        return None;
    }
    let now = Instant::now();
    match table.receive(now, from, Bytes::copy_from_slice(datagram)) {
        Received::Queued => None,
        Received::QueueFull => {
            metrics.queue_drop("session");
            None
        }
        Received::Rejected(error) => {
            metrics.datagram_rejected(error.reason());
            None
        }
        Received::Opened { reader, evicted } => {
            metrics.sessions_created.inc();
            if let Some(evicted) = evicted {
                metrics.session_evictions.inc();
                evictions.note(now, evicted);
            }
            metrics
                .sessions
                .set(i64::try_from(table.len()).unwrap_or(i64::MAX));
            Some(reader)
        }
    }
}

/// The task of one session: open, answer, until the session is closed.
async fn read(node: Arc<Node>, socket: Arc<UdpSocket>, mut reader: Reader) {
    while let Some(datagram) = reader.next().await {
        let session = &reader.session;
        match discovery::answer(&node, &session.key, &session.shared, &datagram) {
            Ok(Some(answer)) => match socket.try_send_to(&answer, session.remote) {
                Ok(_) => {
                    node.metrics.datagrams_sent.inc();
                }
                Err(_) => node.metrics.queue_drop("socket"),
            },
            Ok(None) => {}
            Err(error) => node.metrics.datagram_rejected(error.reason()),
        }
    }
}

/// Gathers evictions into few lines.
#[derive(Debug, Default)]
struct Evictions {
    unreported: u64,
    last_line: Option<Instant>,
}

impl Evictions {
    fn note(&mut self, now: Instant, evicted: Evicted) {
        self.unreported += 1;
        let due = self
            .last_line
            .is_none_or(|last| now.saturating_duration_since(last) >= EVICTION_LINE_EVERY);
        if due {
            self.last_line = Some(now);
            let age_ms = u64::try_from(evicted.age.as_millis()).unwrap_or(u64::MAX);
            let fields = json!({
                "remote": evicted.remote.to_string(),
                "age_ms": age_ms,
                "count": std::mem::take(&mut self.unreported),
            });
            events::emit("session-evicted", fields);
        }
    }
}
