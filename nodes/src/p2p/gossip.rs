//! Gossip: each message once to its topic, and onwards if the topic finds it valid.
//!
//! As in 2020, a message is known by a 12-byte hash, remembered in two generations of bounded size,
//! relayed only after validation, and dropped without a word when it was seen before. Topics are in
//! `protocol/topics.rs`.

use super::frame::Frame;
use super::wire::PublicKey;
use crate::node::Node;
use crate::protocol::topics::{self, Validity};
use crate::runtime::lock;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;

type MessageId = [u8; 12];

/// A message that came from a peer.
pub(crate) fn receive(node: &Node, from: &PublicKey, topic: u8, body: Bytes) {
    if !lock(&node.seen).insert(id_of(topic, &body)) {
        node.metrics.gossip("duplicate");
        return;
    }
    let Some(known) = topics::find(topic) else {
        node.metrics.gossip("unknown-topic");
        return;
    };
    match (known.receive)(node, &body) {
        Validity::Valid => {
            node.metrics.gossip("new");
            relay(node, Some(from), topic, body);
        }
        Validity::Waits => node.metrics.gossip("waits"),
        Validity::OutOfTime => node.metrics.gossip("out-of-time"),
        Validity::Invalid(reason) => {
            node.metrics.gossip("invalid");
            node.metrics.frame_rejected(reason);
        }
    }
}

/// A message of our own: through the same door, then to the peers. None if it was seen before, or the
/// topic is not known.
pub(crate) fn publish(node: &Node, topic: u8, body: Bytes) -> Option<Validity> {
    let id = id_of(topic, &body);
    if !lock(&node.seen).insert(id) {
        return None;
    }
    let verdict = (topics::find(topic)?.receive)(node, &body);
    // What we make ourselves is valid; a topic that says otherwise must not spread it.
    if verdict == Validity::Valid {
        relay(node, None, topic, body);
    } else {
        // It is published again once what stands against it is gone.
        lock(&node.seen).forget(&id);
    }
    Some(verdict)
}

/// A message that its topic has found valid without the help of [`receive`].
pub(crate) fn spread(node: &Node, topic: u8, body: Bytes) {
    lock(&node.seen).insert(id_of(topic, &body));
    relay(node, None, topic, body);
}

fn relay(node: &Node, except: Option<&PublicKey>, topic: u8, body: Bytes) {
    let frame = Frame::Gossip { topic, body }.encode();
    let dropped = lock(&node.peers).broadcast(except, node.settings.fan_out, &frame);
    for _ in 0..dropped {
        node.metrics.queue_drop("peer");
    }
}

fn id_of(topic: u8, body: &[u8]) -> MessageId {
    let hash = Sha256::new()
        .chain_update([topic])
        .chain_update(body)
        .finalize();
    let mut id = MessageId::default();
    id.copy_from_slice(&hash[..12]);
    id
}

/// What was seen lately: when the young generation is full it becomes the old one, whose predecessor
/// is forgotten, so that at least `half` and at most `2 * half` ids are known.
#[derive(Debug)]
pub(crate) struct Seen {
    half: usize,
    young: BTreeSet<MessageId>,
    old: BTreeSet<MessageId>,
}

impl Seen {
    pub(crate) fn new(half: usize) -> Self {
        Self {
            half,
            young: BTreeSet::new(),
            old: BTreeSet::new(),
        }
    }

    /// True if it is new.
    fn insert(&mut self, id: MessageId) -> bool {
        if self.old.contains(&id) || !self.young.insert(id) {
            return false;
        }
        if self.young.len() >= self.half {
            self.old = std::mem::take(&mut self.young);
        }
        true
    }

    fn forget(&mut self, id: &MessageId) {
        self.young.remove(id);
        self.old.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_half_is_always_remembered_and_memory_is_bounded() {
        let mut seen = Seen::new(100);
        let id = |n: u32| id_of(1, &n.to_be_bytes());
        for n in 0..1_000 {
            assert!(seen.insert(id(n)), "{n} is new");
            for back in n.saturating_sub(99)..=n {
                assert!(!seen.insert(id(back)), "{back} was seen before {n}");
            }
            assert!(seen.young.len() + seen.old.len() <= 200);
        }
        assert_ne!(id_of(1, b"x"), id_of(2, b"x"), "topics are apart");
        for n in 900..1_000 {
            seen.forget(&id(n));
            assert!(seen.insert(id(n)), "{n} was forgotten");
        }
    }
}
