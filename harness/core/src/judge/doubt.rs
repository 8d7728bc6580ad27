//! What the host may have made: such findings are told, and held against nobody.
//!
//! An oracle says where so many layers were void that its findings say as much of the host as of the release, unless the
//! table knows why they follow from one that is sure: the transactions of a node that is dead stand still on any host. Where layers
//! were fit and nodes were let wait for processors all the same, or where the void ones came just when something was due,
//! what was late is doubtful, unless a finding that is sure explains it. What follows from doubtful findings alone is
//! doubtful as well.

use super::{Judge, Seat};
use crate::causes::{self, Clock};
use crate::findings::{self, Late};
use crate::verdict::{Code, FaultReport, Finding};

const UNFIT: &str = "what was found may be the host's doing, which was unfit for too much of the time; run on a quieter host or with longer layers";
const STARVED: &str = "what was found may be the host's doing, which let nodes wait for processors, or was unfit, just when something was due; run on a quieter host or with longer layers";
const FOLLOWS: &str = "what was found may follow from what the host made; run on a quieter host or with longer layers";

/// How much of a finding may be the host's doing, by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Host {
    /// It kept up.
    Fit,
    /// It let nodes wait, or was unfit, just while this was due.
    Starved,
    /// It was unfit for too much of the time.
    Unfit,
}

impl Judge {
    /// Takes out what the host may have made. Whatever is taken out has a reason why this is no pass: that of an oracle where
    /// layers were void, and else this one.
    pub(super) fn take_doubtful(
        &mut self,
        findings: &mut Vec<Finding>,
        faults: &[FaultReport],
    ) -> Vec<Finding> {
        let flags = self.doubtful(findings, faults);
        let (mut sure, mut doubtful) = (Vec::new(), Vec::new());
        for (finding, flag) in std::mem::take(findings).into_iter().zip(flags) {
            let kept = if flag { &mut doubtful } else { &mut sure };
            kept.push(finding);
        }
        *findings = sure;
        if doubtful.iter().any(|it| self.host(it) == Host::Starved) {
            let world = &self.world;
            let (records, starved) = world.starved_layers().unwrap_or(([world.now.seq; 2], 0));
            let measurement = format!(
                "most nodes of a role waited in {starved} layers, {} were void, of {}",
                world.void_layers, world.layers
            );
            self.out
                .doubt(Code::VoidLayers, STARVED, measurement, records.to_vec());
        }
        doubtful
    }

    /// Which findings the host may have made, by place.
    pub(super) fn doubtful(&self, findings: &[Finding], faults: &[FaultReport]) -> Vec<bool> {
        let hosts: Vec<Host> = findings.iter().map(|finding| self.host(finding)).collect();
        let mut doubtful = vec![false; findings.len()];
        if hosts.iter().all(|host| *host == Host::Fit) {
            return doubtful;
        }
        let (order, origins) = causes::origins(findings, faults, &Clock::of(&self.header));
        for place in order {
            let causes = &origins[place];
            let sure = causes.findings.iter().any(|cause| !doubtful[*cause]);
            let firmly = causes.firm.iter().any(|cause| !doubtful[*cause]);
            doubtful[place] = match hosts[place] {
                Host::Unfit => !firmly,
                Host::Starved => !sure,
                Host::Fit => !causes.findings.is_empty() && !sure && !causes.fault,
            };
        }
        doubtful
    }

    /// Why a seat's finding is doubtful, for its expectation, where its oracle does not say so itself.
    pub(super) fn why_doubtful(&self, seat: &Seat, finding: &Finding) -> Option<&'static str> {
        match self.host(finding) {
            Host::Unfit => (!seat.oracle.unfit(finding)).then_some(UNFIT),
            Host::Starved => Some(STARVED),
            Host::Fit => Some(FOLLOWS),
        }
    }

    fn host(&self, finding: &Finding) -> Host {
        let mut seats = self.seats.iter();
        if seats.any(|seat| seat.oracle.owns(finding) && seat.oracle.unfit(finding)) {
            return Host::Unfit;
        }
        let from_ns = finding.since_ns.unwrap_or(finding.due_ns);
        let late = findings::by_id(&finding.id).and_then(|kind| kind.late);
        let starved = match late {
            None => false,
            // What nodes do by the wall clock knows nothing of void layers, which are taken out of bounds.
            Some(Late::Once) => self.world.was_unfit(from_ns, finding.proved_ns),
            Some(Late::WhileItLasts) => {
                let now_ns = self.stopped_ns.unwrap_or(self.world.now.t_ns);
                let to_ns = finding.recovered_ns.unwrap_or(now_ns);
                self.world
                    .was_starved(from_ns, to_ns.max(finding.proved_ns))
            }
        };
        if starved { Host::Starved } else { Host::Fit }
    }
}
