//! `healthy`: whether a page answers, or a file is there. For health checks in images that hold nothing else.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tweedledum_harness::observe::poll::http_client;
use tweedledum_harness::observe::ready::{Ready, until_ready};

use super::Failure;
use crate::printer::Printer;

/// How long an answer may take.
const BOUND: Duration = Duration::from_secs(2);

/// `healthy`
#[derive(Debug, Args)]
pub(crate) struct HealthyArgs {
    /// A page that must answer with status 200, as `http://10.117.0.10:9090/v1/nodestatus`
    #[arg(long, value_name = "URL", required_unless_present = "file")]
    url: Option<String>,
    /// A file that must be there
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

pub(crate) fn run(args: &HealthyArgs, printer: &Printer) -> Result<u8, Failure> {
    if let Some(file) = &args.file {
        fs_err::metadata(file)?;
    }
    let Some(url) = args.url.clone() else {
        return Ok(0);
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let client = http_client(None).map_err(|error| Failure::Substrate(error.to_string()))?;
        let status = 200;
        let page = Ready::Http {
            client,
            url,
            status,
        };
        match until_ready(&"it".into(), page, BOUND).await {
            Ok(_) => Ok(0),
            Err(error) => {
                printer.note(&error.to_string());
                Ok(1)
            }
        }
    })
}
