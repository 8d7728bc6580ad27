//! `delivered`: every PoET proof reaches every node that is to use it. Runs in every plan whose nodes report proofs.
//!
//! That somebody took the proof from the PoET is no delivery: what counts is that each node says it holds it. A node owes
//! that if it was free from the moment the proof was made until it is judged; who was away meanwhile is asked nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::said::{Said, overheard, reported, said};
use super::world::{Mark, World};
use super::{Gives, Oracle, Output, Unasked, too_much};
use crate::findings;
use crate::history::{Body, Header, Record};
use crate::time::Span;
use crate::verdict::{Code, Data, Expectation, Finding};

const MADE: &str = "proof-made";
const HELD: &str = "proof-held";

/// Rounds kept: later ones push out the oldest. Nobody waits for a proof that many rounds back.
const ROUNDS_MAX: usize = 256;
/// Proofs that are told apart within a round: a sound PoET makes one.
const PROOFS_MAX: usize = 8;

/// What it gives, and how it is built.
pub(super) const UNASKED: Unasked = Unasked {
    gives: &[Gives {
        kind: findings::PROOF_UNDELIVERED,
        can: |asked| {
            asked.reports(&[MADE])?;
            asked.of_any().reports(&[HELD])
        },
    }],
    build: unasked,
};

fn unasked(header: &Header) -> Option<Box<dyn Oracle>> {
    reported(header, &[MADE, HELD]).then(|| Box::new(Delivered::new(header)) as Box<dyn Oracle>)
}

/// A proof was made.
#[derive(Debug, Clone)]
struct Made {
    node: String,
    at: Mark,
    refs: BTreeSet<String>,
}

/// What the PoET told of handing it over.
#[derive(Debug, Clone, Default)]
struct Tries {
    failed: u64,
    first_failed: Option<Mark>,
    error: String,
    taken: Option<u64>,
    gave_up: Option<Mark>,
}

#[derive(Debug, Clone, Default)]
enum Standing {
    #[default]
    Open,
    /// Everybody who owed it holds it, or nothing can be held against anybody.
    Settled,
    /// A finding; its place, unless there were too many.
    Charged(Option<usize>),
}

/// A round of a PoET.
#[derive(Debug, Clone, Default)]
struct Round {
    made: Option<Made>,
    tries: Tries,
    /// Who holds which proof: a log may be read before that of the PoET.
    holders: BTreeMap<String, BTreeSet<String>>,
    standing: Standing,
}

/// The fold behind `delivered`.
#[derive(Debug, Clone)]
struct Delivered {
    /// Nodes that say which proofs they hold.
    holders: Vec<String>,
    /// By round, then PoET: the oldest come first.
    rounds: BTreeMap<(u64, String), Round>,
    /// How long a proof may take.
    bound: Span,
    bound_ns: u64,
    /// How long a proof is of use.
    use_ns: u64,
    least: u64,
    judged: u64,
    worst_ns: u64,
    demanded_layers: u64,
    void_layers: u64,
    charged: bool,
}

impl Delivered {
    /// The bound is half an epoch. A PoET tries every twentieth of an epoch and gives up after a third; what its last try
    /// handed over has the sixth that is left to spread, which is more than gossip needs and one round of pulling. The
    /// other half of the epoch is the miners': they must have published the ATX that cites it before the epoch ends.
    fn new(header: &Header) -> Self {
        let epoch = header.calendar.epoch();
        let bound = Span(epoch.0 / 2);
        let reports = |role: &str| {
            let role = header.roles.get(role);
            role.is_some_and(|role| role.events.contains(HELD))
        };
        let holders = header.nodes.iter().filter(|node| reports(&node.role));
        Self {
            holders: holders.map(|node| node.name.clone()).collect(),
            rounds: BTreeMap::new(),
            bound,
            bound_ns: header.calendar.ns_of(bound),
            use_ns: header.calendar.ns_of(epoch),
            // Without anybody who registers, rounds have no members and their proofs are of no use.
            least: u64::from(reported(header, &["challenge-registered"])),
            judged: 0,
            worst_ns: 0,
            demanded_layers: 0,
            void_layers: 0,
            charged: false,
        }
    }

