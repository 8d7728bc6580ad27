//! One layer under a scheduler that may do anything: deliver or hold back any message, tick any
//! node, restart it with or without its log, and speak for up to f liars with full knowledge.
//!
//! There is no time here and so no liveness; `campaign.rs` asks for that. The same schedules must
//! leave the real rules alone and convict every mutant of them.

use std::collections::{BTreeMap, BTreeSet};

use super::super::machine::{Config, Input};
use super::super::message::{BlockId, BlockSet, Body, Layer, Message, Round, Signed, Step};
use super::super::rules::Rules;
use super::super::voters::{Voter, VoterSet, Voters};
use super::node::{Deed, Judge, Node, Violation};
use super::{Dice, block, schedules};

/// The layer at which nodes are when a schedule begins: late enough for ten rounds to be possible.
const NOW: Layer = 50;
/// Ticks a schedule can use, at most one per step.
const LAYERS_MAX: Layer = 600;

/// How likely the scheduler does what, drawn per schedule so that each is lopsided in its own way.
#[derive(Clone, Debug)]
struct Habits {
    steps: usize,
    deliver: usize,
    tick_one: usize,
    tick_all: usize,
    vote: usize,
    commit: usize,
    restart: usize,
    /// Percent of links that are down, drawn anew now and then.
    cut: usize,
    /// Percent of the liars' words that repeat what an honest voter says in that round.
    echo: usize,
}

impl Habits {
    fn draw(dice: &mut Dice, voters: usize) -> Self {
        // The messages to deliver grow with the square of the voters.
        Self {
            steps: dice.within(80, 260) * voters * voters / 16,
            deliver: dice.within(20, 60),
            tick_one: dice.within(2, 14),
            tick_all: dice.within(0, 6),
            vote: dice.within(1, 14),
            commit: dice.within(1, 10),
            restart: *dice.pick(&[0, 3, 8]).unwrap(),
            cut: *dice.pick(&[0, 20, 50, 70]).unwrap(),
            echo: dice.within(40, 100),
        }
    }
}

/// A network in one layer.
struct Scene {
    dice: Dice,
    layer: Layer,
    liars: Vec<Voter>,
    nodes: Vec<Node>,
    now: Vec<Layer>,
    /// Voters whose log was lost; they stay out of this layer.
    lost: usize,
    lost_max: usize,
    /// What honest voters sent, and which nodes (by place in `nodes`) have heard it.
    sent: Vec<(Signed, BTreeSet<usize>)>,
    cut: BTreeSet<(usize, usize)>,
    sets: Vec<BlockSet>,
    judge: Judge,
}

impl Scene {
    fn new(rules: Rules, count: usize, seed: u64) -> Self {
        let mut dice = Dice::new("explore", seed);
        let voters = Voters::new(count).unwrap();
        let faulty = usize::try_from(voters.faulty_max()).unwrap();
        let liars_count = if dice.percent(80) {
            faulty
        } else {
            dice.within(0, faulty)
        };
        let layer = u32::try_from(dice.below(count)).unwrap();
        let mut all: Vec<Voter> = voters.iter().collect();
        let mut liars = Vec::new();
        let mut liar_set = VoterSet::default();
        for _ in 0..liars_count {
            let liar = all.remove(dice.below(all.len()));
            liar_set.insert(liar);
            liars.push(liar);
        }
        let blocks: Vec<BlockId> = (0..dice.within(1, 2))
            .map(|at| block(layer, u8::try_from(at).unwrap()))
            .collect();
        let mut judge = Judge::new(rules, voters, liar_set);
        judge.made.insert(layer, blocks.iter().copied().collect());
        let mut scene = Self {
            dice,
            layer,
            liars,
            nodes: Vec::new(),
            now: vec![NOW; all.len()],
            lost: 0,
            lost_max: faulty - liars_count,
            sent: Vec::new(),
            cut: BTreeSet::new(),
            sets: Vec::new(),
            judge,
        };
        for voter in all {
            let me = Some(voter);
            let config = Config {
                voters,
                me,
                layers_per_epoch: 1000,
                blocks_max: 16,
            };
            let mut node = Node::new(rules, config, voter, NOW);
            node.confine(layer, LAYERS_MAX);
            scene.nodes.push(node);
            let at = scene.nodes.len() - 1;
            scene.restart(at);
            let known = scene.dice.some_of(&blocks, 60);
            for id in &known {
                scene.feed(at, Input::Block(layer, *id));
            }
            scene.tick(at);
            // Arrival is tested by the campaign; here everything counts once it is delivered.
            for id in &blocks {
                scene.feed(at, Input::Block(layer, *id));
            }
        }
        for bits in 0..1_usize << blocks.len() {
            let some = blocks
                .iter()
                .enumerate()
                .filter(|(at, _)| bits >> at & 1 == 1);
            scene.sets.push(BlockSet::new(some.map(|(_, id)| *id)));
        }
        scene
    }

