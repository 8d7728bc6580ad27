//! `doctor`: tries what faults need, on scratch children and containers, and says what works here.

use std::sync::Arc;

use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tweedledum_core::substrate::SubstrateKind;
use tweedledum_core::verdict::ExitCode;
use tweedledum_harness::doctor::{self, Kit, Stop};
use tweedledum_harness::substrate::docker::run::Words;

use super::{Failure, internal};
use crate::args::substrates;
use crate::dialect::UdpSession2020;
use crate::printer::Printer;

/// `doctor`
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Where nodes would live [default: all of them]
    #[arg(long, value_parser = substrates(), value_name = "WHERE")]
    substrate: Option<SubstrateKind>,
    /// What is written to standard output
    #[arg(long, value_enum, default_value_t = Form::Text)]
    format: Form,
}

/// Forms of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people
    Text,
    /// For programs
    Json,
}

pub(crate) fn run(args: &DoctorArgs, printer: &Printer) -> Result<u8, Failure> {
    let words = |part| internal::words(part).into_iter();
    let text = |part| words(part).map(|word| word.to_string_lossy().into_owned());
    let kit = Kit {
        shim: words("shim").collect(),
        scratch: text("scratch").collect(),
        words: Words {
            agent: vec!["agent".to_owned()],
            keeper: text("keeper").collect(),
        },
        dialect: Arc::new(UdpSession2020),
    };
    let bar = if printer.progress() {
        ProgressBar::new_spinner()
    } else {
        ProgressBar::hidden()
    };
    let progress = |what: &str| {
        bar.set_message(what.to_owned());
        bar.tick();
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| cannot(&error))?;
    let examined: std::io::Result<_> = runtime.block_on(async {
        let (stop, mut listening) = (Stop::default(), JoinSet::new());
        let ends = [
            (signal(SignalKind::interrupt())?, ExitCode::Interrupted),
            (signal(SignalKind::terminate())?, ExitCode::Terminated),
        ];
        for (signal, code) in ends {
            listening.spawn(listen(signal, stop.clone(), code));
        }
        let report = doctor::examine(&kit, args.substrate, &stop, &progress).await?;
        let interrupted = match listening.try_join_next() {
            Some(Ok(code)) => Some(code),
            _ => None,
        };
        Ok((report, interrupted))
    });
    bar.finish_and_clear();
    let (report, interrupted) = examined.map_err(|error| cannot(&error))?;
    match args.format {
        Form::Text => printer.text(&report.text()),
        Form::Json => printer.json(&json!(report)),
    }
    let code = match interrupted {
        Some(code) => code,
        None if !report.left.is_empty() => ExitCode::Left,
        None if report.everything_asked_runs() => ExitCode::Pass,
        None => ExitCode::Substrate,
    };
    Ok(code.code())
}

/// What nothing can be tried without.
fn cannot(error: &std::io::Error) -> Failure {
    Failure::Substrate(format!("nothing can be tried on this machine: {error}"))
}

/// Waits for a signal, and asks the examination to end after the step that it is at.
async fn listen(mut signal: Signal, stop: Stop, code: ExitCode) -> ExitCode {
    signal.recv().await;
    stop.ask();
    code
}
