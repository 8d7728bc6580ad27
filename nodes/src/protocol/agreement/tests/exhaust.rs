//! All that four voters, one of them an omnipotent liar, can do in the first rounds of one layer.
//!
//! The scheduler decides what each honest voter hears and when; the liar has said everything to
//! whoever it helps. The walk is over states of the real machine, whose moves are the outcomes that
//! a scheduler can aim for: to vote for the leader's set or after the time-out, to commit a set or
//! none, to leave the round, to learn of a certificate, to restart. A state is what each voter has
//! said, its round, and the certificates it knows, so each is visited once. Messages that were
//! heard without such an effect are not told apart, and a voter that left the last round acts no
//! more: that is what "near" means in near-exhaustive.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::super::machine::{Config, Input};
use super::super::message::{BlockSet, Body, Layer, Message, Round, Signed, Step};
use super::super::outgoing::Record;
use super::super::rules::Rules;
use super::super::voters::{Voter, Voters};
use super::block;
use super::explore::MUTANTS;
use super::node::{Deed, Node};

const HONEST: usize = 3;
const LIAR: Voter = Voter(3);
const NOW: Layer = 50;
const LAYERS_MAX: Layer = 400;
/// Rounds in which voters act.
const ROUNDS: Round = 2;

/// A message by its place in [`Walk::words`].
type Word = usize;

/// What tells two states of one voter apart: all that its later acts depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Mark {
    said: Vec<Word>,
    round: Option<Round>,
    /// The certificates that it has seen.
    certificates: BTreeSet<(Round, BlockSet)>,
    /// Whether it has heard votes of round 1 from a quorum.
    may_choose: bool,
    /// How much it had said when it lost its lock, under the rules that lose it in a restart.
    unlocked: Option<usize>,
}

/// One voter in one state.
#[derive(Clone, Debug)]
struct Point {
    node: Node,
    now: Layer,
    said: Vec<Word>,
    heard: BTreeSet<Word>,
    unlocked: Option<usize>,
}

/// What matters of a point to the others and to the question.
#[derive(Clone, Debug)]
struct Brief {
    round: Option<Round>,
    speech: usize,
    /// The sets committed to, by round.
    commits: Vec<(Round, usize)>,
    /// The rounds in which it may yet commit, as bits.
    free: u32,
}

/// What a scheduler does to one voter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Move {
    /// Hears these, then waits as many ticks as its round's number if told so.
    Hear {
        words: BTreeSet<Word>,
        ticks: u32,
    },
    Restart,
}

struct Walk {
    rules: Rules,
    layer: Layer,
    /// Whether the scheduler may restart voters.
    restarts: bool,
    voters: Voters,
    quorum: usize,
    words: Vec<Signed>,
    places: HashMap<(Voter, Round, Body), Word>,
    points: Vec<Point>,
    /// What the walk needs of each point, made once.
    briefs: Vec<Brief>,
    /// Everything that some voter can have said, in order.
    speeches: HashMap<Vec<Word>, usize>,
    /// Where the moves of a point lead, by what the two others have said.
    next: HashMap<(usize, [usize; 2]), Vec<usize>>,
    marks: HashMap<(usize, Mark), usize>,
    moves: HashMap<(usize, Move), usize>,
    values: Vec<BlockSet>,
}

/// How a walk ended.
#[derive(Debug)]
struct Found {
    states: usize,
    split: bool,
    complete: bool,
}

