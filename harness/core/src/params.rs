//! Parameters of faults and expectations: declared once in a table, which decoding, did-you-mean, the JSON Schema and
//! the reference page all read. So a new kind brings no parser of its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::plan::Selector;
use crate::plan::model::Capacity;
use crate::time::Span;

/// One parameter of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Param {
    /// The key in the plan.
    pub name: &'static str,
    /// What values it takes.
    pub shape: Shape,
    /// Whether it may be left out.
    pub need: Need,
    /// One sentence for the reference page and the schema.
    pub doc: &'static str,
}

/// Whether a parameter may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It must be given.
    Required,
    /// It may be absent.
    Optional,
    /// It is this when absent, in the plan's spelling.
    Default(&'static str),
}

/// What values a parameter takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A [`Selector`].
    Nodes,
    /// A whole number between these bounds.
    Count {
        /// Smallest.
        min: u64,
        /// Largest, with a reason in the parameter's doc where it is not obvious.
        max: u64,
    },
    /// A length of protocol time above zero: `3 epochs`, `0.5 layers`, `500ms`.
    Span,
    /// A length of wall time above zero that does not scale with the layer: `2s`.
    Duration,
    /// A size: `64KiB`.
    Size,
    /// Processors, also parts of one: `0.1`; kept in thousandths.
    Cpus,
    /// Room on a disk: `64KiB`, or `1.5 rounds` of what the target's role says a round takes.
    Capacity,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// The name of a signal that every selected role exposes.
    Signal,
    /// `heal all`, `heal NAME`: names a heal of the timeline.
    Heal,
    /// True or false.
    Flag,
}

/// A value in its own shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    /// Nodes.
    Nodes(Selector),
    /// Whole numbers, sizes in bytes, and thousandths of processors.
    Count(u64),
    /// Protocol time.
    Span(Span),
    /// Wall nanoseconds.
    Duration(u64),
    /// Words, signals, heals.
    Text(String),
    /// True or false.
    Flag(bool),
    /// Room on a disk.
    Capacity(Capacity),
}

/// Decoded parameters by key. Getters panic when the kind's own table does not declare the key in that shape: that is a
/// bug in the kind, and the registry's tests expand every kind's example.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Params(BTreeMap<String, Value>);

impl Params {
    /// Sets a value; the decoder's way in.
    pub fn set(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    /// The value of a key, if given.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// A required selector.
    pub fn nodes(&self, name: &str) -> &Selector {
        match self.get(name) {
            Some(Value::Nodes(selector)) => selector,
            other => undeclared(name, "nodes", other),
        }
    }

    /// A required or defaulted number.
    pub fn count(&self, name: &str) -> u64 {
        match self.get(name) {
            Some(Value::Count(count)) => *count,
            other => undeclared(name, "a count", other),
        }
    }

    /// A required or defaulted protocol span.
    pub fn span(&self, name: &str) -> Span {
        match self.get(name) {
            Some(Value::Span(span)) => *span,
            other => undeclared(name, "a span", other),
        }
    }

    /// A required or defaulted word.
    pub fn text(&self, name: &str) -> &str {
        match self.get(name) {
            Some(Value::Text(text)) => text,
            other => undeclared(name, "a word", other),
        }
    }

    /// Required or defaulted room on a disk.
    pub fn capacity(&self, name: &str) -> Capacity {
        match self.get(name) {
            Some(Value::Capacity(capacity)) => *capacity,
            other => undeclared(name, "a capacity", other),
        }
    }

    /// An optional wall duration in nanoseconds.
    pub fn duration(&self, name: &str) -> Option<u64> {
        match self.get(name) {
            None => None,
            Some(Value::Duration(ns)) => Some(*ns),
            other => undeclared(name, "a duration", other),
        }
    }
}

#[track_caller]
fn undeclared(name: &str, wanted: &str, found: Option<&Value>) -> ! {
    panic!(
        "parameter `{name}` was read as {wanted} but is {found:?}: its table does not declare it so"
    )
}
