//! The mesh within its node: the clock ticks it, gossip and peers feed it, and what it wants is done.
//!
//! Everything runs on the node's one thread: the lock is held for one call and never across an await,
//! and effects are carried out after it is given back.

use super::exchange::{Answer, Request};
use super::{Effect, Mesh, Validity};
use crate::node::Node;
use crate::p2p::frame::Frame;
use crate::p2p::gossip;
use crate::p2p::wire::PublicKey;
use crate::protocol::atx::Atx;
use crate::protocol::block::Block;
use crate::protocol::{atx_gossip, block_gossip};
use crate::runtime::{clock, events, lock};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The clock is asked again this often at least, since it may be set while we wait.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Questions to peers that may be unanswered at a time: the layer's and one that follows up.
const OUTSTANDING_MAX: usize = 2;
/// A question is given up after a layer, within these bounds.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// Bytes of an answer: six proofs of the default size, and at most some 60 ms of checking.
const ANSWER_BYTES: usize = 192 << 10;
/// Questions in a layer's time, or a second, that a node puts, and that it answers to one peer. One
/// that catches up asks about twenty times a second; one that a liar feeds must not ask for ever.
const QUESTIONS_MAX: u32 = 64;

/// Questions that peers have not answered yet, and what peers have asked.
#[derive(Debug, Default)]
pub(crate) struct PullBook {
    next: u64,
    asked: BTreeMap<u64, (PublicKey, Instant)>,
    put: u32,
    served: BTreeMap<PublicKey, u32>,
    /// When the present span of counting began.
    since: Option<Instant>,
}

impl PullBook {
    /// A number for a question to `peer`, if there is room for one more.
    fn ask(&mut self, peer: PublicKey, until: Instant) -> Option<u64> {
        if self.asked.len() >= OUTSTANDING_MAX || self.put >= QUESTIONS_MAX {
            return None;
        }
        self.put += 1;
        self.next += 1;
        self.asked.insert(self.next, (peer, until));
        Some(self.next)
    }

    /// Whether this is the answer of `peer` to a question of ours; each is answered once.
    fn is_answer(&mut self, peer: &PublicKey, id: u64) -> bool {
        let known = self.asked.get(&id).is_some_and(|(of, _)| of == peer);
        known && self.asked.remove(&id).is_some()
    }

    /// Forgets questions that nobody answered in time, and says how many.
    fn give_up(&mut self, now: Instant) -> usize {
        let before = self.asked.len();
        self.asked.retain(|_, (_, until)| *until > now);
        before - self.asked.len()
    }

    /// Counts anew when a span of time is over.
    fn turn(&mut self, now: Instant, span: Duration) {
        let begun = self.since.get_or_insert(now);
        if now.saturating_duration_since(*begun) >= span {
            *begun = now;
            self.put = 0;
            self.served.clear();
        }
    }

    /// Whether one more question of `peer` is answered in this span of time.
    fn serves(&mut self, peer: PublicKey) -> bool {
        let served = self.served.entry(peer).or_default();
        *served += 1;
        *served <= QUESTIONS_MAX
    }
}

/// Publishes an activation that this node made.
pub(crate) fn offer_atx(node: &Node, atx: &Atx) -> Result<(), &'static str> {
    told(gossip::publish(
        node,
        atx_gossip::TOPIC,
        atx.encode().into(),
    ))
}

/// Publishes a block that this node made.
pub(crate) fn offer_block(node: &Node, block: &Block) -> Result<(), &'static str> {
    told(gossip::publish(
        node,
        block_gossip::TOPIC,
        block.encode().into(),
    ))
}

/// What was published before is published.
fn told(verdict: Option<Validity>) -> Result<(), &'static str> {
    match verdict {
        None | Some(Validity::Valid) => Ok(()),
        Some(Validity::Waits) => Err("what it depends on is not here"),
        Some(Validity::OutOfTime) => Err("out of time, or the disk is full"),
        Some(Validity::Invalid(reason)) => Err(reason),
    }
}

/// Does something with the mesh, then what the mesh wants done.
pub(crate) fn take_in<T>(node: &Node, act: impl FnOnce(&mut Mesh) -> T) -> T {
    let (result, effects) = {
        let mut mesh = lock(&node.mesh);
        let result = act(&mut mesh);
        (result, mesh.take_effects())
    };
    for effect in effects {
        match effect {
            Effect::Gossip { topic, body } => gossip::spread(node, topic, body.into()),
            Effect::Event { name, fields } => events::emit(name, fields),
        }
    }
    node.mesh_changed.notify_waiters();
    result
}

/// Puts on disk what is not there yet, before the node stops.
pub(crate) fn close(node: &Node) {
    take_in(node, Mesh::commit);
}

/// Ticks the mesh with the clock, and asks one peer in each layer.
pub(crate) async fn follow(node: Arc<Node>) -> std::io::Result<()> {
    take_in(&node, |_| ());
    let (mut ticked, mut pulled) = (None, None);
    loop {
        let now = clock::unix_ns();
        let layer = node.clock.layer_at(now);
        let is_new =
            |done: Option<u64>| layer.filter(|layer| done.is_none_or(|done| done < *layer));
        if let Some(layer) = is_new(ticked) {
            ticked = Some(layer);
            tick(&node, layer)?;
        }
        let due = layer.map(|layer| pull_at(&node, layer));
        let mut wait = node.clock.until(ticked.map_or(0, |layer| layer + 1), now);
        if let Some((layer, due)) = is_new(pulled).zip(due) {
            if due <= now {
                pulled = Some(layer);
                ask_somebody(&node, None);
            } else {
                wait = wait.min(Duration::from_nanos(due - now));
            }
        }
        tokio::time::sleep(wait.min(LOOK_AGAIN)).await;
    }
}

