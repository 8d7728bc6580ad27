//! Numbers of the command line as a user sees them: wall time from start to exit.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::table::{REPEATS, Row, best};
use crate::{Failure, TWEEDLEDUM};

/// Length of the generated plan.
const LINES: usize = 10_000;
/// A hundred times the limit: waiting longer would tell nothing more.
const CHECK_BOUND: Duration = Duration::from_secs(10);
/// Far beyond the plan's own time-out.
const RUN_BOUND: Duration = Duration::from_mins(5);

/// `check` of a sound plan of 10,000 lines, each of which is a fault: the densest a plan can be.
pub(crate) fn check(directory: &Path) -> Result<(), Failure> {
    let plan = directory.join("long.yaml");
    fs_err::write(&plan, long_plan())?;
    let words = ["check".into(), plan];
    let one = |_| Ok(timed(&words, CHECK_BOUND, directory)?.1);
    let times = (0..REPEATS).map(one).collect::<Result<Vec<_>, Failure>>()?;
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

/// The incident, where it is: both controls, one command, built tree to verdict. The flood plan is the first link of it.
pub(crate) fn incident(directory: &Path) -> Result<(), Failure> {
    let plans = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plans");
    let bound = Duration::from_secs(30);
    let whole = plans.join("tweedledee/incident.yaml");
    if whole.is_file() {
        both_controls(
            "run plans/tweedledee/incident.yaml",
            ("<= 30 s, aim 20", Some(bound)),
            &whole,
            directory,
        )?;
    } else {
        Row {
            what: "run plans/tweedledee/incident.yaml",
            limit: "<= 30 s, aim 20",
            measured: "not there yet".to_owned(),
            within: None,
            note: "this tree has no such plan".to_owned(),
        }
        .print()?;
    }
    both_controls(
        "run plans/flood.yaml: both controls",
        ("", None),
        &plans.join("flood.yaml"),
        directory,
    )
}

/// Wall time of all controls of a plan, one after the other.
///
/// A run whose verdict is not the right one did other things, so only right ones count; the codes of all are told.
fn both_controls(
    what: &str,
    (limit, bound): (&str, Option<Duration>),
    plan: &Path,
    directory: &Path,
) -> Result<(), Failure> {
    let words = [
        "run".into(),
        plan.to_owned(),
        "--runs".into(),
        directory.to_owned(),
    ];
    let runs = (0..REPEATS)
        .map(|_| timed(&words, RUN_BOUND, directory))
        .collect::<Result<Vec<_>, _>>()?;
    let right = runs.iter().filter(|run| run.0 == 0);
    let right: Vec<Duration> = right.map(|run| run.1).collect();
    let codes: Vec<String> = runs.iter().map(|run| run.0.to_string()).collect();
    let codes = codes.join(", ");
    let mut row = best(what, limit, bound, &right)
        .map_err(|_| format!("{what} gave no right verdict; exit codes {codes}"))?;
    row.note = format!("{}; exit codes {codes}", row.note);
    row.print()
}

/// Exit code and wall time of a command that comes to a verdict: the time of one that failed would be that of something
/// else.
fn timed(words: &[PathBuf], bound: Duration, directory: &Path) -> Result<(i32, Duration), Failure> {
    let (told, begin) = (directory.join("stderr"), Instant::now());
    #[expect(
        clippy::disallowed_methods,
        reason = "the command line is measured as a user starts it"
    )]
    let mut child = Command::new(TWEEDLEDUM)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs_err::File::create(&told)?.into_parts().0)
        .spawn()?;
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    let within = Timespec::try_from(bound)?;
    if poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&within))? == 0 {
        // A run's guards remove the rest.
        child.kill()?;
        child.wait()?;
        return Err(format!("tweedledum {words:?} did not end within {bound:?}").into());
    }
    let (took, status) = (begin.elapsed(), child.wait()?);
    // A verdict: pass, fail, inconclusive.
    if let Some(code @ (0 | 1 | 3)) = status.code() {
        return Ok((code, took));
    }
    let told = fs_err::read_to_string(&told)?;
    Err(format!("tweedledum {words:?} ended with {status}: {told}").into())
}
