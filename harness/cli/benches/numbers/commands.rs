//! Numbers of the command line as a user sees them: wall time from start to exit.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::table::{REPEATS, best};
use crate::{Failure, TWEEDLEDUM};

/// Length of the generated plan.
const LINES: usize = 10_000;

/// `check` of a sound plan of 10,000 lines, each of which is a fault: the densest a plan can be.
pub(crate) fn check(directory: &Path) -> Result<(), Failure> {
    let plan = directory.join("long.yaml");
    fs_err::write(&plan, long_plan())?;
    let one = |_| timed(&["check".into(), plan.clone()]);
    let times = (0..REPEATS).map(one).collect::<Result<Vec<_>, _>>()?;
    best(
        "check of a 10,000-line plan, a fault per line",
        "<= 100 ms",
        Some(Duration::from_millis(100)),
        &times,
    )?
    .print()
}

fn long_plan() -> String {
    let head = "format: 1\nplan: long\n\
        network: { layer: 250ms, layers-per-epoch: 4, nodes: { miner: 6, gateway: 3 } }\n\
        tolerates:\n  - { at-least: 1, of: gateway }\ntimeline:\n";
    let tail = |epoch: usize| {
        format!(
            "  - {{ at: epoch {epoch}, heal: all }}\nexpect:\n\
            \x20 - {{ advance: {{ signal: tx, of: every miner, within: 3 layers }} }}\n"
        )
    };
    let faults = LINES - head.lines().count() - tail(0).lines().count();
    let fault = |n: usize| {
        let (epoch, layer, gateway) = (2 + n / 4, n % 4 * 25, n % 3);
        format!(
            "  - {{ at: epoch {epoch}.{layer:02}, name: step-{n}, for: 1 layer, pause: {{ target: gateway-{gateway} }} }}\n"
        )
    };
    let faults_text: String = (0..faults).map(fault).collect();
    [head, &faults_text, &tail(4 + faults / 4)].concat()
}

/// The incident: the flood plan with both controls, built tree to verdict.
pub(crate) fn incident(directory: &Path) -> Result<(), Failure> {
    let plan = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plans/flood.yaml");
    let one = |_| {
        timed(&[
            "run".into(),
            plan.clone(),
            "--runs".into(),
            directory.to_owned(),
        ])
    };
    let times = (0..REPEATS).map(one).collect::<Result<Vec<_>, _>>()?;
    best(
        "run plans/flood.yaml: both controls",
        "<= 30 s, aim 20",
        Some(Duration::from_secs(30)),
        &times,
    )?
    .print()
}

/// Wall time of a command that must succeed: the time of one that failed would be that of something else.
fn timed(words: &[PathBuf]) -> Result<Duration, Failure> {
    let begin = Instant::now();
    #[expect(
        clippy::disallowed_methods,
        reason = "the command line is measured as a user starts it"
    )]
    let output = Command::new(TWEEDLEDUM)
        .args(words)
        .stdin(Stdio::null())
        .output()?;
    let took = begin.elapsed();
    if output.status.success() {
        return Ok(took);
    }
    let told = String::from_utf8_lossy(&output.stderr);
    let tail: Vec<&str> = told.lines().rev().take(30).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    Err(format!(
        "tweedledum {words:?} ended with {}:\n{}",
        output.status,
        tail.join("\n")
    )
    .into())
}
