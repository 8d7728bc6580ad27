//! `completions`: a script for a shell, from the same definitions as the command line itself.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Failure;
use crate::args::Cli;
use crate::printer::Printer;

pub(crate) fn run(shell: Shell, printer: &Printer) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tweedledum", &mut script);
    printer.text(&String::from_utf8_lossy(&script));
    Ok(0)
}
