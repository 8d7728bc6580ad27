//! Pull: asking one peer for what is missing, and answering such a question.
//!
//! Gossip drops what it has seen, so what was lost comes this way only. Once a layer a node asks a
//! random peer; while answers bring something and more is missing, it asks on, so that a node that was
//! away catches up in bounded chunks. Layers come first by their decision, whose commits say which
//! ATXs and blocks they need; those are asked for by name next, and the proofs of the ATXs after them.
//! Answers go through the same checks as gossip.

use super::decision::Decision;
use super::exchange::{
    Answer, BLOCKS_MAX, LAYERS_MAX, MESSAGES_MAX, Request, Short, WANT_ATXS_MAX, WANT_BLOCKS_MAX,
    WANT_PROOFS_MAX, short,
};
use super::{Mesh, Origin};
use crate::p2p::wire::PublicKey;
use crate::protocol::agreement::{Input, Layer, Signed, VoterSet};
use crate::protocol::atx::AtxId;
use crate::runtime::draw;
use std::collections::{BTreeMap, BTreeSet};

/// Wanted blocks from which on no further old layers are asked about: a node that is far behind must
/// not keep the commits of all layers in memory while it waits for their blocks.
const BACKLOG: usize = 4 * WANT_BLOCKS_MAX;
/// With a backlog only the newest layers are asked about, which are few.
const LAYERS_WITH_BACKLOG: usize = 8;
/// Proofs in an answer.
const PROOFS_MAX: usize = 2 * WANT_PROOFS_MAX;
/// What a peer said about itself counts for this many layers.
const CLAIM_LAYERS: Layer = 8;
/// Peers whose word is kept.
const CLAIMS_MAX: usize = 16;

/// What pulling remembers between two questions.
#[derive(Debug)]
pub(super) struct PullState {
    seed: u64,
    turn: u64,
    /// Below which layer peers have applied all, and when they said so.
    claims: BTreeMap<PublicKey, (Layer, Layer)>,
}

impl PullState {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            turn: 0,
            claims: BTreeMap::new(),
        }
    }

    /// Whether any peer has answered lately.
    pub(super) fn has_heard(&self, now: Layer) -> bool {
        self.fresh(now).next().is_some()
    }

    /// The layer that peers have applied: the median of what they say, so that one liar alone moves
    /// nothing.
    pub(super) fn claimed(&self, now: Layer) -> Option<Layer> {
        let mut claims: Vec<Layer> = self.fresh(now).collect();
        claims.sort_unstable();
        let median = claims.get(claims.len().checked_sub(1)? / 2)?;
        median.checked_sub(1)
    }

    fn fresh(&self, now: Layer) -> impl Iterator<Item = Layer> {
        self.claims
            .values()
            .filter(move |(_, heard)| heard.saturating_add(CLAIM_LAYERS) >= now)
            .map(|(applied_below, _)| *applied_below)
    }

    fn note(&mut self, peer: PublicKey, applied_below: Layer, now: Layer) {
        self.claims.insert(peer, (applied_below, now));
        while self.claims.len() > CLAIMS_MAX {
            let stalest = self.claims.iter().min_by_key(|(_, (_, heard))| *heard);
            if let Some(stalest) = stalest.map(|(peer, _)| *peer) {
                self.claims.remove(&stalest);
            }
        }
    }

    /// At most `most` of the things, beginning elsewhere each time, so that some that nobody has do
    /// not stand before the others for ever.
    fn some_of<T>(&self, mut things: Vec<T>, most: usize) -> Vec<T> {
        if things.len() > most {
            let number = u64::try_from(things.len()).unwrap_or(u64::MAX);
            let at = draw(self.seed, "pull-wants", &[&self.turn.to_be_bytes()]) % number;
            things.rotate_left(usize::try_from(at).unwrap_or(0));
            things.truncate(most);
        }
        things
    }
}

