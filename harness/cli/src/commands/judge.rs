//! `judge`: a recorded run again, from nothing but its history.

use std::path::{Path, PathBuf};

use tweedledum_core::history::read;
use tweedledum_core::judge;
use tweedledum_core::report::text;
use tweedledum_core::verdict::Verdict;

use super::Failure;
use super::judged::Judged;
use crate::args::JudgeArgs;
use crate::printer::Printer;

const HISTORY: &str = "history.jsonl";

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
    let Some(judged) = Judged::of(verdicts) else {
        return Err(no_history(&args.run));
    };
    let directory = args.run.display().to_string();
    options.directory = Some(&directory);
    if let Some(summary) = judged.summary(&options) {
        printer.note(&summary);
    }
    judged.print(args.format, printer)?;
    Ok(judged.exit_code().code())
}

/// The history of a run directory, or those of all releases in the directory above, in the order in which they ran.
fn histories(run: &Path) -> Result<Vec<PathBuf>, Failure> {
    let own = run.join(HISTORY);
    if own.is_file() {
        return Ok(vec![own]);
    }
    let mut found = Vec::new();
    for entry in fs_err::read_dir(run)? {
        let history = entry?.path().join(HISTORY);
        if history.is_file() {
            found.push((fs_err::metadata(&history)?.created().ok(), history));
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(no_history(run));
    }
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

fn no_history(run: &Path) -> Failure {
    Failure::Usage {
        message: format!("{} holds no {HISTORY}", run.display()),
        hint: "name a directory that `run` has printed, as runs/flood-20260131T120000-1".to_owned(),
    }
}

fn judge_file(path: &Path) -> Result<Verdict, Failure> {
    let bytes = fs_err::read(path)?;
    judge::judge_history(read::lines(&bytes)).map_err(|error| Failure::Usage {
        message: format!("{}: {error}", path.display()),
        hint: "a history begins with a header that this version can read".to_owned(),
    })
}
