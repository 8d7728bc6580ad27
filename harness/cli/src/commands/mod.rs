//! One file per subcommand. Each returns an exit code or a [`Failure`], and prints through the printer it is given.

pub(crate) mod agent;
pub(crate) mod attach;
pub(crate) mod check;
pub(crate) mod clean;
pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod healthy;
pub(crate) mod image;
pub(crate) mod internal;
pub(crate) mod judge;
pub(crate) mod list;
pub(crate) mod network;
pub(crate) mod plan;
pub(crate) mod run;
pub(crate) mod schema;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use tweedledum_core::plan::{DIAGNOSTICS_MAX, PLAN_BYTES_MAX, Plan, SourceSpan, parse, render};
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
    parse_plan(path, &read_plan_bytes(path)?, printer)
}

/// Reads a plan as it lies there.
pub(crate) fn read_plan_bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let unreadable = |error| unreadable(path, &error);
    // Opening a named pipe would wait for somebody to write into it, and opening a device may do anything.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        let message = format!("{} is not a file", path.display());
        return Err(Failure::Usage {
            message,
            hint: "name a plan, as plans/flood.yaml".to_owned(),
        });
    }
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    // Of what only looks like a file, as /proc/kmsg does, reading would wait until there is something to read.
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(nonblock)
        .open(path)
        .map_err(unreadable)?;
    // One byte more than is allowed tells a plan that is too long without reading all of it.
    file.take(PLAN_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    Ok(bytes)
}

/// Checks a plan that was read from this path.
pub(crate) fn parse_plan(path: &Path, bytes: &[u8], printer: &Printer) -> Result<Plan, Failure> {
    parse(bytes, &catalogue::catalogue()).map_err(|diagnostics| Failure::Plan {
        rendered: render(
            &diagnostics,
            &path.display().to_string(),
            bytes,
            printer.colour(),
        ),
    })
}

/// A plan that is not there or may not be read, in words of its own: what a system call was asked for helps nobody.
fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    let path = path.display();
    let (message, hint) = match error.kind() {
        std::io::ErrorKind::NotFound => (
            format!("there is no file {path}"),
            "name a plan that exists, as plans/flood.yaml",
        ),
        std::io::ErrorKind::PermissionDenied => (
            format!("{path} may not be read"),
            "let yourself read it, or name another plan",
        ),
        _ => (
            format!("{path} cannot be read: {error}"),
            "name a plan, as plans/flood.yaml",
        ),
    };
    Failure::Usage {
        message,
        hint: hint.to_owned(),
    }
}

/// Run directories need a directory to lie in: a file in the place of one is a slip of the command line.
pub(crate) fn no_file_in_the_way(runs: &Path) -> Result<(), Failure> {
    let absolute = std::path::absolute(runs)?;
    let mut known = absolute.ancestors();
    let nearest = known.find_map(|path| Some((path, std::fs::metadata(path).ok()?)));
    match nearest {
        Some((path, metadata)) if !metadata.is_dir() => Err(Failure::Usage {
            message: format!(
                "run directories cannot be made in {}: {} is not a directory; nothing was started",
                runs.display(),
                path.display()
            ),
            hint: "name another directory with --runs".to_owned(),
        }),
        _ => Ok(()),
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
    let places: BTreeMap<&str, SourceSpan> = plan
        .timeline
        .iter()
        .map(|entry| (entry.name.as_str(), entry.at_text))
        .collect();
    let shown = conflicts.iter().take(DIAGNOSTICS_MAX);
    let mut told: Vec<String> = shown
        .map(|(entry, why)| {
            let at = places.get(entry.as_str()).copied().unwrap_or_default();
            format!(
                "{}:{}:{}: `{entry}` cannot be carried out: {why}",
                path.display(),
                at.line,
                at.column
            )
        })
        .collect();
    let more = conflicts.len().saturating_sub(DIAGNOSTICS_MAX);
    if more > 0 {
        told.push(format!("and {more} more like these"));
    }
    Err(Failure::Usage {
        message: told.join("\nerror: "),
        hint: format!(
            "let the earlier fault end first, which starts again what it has stopped, or pick other targets; what is drawn is \
             drawn with seed {seed}"
        ),
    })
}