    fn run(mut self) -> (BTreeSet<Violation>, bool) {
        let habits = Habits::draw(&mut self.dice, self.nodes.len() + self.liars.len());
        for step in 0..habits.steps {
            if step % 25 == 0 {
                self.redraw_links(habits.cut);
            }
            self.act(&habits);
        }
        let any_decided = self.judge.decided(self.layer).is_some();
        (self.judge.violations, any_decided)
    }

    fn redraw_links(&mut self, cut: usize) {
        let count = self.nodes.len();
        let pairs: Vec<_> = (0..count)
            .flat_map(|a| (0..count).map(move |b| (a, b)))
            .collect();
        self.cut = self.dice.some_of(&pairs, cut);
    }

    fn act(&mut self, habits: &Habits) {
        let at = self.dice.below(self.nodes.len());
        let Habits {
            deliver,
            tick_one,
            tick_all,
            vote,
            commit,
            restart,
            ..
        } = *habits;
        let mut draw = self
            .dice
            .below(deliver + tick_one + tick_all + vote + commit + restart);
        let mut chosen = |weight: usize| {
            let hit = draw < weight;
            draw = draw.wrapping_sub(if hit { 0 } else { weight });
            hit
        };
        if chosen(deliver) {
            self.deliver(at);
        } else if chosen(tick_one) {
            self.tick(at);
        } else if chosen(tick_all) {
            (0..self.nodes.len()).for_each(|at| self.tick(at));
        } else if chosen(vote) {
            self.lie(at, Step::Vote, habits.echo);
        } else if chosen(commit) {
            self.lie(at, Step::Commit, habits.echo);
        } else if self.lost < self.lost_max && self.dice.percent(20) {
            self.lost += 1;
            self.nodes[at].log.clear();
            self.restart(at);
        } else {
            self.restart(at);
        }
    }

    /// Hands a node one message that it has not heard, if its link to the sender is up.
    fn deliver(&mut self, at: usize) {
        let place = |voter| self.nodes.iter().position(|node| node.voter == voter);
        let open: Vec<usize> = (0..self.sent.len())
            .filter(|which| {
                let (signed, heard) = &self.sent[*which];
                let from = place(signed.voter).unwrap_or(at);
                !heard.contains(&at) && !self.cut.contains(&(from, at))
            })
            .collect();
        if let Some(which) = self.dice.pick(&open).copied() {
            self.sent[which].1.insert(at);
            let signed = self.sent[which].0.clone();
            self.feed(at, Input::Message(signed));
        }
    }

    fn tick(&mut self, at: usize) {
        if self.now[at] + 2 < LAYERS_MAX {
            self.now[at] += 1;
            self.feed(at, Input::Tick(self.now[at]));
        }
    }

    /// What was heard is forgotten and may be delivered again; the log is not.
    fn restart(&mut self, at: usize) {
        for (signed, heard) in &mut self.sent {
            if signed.voter != self.nodes[at].voter {
                heard.remove(&at);
            }
        }
        let deeds = self.nodes[at].restart(self.now[at]);
        self.note(at, deeds);
    }