impl Walk {
    /// Walks every state until a split is possible or `states_max` are seen.
    fn run(rules: Rules, layer: Layer, restarts: bool, states_max: usize) -> Found {
        let set = |producers: &[u8]| BlockSet::new(producers.iter().map(|p| block(layer, *p)));
        let voters = Voters::new(4).unwrap();
        let mut walk = Self {
            rules,
            layer,
            restarts,
            voters,
            quorum: usize::try_from(rules.quorum(voters)).unwrap(),
            words: Vec::new(),
            places: HashMap::new(),
            points: Vec::new(),
            briefs: Vec::new(),
            speeches: HashMap::new(),
            next: HashMap::new(),
            marks: HashMap::new(),
            moves: HashMap::new(),
            values: vec![set(&[1]), set(&[2]), set(&[1, 2])],
        };
        // Two voters hold block 1 and one holds block 2 when they vote; only so can both a
        // certificate and its absence be shown in round 1. All hold both blocks after that.
        let start = [walk.begin(0, 1), walk.begin(1, 1), walk.begin(2, 2)];
        let mut seen = HashSet::from([pack(start)]);
        let mut open = vec![start];
        while let Some(state) = open.pop() {
            if walk.can_split(&state) {
                return Found {
                    states: seen.len(),
                    split: true,
                    complete: false,
                };
            }
            if seen.len() >= states_max {
                return Found {
                    states: seen.len(),
                    split: false,
                    complete: false,
                };
            }
            for voter in 0..HONEST {
                for point in walk.next_of(&state, voter) {
                    let mut next = state;
                    next[voter] = point;
                    if walk.may_still_split(&next) && seen.insert(pack(next)) {
                        open.push(next);
                    }
                }
            }
        }
        Found {
            states: seen.len(),
            split: false,
            complete: true,
        }
    }

    /// A voter that has voted in round 1 for one block.
    fn begin(&mut self, voter: usize, producer: u8) -> usize {
        let me = Voter(u8::try_from(voter).unwrap());
        let config = Config {
            voters: self.voters,
            me: Some(me),
            layers_per_epoch: 1000,
            blocks_max: 8,
        };
        let mut node = Node::new(self.rules, config, me, NOW);
        node.confine(self.layer, LAYERS_MAX);
        node.restart(NOW);
        node.feed(Input::Block(self.layer, block(self.layer, producer)));
        let deeds = node.feed(Input::Tick(NOW + 1));
        let said = self.said(deeds);
        for producer in [1, 2] {
            node.feed(Input::Block(self.layer, block(self.layer, producer)));
        }
        self.keep(
            voter,
            Point {
                node,
                now: NOW + 1,
                said,
                heard: BTreeSet::new(),
                unlocked: None,
            },
        )
    }

    /// Whether the commits sent, with the liar's, would decide two sets.
    fn can_split(&self, state: &[usize; HONEST]) -> bool {
        let commits = || {
            state
                .iter()
                .flat_map(|point| self.briefs[*point].commits.iter())
        };
        let decides = |one: &(Round, usize)| {
            commits().filter(|other| *other == one).count() + 1 >= self.quorum
        };
        let mut decided = commits().filter(|one| decides(one)).map(|(_, set)| set);
        let first = decided.next();
        decided.any(|set| Some(set) != first)
    }

    /// Whether a split is still within reach: in each round two honest voters have committed to
    /// one set or may yet do so. (Two sets in one round would need a voter that commits twice, and
    /// no honest voter does; where that is broken, nothing is cut off.)
    fn may_still_split(&self, state: &[usize; HONEST]) -> bool {
        let briefs = || state.iter().map(|point| &self.briefs[*point]);
        let commits = |one: (Round, usize)| {
            briefs()
                .filter(|brief| brief.commits.contains(&one))
                .count()
        };
        !self.rules.none_is_final
            || (1..=ROUNDS).all(|round| {
                let free = briefs()
                    .filter(|brief| brief.free >> round & 1 == 1)
                    .count();
                let most = (0..self.values.len())
                    .map(|set| commits((round, set)))
                    .max();
                free + most.unwrap_or(0) + 1 >= self.quorum
            })
    }

    /// Where one voter can be led.
    fn next_of(&mut self, state: &[usize; HONEST], voter: usize) -> Vec<usize> {
        let speech = |other: usize| self.briefs[state[other % HONEST]].speech;
        let key = (state[voter], [speech(voter + 1), speech(voter + 2)]);
        if let Some(points) = self.next.get(&key) {
            return points.clone();
        }
        let moves = self.moves_of(state, voter);
        let points: BTreeSet<usize> = moves
            .into_iter()
            .map(|each| self.apply(state[voter], voter, each))
            .collect();
        let points: Vec<usize> = points.into_iter().collect();
        self.next.insert(key, points.clone());
        points
    }

