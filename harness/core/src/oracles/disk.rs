//! `disk`: no PoET round fails for lack of disk. Runs in every plan whose nodes report failed rounds.
//!
//! It rests on the node's own record of the round: that a write met ENOSPC is evidence of a fault, and no failure if the
//! node refuses in time and keeps what it has.
//!
//! A disk has room for as many rounds as are worked on in time. A round that found it full because the one before it was
//! still at work, on a host that was unfit or let nodes wait for a processor, says as much of the host as of the release;
//! see ARCHITECTURE.md.

use std::collections::BTreeMap;

use super::said::{overheard, reported, said};
use super::world::World;
use super::{Gives, Oracle, Output, Unasked};
use crate::findings;
use crate::history::{Body, Header, Record};
use crate::verdict::{Code, Data, Expectation, Finding};

const FAILED: &str = "round-failed";
const MADE: &str = "proof-made";
const BEGUN: &str = "round-executing";
const REMOVED: &str = "round-removed";

/// Rounds of a node that are kept at a time; later ones push out the oldest.
const KEPT_MAX: usize = 64;

#[derive(Debug, Clone, Default)]
struct Disk {
    /// Findings that are not over, per node: a proof made later ends them. One a node, so they are bounded.
    open: BTreeMap<String, Vec<Option<usize>>>,
    rounds: u64,
    /// The latest round of each node that is not at work any more: a proof was made of it, or it failed.
    over: BTreeMap<String, u64>,
    /// The latest round of each node that began while the one before it was still at work.
    crowded_from: BTreeMap<String, u64>,
    /// Rounds of each node of which a proof was made and that are not removed, with when that was: until their proofs are
    /// taken, they keep their room.
    kept: BTreeMap<String, BTreeMap<u64, u64>>,
    /// Failures that met a round still at work. Never more than there are findings.
    crowded: Vec<Crowded>,
}

/// A round that found the disk full of the round before it, which was still at work.
#[derive(Debug, Clone)]
struct Crowded {
    node: String,
    round: u64,
    at_ns: u64,
    /// The host was unfit while the two were at work.
    unfit: bool,
}

/// A node whose disk stays full fails every round; more than this many tell nothing new.
const OPEN_MAX: usize = 64;

/// What it gives, and how it is built.
pub(super) const UNASKED: Unasked = Unasked {
    gives: &[Gives {
        kind: findings::DISK_FULL,
        can: |asked| asked.reports(&[FAILED]),
    }],
    build: unasked,
};

fn unasked(header: &Header) -> Option<Box<dyn Oracle>> {
    reported(header, &[FAILED]).then(|| Box::new(Disk::default()) as Box<dyn Oracle>)
}

impl Disk {
    /// Whether the round before this one is still at work.
    fn is_open_before(&self, node: &str, round: u64) -> bool {
        let over = self.over.get(node);
        round > 0 && over.is_none_or(|over| over.saturating_add(1) < round)
    }

    /// Whether a layer was void, or nodes were let wait in it, is known when it is over; it spoils the failures in it and up
    /// to two epochs behind it, the time of two rounds.
    fn layer_ended(&mut self, world: &World) {
        let span = world
            .calendar
            .ns_of(world.calendar.epoch())
            .saturating_mul(2);
        for it in self.crowded.iter_mut().filter(|it| !it.unfit) {
            let from = it.at_ns.saturating_sub(span);
            let void = world.void.within(from, it.at_ns) > 0;
            it.unfit = void || world.was_starved(from, it.at_ns);
        }
    }
}

impl Oracle for Disk {
    fn observe(&mut self, record: &Record, world: &World, out: &mut Output) {
        overheard(record, &[FAILED], world, out);
        if matches!(record.body, Body::Layer(_)) {
            self.layer_ended(world);
        }
        let Some(said) = said(record, world) else {
            return;
        };
        match said.event {
            MADE => {
                self.rounds += 1;
                if let Some((_, round)) = said.round(out) {
                    self.over.insert(said.node.to_owned(), round);
                    if world.reports(said.node, REMOVED) {
                        let kept = self.kept.entry(said.node.to_owned()).or_default();
                        kept.insert(round, said.at.t_ns);
                        if kept.len() > KEPT_MAX {
                            kept.pop_first();
                        }
                    }
                }
                for place in self.open.remove(said.node).unwrap_or_default() {
                    out.recovered(place, said.at.t_ns);
                }
            }
            REMOVED => {
                if let Some((_, round)) = said.round(out)
                    && let Some(kept) = self.kept.get_mut(said.node)
                {
                    kept.remove(&round);
                }
            }
            BEGUN => {
                let Some((_, round)) = said.round(out) else {
                    return;
                };
                if self.is_open_before(said.node, round) {
                    self.crowded_from.insert(said.node.to_owned(), round);
                }
            }
            FAILED => {
                let Some((_, round)) = said.round(out) else {
                    return;
                };
                let crowded = self.is_open_before(said.node, round)
                    || self.crowded_from.get(said.node) == Some(&round);
                self.over.insert(said.node.to_owned(), round);
                if said.text("cause") != Some("disk-full") {
                    return;
                }
                self.rounds += 1;
                let open = self.open.entry(said.node.to_owned()).or_default();
                if open.len() >= OPEN_MAX {
                    return;
                }
                let kept = self.kept.get(said.node);
                let place = out.find(Finding {
                    id: findings::DISK_FULL.id.to_owned(),
                    node: Some(said.node.to_owned()),
                    role: world.nodes.get(said.node).map(|view| view.role.clone()),
                    due_ns: said.at.t_ns,
                    proved_ns: said.at.t_ns,
                    since_ns: kept.and_then(|kept| kept.values().min().copied()),
                    round: Some(round),
                    records: vec![said.at.seq],
                    text: format!(
                        "round {round} of {} failed, its disk is full: {}",
                        said.node,
                        said.words("error")
                    ),
                    counts: true,
                    ..Finding::default()
                });
                if crowded && place.is_some() {
                    self.crowded.push(Crowded {
                        node: said.node.to_owned(),
                        round,
                        at_ns: said.at.t_ns,
                        unfit: false,
                    });
                }
                open.push(place);
            }
            _ => {}
        }
    }

    fn report(&self, _world: &World) -> Expectation {
        let data = Data {
            what: "rounds that ended".to_owned(),
            least: 0,
            had: self.rounds,
        };
        Expectation::new("no round fails for lack of disk", "disk", true, data)
    }

    fn finish(&mut self, world: &World, out: &mut Output) {
        let unfit = self.crowded.iter().filter(|it| it.unfit).count();
        if unfit > 0 {
            let text = "the host was unfit while PoET rounds were worked on, so that they ran into each other; run on a quieter host or with longer layers";
            let measurement = format!("{unfit} rounds found the disk full of the one before them");
            out.doubt(Code::VoidLayers, text, measurement, vec![world.now.seq]);
        }
    }

    fn unfit(&self, finding: &Finding) -> bool {
        let mut crowded = self.crowded.iter();
        crowded.any(|it| {
            it.unfit
                && Some(it.round) == finding.round
                && Some(it.node.as_str()) == finding.node.as_deref()
        })
    }

    fn owns(&self, finding: &Finding) -> bool {
        finding.id == findings::DISK_FULL.id
    }
}
