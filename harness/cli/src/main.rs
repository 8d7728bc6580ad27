//! The `tweedledum` command: parses the command line, runs one subcommand, picks the exit code.
//!
//! To add a subcommand: one file in `commands/`, one variant in `args.rs`, one arm here. Nobody but [`printer`] prints.

mod args;
mod catalogue;
mod commands;
mod dialect;
mod fit;
mod judged;
mod printer;
mod progress;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Cli, Command};
use crate::printer::Printer;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let printer = Printer::new();
    let outcome = match cli.command {
        Command::Run(args) => commands::run::supervise(&args, &printer),
        Command::Attach(args) => commands::attach::attach(&args, &printer),
        Command::Check(args) => commands::check::run(&args, &printer),
        Command::Plan(args) => commands::plan::run(&args, &printer),
        Command::Judge(args) => commands::judge::run(&args, &printer),
        Command::List(args) => commands::list::run(&args, &printer),
        Command::Schema => commands::schema::run(&printer),
        Command::Doctor(args) => commands::doctor::run(&args, &printer),
        Command::Clean(args) => commands::clean::run(&args, &printer),
        Command::Image => commands::image::run(&printer),
        Command::Network(args) => commands::network::run(&args, &printer),
        Command::Healthy(args) => commands::healthy::run(&args, &printer),
        Command::Completions { shell } => commands::completions::run(shell, &printer),
        Command::Node(args) => return tweedledum_nodes::run(args),
        Command::Agent => return commands::agent::run(&printer),
        Command::Internal(args) => return commands::internal::run(args, &printer),
    };
    match outcome {
        Ok(code) => ExitCode::from(printer.settle(code)),
        Err(failure) => {
            printer.failure(&failure);
            ExitCode::from(printer.settle(failure.code()))
        }
    }
}
