//! Events: one JSON object per line on stdout, `{"t":<unix ns>,"event":"<name>",...}`.
//!
//! A line is written at once or not at all: a reader that stopped reading costs lines, which are
//! counted, and never the node, whose only thread must not block on a full pipe. The next line that
//! goes through is preceded by an `events-dropped` with their number, so that nobody takes silence for
//! an answer. Text for people goes to stderr through [`say`]. To add an event, call [`emit`]; names are kebab-case.

use serde_json::{Map, Value, json};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A pipe that polls as writable takes this much without blocking (`PIPE_BUF`).
const LINE_MAX: usize = 4096;

static DROPPED: AtomicU64 = AtomicU64::new(0);
/// Those of them that were not told yet.
static UNTOLD: AtomicU64 = AtomicU64::new(0);

/// Lines that were dropped because nobody read them.
pub(crate) fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Writes an event whose fields are those of the object `fields` (use `json!({...})`).
pub(crate) fn emit(event: &str, fields: Value) {
    emit_within(event, fields, Duration::ZERO);
}

/// As [`emit`], but waits up to `patience` for a slow reader: for the last words of a process.
pub(crate) fn emit_within(event: &str, fields: Value, patience: Duration) {
    let now = super::clock::unix_ns();
    let untold = UNTOLD.swap(0, Ordering::Relaxed);
    let told = untold == 0 || {
        let dropped = line(now, "events-dropped", json!({ "count": untold }));
        written(&dropped, patience)
    };
    if !told {
        UNTOLD.fetch_add(untold, Ordering::Relaxed);
    }
    // What comes after a gap that is not told would hide it.
    if !told || !written(&line(now, event, fields), patience) {
        DROPPED.fetch_add(1, Ordering::Relaxed);
        UNTOLD.fetch_add(1, Ordering::Relaxed);
    }
}

fn written(line: &str, patience: Duration) -> bool {
    line.len() <= LINE_MAX && stdout_takes_a_line(patience) && {
        let mut stdout = std::io::stdout().lock();
        stdout
            .write_all(line.as_bytes())
            .and_then(|()| stdout.flush())
            .is_ok()
    }
}

/// Writes a line for people to stderr; nobody listening is no reason to stop.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

fn line(t: u64, event: &str, fields: Value) -> String {
    let Value::Object(fields) = fields else {
        return line(t, event, Value::Object(Map::new()));
    };
    let mut line = format!("{{\"t\":{t},\"event\":{}", Value::from(event));
    for (key, value) in fields {
        line.extend([",", &Value::from(key).to_string(), ":", &value.to_string()]);
    }
    line.push_str("}\n");
    line
}

fn stdout_takes_a_line(patience: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let stdout = std::io::stdout();
    let fd = stdout.as_fd();
    let timeout = Timespec::try_from(patience).ok();
    let mut polled = [PollFd::new(&fd, PollFlags::OUT)];
    match poll(&mut polled, timeout.as_ref()) {
        Ok(ready) => ready > 0 && polled[0].revents().contains(PollFlags::OUT),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_json_object_with_time_and_name_first() {
        let line = line(7, "tx-made", json!({ "layer": 3, "text": "a \"b\"\nc" }));
        assert!(
            line.starts_with("{\"t\":7,\"event\":\"tx-made\","),
            "{line}"
        );
        assert_eq!(line.matches('\n').count(), 1);
        let back: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(back["text"], "a \"b\"\nc");
        assert_eq!(back["layer"], 3);
    }
}
