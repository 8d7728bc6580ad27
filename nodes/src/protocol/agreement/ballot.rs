//! What is known about one layer: its blocks, the messages about it, and what they add up to.
//!
//! Counting is incremental: a message is counted once, when its sender's ATX and its blocks are
//! there, and nothing leaves a count. What a liar can make us keep is bounded per (voter, round,
//! step) by [`Ballot::admit`], whose rule is explained there. Nothing here acts: see `stand.rs`.

use std::collections::{BTreeMap, BTreeSet};

use super::message::{
    BlockId, BlockSet, Body, Epoch, Layer, Message, Round, Signature, Signed, Step,
};
use super::voters::{Voter, VoterSet};

/// Values kept from one voter for one (round, step) without any support from others. Two prove
/// that it lies.
pub(super) const VALUES_UNSUPPORTED_MAX: usize = 2;

/// A known set, by its place in [`Ballot::sets`]. A commit to none has no set.
pub(super) type Value = Option<usize>;

/// Where a message belongs; the order is the one in which pull sends messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) round: Round,
    pub(super) step: Step,
    pub(super) voter: Voter,
    pub(super) value: Value,
}

impl Key {
    /// All values of one voter in one step.
    fn slot(self) -> std::ops::RangeInclusive<Self> {
        Self {
            value: None,
            ..self
        }..=Self {
            value: Some(usize::MAX),
            ..self
        }
    }
}

/// What remains of a message beside its key.
#[derive(Clone, Debug)]
struct Held {
    epoch: Epoch,
    signature: Signature,
    counted: bool,
}

/// A set named by messages, and those of its blocks that are not here yet.
#[derive(Clone, Debug)]
struct KnownSet {
    set: BlockSet,
    missing: BTreeSet<BlockId>,
}

/// Who said one thing.
#[derive(Clone, Copy, Debug, Default)]
struct Support {
    /// Voters whose message is here, counted or waiting.
    held: VoterSet,
    /// Voters whose message counts.
    counted: VoterSet,
}

/// One step of one round.
#[derive(Clone, Debug, Default)]
struct Tally {
    values: BTreeMap<Value, Support>,
    /// Voters of which some message counts, whatever it says.
    counted: VoterSet,
    /// The tick at which `counted` became a quorum.
    quorum_since: Option<u64>,
    /// Voters whose lie in this step has been reported.
    reported: VoterSet,
}

/// What the whole machine knows and every count needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    /// Voters that make a quorum.
    pub(super) quorum: u32,
    /// Honest voters that any quorum must hold.
    pub(super) honest_in_quorum: u32,
    /// Ticks seen so far.
    pub(super) ticks: u64,
    /// Voters with an ATX, by epoch; epochs 0 and 1 need none.
    pub(super) atxs: &'a BTreeMap<Epoch, VoterSet>,
}

impl Context<'_> {
    /// Whether `voter` may speak in `epoch`.
    pub(super) fn has_atx(&self, voter: Voter, epoch: Epoch) -> bool {
        epoch <= 1
            || self
                .atxs
                .get(&epoch)
                .is_some_and(|voters| voters.contains(voter))
    }
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is kept. `other` is a different message of the same sender for the same step, given once
    /// per step.
    Kept { other: Option<Signed> },
    /// It was here.
    Known,
    /// It is one too many of a voter that lies. `other` as above.
    Surplus { other: Option<Signed> },
}

/// Everything known about one open layer.
#[derive(Clone, Debug, Default)]
pub(super) struct Ballot {
    blocks: BTreeSet<BlockId>,
    sets: Vec<KnownSet>,
    places: BTreeMap<BlockSet, usize>,
    messages: BTreeMap<Key, Held>,
    waiting: BTreeSet<Key>,
    /// Messages that count since the last call of [`Ballot::take_unlogged`], in that order.
    unlogged: Vec<Key>,
    logged: BTreeSet<Key>,
    tallies: BTreeMap<(Round, Step), Tally>,
    /// (round, set) with votes from a quorum.
    certificates: BTreeSet<(Round, usize)>,
    /// (round, set) with commits from a quorum: the decision.
    decision: Option<(Round, usize)>,
}

