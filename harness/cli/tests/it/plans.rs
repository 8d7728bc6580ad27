//! Every plan of the tree gives what it declares, with and without a seed, plainly and as controls, on one core too.
//!
//! A plan needs no line here: all of `plans/` are run. What is listed is what the flood plans are about, in words that
//! their controls could not weaken.

use std::collections::BTreeSet;
use std::path::Path;

use tweedledum_core::control::{Comparison, Gave, contains};
use tweedledum_core::verdict::{Cleanup, Code, Outcome, Verdict};

use crate::incident::two_branches_and_a_pass;
use crate::judge::{a_copy_is_the_same_run, no_cut_history_passes};
use crate::support::{Bench, Run, findings, lives, plan, plans};

/// The session tables' two defects by what their panic says.
pub(crate) const OLD_ENTRY: &str = "the session just deleted is not in the table";
const DOUBLE_CLOSE: &str = "close of closed channel";

/// The plans that flood a full table, and which defect each is about.
const FLOODS: [(&str, &str); 2] = [("flood", OLD_ENTRY), ("flood-young", DOUBLE_CLOSE)];

/// What flooding every one of three nodes of a role must show on the release of 2020, and nothing else.
pub(crate) fn flooded(role: &str) -> BTreeSet<(String, String)> {
    let of = |id: &str, whose: String| (id.to_owned(), whose);
    let nodes = (0..3).map(|number| format!("{role}-{number}"));
    let each = nodes.flat_map(|node| {
        [
            of("crash/session-table", node.clone()),
            of("stalled/tx", node),
        ]
    });
    each.chain([of("role/all-dead", role.to_owned())]).collect()
}

/// Holds that a verdict is the demanded failure: of every flooded node, by that defect.
#[track_caller]
pub(crate) fn died_of(defect: &str, role: &str, verdict: &Verdict, run: &Run) {
    assert!(
        verdict.verdict == Outcome::Fail,
        "{:?} instead of a failure\n{run}",
        verdict.verdict
    );
    assert_eq!(
        findings(verdict),
        flooded(role),
        "findings of {}\n{run}",
        verdict.run.release
    );
    for crash in verdict
        .findings
        .iter()
        .filter(|finding| finding.id == "crash/session-table")
    {
        assert!(
            crash.text.contains(defect),
            "{} did not die of `{defect}`: {}\n{run}",
            crash.of(),
            crash.text
        );
        let links = verdict
            .chain
            .iter()
            .filter(|link| verdict.findings[link.effect] == *crash)
            .count();
        assert!(links > 0, "nothing says what {} died of\n{run}", crash.of());
    }
}

/// Holds that a run was a clean pass.
#[track_caller]
pub(crate) fn passed(verdict: &Verdict, run: &Run) {
    assert!(
        verdict.verdict == Outcome::Pass,
        "{:?} instead of a pass\n{run}",
        verdict.verdict
    );
    assert!(
        verdict.findings.is_empty() && verdict.cleanup == Cleanup::Clean,
        "a pass with findings\n{run}"
    );
}

/// Holds that every control gave what it must.
#[track_caller]
pub(crate) fn as_declared(run: &Run) -> Comparison {
    let comparison = run.comparison();
    assert!(!comparison.controls.is_empty(), "nothing was run\n{run}");
    for control in &comparison.controls {
        let release = &control.control.release;
        match control.gave {
            Gave::Right => {}
            Gave::Wrong => panic!("{release} gave something else than the plan declares\n{run}"),
            Gave::Undecided => {
                panic!("nothing is known of {release}: what was missing stands below\n{run}")
            }
        }
    }
    assert!(run.said.code == 0, "exit code 0 expected\n{run}");
    comparison
}

/// All plans in four parts, so that they are run side by side.
const PARTS: usize = 4;

#[test]
fn every_plan_gives_what_it_declares_1_of_4() {
    each_gives_what_it_declares(0);
}

#[test]
fn every_plan_gives_what_it_declares_2_of_4() {
    each_gives_what_it_declares(1);
}

