//! `verdict.json`: the verdict as it is, and for several controls their comparison. The serializer escapes what must be.

use serde::Serialize;

use crate::control::Comparison;
use crate::verdict::Verdict;

/// A run's verdict, ending with a line feed.
///
/// # Errors
/// Never in practice: every map has text keys and no number is infinite.
pub fn run(verdict: &Verdict) -> Result<String, serde_json::Error> {
    pretty(verdict)
}

/// A plan's controls, ending with a line feed.
///
/// # Errors
/// As [`run`].
pub fn comparison(comparison: &Comparison) -> Result<String, serde_json::Error> {
    pretty(comparison)
}

fn pretty(value: &impl Serialize) -> Result<String, serde_json::Error> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(text)
}
