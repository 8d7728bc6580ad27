//! From nodes of the raw tree to values: shapes, unknown and missing keys, all mistakes collected.
//!
//! A reader returns `None` once the mistake is reported, and decoding goes on with the rest. Nothing here knows what a
//! key means.

use std::collections::{BTreeMap, BTreeSet};

use crate::time::{Calendar, ProtocolTime, Span};

use super::keys::{self, Mapping};
use super::raw::{Key, Kind, Node, join, shorten};
use super::selector;
use super::suggest::{did_you_mean, suggest};
use super::units::{self, Unreadable};
use super::{Diagnostic, Selector, SourceSpan, model};

mod fields;

pub(super) use fields::Fields;

/// The nodes that selectors choose from. Names are indexed, since long timelines look one up on every line.
#[derive(Debug)]
pub(super) struct Network<'a> {
    pub(super) nodes: &'a [model::Node],
    by_name: BTreeMap<&'a str, &'a model::Node>,
}

impl<'a> Network<'a> {
    pub(super) fn new(nodes: &'a [model::Node]) -> Self {
        let by_name = nodes
            .iter()
            .map(|node| (node.name.as_str(), node))
            .collect();
        Self { nodes, by_name }
    }

    /// The node of this name.
    pub(super) fn node(&self, name: &str) -> Option<&'a model::Node> {
        self.by_name.get(name).copied()
    }

    /// The names of the roles that have nodes.
    pub(super) fn roles(&self) -> BTreeSet<&'a str> {
        self.nodes.iter().map(|node| node.role.as_str()).collect()
    }
}

/// The mistakes found so far, and what all readers need to know.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) wrong: Vec<Diagnostic>,
}

/// A node and its key path.
#[derive(Debug, Clone)]
pub(super) struct Field<'n> {
    pub(super) node: &'n Node,
    pub(super) path: String,
}

impl Reader {
    /// Reports a mistake.
    pub(super) fn wrong(
        &mut self,
        at: SourceSpan,
        path: &str,
        why: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.wrong.push(Diagnostic::new(at, path, why).hint(hint));
    }

    /// "Did you mean", as long as it can still be among the mistakes that are shown.
    pub(super) fn suggest<W: AsRef<str>>(&self, word: &str, what: &str, known: &[W]) -> String {
        const WORTH_IT: usize = 1_000;
        if self.wrong.len() > WORTH_IT {
            return format!("use one of the known {what}");
        }
        suggest(word, what, known)
    }

    /// Reports a value that is not what its key takes.
    fn not(&mut self, field: &Field<'_>, wanted: &str, hint: &str) {
        if field.node.kind != Kind::Broken {
            let given = field.node.describe();
            let why = if given == "nothing" {
                format!("nothing is given, but this takes {wanted}")
            } else {
                format!("{given} is not {wanted}")
            };
            self.wrong(
                first_line(field.node.span, field.node),
                &field.path,
                why,
                hint,
            );
        }
    }

