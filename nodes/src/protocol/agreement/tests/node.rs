//! A node around a machine, with a disk that survives restarts; and the judge of what nodes do.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use super::super::layers::LayerSet;
use super::super::machine::{Agreement, Config, Evidence, Input, Output, Past};
use super::super::message::{BlockId, BlockSet, Body, Epoch, Layer, Round, Signed, Step};
use super::super::outgoing::Record;
use super::super::rules::Rules;
use super::super::voters::{Voter, VoterSet, Voters};

/// One node: what a restart keeps, and the machine, which it does not.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) voter: Voter,
    pub(super) machine: Agreement,
    pub(super) log: Vec<Record>,
    pub(super) blocks: BTreeMap<Layer, BTreeSet<BlockId>>,
    pub(super) atxs: BTreeSet<(Epoch, Voter)>,
    pub(super) decided: BTreeMap<Layer, (BlockSet, Vec<Signed>)>,
    /// Layers that are of no interest and count as decided from the start.
    settled: LayerSet,
    config: Config,
    rules: Rules,
}

/// What a node did that others may see.
#[derive(Clone, Debug)]
pub(super) enum Deed {
    Said(Signed),
    Decided(Layer),
    Accused(Box<Evidence>),
}

impl Node {
    /// A voter whose first start was at genesis.
    pub(super) fn new(rules: Rules, config: Config, voter: Voter, now: Layer) -> Self {
        let log = vec![Record::Begin {
            abstain_through: None,
        }];
        let past = Past {
            now,
            log: log.clone(),
            ..Past::default()
        };
        let machine = Self::open(rules, &config, past, &mut Vec::new());
        Self {
            voter,
            machine,
            log,
            blocks: BTreeMap::new(),
            atxs: BTreeSet::new(),
            decided: BTreeMap::new(),
            settled: LayerSet::default(),
            config,
            rules,
        }
    }

    /// Starts again from what the disk holds, and gives out what the log says was sent.
    pub(super) fn restart(&mut self, now: Layer) -> Vec<Deed> {
        let mut decided = self.settled.clone();
        for layer in self.decided.keys() {
            decided.insert(*layer);
        }
        let past = Past {
            now,
            log: self.log.clone(),
            decided,
        };
        self.machine = Self::open(self.rules, &self.config, past, &mut self.log);
        let again: Vec<Deed> = self.machine.own_messages().map(Deed::Said).collect();
        let blocks = self.blocks.clone();
        let atxs = self
            .atxs
            .iter()
            .map(|(epoch, voter)| Input::Atx(*voter, *epoch));
        let blocks = blocks
            .into_iter()
            .flat_map(|(layer, ids)| ids.into_iter().map(move |id| Input::Block(layer, id)));
        let inputs: Vec<Input> = atxs.chain(blocks).collect();
        inputs.into_iter().fold(again, |mut deeds, input| {
            deeds.extend(self.feed(input));
            deeds
        })
    }

    /// Makes every layer below `below` settled, except one.
    pub(super) fn confine(&mut self, only: Layer, below: Layer) {
        self.settled = (0..below).filter(|layer| *layer != only).collect();
    }

    /// Gives the machine an input, saves what it wants to say, and gives it back to it.
    pub(super) fn feed(&mut self, input: Input) -> Vec<Deed> {
        match &input {
            Input::Block(layer, id) => {
                self.blocks.entry(*layer).or_default().insert(*id);
            }
            Input::Atx(voter, epoch) => {
                self.atxs.insert((*epoch, *voter));
            }
            _ => {}
        }
        let mut deeds = Vec::new();
        let mut outputs: std::collections::VecDeque<Output> = self.machine.step(input).into();
        while let Some(output) = outputs.pop_front() {
            match output {
                Output::Speak(unsent) => {
                    let voter = self.voter;
                    let append = |record: &Record| {
                        self.log.push(record.clone());
                        Ok::<_, Infallible>(())
                    };
                    let signed = unsent.save(|_| [voter.0; 64], append).unwrap();
                    outputs.extend(self.machine.step(Input::Message(signed.clone())));
                    deeds.push(Deed::Said(signed));
                }
                Output::Decided { layer, set, proof } => {
                    self.decided.insert(layer, (set, proof));
                    deeds.push(Deed::Decided(layer));
                }
                Output::Equivocation(evidence) => deeds.push(Deed::Accused(evidence)),
                Output::Want(_) | Output::Refused(_) => {}
            }
        }
        deeds
    }

