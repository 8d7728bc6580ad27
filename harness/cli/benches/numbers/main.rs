//! The numbers that the design promises, measured on this machine beside calibration rows. Run it by `scripts/bench`.
//!
//! The executable is its own stub, watchdog, controller, shim and idle node, so that kills, floods and starts go through
//! the code that a run uses; the network's nodes and the command line are the real `tweedledum`. To add a number, write a
//! function that prints its [`table::Row`] and call it from `outside` or, when it needs processes of a run, from `inside`.
//!
//! It asserts nothing: a number outside its limit is printed as such. Only what could not be run makes it fail.

mod calibration;
mod commands;
#[path = "../../src/dialect.rs"]
mod dialect;
mod flood;
mod hundred;
mod kill;
mod poet;
mod stage;
mod table;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tweedledum_harness::substrate::process::shim_main;
use tweedledum_harness::supervise::{SuperviseConfig, supervise, watchdog_main};

use crate::stage::Stage;

/// Whatever keeps a number from being measured.
type Failure = Box<dyn std::error::Error>;

/// The command line under test.
const TWEEDLEDUM: &str = env!("CARGO_BIN_EXE_tweedledum");

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let text: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
    let ended = match text.as_slice() {
        ["shim", ..] => Ok(shim_main(words.into_iter().skip(1))),
        ["watchdog"] => watchdog_main().map(|()| 0).map_err(Failure::from),
        ["controller", group] => Stage::enter(async |stage: &mut Stage| inside(stage, group).await),
        ["idle", bytes] => kill::idle(bytes),
        ["exit"] => Ok(0),
        asked => outside(asked).map(|()| 0),
    };
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // Nobody is left to tell when standard error is gone.
            let _ = writeln!(io::stderr(), "error: could not be run: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The groups of rows in the order of the table; those between `poet` and `incident` need processes of a run.
const GROUPS: [&str; 9] = [
    "calibration",
    "check",
    "poet",
    "kill",
    "flood",
    "stubs",
    "nodes",
    "load",
    "incident",
];

/// Every group, or those that are asked for, in the order of the table.
fn outside(asked: &[&str]) -> Result<(), Failure> {
    // Cargo adds flags of its own.
    let asked: Vec<&str> = asked
        .iter()
        .copied()
        .filter(|word| !word.starts_with('-'))
        .collect();
    if let Some(unknown) = asked.iter().find(|word| !GROUPS.contains(word)) {
        return Err(format!(
            "there is no group `{unknown}`; groups are {}",
            GROUPS.join(", ")
        )
        .into());
    }
    let runs = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    table::head()?;
    let mut failed = Vec::new();
    // What cannot be run here must not hide the other rows.
    let mut note = |measured: Result<(), Failure>| {
        failed.extend(measured.err().map(|error| error.to_string()));
    };
    let wanted = |group: &&str| asked.is_empty() || asked.contains(group);
    for group in GROUPS.iter().filter(|group| wanted(group)) {
        match *group {
            "calibration" => note(calibration::rows(runs.path())),
            "check" => note(commands::check(runs.path())),
            "poet" => note(poet::work()),
            "incident" => note(commands::incident(runs.path())),
            group => match supervised(runs.path(), group)? {
                Ended::Interrupted => return Err("interrupted".into()),
                Ended::Measured => {}
                Ended::Failed(why) => note(Err(why.into())),
            },
        }
    }
    table::foot()?;
    if failed.is_empty() {
        Ok(())
    } else {
        Err(failed.join("\n").into())
    }
}

/// How a group of rows ended.
enum Ended {
    Measured,
    Interrupted,
    Failed(String),
}

/// Measures a group of rows in a controller of its own, so that one does not inherit the memory of another.
fn supervised(runs: &Path, group: &str) -> Result<Ended, Failure> {
    let ended = supervise(&SuperviseConfig {
        runs: runs.to_owned(),
        watchdog: vec!["watchdog".into()],
        controller: vec!["controller".into(), group.into()],
        interrupt_grace: Duration::ZERO,
        input: Vec::new(),
    })?;
    Ok(match (ended.code, ended.left.as_slice()) {
        (0, []) => Ended::Measured,
        (130 | 143, []) => Ended::Interrupted,
        (code, left) => Ended::Failed(format!(
            "{group}: the controller ended with {code} ({}); left behind: {left:?}",
            ended.reason.as_deref().unwrap_or("its error is above")
        )),
    })
}

/// The rows that need processes of a run; called in the controller.
async fn inside(stage: &mut Stage, group: &str) -> Result<(), Failure> {
    match group {
        "kill" => kill::rows(stage).await,
        "flood" => flood::rows(stage).await,
        "stubs" => {
            hundred::start(
                stage,
                &hundred::stubs()?,
                "100 stub nodes: spawn -> last ready",
            )
            .await
        }
        "nodes" => {
            let what = "100 bundled nodes: spawn -> last ready";
            hundred::start(stage, &hundred::nodes("250ms")?, what).await
        }
        "load" => hundred::load(stage, &hundred::nodes("7.5s")?).await,
        other => Err(format!("there is no group `{other}`").into()),
    }
}
