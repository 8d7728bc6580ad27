//! What the YAML says: a tree of nodes with their places, before anything is given a meaning.
//!
//! Scalars stay text, so that a number too large for any type is a mistake with a place and not the end of parsing.
//! Refused here, with the reason: documents that are too large, too deep or not UTF-8, several documents, tags, anchors
//! and aliases, keys that are not text, duplicate keys, control characters. This is the only module that knows the YAML
//! library: its event parser, since its typed layer stops at the first mistake and expands aliases. What keys mean is
//! the business of [`super::decode`].

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_saphyr::granit_parser::{
    self, ErrorKind, Event, Parser, ScalarStyle, ScanError, Span, StrInput,
};

use super::{Diagnostic, SourceSpan};

/// The largest plan in bytes: twice what ten thousand timeline entries of ordinary length take (1.0 MiB was measured).
pub const PLAN_BYTES_MAX: usize = 2 << 20;

/// Plans of this format nest nine levels; each level is a stack frame of the reader below.
const DEPTH_MAX: usize = 32;

/// A node of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    /// Where it is; of a mapping or list, from its first to its last part.
    pub(super) span: SourceSpan,
    /// What it is.
    pub(super) kind: Kind,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text, escapes resolved.
    Scalar {
        /// The text.
        text: String,
        /// Neither quoted nor a block, so that YAML could take it for another type.
        plain: bool,
    },
    /// A list.
    List(Vec<Node>),
    /// Keys and values in the order of the text, no key twice.
    Map(Vec<(Key, Node)>),
    /// Refused and reported already: nothing more is to be said about it.
    Broken,
}

/// A key of a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    /// Where it is.
    pub(super) span: SourceSpan,
    /// What it says.
    pub(super) text: String,
}

impl Node {
    /// What it is, for messages: "a list".
    pub(super) fn describe(&self) -> String {
        match &self.kind {
            Kind::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null") => {
                "nothing".to_owned()
            }
            Kind::Scalar { text, .. } => format!("`{}`", shorten(text)),
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) | Kind::Broken => "a mapping".to_owned(),
        }
    }
}

