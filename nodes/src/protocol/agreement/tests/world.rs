//! A network in protocol time: links that delay and lose, splits, crashes, lost logs, late ATXs,
//! and liars that see everything. Pull repairs what gossip lost, as in the real mesh.
//!
//! Time is in thousandths of a layer. Gossip is one direct message per link and is never repeated,
//! which is harsher than the mesh. Blocks and ATXs are pulled beside messages.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use super::super::machine::{Config, Input};
use super::super::message::{BlockId, BlockSet, Body, Epoch, Layer, Message, Round, Signed};
use super::super::pull::Pull;
use super::super::rules::Rules;
use super::super::voters::{Voter, VoterSet, Voters};
use super::node::{Deed, Judge, Node};
use super::{Dice, block};

/// The parts of a layer.
pub(super) const LAYER: u64 = 1000;
/// Layers in an epoch.
pub(super) const EPOCH_LAYERS: u32 = 8;
/// Layers that a pull asks about, and things that an answer may hold.
const PULL_LAYERS: usize = 64;
const ANSWER_MAX: usize = 2048;

/// How the links are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    /// Percent of deliveries lost.
    pub(super) loss: usize,
    /// The longest delay, in thousandths of a layer.
    pub(super) delay: usize,
}

/// What the liars do.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Malice {
    /// Percent of honest messages that a liar repeats as its own to some nodes, now or late.
    pub(super) echo: usize,
    /// Percent of ticks at which a liar makes something up for each of some layers.
    pub(super) invent: usize,
    /// Percent of nodes that hear any one word of a liar.
    pub(super) heard: usize,
    /// How late a liar speaks at most, in layers.
    pub(super) late: usize,
}

/// What is under way.
#[derive(Clone, Debug)]
enum Event {
    Tick { node: usize },
    Pull { node: usize },
    Deliver { to: usize, input: Input },
    Asked { by: usize, of: usize, pull: Pull },
    Fault(Fault),
}

/// A change of the world, at a time.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// Nodes of different groups do not hear each other; an empty list joins all.
    Split(Vec<usize>),
    /// How the links are from now on.
    Weather(Weather),
    Crash(usize),
    /// Starts a crashed node; its log may be gone, and the rest of its disk too.
    Restart {
        node: usize,
        log_lost: bool,
        all_lost: bool,
    },
    /// From now on these voters get no ATXs.
    NoAtxs(BTreeSet<Voter>),
}

/// A network.
pub(super) struct World {
    pub(super) judge: Judge,
    pub(super) nodes: Vec<Node>,
    pub(super) voters: Voters,
    /// When each node decided each layer.
    pub(super) decided_at: BTreeMap<(usize, Layer), u64>,
    /// When round 1 of a layer was first voted in by each voter.
    pub(super) voted_at: BTreeMap<(Voter, Layer), u64>,
    pub(super) steps: u64,
    pub(super) malice: Malice,
    dice: Dice,
    now: u64,
    order: u64,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    liars: Vec<Voter>,
    alive: Vec<bool>,
    skew: Vec<u64>,
    groups: Vec<usize>,
    weather: Weather,
    no_atxs: BTreeSet<Voter>,
    atxs: BTreeSet<(Epoch, Voter)>,
    sets: BTreeMap<Layer, BTreeSet<BlockSet>>,
}

