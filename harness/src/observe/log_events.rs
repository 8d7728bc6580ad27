//! Finds events among the lines of one stream.

use std::collections::BTreeSet;
use std::sync::Arc;

use regex::Regex;
use serde::Deserialize;
use tokio::sync::watch;

use super::lines::{Line, LineSplitter};
use super::logs::LogCounts;
use super::{LogEvent, NodeName};
use crate::clock::monotonic_ns;

/// Finds events in one stream.
#[derive(Debug)]
pub(super) struct Parser {
    pub(super) splitter: LineSplitter,
    pub(super) finder: Finder,
}

/// Finds events in lines.
#[derive(Debug)]
pub(super) struct Finder {
    pub(super) node: NodeName,
    /// Whether these are words of earlier lives.
    pub(super) former: bool,
    /// Names of events to look for; `None` on stderr, which is text.
    pub(super) wanted: Option<Arc<BTreeSet<String>>>,
    /// The pattern of a line to look for, and whom to tell of the first.
    pub(super) ready_line: Option<(Regex, Arc<watch::Sender<Option<String>>>)>,
}

impl Parser {
    pub(super) fn feed(
        &mut self,
        chunk: &[u8],
        counts: &mut LogCounts,
        events: &mut Vec<LogEvent>,
    ) {
        let Self { splitter, finder } = self;
        splitter.feed(chunk, |line| finder.take(&line, counts, events));
    }

    pub(super) fn finish(&mut self, counts: &mut LogCounts, events: &mut Vec<LogEvent>) {
        let Self { splitter, finder } = self;
        splitter.finish(|line| finder.take(&line, counts, events));
    }
}

impl Finder {
    fn take(&mut self, line: &Line<'_>, counts: &mut LogCounts, events: &mut Vec<LogEvent>) {
        counts.lines += 1;
        if let (Some((regex, matched)), Line::Whole(bytes)) = (&self.ready_line, line) {
            let text = String::from_utf8_lossy(bytes);
            if regex.is_match(&text) {
                matched.send_if_modified(|first| {
                    let is_first = first.is_none();
                    first.get_or_insert_with(|| text.into_owned());
                    is_first
                });
                self.ready_line = None;
            }
        }
        let Some(wanted) = &self.wanted else { return };
        match classify(line, wanted) {
            LineKind::Garbage => counts.garbage += 1,
            LineKind::Unwanted => counts.unwanted += 1,
            LineKind::TooDeep => counts.too_deep += 1,
            LineKind::Event(event, fields) => {
                counts.events += 1;
                let (node, t_ns) = (Arc::clone(&self.node), monotonic_ns());
                events.push(LogEvent {
                    node,
                    former: self.former,
                    t_ns,
                    event,
                    fields,
                });
            }
        }
    }
}

/// How deep objects and lists of an event may stand in one another. Readers of JSON give up at some depth, ours at 128, and
/// a record of the history and a verdict each add a few levels of their own.
pub(super) const DEPTH_MAX: usize = 32;

/// How deep the objects and lists of a JSON text stand in one another.
fn depth(json: &[u8]) -> usize {
    let (mut deepest, mut depth) = (0_usize, 0_usize);
    let (mut quoted, mut escaped) = (false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// What a line of stdout is.
enum LineKind {
    Garbage,
    Unwanted,
    /// A wanted event that nobody could read from the history again.
    TooDeep,
    Event(String, serde_json::Map<String, serde_json::Value>),
}

fn classify(line: &Line<'_>, wanted: &BTreeSet<String>) -> LineKind {
    /// Only the name is built before it is known that somebody wants the rest.
    #[derive(Deserialize)]
    struct Head {
        event: String,
    }

    let Line::Whole(bytes) = line else {
        return LineKind::Garbage;
    };
    // An array would pass for a struct, and most garbage is told by its first byte.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return LineKind::Garbage;
    }
    let Ok(head) = serde_json::from_slice::<Head>(bytes) else {
        return LineKind::Garbage;
    };
    if !wanted.contains(&head.event) {
        return LineKind::Unwanted;
    }
    if depth(bytes) > DEPTH_MAX {
        return LineKind::TooDeep;
    }
    match serde_json::from_slice(bytes) {
        Ok(fields) => LineKind::Event(head.event, fields),
        Err(_) => LineKind::Garbage,
    }
}
