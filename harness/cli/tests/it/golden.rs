//! Golden schedules: the same plan and seed give the same bytes on every machine, for ever within a schedule version.
//!
//! A new plan needs golden files; the message of the failing test says how they are made. A change of existing ones is
//! a change of the schedule version, since it changes what every user's seed means.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use tweedledum_core::random::SCHEDULE_VERSION;

use crate::support::{call, plan, plans, root, said};

/// The default, the one other tests use, and one that fills all 64 bits.
const SEEDS: [u64; 3] = [0, 7, u64::MAX];

fn golden() -> PathBuf {
    root()
        .join("harness/cli/tests/golden")
        .join(format!("schedule-{SCHEDULE_VERSION}"))
}

#[test]
fn schedules_are_golden() {
    let mut expected = BTreeSet::new();
    for (name, path) in plans() {
        for seed in SEEDS {
            let file = golden().join(format!("{}.{seed}.json", name.replace('/', "-")));
            let seed = seed.to_string();
            let drawn = call(&[
                "plan",
                path.to_str().unwrap(),
                "--seed",
                &seed,
                "--format",
                "json",
            ])
            .gave(0);
            let below = |path: &Path| path.strip_prefix(root()).unwrap().display().to_string();
            let how = format!(
                "tweedledum plan {} --seed {seed} --format json > {}",
                below(&path),
                below(&file)
            );
            let Ok(found) = fs::read_to_string(&file) else {
                panic!("a plan without a golden schedule; make it and commit it:\n  {how}")
            };
            let line = drawn
                .stdout
                .lines()
                .zip(found.lines())
                .position(|(drawn, golden)| drawn != golden);
            assert!(
                drawn.stdout == found,
                "the schedule of {name} with seed {seed} is another one (first in line {line:?}, from 0).\nThe same plan \
                 and seed must give the same run for ever: unless the plan itself was changed, this is a bug, or \
                 SCHEDULE_VERSION has to be raised and a new directory of golden schedules made, by\n  {how}"
            );
            expected.insert(file);
        }
    }
    let there = fs::read_dir(golden())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect::<BTreeSet<_>>();
    let gone: Vec<_> = there.difference(&expected).collect();
    assert!(
        gone.is_empty(),
        "golden schedules of plans that are gone: {gone:?}"
    );
}

/// Nothing but the plan's text and the seed goes into a schedule.
#[test]
fn a_schedule_depends_on_plan_and_seed_alone() {
    let words = ["--seed", "7", "--format", "json"];
    let exe = env!("CARGO_BIN_EXE_tweedledum");
    let from = plan("faults/pause");
    let usual = said(Command::new(exe).arg("plan").arg(&from).args(words))
        .gave(0)
        .stdout;

    let elsewhere = tempfile::tempdir().unwrap();
    let copy = elsewhere.path().join("another name é.yaml");
    fs::copy(&from, &copy).unwrap();
    let moved = said(
        Command::new(exe)
            .args(["plan", "another name é.yaml"])
            .args(words)
            .current_dir(&elsewhere),
    )
    .gave(0);
    assert_eq!(
        moved.stdout, usual,
        "it depends on the directory or the name of the file"
    );

    let strange = [
        ("TZ", "Pacific/Kiritimati"),
        ("LANG", "tr_TR.UTF-8"),
        ("RUST_LOG", "trace"),
        ("SEED", "9"),
    ];
    let mut bare = Command::new(exe);
    bare.arg("plan")
        .arg(&from)
        .args(words)
        .env_clear()
        .envs(strange);
    assert_eq!(
        said(&mut bare).gave(0).stdout,
        usual,
        "it depends on the environment"
    );

    // This plan draws a node, so the seed must count, and no seed is the plan's own, which is 0.
    let seeds = ["0", "1", "2", "3", "4", "5", "6", "7"];
    let drawn = |seed: &str| {
        let drawn = said(
            Command::new(exe)
                .arg("plan")
                .arg(&from)
                .args(["--seed", seed, "--format", "json"]),
        )
        .gave(0)
        .stdout;
        drawn.replace(&format!("\"seed\": {seed}"), "")
    };
    assert!(
        seeds.map(drawn).iter().collect::<BTreeSet<_>>().len() > 1,
        "the seed changes nothing"
    );
    let unsaid = said(
        Command::new(exe)
            .arg("plan")
            .arg(&from)
            .args(["--format", "json"]),
    )
    .gave(0)
    .stdout;
    let zero = said(
        Command::new(exe)
            .arg("plan")
            .arg(&from)
            .args(["--seed", "0", "--format", "json"]),
    )
    .gave(0)
    .stdout;
    assert_eq!(unsaid, zero, "the default seed is not 0");
}
