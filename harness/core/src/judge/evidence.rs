//! Evidence: every planned fault must be shown to be there and to be gone, and some to have hit; limits that nodes have
//! from their start on must be shown to hold before genesis, and ever after.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Body, Death, Evidence, Grade, Header, Phase, Record, StepChange};
use crate::oracles::Output;
use crate::schedule::{Action, Class, Part, Step};
use crate::verdict::{Cause, Code, FaultReport, Link};

/// The evidence of all faults of a run, by the step that begins them.
#[derive(Debug, Clone)]
pub(super) struct Evidences {
    faults: BTreeMap<u32, Seen>,
    ends: BTreeMap<u32, u32>,
    /// Entries and nodes that certainly met: the node's life ended by the fault.
    hits: BTreeSet<(String, String)>,
}

#[derive(Debug, Clone)]
struct Seen {
    step: Step,
    restores: bool,
    begun: Option<(u64, u64)>,
    ended_ns: Option<u64>,
    undoing: bool,
    failed: Option<String>,
    grades: BTreeMap<Grade, bool>,
    /// It was seen to be applied, and later seen not to have stayed so.
    taken_back: bool,
    applied_seq: Option<u64>,
    detail: BTreeMap<String, serde_json::Value>,
}

impl Evidences {
    pub(super) fn new(header: &Header) -> Self {
        let mut faults = BTreeMap::new();
        let mut ends = BTreeMap::new();
        for step in &header.schedule.steps {
            match &step.part {
                Part::Ends(begun) => {
                    ends.insert(step.id, *begun);
                }
                Part::Begins { class, .. } => {
                    let seen = Seen {
                        step: step.clone(),
                        restores: matches!(class, Class::Restores(_)),
                        begun: None,
                        ended_ns: None,
                        undoing: false,
                        failed: None,
                        grades: BTreeMap::new(),
                        taken_back: false,
                        applied_seq: None,
                        detail: BTreeMap::new(),
                    };
                    faults.insert(step.id, seen);
                }
            }
        }
        let hits = BTreeSet::new();
        Self { faults, ends, hits }
    }

    pub(super) fn observe(&mut self, record: &Record) {
        match &record.body {
            Body::Step(change) => self.step(record, change),
            Body::Evidence(evidence) => self.evidence(record, evidence),
            // A node that this step ended was certainly hit by it.
            Body::Exit(exit) => {
                if let Death::Harness { step: Some(id), .. } = exit.death
                    && let Some(seen) = self.faults.get_mut(&id)
                {
                    seen.grades.insert(Grade::Felt, true);
                    self.hits
                        .insert((seen.step.entry.clone(), exit.node.clone()));
                }
            }
            _ => {}
        }
    }

    fn step(&mut self, record: &Record, change: &StepChange) {
        let ends = self.ends.get(&change.step).copied();
        let Some(seen) = self.faults.get_mut(&ends.unwrap_or(change.step)) else {
            return;
        };
        match (&change.phase, ends) {
            (Phase::Begun, None) => seen.begun = Some((record.t_ns, record.seq)),
            (Phase::Done, Some(_)) => seen.ended_ns = Some(record.t_ns),
            // A node that is started again goes with the run, ready or not: nothing of the fault outlives it.
            (Phase::Begun, Some(_)) => {
                seen.undoing = !matches!(change.action, Action::Start { .. });
            }
            (Phase::Failed(why), _) => seen.failed = Some(why.clone()),
            (Phase::Staged | Phase::Done, _) => {}
        }
    }

    fn evidence(&mut self, record: &Record, evidence: &Evidence) {
        let Some(seen) = self.faults.get_mut(&evidence.step) else {
            return;
        };
        let before = seen.grades.insert(evidence.grade, evidence.held);
        if evidence.grade == Grade::Applied {
            seen.taken_back = !evidence.held && (seen.taken_back || before == Some(true));
        }
        if evidence.grade == Grade::Applied {
            seen.applied_seq = Some(record.seq);
            seen.detail.clone_from(&evidence.detail);
        }
    }

