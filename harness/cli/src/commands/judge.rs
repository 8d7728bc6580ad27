//! `judge`: a recorded run again, from nothing but its history.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use tweedledum_core::judge::{self, RunResult};
use tweedledum_core::report;

use super::Failure;
use crate::args::{Format, JudgeArgs};
use crate::printer::Printer;

const HISTORY: &str = "history.jsonl";

pub(crate) fn run(args: &JudgeArgs, printer: &Printer) -> Result<u8, Failure> {
    let histories = histories(&args.run)?;
    let mut results = Vec::new();
    for path in &histories {
        let result = judge_file(path)?;
        let directory = path.parent().unwrap_or(path);
        printer.note(&report::text::render(&result.verdict, &directory.display().to_string(), printer.colour()));
        results.push(result);
    }
    // The directory of one release is judged plainly; the one above it, by what its controls had to give.
    let single = args.run.join(HISTORY).is_file();
    let code = if single {
        results[0].verdict.exit_code()
    } else {
        printer.note(&report::text::comparison(&results, &args.run.display().to_string(), printer.colour()));
        judge::overall(&results)
    };
    match args.format {
        Format::Text => {}
        Format::Json if single => printer.json(&report::json::render(&results[0].verdict)),
        Format::Json => printer.json(&report::json::comparison(&results)),
        Format::Junit => printer.text(&report::junit::render(&results)),
    }
    Ok(code.code())
}

/// The history of a run directory, or those of all releases in the directory above.
fn histories(run: &Path) -> Result<Vec<PathBuf>, Failure> {
    let own = run.join(HISTORY);
    if own.is_file() {
        return Ok(vec![own]);
    }
    let mut found = Vec::new();
    for entry in fs_err::read_dir(run)? {
        let history = entry?.path().join(HISTORY);
        if history.is_file() {
            found.push(history);
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(Failure::Usage {
            message: format!("{} holds no {HISTORY}", run.display()),
            hint: "name a directory that `run` has printed, as runs/flood-20260131T120000-1".to_owned(),
        });
    }
    Ok(found)
}

fn judge_file(path: &Path) -> Result<RunResult, Failure> {
    let file: File = fs_err::File::open(path)?.into_parts().0;
    let lines = BufReader::new(file).split(b'\n');
    let verdict = judge::judge_lines(lines).map_err(|error| Failure::Usage {
        message: format!("{}: {error}", path.display()),
        hint: "a history begins with a header of format 1".to_owned(),
    })?;
    let control = verdict.run.control.clone();
    Ok(RunResult::new(control.as_ref(), verdict))
}