    /// Everything worth doing to one voter.
    fn moves_of(&mut self, state: &[usize; HONEST], voter: usize) -> Vec<Move> {
        let here = self.briefs[state[voter]].round;
        let Some(round) = here.filter(|round| *round <= ROUNDS) else {
            return Vec::new();
        };
        let others: Vec<Word> = (0..HONEST)
            .filter(|other| *other != voter)
            .flat_map(|other| self.points[state[other]].said.clone())
            .collect();
        let sent = |walk: &Self, round: Round, step: Step, set: Option<&BlockSet>| {
            let here = others.iter().copied().filter(|word| {
                let Message {
                    round: at, body, ..
                } = &walk.words[*word].message;
                *at == round && body.step() == step && set.is_none_or(|set| body.set() == Some(set))
            });
            here.collect::<BTreeSet<Word>>()
        };
        let mut moves = vec![Move::Hear {
            words: BTreeSet::new(),
            ticks: round,
        }];
        let mut hear = |words: BTreeSet<Word>, ticks| moves.push(Move::Hear { words, ticks });
        for value in self.values.clone() {
            // Round by round, the certificate for a set as far as votes and the liar allow.
            for at in 1..=ROUNDS {
                let mut words = sent(self, at, Step::Vote, Some(&value));
                words.insert(self.lie(at, Body::Vote(value.clone())));
                hear(words, 0);
            }
            // The leader's word alone.
            let leader = self.voters.leader(self.layer, round);
            if leader == LIAR {
                hear(
                    BTreeSet::from([self.lie(round, Body::Vote(value.clone()))]),
                    0,
                );
            }
        }
        for word in sent(self, round, Step::Vote, None) {
            hear(BTreeSet::from([word]), 0);
        }
        // Votes that make no certificate, and commits that end a round, each from any quorum. The
        // liar votes for nothing at all, which no honest voter does here.
        for at in 1..=ROUNDS {
            for (step, body) in [
                (Step::Vote, Body::Vote(BlockSet::new([]))),
                (Step::Commit, Body::Commit(None)),
            ] {
                let lie = self.lie(at, body);
                let all = sent(self, at, step, None);
                let mut quorums: Vec<BTreeSet<Word>> = all
                    .iter()
                    .map(|word| BTreeSet::from([*word, lie]))
                    .collect();
                quorums.push(all.into_iter().chain([lie]).collect());
                for words in quorums {
                    hear(words, at.max(round));
                }
            }
        }
        if self.restarts {
            moves.push(Move::Restart);
        }
        moves
    }

    fn apply(&mut self, from: usize, voter: usize, each: Move) -> usize {
        if let Some(to) = self.moves.get(&(from, each.clone())) {
            return *to;
        }
        let mut point = self.points[from].clone();
        match &each {
            Move::Restart => {
                // What is not in the log is forgotten, and may be said again.
                point.node.restart(point.now);
                point.heard = self.heard_in_log(&point.node);
                point.unlocked = (!self.rules.lock_survives_restart).then_some(point.said.len());
            }
            Move::Hear { words, ticks } => {
                for word in words {
                    if point.heard.insert(*word) {
                        let heard = Input::Message(self.words[*word].clone());
                        let deeds = point.node.feed(heard);
                        point.said.extend(self.said(deeds));
                    }
                }
                self.wait(&mut point, *ticks);
            }
        }
        let to = self.keep(voter, point);
        self.moves.insert((from, each), to);
        to
    }

    fn heard_in_log(&mut self, node: &Node) -> BTreeSet<Word> {
        let heard = node.log.iter().flat_map(|record| match record {
            Record::Sent { heard, .. } => heard.as_slice(),
            Record::Begin { .. } => &[],
        });
        heard.map(|signed| self.word(signed.clone())).collect()
    }

    /// Lets time pass, but no further than into the next round.
    fn wait(&mut self, point: &mut Point, ticks: u32) {
        let before = self.round(&point.node);
        for _ in 0..ticks {
            if self.round(&point.node) != before || point.now + 1 >= LAYERS_MAX {
                break;
            }
            point.now += 1;
            let deeds = point.node.feed(Input::Tick(point.now));
            point.said.extend(self.said(deeds));
        }
    }

    fn round(&self, node: &Node) -> Option<Round> {
        let open = node
            .machine
            .open_layers()
            .find(|(layer, _)| *layer == self.layer);
        open.and_then(|(_, round)| round)
    }