/// Text for a message: one line, at most 60 characters, control characters visible.
pub(super) fn shorten(text: &str) -> String {
    let mut shown = String::new();
    for (at, c) in text.chars().enumerate() {
        if at == 60 {
            shown.push('…');
            break;
        }
        if c.is_control() {
            shown.extend(c.escape_debug());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Reads one document. Mistakes that leave a tree go to `wrong`.
///
/// # Errors
/// What keeps it from being read any further.
pub(super) fn read(bytes: &[u8], wrong: &mut Vec<Diagnostic>) -> Result<Node, Diagnostic> {
    let text = text_of(bytes)?;
    let options = granit_parser::options! {
        emit_comments: false,
        emit_unresolved_aliases: true,
        flow_nesting_limit: DEPTH_MAX + 1,
        block_nesting_limit: DEPTH_MAX + 1,
    };
    let mut reader = Reader {
        parser: Parser::new_from_str_with_options(text, options),
        bytes: text.len(),
        wrong,
        reported: BTreeSet::new(),
        way: Vec::new(),
    };
    reader.document().map_err(|stop| match stop {
        Stop::Ours(diagnostic) => diagnostic,
        Stop::Syntax(error) => unreadable(text, &error),
    })
}

fn text_of(bytes: &[u8]) -> Result<&str, Diagnostic> {
    if bytes.len() > PLAN_BYTES_MAX {
        let start = SourceSpan {
            start: 0,
            end: 0,
            line: 1,
            column: 1,
        };
        let why = format!("the plan is larger than 2 MiB ({PLAN_BYTES_MAX} bytes)");
        return Err(Diagnostic::new(start, "", why)
            .hint("give the path of a plan; ten thousand lines have about 1 MiB"));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let start = error.valid_up_to();
        let before = std::str::from_utf8(&bytes[..start]).unwrap_or_default();
        let mut at = place_of(before);
        at.end = start + error.error_len().unwrap_or(bytes.len() - start);
        let why = format!("byte 0x{:02x} is not UTF-8", bytes[start]);
        Diagnostic::new(at, "", why).hint("save the plan as UTF-8")
    })
}

/// The place right after `before`, which is all text from the start.
fn place_of(before: &str) -> SourceSpan {
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    SourceSpan {
        start: before.len(),
        end: before.len(),
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
    }
}

/// Why reading ended early.
enum Stop {
    Ours(Diagnostic),
    Syntax(ScanError),
}

struct Reader<'a, 'w> {
    parser: Parser<'a, StrInput<'a>>,
    bytes: usize,
    wrong: &'w mut Vec<Diagnostic>,
    /// Refused features that were reported: once is enough for each.
    reported: BTreeSet<&'static str>,
    /// Where the reader is: keys and places in lists. Key paths are made of it only when something is wrong.
    way: Vec<Step>,
}

enum Step {
    Key(String),
    Item(usize),
}

impl<'a> Reader<'a, '_> {
    fn next(&mut self) -> Result<(Event<'a>, SourceSpan), Stop> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => {
                let span = self.place(span);
                Ok((event, span))
            }
            Some(Err(error)) => Err(Stop::Syntax(error)),
            None => Ok((
                Event::StreamEnd,
                SourceSpan {
                    start: self.bytes,
                    end: self.bytes,
                    line: 1,
                    column: 1,
                },
            )),
        }
    }

    fn place(&self, span: Span) -> SourceSpan {
        let range = span.byte_range().unwrap_or(self.bytes..self.bytes);
        SourceSpan {
            start: range.start,
            end: range.end,
            line: span.start.line(),
            column: span.start.col() + 1,
        }
    }

    fn document(&mut self) -> Result<Node, Stop> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::DocumentStart(..) => break,
                Event::StreamEnd => {
                    let why = "the plan is empty";
                    let empty = Diagnostic::new(span, "", why)
                        .hint("start with `format: 1`, then `plan: NAME`");
                    return Err(Stop::Ours(empty));
                }
                _ => {}
            }
        }
        let (event, span) = self.next()?;
        let root = self.node(event, span)?;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::DocumentStart(..) => {
                    let second = Diagnostic::new(span, "", "a second document starts here")
                        .hint("one file holds one plan: remove the `---`");
                    return Err(Stop::Ours(second));
                }
                Event::StreamEnd => return Ok(root),
                _ => {}
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: SourceSpan) -> Result<Node, Stop> {
        if self.way.len() > DEPTH_MAX {
            return Err(Stop::Ours(too_deep(span)));
        }
        let tagged = event.tag().is_some();
        let anchored = match &event {
            Event::Scalar(_, _, anchor, _)
            | Event::SequenceStart(_, anchor, _)
            | Event::MappingStart(_, anchor, _) => *anchor != 0,
            _ => false,
        };
        let mut node = match event {
            Event::Scalar(text, style, ..) => self.scalar(text, style, span),
            Event::SequenceStart(..) => self.list(span)?,
            Event::MappingStart(..) => self.map(span)?,
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                let why = "aliases (`*name`) are not read in plans: they hide what a line means, and nested ones explode";
                self.report_once(span, why, "write the value out");
                Node {
                    span,
                    kind: Kind::Broken,
                }
            }
            other => unreachable!("the parser gave {other:?} where a node starts"),
        };
        if tagged {
            self.report_once(
                span,
                "tags (`!type`) mean nothing in plans",
                "remove the tag",
            );
            node.kind = Kind::Broken;
        } else if anchored {
            self.report_once(
                span,
                "anchors (`&name`) are not read in plans",
                "remove the anchor",
            );
        }
        Ok(node)
    }

    fn scalar(&mut self, text: Cow<'_, str>, style: ScalarStyle, span: SourceSpan) -> Node {
        if let Some(c) = text
            .chars()
            .find(|c| c.is_control() && !matches!(c, '\n' | '\t'))
        {
            let why = format!("text holds the control character U+{:04X}", u32::from(c));
            self.report(
                span,
                &why,
                "remove it: plans are printed on terminals and in reports",
            );
            return Node {
                span,
                kind: Kind::Broken,
            };
        }
        let plain = style == ScalarStyle::Plain;
        // The parser calls an absent value `~`; here it is what stands in the text: nothing.
        let absent = plain && span.start == span.end;
        let text = if absent {
            String::new()
        } else {
            text.into_owned()
        };
        Node {
            span,
            kind: Kind::Scalar { text, plain },
        }
    }

    fn list(&mut self, span: SourceSpan) -> Result<Node, Stop> {
        let mut items: Vec<Node> = Vec::new();
        loop {
            let (event, at) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                let end = end_of(at, items.last());
                return Ok(Node {
                    span: SourceSpan { end, ..span },
                    kind: Kind::List(items),
                });
            }
            self.way.push(Step::Item(items.len()));
            items.push(self.node(event, at)?);
            self.way.pop();
        }
    }

    fn map(&mut self, span: SourceSpan) -> Result<Node, Stop> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut seen = BTreeSet::new();
        loop {
            let (event, at) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                let end = end_of(at, entries.last().map(|(_, last)| last));
                return Ok(Node {
                    span: SourceSpan { end, ..span },
                    kind: Kind::Map(entries),
                });
            }
            let key = self.key(event, at)?;
            let (event, at) = self.next()?;
            self.way.push(Step::Key(
                key.as_ref()
                    .map_or_else(|| "?".to_owned(), |key| key.text.clone()),
            ));
            let value = self.node(event, at)?;
            if let Some(key) = key {
                self.entry(key, value, &mut entries, &mut seen);
            }
            self.way.pop();
        }
    }

    fn key(&mut self, event: Event<'a>, at: SourceSpan) -> Result<Option<Key>, Stop> {
        self.way.push(Step::Key("?".to_owned()));
        let node = self.node(event, at)?;
        self.way.pop();
        Ok(match node.kind {
            Kind::Scalar { text, .. } => Some(Key {
                span: node.span,
                text,
            }),
            Kind::Broken => None,
            Kind::List(_) | Kind::Map(_) => {
                // `{x}` without quotes is a mapping to YAML: the usual way to get here is a placeholder.
                self.report(
                    at,
                    "a key must be text",
                    "if a placeholder was meant, quote it: \"{name}\"",
                );
                None
            }
        })
    }

    fn entry(
        &mut self,
        key: Key,
        value: Node,
        entries: &mut Vec<(Key, Node)>,
        seen: &mut BTreeSet<String>,
    ) {
        // Most mappings have a handful of keys, for which looking is faster than remembering.
        const FEW: usize = 16;
        let known = match entries.len() {
            0..FEW => entries.iter().any(|(other, _)| other.text == key.text),
            _ => seen.contains(&key.text),
        };
        if key.text == "<<" {
            let why = "merge keys (`<<`) are not read in plans: they hide what a line means";
            self.report_once(key.span, why, "write the keys out");
        } else if known {
            let first = entries.iter().find(|(other, _)| other.text == key.text);
            let line = first.map_or(key.span.line, |(first, _)| first.span.line);
            let why = format!(
                "`{}` is given twice; the first is in line {line}",
                shorten(&key.text)
            );
            self.report(key.span, &why, "remove one of them");
        } else {
            entries.push((key, value));
            match entries.len() {
                0..FEW => {}
                FEW => seen.extend(entries.iter().map(|(key, _)| key.text.clone())),
                _ => seen.extend(entries.last().map(|(key, _)| key.text.clone())),
            }
        }
    }

    fn report(&mut self, at: SourceSpan, why: &str, hint: &str) {
        let path = self
            .way
            .iter()
            .fold(String::new(), |path, step| match step {
                Step::Key(key) => join(&path, key),
                Step::Item(place) => format!("{path}[{place}]"),
            });
        self.wrong.push(Diagnostic::new(at, path, why).hint(hint));
    }

    /// For refused features of YAML, which tend to come in crowds.
    fn report_once(&mut self, at: SourceSpan, why: &'static str, hint: &str) {
        if self.reported.insert(why) {
            self.report(at, why, hint);
        }
    }
}