    fn hears(&mut self, said: &Said<'_>, world: &World, out: &mut Output) {
        let known = [
            MADE,
            HELD,
            "broadcast-failed",
            "broadcast-acked",
            "broadcast-gave-up",
        ];
        if !known.contains(&said.event) {
            return;
        }
        let Some((poet, number)) = said.round(out) else {
            return;
        };
        let key = (number, poet);
        if !self.rounds.contains_key(&key) && self.rounds.len() >= ROUNDS_MAX {
            self.rounds.pop_first();
        }
        let round = self.rounds.entry(key.clone()).or_default();
        match said.event {
            MADE => {
                let read = || Some((said.text("ref")?, said.number("members")?));
                let Some((proof, members)) = said.need(read(), "`ref` and `members`", out) else {
                    return;
                };
                // A proof of nobody is of no use to anybody.
                if members == 0 {
                    return;
                }
                let made = round.made.get_or_insert_with(|| Made {
                    node: said.node.to_owned(),
                    at: said.at,
                    refs: BTreeSet::new(),
                });
                if made.refs.len() < PROOFS_MAX {
                    made.refs.insert(proof.to_owned());
                }
            }
            HELD => {
                let Some(proof) = said.need(said.text("ref"), "`ref`", out) else {
                    return;
                };
                let full = round.holders.len() >= PROOFS_MAX;
                if matches!(round.standing, Standing::Settled)
                    || full && !round.holders.contains_key(proof)
                {
                    return;
                }
                let holders = round.holders.entry(proof.to_owned()).or_default();
                holders.insert(said.node.to_owned());
            }
            _ => {
                round.tries.hear(said);
                return;
            }
        }
        self.look(&key, world, out);
    }

    /// Whether a proof has reached all it must by now.
    fn look(&mut self, key: &(u64, String), world: &World, out: &mut Output) {
        let Some(round) = self.rounds.get_mut(key) else {
            return;
        };
        let Some(made) = &round.made else {
            return;
        };
        let owed = round.owed(made, &self.holders, world);
        if owed.held == 0 || owed.missing + owed.unknown > 0 {
            return;
        }
        match round.standing {
            Standing::Open => {
                let took = world.void.elapsed(made.at.t_ns, world.now.t_ns);
                self.worst_ns = self.worst_ns.max(took);
                self.judged += 1;
                round.settle();
            }
            Standing::Charged(place) => {
                out.recovered(place, world.now.t_ns);
                round.settle();
            }
            Standing::Settled => {}
        }
    }

    fn layer_ended(&mut self, world: &World, out: &mut Output) {
        if world.demanded.is_some() {
            self.demanded_layers += 1;
            self.void_layers += u64::from(world.last_layer_void);
        }
        for ((number, _), round) in &mut self.rounds {
            if !matches!(round.standing, Standing::Open) {
                continue;
            }
            let Some(made) = &round.made else {
                continue;
            };
            let useless_ns = made.at.t_ns.saturating_add(self.use_ns);
            let from = world.demanded.map(|demanded| demanded.max(made.at));
            let due_ns = from.map(|from| world.void.later(from.t_ns, self.bound_ns));
            // No ATX cites it any more by the time it would have to be there.
            if due_ns.is_none_or(|due| due > useless_ns) {
                if world.now.t_ns >= useless_ns {
                    round.settle();
                }
                continue;
            }
            let Some(from) = from else { continue };
            if world.void.elapsed(from.t_ns, world.now.t_ns) <= self.bound_ns {
                continue;
            }
            let Owed { held, missing, .. } = round.owed(made, &self.holders, world);
            if missing == 0 {
                round.settle();
                continue;
            }
            self.judged += 1;
            self.worst_ns = self
                .worst_ns
                .max(world.void.elapsed(from.t_ns, world.now.t_ns));
            let told = format!(
                "the proof of round {number} by {} reached {held} of {} nodes within {}; {}",
                made.node,
                held + missing,
                self.bound,
                round.tries.told()
            );
            if world
                .steady_until_ns()
                .is_none_or(|until| from.t_ns < until)
            {
                let text = format!("{told}, before any fault began");
                let records = vec![made.at.seq, world.now.seq];
                out.doubt(Code::SteadyStateNotReached, text, "", records);
                round.settle();
                continue;
            }
            let tries = &round.tries;
            let mut records = vec![made.at.seq];
            records.extend(tries.first_failed.iter().map(|mark| mark.seq));
            records.extend(tries.gave_up.iter().map(|mark| mark.seq));
            records.push(world.now.seq);
            records.sort_unstable();
            let place = out.find(Finding {
                id: findings::PROOF_UNDELIVERED.id.to_owned(),
                node: Some(made.node.clone()),
                role: world.nodes.get(&made.node).map(|view| view.role.clone()),
                due_ns: from.t_ns,
                proved_ns: world.now.t_ns,
                round: Some(*number),
                records,
                text: told,
                counts: true,
                ..Finding::default()
            });
            self.charged = true;
            round.standing = Standing::Charged(place);
        }
    }