impl Mesh {
    /// What to ask a peer now.
    pub(crate) fn request(&mut self) -> Request {
        self.pull.turn += 1;
        self.metrics.pull_requests.inc();
        let wanted = self.agreement.wanted();
        let layers = if wanted.blocks.len() > BACKLOG {
            self.agreement.pull(LAYERS_WITH_BACKLOG)
        } else {
            self.agreement.pull(LAYERS_MAX)
        };
        let blocks = layers
            .layers
            .iter()
            .map(|(layer, _)| (*layer, self.short_blocks(*layer)))
            .collect();
        let epoch = self.epoch_now();
        let atxs = [epoch, epoch + 1]
            .map(|epoch| {
                let atxs = self.store.atxs_of_epoch(epoch);
                (epoch, atxs.iter().map(|(_, id)| short(&id.0)).collect())
            })
            .into();
        let proofs = (epoch.saturating_sub(1)..=epoch + 1)
            .map(|round| {
                let proofs = self.store.proofs_of_round(round);
                (round, proofs.iter().map(short).collect())
            })
            .collect();

        let waiting_for = self.waiting_atxs.things().map(|atx| {
            let voter = self.genesis.voter_of(&atx.node);
            (atx.target_epoch(), voter)
        });
        let waiting_for: BTreeSet<_> = waiting_for.collect();
        let mut atxs_of = wanted.atxs;
        atxs_of.retain(|(epoch, voter)| !waiting_for.contains(&(*epoch, Some(*voter))));
        let mut want_blocks = wanted.blocks;
        want_blocks.retain(|(_, id)| !self.waiting_blocks.contains(id));
        let mut want_atxs: Vec<AtxId> = self.waiting_blocks.wanted().copied().collect();
        want_atxs.retain(|id| !self.waiting_atxs.contains(id));
        let want_proofs = self.waiting_atxs.wanted().copied().collect();
        Request {
            applied_below: self.state.next_layer(),
            layers,
            blocks,
            atxs,
            proofs,
            want_proofs: self.pull.some_of(want_proofs, WANT_PROOFS_MAX),
            want_atxs: self.pull.some_of(want_atxs, WANT_ATXS_MAX),
            want_atxs_of: self.pull.some_of(atxs_of, WANT_ATXS_MAX),
            want_blocks: self.pull.some_of(want_blocks, WANT_BLOCKS_MAX),
        }
    }

    /// What to give a peer, in about `bytes_max` bytes.
    pub(crate) fn answer(&mut self, request: &Request, bytes_max: usize) -> Answer {
        self.metrics.pulls_served.inc();
        let mut bag = Bag::new(bytes_max);
        let mut answer = Answer {
            applied_below: self.state.next_layer(),
            ..Answer::default()
        };
        for reference in &request.want_proofs {
            bag.add(&mut answer.proofs, PROOFS_MAX, reference, || {
                self.store.proof_bytes(reference)
            });
        }
        for id in &request.want_atxs {
            bag.add(&mut answer.atxs, WANT_ATXS_MAX, &id.0, || {
                self.store.atx_bytes(id)
            });
        }
        for (epoch, voter) in &request.want_atxs_of {
            let node = self.genesis.voters.get(usize::from(voter.0));
            if let Some(id) = node.and_then(|node| self.store.atx_of(*epoch, node)) {
                bag.add(&mut answer.atxs, WANT_ATXS_MAX, &id.0, || {
                    self.store.atx_bytes(&id)
                });
            }
        }
        for (layer, id) in &request.want_blocks {
            bag.add(&mut answer.blocks, BLOCKS_MAX, &id.0, || {
                self.store.block_bytes(*layer, id)
            });
        }
        let given = self.agreement.answer(&request.layers, MESSAGES_MAX);
        for layer in given.decided {
            if let Some(decision) = self.store.decision(layer)
                && bag.takes(decision.encode().len() + 8)
            {
                answer.decided.push((layer, decision));
            }
        }
        for signed in given.messages {
            if bag.takes(votes_len(&signed)) {
                answer.messages.push(signed);
            }
        }
        self.add_unasked(request, &mut bag, &mut answer);
        answer.more = bag.more;
        answer
    }