impl Ballot {
    /// Takes a message in, and counts it if its sender's ATX and its blocks are here.
    ///
    /// An honest voter says one thing per step, so its message is always kept. Of a voter that
    /// says more, the bound keeps: the first two values, which prove the lie; a value for which
    /// the honest part of a quorum has spoken, because it may be in a certificate or decision that
    /// another node holds, and such a value has an honest voter behind it, so there are at most N;
    /// and a message that counts at once while no other of its sender does, because "from q" asks
    /// for the voter and not the value. Anything else cannot help a quorum that another node has
    /// seen, so leaving it out costs no liveness; leaving out is never unsafe, since a message may
    /// always be late. The refused are not remembered: pull offers them again when they matter.
    pub(super) fn admit(&mut self, signed: &Signed, context: &Context<'_>) -> Admission {
        let Message {
            round,
            epoch,
            ref body,
            ..
        } = signed.message;
        let (voter, step) = (signed.voter, body.step());
        let slot = Key {
            round,
            step,
            voter,
            value: None,
        }
        .slot();
        let kept = self.messages.range(slot).count();
        if let Some(value) = self.known_value(body) {
            let key = Key {
                round,
                step,
                voter,
                value,
            };
            if let Some(held) = self.messages.get(&key) {
                return if held.epoch == epoch {
                    Admission::Known
                } else {
                    self.admit_other_epoch(key, signed, context)
                };
            }
        }
        if kept >= VALUES_UNSUPPORTED_MAX && !self.is_worth_keeping(signed, context) {
            return Admission::Surplus { other: None };
        }
        Admission::Kept {
            other: self.keep(signed, context),
        }
    }

    /// Takes in a message from the own log, in which there is no more than was once admitted.
    pub(super) fn restore(&mut self, signed: &Signed, context: &Context<'_>) {
        let Message {
            round, ref body, ..
        } = signed.message;
        let value = body.set().map(|set| self.place(set));
        let key = Key {
            round,
            step: body.step(),
            voter: signed.voter,
            value,
        };
        self.logged.insert(key);
        if !self.messages.contains_key(&key) {
            self.keep(signed, context);
        }
    }

    /// The messages of others that count and are not in the own log yet. From now on they are.
    pub(super) fn take_unlogged(&mut self, layer: Layer, me: Voter) -> Vec<Signed> {
        let mut fresh = std::mem::take(&mut self.unlogged);
        fresh.retain(|key| key.voter != me && self.logged.insert(*key));
        fresh
            .into_iter()
            .filter_map(|key| Some(self.signed(layer, key, self.messages.get(&key)?)))
            .collect()
    }

    /// A block of this layer is here and valid.
    pub(super) fn add_block(&mut self, id: BlockId, context: &Context<'_>) {
        if !self.blocks.insert(id) {
            return;
        }
        let mut completed = false;
        for known in &mut self.sets {
            completed |= known.missing.remove(&id) && known.missing.is_empty();
        }
        if completed {
            self.recount(context, |_, _| true);
        }
    }

    /// An ATX of a voter is here.
    pub(super) fn add_atx(&mut self, voter: Voter, epoch: Epoch, context: &Context<'_>) {
        self.recount(context, |key, held| {
            key.voter == voter && held.epoch == epoch
        });
    }

    /// Whether there are commits enough to decide.
    pub(super) fn is_decided(&self) -> bool {
        self.decision.is_some()
    }

    /// The decided set and the commits that prove it, once there are enough.
    pub(super) fn decision(&self, layer: Layer) -> Option<(BlockSet, Vec<Signed>)> {
        let (round, set) = self.decision?;
        let proof = self
            .messages
            .iter()
            .filter(|(key, held)| {
                key.round == round
                    && key.step == Step::Commit
                    && key.value == Some(set)
                    && held.counted
            })
            .map(|(key, held)| self.signed(layer, *key, held))
            .collect();
        Some((self.sets[set].set.clone(), proof))
    }

    /// The certificate of the highest round.
    pub(super) fn certificate_highest(&self) -> Option<(Round, usize)> {
        self.certificates.last().copied()
    }

    /// A certificate of exactly this round.
    pub(super) fn certificate_of(&self, round: Round) -> Option<usize> {
        self.certificates
            .range((round, 0)..=(round, usize::MAX))
            .next()
            .map(|(_, set)| *set)
    }

    /// Whether `set` has a certificate of a round later than `round`.
    pub(super) fn certified_after(&self, round: Round, set: usize) -> bool {
        self.certificates
            .range((round + 1, 0)..)
            .any(|(_, certified)| *certified == set)
    }

    /// The sets that `voter` voted for in `round`, among those that count.
    pub(super) fn votes_of(&self, voter: Voter, round: Round) -> impl Iterator<Item = usize> {
        let slot = Key {
            round,
            step: Step::Vote,
            voter,
            value: None,
        }
        .slot();
        self.messages
            .range(slot)
            .filter(|(_, held)| held.counted)
            .filter_map(|(key, _)| key.value)
    }

