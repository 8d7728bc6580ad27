//! One suite for all substrates: a plan means the same on each of them. A substrate that is added later has only to pass it.
//!
//! Compared is what a reader of a verdict goes by: what every control gave, which findings there are of which role, and the
//! grades of evidence that every fault reached; not when, how, or of which of several nodes that a role lost. Needs a
//! container engine, so it is run by name: `scripts/with-engine cargo test --release --test it -- --ignored conformance`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use tweedledum_core::control::Gave;
use tweedledum_core::history::Grade;
use tweedledum_core::substrate::SubstrateKind;
use tweedledum_core::verdict::{Cleanup, Code, FaultReport, Finding, Outcome, Reason};

use crate::plans::as_declared;
use crate::support::{Bench, Run, TRIES, call, plan, plans};

/// A part of the plans for every change; a campaign takes them all.
const SOME: [&str; 1] = ["faults/kill"];

/// What a run of one release says.
#[derive(Debug, PartialEq, Eq)]
struct Meaning {
    gave: Gave,
    verdict: Outcome,
    clean: bool,
    /// Ids, and whose they are by role.
    findings: BTreeSet<(String, String)>,
    /// Armed, applied, gone and felt, by entry and node, of a control that must pass.
    evidence: BTreeMap<(String, String), [Option<bool>; 4]>,
    /// By entry, the best that any of its nodes reached in a control that must fail: a flood that ends its targets slows
    /// down whoever sends it, so it may not have been applied to some of them as planned.
    reached: BTreeMap<String, Reached>,
}

/// How much was seen of a fault; `gone` is not there where nothing is to be gone.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reached {
    grade: Option<Grade>,
    gone: Option<bool>,
}

impl Reached {
    fn of(fault: &FaultReport) -> Self {
        let seen = [
            (Grade::Felt, fault.felt),
            (Grade::Applied, fault.applied),
            (Grade::Armed, fault.armed),
        ];
        let best = seen.into_iter().find(|(_, held)| *held == Some(true));
        Self {
            grade: best.map(|(grade, _)| grade),
            gone: fault.gone,
        }
    }
}

fn role(finding: &Finding) -> String {
    let of_node = || {
        let node = finding.node.as_deref()?;
        Some(node.rsplit_once('-')?.0.to_owned())
    };
    finding.role.clone().or_else(of_node).unwrap_or_default()
}

/// Whether layers that the host voided are all that keeps a run from having a meaning: it says itself to run it on a quieter
/// host. That is told and done, and what is undecided in the end is no agreement.
fn host_was_unfit(run: &Run) -> bool {
    let undecided = run.comparison().controls.into_iter();
    let mut undecided = undecided
        .filter(|control| control.gave == Gave::Undecided)
        .peekable();
    let voided = |reason: &Reason| reason.code == Code::VoidLayers;
    undecided.peek().is_some()
        && undecided.all(|control| {
            let reasons = &control.verdict.reasons;
            !reasons.is_empty() && reasons.iter().all(voided)
        })
}

/// What every control of a plan gave on a substrate, by release.
fn meaning(bench: &Bench, name: &str, plan: &Path, substrate: &str) -> BTreeMap<String, Meaning> {
    let words = ["--substrate", substrate];
    let mut run = bench.run(plan, &words);
    for _ in 1..TRIES {
        if !host_was_unfit(&run) {
            break;
        }
        println!("{name} on {substrate}: the host was unfit");
        run = bench.run(plan, &words);
    }
    let controls = as_declared(&run).controls.into_iter().map(|control| {
        let verdict = control.verdict;
        let findings = verdict.findings.iter();
        let (mut evidence, mut reached) = (BTreeMap::new(), BTreeMap::<String, Reached>::new());
        for fault in &verdict.faults {
            if control.control.must_pass {
                let grades = [fault.armed, fault.applied, fault.gone, fault.felt];
                evidence.insert((fault.entry.clone(), fault.node.clone()), grades);
                continue;
            }
            let here = Reached::of(fault);
            let best = reached.entry(fault.entry.clone()).or_default();
            best.grade = best.grade.max(here.grade);
            best.gone = best.gone.max(here.gone);
        }
        let meaning = Meaning {
            gave: control.gave,
            verdict: verdict.verdict,
            clean: verdict.cleanup == Cleanup::Clean,
            findings: findings
                .map(|finding| (finding.id.clone(), role(finding)))
                .collect(),
            evidence,
            reached,
        };
        (control.control.release, meaning)
    });
    controls.collect()
}

/// Whether a plan can be run on a substrate at all; `check` says so, by what it names as missing there. Whatever else is
/// wrong with a plan is nothing that a substrate cannot do.
#[track_caller]
fn possible(plan: &Path, substrate: &str) -> bool {
    let said = call(&["check", plan.to_str().unwrap(), "--substrate", substrate]);
    if said.code == 0 {
        return true;
    }
    said.gave(2).tells(&[&format!(": on {substrate}, ")]);
    false
}

/// The substrates that can run a plan.
#[track_caller]
fn able(plan: &Path) -> Vec<&'static str> {
    let words = SubstrateKind::WORDS.iter().copied();
    words
        .filter(|substrate| possible(plan, substrate))
        .collect()
}

/// In what a plan does not say the same on these substrates.
#[track_caller]
fn unlike(able: &[&str], bench: &Bench, name: &str, plan: &Path) -> Option<String> {
    let mut first: Option<(&str, BTreeMap<String, Meaning>)> = None;
    for substrate in able.iter().copied() {
        let here = meaning(bench, name, plan, substrate);
        println!("{name} on {substrate}: as declared");
        let Some((other, there)) = &first else {
            first = Some((substrate, here));
            continue;
        };
        let mut differences = String::new();
        for (release, meaning) in &here {
            if there.get(release) != Some(meaning) {
                let _ = writeln!(
                    differences,
                    "{release} on {substrate}: {meaning:#?}\non {other}: {:#?}",
                    there.get(release)
                );
            }
        }
        if here.len() != there.len() || !differences.is_empty() {
            return Some(format!(
                "{name} is not the same on {other} and on {substrate}\n{differences}"
            ));
        }
    }
    None
}

#[test]
#[ignore = "needs a container engine: scripts/with-engine"]
fn conformance_of_some_plans() {
    let bench = Bench::new();
    for name in SOME {
        let path = plan(name);
        // What is compared with nothing would pass.
        assert_eq!(able(&path), SubstrateKind::WORDS, "{name}");
        assert_eq!(unlike(SubstrateKind::WORDS, &bench, name, &path), None);
    }
}

/// The rest is for a campaign: `scripts/campaign conformance`.
#[test]
#[ignore = "needs a container engine, and minutes: scripts/campaign conformance"]
fn conformance_of_every_plan() {
    let bench = Bench::new();
    let mut differences = Vec::new();
    for (name, path) in plans() {
        let able = able(&path);
        assert!(!able.is_empty(), "{name} can be run nowhere");
        differences.extend(unlike(&able, &bench, &name, &path));
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
