//! Parts of a run that it starts itself: watchdog, controller, shim, keeper; and what `doctor` tries things on. Users never
//! call them.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use tweedledum_harness::substrate::process::shim_main;
use tweedledum_harness::supervise;

use crate::args::RunArgs;
use crate::printer::Printer;

/// `internal`
#[derive(Debug, Args)]
pub(crate) struct InternalArgs {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Removes everything of a run when its stub dies
    Watchdog,
    /// Conducts a run
    Controller {
        /// The compose project that the nodes are of
        #[arg(long, value_name = "PROJECT")]
        attach: Option<String>,
        #[command(flatten)]
        run: RunArgs,
    },
    /// Shows that a run on an engine lives
    Keeper,
    /// Is what `doctor` tries things on
    Scratch { words: Vec<OsString> },
    /// Waits for its go, then becomes a node
    #[command(trailing_var_arg = true, allow_hyphen_values = true)]
    Shim { words: Vec<OsString> },
}

/// The words that make our own executable be one of these parts.
pub(crate) fn words(part: &str) -> Vec<OsString> {
    ["internal", part].map(OsString::from).into()
}

pub(crate) fn run(args: InternalArgs, printer: &Printer) -> ExitCode {
    match args.part {
        Part::Watchdog => match supervise::watchdog_main() {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                printer.note(&format!("error: watchdog: {why}"));
                ExitCode::from(supervise::EXIT_SUBSTRATE)
            }
        },
        Part::Controller { attach, run } => {
            match super::run::control(&run, attach.as_deref(), printer) {
                Ok(code) => ExitCode::from(printer.settle(code)),
                Err(failure) => {
                    printer.failure(&failure);
                    ExitCode::from(printer.settle(failure.code()))
                }
            }
        }
        Part::Keeper => match tweedledum_harness::substrate::docker::inside::keeper_main() {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                printer.note(&format!("error: keeper: {why}"));
                ExitCode::from(supervise::EXIT_SUBSTRATE)
            }
        },
        Part::Scratch { words } => ExitCode::from(tweedledum_harness::doctor::scratch::main(words)),
        Part::Shim { words } => ExitCode::from(shim_main(words)),
    }
}
