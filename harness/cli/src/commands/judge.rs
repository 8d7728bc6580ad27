//! `judge`: a recorded run again, from nothing but its history.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use tweedledum_core::history::Body;
use tweedledum_core::history::read::{self, Line};
use tweedledum_core::judge;
use tweedledum_core::plan::parse;
use tweedledum_core::report::text;
use tweedledum_core::verdict::{ExitCode, Verdict, exit_code};
use tweedledum_harness::store::read_lines;

use super::Failure;
use super::judged::Judged;
use crate::args::JudgeArgs;
use crate::catalogue;
use crate::printer::Printer;

const HISTORY: &str = "history.jsonl";
const NAME_A_RUN: &str = "name a directory that `run` has printed, as runs/flood-20260131T120000-1";

pub(crate) fn run(args: &JudgeArgs, printer: &Printer) -> Result<u8, Failure> {
    let mut verdicts = Vec::new();
    let mut options = text::Options {
        colour: printer.colour(),
        ..text::Options::default()
    };
    for path in &histories(&args.run)? {
        let verdict = judge_file(path)?;
        let directory = path.parent().unwrap_or(path).display().to_string();
        printer.note(&text::run(
            &verdict,
            &text::Options {
                directory: Some(&directory),
                ..options
            },
        ));
        verdicts.push(verdict);
    }
    // The directory of one release is judged plainly; the one above it, by what its controls had to give.
    if args.run.join(HISTORY).is_file()
        && let Some(verdict) = verdicts.pop()
    {
        let judged = Judged::Plain(Box::new(verdict));
        judged.print(args.format, printer)?;
        return Ok(judged.exit_code().code());
    }
    let unseen = controls_without_history(&args.run, &verdicts);
    let Some(judged) = Judged::of(verdicts) else {
        return Err(no_history(&args.run));
    };
    let directory = args.run.display().to_string();
    options.directory = Some(&directory);
    if let Some(summary) = judged.summary(&options) {
        printer.note(&summary);
    }
    judged.print(args.format, printer)?;
    let mut codes = vec![judged.exit_code()];
    for control in unseen {
        printer.note(&format!("  undecided  {control}"));
        codes.push(ExitCode::Inconclusive);
    }
    Ok(exit_code(&codes).code())
}

/// Controls of the plan in a run directory that nothing is recorded of: what is there then says nothing of the whole. Without
/// the plan nobody knows how many there must be, and that is no better.
fn controls_without_history(run: &Path, verdicts: &[Verdict]) -> Vec<String> {
    if verdicts.iter().all(|verdict| verdict.run.control.is_none()) {
        return Vec::new();
    }
    let plan = fs_err::read(run.join("plan.yaml"))
        .ok()
        .and_then(|bytes| parse(&bytes, &catalogue::catalogue()).ok());
    let Some(plan) = plan else {
        return vec!["which ones there must be is unknown, plan.yaml cannot be read".to_owned()];
    };
    let seen = |name: &String| verdicts.iter().any(|verdict| verdict.run.release == *name);
    let controls = plan.controls.into_iter().map(|control| control.release);
    controls
        .filter(|name| !seen(name))
        .map(|name| format!("{name}: the plan has this control and there is no history of it; the run was stopped before"))
        .collect()
}

/// The history of a run directory, or those of all releases in the directory above, in the order in which they ran.
fn histories(run: &Path) -> Result<Vec<PathBuf>, Failure> {
    let own = run.join(HISTORY);
    if own.is_file() {
        return Ok(vec![own]);
    }
    let mut found = Vec::new();
    if !run.is_dir() {
        return Err(Failure::Usage {
            message: format!("there is no directory {}", run.display()),
            hint: NAME_A_RUN.to_owned(),
        });
    }
    for entry in fs_err::read_dir(run)? {
        let history = entry?.path().join(HISTORY);
        if history.is_file() {
            found.push((began(&history), history));
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(no_history(run));
    }
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// When a run began by its own account: the files' times are another matter once they have been copied.
fn began(history: &Path) -> Option<u64> {
    let mut first = Vec::new();
    BufReader::new(fs_err::File::open(history).ok()?)
        .read_until(b'\n', &mut first)
        .ok()?;
    match read::raw_line(&first, 1) {
        Ok(Line::Record(record)) => match record.body {
            Body::Header(header) => Some(header.started_unix_ns),
            _ => None,
        },
        _ => None,
    }
}

fn no_history(run: &Path) -> Failure {
    Failure::Usage {
        message: format!("{} holds no {HISTORY}", run.display()),
        hint: NAME_A_RUN.to_owned(),
    }
}

fn judge_file(path: &Path) -> Result<Verdict, Failure> {
    let file = BufReader::new(fs_err::File::open(path)?);
    judge::judge_history(read_lines(file)).map_err(|error| Failure::Usage {
        message: format!("{}: {error}", path.display()),
        hint: "a history begins with a header that this version can read".to_owned(),
    })
}
