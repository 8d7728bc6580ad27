//! Whom to be connected to: the connected peers, whom to dial next, and whom to refuse.
//!
//! A node wants a few outbound peers, and some miners among all its peers, so that dead gateways do
//! not cut gossip. Candidates are tried in an order of the node's own, drawn from the seed. Sans-I/O:
//! time and results of dials come in, decisions go out; `swarm.rs` does the rest.

use super::wire::PublicKey;
use crate::node::Contact;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How many peers of which kind, and how patient.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wants {
    pub(crate) outbound: usize,
    pub(crate) miner_peers: usize,
    pub(crate) max_inbound: usize,
    /// Wait after a first failed dial; doubles up to `backoff_max`.
    pub(crate) backoff: Duration,
    pub(crate) backoff_max: Duration,
    /// For this long two nodes that dialled each other settle which connection stays.
    pub(crate) settle: Duration,
}

/// Who dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// Why a peer is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is a connection with this peer, or a dial of ours that goes first.
    Duplicate,
    /// Inbound places are taken.
    Full,
    /// It is ourselves.
    Myself,
    /// The node is stopping.
    Stopping,
}

impl Refusal {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicate",
            Self::Full => "full",
            Self::Myself => "myself",
            Self::Stopping => "stopping",
        }
    }
}

/// The peers of one node.
#[derive(Debug)]
pub(crate) struct PeerSet {
    me: PublicKey,
    wants: Wants,
    /// Everyone of the network file, in this node's own order.
    ranking: Vec<Arc<Contact>>,
    connected: BTreeMap<PublicKey, Peer>,
    dialling: BTreeSet<PublicKey>,
    backoff: BTreeMap<PublicKey, Backoff>,
    next_id: u64,
    rotation: usize,
    stopping: bool,
}

#[derive(Debug)]
struct Peer {
    id: u64,
    votes: bool,
    direction: Direction,
    since: Instant,
    queue: mpsc::Sender<Bytes>,
}

#[derive(Debug, Clone, Copy)]
struct Backoff {
    until: Instant,
    wait: Duration,
}

impl PeerSet {
    pub(crate) fn new(me: PublicKey, wants: Wants, ranking: Vec<Arc<Contact>>) -> Self {
        Self {
            me,
            wants,
            ranking,
            connected: BTreeMap::new(),
            dialling: BTreeSet::new(),
            backoff: BTreeMap::new(),
            next_id: 0,
            rotation: 0,
            stopping: false,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.connected.len()
    }

    /// Whom to dial now, and when to ask again if nothing happens before.
    pub(crate) fn next_dials(&mut self, now: Instant) -> (Vec<Arc<Contact>>, Option<Instant>) {
        let (mut chosen, mut again) = (Vec::new(), None::<Instant>);
        while !self.stopping {
            let want_miner =
                self.count(|peer| peer.votes, |contact| contact.votes) < self.wants.miner_peers;
            let want_any = self.count(|peer| peer.direction == Direction::Outbound, |_| true)
                < self.wants.outbound;
            let mut candidates = self
                .ranking
                .iter()
                .filter(|contact| !self.is_known(&contact.key))
                .filter(|contact| want_any || (want_miner && contact.votes))
                // A miner first while one is missing; the sort is stable.
                .collect::<Vec<_>>();
            candidates.sort_by_key(|contact| want_miner && !contact.votes);
            if !(want_any || want_miner) {
                break;
            }
            let due = |contact: &Contact| self.backoff.get(&contact.key).map(|b| b.until);
            let Some(next) = candidates
                .iter()
                .find(|contact| due(contact).is_none_or(|until| until <= now))
            else {
                again = candidates.iter().filter_map(|contact| due(contact)).min();
                break;
            };
            let next = Arc::clone(next);
            self.dialling.insert(next.key);
            chosen.push(next);
        }
        (chosen, again)
    }

    /// A dial came to nothing.
    pub(crate) fn dial_failed(&mut self, key: &PublicKey, now: Instant) {
        self.dialling.remove(key);
        self.back_off(*key, now);
    }

    /// A handshake was good: the id of the new connection, unless it is refused.
    pub(crate) fn admit(
        &mut self,
        key: &PublicKey,
        direction: Direction,
        now: Instant,
        queue: mpsc::Sender<Bytes>,
    ) -> Result<u64, Refusal> {
        if direction == Direction::Outbound {
            self.dialling.remove(key);
        }
        self.refusal(key, direction, now).map_or(Ok(()), Err)?;
        let id = self.next_id;
        self.next_id += 1;
        let votes = self
            .ranking
            .iter()
            .any(|contact| contact.key == *key && contact.votes);
        self.connected.insert(
            *key,
            Peer {
                id,
                votes,
                direction,
                since: now,
                queue,
            },
        );
        Ok(id)
    }

    /// Connection `id` is over. False if another connection has taken its place.
    pub(crate) fn gone(&mut self, key: &PublicKey, id: u64, now: Instant) -> bool {
        let Some(peer) = self.connected.get(key).filter(|peer| peer.id == id) else {
            return false;
        };
        if now.saturating_duration_since(peer.since) >= self.wants.backoff_max {
            self.backoff.remove(key);
        }
        self.connected.remove(key);
        self.back_off(*key, now);
        true
    }

    /// Puts a frame into the queues of at most `fan_out` peers, each in its turn where there are
    /// more, and returns how many of those queues were full.
    pub(crate) fn broadcast(
        &mut self,
        except: Option<&PublicKey>,
        fan_out: usize,
        frame: &Bytes,
    ) -> usize {
        let peers = self.connected.len();
        if peers == 0 {
            return 0;
        }
        let start = if peers > fan_out {
            self.rotation % peers
        } else {
            0
        };
        self.rotation = self.rotation.wrapping_add(fan_out);
        let turn = self
            .connected
            .iter()
            .skip(start)
            .chain(self.connected.iter().take(start));
        turn.filter(|(key, _)| Some(*key) != except)
            .take(fan_out)
            .filter(|(_, peer)| {
                let sent = peer.queue.try_send(frame.clone());
                matches!(sent, Err(mpsc::error::TrySendError::Full(_)))
            })
            .count()
    }

    /// Who is connected, in the order of keys.
    pub(crate) fn keys(&self) -> Vec<PublicKey> {
        self.connected.keys().copied().collect()
    }

    /// Puts a frame into the queue of one peer; false if it is full or the peer is gone.
    pub(crate) fn send(&self, to: &PublicKey, frame: Bytes) -> bool {
        let peer = self.connected.get(to);
        peer.is_some_and(|peer| peer.queue.try_send(frame).is_ok())
    }

    /// Closes all queues; each connection sends what is queued and ends.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
        self.connected.clear();
    }