    fn open(rules: Rules, config: &Config, past: Past, log: &mut Vec<Record>) -> Agreement {
        let append = |record: &Record| {
            log.push(record.clone());
            Ok::<_, Infallible>(())
        };
        Agreement::open_with(rules, config.clone(), past, append).unwrap()
    }
}

/// Something that must never happen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Violation {
    /// Two sets decided for one layer.
    Split(Layer),
    /// An honest voter said two things about one question.
    TwoTongues(Voter, Layer, Round, Step),
    /// A block that nobody made was decided.
    Invented(Layer),
    /// The proof of a decision does not prove it.
    Unproven(Layer),
    /// Evidence that proves nothing, or against an honest voter.
    FalseCharge(Voter),
}

/// Watches all honest nodes.
#[derive(Clone, Debug)]
pub(super) struct Judge {
    voters: Voters,
    quorum: u32,
    liars: VoterSet,
    said: BTreeMap<(Voter, Layer, Round, Step), Body>,
    decided: BTreeMap<Layer, BlockSet>,
    pub(super) made: BTreeMap<Layer, BTreeSet<BlockId>>,
    pub(super) violations: BTreeSet<Violation>,
}

impl Judge {
    pub(super) fn new(rules: Rules, voters: Voters, liars: VoterSet) -> Self {
        Self {
            voters,
            quorum: rules.quorum(voters),
            liars,
            said: BTreeMap::new(),
            decided: BTreeMap::new(),
            made: BTreeMap::new(),
            violations: BTreeSet::new(),
        }
    }

    /// Judges what an honest node did.
    pub(super) fn see(&mut self, node: &Node, deed: &Deed) {
        match deed {
            Deed::Said(Signed { voter, message, .. }) => {
                let key = (*voter, message.layer, message.round, message.body.step());
                if *self.said.entry(key).or_insert_with(|| message.body.clone()) != message.body {
                    self.violations
                        .insert(Violation::TwoTongues(key.0, key.1, key.2, key.3));
                }
            }
            Deed::Decided(layer) => {
                let (set, proof) = &node.decided[layer];
                self.see_decision(*layer, set, proof);
            }
            Deed::Accused(evidence) => {
                let Evidence { first, second } = &**evidence;
                let question = |s: &Signed| {
                    (
                        s.voter,
                        s.message.layer,
                        s.message.round,
                        s.message.body.step(),
                    )
                };
                let sound = question(first) == question(second) && first.message != second.message;
                if !sound || !self.liars.contains(first.voter) {
                    self.violations.insert(Violation::FalseCharge(first.voter));
                }
            }
        }
    }

    pub(super) fn decided(&self, layer: Layer) -> Option<&BlockSet> {
        self.decided.get(&layer)
    }

    fn see_decision(&mut self, layer: Layer, set: &BlockSet, proof: &[Signed]) {
        if self.decided.entry(layer).or_insert_with(|| set.clone()) != set {
            self.violations.insert(Violation::Split(layer));
        }
        let made = self.made.get(&layer);
        if !set
            .ids()
            .iter()
            .all(|id| made.is_some_and(|made| made.contains(id)))
        {
            self.violations.insert(Violation::Invented(layer));
        }
        let mut signers = VoterSet::default();
        let commits = proof.iter().all(|signed| {
            signers.insert(signed.voter);
            signed.message.layer == layer
                && signed.message.round == proof[0].message.round
                && signed.message.body == Body::Commit(Some(set.clone()))
                && self.voters.contains(signed.voter)
        });
        if !commits || signers.len() < self.quorum {
            self.violations.insert(Violation::Unproven(layer));
        }
    }
}