impl World {
    /// A calm network of `count` voters, of which `liars` lie.
    pub(super) fn new(rules: Rules, count: usize, liars: &[Voter], mut dice: Dice) -> Self {
        let voters = Voters::new(count).unwrap();
        let mut liar_set = VoterSet::default();
        for liar in liars {
            liar_set.insert(*liar);
        }
        let honest: Vec<Voter> = voters.iter().filter(|v| !liar_set.contains(*v)).collect();
        let config = |voter| Config {
            voters,
            me: Some(voter),
            layers_per_epoch: EPOCH_LAYERS,
            blocks_max: 64,
        };
        let nodes: Vec<Node> = honest
            .iter()
            .map(|voter| Node::new(rules, config(*voter), *voter, 0))
            .collect();
        let skew = nodes.iter().map(|_| dice.below(600) as u64).collect();
        let mut world = Self {
            judge: Judge::new(rules, voters, liar_set),
            voters,
            decided_at: BTreeMap::new(),
            voted_at: BTreeMap::new(),
            steps: 0,
            malice: Malice::default(),
            dice,
            now: 0,
            order: 0,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            liars: liars.to_vec(),
            alive: vec![true; nodes.len()],
            skew,
            groups: vec![0; nodes.len()],
            weather: Weather {
                loss: 0,
                delay: 200,
            },
            no_atxs: BTreeSet::new(),
            atxs: BTreeSet::new(),
            sets: BTreeMap::new(),
            nodes,
        };
        for node in 0..world.nodes.len() {
            world.after(LAYER + world.skew[node], Event::Tick { node });
        }
        world
    }

    /// Adds a follower: a node that does not vote.
    pub(super) fn add_follower(&mut self) -> usize {
        let config = Config {
            voters: self.voters,
            me: None,
            layers_per_epoch: EPOCH_LAYERS,
            blocks_max: 64,
        };
        // Its voter is nobody's; the machine never speaks for it.
        self.nodes
            .push(Node::new(Rules::REAL, config, Voter(u8::MAX), 0));
        self.alive.push(true);
        self.skew.push(100);
        self.groups.push(0);
        let node = self.nodes.len() - 1;
        self.after(LAYER + 100, Event::Tick { node });
        node
    }

    /// Lets a fault happen at the start of a layer.
    pub(super) fn at(&mut self, layer: Layer, fault: Fault) {
        let wait = (u64::from(layer) * LAYER).saturating_sub(self.now);
        self.after(wait, Event::Fault(fault));
    }

    /// Runs until the start of a layer, or until `done` says so, asked once per layer and node.
    pub(super) fn run_until(&mut self, layer: Layer, mut done: impl FnMut(&Self) -> bool) {
        while let Some(Reverse((time, _, place))) = self.queue.peek().copied() {
            if time >= u64::from(layer) * LAYER {
                break;
            }
            self.queue.pop();
            self.now = time;
            let Some(event) = self.events[place].take() else {
                continue;
            };
            self.free.push(place);
            let tick = matches!(event, Event::Tick { .. });
            self.handle(event);
            if tick && done(self) {
                break;
            }
        }
    }

    /// The layer that a perfect clock shows.
    pub(super) fn layer(&self) -> Layer {
        Layer::try_from(self.now / LAYER).unwrap()
    }

    /// Whether every living node has decided a layer.
    pub(super) fn all_decided(&self, layer: Layer) -> bool {
        (0..self.nodes.len())
            .all(|node| !self.alive[node] || self.nodes[node].decided.contains_key(&layer))
    }