fn tick(node: &Node, layer: u64) -> std::io::Result<()> {
    let peers = lock(&node.peers).len() > 0;
    let layer = u32::try_from(layer).unwrap_or(u32::MAX);
    let failure = take_in(node, |mesh| {
        mesh.tick(layer, peers);
        mesh.take_failure()
    });
    // Without its database a node would forget what it agreed to.
    failure.map_or(Ok(()), |error| Err(std::io::Error::other(error)))
}

/// When in its layer a node pulls: late enough for what gossip brings by itself, and each at a time of
/// its own.
fn pull_at(node: &Node, layer: u64) -> u64 {
    let begin = node
        .network
        .genesis_unix_ns
        .saturating_add(layer.saturating_mul(node.network.layer_ns));
    let hundredth = node.network.layer_ns / 100;
    let at = 50 + node.draw("pull-time", &layer.to_be_bytes()) % 40;
    begin.saturating_add(hundredth.saturating_mul(at))
}

/// Asks `peer`, or a random one.
fn ask_somebody(node: &Node, peer: Option<PublicKey>) {
    let now = Instant::now();
    let given_up = {
        let mut book = lock(&node.pulls);
        book.turn(now, span(node));
        book.give_up(now)
    };
    node.metrics.mesh.pull_timeouts.inc_by(given_up as u64);
    let Some(peer) = peer.or_else(|| random_peer(node)) else {
        return;
    };
    let layer = Duration::from_nanos(node.network.layer_ns);
    let until = now + layer.clamp(PATIENCE.0, PATIENCE.1);
    let Some(id) = lock(&node.pulls).ask(peer, until) else {
        return;
    };
    let body = lock(&node.mesh).request().encode().into();
    send(node, &peer, &Frame::Request { id, body });
}

fn span(node: &Node) -> Duration {
    Duration::from_nanos(node.network.layer_ns).max(PATIENCE.0)
}

fn random_peer(node: &Node) -> Option<PublicKey> {
    let keys = lock(&node.peers).keys();
    let turn = lock(&node.pulls).next;
    let count = u64::try_from(keys.len()).unwrap_or(u64::MAX);
    let at = node
        .draw("pull-peer", &turn.to_be_bytes())
        .checked_rem(count)?;
    keys.get(usize::try_from(at).ok()?).copied()
}

/// A peer asks.
pub(crate) fn asked(node: &Node, from: &PublicKey, id: u64, body: &[u8]) {
    let serves = {
        let mut book = lock(&node.pulls);
        book.turn(Instant::now(), span(node));
        book.serves(*from)
    };
    if !serves {
        node.metrics.frame_rejected("pull-too-often");
        return;
    }
    match Request::decode(body) {
        Ok(request) => {
            let room = ANSWER_BYTES.min(node.settings.max_frame / 2);
            let body = lock(&node.mesh).answer(&request, room).encode();
            send(
                node,
                from,
                &Frame::Answer {
                    id,
                    body: body.into(),
                },
            );
        }
        Err(error) => node.metrics.frame_rejected(error.reason()),
    }
}

/// A peer answers.
pub(crate) fn answered(node: &Node, from: &PublicKey, id: u64, body: &Bytes) {
    if !lock(&node.pulls).is_answer(from, id) {
        node.metrics.frame_rejected("pull-unasked");
        return;
    }
    match Answer::decode(body) {
        Ok(answer) => {
            if take_in(node, |mesh| mesh.take_answer(*from, answer)) {
                ask_somebody(node, Some(*from));
            }
        }
        Err(error) => node.metrics.frame_rejected(error.reason()),
    }
}

fn send(node: &Node, to: &PublicKey, frame: &Frame) {
    if !lock(&node.peers).send(to, frame.encode()) {
        node.metrics.queue_drop("peer");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PublicKey = [1; 32];
    const B: PublicKey = [2; 32];

    #[test]
    fn questions_are_few_and_each_is_answered_once_by_who_was_asked() {
        let (mut book, now) = (PullBook::default(), Instant::now());
        let later = now + Duration::from_secs(1);
        let first = book.ask(A, later).unwrap();
        let second = book.ask(B, later).unwrap();
        assert_eq!(book.ask(A, later), None);
        assert!(!book.is_answer(&B, first) && !book.is_answer(&A, 99));
        assert!(book.is_answer(&A, first) && !book.is_answer(&A, first));
        assert_eq!((book.give_up(now), book.give_up(later)), (0, 1));
        assert!(!book.is_answer(&B, second), "it came too late");
    }

    #[test]
    fn questions_of_a_span_are_counted_both_ways() {
        let (mut book, now) = (PullBook::default(), Instant::now());
        let span = Duration::from_secs(1);
        let most = QUESTIONS_MAX as usize;
        let served = |book: &mut PullBook, peer| (0..100).filter(|_| book.serves(peer)).count();
        let put = |book: &mut PullBook| {
            let asked = |_: &i32| {
                let id = book.ask(A, now + span);
                id.is_some_and(|id| book.is_answer(&A, id))
            };
            (0..100).filter(asked).count()
        };
        book.turn(now, span);
        assert_eq!(
            (served(&mut book, A), served(&mut book, B), put(&mut book)),
            (most, most, most)
        );
        book.turn(now + span / 2, span);
        assert_eq!((served(&mut book, A), put(&mut book)), (0, 0));
        book.turn(now + span, span);
        assert_eq!((served(&mut book, A), put(&mut book)), (most, most));
    }
}
