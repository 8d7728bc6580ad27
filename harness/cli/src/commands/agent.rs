//! `agent`: what owns a node's pod on the Docker substrate. Runs start it in containers.

use std::process::ExitCode;
use std::sync::Arc;

use tweedledum_harness::substrate::docker::inside::agent_main;
use tweedledum_harness::supervise;

use crate::dialect::UdpSession2020;
use crate::printer::Printer;

/// Its standard output is its line to the harness, so what goes wrong is told on standard error.
pub(crate) fn run(printer: &Printer) -> ExitCode {
    match agent_main(vec![Arc::new(UdpSession2020)]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            printer.note(&format!("error: agent: {why}"));
            ExitCode::from(supervise::EXIT_SUBSTRATE)
        }
    }
}