#[test]
fn every_plan_gives_what_it_declares_3_of_4() {
    each_gives_what_it_declares(2);
}

#[test]
fn every_plan_gives_what_it_declares_4_of_4() {
    each_gives_what_it_declares(3);
}

#[track_caller]
fn each_gives_what_it_declares(part: usize) {
    let bench = Bench::new();
    // Those of containers are run in the test that has an engine.
    let meant = plans()
        .into_iter()
        .filter(|(_, path)| lives(path) == "process");
    for (name, path) in meant.skip(part).step_by(PARTS) {
        let run = bench.decided(&path, &[]);
        let comparison = as_declared(&run);
        for control in &comparison.controls {
            // A plan that says what a panic says means every such panic.
            for pattern in control
                .control
                .findings
                .iter()
                .filter(|pattern| pattern.says.is_some())
            {
                let same = control
                    .verdict
                    .findings
                    .iter()
                    .filter(|finding| finding.id == pattern.id);
                for finding in same {
                    let says = pattern.says.as_deref().unwrap();
                    assert!(
                        contains(&finding.text, says),
                        "{name}: `{}` instead of `{says}`\n{run}",
                        finding.text
                    );
                }
            }
        }
        if let Some((_, defect)) = FLOODS.iter().find(|(flood, _)| *flood == name) {
            died_of(defect, "gateway", &run.verdict("netid-116"), &run);
            passed(&run.verdict("fixed"), &run);
        }
        if name == "tweedledee/incident" {
            two_branches_and_a_pass(&run);
        }
        no_cut_history_passes(&run);
        if comparison.controls.len() > 1 {
            a_copy_is_the_same_run(&run);
        }
    }
}

#[test]
fn a_release_by_itself_is_judged_plainly_and_with_any_seed() {
    let bench = Bench::new();
    let (name, defect) = FLOODS[0];
    // It is guilty on an unfit host as well, but not of all.
    let whole = |run: &Run| {
        let reasons = run.verdict("netid-116").reasons;
        !reasons.iter().any(|reason| reason.code == Code::VoidLayers)
    };
    let words = ["--release", "netid-116", "--seed", "7"];
    let run = bench.decided_where(&plan(name), &words, whole);
    assert!(run.said.code == 1, "exit code 1 expected\n{run}");
    died_of(defect, "gateway", &run.verdict("netid-116"), &run);

    let run = bench.decided(&plan(name), &["--release", "fixed", "--seed", "7"]);
    assert!(run.said.code == 0, "exit code 0 expected\n{run}");
    passed(&run.verdict("fixed"), &run);
    assert_eq!(run.verdict("fixed").run.seed, 7, "{run}");
}

/// One core, and that beside others' networks, may be too slow to say anything, which is then said; it never makes a wrong
/// verdict.
#[test]
fn one_core_gives_no_wrong_verdict() {
    let bench = Bench::new();
    let run = pinned(&bench, &plan("flood"));
    assert!(
        [0, 3].contains(&run.said.code),
        "exit code 0 or 3 expected\n{run}"
    );
    for control in run.comparison().controls {
        assert!(
            control.gave != Gave::Wrong,
            "{} is wrong\n{run}",
            control.control.release
        );
        assert!(
            control.wrong_reasons.is_empty(),
            "wrong reasons of {}\n{run}",
            control.control.release
        );
    }
}

/// A run on the first core that this process may use. Children inherit the affinity of the thread that starts them.
fn pinned(bench: &Bench, plan: &Path) -> Run {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let pin_and_run = || {
        let allowed = sched_getaffinity(None).unwrap();
        let first = (0..CpuSet::MAX_CPU)
            .find(|cpu| allowed.is_set(*cpu))
            .expect("a core to run on");
        let mut one = CpuSet::new();
        one.set(first);
        sched_setaffinity(None, &one).unwrap();
        bench.run(plan, &["--seed", "7"])
    };
    std::thread::scope(|scope| match scope.spawn(pin_and_run).join() {
        Ok(run) => run,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
