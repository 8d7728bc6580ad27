//! `clean`: removes what dead runs have left, and nothing else.

use tweedledum_harness::undo;

use super::Failure;
use crate::args::CleanArgs;
use crate::printer::Printer;

pub(crate) fn run(args: &CleanArgs, printer: &Printer) -> Result<u8, Failure> {
    let report = undo::clean(&args.runs).map_err(|error| Failure::Substrate(error.to_string()))?;
    for run in &report.runs {
        printer.note(&format!("{}: {:?}", run.intents.display(), run.state));
    }
    if report.runs.is_empty() {
        printer.note("nothing to clean");
    }
    Ok(if report.anything_left() { 5 } else { 0 })
}
