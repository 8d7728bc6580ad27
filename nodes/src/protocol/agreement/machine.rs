//! The state machine of one node: inputs in, outputs out, for all layers that are still open.
//!
//! It reads no clock, draws no entropy and does no I/O; the same inputs give the same outputs. It
//! does not check signatures, fetch anything, choose peers or apply decided blocks.

use std::collections::BTreeMap;

use super::ballot::{Admission, Ballot, Context};
use super::layers::LayerSet;
use super::message::{BlockId, BlockSet, Epoch, Layer, Message, Round, SET_MAX, Signed};
use super::outgoing::{Record, Unsent};
use super::pull::{Answer, Holding, Pull, Wanted};
use super::rules::Rules;
use super::stand::{Stand, Surroundings};
use super::voters::{Voter, VoterSet, Voters};

/// Agreement on a layer starts one layer after the layer's end.
pub const START_DELAY_LAYERS: u32 = 2;
/// How far the clock of an honest sender may be ahead of ours, in layers. What comes earlier is
/// refused and not remembered; pull brings it when its time has come.
pub const EARLY_LAYERS_MAX: u32 = 4;
/// Overdue layers in which a voter starts per tick, oldest first, beside the newest: a voter that
/// was away for an hour must not sign and sync thousands of votes at once, and most of those
/// layers turn out to be decided when the first pull is answered.
pub const OVERDUE_STARTS_PER_TICK: usize = 64;
/// The newest layers that every pull asks about, since most of what is missing is recent.
const PULL_NEWEST_LAYERS: u32 = 8;

/// What a machine is told once.
#[derive(Clone, Debug)]
pub struct Config {
    /// The voters that genesis names.
    pub voters: Voters,
    /// Which of them this node is; none follows without voting.
    pub me: Option<Voter>,
    /// Layers in an epoch, at least 1.
    pub layers_per_epoch: u32,
    /// The most valid blocks that a layer can have; larger sets are refused.
    pub blocks_max: usize,
}

/// What a node knows when it starts.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// The current layer.
    pub now: Layer,
    /// The voter's log, in order; empty if there is none. A follower has none.
    pub log: Vec<Record>,
    /// The layers of which this node durably holds the decision and its proof.
    pub decided: LayerSet,
}

/// Why a machine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum OpenError<E> {
    /// An epoch has no layers.
    #[error("an epoch needs at least one layer; set layers-per-epoch")]
    NoLayersPerEpoch,
    /// This node's place is not in the list of voters.
    #[error("voter {me} is not one of the {count} voters of genesis; check the node's voter index")]
    NotAVoter {
        /// The index given.
        me: u8,
        /// The voters there are.
        count: u32,
    },
    /// The log does not start as every log does.
    #[error(
        "the voter's log does not begin with its first record, so its head is lost; remove the whole log to start as a voter that lost it"
    )]
    LogWithoutBegin,
    /// The log holds a message of somebody else.
    #[error(
        "the voter's log holds a message of voter {found}, but this is voter {me}; give each voter its own data directory"
    )]
    LogOfAnother {
        /// The voter found.
        found: u8,
        /// This voter.
        me: u8,
    },
    /// The log says two things about one question.
    #[error(
        "the voter's log contradicts itself in layer {layer}, round {round}; it was damaged or written by two processes: remove it to start as a voter that lost it"
    )]
    LogContradicts {
        /// The layer.
        layer: Layer,
        /// The round.
        round: Round,
    },
    /// The first record could not be saved.
    #[error("the first record of the voter's log could not be saved")]
    Save(#[source] E),
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A layer begins. Ticks that do not advance are ignored; after a gap one tick is enough, and
    /// counts as one, because nothing was heard in the gap.
    Tick(Layer),
    /// A message whose signature was checked. A node's own messages come in this way too, once
    /// they are saved.
    Message(Signed),
    /// The messages of a pull's answer, or of a proof.
    Messages(Vec<Signed>),
    /// A block of this layer is held and valid.
    Block(Layer, BlockId),
    /// An ATX of this voter for this epoch is held and valid.
    Atx(Voter, Epoch),
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Save this, then send it to all and feed it back.
    Speak(Unsent),
    /// A layer is decided. Store set and proof before dropping the layer's log records.
    Decided {
        /// The layer.
        layer: Layer,
        /// Its blocks, to be applied in the set's order after the layers before.
        set: BlockSet,
        /// The commits of a quorum.
        proof: Vec<Signed>,
    },
    /// A voter lied, and here is the proof; given once per voter and step.
    Equivocation(Box<Evidence>),
    /// A message that came in waits for these.
    Want(Wanted),
    /// A message or block was not taken. It must not be passed on, and may be offered again.
    Refused(Refusal),
}