    fn read<T>(&mut self, field: &Field<'_>, result: Result<T, Unreadable>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(Unreadable { why, hint }) => {
                let mut diagnostic =
                    Diagnostic::new(field.node.span, &field.path, shorten_all(&why));
                diagnostic.hint = hint;
                self.wrong.push(diagnostic);
                None
            }
        }
    }

    /// Text as it stands, whatever YAML would take it for.
    fn scalar<'n>(
        &mut self,
        field: &Field<'n>,
        wanted: &str,
        hint: &str,
    ) -> Option<(&'n str, bool)> {
        match &field.node.kind {
            Kind::Scalar { text, plain }
                if !(*plain && matches!(text.as_str(), "" | "~" | "null")) =>
            {
                Some((text, *plain))
            }
            _ => {
                self.not(field, wanted, hint);
                None
            }
        }
    }

    /// A value with a form of its own, which needs no quotes.
    pub(super) fn formed<T>(
        &mut self,
        field: &Field<'_>,
        wanted: &str,
        example: &str,
        read: impl FnOnce(&str) -> Result<T, Unreadable>,
    ) -> Option<T> {
        let (text, _) = self.scalar(field, wanted, &format!("write it as {example}"))?;
        let read = read(text.trim());
        self.read(field, read)
    }

    /// Text that may have several lines. What YAML would take for another type has to be quoted.
    pub(super) fn lines(&mut self, field: &Field<'_>) -> Option<String> {
        let (text, plain) = self.scalar(field, "text", "write text, quoted if in doubt")?;
        if plain && let Some(other) = taken_for(text) {
            let why = format!(
                "`{}` is {other} to many readers of YAML, but this is text",
                shorten(text)
            );
            self.wrong(
                field.node.span,
                &field.path,
                why,
                format!("quote it: \"{}\"", shorten(text)),
            );
            return None;
        }
        Some(text.to_owned())
    }

    /// Text on one line, not empty.
    pub(super) fn text(&mut self, field: &Field<'_>) -> Option<String> {
        let text = self.lines(field)?;
        if text.is_empty() {
            self.wrong(
                field.node.span,
                &field.path,
                "the text is empty",
                "write something or remove the key",
            );
            return None;
        }
        if text.contains(['\n', '\t']) {
            self.wrong(
                field.node.span,
                &field.path,
                "the text holds a tab or a line break",
                "write it on one line",
            );
            return None;
        }
        Some(text)
    }

    /// One of these words.
    pub(super) fn word(
        &mut self,
        field: &Field<'_>,
        words: &[&'static str],
    ) -> Option<&'static str> {
        let text = self.text(field)?;
        let found = words.iter().find(|word| **word == text).copied();
        if found.is_none() {
            let why = format!("`{}` is not one of the words this takes", shorten(&text));
            self.wrong(
                field.node.span,
                &field.path,
                why,
                self.suggest(&text, "words", words),
            );
        }
        found
    }

    /// A whole number.
    pub(super) fn count(&mut self, field: &Field<'_>, min: u64, max: u64) -> Option<u64> {
        let (text, plain) = self.scalar(field, "a whole number", "write digits")?;
        if !plain {
            let why = format!(
                "{} is text, but this is a whole number",
                field.node.describe()
            );
            self.wrong(field.node.span, &field.path, why, "take the quotes away");
            return None;
        }
        self.read(field, units::count(text, min, max))
    }

    /// True or false.
    pub(super) fn flag(&mut self, field: &Field<'_>) -> Option<bool> {
        match &field.node.kind {
            Kind::Scalar { text, plain: true } if text == "true" => Some(true),
            Kind::Scalar { text, plain: true } if text == "false" => Some(false),
            _ => {
                self.not(
                    field,
                    "true or false",
                    "write `true` or `false`, without quotes",
                );
                None
            }
        }
    }

    /// A length of protocol time.
    pub(super) fn span(&mut self, field: &Field<'_>, calendar: &Calendar) -> Option<Span> {
        self.formed(
            field,
            "a length of time",
            "`3 epochs`, `0.5 layers` or `500ms`",
            |text| units::span(text, calendar),
        )
    }

    /// An instant of protocol time.
    pub(super) fn instant(
        &mut self,
        field: &Field<'_>,
        calendar: &Calendar,
    ) -> Option<ProtocolTime> {
        self.formed(
            field,
            "an instant",
            "`epoch 2.75`, `layer 11` or `3s`",
            |text| units::instant(text, calendar),
        )
    }

    /// Wall time in nanoseconds.
    pub(super) fn duration(&mut self, field: &Field<'_>) -> Option<u64> {
        self.formed(
            field,
            "a length of time",
            "`500ms` or `2s`",
            units::duration,
        )
    }

    /// Bytes.
    pub(super) fn size(&mut self, field: &Field<'_>) -> Option<u64> {
        self.formed(field, "a size", "`64KiB`", units::size)
    }

    /// Room on a disk.
    pub(super) fn capacity(&mut self, field: &Field<'_>) -> Option<model::Capacity> {
        self.formed(
            field,
            "room on a disk",
            "`64KiB` or `1.5 rounds`",
            units::capacity,
        )
    }

    /// A fraction under one.
    pub(super) fn fraction(&mut self, field: &Field<'_>) -> Option<(u64, u64)> {
        self.formed(field, "a fraction", "`2/3`", units::fraction)
    }

    /// The items of a list.
    pub(super) fn list<'n>(&mut self, field: &Field<'n>) -> Option<Vec<Field<'n>>> {
        let Kind::List(items) = &field.node.kind else {
            self.not(field, "a list", "write `[a, b]`, or one `- item` a line");
            return None;
        };
        let item = |(at, node)| Field {
            node,
            path: format!("{}[{at}]", field.path),
        };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// The entries of a mapping whose keys are names of the plan's own.
    pub(super) fn named<'n>(&mut self, field: &Field<'n>) -> Option<Vec<(&'n Key, Field<'n>)>> {
        let Kind::Map(entries) = &field.node.kind else {
            self.not(
                field,
                "a mapping",
                "write `{ name: value }`, or one `name: value` a line",
            );
            return None;
        };
        let entry = |(key, node): &'n (Key, Node)| {
            (
                key,
                Field {
                    node,
                    path: join(&field.path, &key.text),
                },
            )
        };
        Some(entries.iter().map(entry).collect())
    }

    /// The entries of a mapping with declared keys; unknown and missing ones are reported.
    pub(super) fn fields<'n>(
        &mut self,
        field: &Field<'n>,
        table: &'static Mapping,
    ) -> Option<Fields<'n>> {
        let Kind::Map(entries) = &field.node.kind else {
            let names: Vec<&str> = table.keys.iter().map(|key| key.name).take(4).collect();
            let hint = if names.is_empty() {
                "write `kind: { ... }`".to_owned()
            } else {
                format!("its keys are {}, ...", names.join(", "))
            };
            self.not(field, "a mapping", &hint);
            return None;
        };
        let fields = Fields {
            table,
            entries,
            path: field.path.clone(),
            span: first_line(field.node.span, field.node),
        };
        if !self.one_for_another(&fields) {
            self.unknown_keys(&fields);
            self.missing_keys(&fields);
        }
        self.sets(&fields);
        Some(fields)
    }

    /// One unknown key where one is missing is one mistake, whatever it was called.
    fn one_for_another(&mut self, fields: &Fields<'_>) -> bool {
        let mut unknown = fields.unknown();
        let (Some(key), None) = (unknown.next(), unknown.next()) else {
            return false;
        };
        let mut missing = fields.missing();
        let (Some(meant), None) = (missing.next(), missing.next()) else {
            return false;
        };
        if did_you_mean(&key.text, &fields.known()).is_some() {
            return false;
        }
        let path = join(&fields.path, &key.text);
        let doc = meant.doc;
        self.unknown_for(key, &path, meant.name, doc);
        true
    }

    /// Reports an unknown key that stands where this one is missing.
    pub(super) fn unknown_for(&mut self, key: &Key, path: &str, missing: &str, doc: &str) {
        let why = format!(
            "unknown key `{}`, and `{missing}` is missing",
            shorten(&key.text)
        );
        let hint = format!("did you mean `{missing}`? {doc}");
        self.wrong(key.span, path, why, hint);
    }

    fn unknown_keys(&mut self, fields: &Fields<'_>) {
        let mut unknown = fields.unknown().peekable();
        if unknown.peek().is_none() {
            return;
        }
        let known = fields.known();
        for key in unknown {
            let why = format!("unknown key `{}`", shorten(&key.text));
            let path = join(&fields.path, &key.text);
            self.wrong(
                key.span,
                &path,
                why,
                self.suggest(&key.text, "keys", &known),
            );
        }
    }

    fn missing_keys(&mut self, fields: &Fields<'_>) {
        let missing: Vec<&keys::Key> = fields.missing().collect();
        for key in missing {
            let why = format!("`{}` is missing", key.name);
            let hint = format!("add `{}`: {}", key.name, lower_first(key.doc));
            self.wrong(fields.span, &fields.path, why, hint);
        }
    }

    fn sets(&mut self, fields: &Fields<'_>) {
        for (at, set) in fields.table.one_of.iter().enumerate() {
            let counts =
                |name: &str| set.contains(&name) || (at == 0 && fields.table.has_extra(name));
            let mut given = fields
                .entries
                .iter()
                .map(|(key, _)| key)
                .filter(|key| counts(&key.text));
            let (first, second) = (given.next(), given.next());
            if let (Some(first), Some(second)) = (first, second) {
                let why = format!(
                    "`{}` and `{}` cannot stand together",
                    first.text, second.text
                );
                self.wrong(
                    second.span,
                    &fields.path,
                    why,
                    "keep one of them, and write the other one apart",
                );
            }
            if first.is_some() {
                continue;
            }
            let extra = if at == 0 {
                fields.table.extra_names()
            } else {
                Vec::new()
            };
            let of: Vec<&str> = set.iter().copied().chain(extra).collect();
            // The one unknown key of a mapping that lacks nothing else is told with all that may stand there.
            let mut unknown = fields.unknown();
            let stray = unknown
                .next()
                .filter(|_| at == 0 && unknown.next().is_none());
            let instead = stray
                .filter(|key| did_you_mean(&key.text, &fields.known()).is_none())
                .is_some_and(|_| fields.missing().next().is_none());
            if !fields.slipped(&of) && !instead {
                let why = format!("one of {} is missing", quoted(&of));
                self.wrong(fields.span, &fields.path, why, "add exactly one of them");
            }
        }
    }

    /// Which nodes are meant, among these; without `nodes` only the form is checked.
    pub(super) fn selector(
        &mut self,
        field: &Field<'_>,
        network: Option<&Network<'_>>,
    ) -> Option<Selector> {
        if let Kind::List(items) = &field.node.kind {
            if items.is_empty() {
                self.wrong(
                    field.node.span,
                    &field.path,
                    "an empty list matches no node",
                    "name at least one node or role",
                );
                return None;
            }
            let parts: Vec<Option<Selector>> = self
                .list(field)?
                .iter()
                .map(|item| match item.node.kind {
                    Kind::List(_) => {
                        self.not(item, "a selector", "write one flat list");
                        None
                    }
                    _ => self.selector(item, network),
                })
                .collect();
            return Some(Selector::List(
                parts.into_iter().collect::<Option<Vec<_>>>()?,
            ));
        }
        let text = self.text(field)?;
        let forms =
            "write `ROLE`, `every ROLE`, `any ROLE`, `any N of ROLE`, `ROLE-0` or a list of these";
        if network.is_some_and(|network| network.node(&text).is_some()) {
            return Some(Selector::Node(text));
        }
        let nodes = network.map_or(&[][..], |network| network.nodes);
        let selector = match Selector::parse(&text, nodes) {
            Ok(selector) => selector,
            Err(why) => {
                let roles: Vec<&str> = network
                    .map(|network| network.roles().into_iter().collect())
                    .unwrap_or_default();
                let hint = selector::near_form(&text, &roles).map_or_else(
                    || forms.to_owned(),
                    |meant| format!("did you mean `{meant}`?"),
                );
                self.wrong(field.node.span, &field.path, shorten_all(&why), hint);
                return None;
            }
        };
        let network = network?;
        if let Some(why) = selector.unknown(nodes) {
            let (why, hint) = self.near(&text, &selector, why, network);
            self.wrong(field.node.span, &field.path, shorten_all(&why), hint);
            return None;
        }
        Some(selector)
    }

    /// Why a selector matches too little, and what was probably meant by its text.
    fn near(
        &self,
        text: &str,
        selector: &Selector,
        why: String,
        network: &Network<'_>,
    ) -> (String, String) {
        if let Selector::AnyOf(_, role) = selector {
            let nodes = network.nodes.iter();
            let there = nodes.filter(|node| node.role == *role).count();
            if there > 0 {
                return (why, format!("ask for at most {there}"));
            }
        }
        let last = text.split_whitespace().last().unwrap_or_default();
        if let Some(near) = selector::near_node(last, network.nodes) {
            return near;
        }
        let known: Vec<&str> = network.roles().into_iter().collect();
        (why, self.suggest(last, "roles", &known))
    }

    /// A name the plan gives: kebab-case, so that it can be part of file names, flags and findings.
    pub(super) fn kebab(&mut self, what: &str, name: &str, at: SourceSpan, path: &str) -> bool {
        let sound = name.len() <= 40
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && !name.ends_with('-')
            && !name.contains("--")
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if !sound {
            let why = format!("`{}` cannot be the name of a {what}", shorten(name));
            self.wrong(
                at,
                path,
                why,
                "use at most 40 lower-case letters, digits and single `-`, starting with a letter",
            );
            return false;
        }
        if keys::yaml_1_1_word(name) {
            let why = format!(
                "`{name}` is a boolean to many readers of YAML, so it cannot be the name of a {what}"
            );
            self.wrong(at, path, why, "choose another name");
            return false;
        }
        true
    }
}

