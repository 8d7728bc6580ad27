//! The only printer: text for people to standard error, results for programs to standard output.
//!
//! Colour and progress only where a person looks: not when `NO_COLOR` or `CI` is set, nor into files and pipes.
//! A result that could not be written is remembered, and [`Printer::settle`] makes it count.

use std::cell::RefCell;
use std::io::{self, IsTerminal as _};

use tweedledum_core::verdict::ExitCode;

use crate::commands::Failure;

/// Where output goes and how it looks.
#[derive(Debug)]
pub(crate) struct Printer {
    colour: bool,
    progress: bool,
    /// Why the first result that was lost could not be written.
    lost: RefCell<Option<io::Error>>,
}

impl Printer {
    /// What suits the terminal and environment this runs in.
    pub(crate) fn new() -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let terminal = std::io::stderr().is_terminal();
        Self {
            colour: terminal && !set("NO_COLOR"),
            progress: terminal && !set("CI"),
            lost: RefCell::new(None),
        }
    }

    /// Whether to colour what people read.
    pub(crate) fn colour(&self) -> bool {
        self.colour
    }

    /// Whether somebody watches a progress line.
    pub(crate) fn progress(&self) -> bool {
        self.progress
    }

    /// A line for people.
    pub(crate) fn note(&self, text: &str) {
        // Where nobody can be told, nobody can be told that either; exit codes still speak.
        let _ = write_all(&mut io::stderr().lock(), text, true);
    }

    /// A result for people or programs on standard output.
    pub(crate) fn text(&self, text: &str) {
        self.keep(write_all(&mut io::stdout().lock(), text, false));
    }

    /// A result for programs.
    pub(crate) fn json(&self, value: &serde_json::Value) {
        self.keep(write_all(
            &mut io::stdout().lock(),
            &format!("{value:#}"),
            true,
        ));
    }

    fn keep(&self, written: io::Result<()>) {
        match written {
            // A reader that has gone away (`tweedledum list | head`) has what it wanted.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                self.lost.borrow_mut().get_or_insert(error);
            }
            _ => {}
        }
    }

    /// The exit code once results that were lost are counted: who asked for them on standard output has got nothing, so a
    /// pass is none. What counts more than that (a finding, something left behind, an interruption, a wrong plan) stays.
    pub(crate) fn settle(&self, code: u8) -> u8 {
        let Some(lost) = self.lost.borrow_mut().take() else {
            return code;
        };
        self.note(&format!(
            "error: results could not be written to standard output: {lost}\n\nhint: make room there, or write them elsewhere; what `run` found is in its run directory too"
        ));
        if code == ExitCode::Pass.code() || code == ExitCode::Inconclusive.code() {
            ExitCode::Substrate.code()
        } else {
            code
        }
    }

    /// Why something could not be done.
    pub(crate) fn failure(&self, failure: &Failure) {
        let text = match failure {
            Failure::Plan { rendered } => rendered.clone(),
            Failure::Usage { message, hint } => format!("error: {message}\n\nhint: {hint}"),
            other => format!("error: {other}"),
        };
        self.note(&text);
    }
}

fn write_all(to: &mut impl io::Write, text: &str, newline: bool) -> io::Result<()> {
    let end = if newline && !text.ends_with('\n') {
        "\n"
    } else {
        ""
    };
    to.write_all(text.as_bytes())?;
    to.write_all(end.as_bytes())?;
    to.flush()
}
