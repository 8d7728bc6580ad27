//! `doctor` on this machine: what it says works, what it says when something fails, and that nothing of it stays.
//!
//! These need no engine; what needs one is among the Docker tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use assert_cmd::Command;
use tweedledum_core::faults;
use tweedledum_harness::doctor::report::{Outcome, Report, StepReport, TierReport};
use tweedledum_harness::doctor::tiers::TIERS;

use crate::support::{Said, call, root, said};

const BIN: &str = env!("CARGO_BIN_EXE_tweedledum");

/// `sh -c 'BEFORE; exec tweedledum doctor WORDS'`, with a directory of its own for what it makes, which must be empty again.
fn doctor(before: &str, words: &str, env: &[(&str, &str)]) -> Said {
    let scratch = tempfile::tempdir().unwrap();
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", &format!("{before} exec {BIN} doctor {words}")])
        .env("TMPDIR", scratch.path())
        .envs(env.iter().copied());
    let said = said(&mut command);
    let left: Vec<_> = fs::read_dir(scratch.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}\n{said}");
    said
}

fn report(said: &Said) -> Report {
    serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}\n{said}"))
}

fn tier<'a>(report: &'a Report, name: &str) -> &'a TierReport {
    let tier = report.tiers.iter().find(|tier| tier.tier == name);
    tier.unwrap_or_else(|| panic!("no tier {name}: {report:?}"))
}

fn step<'a>(tier: &'a TierReport, name: &str) -> &'a StepReport {
    let step = tier.steps.iter().find(|step| step.step == name);
    step.unwrap_or_else(|| panic!("no step {name}: {tier:?}"))
}

/// The faults that are not available, without those that are this machine's own affair, each with the step in its way.
fn missing(tier: &TierReport) -> BTreeSet<(String, Option<String>)> {
    let own = |fault: &str| tier.tier == "process/shared" && limits(fault);
    let faults = tier.faults.iter().filter(|fault| !own(&fault.fault));
    let missing = faults.filter(|fault| !fault.available);
    missing
        .map(|fault| (fault.fault.clone(), fault.failing_step.clone()))
        .collect()
}

/// Processes that carry the nonce in their environment.
fn carrying(report: &Report) -> Vec<String> {
    let variable = format!("TWEEDLEDUM_RUN={}", report.nonce);
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let carries = |path: &Path| {
        let environ = fs::read(path.join("environ")).unwrap_or_default();
        environ
            .split(|byte| *byte == 0)
            .any(|set| set == variable.as_bytes())
    };
    let carrying = processes
        .map(|entry| entry.path())
        .filter(|path| carries(path));
    carrying.map(|path| path.display().to_string()).collect()
}

/// Whether a fault limits what nodes have of their machine, which not every machine lets anybody do to processes.
fn limits(fault: &str) -> bool {
    let needs = faults::by_name(fault).unwrap().needs();
    let mut limited = tweedledum_core::capability::Resource::ALL.iter();
    limited.any(|resource| needs.contains(&resource.capability()))
}

#[test]
fn everything_that_runs_do_on_this_machine_is_tried_and_works() {
    let told = doctor("", "--substrate process --format json", &[]).gave(0);
    let report = report(&told);
    let shared = tier(&report, "process/shared");
    assert!(shared.usable, "{told}");
    // What the tests of this tree need anyway; limits and namespaces are this machine's own affair.
    for name in [
        "file-size",
        "spawn",
        "addresses",
        "freeze",
        "udp-sources",
        "udp-drops",
        "disk-filter",
        "disk-short-write",
        "disk-descriptor",
    ] {
        assert_eq!(step(shared, name).outcome, Outcome::Works, "{name}\n{told}");
    }
    assert_eq!(missing(shared), BTreeSet::new());
    assert_eq!(shared.faults.len(), faults::ALL.len());
    let isolated = tier(&report, "process/isolated");
    assert!(!isolated.usable && isolated.not_built.is_some());
    assert_eq!(
        missing(isolated).len(),
        faults::ALL.len(),
        "not built is not available"
    );
    for step in shared.steps.iter().chain(&isolated.steps) {
        assert_eq!(
            step.fix.is_some(),
            step.outcome == Outcome::Fails,
            "{step:?}"
        );
        assert!(!step.seen.is_empty(), "{step:?}");
    }
    assert_eq!(carrying(&report), Vec::<String>::new());
    assert_eq!(report.left, Vec::<String>::new());
}