/// Two messages of one voter for one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The one that was here.
    pub first: Signed,
    /// The one that came.
    pub second: Signed,
}

/// Why something was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// No such voter.
    #[error("sender is not a voter of this network")]
    NotAVoter,
    /// Too many blocks.
    #[error("set names more blocks than a layer can have")]
    TooManyBlocks,
    /// Nobody can have sent this in that epoch.
    #[error("message names an epoch before agreement on its layer began, or round 0")]
    Impossible,
    /// Nobody whose clock is right can have sent this yet.
    #[error("message or block is ahead of this node's clock; it will be pulled when it is due")]
    Early,
    /// The sender lies and has its share of the memory.
    #[error("sender said too many things about one step")]
    Surplus,
}

/// Layer agreement of one node.
#[derive(Clone, Debug)]
pub struct Agreement {
    common: Common,
    layers: BTreeMap<Layer, Open>,
    /// Layers below this were started, or never will be.
    started_below: Layer,
    /// Where the next pull goes on.
    pull_from: Layer,
}

/// What all layers share.
#[derive(Clone, Debug)]
struct Common {
    config: Config,
    rules: Rules,
    now: Layer,
    ticks: u64,
    atxs: BTreeMap<Epoch, VoterSet>,
    decided: LayerSet,
}

/// A layer that is not decided.
#[derive(Clone, Debug, Default)]
struct Open {
    ballot: Ballot,
    stand: Option<Stand>,
}

impl Agreement {
    /// Starts a machine. A voter whose log is empty first saves the record that begins one; if the
    /// network is past layer 1 an earlier log may have been lost, and the voter stays out of every
    /// layer in which it may have spoken: all up to the current one, plus one.
    pub fn open<E>(
        config: Config,
        past: Past,
        append_and_sync: impl FnOnce(&Record) -> Result<(), E>,
    ) -> Result<Self, OpenError<E>> {
        Self::open_with(Rules::REAL, config, past, append_and_sync)
    }

    pub(super) fn open_with<E>(
        rules: Rules,
        config: Config,
        past: Past,
        append_and_sync: impl FnOnce(&Record) -> Result<(), E>,
    ) -> Result<Self, OpenError<E>> {
        if config.layers_per_epoch == 0 {
            return Err(OpenError::NoLayersPerEpoch);
        }
        let Past { now, log, decided } = past;
        let me = config.me;
        let common = Common {
            config,
            rules,
            now,
            ticks: 0,
            atxs: BTreeMap::new(),
            decided,
        };
        let mut machine = Self {
            common,
            layers: BTreeMap::new(),
            started_below: 0,
            pull_from: 0,
        };
        if let Some(me) = me {
            if !machine.common.config.voters.contains(me) {
                let count = machine.common.config.voters.count();
                return Err(OpenError::NotAVoter { me: me.0, count });
            }
            let log = if log.is_empty() {
                let abstain_through = (now > 1).then(|| now.saturating_add(1));
                let begin = Record::Begin { abstain_through };
                append_and_sync(&begin).map_err(OpenError::Save)?;
                vec![begin]
            } else {
                log
            };
            machine.replay(me, &log)?;
        }
        Ok(machine)
    }

