//! Reading a history line by line: what is a record, what is a later format's, what is damage.
//!
//! To support another major version, add its reader here and keep this one. Whether the records are complete is not
//! asked here but by [`crate::judge::Judge`], which sees live records too.

use serde::Deserialize;

use super::{FORMAT, Record};

/// A line of a history.
#[derive(Debug, Clone, PartialEq)]
pub enum Line {
    /// A record of a known kind.
    Record(Box<Record>),
    /// A record of a kind that a later minor version added: it counts, and says nothing to us.
    Unknown {
        /// Its number.
        seq: u64,
        /// When, in monotonic nanoseconds.
        t_ns: u64,
        /// Its kind.
        kind: String,
    },
}

/// Why a history, or a line of it, cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The line is not a record.
    #[error("line {line} is not a record ({why}); the file was damaged after it was written")]
    Garbage {
        /// From 1.
        line: u64,
        /// What the JSON reader says.
        why: String,
    },
    /// The last line has no end.
    #[error("line {line} breaks off in the middle; the writer was stopped before it was done")]
    Truncated {
        /// From 1.
        line: u64,
    },
    /// Written by another major version.
    #[error(
        "the history is of format {found}, this program reads {FORMAT}; judge it with the version that wrote it"
    )]
    Format {
        /// What its header says.
        found: String,
    },
    /// The first line is no header.
    #[error("the history does not begin with a header ({why}), so nothing says what was run")]
    NoHeader {
        /// What was found instead.
        why: String,
    },
    /// The file could not be read to its end.
    #[error("the history could not be read from line {line} on: {why}")]
    Io {
        /// From 1.
        line: u64,
        /// What the system says.
        why: String,
    },
}

/// Every kind this version knows; a line of one of these that does not decode is damage, not the future.
const KINDS: &[&str] = &[
    "header",
    "node",
    "exit",
    "sample",
    "gap",
    "ping",
    "event",
    "step",
    "evidence",
    "limit",
    "impact",
    "layer",
    "interrupt",
    "torn-down",
    "end",
];

#[derive(Deserialize)]
struct Envelope {
    seq: u64,
    t_ns: u64,
    kind: String,
    format: Option<String>,
}

/// Reads one line, without its line feed. `number` counts from 1.
///
/// # Errors
/// [`ReadError::Garbage`] for what is no record, [`ReadError::Format`] for a header of another major version.
pub fn line(text: &str, number: u64) -> Result<Line, ReadError> {
    let garbage = |error: serde_json::Error| ReadError::Garbage {
        line: number,
        why: error.to_string(),
    };
    let envelope: Envelope = serde_json::from_str(text).map_err(garbage)?;
    if let Some(found) = envelope.format.filter(|_| envelope.kind == "header")
        && major(&found) != major(FORMAT)
    {
        return Err(ReadError::Format { found });
    }
    if !KINDS.contains(&envelope.kind.as_str()) {
        return Ok(Line::Unknown {
            seq: envelope.seq,
            t_ns: envelope.t_ns,
            kind: envelope.kind,
        });
    }
    serde_json::from_str(text)
        .map(|record| Line::Record(Box::new(record)))
        .map_err(garbage)
}

/// Reads a whole history. Every item is a line or why it is none; a last line without its line feed is truncated even
/// if it happens to be whole, since the writer ends every record with one.
pub fn lines(text: &[u8]) -> impl Iterator<Item = Result<Line, ReadError>> + '_ {
    text.split_inclusive(|byte| *byte == b'\n')
        .zip(1_u64..)
        .map(|(bytes, number)| raw_line(bytes, number))
}

/// Reads one line as it lies in the file, with its line feed: for callers that read from a stream.
///
/// # Errors
/// As [`line()`], and [`ReadError::Truncated`] without a line feed.
pub fn raw_line(bytes: &[u8], number: u64) -> Result<Line, ReadError> {
    let Some(whole) = bytes.strip_suffix(b"\n") else {
        return Err(ReadError::Truncated { line: number });
    };
    let text = std::str::from_utf8(whole).map_err(|error| ReadError::Garbage {
        line: number,
        why: error.to_string(),
    })?;
    line(text, number)
}

fn major(format: &str) -> &str {
    format.split('.').next().unwrap_or(format)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let found = match line(text, 7) {
            Ok(Line::Record(record)) => format!("record {}", record.seq),
            Ok(Line::Unknown { seq, kind, .. }) => format!("unknown {seq} {kind}"),
            Err(error) => error.to_string(),
        };
        assert!(
            found.starts_with(expected),
            "{text}: {found}, not {expected}"
        );
    }

    #[test]
    fn lines_are_told_apart() {
        check(
            r#"{"seq":3,"t_ns":5,"kind":"ping","node":"a-0","rtt_us":null}"#,
            "record 3",
        );
        check(
            r#"{"seq":3,"t_ns":5,"kind":"limit","node":"a-0","grade":"armed","held":true,"detail":{}}"#,
            "record 3",
        );
        check(
            r#"{"seq":3,"t_ns":5,"kind":"weather","rain":true}"#,
            "unknown 3 weather",
        );
        check(
            r#"{"seq":3,"t_ns":5,"kind":"ping","node":7}"#,
            "line 7 is not a record",
        );
        check("", "line 7 is not a record");
        check("{\"seq\":-1}", "line 7 is not a record");
        check(
            r#"{"seq":0,"t_ns":0,"kind":"header","format":"2.0"}"#,
            "the history is of format 2.0",
        );
        check(
            r#"{"seq":0,"t_ns":0,"kind":"header","format":"1.9"}"#,
            "line 7 is not a record (missing",
        );
    }

    #[test]
    fn a_line_without_its_end_is_truncated() {
        let text = b"{\"seq\":0,\"t_ns\":0,\"kind\":\"x\"}\n{\"seq\":1,\"t_ns\":0,\"kind\":\"x\"}";
        let found: Vec<_> = lines(text).collect();
        assert!(matches!(found[0], Ok(Line::Unknown { .. })));
        assert_eq!(found[1], Err(ReadError::Truncated { line: 2 }));
    }
}
