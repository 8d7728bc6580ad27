//! The gateway: a node that makes nothing and passes everything on.

use crate::run;
use crate::settings::Settings;
use std::process::ExitCode;

/// Flags of a gateway.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Gateway {
    #[command(flatten)]
    settings: Settings,
}

impl Gateway {
    pub(crate) fn run(self) -> ExitCode {
        run::run(self.settings, "gateway", |_, _| {})
    }
}
