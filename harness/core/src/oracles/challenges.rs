//! `challenges`: a challenge that a PoET has acknowledged is in the proof of its round. Runs in every plan whose nodes
//! report both.
//!
//! A miner may register with several PoETs and needs one. So a challenge is lost when every PoET that acknowledged it for
//! a round has made its proof, the miner holds them all, and it is in none. A proof that never came is no loss but a
//! delivery that failed.

use std::collections::BTreeMap;

use super::said::{Said, overheard, reported, said};
use super::world::World;
use super::{Gives, Oracle, Output, Unasked};
use crate::findings;
use crate::history::{Header, Record};
use crate::verdict::{Data, Expectation, Finding};

const REGISTERED: &str = "challenge-registered";
const HELD: &str = "proof-held";

/// Rounds that a miner's challenges are remembered for: two are in flight, a proof may come late.
const ROUNDS_MAX: u64 = 8;
/// PoETs a miner registers with for one round.
const POETS_MAX: usize = 32;

/// What became of a challenge at each PoET that acknowledged it: whether the proof has it, and the record.
type Fate = BTreeMap<String, (Option<bool>, u64)>;

/// The fold behind `challenges`.
#[derive(Debug, Clone)]
struct Challenges {
    /// By node, then round; what is decided is dropped.
    open: BTreeMap<String, BTreeMap<u64, Fate>>,
    least: u64,
    decided: u64,
}

/// What it gives, and how it is built.
pub(super) const UNASKED: Unasked = Unasked {
    gives: &[Gives {
        kind: findings::LOST_CHALLENGE,
        can: |asked| asked.reports(&[REGISTERED, HELD]),
    }],
    build: unasked,
};

fn unasked(header: &Header) -> Option<Box<dyn Oracle>> {
    let challenges = Challenges {
        open: BTreeMap::new(),
        least: u64::from(reported(header, &["proof-made"])),
        decided: 0,
    };
    reported(header, &[REGISTERED, HELD]).then(|| Box::new(challenges) as Box<dyn Oracle>)
}

impl Challenges {
    fn registered(&mut self, said: &Said<'_>, poet: String, round: u64) {
        let rounds = self.open.entry(said.node.to_owned()).or_default();
        let fate = rounds.entry(round).or_default();
        if fate.len() < POETS_MAX || fate.contains_key(&poet) {
            fate.entry(poet).or_insert((None, said.at.seq));
        }
        let newest = rounds.last_key_value().map_or(round, |(newest, _)| *newest);
        rounds.retain(|round, _| round.saturating_add(ROUNDS_MAX) >= newest);
    }

    fn held(&mut self, said: &Said<'_>, poet: &str, round: u64, world: &World, out: &mut Output) {
        let Some(member) = said.flag("member") else {
            // It had registered nothing there.
            return;
        };
        let Some(rounds) = self.open.get_mut(said.node) else {
            return;
        };
        let Some(fate) = rounds.get_mut(&round) else {
            return;
        };
        let Some(here) = fate.get_mut(poet) else {
            return;
        };
        *here = (Some(member), here.1);
        let lost = fate.values().all(|(member, _)| *member == Some(false));
        if !member && !lost {
            return;
        }
        let mut records: Vec<u64> = fate.values().map(|(_, seq)| *seq).collect();
        let poets = fate.len();
        rounds.remove(&round);
        self.decided += 1;
        // Another PoET may have acknowledged it in what was lost.
        let epoch_ns = world.calendar.ns_of(world.calendar.epoch());
        let followed = world
            .now
            .t_ns
            .saturating_sub(ROUNDS_MAX.saturating_mul(epoch_ns));
        let unsure = world.lost(said.node).is_some_and(|at| at.t_ns >= followed);
        if !lost || unsure {
            return;
        }
        records.push(said.at.seq);
        records.sort_unstable();
        let whose = match poets {
            1 => "a PoET acknowledged it and its proof does not have it".to_owned(),
            _ => format!("{poets} PoETs acknowledged it and none of their proofs has it"),
        };
        out.find(Finding {
            id: findings::LOST_CHALLENGE.id.to_owned(),
            node: Some(said.node.to_owned()),
            role: world.nodes.get(said.node).map(|view| view.role.clone()),
            due_ns: said.at.t_ns,
            proved_ns: said.at.t_ns,
            round: Some(round),
            records,
            text: format!(
                "the challenge of {} for round {round} is lost: {whose}",
                said.node
            ),
            counts: true,
            ..Finding::default()
        });
    }
}

impl Oracle for Challenges {
    fn observe(&mut self, record: &Record, world: &World, out: &mut Output) {
        overheard(record, &[REGISTERED, HELD], world, out);
        let Some(said) = said(record, world) else {
            return;
        };
        if ![REGISTERED, HELD].contains(&said.event) {
            return;
        }
        let Some((poet, round)) = said.round(out) else {
            return;
        };
        if said.event == REGISTERED {
            self.registered(&said, poet, round);
        } else {
            self.held(&said, &poet, round, world, out);
        }
    }

    fn report(&self, _world: &World) -> Expectation {
        let data = Data {
            what: "challenges followed to their proofs".to_owned(),
            least: self.least,
            had: self.decided,
        };
        let what = "every acknowledged challenge is in a proof of its round";
        Expectation::new(what, "challenges", true, data)
    }

    fn owns(&self, finding: &Finding) -> bool {
        finding.id == findings::LOST_CHALLENGE.id
    }
}