    /// Whether messages of this step from a quorum have counted for at least `age` ticks.
    pub(super) fn quorum_held(&self, round: Round, step: Step, now: u64, age: u32) -> bool {
        self.tallies
            .get(&(round, step))
            .and_then(|tally| tally.quorum_since)
            .is_some_and(|since| now - since >= u64::from(age))
    }

    /// The highest round, at or after `round`, that may be left: commits held long enough.
    pub(super) fn round_to_leave(&self, round: Round, now: u64) -> Option<Round> {
        let later = self.tallies.range((round, Step::Commit)..).rev();
        later
            .map(|(at, _)| *at)
            .find(|(at, step)| {
                *step == Step::Commit && self.quorum_held(*at, Step::Commit, now, *at)
            })
            .map(|(at, _)| at)
    }

    /// All blocks here, at most `max` of them, as a set.
    pub(super) fn all_blocks(&self, max: usize) -> BlockSet {
        BlockSet::new(self.blocks.iter().take(max).copied())
    }

    /// The place of a set, which is known from now on.
    pub(super) fn place(&mut self, set: &BlockSet) -> usize {
        if let Some(place) = self.places.get(set) {
            return *place;
        }
        let missing = set
            .ids()
            .iter()
            .filter(|id| !self.blocks.contains(*id))
            .copied()
            .collect();
        self.sets.push(KnownSet {
            set: set.clone(),
            missing,
        });
        self.places.insert(set.clone(), self.sets.len() - 1);
        self.sets.len() - 1
    }

    /// The set at a place.
    pub(super) fn set(&self, place: usize) -> &BlockSet {
        &self.sets[place].set
    }

    /// Whether a voter has a message of this round and step here that says exactly this.
    pub(super) fn has(&self, key: Key) -> bool {
        self.messages.contains_key(&key)
    }

    /// All messages, by round, step and voter.
    pub(super) fn messages(&self, layer: Layer) -> impl Iterator<Item = (Key, Signed)> {
        self.messages
            .iter()
            .map(move |(key, held)| (*key, self.signed(layer, *key, held)))
    }

    /// Whether the sender of a message is known to have lied in its step.
    pub(super) fn has_lied(&self, key: Key) -> bool {
        let tally = self.tallies.get(&(key.round, key.step));
        tally.is_some_and(|tally| tally.reported.contains(key.voter))
    }

    /// How many messages are kept.
    pub(super) fn messages_len(&self) -> usize {
        self.messages.len()
    }

    /// Per round, step and value: the voters whose message is here and needs no other ATX. What
    /// waits for an ATX is left out, so that pull may bring the same value with a better epoch.
    pub(super) fn holdings(
        &self,
        context: &Context<'_>,
    ) -> impl Iterator<Item = (Round, Step, Value, VoterSet)> {
        self.tallies.iter().flat_map(move |((round, step), tally)| {
            tally.values.iter().map(move |(value, support)| {
                let mut voters = support.held;
                for key in &self.waiting {
                    if (key.round, key.step, key.value) == (*round, *step, *value)
                        && !context.has_atx(key.voter, self.messages[key].epoch)
                    {
                        voters = voters.without(key.voter);
                    }
                }
                (*round, *step, *value, voters)
            })
        })
    }

    /// Blocks that messages name and that are not here.
    pub(super) fn missing_blocks(&self) -> impl Iterator<Item = BlockId> {
        self.sets
            .iter()
            .flat_map(|known| known.missing.iter().copied())
    }

    /// ATXs that messages need and that are not here.
    pub(super) fn missing_atxs(
        &self,
        context: &Context<'_>,
    ) -> impl Iterator<Item = (Epoch, Voter)> {
        self.waiting
            .iter()
            .map(|key| (self.messages[key].epoch, key.voter))
            .filter(|(epoch, voter)| !context.has_atx(*voter, *epoch))
    }

    /// Blocks that this message needs and that are not here.
    pub(super) fn missing_for(&self, body: &Body) -> impl Iterator<Item = BlockId> {
        let place = body.set().and_then(|set| self.places.get(set));
        place
            .into_iter()
            .flat_map(|place| self.sets[*place].missing.iter().copied())
    }

