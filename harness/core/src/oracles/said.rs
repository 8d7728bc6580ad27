//! What nodes say of themselves: log events that their role declares, with the fields oracles read.
//!
//! An event of a role that does not declare it says nothing: any program may print a line with that name. A declared one
//! that lacks a field is a doubt, since a check that reads nothing from it would pass for want of data. Lines that were
//! lost are a doubt for every check that lives of what they may have said, and its findings must not rest on their absence.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Output;
use super::world::{Mark, World};
use crate::history::{Body, Header, Record};
use crate::verdict::Code;

/// Keys and references are 64 hex digits; nothing longer is one, and what is kept stays small.
const TEXT_MAX: usize = 128;
/// An error with its causes, an address and a path in it.
const WORDS_MAX: usize = 300;

/// A declared event.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said<'a> {
    /// Who said it.
    pub(super) node: &'a str,
    /// Its name.
    pub(super) event: &'a str,
    /// When.
    pub(super) at: Mark,
    fields: &'a BTreeMap<String, Value>,
}

/// The event of a record, if the role of its node declares it.
pub(super) fn said<'a>(record: &'a Record, world: &World) -> Option<Said<'a>> {
    let Body::Event(event) = &record.body else {
        return None;
    };
    world.reports(&event.node, &event.event).then_some(Said {
        node: &event.node,
        event: &event.event,
        at: world.now,
        fields: &event.fields,
    })
}

/// Doubts a check that lives of these events when its record says that a node lost lines in which they may have been.
pub(super) fn overheard(record: &Record, events: &[&str], world: &World, out: &mut Output) {
    if let Some(node) = world.loses_now(record)
        && events.iter().any(|event| world.reports(node, event))
    {
        doubt_lost(record, node, out);
    }
}

/// Doubts a check on a signal when its record says that a node lost lines in which a value may have been pushed.
pub(super) fn overheard_signal(record: &Record, signal: &str, world: &World, out: &mut Output) {
    if let Some(node) = world.loses_now(record)
        && world.pushed(node, signal)
    {
        doubt_lost(record, node, out);
    }
}

/// One reason a node, whoever doubts and however often it loses something.
pub(super) fn doubt_lost(record: &Record, node: &str, out: &mut Output) {
    let text = format!(
        "part of what {node} printed was lost, so what it did not say proves nothing; if it prints much, let it print less"
    );
    let measurement = match &record.body {
        Body::Gap(gap) => gap.why.clone(),
        Body::Event(event) => match event.fields.get("count").and_then(Value::as_u64) {
            Some(count) => format!("{count} events that it dropped itself"),
            None => String::new(),
        },
        _ => String::new(),
    };
    out.doubt(Code::ObserverGap, text, measurement, vec![record.seq]);
}

/// Whether each of these events is declared by the role of some node: else a check that needs them is not for this network.
pub(super) fn reported(header: &Header, events: &[&str]) -> bool {
    let declared = |event: &&str| {
        let mut roles = header
            .nodes
            .iter()
            .filter_map(|it| header.roles.get(&it.role));
        roles.any(|role| role.events.contains(*event))
    };
    events.iter().all(declared)
}

impl Said<'_> {
    /// A text field, if it is there and short.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        let text = self.fields.get(key)?.as_str()?;
        (text.len() <= TEXT_MAX).then_some(text)
    }

    /// The beginning of a text field of any length, for people.
    pub(super) fn words(&self, key: &str) -> String {
        let text = self.fields.get(key).and_then(Value::as_str);
        let text = text.unwrap_or_default();
        let mut words: String = text.chars().take(WORDS_MAX).collect();
        if words.len() < text.len() {
            words.push('…');
        }
        words
    }

    /// A whole number, also one spelled as text.
    pub(super) fn number(&self, key: &str) -> Option<u64> {
        match self.fields.get(key)? {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// True or false.
    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.fields.get(key)?.as_bool()
    }

    /// What was read of it, or a doubt that names what it must have.
    pub(super) fn need<T>(&self, read: Option<T>, fields: &str, out: &mut Output) -> Option<T> {
        if read.is_none() {
            let text = format!(
                "`{}` of {} cannot be used, it must have {fields}",
                self.event, self.node
            );
            out.doubt(Code::NoData, text, "", vec![self.at.seq]);
        }
        read
    }

    /// `poet` and `round`.
    pub(super) fn round(&self, out: &mut Output) -> Option<(String, u64)> {
        let read = || Some((self.text("poet")?.to_owned(), self.number("round")?));
        self.need(read(), "`poet` and `round`", out)
    }
}

/// A key or an id, short enough for a sentence.
pub(super) fn short(id: &str) -> String {
    id.chars().take(12).collect()
}
