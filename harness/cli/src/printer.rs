//! The only printer: text for people to standard error, results for programs to standard output.
//!
//! Colour and progress only where a person looks: not when `NO_COLOR` or `CI` is set, nor into files and pipes.

use std::io::IsTerminal as _;

use crate::commands::Failure;

/// Where output goes and how it looks.
#[derive(Debug)]
pub(crate) struct Printer {
    colour: bool,
    progress: bool,
}

impl Printer {
    /// What suits the terminal and environment this runs in.
    pub(crate) fn new() -> Self {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let terminal = std::io::stderr().is_terminal();
        Self {
            colour: terminal && !set("NO_COLOR"),
            progress: terminal && !set("CI"),
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
        write_all(&mut std::io::stderr().lock(), text, true);
    }

    /// A result for people or programs on standard output.
    pub(crate) fn text(&self, text: &str) {
        write_all(&mut std::io::stdout().lock(), text, false);
    }

    /// A result for programs.
    pub(crate) fn json(&self, value: &serde_json::Value) {
        write_all(&mut std::io::stdout().lock(), &format!("{value:#}"), true);
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

/// A reader that has gone away (`tweedledum list | head`) is no reason to complain.
fn write_all(to: &mut impl std::io::Write, text: &str, newline: bool) {
    let end = if newline && !text.ends_with('\n') {
        "\n"
    } else {
        ""
    };
    let _ = to
        .write_all(text.as_bytes())
        .and_then(|()| to.write_all(end.as_bytes()))
        .and_then(|()| to.flush());
}