    /// Lets a liar say something to one node, often just what completes a quorum there.
    fn lie(&mut self, at: usize, step: Step, echo: usize) {
        let Some(voter) = self.dice.pick(&self.liars).copied() else {
            return;
        };
        let rounds = self.nodes[at]
            .machine
            .open_layers()
            .find_map(|(_, round)| round);
        let round = match self.dice.below(6) {
            0 => Round::try_from(self.dice.within(1, 4)).unwrap(),
            _ => rounds.unwrap_or(1),
        };
        let heard: Vec<Body> = self
            .sent
            .iter()
            .map(|(signed, _)| &signed.message)
            .filter(|message| message.round == round)
            .map(|message| message.body.clone())
            .collect();
        let set = if self.dice.percent(echo) {
            self.dice.pick(&heard).and_then(Body::set).cloned()
        } else if self.dice.percent(5) {
            Some(BlockSet::new([block(self.layer, 99)]))
        } else {
            self.dice.pick(&self.sets).cloned()
        };
        let body = match (step, set) {
            (Step::Vote, Some(set)) => Body::Vote(set),
            (Step::Vote, None) => return,
            (Step::Commit, set) => Body::Commit(set),
        };
        let message = Message {
            layer: self.layer,
            round,
            epoch: 0,
            body,
        };
        self.feed(
            at,
            Input::Message(Signed {
                voter,
                message,
                signature: [9; 64],
            }),
        );
    }

    fn feed(&mut self, at: usize, input: Input) {
        let deeds = self.nodes[at].feed(input);
        self.note(at, deeds);
    }

    fn note(&mut self, at: usize, deeds: Vec<Deed>) {
        for deed in deeds {
            self.judge.see(&self.nodes[at], &deed);
            if let Deed::Said(signed) = deed
                && !self.sent.iter().any(|(other, _)| *other == signed)
            {
                self.sent.push((signed, BTreeSet::from([at])));
            }
        }
    }
}

/// The broken rules, each of which some schedule must convict.
pub(super) const MUTANTS: [(&str, Rules); 4] = [
    (
        "quorum q - 1",
        Rules {
            quorum_short_by: 1,
            ..Rules::REAL
        },
    ),
    (
        "no lock",
        Rules {
            lock: false,
            ..Rules::REAL
        },
    ),
    (
        "a second commit after none",
        Rules {
            none_is_final: false,
            ..Rules::REAL
        },
    ),
    (
        "a lock lost on restart",
        Rules {
            lock_survives_restart: false,
            ..Rules::REAL
        },
    ),
];

/// Schedules of four voters: those that leave the real rules alone are those that convict the
/// mutants.
const SCHEDULES_OF_FOUR: u64 = 8000;

#[test]
fn no_schedule_breaks_the_rules() {
    for (count, usual) in [
        (1, 50),
        (4, SCHEDULES_OF_FOUR),
        (7, 500),
        (10, 120),
        (12, 60),
    ] {
        let mut decided = 0;
        for seed in 0..schedules(usual) {
            let (violations, any) = Scene::new(Rules::REAL, count, seed).run();
            assert!(
                violations.is_empty(),
                "N = {count}, seed {seed}: {violations:?}"
            );
            decided += u64::from(any);
        }
        // A search in which nothing is ever decided would find no split either.
        let share = decided * 100 / schedules(usual);
        assert!(
            share >= 20,
            "N = {count}: only {share} % of the schedules decided anything"
        );
        println!(
            "N = {count}: {} schedules, {share} % decided, 0 violations",
            schedules(usual)
        );
    }
}

#[test]
fn every_mutant_is_convicted_of_a_split() {
    for (name, rules) in MUTANTS {
        let mut first: BTreeMap<&str, u64> = BTreeMap::new();
        for seed in 0..SCHEDULES_OF_FOUR {
            let (violations, _) = Scene::new(rules, 4, seed).run();
            for violation in &violations {
                let kind = match violation {
                    Violation::Split(_) => "split",
                    Violation::TwoTongues(..) => "two tongues",
                    _ => "other",
                };
                first.entry(kind).or_insert(seed + 1);
            }
            if first.contains_key("split") {
                break;
            }
        }
        println!("{name}: schedules needed {first:?}");
        assert!(
            first.contains_key("split"),
            "{name}: no split in {SCHEDULES_OF_FOUR} schedules"
        );
    }
}