    /// As for stalls: with more than a tenth of the time void, slow delivery says as much of the host.
    fn unfit(&self) -> bool {
        too_much(self.void_layers, self.demanded_layers)
    }
}

impl Tries {
    fn hear(&mut self, said: &Said<'_>) {
        match said.event {
            "broadcast-failed" => {
                self.failed += 1;
                self.first_failed.get_or_insert(said.at);
                self.error = said.words("error");
            }
            "broadcast-acked" => self.taken = self.taken.max(said.number("acks").or(Some(1))),
            _ => self.gave_up = Some(said.at),
        }
    }

    fn told(&self) -> String {
        let mut told = match (self.failed, self.taken) {
            (0, None) => "no try to hand it over was told".to_owned(),
            (failed, None) => format!("{failed} tries to hand it over failed"),
            (0, Some(taken)) => format!("it was handed over to {taken}, which is no delivery"),
            (failed, Some(taken)) => {
                format!("it was handed over to {taken} after {failed} failed tries")
            }
        };
        if self.gave_up.is_some() {
            told.push_str(", then it was given up");
        }
        if self.taken.is_none() && !self.error.is_empty() {
            told.push_str(": ");
            told.push_str(&self.error);
        }
        told
    }
}

/// Nodes that owe that they hold a proof.
#[derive(Debug, Clone, Default)]
struct Owed {
    /// They say so.
    held: usize,
    /// They do not.
    missing: usize,
    /// They do not, and some of what they printed was lost.
    unknown: usize,
}

impl Round {
    fn owed(&self, made: &Made, nodes: &[String], world: &World) -> Owed {
        let owes = |node: &&String| {
            let view = world.nodes.get(*node);
            view.and_then(|view| view.able)
                .is_some_and(|able| able <= made.at)
        };
        let holds = |node: &String| {
            let mut refs = made.refs.iter().filter_map(|it| self.holders.get(it));
            refs.any(|holders| holders.contains(node))
        };
        // A log may be read before that of the PoET, and a loss is told after it happened.
        let epoch_ns = world.calendar.ns_of(world.calendar.epoch());
        let read_from = made.at.t_ns.saturating_sub(epoch_ns);
        let mut owed = Owed::default();
        for node in nodes.iter().filter(owes) {
            let count = if holds(node) {
                &mut owed.held
            } else if world.lost(node).is_some_and(|lost| lost.t_ns >= read_from) {
                &mut owed.unknown
            } else {
                &mut owed.missing
            };
            *count += 1;
        }
        owed
    }

    fn settle(&mut self) {
        self.standing = Standing::Settled;
        self.holders.clear();
    }
}

impl Oracle for Delivered {
    fn observe(&mut self, record: &Record, world: &World, out: &mut Output) {
        overheard(record, &[MADE, HELD], world, out);
        if let Some(said) = said(record, world) {
            self.hears(&said, world, out);
        } else if matches!(record.body, Body::Layer(_)) {
            self.layer_ended(world, out);
        }
    }

    fn finish(&mut self, world: &World, out: &mut Output) {
        if self.charged && self.unfit() {
            let text = "the host was unfit for too long while proofs were to be delivered; run on a quieter host or with longer layers";
            let measurement = format!("{} of {} layers", self.void_layers, self.demanded_layers);
            out.doubt(Code::VoidLayers, text, measurement, vec![world.now.seq]);
        }
    }

    fn report(&self, world: &World) -> Expectation {
        let data = Data {
            what: "proofs followed to every node".to_owned(),
            least: self.least,
            had: self.judged,
        };
        Expectation {
            bound_layers: Some(self.bound.in_layers()),
            worst_layers: (self.judged > 0).then(|| world.in_layers(self.worst_ns)),
            demanded_layers: Some(self.demanded_layers),
            void_layers: self.void_layers,
            ..Expectation::new("every proof reaches all nodes", "delivered", true, data)
        }
    }

    /// No proof is on its way: the run would end before it is known to arrive.
    fn settled(&self, _world: &World) -> bool {
        let mut rounds = self.rounds.values();
        let doubtful = self.charged && self.unfit();
        !doubtful
            && rounds
                .all(|round| round.made.is_none() || matches!(round.standing, Standing::Settled))
    }

    fn owns(&self, finding: &Finding) -> bool {
        finding.id == findings::PROOF_UNDELIVERED.id
    }

    fn unfit(&self, _finding: &Finding) -> bool {
        Self::unfit(self)
    }
}