    /// Takes one input in and says what to do, in order.
    pub fn step(&mut self, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::Tick(layer) => self.tick(layer, &mut out),
            Input::Message(signed) => {
                self.message(&signed, &mut out);
            }
            Input::Messages(batch) => self.messages(batch, &mut out),
            Input::Block(layer, id) => self.block(layer, id, &mut out),
            Input::Atx(voter, epoch) => self.atx(voter, epoch, &mut out),
        }
        out
    }

    /// The first layer that is not decided here; none once numbers are used up.
    pub fn first_open(&self) -> Option<Layer> {
        self.common.decided.next_absent(0)
    }

    /// The layers about which anything is known and which are not decided, each with this voter's
    /// round in it, if it takes part.
    pub fn open_layers(&self) -> impl Iterator<Item = (Layer, Option<Round>)> {
        self.layers
            .iter()
            .map(|(layer, open)| (*layer, open.stand.as_ref().map(Stand::round)))
    }

    /// How many messages are kept, for a gauge.
    pub fn messages_kept(&self) -> usize {
        self.layers
            .values()
            .map(|open| open.ballot.messages_len())
            .sum()
    }

    /// This voter's messages in open layers, to be sent again after a restart.
    pub fn own_messages(&self) -> impl Iterator<Item = Signed> {
        self.layers.iter().flat_map(|(layer, open)| {
            open.ballot
                .messages(*layer)
                .filter(|(key, _)| Some(key.voter) == self.common.config.me)
                .map(|(_, signed)| signed)
        })
    }

    /// Everything that messages wait for, without duplicates.
    pub fn wanted(&self) -> Wanted {
        let context = self.common.context();
        let mut wanted = Wanted::default();
        for (layer, open) in &self.layers {
            wanted
                .blocks
                .extend(open.ballot.missing_blocks().map(|id| (*layer, id)));
            wanted.atxs.extend(open.ballot.missing_atxs(&context));
        }
        wanted.blocks.sort_unstable();
        wanted.blocks.dedup();
        wanted.atxs.sort_unstable();
        wanted.atxs.dedup();
        wanted
    }

    /// What to send to one random peer, once a layer: at most `layers_max` undecided layers, the
    /// newest ones and a window over the others that moves on with each call.
    pub fn pull(&mut self, layers_max: usize) -> Pull {
        let decided = &self.common.decided;
        let end = (self.common.now + 1).saturating_sub(START_DELAY_LAYERS);
        let newest = end.saturating_sub(PULL_NEWEST_LAYERS);
        let mut asked: Vec<Layer> = decided
            .absent(newest)
            .take_while(|layer| *layer < end)
            .take(layers_max)
            .collect();
        let left = layers_max - asked.len();
        let from = self.pull_from;
        let window = |from: Layer, to: Layer, most: usize| {
            decided
                .absent(from)
                .take_while(move |layer| *layer < to)
                .take(most)
        };
        let mut older: Vec<Layer> = window(from, newest, left).collect();
        self.pull_from = match older.last() {
            Some(last) if older.len() == left => last + 1,
            _ => {
                let rest = left - older.len();
                let wrapped: Vec<Layer> = window(0, from.min(newest), rest).collect();
                let next = wrapped.last().map_or(0, |last| last + 1);
                older.extend(wrapped);
                next
            }
        };
        asked.append(&mut older);
        asked.sort_unstable();
        let context = self.common.context();
        let holdings = |layer: Layer| {
            let ballot = self.layers.get(&layer).map(|open| &open.ballot);
            ballot.map_or(Vec::new(), |ballot| ballot_holdings(ballot, &context))
        };
        Pull {
            layers: asked
                .into_iter()
                .map(|layer| (layer, holdings(layer)))
                .collect(),
        }
    }

    /// What a peer lacks, at most `most` layers and messages together. Voters that said one thing
    /// per step come first, so that what liars said cannot crowd out the rest.
    pub fn answer(&self, pull: &Pull, most: usize) -> Answer {
        let mut answer = Answer::default();
        let mut of_liars = Vec::new();
        for (layer, holdings) in &pull.layers {
            if answer.decided.len() + answer.messages.len() >= most {
                break;
            }
            if self.common.decided.contains(*layer) {
                answer.decided.push(*layer);
                continue;
            }
            let Some(open) = self.layers.get(layer) else {
                continue;
            };
            let there: BTreeMap<_, _> = holdings
                .iter()
                .map(|h| ((h.round, h.step, h.set), h.voters))
                .collect();
            for (key, signed) in open.ballot.messages(*layer) {
                let set = signed.message.body.set().map(BlockSet::digest);
                let known = there
                    .get(&(key.round, key.step, set))
                    .is_some_and(|voters| voters.contains(key.voter));
                match (known, open.ballot.has_lied(key)) {
                    (true, _) => {}
                    (false, false) => answer.messages.push(signed),
                    (false, true) => of_liars.push(signed),
                }
            }
        }
        answer.messages.append(&mut of_liars);
        answer
            .messages
            .truncate(most.saturating_sub(answer.decided.len()));
        answer
    }

    fn tick(&mut self, layer: Layer, out: &mut Vec<Output>) {
        if layer <= self.common.now && self.common.ticks > 0 || layer < self.common.now {
            return;
        }
        self.common.now = layer;
        self.common.ticks += 1;
        self.start_due();
        let mut decided = Vec::new();
        for (layer, open) in &mut self.layers {
            // A log can hold a whole decision that was not stored before a crash.
            if open.ballot.is_decided() {
                decided.push(*layer);
            } else {
                self.common.act(*layer, open, out);
            }
        }
        for layer in decided {
            self.settle(layer, out);
        }
    }

    /// Starts the newest layer that is due, and a bounded number of those before it.
    fn start_due(&mut self) {
        let Some(newest) = self.common.now.checked_sub(START_DELAY_LAYERS) else {
            return;
        };
        if self.common.config.me.is_none() || newest < self.started_below {
            return;
        }
        let overdue: Vec<Layer> = self
            .common
            .decided
            .absent(self.started_below)
            .take_while(|layer| *layer < newest)
            .take(OVERDUE_STARTS_PER_TICK)
            .collect();
        self.started_below = match overdue.last() {
            Some(last) if overdue.len() == OVERDUE_STARTS_PER_TICK => last + 1,
            _ => newest + 1,
        };
        for layer in overdue.into_iter().chain([newest]) {
            if !self.common.decided.contains(layer) {
                let open = self.layers.entry(layer).or_default();
                open.stand
                    .get_or_insert_with(|| Stand::new(self.common.ticks));
            }
        }
    }

    fn message(&mut self, signed: &Signed, out: &mut Vec<Output>) -> Option<Refusal> {
        let layer = signed.message.layer;
        if self.common.decided.contains(layer) {
            return None;
        }
        if let Err(refusal) = self.common.judge(signed) {
            out.push(Output::Refused(refusal));
            return Some(refusal);
        }
        let open = self.layers.entry(layer).or_default();
        let context = self.common.context();
        let (other, kept) = match open.ballot.admit(signed, &context) {
            Admission::Known => return None,
            Admission::Kept { other } => (other, true),
            Admission::Surplus { other } => (other, false),
        };
        if let Some(first) = other {
            let evidence = Evidence {
                first,
                second: signed.clone(),
            };
            out.push(Output::Equivocation(Box::new(evidence)));
        }
        if !kept {
            out.push(Output::Refused(Refusal::Surplus));
            return Some(Refusal::Surplus);
        }
        let missing = open.ballot.missing_for(&signed.message.body);
        let mut wanted = Wanted {
            blocks: missing.map(|id| (layer, id)).collect(),
            atxs: Vec::new(),
        };
        if !context.has_atx(signed.voter, signed.message.epoch) {
            wanted.atxs.push((signed.message.epoch, signed.voter));
        }
        if wanted != Wanted::default() {
            out.push(Output::Want(wanted));
        }
        self.settle(layer, out);
        None
    }

    /// A value that was one too many may have found its support later in the same batch, as the
    /// liar's commit in an otherwise honest proof does; so those are tried once more.
    fn messages(&mut self, batch: Vec<Signed>, out: &mut Vec<Output>) {
        let mut again = Vec::new();
        for signed in batch {
            if self.message(&signed, out) == Some(Refusal::Surplus) {
                out.pop();
                again.push(signed);
            }
        }
        for signed in again {
            self.message(&signed, out);
        }
    }

    fn block(&mut self, layer: Layer, id: BlockId, out: &mut Vec<Output>) {
        if self.common.decided.contains(layer) {
            return;
        }
        if layer > self.common.now.saturating_add(EARLY_LAYERS_MAX) {
            out.push(Output::Refused(Refusal::Early));
            return;
        }
        let open = self.layers.entry(layer).or_default();
        open.ballot.add_block(id, &self.common.context());
        self.settle(layer, out);
    }

    fn atx(&mut self, voter: Voter, epoch: Epoch, out: &mut Vec<Output>) {
        let oldest = self
            .first_open()
            .map_or(Epoch::MAX, |layer| self.common.epoch_from(layer));
        if !self.common.config.voters.contains(voter) || epoch < oldest {
            return;
        }
        if !self.common.atxs.entry(epoch).or_default().insert(voter) {
            return;
        }
        let layers: Vec<Layer> = self.layers.keys().copied().collect();
        for layer in layers {
            if let Some(open) = self.layers.get_mut(&layer) {
                open.ballot.add_atx(voter, epoch, &self.common.context());
                self.settle(layer, out);
            }
        }
    }

    /// Decides the layer if that is possible now, else says what there is to say.
    fn settle(&mut self, layer: Layer, out: &mut Vec<Output>) {
        let Some(open) = self.layers.get_mut(&layer) else {
            return;
        };
        let Some((set, proof)) = open.ballot.decision(layer) else {
            self.common.act(layer, open, out);
            return;
        };
        self.layers.remove(&layer);
        self.common.decided.insert(layer);
        if let Some(first) = self.first_open() {
            let oldest = self.common.epoch_from(first);
            self.common.atxs = self.common.atxs.split_off(&oldest);
        }
        out.push(Output::Decided { layer, set, proof });
    }

    fn replay<E>(&mut self, me: Voter, log: &[Record]) -> Result<(), OpenError<E>> {
        let [Record::Begin { abstain_through }, sent @ ..] = log else {
            return Err(OpenError::LogWithoutBegin);
        };
        self.started_below = abstain_through.map_or(0, |layer| layer.saturating_add(1));
        for record in sent {
            let Record::Sent { own, heard } = record else {
                return Err(OpenError::LogWithoutBegin);
            };
            if own.voter != me {
                return Err(OpenError::LogOfAnother {
                    found: own.voter.0,
                    me: me.0,
                });
            }
            let Message {
                layer,
                round,
                ref body,
                ..
            } = own.message;
            if self.common.decided.contains(layer) {
                continue;
            }
            let open = self.layers.entry(layer).or_default();
            let stand = open.stand.get_or_insert_with(|| Stand::new(0));
            stand
                .remember(round, body, &mut open.ballot, self.common.rules)
                .map_err(|_| OpenError::LogContradicts { layer, round })?;
            for signed in heard.iter().chain([own]) {
                if self.common.config.voters.contains(signed.voter) {
                    open.ballot.restore(signed, &self.common.context());
                }
            }
        }
        Ok(())
    }
}