    /// Adds what the peer did not name among what it has.
    fn add_unasked(&mut self, request: &Request, bag: &mut Bag, answer: &mut Answer) {
        for (round, here) in &request.proofs {
            for reference in self.store.proofs_of_round(*round) {
                if !here.contains(&short(&reference)) {
                    bag.add(&mut answer.proofs, PROOFS_MAX, &reference, || {
                        self.store.proof_bytes(&reference)
                    });
                }
            }
        }
        for (epoch, here) in &request.atxs {
            let here: BTreeSet<&Short> = here.iter().collect();
            for (_, id) in self.store.atxs_of_epoch(*epoch) {
                if !here.contains(&short(&id.0)) {
                    bag.add(&mut answer.atxs, WANT_ATXS_MAX, &id.0, || {
                        self.store.atx_bytes(&id)
                    });
                }
            }
        }
        for (layer, here) in &request.blocks {
            let ids = match self.store.decision(*layer) {
                Some(decision) => decision.set.ids().to_vec(),
                None => self.store.block_ids(*layer),
            };
            for id in ids {
                if !here.contains(&short(&id.0)) {
                    bag.add(&mut answer.blocks, BLOCKS_MAX, &id.0, || {
                        self.store.block_bytes(*layer, &id)
                    });
                }
            }
        }
    }

    /// Takes an answer in. True if it brought something and it is worth asking on at once.
    pub(crate) fn take_answer(&mut self, from: PublicKey, answer: Answer) -> bool {
        self.metrics.pull_answers.inc();
        self.pull.note(from, answer.applied_below, self.now);
        let before = (self.taken, self.agreement.messages_kept());
        for bytes in answer.proofs.iter().take(PROOFS_MAX) {
            self.proof(bytes, Origin::Pull);
        }
        for bytes in answer.atxs.iter().take(WANT_ATXS_MAX) {
            self.atx(bytes, Origin::Pull);
        }
        for bytes in answer.blocks.iter().take(BLOCKS_MAX) {
            self.block(bytes, Origin::Pull);
        }
        for (layer, decision) in answer.decided {
            self.take_decision(layer, &decision);
        }
        let messages: Vec<Signed> = answer
            .messages
            .into_iter()
            .filter(|signed| !self.decided.contains(signed.message.layer))
            .filter(|signed| self.keys.verify(signed))
            .collect();
        self.drive([Input::Messages(messages)]);

        let brought = self.taken != before.0 || self.agreement.messages_kept() > before.1;
        let near = self.state.next_layer().saturating_add(super::SYNCED_LAG);
        let behind = near < answer.applied_below;
        brought && (answer.more || behind || self.wants_anything())
    }

    /// The commits of a decision, which must be of a quorum before any is looked at: anything less
    /// decides nothing.
    fn take_decision(&mut self, layer: Layer, decision: &Decision) {
        let mut signers = VoterSet::default();
        for (voter, _, _) in &decision.commits {
            signers.insert(*voter);
        }
        if self.decided.contains(layer)
            || signers.len() < self.voters.quorum()
            || decision.commits.len() > self.genesis.voters.len()
        {
            return;
        }
        let commits = decision.messages(layer);
        if commits.iter().all(|commit| self.keys.verify(commit)) {
            self.drive([Input::Messages(commits)]);
        }
    }

    fn wants_anything(&self) -> bool {
        let wanted = self.agreement.wanted();
        let waiting = self.waiting_atxs.len() + self.waiting_blocks.len();
        waiting > 0 || !wanted.blocks.is_empty() || !wanted.atxs.is_empty()
    }

    fn short_blocks(&mut self, layer: Layer) -> Vec<Short> {
        let ids = self.store.block_ids(layer);
        ids.iter().map(|id| short(&id.0)).collect()
    }
}

fn votes_len(signed: &Signed) -> usize {
    signed.message.encode().len() + 69
}

/// What an answer has room for.
struct Bag {
    left: usize,
    more: bool,
    given: BTreeSet<[u8; 32]>,
}

impl Bag {
    fn new(bytes_max: usize) -> Self {
        Self {
            left: bytes_max,
            more: false,
            given: BTreeSet::new(),
        }
    }

    fn takes(&mut self, bytes: usize) -> bool {
        let left = self.left.checked_sub(bytes);
        self.left = left.unwrap_or(self.left);
        self.more |= left.is_none();
        left.is_some()
    }

    /// Adds a thing once, if it is here and there is room.
    fn add(
        &mut self,
        list: &mut Vec<Vec<u8>>,
        most: usize,
        id: &[u8; 32],
        read: impl FnOnce() -> Option<Vec<u8>>,
    ) {
        if self.given.contains(id) {
            return;
        }
        if list.len() >= most {
            self.more = true;
            return;
        }
        if let Some(bytes) = read()
            && self.takes(bytes.len() + 4)
        {
            self.given.insert(*id);
            list.push(bytes);
        }
    }
}