/// What YAML 1.1 or 1.2 takes a bare scalar for, when that is not text.
fn taken_for(text: &str) -> Option<&'static str> {
    if keys::yaml_1_1_word(text) {
        return Some("a boolean or nothing");
    }
    let unsigned = text.trim_start_matches(['-', '+']);
    let digits = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'_')
    };
    let number = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && (unsigned.replace('_', "").parse::<f64>().is_ok()
            || unsigned.starts_with("0x")
            || unsigned.starts_with("0o"));
    if number || matches!(unsigned.to_ascii_lowercase().as_str(), ".inf" | ".nan") {
        return Some("a number");
    }
    if unsigned.contains(':') && unsigned.split([':', '.']).all(digits) {
        return Some("a base-60 number");
    }
    None
}

/// A list or mapping is pointed at by its first line.
fn first_line(span: SourceSpan, node: &Node) -> SourceSpan {
    let first = match &node.kind {
        Kind::Map(entries) => entries.first().map(|(key, _)| key.span),
        Kind::List(items) => items.first().map(|item| first_line(item.span, item)),
        Kind::Scalar { .. } | Kind::Broken => None,
    };
    SourceSpan {
        end: first.map_or(span.end, |first| first.end.max(span.start)),
        ..span
    }
}

fn quoted(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("`{word}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(chars).collect()
    })
}

/// A message that quotes plan text stays one line of bounded length.
fn shorten_all(message: &str) -> String {
    let mut shown = String::new();
    for (at, c) in message.chars().enumerate() {
        if at == 300 {
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
