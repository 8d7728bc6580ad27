//! The UDP session table: one session per remote `ip:port`, bounded, evicting when it is full.
//!
//! Here netid 116 died. The table of go-spacemesh v0.1.12 (`p2p/net/udp.go`, `addConn`) made an
//! entry for any datagram of 33 bytes before it checked anything, and panicked when it evicted. Each
//! release is one [`Policy`]; the table itself is shared. To add a release's table, write a policy
//! and name it in [`policy_of`]. The table does no I/O: whoever owns the socket calls
//! [`SessionTable::receive`] and runs the reader of each new session. Panics of this file are the
//! component `session-table`.

use super::wire::{self, PublicKey, SecretKey, SharedKey, WireError};
use crate::releases;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};

/// Sizes and ages of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Sessions in the table.
    pub(crate) cap: usize,
    /// A session older than this may be evicted (2020) or is not used any more (fixed).
    pub(crate) max_age: Duration,
    /// Datagrams that wait for one session's reader.
    pub(crate) queue: usize,
}

/// The sessions of one UDP listener.
pub(crate) struct SessionTable {
    limits: Limits,
    door: Door,
    policy: &'static dyn Policy,
    sessions: Sessions,
}

impl std::fmt::Debug for SessionTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionTable")
            .field("sessions", &self.sessions.len())
            .finish_non_exhaustive()
    }
}

/// What became of a datagram.
#[derive(Debug)]
pub(crate) enum Received {
    /// It waits for the reader of a session that was there.
    Queued,
    /// It made a session; run its reader.
    Opened {
        reader: Reader,
        evicted: Option<Evicted>,
    },
    /// It was refused before it reached a session.
    Rejected(WireError),
    /// Its session's queue is full.
    QueueFull,
}

/// A session that had to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Evicted {
    pub(crate) remote: SocketAddr,
    pub(crate) age: Duration,
}

impl SessionTable {
    pub(crate) fn new(
        limits: Limits,
        release: releases::SessionTable,
        secret: SecretKey,
        netid: u32,
    ) -> Self {
        let door = Door { secret, netid };
        Self {
            limits,
            door,
            policy: policy_of(release),
            sessions: Sessions::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Takes a datagram that came from `from` to its session, making one where there is none.
    pub(crate) fn receive(&mut self, now: Instant, from: SocketAddr, datagram: Bytes) -> Received {
        if let Some(entry) = self.sessions.get_mut(&from)
            && self.policy.still_good(entry, &self.limits, now, &datagram)
        {
            entry.last_seen = now;
            return match entry.session.incoming.try_send(datagram) {
                Ok(()) => Received::Queued,
                Err(_) => Received::QueueFull,
            };
        }
        self.open(now, from, datagram)
            .unwrap_or_else(Received::Rejected)
    }

    fn open(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: Bytes,
    ) -> Result<Received, WireError> {
        let key = wire::sender_of(&datagram)?;
        let shared = SharedKey::new(&self.door.secret, &key);
        self.policy.admit(&self.door, &shared, &key, &datagram)?;
        if let Some(replaced) = self.sessions.remove(&from) {
            replaced.session.close();
        }
        let evicted = if self.sessions.len() >= self.limits.cap {
            self.policy.make_room(&mut self.sessions, &self.limits, now)
        } else {
            None
        };
        let (incoming, queued) = mpsc::channel(self.limits.queue);
        // A new queue takes at least one datagram.
        let _ = incoming.try_send(datagram);
        let session = Arc::new(Session::new(from, key, shared, incoming));
        let entry = Entry {
            session: Arc::clone(&session),
            created: now,
            last_seen: now,
        };
        self.sessions.insert(from, entry);
        Ok(Received::Opened {
            reader: Reader {
                session,
                queued,
                policy: self.policy,
            },
            evicted,
        })
    }
}

/// What the releases of this table differ in.
trait Policy: Send + Sync {
    /// May a datagram of an unknown address make a session?
    fn admit(
        &self,
        door: &Door,
        shared: &SharedKey,
        key: &PublicKey,
        datagram: &[u8],
    ) -> Result<(), WireError>;
    /// Is the session of this address the one the datagram belongs to?
    fn still_good(&self, entry: &Entry, limits: &Limits, now: Instant, datagram: &[u8]) -> bool;
    /// Takes a session out of a full table.
    fn make_room(&self, sessions: &mut Sessions, limits: &Limits, now: Instant) -> Option<Evicted>;
    /// What the reader of a session does when it finds its session closed.
    fn reader_found_closed(&self, session: &Session);
}

fn policy_of(release: releases::SessionTable) -> &'static dyn Policy {
    match release {
        releases::SessionTable::Netid116 => &Netid116,
        releases::SessionTable::Fixed => &Fixed,
    }
}

/// go-spacemesh v0.1.12 (2020-05-20), the release of netid 116.
struct Netid116;

impl Policy for Netid116 {
    /// The first 32 bytes are believed to be a key. Box and netid are looked at by the reader, when
    /// the session is long in the table, so foreign networks and garbage fill it as well.
    fn admit(&self, _: &Door, _: &SharedKey, _: &PublicKey, _: &[u8]) -> Result<(), WireError> {
        Ok(())
    }