impl Common {
    fn context(&self) -> Context<'_> {
        Context {
            quorum: self.rules.quorum(self.config.voters),
            honest_in_quorum: self.config.voters.honest_in_quorum(),
            ticks: self.ticks,
            atxs: &self.atxs,
        }
    }

    fn epoch(&self, layer: Layer) -> Epoch {
        layer / self.config.layers_per_epoch
    }

    /// The first epoch in which anything can be said about a layer.
    fn epoch_from(&self, layer: Layer) -> Epoch {
        self.epoch(layer.saturating_add(START_DELAY_LAYERS))
    }

    /// Refuses what no honest voter can have sent. An honest voter is in round r of a layer only
    /// if, since agreement began, some honest voter held the commits of round 1 for one tick, of
    /// round 2 for two, and so on: r(r − 1)/2 ticks. That bounds the rounds a liar can fill.
    fn judge(&self, signed: &Signed) -> Result<(), Refusal> {
        let Message {
            layer,
            round,
            epoch,
            ref body,
        } = signed.message;
        if !self.config.voters.contains(signed.voter) {
            return Err(Refusal::NotAVoter);
        }
        if body
            .set()
            .is_some_and(|set| set.ids().len() > self.config.blocks_max.min(SET_MAX))
        {
            return Err(Refusal::TooManyBlocks);
        }
        if epoch < self.epoch_from(layer) || round == 0 {
            return Err(Refusal::Impossible);
        }
        let latest = self.now.saturating_add(EARLY_LAYERS_MAX);
        let begins = u64::from(layer) + u64::from(START_DELAY_LAYERS);
        let ticks_needed = u64::from(round) * u64::from(round - 1) / 2;
        if begins + ticks_needed > u64::from(latest) || epoch > self.epoch(latest) {
            return Err(Refusal::Early);
        }
        Ok(())
    }

    /// Lets this voter say whatever the rules now have it say in one layer.
    fn act(&self, layer: Layer, open: &mut Open, out: &mut Vec<Output>) {
        let (Some(me), Some(stand)) = (self.config.me, &mut open.stand) else {
            return;
        };
        let epoch = self.epoch(self.now);
        let around = Surroundings {
            voters: self.config.voters,
            rules: self.rules,
            me,
            layer,
            ticks: self.ticks,
            blocks_max: self.config.blocks_max.min(SET_MAX),
            may_speak: self.context().has_atx(me, epoch),
        };
        while let Some((round, body)) = stand.next(&mut open.ballot, &around) {
            let message = Message {
                layer,
                round,
                epoch,
                body,
            };
            let heard = open.ballot.take_unlogged(layer, me);
            out.push(Output::Speak(Unsent::new(me, message, heard)));
        }
    }
}

fn ballot_holdings(ballot: &Ballot, context: &Context<'_>) -> Vec<Holding> {
    let held = ballot.holdings(context);
    held.map(|(round, step, value, voters)| Holding {
        round,
        step,
        set: value.map(|set| ballot.set(set).digest()),
        voters,
    })
    .collect()
}
