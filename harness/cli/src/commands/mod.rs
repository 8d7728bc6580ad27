//! One file per subcommand. Each returns an exit code or a [`Failure`], and prints through the printer it is given.

pub(crate) mod agent;
pub(crate) mod check;
pub(crate) mod clean;
pub(crate) mod completions;
pub(crate) mod internal;
pub(crate) mod judge;
pub(crate) mod judged;
pub(crate) mod list;
pub(crate) mod plan;
pub(crate) mod run;
pub(crate) mod schema;

use std::io::Read as _;
use std::path::Path;

use tweedledum_core::plan::{PLAN_BYTES_MAX, Plan, parse, render};
use tweedledum_core::schedule::Schedule;

use crate::catalogue;
use crate::printer::Printer;

/// Why a subcommand could not do what it was asked: a message and an exit code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A plan has mistakes; they are rendered already.
    #[error("{rendered}")]
    Plan {
        /// All of them, with snippets.
        rendered: String,
    },
    /// The command line asks for something that does not exist.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do next.
        hint: String,
    },
    /// A file could not be read or written.
    #[error("{0}")]
    File(#[from] std::io::Error),
    /// The substrate could not run it.
    #[error("{0}")]
    Substrate(String),
}

impl Failure {
    /// The exit code (README has the table).
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Plan { .. } | Self::Usage { .. } | Self::File(_) => 2,
            Self::Substrate(_) => 4,
        }
    }
}

/// Reads and checks a plan: everything that is wrong with it at once.
pub(crate) fn read_plan(path: &Path, printer: &Printer) -> Result<Plan, Failure> {
    let mut bytes = Vec::new();
    // Opening a named pipe would wait for somebody to write into it.
    if !fs_err::metadata(path).map_err(unreadable)?.is_file() {
        let message = format!("{} is not a file", path.display());
        return Err(Failure::Usage {
            message,
            hint: "name a plan, as plans/flood.yaml".to_owned(),
        });
    }
    // One byte more than is allowed tells a plan that is too long without reading all of it.
    let file = fs_err::File::open(path).map_err(unreadable)?;
    file.take(PLAN_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    parse(&bytes, &catalogue::catalogue()).map_err(|diagnostics| Failure::Plan {
        rendered: render(
            &diagnostics,
            &path.display().to_string(),
            &bytes,
            printer.colour(),
        ),
    })
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is what `map_err` hands over"
)]
fn unreadable(error: std::io::Error) -> Failure {
    Failure::Usage {
        message: error.to_string(),
        hint: "name a plan that exists and that you may read, as plans/flood.yaml".to_owned(),
    }
}

/// What a sound plan does for a seed. Draws decide who is hit, so faults that cannot be carried out together show only
/// here.
pub(crate) fn schedule_of(path: &Path, plan: &Plan, seed: u64) -> Result<Schedule, Failure> {
    let schedule = tweedledum_core::schedule::resolve(plan, seed);
    let conflicts = schedule.conflicts();
    if conflicts.is_empty() {
        return Ok(schedule);
    }
    let told = conflicts.iter().map(|(entry, why)| {
        let at = plan
            .timeline
            .iter()
            .find(|other| other.name == *entry)
            .map(|it| it.at_text);
        let at = at.unwrap_or_default();
        format!(
            "{}:{}:{}: `{entry}` cannot be carried out: {why}",
            path.display(),
            at.line,
            at.column
        )
    });
    Err(Failure::Usage {
        message: told.collect::<Vec<_>>().join("\nerror: "),
        hint: format!(
            "let the earlier fault end first, or pick other targets (drawn with seed {seed})"
        ),
    })
}
