//! `clean`: removes what dead runs have left, and nothing else.

use std::fmt::Write as _;
use std::path::Path;

use tweedledum_core::verdict::ExitCode;
use tweedledum_harness::substrate::process::Leftover;
use tweedledum_harness::undo::{self, CleanedRun, RunState};

use super::Failure;
use crate::args::CleanArgs;
use crate::printer::Printer;

pub(crate) fn run(args: &CleanArgs, printer: &Printer) -> Result<u8, Failure> {
    let report = undo::clean(&args.runs).map_err(|error| Failure::Substrate(error.to_string()))?;
    for run in &report.runs {
        printer.note(&told(run));
    }
    if report.runs.is_empty() {
        printer.note(&nothing(&args.runs));
    }
    let code = if report.anything_left() {
        ExitCode::Left
    } else {
        ExitCode::Pass
    };
    Ok(code.code())
}

/// A directory that is not there may be a mistyped one.
fn nothing(runs: &Path) -> String {
    let there = if runs.exists() {
        ""
    } else {
        ", which is not there"
    };
    format!("nothing to clean in {}{there}", runs.display())
}

/// One run in words, with what is left of it and what to do about that.
fn told(run: &CleanedRun) -> String {
    let intents = run.intents.display();
    let mut text = match &run.state {
        RunState::Live => format!("{intents}: the run lives; nothing was touched"),
        RunState::Elsewhere => format!(
            "{intents}: the run was started in another pid namespace of this machine (in a container, or outside of this one), \
             and only there anybody can tell whether it lives; nothing was touched: run `tweedledum clean` there, or remove the \
             file if that container is gone"
        ),
        RunState::Cleaned { killed: 0 } if run.removed + run.brought_up == 0 => {
            format!("{intents}: the run is dead and nothing of it was found")
        }
        RunState::Cleaned { killed } => {
            format!(
                "{intents}: the run was dead; {} killed{}{}, nothing is left",
                processes(*killed),
                things(run.removed),
                brought_up(run.brought_up)
            )
        }
        RunState::Left { killed, left } => {
            let mut text = format!(
                "{intents}: the run was dead; {} killed{}{}, and this is left:",
                processes(*killed),
                things(run.removed),
                brought_up(run.brought_up)
            );
            for left in left {
                let _ = write!(text, "\n  {}", what_is_left(left));
            }
            text.push_str(
                "\n  hint: end these yourself if they are yours, then run `tweedledum clean` again",
            );
            text
        }
        RunState::Unreadable { why } => format!(
            "{intents}: nothing was touched, since the file, in which a run records what it makes, does not say whose it is: {why}; \
             remove it if no run made it, or once you have seen that nothing of the run is left"
        ),
    };
    for directory in &run.directories {
        let _ = write!(text, "\n  its results are in {}", directory.display());
    }
    text
}

pub(super) fn what_is_left(left: &Leftover) -> String {
    // Of some things only their sockets can be seen, and what is on an engine is no process here.
    if left.pid == 0 {
        return left.why.clone();
    }
    format!("process {} ({}): {}", left.pid, left.comm, left.why)
}

fn processes(count: usize) -> String {
    match count {
        1 => "1 process was".to_owned(),
        _ => format!("{count} processes were"),
    }
}

/// Containers, volumes and networks, if there were any.
fn things(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => ", 1 thing was removed from its container engine".to_owned(),
        _ => format!(", {count} things were removed from its container engine"),
    }
}

/// Containers that somebody else's project has, if any were down.
fn brought_up(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => ", 1 container that it had stopped runs again".to_owned(),
        _ => format!(", {count} containers that it had stopped run again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_told_in_words() {
        let left = |pid, why: &str| Leftover {
            pid,
            comm: "daemon".to_owned(),
            why: why.to_owned(),
        };
        let states = [
            (
                RunState::Live,
                "runs/.intents/x.jsonl: the run lives; nothing was touched",
            ),
            (RunState::Elsewhere, "another pid namespace of this machine"),
            (
                RunState::Cleaned { killed: 0 },
                "the run is dead and nothing of it was found",
            ),
            (
                RunState::Cleaned { killed: 1 },
                "1 process was killed, nothing is left",
            ),
            (
                RunState::Left {
                    killed: 2,
                    left: vec![left(7, "still in state D"), left(0, "udp 127.1.2.3:7")],
                },
                "2 processes were killed, and this is left:\n  process 7 (daemon): still in state D\n  udp 127.1.2.3:7\n",
            ),
            (
                RunState::Unreadable {
                    why: "it is empty".to_owned(),
                },
                "whose it is: it is empty",
            ),
        ];
        for (state, words) in states {
            let run = CleanedRun {
                intents: "runs/.intents/x.jsonl".into(),
                directories: vec!["/runs/y".into()],
                removed: 0,
                brought_up: 0,
                state,
            };
            let text = told(&run);
            assert!(text.contains(words), "{text}");
            assert!(text.ends_with("its results are in /runs/y"), "{text}");
            assert!(!text.contains('{') && !text.contains("Left"), "{text}");
        }
    }
}
