//! Reading a history line by line: what is a record, what is a later format's, what is damage.
//!
//! To support another major version, add its reader here and keep this one. Whether the records are complete is not
//! asked here but by [`crate::judge::Judge`], which sees live records too.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Body, FORMAT, REWRITTEN, Record};

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
    /// What lies before the end is not what its writer wrote.
    #[error(
        "the lines before the end have the SHA-256 {found}, and their writer says {written}; the file was changed after it was \
         written: judge an untouched copy, or run the plan again"
    )]
    Digest {
        /// What the end says.
        written: String,
        /// What lies there.
        found: String,
    },
    /// The harness itself did not find what it had written.
    #[error(
        "the history was changed while the run went on: {} bytes of SHA-256 {} were written and {} of {} were there at the end; \
         see which of the nodes writes into the run's directory, or run them with --substrate docker, where they do not see it",
        .written.bytes, .written.sha256, .found.bytes, .found.sha256
    )]
    Rewritten {
        /// What was written.
        written: Extent,
        /// What was there.
        found: Extent,
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

/// A whole history by its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// How many.
    pub bytes: u64,
    /// Their SHA-256 in hex.
    pub sha256: String,
}

/// The digest of a history that is written or read piece by piece.
#[derive(Debug, Clone, Default)]
pub struct Running {
    bytes: u64,
    hash: Sha256,
}

impl Running {
    /// Takes the next bytes.
    pub fn take(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hash.update(bytes);
    }

    /// Everything taken so far.
    pub fn extent(&self) -> Extent {
        Extent {
            bytes: self.bytes,
            sha256: hex::encode(self.hash.clone().finalize()),
        }
    }
}

/// The lines of one history, given in their order as they lie in the file.
#[derive(Debug, Default)]
pub struct Lines {
    number: u64,
    seen: Running,
}

impl Lines {
    /// The next line, and what its digest reveals of those before it when it is the end.
    ///
    /// # Errors
    /// As [`raw_line`].
    pub fn next(&mut self, bytes: &[u8]) -> (Result<Line, ReadError>, Option<ReadError>) {
        self.number += 1;
        let line = raw_line(bytes, self.number);
        let doubt = match &line {
            Ok(Line::Record(record)) => self.contradicts(&record.body),
            _ => None,
        };
        self.seen.take(bytes);
        (line, doubt)
    }

    /// How many lines there were so far.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Everything so far.
    pub fn extent(&self) -> Extent {
        self.seen.extent()
    }

    fn contradicts(&self, body: &Body) -> Option<ReadError> {
        let Body::End(end) = body else {
            return None;
        };
        let written = end.digest.clone()?;
        let found = self.seen.extent().sha256;
        (written != found).then_some(ReadError::Digest { written, found })
    }
}

/// The line that says of a history what was written and what was found.
#[derive(Serialize, Deserialize)]
struct RewrittenLine {
    seq: u64,
    t_ns: u64,
    kind: String,
    written: Extent,
    found: Extent,
}

/// The line, without its line feed, by which the harness says for ever that a history is not what it wrote. It is read
/// as [`ReadError::Rewritten`].
pub fn rewritten(written: Extent, found: Extent) -> impl Serialize {
    RewrittenLine {
        seq: 0,
        t_ns: 0,
        kind: REWRITTEN.to_owned(),
        written,
        found,
    }
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
    if envelope.kind == REWRITTEN {
        let RewrittenLine { written, found, .. } = serde_json::from_str(text).map_err(garbage)?;
        return Err(ReadError::Rewritten { written, found });
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
    let mut lines = Lines::default();
    text.split_inclusive(|byte| *byte == b'\n')
        .flat_map(move |bytes| {
            let (line, doubt) = lines.next(bytes);
            std::iter::once(line).chain(doubt.map(Err))
        })
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
