//! `cited`: no ATX cites a proof that no PoET made. Runs in every plan whose nodes report ATXs and proofs.
//!
//! Miner and PoET are two logs, read side by side: the ATX may be told before the proof it cites. So nothing is held
//! against an ATX for an epoch, by which time every log that is still read has been; at the end of a whole history all
//! logs have been read.

use std::collections::{BTreeMap, BTreeSet};

use super::said::{overheard, reported, said, short};
use super::world::{Mark, World};
use super::{Gives, Oracle, Output, Unasked};
use crate::findings;
use crate::history::{Body, Header, Record};
use crate::verdict::{Data, Expectation, Finding};

const PUBLISHED: &str = "atx-published";
const MADE: &str = "proof-made";

/// Proofs kept of both kinds, oldest rounds first to go: two PoETs for two thousand epochs.
const KEPT_MAX: usize = 4096;

/// Round, PoET and reference of a proof.
type Proof = (u64, String, String);

/// The first ATX that cites a proof.
#[derive(Debug, Clone)]
struct Citing {
    node: String,
    atx: String,
    at: Mark,
}

/// The fold behind `cited`.
#[derive(Debug, Clone)]
struct Cited {
    made: BTreeSet<Proof>,
    waiting: BTreeMap<Proof, Citing>,
    patience_ns: u64,
    /// Nodes were there before, and their logs are not read from the beginning on.
    midway: bool,
    /// The oldest round of which a proof was told.
    oldest: Option<u64>,
    /// Proofs that are older than what is kept of them say nothing.
    forgotten: Option<u64>,
    seen: u64,
}

/// What it gives, and how it is built.
pub(super) const UNASKED: Unasked = Unasked {
    gives: &[Gives {
        kind: findings::INVALID_ATX_PROOF,
        can: |asked| {
            asked.reports(&[PUBLISHED])?;
            asked.of_any().reports(&[MADE])
        },
    }],
    build: unasked,
};

fn unasked(header: &Header) -> Option<Box<dyn Oracle>> {
    let cited = Cited {
        made: BTreeSet::new(),
        waiting: BTreeMap::new(),
        patience_ns: header.calendar.ns_of(header.calendar.epoch()),
        midway: header.first_epoch > 0,
        oldest: None,
        forgotten: None,
        seen: 0,
    };
    reported(header, &[PUBLISHED, MADE]).then(|| Box::new(cited) as Box<dyn Oracle>)
}

impl Cited {
    fn made(&mut self, proof: Proof) {
        self.seen += u64::from(self.waiting.remove(&proof).is_some());
        self.oldest = Some(self.oldest.map_or(proof.0, |oldest| oldest.min(proof.0)));
        self.made.insert(proof);
        if self.made.len() > KEPT_MAX {
            self.forgotten = self.made.pop_first().map(|(round, ..)| round);
        }
    }

    fn published(&mut self, proof: Proof, citing: Citing) {
        if self.made.contains(&proof) {
            self.seen += 1;
            return;
        }
        let old = self.forgotten.is_some_and(|round| proof.0 <= round);
        if !old && self.waiting.len() < KEPT_MAX {
            self.waiting.entry(proof).or_insert(citing);
        }
    }

    /// Holds against the ATXs what cites nothing for this long.
    fn judge(&mut self, patience_ns: u64, world: &World, out: &mut Output) {
        let now = world.now;
        let patient = |citing: &Citing| citing.at.t_ns.saturating_add(patience_ns) > now.t_ns;
        let overdue = self.waiting.iter().filter(|(_, citing)| !patient(citing));
        let overdue: Vec<Proof> = overdue.map(|(proof, _)| proof.clone()).collect();
        for proof in overdue {
            let Some(citing) = self.waiting.remove(&proof) else {
                continue;
            };
            let (round, poet, reference) = &proof;
            // Where logs are read from the middle on, what came before is not told: of the first round that is, one PoET's
            // proof may have been made just before, and another's just after.
            let before = self.midway && self.oldest.is_none_or(|oldest| *round <= oldest);
            // Its making may have been told in what was lost.
            if before || world.lost_by_any(&[MADE]).is_some() {
                continue;
            }
            self.seen += 1;
            out.find(Finding {
                id: findings::INVALID_ATX_PROOF.id.to_owned(),
                role: world.nodes.get(&citing.node).map(|view| view.role.clone()),
                due_ns: citing.at.t_ns,
                proved_ns: now.t_ns,
                round: Some(*round),
                records: vec![citing.at.seq, now.seq],
                text: format!(
                    "ATX {} of {} cites proof {} of round {round} by PoET {}, which never made it",
                    short(&citing.atx),
                    citing.node,
                    short(reference),
                    short(poet)
                ),
                node: Some(citing.node),
                counts: true,
                ..Finding::default()
            });
        }
    }
}

impl Oracle for Cited {
    fn observe(&mut self, record: &Record, world: &World, out: &mut Output) {
        overheard(record, &[PUBLISHED, MADE], world, out);
        match &record.body {
            Body::Layer(_) => self.judge(self.patience_ns, world, out),
            // Every log is read to its end before the end is written.
            Body::End(_) => self.judge(0, world, out),
            _ => {}
        }
        let Some(said) = said(record, world) else {
            return;
        };
        let reference = match said.event {
            PUBLISHED => "proof",
            MADE => "ref",
            _ => return,
        };
        let Some((poet, round)) = said.round(out) else {
            return;
        };
        let wanted = format!("`{reference}`");
        let Some(proof) = said.need(said.text(reference), &wanted, out) else {
            return;
        };
        let proof = (round, poet, proof.to_owned());
        if said.event == MADE {
            self.made(proof);
        } else {
            let citing = Citing {
                node: said.node.to_owned(),
                atx: said.words("atx"),
                at: said.at,
            };
            self.published(proof, citing);
        }
    }

    fn report(&self, _world: &World) -> Expectation {
        let data = Data {
            what: "ATXs with the proof they cite".to_owned(),
            least: 1,
            had: self.seen,
        };
        let what = "every proof that an ATX cites was made by its PoET";
        Expectation::new(what, "cited", true, data)
    }

    fn owns(&self, finding: &Finding) -> bool {
        finding.id == findings::INVALID_ATX_PROOF.id
    }
}
