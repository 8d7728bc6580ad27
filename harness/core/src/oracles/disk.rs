//! `disk`: no PoET round fails for lack of disk. Runs in every plan whose nodes report failed rounds.
//!
//! It rests on the node's own record of the round: that a write met ENOSPC is evidence of a fault, and no failure if the
//! node refuses in time and keeps what it has.

use std::collections::BTreeMap;

use super::said::{overheard, reported, said};
use super::world::World;
use super::{Oracle, Output};
use crate::history::{Header, Record};
use crate::verdict::{Data, Expectation, Finding};

const FAILED: &str = "round-failed";
const MADE: &str = "proof-made";

#[derive(Debug, Default)]
struct Disk {
    /// Findings that are not over, per node: a proof made later ends them. One a node, so they are bounded.
    open: BTreeMap<String, Vec<Option<usize>>>,
    rounds: u64,
}

/// A node whose disk stays full fails every round; more than this many tell nothing new.
const OPEN_MAX: usize = 64;

pub(super) fn unasked(header: &Header) -> Option<Box<dyn Oracle>> {
    reported(header, &[FAILED]).then(|| Box::new(Disk::default()) as Box<dyn Oracle>)
}

impl Oracle for Disk {
    fn observe(&mut self, record: &Record, world: &World, out: &mut Output) {
        overheard(record, &[FAILED], world, out);
        let Some(said) = said(record, world) else {
            return;
        };
        match said.event {
            MADE => {
                self.rounds += 1;
                for place in self.open.remove(said.node).unwrap_or_default() {
                    out.recovered(place, said.at.t_ns);
                }
            }
            FAILED if said.text("cause") == Some("disk-full") => {
                let Some((_, round)) = said.round(out) else {
                    return;
                };
                self.rounds += 1;
                let open = self.open.entry(said.node.to_owned()).or_default();
                if open.len() >= OPEN_MAX {
                    return;
                }
                open.push(out.find(Finding {
                    id: "disk/full".to_owned(),
                    node: Some(said.node.to_owned()),
                    role: world.nodes.get(said.node).map(|view| view.role.clone()),
                    due_ns: said.at.t_ns,
                    proved_ns: said.at.t_ns,
                    round: Some(round),
                    records: vec![said.at.seq],
                    text: format!(
                        "round {round} of {} failed, its disk is full: {}",
                        said.node,
                        said.words("error")
                    ),
                    counts: true,
                    ..Finding::default()
                }));
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

    fn owns(&self, finding: &Finding) -> bool {
        finding.id == "disk/full"
    }
}