    fn refusal(&self, key: &PublicKey, direction: Direction, now: Instant) -> Option<Refusal> {
        if self.stopping {
            return Some(Refusal::Stopping);
        }
        if *key == self.me {
            return Some(Refusal::Myself);
        }
        let first = self.me < *key;
        match (direction, self.connected.get(key)) {
            (Direction::Outbound, Some(_)) => Some(Refusal::Duplicate),
            (Direction::Outbound, None) => None,
            // Of two nodes that dial each other, the dial of the smaller key stays.
            (Direction::Inbound, _) if first && self.dialling.contains(key) => {
                Some(Refusal::Duplicate)
            }
            (Direction::Inbound, Some(peer)) => {
                let young = now.saturating_duration_since(peer.since) < self.wants.settle;
                let ours_stays = first && young && peer.direction == Direction::Outbound;
                // Otherwise the peer dials because it knows of no connection: ours is dead.
                ours_stays.then_some(Refusal::Duplicate)
            }
            (Direction::Inbound, None) => {
                let inbound = |peer: &&Peer| peer.direction == Direction::Inbound;
                let full =
                    self.connected.values().filter(inbound).count() >= self.wants.max_inbound;
                full.then_some(Refusal::Full)
            }
        }
    }

    fn is_known(&self, key: &PublicKey) -> bool {
        self.connected.contains_key(key) || self.dialling.contains(key)
    }

    fn count(&self, peer: impl Fn(&Peer) -> bool, contact: impl Fn(&Contact) -> bool) -> usize {
        let connected = self.connected.values().filter(|p| peer(p)).count();
        let dialling = self
            .ranking
            .iter()
            .filter(|c| self.dialling.contains(&c.key) && !self.connected.contains_key(&c.key))
            .filter(|c| contact(c));
        connected + dialling.count()
    }

    fn back_off(&mut self, key: PublicKey, now: Instant) {
        let wait = self.backoff.get(&key).map_or(self.wants.backoff, |before| {
            before.wait.saturating_mul(2).min(self.wants.backoff_max)
        });
        self.backoff.insert(
            key,
            Backoff {
                until: now + wait,
                wait,
            },
        );
    }
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;
