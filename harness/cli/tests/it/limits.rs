//! Limits on what nodes have of their machine, and where plans say that nodes live. Where this machine lets nobody limit
//! processes, the refusal is what is held: it names the step and what to do.

use tweedledum_core::capability::Resource;
use tweedledum_core::history::Grade;
use tweedledum_core::verdict::{Finding, Verdict};
use tweedledum_harness::substrate::process::group::possible;

use crate::plans::as_declared;
use crate::support::{Bench, Run, call, plan, root};

/// Holds that limits are refused by name, before anything is started.
#[track_caller]
fn refused(words: &[&str]) {
    let said = call(words).gave(2);
    said.tells(&[
        "of processes cannot be limited",
        "hint: run as a user who may write cgroups",
    ]);
}

fn possible_here() -> bool {
    let runs = tempfile::tempdir().unwrap();
    Resource::ALL
        .iter()
        .all(|resource| possible(runs.path(), *resource).is_ok())
}

/// Grades that were held, of the one limit of a run.
fn grades(run: &Run, release: &str) -> Vec<Grade> {
    let history = run.bytes(&format!("{release}/history.jsonl"));
    let lines = String::from_utf8(history).unwrap();
    let records = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let evidence = records.filter(|record| record["kind"] == "evidence" && record["held"] == true);
    evidence
        .map(|record| serde_json::from_value(record["grade"].clone()).unwrap())
        .collect()
}

#[test]
fn processes_are_limited_or_the_plan_is_refused() {
    for kind in ["cap-memory", "throttle-cpu", "cap-pids"] {
        let path = plan(&format!("faults/{kind}"));
        let words = ["run", path.to_str().unwrap(), "--substrate", "process"];
        if !possible_here() {
            refused(&words);
            continue;
        }
        let bench = Bench::new();
        let run = bench.decided(&path, &words[2..]);
        as_declared(&run);
        let grades = grades(&run, "fixed");
        for grade in [Grade::Armed, Grade::Applied, Grade::Gone] {
            assert!(grades.contains(&grade), "{kind}: no {grade:?}\n{run}");
        }
    }
}

#[test]
fn who_has_too_little_memory_dies_of_that() {
    let path = root().join("harness/cli/tests/plans/hog.yaml");
    if !possible_here() {
        return refused(&["run", path.to_str().unwrap()]);
    }
    let bench = Bench::new();
    let run = bench.decided(&path, &[]);
    as_declared(&run);
    starved(&run.verdict("fixed"), &run);
}

/// Holds that the capped node and no other died for lack of memory.
#[track_caller]
fn starved(verdict: &Verdict, run: &Run) {
    let starved = verdict.findings.iter();
    let starved = starved.filter(|finding| finding.id == "crash/out-of-memory");
    let whose: Vec<&str> = starved.map(Finding::of).collect();
    assert_eq!(whose, ["hog-0"], "{run}");
}

#[test]
fn a_plan_says_where_it_lives_and_the_command_line_knows_better() {
    let path = plan("faults/cap-memory");
    let path = path.to_str().unwrap();
    let wall = |words: &[&str]| {
        let said = call(&[&["plan", path], words].concat()).gave(0);
        let line = said
            .stdout
            .lines()
            .find(|line| line.starts_with("wall time"));
        line.unwrap().to_owned()
    };
    let (own, docker, process) = (
        wall(&[]),
        wall(&["--substrate", "docker"]),
        wall(&["--substrate", "process"]),
    );
    assert_eq!(own, docker);
    // Six nodes, 400 ms each, instead of 30.
    assert!(own.starts_with("wall time on docker at most 17s"), "{own}");
    assert!(
        process.starts_with("wall time on process at most 15s"),
        "{process}"
    );
    call(&["check", path]).gave(0);
}

#[test]
fn what_a_place_cannot_do_is_told_before_anything_starts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("plan.yaml");
    let text = "\
format: 1
plan: unfit
substrate: docker
network: { layer: 250ms, layers-per-epoch: 4, nodes: { own: 1 }, limits: { own: { disk: 64MiB } } }
roles:
  own: { image: \"my/node:1\", ready: { tcp: \"{addr}\" }, signals: { s: { log: s, value: /n, period: 1 layer } } }
timeline:
  - { at: epoch 2, name: squeeze, cap-memory: { target: own-0, size: 32MiB } }
expect: [{ advance: { signal: s, of: any own, within: 2 layers } }]
";
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap();
    call(&["check", path]).gave(2).tells(&[
        "plan.yaml:8:5: on docker, `squeeze` caps the memory of own-0 at 32MiB, which is less than the 64MiB",
        "hint: cap its memory above its disk",
    ]);
    call(&["run", path, "--release", "fixed", "--substrate", "process"])
        .gave(2)
        .tells(&["on process, role `own` has an `image` and no `command`"]);
    // Nothing was looked at: no engine was asked for the project.
    call(&["attach", "no-such-project", path]).gave(2).tells(&[
        "plan.yaml:8:5: on an attached project, `squeeze` cannot be carried out there: attach cannot limit a node's memory, live",
        "plan.yaml:4:66: on an attached project, `limits` gives own-0 a disk, which the compose file has to give it",
        "hint: run the plan with --substrate docker",
    ]);
    std::fs::write(path, text.replace("32MiB", "96MiB")).unwrap();
    call(&["check", path]).gave(0);
}
