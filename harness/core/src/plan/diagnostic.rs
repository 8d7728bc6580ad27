//! One thing that is wrong with a plan: where, what, why, and what to do next.

use serde::Serialize;

/// A stretch of a plan's text in bytes, with the line and column of its start (both from 1, columns in characters).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct SourceSpan {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// Line of the first byte.
    pub line: usize,
    /// Column of the first byte.
    pub column: usize,
}

/// A mistake in a plan. All of a plan's mistakes are reported at once, in the order of its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Where in the text.
    pub at: SourceSpan,
    /// The key path, as `timeline[2].flood-sessions.sources`; empty for the whole document.
    pub path: String,
    /// What is wrong and why: a lower-case fragment.
    pub message: String,
    /// What to do next, where there is something to say.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// A mistake at a place, without a hint.
    pub fn new(at: SourceSpan, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            at,
            path: path.into(),
            message: message.into(),
            hint: None,
        }
    }

    /// The same with what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