    /// Keeps a message of which this value is new, and gives what `report` gives.
    fn keep(&mut self, signed: &Signed, context: &Context<'_>) -> Option<Signed> {
        let Message {
            layer,
            round,
            epoch,
            ref body,
        } = signed.message;
        let (voter, step) = (signed.voter, body.step());
        let value = body.set().map(|set| self.place(set));
        let key = Key {
            round,
            step,
            voter,
            value,
        };
        let other = self.report(key, layer);
        self.messages.insert(
            key,
            Held {
                epoch,
                signature: signed.signature,
                counted: false,
            },
        );
        self.waiting.insert(key);
        let tally = self.tallies.entry((round, step)).or_default();
        tally.values.entry(value).or_default().held.insert(voter);
        self.count_if_complete(key, context);
        other
    }

    /// The same value again, naming another epoch. One of the two is enough; the one whose ATX is
    /// here is kept, so that an epoch without an ATX cannot keep out the one that has it.
    fn admit_other_epoch(&mut self, key: Key, signed: &Signed, context: &Context<'_>) -> Admission {
        let other = self.report(key, signed.message.layer);
        let epoch = signed.message.epoch;
        if let Some(held) = self.messages.get_mut(&key)
            && !context.has_atx(key.voter, held.epoch)
            && context.has_atx(key.voter, epoch)
        {
            *held = Held {
                epoch,
                signature: signed.signature,
                counted: false,
            };
            self.count_if_complete(key, context);
            return Admission::Kept { other };
        }
        Admission::Surplus { other }
    }

    /// The value that a message names, if any message did so before.
    fn known_value(&self, body: &Body) -> Option<Value> {
        match body.set() {
            Some(set) => self.places.get(set).map(|place| Some(*place)),
            None => Some(None),
        }
    }

    fn is_worth_keeping(&self, signed: &Signed, context: &Context<'_>) -> bool {
        let Message {
            round,
            epoch,
            ref body,
            ..
        } = signed.message;
        let tally = self.tallies.get(&(round, body.step()));
        let supported = self
            .known_value(body)
            .and_then(|value| tally?.values.get(&value))
            .is_some_and(|support| support.held.len() >= context.honest_in_quorum);
        let complete = context.has_atx(signed.voter, epoch)
            && body
                .set()
                .is_none_or(|set| set.ids().iter().all(|id| self.blocks.contains(id)));
        supported || (complete && tally.is_none_or(|tally| !tally.counted.contains(signed.voter)))
    }

    /// A different message of the same voter for the same step, if there is one and it has not
    /// been given before.
    fn report(&mut self, key: Key, layer: Layer) -> Option<Signed> {
        let (other, held) = self.messages.range(key.slot()).next()?;
        let other = self.signed(layer, *other, held);
        let tally = self.tallies.entry((key.round, key.step)).or_default();
        tally.reported.insert(key.voter).then_some(other)
    }

    fn recount(&mut self, context: &Context<'_>, concerns: impl Fn(&Key, &Held) -> bool) {
        let waiting: Vec<Key> = self
            .waiting
            .iter()
            .filter(|key| concerns(key, &self.messages[key]))
            .copied()
            .collect();
        for key in waiting {
            self.count_if_complete(key, context);
        }
    }

    fn count_if_complete(&mut self, key: Key, context: &Context<'_>) {
        let Some(held) = self.messages.get_mut(&key) else {
            return;
        };
        let blocks_here = key
            .value
            .is_none_or(|set| self.sets[set].missing.is_empty());
        if held.counted || !blocks_here || !context.has_atx(key.voter, held.epoch) {
            return;
        }
        held.counted = true;
        self.waiting.remove(&key);
        self.unlogged.push(key);
        let tally = self.tallies.entry((key.round, key.step)).or_default();
        tally.counted.insert(key.voter);
        if tally.counted.len() >= context.quorum {
            tally.quorum_since.get_or_insert(context.ticks);
        }
        let support = tally.values.entry(key.value).or_default();
        support.counted.insert(key.voter);
        if let Some(set) = key.value
            && support.counted.len() >= context.quorum
        {
            match key.step {
                Step::Vote => {
                    self.certificates.insert((key.round, set));
                }
                Step::Commit => {
                    self.decision.get_or_insert((key.round, set));
                }
            }
        }
    }

    fn signed(&self, layer: Layer, key: Key, held: &Held) -> Signed {
        let set = key.value.map(|place| self.sets[place].set.clone());
        let body = match (key.step, set) {
            (Step::Vote, set) => Body::Vote(set.unwrap_or_else(|| BlockSet::new([]))),
            (Step::Commit, set) => Body::Commit(set),
        };
        let message = Message {
            layer,
            round: key.round,
            epoch: held.epoch,
            body,
        };
        Signed {
            voter: key.voter,
            message,
            signature: held.signature,
        }
    }
}