    fn after(&mut self, wait: u64, event: Event) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        self.order += 1;
        self.queue
            .push(Reverse((self.now + wait, self.order, place)));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Tick { node } => self.tick(node),
            Event::Pull { node } => self.pull(node),
            Event::Deliver { to, input } => {
                if self.alive[to] {
                    self.feed(to, input);
                }
            }
            Event::Asked { by, of, pull } => self.asked(by, of, &pull),
            Event::Fault(fault) => self.fault(fault),
        }
    }

    fn tick(&mut self, node: usize) {
        self.after(LAYER, Event::Tick { node });
        let layer = Layer::try_from((self.now - self.skew[node]) / LAYER).unwrap();
        if node == 0 {
            self.publish_atxs(layer / EPOCH_LAYERS);
            self.invent(layer);
        }
        if !self.alive[node] {
            return;
        }
        // About half of the nodes make a block; layers may be empty.
        if self.nodes[node].voter.0 != u8::MAX && self.dice.percent(50) {
            let id = block(layer, self.nodes[node].voter.0);
            self.judge.made.entry(layer).or_default().insert(id);
            self.feed(node, Input::Block(layer, id));
            self.broadcast(node, &Input::Block(layer, id));
        }
        self.feed(node, Input::Tick(layer));
        let wait = self.dice.below(900) as u64;
        self.after(wait, Event::Pull { node });
    }

    /// In each epoch every voter has an ATX for the next, whether or not it is up at the moment:
    /// what missing ATXs do is tested where they are taken away.
    fn publish_atxs(&mut self, epoch: Epoch) {
        for voter in self.voters.iter() {
            if self.no_atxs.contains(&voter) || !self.atxs.insert((epoch + 1, voter)) {
                continue;
            }
            let input = Input::Atx(voter, epoch + 1);
            let from = self.nodes.iter().position(|node| node.voter == voter);
            for to in 0..self.nodes.len() {
                if from.is_none_or(|from| from == to || self.arrives(from, to)) {
                    self.send(to, input.clone(), 1);
                }
            }
        }
    }

    fn pull(&mut self, node: usize) {
        if !self.alive[node] {
            return;
        }
        // A liar may be asked too, and does not answer.
        let peer = self.dice.below(self.nodes.len() + self.liars.len());
        let pull = self.nodes[node].machine.pull(PULL_LAYERS);
        if peer < self.nodes.len() && peer != node && self.arrives(node, peer) {
            let wait = self.dice.within(1, self.weather.delay) as u64;
            self.after(
                wait,
                Event::Asked {
                    by: node,
                    of: peer,
                    pull,
                },
            );
        }
    }

    fn asked(&mut self, by: usize, of: usize, pull: &Pull) {
        if !self.alive[of] || !self.arrives(of, by) {
            return;
        }
        let wait = self.dice.within(1, self.weather.delay) as u64;
        let peer = &self.nodes[of];
        let answer = peer.machine.answer(pull, ANSWER_MAX);
        let mut inputs = Vec::new();
        for atx in peer.atxs.difference(&self.nodes[by].atxs) {
            inputs.push(Input::Atx(atx.1, atx.0));
        }
        let here = &self.nodes[by].blocks;
        for (layer, _) in &pull.layers {
            for id in peer.blocks.get(layer).into_iter().flatten() {
                if !here.get(layer).is_some_and(|ids| ids.contains(id)) {
                    inputs.push(Input::Block(*layer, *id));
                }
            }
        }
        let proofs = answer
            .decided
            .iter()
            .map(|layer| peer.decided[layer].1.clone());
        inputs.extend(proofs.map(Input::Messages));
        inputs.push(Input::Messages(answer.messages));
        for input in inputs {
            self.after(wait, Event::Deliver { to: by, input });
        }
    }

    fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Split(groups) if groups.is_empty() => self.groups.fill(0),
            Fault::Split(groups) => self.groups = groups,
            Fault::Weather(weather) => self.weather = weather,
            Fault::Crash(node) => self.alive[node] = false,
            Fault::Restart {
                node,
                log_lost,
                all_lost,
            } => {
                if self.alive[node] {
                    return;
                }
                let disk = &mut self.nodes[node];
                if log_lost {
                    disk.log.clear();
                }
                if all_lost {
                    disk.blocks.clear();
                    disk.atxs.clear();
                    disk.decided.clear();
                    self.decided_at.retain(|(of, _), _| *of != node);
                }
                self.alive[node] = true;
                let layer = self.now.saturating_sub(self.skew[node]) / LAYER;
                let deeds = self.nodes[node].restart(Layer::try_from(layer).unwrap());
                self.note(node, deeds);
            }
            Fault::NoAtxs(voters) => self.no_atxs = voters,
        }
    }

    fn feed(&mut self, node: usize, input: Input) {
        self.steps += 1;
        let deeds = self.nodes[node].feed(input);
        self.note(node, deeds);
    }

    fn note(&mut self, node: usize, deeds: Vec<Deed>) {
        for deed in deeds {
            self.judge.see(&self.nodes[node], &deed);
            match deed {
                Deed::Said(signed) => {
                    let Message {
                        layer, ref body, ..
                    } = signed.message;
                    self.voted_at
                        .entry((signed.voter, layer))
                        .or_insert(self.now);
                    if let Some(set) = body.set() {
                        self.sets.entry(layer).or_default().insert(set.clone());
                    }
                    self.broadcast(node, &Input::Message(signed.clone()));
                    self.echo(&signed);
                }
                Deed::Decided(layer) => {
                    self.decided_at.insert((node, layer), self.now);
                }
                Deed::Accused(_) => {}
            }
        }
    }

    fn broadcast(&mut self, from: usize, input: &Input) {
        for to in 0..self.nodes.len() {
            if to != from && self.arrives(from, to) {
                let wait = self.dice.within(1, self.weather.delay);
                self.send(to, input.clone(), wait);
            }
        }
    }

    fn arrives(&mut self, from: usize, to: usize) -> bool {
        self.groups[from] == self.groups[to] && !self.dice.percent(self.weather.loss)
    }

    fn send(&mut self, to: usize, input: Input, wait: usize) {
        self.after(wait as u64, Event::Deliver { to, input });
    }

    /// A liar says what an honest voter said, to some and maybe late.
    fn echo(&mut self, signed: &Signed) {
        for liar in self.liars.clone() {
            if self.dice.percent(self.malice.echo) {
                self.lie(
                    liar,
                    signed.message.layer,
                    signed.message.round,
                    &signed.message.body,
                );
            }
        }
    }

    /// A liar makes things up about a few layers, recent and old.
    fn invent(&mut self, now: Layer) {
        for liar in self.liars.clone() {
            if !self.dice.percent(self.malice.invent) {
                continue;
            }
            for _ in 0..3 {
                let back = if self.dice.percent(70) { 5 } else { 40 };
                let layer = now.saturating_sub(Layer::try_from(self.dice.below(back)).unwrap());
                let round = Round::try_from(self.dice.within(1, 4)).unwrap();
                let known: Vec<BlockSet> = self
                    .sets
                    .get(&layer)
                    .into_iter()
                    .flatten()
                    .cloned()
                    .collect();
                let set = match self.dice.below(4) {
                    0 => Some(BlockSet::new([block(layer, 200 + liar.0)])),
                    1 => {
                        let made: Vec<BlockId> = self
                            .judge
                            .made
                            .get(&layer)
                            .into_iter()
                            .flatten()
                            .copied()
                            .collect();
                        Some(BlockSet::new(self.dice.some_of(&made, 50)))
                    }
                    _ => self.dice.pick(&known).cloned(),
                };
                let body = match set {
                    Some(set) if self.dice.percent(60) => Body::Vote(set),
                    set => Body::Commit(set),
                };
                self.lie(liar, layer, round, &body);
            }
        }
    }

    fn lie(&mut self, liar: Voter, layer: Layer, round: Round, body: &Body) {
        let late = self.dice.below(self.malice.late + 1) * self.dice.below(1000) + 1;
        let layer_sent = (self.now + late as u64) / LAYER;
        let earliest = (layer + 2) / EPOCH_LAYERS;
        let mut epoch = Epoch::try_from(layer_sent)
            .unwrap()
            .checked_div(EPOCH_LAYERS)
            .unwrap_or(0);
        if self.dice.percent(10) {
            epoch = epoch.saturating_sub(1);
        }
        let message = Message {
            layer,
            round,
            epoch: epoch.max(earliest),
            body: body.clone(),
        };
        let signed = Signed {
            voter: liar,
            message,
            signature: [liar.0; 64],
        };
        for to in 0..self.nodes.len() {
            if self.dice.percent(self.malice.heard) {
                self.send(to, Input::Message(signed.clone()), late);
            }
        }
    }
}
