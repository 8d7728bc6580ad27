//! `judge`: a recorded run again, from nothing but its history.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use tweedledum_core::history::read::{self, Line};
use tweedledum_core::history::{Body, Header};
use tweedledum_core::judge;
use tweedledum_core::plan::parse;
use tweedledum_core::report::text;
use tweedledum_core::verdict::Verdict;
use tweedledum_harness::store::read_lines;

use super::{Failure, read_plan_bytes};
use crate::args::JudgeArgs;
use crate::catalogue;
use crate::judged::Judged;
use crate::printer::Printer;

const HISTORY: &str = "history.jsonl";
const NAME_A_RUN: &str = "name a directory that `run` has printed, as runs/flood-20260131T120000-1";

pub(crate) fn run(args: &JudgeArgs, printer: &Printer) -> Result<u8, Failure> {
    let mut verdicts = Vec::new();
    let mut options = text::Options {
        colour: printer.colour(),
        ..text::Options::default()
    };
    let histories = histories(&args.run)?;
    for path in &histories {
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
    let planned = planned(&args.run, &histories);
    let Some(judged) = Judged::of(verdicts, planned) else {
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

/// The releases of all controls that the plan in a run directory has. Without that plan nobody knows how many histories
/// there must be, and with another one neither.
fn planned(run: &Path, histories: &[PathBuf]) -> Result<Vec<String>, String> {
    let unknown = |why: &str| format!("which controls there must be is unknown, plan.yaml {why}");
    let bytes = read_plan_bytes(&run.join("plan.yaml")).map_err(|_| unknown("cannot be read"))?;
    let plan = parse(&bytes, &catalogue::catalogue()).map_err(|_| {
        unknown("cannot be read by this version; judge it with the one that ran it")
    })?;
    for history in histories {
        // One without a header is refused by its judge.
        if header(history).is_some_and(|header| header.plan_digest != plan.digest) {
            let of = history.parent().and_then(Path::file_name);
            let of = of.unwrap_or_default().to_string_lossy().into_owned();
            return Err(unknown(&format!(
                "is not the plan that {of} was run with; put that one back"
            )));
        }
    }
    let controls = plan.controls.into_iter();
    Ok(controls.map(|control| control.release).collect())
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
            let began = header(&history).map(|header| header.started_unix_ns);
            found.push((began, history));
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(no_history(run));
    }
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// What a run says of itself, as when it began: the files' times are another matter once they have been copied.
fn header(history: &Path) -> Option<Box<Header>> {
    let mut first = Vec::new();
    BufReader::new(fs_err::File::open(history).ok()?)
        .read_until(b'\n', &mut first)
        .ok()?;
    match read::raw_line(&first, 1) {
        Ok(Line::Record(record)) => match record.body {
            Body::Header(header) => Some(header),
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