/// Where a mapping or list ends: at its bracket, or with its last part where it has none.
fn end_of(closing: SourceSpan, last: Option<&Node>) -> usize {
    match last {
        Some(last) if closing.start == closing.end => last.span.end,
        _ => closing.end,
    }
}

/// A key path one level deeper.
pub(super) fn join(path: &str, key: &str) -> String {
    let mut joined = String::with_capacity(path.len() + 1 + key.len());
    joined.push_str(path);
    if !path.is_empty() {
        joined.push('.');
    }
    // Plain short keys, which nearly all are, need no escaping.
    if key.len() <= 60 && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        joined.push_str(key);
    } else {
        joined.push_str(&shorten(key));
    }
    joined
}

fn too_deep(at: SourceSpan) -> Diagnostic {
    Diagnostic::new(at, "", format!("nested deeper than {DEPTH_MAX} levels"))
        .hint("plans nest nine levels at most")
}

/// The YAML library's complaint, with its place.
fn unreadable(text: &str, error: &ScanError) -> Diagnostic {
    let mark = error.marker();
    let start = mark.byte_offset().unwrap_or(text.len()).min(text.len());
    let at = SourceSpan {
        start,
        end: start,
        line: mark.line(),
        column: mark.col() + 1,
    };
    if matches!(error.kind(), ErrorKind::RecursionLimitExceeded) {
        return too_deep(at);
    }
    let hint = match error.kind() {
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation => "indent with spaces",
        _ => {
            "look at the line above as well: an open bracket or quote, or a wrong indent, shows later"
        }
    };
    Diagnostic::new(at, "", format!("not YAML: {}", shorten(&error.info()))).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(source: &str) -> (Result<Node, Diagnostic>, Vec<Diagnostic>) {
        let mut wrong = Vec::new();
        (read(source.as_bytes(), &mut wrong), wrong)
    }

    /// The texts of all nodes with line and column, in the order of the text.
    fn places(node: &Node, source: &str, out: &mut Vec<String>) {
        let mut say = |span: SourceSpan| {
            out.push(format!(
                "{}:{} {}",
                span.line,
                span.column,
                &source[span.start..span.end]
            ));
        };
        match &node.kind {
            Kind::Scalar { .. } | Kind::Broken => say(node.span),
            Kind::List(items) => items.iter().for_each(|item| places(item, source, out)),
            Kind::Map(entries) => {
                for (key, value) in entries {
                    out.push(format!(
                        "{}:{} {}",
                        key.span.line,
                        key.span.column,
                        &source[key.span.start..key.span.end]
                    ));
                    places(value, source, out);
                }
            }
        }
    }

    #[test]
    fn every_node_has_its_place_and_its_text() {
        let source = "önü: ü\nb: [1e400, 'x', {c: \"y\\u0041\"}]\nd:\ne: ~\n";
        let (root, wrong) = tree(source);
        let root = root.unwrap();
        assert!(wrong.is_empty(), "{wrong:?}");
        let mut found = Vec::new();
        places(&root, source, &mut found);
        let expected = [
            "1:1 önü",
            "1:6 ü",
            "2:1 b",
            "2:5 1e400",
            "2:12 'x'",
            "2:18 c",
            "2:21 \"y\\u0041\"",
            "3:1 d",
            "3:2 ",
            "4:1 e",
            "4:4 ~",
        ];
        assert_eq!(found, expected);
        let Kind::Map(entries) = &root.kind else {
            panic!("{root:?}")
        };
        let Kind::List(items) = &entries[1].1.kind else {
            panic!("{root:?}")
        };
        assert_eq!(
            items[0].kind,
            Kind::Scalar {
                text: "1e400".to_owned(),
                plain: true
            }
        );
        assert_eq!(
            items[1].kind,
            Kind::Scalar {
                text: "x".to_owned(),
                plain: false
            }
        );
        assert_eq!(
            &source[entries[1].1.span.start..entries[1].1.span.end],
            "[1e400, 'x', {c: \"y\\u0041\"}]"
        );
    }

    #[test]
    fn a_byte_order_mark_and_windows_lines_are_harmless() {
        let source = "\u{feff}a: 1\r\nb: 2\r\n";
        let (root, wrong) = tree(source);
        assert!(wrong.is_empty(), "{wrong:?}");
        let mut found = Vec::new();
        places(&root.unwrap(), source, &mut found);
        assert_eq!(found.len(), 4);
        assert!(found[3].starts_with("2:4"), "{found:?}");
    }

    #[test]
    fn depth_and_size_are_bounded() {
        let deep = [
            "[".repeat(10_000),
            "{a: ".repeat(10_000),
            "- ".repeat(10_000),
            (0..1_000).fold(String::new(), |text, indent| {
                text + &" ".repeat(indent)
                    + "a:
"
            }),
        ];
        for source in deep {
            let stop = tree(&source).0.unwrap_err();
            assert!(stop.message.contains("deeper than"), "{stop:?}");
        }
        let stop = tree(&"#".repeat(PLAN_BYTES_MAX + 1)).0.unwrap_err();
        assert!(stop.message.contains("larger than"), "{stop:?}");
    }
}