#[test]
fn people_read_the_same() {
    let told = doctor("", "--substrate process", &[]).gave(0);
    for kind in faults::ALL.iter().filter(|kind| !limits(kind.name())) {
        let line = format!("    {:<16} available", kind.name());
        assert!(told.stdout.contains(&line), "{}\n{told}", kind.name());
    }
    for part in [
        "process/shared: available",
        "process/isolated: not built yet",
        "disk-short-write",
    ] {
        assert!(told.stdout.contains(part), "{part}\n{told}");
    }
    assert!(
        !told.stdout.contains("docker"),
        "it was not asked for\n{told}"
    );
}

#[test]
fn a_limit_that_is_too_low_fails_its_step_by_errno_and_names_the_fix() {
    let told = doctor("ulimit -n 100;", "--substrate process --format json", &[]).gave(0);
    let report = report(&told);
    let shared = tier(&report, "process/shared");
    let flood = step(shared, "udp-sources");
    assert_eq!(
        (flood.outcome, flood.errno),
        (Outcome::Fails, Some(24)),
        "{told}"
    );
    assert!(
        flood.fix.as_deref().unwrap().contains("ulimit -n"),
        "{told}"
    );
    let floods = ("flood-sessions".to_owned(), Some("udp-sources".to_owned()));
    assert_eq!(
        missing(shared),
        BTreeSet::from([floods]),
        "and nothing else\n{told}"
    );
    let text = doctor("ulimit -n 100;", "--substrate process", &[]).gave(0);
    for part in [
        "FAILS  udp-sources",
        "EMFILE (24)",
        "not here: udp-sources fails",
    ] {
        assert!(text.stdout.contains(part), "{part}\n{text}");
    }
}

#[test]
fn files_that_may_not_grow_take_everything_as_runs_do() {
    let told = doctor("ulimit -f 1000;", "--substrate process --format json", &[]).gave(4);
    let report = report(&told);
    let shared = tier(&report, "process/shared");
    let files = step(shared, "file-size");
    assert!(!shared.usable && files.outcome == Outcome::Fails, "{told}");
    let fix = files.fix.as_deref().unwrap();
    assert!(fix.contains("`ulimit -Hf`"), "{told}");
}

#[test]
fn an_engine_that_is_not_there_takes_docker_and_names_the_fix() {
    let env = [("DOCKER_HOST", "unix:///no/such/engine.sock")];
    let told = doctor("", "--substrate docker --format json", &env).gave(4);
    let report = report(&told);
    let docker = tier(&report, "docker");
    assert!(!docker.usable);
    let address = step(docker, "engine-address");
    assert!(
        address.outcome == Outcome::Works && address.seen.contains("from DOCKER_HOST"),
        "{told}"
    );
    let answers = step(docker, "engine-answers");
    assert_eq!(answers.outcome, Outcome::Fails, "{told}");
    assert!(answers.seen.contains("/no/such/engine.sock"), "{told}");
    assert!(
        answers.fix.as_deref().unwrap().contains("set DOCKER_HOST"),
        "{told}"
    );
    let by_it =
        |kind: &&dyn faults::FaultKind| (kind.name().to_owned(), Some("engine-answers".to_owned()));
    assert_eq!(missing(docker), faults::ALL.iter().map(by_it).collect());
    assert!(
        docker.steps[3..]
            .iter()
            .all(|step| step.outcome == Outcome::Untried),
        "{told}"
    );
    // Everything is asked for where nothing is said.
    let all = doctor("", "", &env).gave(4);
    for part in ["process/shared: available", "docker: nothing can run here"] {
        assert!(all.stdout.contains(part), "{part}\n{all}");
    }
    // A way that is not spoken is refused by name, before anything is tried on it.
    let tls = [("DOCKER_HOST", "ssh://build@example.invalid")];
    let told = doctor("", "--substrate docker", &tls).gave(4);
    for part in [
        "FAILS  engine-address",
        "ssh is not supported",
        "fix: forward its socket",
    ] {
        assert!(told.stdout.contains(part), "{part}\n{told}");
    }
}

#[test]
fn the_conformance_table_of_the_docs_is_what_the_registry_says() {
    let path = root().join("docs/conformance.md");
    let table = call(&["list", "conformance"]).gave(0).stdout;
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == table,
        "docs/conformance.md is not what the registry says; make it and commit it:\n  tweedledum list conformance > docs/conformance.md"
    );
    for kind in faults::ALL {
        let rows = table.matches(&format!("| `{}` |", kind.name())).count();
        assert_eq!(rows, TIERS.len(), "{} has a row for each tier", kind.name());
    }
}