    /// The faults that certainly hit their targets: a life ended by one, or a finding that one led to on its own node. A
    /// probe that says so of a part of a fault is no such thing, and a hit that did not last is none either: who was killed
    /// and then started by somebody else was not dead for as long as was planned.
    pub(super) fn hits(&self, chain: &[Link]) -> BTreeSet<(String, String)> {
        let led = chain.iter().filter_map(|link| match &link.cause {
            Cause::Fault { entry, node } if at_home(link) => Some((entry.clone(), node.clone())),
            _ => None,
        });
        let mut hits: BTreeSet<(String, String)> = self.hits.iter().cloned().chain(led).collect();
        for seen in self.faults.values().filter(|seen| seen.taken_back) {
            let step = &seen.step;
            hits.remove(&(step.entry.clone(), step.action.node().to_owned()));
        }
        hits
    }

    /// Whether every planned fault was applied, and every one that is taken back is gone.
    pub(super) fn complete(&self) -> bool {
        let held = |seen: &Seen, grade| seen.grades.get(&grade) == Some(&true);
        self.faults
            .values()
            .all(|seen| held(seen, Grade::Applied) && (!seen.restores || held(seen, Grade::Gone)))
    }

    pub(super) fn reports(&self, header: &Header) -> Vec<FaultReport> {
        let kind = |entry: &str| {
            let info = header.faults.get(entry);
            info.map_or_else(String::new, |info| info.kind.clone())
        };
        self.faults
            .values()
            .filter_map(|seen| {
                let Part::Begins { impact, .. } = seen.step.part else {
                    return None;
                };
                let grade = |grade| seen.grades.get(&grade).copied();
                Some(FaultReport {
                    kind: kind(&seen.step.entry),
                    entry: seen.step.entry.clone(),
                    node: seen.step.action.node().to_owned(),
                    impact,
                    begun_ns: seen.begun.map(|(t_ns, _)| t_ns),
                    record: seen.applied_seq.or(seen.begun.map(|(_, seq)| seq)),
                    ended_ns: seen.ended_ns,
                    restores: seen.restores,
                    undoing: seen.undoing,
                    failed: seen.failed.clone(),
                    armed: grade(Grade::Armed),
                    applied: grade(Grade::Applied),
                    gone: grade(Grade::Gone),
                    felt: grade(Grade::Felt),
                    detail: seen.detail.clone(),
                })
            })
            .collect()
    }
}

/// The evidence of limits that nodes have from their start on, by node.
#[derive(Debug, Clone, Default)]
pub(super) struct Limits(BTreeMap<String, LimitSeen>);

#[derive(Debug, Clone, Default)]
struct LimitSeen {
    grades: BTreeMap<Grade, (bool, u64)>,
    why: String,
}

impl Limits {
    pub(super) fn observe(&mut self, record: &Record, header: &Header) {
        let Body::Limit(evidence) = &record.body else {
            return;
        };
        // What is first seen after genesis says nothing about the steady state.
        let late = record.t_ns > header.genesis_ns && evidence.held;
        let seen = self.0.entry(evidence.node.clone()).or_default();
        let known = seen.grades.contains_key(&evidence.grade);
        if late && !known && evidence.grade != Grade::Felt {
            return;
        }
        let mark = (evidence.held, record.seq);
        seen.grades.insert(evidence.grade, mark);
        if evidence.grade == Grade::Applied {
            seen.why = spelled(&evidence.detail);
        }
    }

    /// Which limits were not seen to hold. A run that was cut short owes nothing for those that were not looked at yet.
    pub(super) fn doubt(&self, header: &Header, cut_short: bool, out: &mut Output) {
        for node in header.nodes.iter().filter(|node| node.disk.is_some()) {
            let seen = self.0.get(&node.name);
            let held = |grade| seen.and_then(|seen| seen.grades.get(&grade).copied());
            let armed = held(Grade::Armed).is_some_and(|(held, _)| held);
            let applied = held(Grade::Applied);
            if armed && applied.is_some_and(|(held, _)| held) || cut_short && seen.is_none() {
                continue;
            }
            let text = format!(
                "the disk limit of {} was not seen to hold{}",
                node.name,
                if seen.is_some() {
                    ""
                } else {
                    " before genesis"
                }
            );
            let why = seen.map(|seen| seen.why.clone()).unwrap_or_default();
            let records = applied.map(|(_, seq)| seq).into_iter().collect();
            out.doubt(Code::SteadyStateNotReached, text, why, records);
        }
    }
}