    fn keep(&mut self, voter: usize, point: Point) -> usize {
        let mark = self.mark(&point);
        if let Some(place) = self.marks.get(&(voter, mark.clone())) {
            return *place;
        }
        let speeches = self.speeches.len();
        let speech = *self.speeches.entry(point.said.clone()).or_insert(speeches);
        self.briefs.push(self.brief(&point, mark.round, speech));
        self.points.push(point);
        self.marks.insert((voter, mark), self.points.len() - 1);
        self.points.len() - 1
    }

    fn brief(&self, point: &Point, round: Option<Round>, speech: usize) -> Brief {
        let mut free = (1..=ROUNDS)
            .filter(|at| round.is_some_and(|round| round <= *at))
            .fold(0, |bits, at| bits | 1 << at);
        let mut commits = Vec::new();
        for word in &point.said {
            let Message { round, body, .. } = &self.words[*word].message;
            if let Body::Commit(set) = body {
                free &= !(1 << round);
                let known = set
                    .as_ref()
                    .and_then(|set| self.values.iter().position(|v| v == set));
                commits.extend(known.map(|set| (*round, set)));
            }
        }
        Brief {
            round,
            speech,
            commits,
            free,
        }
    }

    fn mark(&self, point: &Point) -> Mark {
        let mut votes: BTreeMap<(Round, &BlockSet), BTreeSet<Voter>> = BTreeMap::new();
        let mut first = BTreeSet::new();
        for word in point.heard.iter().chain(&point.said) {
            let Signed { voter, message, .. } = &self.words[*word];
            if let Body::Vote(set) = &message.body {
                votes
                    .entry((message.round, set))
                    .or_default()
                    .insert(*voter);
                first.extend((message.round == 1).then_some(*voter));
            }
        }
        let certificates = votes
            .into_iter()
            .filter(|(_, voters)| voters.len() >= self.quorum)
            .map(|((round, set), _)| (round, set.clone()))
            .collect();
        let may_choose = first.len() >= self.quorum;
        Mark {
            said: point.said.clone(),
            round: self.round(&point.node),
            certificates,
            may_choose,
            unlocked: point.unlocked,
        }
    }

    fn lie(&mut self, round: Round, body: Body) -> Word {
        let message = Message {
            layer: self.layer,
            round,
            epoch: 0,
            body,
        };
        self.word(Signed {
            voter: LIAR,
            message,
            signature: [9; 64],
        })
    }

    fn said(&mut self, deeds: Vec<Deed>) -> Vec<Word> {
        let signed = deeds.into_iter().filter_map(|deed| match deed {
            Deed::Said(signed) => Some(signed),
            _ => None,
        });
        signed.map(|signed| self.word(signed)).collect()
    }

    fn word(&mut self, signed: Signed) -> Word {
        let key = (
            signed.voter,
            signed.message.round,
            signed.message.body.clone(),
        );
        let words = &mut self.words;
        *self.places.entry(key).or_insert_with(|| {
            words.push(signed);
            words.len() - 1
        })
    }
}

/// A state in one word, since millions are remembered.
fn pack(state: [usize; HONEST]) -> u64 {
    state.into_iter().fold(0, |word, point| {
        assert!(
            point < 1 << 21,
            "more states of one voter than a third of a word can name"
        );
        word << 21 | point as u64
    })
}

/// States after which a walk gives up; the largest of the real rules has 18,000, and a third round
/// would have more than a million.
const STATES_MAX: usize = 1_000_000;

#[test]
fn four_voters_cannot_be_split() {
    for layer in 0..4 {
        let found = Walk::run(Rules::REAL, layer, true, STATES_MAX);
        println!("leader of round 2 is voter {}: {found:?}", (layer + 2) % 4);
        assert!(!found.split && found.complete, "layer {layer}: {found:?}");
    }
}

#[test]
fn four_voters_can_be_split_under_every_mutant() {
    for (name, rules) in MUTANTS {
        // Only the lock that a restart loses needs a restart to show; without, it is the real rule.
        let restarts = !rules.lock_survives_restart;
        let mut states = 0;
        let split = (0..4).any(|layer| {
            let found = Walk::run(rules, layer, restarts, STATES_MAX);
            states += found.states;
            found.split
        });
        println!("{name}: split {split} after {states} states");
        assert!(split, "{name} was not convicted");
        if restarts {
            let found = Walk::run(rules, 0, false, STATES_MAX);
            assert!(
                !found.split && found.complete,
                "{name}, without a restart: {found:?}"
            );
        }
    }
}