    /// Age was consulted only when the table was full.
    fn still_good(&self, _: &Entry, _: &Limits, _: Instant, _: &[u8]) -> bool {
        true
    }

    #[expect(
        clippy::expect_used,
        reason = "history: line 282 of udp.go called Close on the zero value of a deleted key"
    )]
    fn make_room(&self, sessions: &mut Sessions, limits: &Limits, now: Instant) -> Option<Evicted> {
        let mut last = None;
        for (remote, entry) in &*sessions {
            let age = now.saturating_duration_since(entry.created);
            if age > limits.max_age {
                // Fixed three months later by #2125: close the session at hand, do not look it up.
                let remote = *remote;
                sessions.remove(&remote);
                sessions
                    .get(&remote)
                    .expect("evicting an old session: the session just deleted is not in the table")
                    .session
                    .close();
                return Some(Evicted { remote, age });
            }
            last = Some(Evicted {
                remote: *remote,
                age,
            });
        }
        let evicted = last?;
        if let Some(entry) = sessions.get(&evicted.remote) {
            entry.session.close();
        }
        sessions.remove(&evicted.remote);
        Some(evicted)
    }

    /// The connection's reader closed what it read from when reading failed, and a read of a closed
    /// session fails. Fixed by #2141.
    fn reader_found_closed(&self, session: &Session) {
        session.close();
    }
}

/// What the table should have been: bounded, authentic, and closing once.
struct Fixed;

impl Policy for Fixed {
    fn admit(
        &self,
        door: &Door,
        shared: &SharedKey,
        key: &PublicKey,
        datagram: &[u8],
    ) -> Result<(), WireError> {
        wire::Message::decode(&shared.open_datagram(datagram)?)?.check(key, door.netid)
    }

    /// An old session is made anew, and so is one whose address now speaks for another key.
    fn still_good(&self, entry: &Entry, limits: &Limits, now: Instant, datagram: &[u8]) -> bool {
        now.saturating_duration_since(entry.created) <= limits.max_age
            && wire::sender_of(datagram).is_ok_and(|key| key == entry.session.key)
    }

    fn make_room(&self, sessions: &mut Sessions, _: &Limits, now: Instant) -> Option<Evicted> {
        let stalest = sessions.iter().min_by_key(|(_, entry)| entry.last_seen);
        let remote = *stalest?.0;
        let entry = sessions.remove(&remote)?;
        entry.session.close();
        Some(Evicted {
            remote,
            age: now.saturating_duration_since(entry.created),
        })
    }

    /// Who evicted has closed; there is nothing left to do.
    fn reader_found_closed(&self, _: &Session) {}
}

type Sessions = BTreeMap<SocketAddr, Entry>;

struct Entry {
    session: Arc<Session>,
    created: Instant,
    last_seen: Instant,
}

/// Who we are to those who knock.
struct Door {
    secret: SecretKey,
    netid: u32,
}

/// One remote address: its key, and the queue of what it sent.
pub(crate) struct Session {
    pub(crate) remote: SocketAddr,
    pub(crate) key: PublicKey,
    pub(crate) shared: SharedKey,
    incoming: mpsc::Sender<Bytes>,
    closed: AtomicBool,
    wake: Notify,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

impl Session {
    fn new(
        remote: SocketAddr,
        key: PublicKey,
        shared: SharedKey,
        incoming: mpsc::Sender<Bytes>,
    ) -> Self {
        let closed = AtomicBool::new(false);
        Self {
            remote,
            key,
            shared,
            incoming,
            closed,
            wake: Notify::new(),
        }
    }

    /// Tells the reader that the session is over, as Go's `close` of a channel does: at most once.
    fn close(&self) {
        let was_closed = self.closed.swap(true, Ordering::AcqRel);
        assert!(
            !was_closed,
            "close of closed channel: session of {} closed twice",
            self.remote
        );
        self.wake.notify_one();
    }

    async fn closed(&self) {
        while !self.closed.load(Ordering::Acquire) {
            self.wake.notified().await;
        }
    }
}

/// The reading end of a session; each runs in a task of its own.
pub(crate) struct Reader {
    pub(crate) session: Arc<Session>,
    queued: mpsc::Receiver<Bytes>,
    policy: &'static dyn Policy,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

impl Reader {
    /// The next datagram, or none when the session was closed.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        tokio::select! {
            biased;
            () = self.session.closed() => {
                self.policy.reader_found_closed(&self.session);
                None
            }
            datagram = self.queued.recv() => datagram,
        }
    }
}

#[cfg(test)]
#[path = "session_table_tests.rs"]
mod tests;