/// What led to a finding on its own node was felt there.
pub(super) fn feel(faults: &mut [FaultReport], chain: &[Link]) {
    for fault in faults {
        let led = chain.iter().any(|link| {
            at_home(link)
                && matches!(&link.cause, Cause::Fault { entry, node }
                    if *entry == fault.entry && *node == fault.node)
        });
        if led {
            fault.felt = Some(true);
        }
    }
}

/// Whether cause and effect are on the same node.
fn at_home(link: &Link) -> bool {
    link.relation == crate::causes::Relation::SameNode.name()
}

/// What is missing. A run that was cut short owes nothing for faults that were not begun or not yet taken back.
pub(super) fn doubt(
    faults: &[FaultReport],
    hits: &BTreeSet<(String, String)>,
    header: &Header,
    cut_short: bool,
    out: &mut Output,
) {
    for fault in faults {
        let records: Vec<u64> = fault.record.into_iter().collect();
        let (entry, node) = (&fault.entry, &fault.node);
        let why = fault.failed.as_ref();
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        if fault.begun_ns.is_none() {
            if !cut_short {
                let text = format!("`{entry}` was never begun on {node}");
                out.doubt(Code::FaultNotApplied, text, "", records);
            }
            continue;
        }
        // What hit its target was there, whatever a probe saw of a target that was dead by then. What was never made, or broke
        // down after it had been made, was not there or for a while only, whomever it hit.
        let hit = hits.contains(&(entry.clone(), node.clone()));
        if fault.applied != Some(true) && (!hit || fault.failed.is_some()) {
            let text = format!("`{entry}` was not seen to be applied to {node}{why}");
            let measurement = measured(fault);
            out.doubt(Code::FaultNotApplied, text, measurement, records.clone());
        }
        // An undo that was begun is owed its proof however the run ended.
        let excused = cut_short && fault.gone.is_none() && !fault.undoing;
        if fault.restores && fault.gone != Some(true) && !excused {
            let text = format!("`{entry}` was not seen to be gone from {node}{why}");
            out.doubt(Code::FaultNotGone, text, "", records.clone());
        }
        let info = header.faults.get(entry);
        if info.is_some_and(|info| info.must_be_felt) && fault.felt != Some(true) && !cut_short {
            let text = format!("`{entry}` must hit {node}, and nothing shows that it did");
            out.doubt(Code::FaultNotFelt, text, "", records);
        }
    }
    demand_felt(faults, header, out);
}

/// A control that must fail shows nothing by failing for another reason: each of its faults must have hit somewhere.
fn demand_felt(faults: &[FaultReport], header: &Header, out: &mut Output) {
    if header.control.as_ref().is_none_or(|it| it.must_pass) {
        return;
    }
    let mut felt: BTreeMap<&str, bool> = BTreeMap::new();
    for fault in faults.iter().filter(|fault| fault.begun_ns.is_some()) {
        *felt.entry(&fault.entry).or_default() |= fault.felt == Some(true);
    }
    for (entry, _) in felt.into_iter().filter(|(_, felt)| !felt) {
        let text = format!("`{entry}` hit none of its targets, as far as anything shows");
        out.doubt(Code::FaultNotFelt, text, "", Vec::new());
    }
}

fn measured(fault: &FaultReport) -> String {
    spelled(&fault.detail)
}

fn spelled(detail: &BTreeMap<String, serde_json::Value>) -> String {
    let detail: Vec<String> = detail
        .iter()
        .map(|(key, value)| format!("{key} {value}"))
        .collect();
    detail.join(", ")
}
