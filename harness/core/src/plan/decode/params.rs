//! Parameters of faults and expectations, decoded by the tables that their kinds declare.

use std::collections::BTreeSet;

use super::super::model::Capacity;
use super::super::raw::{Key, Kind, join, shorten};
use super::super::reader::{Field, Network, Reader};
use super::super::suggest::did_you_mean;
use super::super::{Selector, SourceSpan, units};
use super::Known;
use super::timeline::{Heal, Heals};
use crate::params::{Need, Param, Params, Shape, Value};

/// Decoded parameters and where each was given.
pub(super) struct Decoded {
    pub(super) params: Params,
    given: Vec<(String, SourceSpan)>,
    at: SourceSpan,
    pub(super) path: String,
}

impl Decoded {
    /// Where to report about a parameter: its value, or the kind when it has its default.
    pub(super) fn place(&self, name: &str) -> (SourceSpan, String) {
        match self.given.iter().find(|(given, _)| given == name) {
            Some((_, at)) => (*at, join(&self.path, name)),
            None => (self.at, self.path.clone()),
        }
    }

    /// The selectors among them.
    pub(super) fn selectors(&self, table: &[Param]) -> Vec<(&'static str, &Selector)> {
        table
            .iter()
            .filter_map(|param| match self.params.get(param.name) {
                Some(Value::Nodes(selector)) => Some((param.name, selector)),
                _ => None,
            })
            .collect()
    }
}

/// Decodes the mapping of a kind; `at` is where the kind stands.
pub(super) fn decode(
    reader: &mut Reader,
    field: &Field<'_>,
    at: SourceSpan,
    table: &'static [Param],
    heals: &Heals,
    known: &Known<'_>,
) -> Option<Decoded> {
    let entries = match &field.node.kind {
        Kind::Map(_) => reader.named(field)?,
        Kind::Broken => return None,
        _ => {
            let names: Vec<&str> = table.iter().map(|param| param.name).collect();
            let why = format!("{} is not a mapping", field.node.describe());
            reader.wrong(
                at,
                &field.path,
                why,
                format!("write {{ {}: ... }}", names.join(": ..., ")),
            );
            return None;
        }
    };
    // A value may also be missing quietly, when what it refers to could not be read.
    let before = reader.wrong.len();
    let mut complete = true;
    let names: Vec<&str> = table.iter().map(|param| param.name).collect();
    let mut decoded = Decoded {
        params: Params::default(),
        given: Vec::new(),
        at,
        path: field.path.clone(),
    };
    let instead = one_for_another(&entries, table);
    for (key, value) in &entries {
        if let Some((unknown, param)) = instead
            && unknown.span == key.span
        {
            reader.unknown_for(key, &value.path, param.name, param.doc);
            continue;
        }
        let Some(param) = table.iter().find(|param| param.name == key.text) else {
            let why = format!("unknown key `{}`", shorten(&key.text));
            reader.wrong(
                key.span,
                &value.path,
                why,
                reader.suggest(&key.text, "keys", &names),
            );
            continue;
        };
        decoded.given.push((key.text.clone(), value.node.span));
        match self::value(reader, value, param.shape, heals, known) {
            Some(value) => decoded.params.set(param.name, value),
            None => complete = false,
        }
    }
    let told = instead.map(|(_, param)| param.name);
    absent(reader, &mut decoded, &entries, table, told, known);
    let required = table.iter().filter(|param| param.need == Need::Required);
    complete &= required
        .into_iter()
        .all(|param| decoded.params.get(param.name).is_some());
    (complete && reader.wrong.len() == before).then_some(decoded)
}

/// The one unknown key, where one parameter is missing: that is one mistake, whatever it was called.
fn one_for_another<'k>(
    entries: &[(&'k Key, Field<'_>)],
    table: &'static [Param],
) -> Option<(&'k Key, &'static Param)> {
    let names: Vec<&str> = table.iter().map(|param| param.name).collect();
    let mut unknown = entries.iter().map(|(key, _)| *key);
    let mut unknown = unknown
        .by_ref()
        .filter(|key| !names.contains(&key.text.as_str()));
    let given = |name: &str| entries.iter().any(|(key, _)| key.text == name);
    let mut missing = table
        .iter()
        .filter(|param| param.need == Need::Required && !given(param.name));
    match (
        unknown.next(),
        unknown.next(),
        missing.next(),
        missing.next(),
    ) {
        (Some(key), None, Some(param), None) => {
            let near = did_you_mean(&key.text, &names);
            near.is_none().then_some((key, param))
        }
        _ => None,
    }
}

/// Reports parameters that must be given, `told` aside, and fills in defaults.
fn absent(
    reader: &mut Reader,
    decoded: &mut Decoded,
    entries: &[(&Key, Field<'_>)],
    table: &'static [Param],
    told: Option<&str>,
    known: &Known<'_>,
) {
    let given = |name: &str| entries.iter().any(|(key, _)| key.text == name);
    let unknown = |text: &str| table.iter().all(|param| param.name != text);
    for param in table.iter().filter(|param| !given(param.name)) {
        // An unknown key that looks like it is the same mistake.
        let slipped = entries
            .iter()
            .any(|(key, _)| unknown(&key.text) && did_you_mean(&key.text, &[param.name]).is_some());
        match param.need {
            Need::Required if !slipped && told != Some(param.name) => {
                let why = format!("`{}` is missing", param.name);
                reader.wrong(
                    decoded.at,
                    &decoded.path,
                    why,
                    format!("add `{}: ...`. {}", param.name, param.doc),
                );
            }
            Need::Default(text) => decoded.params.set(param.name, default(param, text, known)),
            Need::Required | Need::Optional => {}
        }
    }
}

/// A default of a table goes through the same code as a value of a plan.
fn default(param: &Param, text: &str, known: &Known<'_>) -> Value {
    let mut reader = Reader { wrong: Vec::new() };
    let node = super::Node {
        span: SourceSpan::default(),
        kind: Kind::Scalar {
            text: text.to_owned(),
            plain: true,
        },
    };
    let field = Field {
        node: &node,
        path: param.name.to_owned(),
    };
    value(&mut reader, &field, param.shape, &Heals::default(), known).unwrap_or_else(|| {
        panic!(
            "the default of `{}` does not fit its own shape: {:?}",
            param.name, reader.wrong
        )
    })
}

fn value(
    reader: &mut Reader,
    field: &Field<'_>,
    shape: Shape,
    heals: &Heals,
    known: &Known<'_>,
) -> Option<Value> {
    match shape {
        Shape::Nodes => reader
            .selector(field, known.network.as_ref())
            .map(Value::Nodes),
        Shape::Count { min, max } => reader.count(field, min, max).map(Value::Count),
        Shape::Span => reader.span(field, &known.calendar).map(Value::Span),
        Shape::Duration => reader.duration(field).map(Value::Duration),
        Shape::Size => reader.size(field).map(Value::Count),
        Shape::Cpus => reader
            .formed(field, "a number of processors", "`0.5`", units::cpus)
            .map(Value::Count),
        Shape::Capacity => reader.capacity(field).map(Value::Capacity),
        Shape::OneOf(words) => reader
            .word(field, words)
            .map(|word| Value::Text(word.to_owned())),
        Shape::Signal => reader.text(field).map(Value::Text),
        Shape::Heal => heal(reader, field, heals).map(Value::Text),
        Shape::Flag => reader.flag(field).map(Value::Flag),
    }
}

/// The name of the entry that `heal all` or `heal NAME` refers to.
fn heal(reader: &mut Reader, field: &Field<'_>, heals: &Heals) -> Option<String> {
    let text = reader.text(field)?;
    let words: Vec<&str> = text.split_whitespace().collect();
    let meant: Vec<&Heal> = heals
        .known
        .iter()
        .filter(|heal| heal.called == words.join(" "))
        .collect();
    match meant.as_slice() {
        [one] => Some(one.entry.clone()),
        // The heal may be an entry that could not be read.
        [] if !heals.complete => None,
        [] => {
            let known: Vec<&str> = heals
                .known
                .iter()
                .map(|heal| heal.called.as_str())
                .collect();
            let why = format!("no heal of the timeline is called `{}`", shorten(&text));
            reader.wrong(
                field.node.span,
                &field.path,
                why,
                reader.suggest(&text, "heals", &known),
            );
            None
        }
        several => {
            let why = format!(
                "{} heals of the timeline are called `{}`",
                several.len(),
                shorten(&text)
            );
            reader.wrong(
                field.node.span,
                &field.path,
                why,
                "give each a `name`, and write `heal NAME` here",
            );
            None
        }
    }
}

/// Reports signals that the chosen nodes do not expose.
pub(super) fn signals(
    reader: &mut Reader,
    decoded: &Decoded,
    table: &'static [Param],
    known: &Known<'_>,
) {
    let Some(network) = &known.network else {
        return;
    };
    for param in table.iter().filter(|param| param.shape == Shape::Signal) {
        let Some(Value::Text(signal)) = decoded.params.get(param.name) else {
            continue;
        };
        let chosen = decoded.selectors(table);
        let roles = match chosen.first() {
            Some((_, selector)) => roles_of(selector, network),
            None => network.roles(),
        };
        // A role that could not be read has reported why.
        if roles.iter().any(|role| !known.roles.contains_key(*role)) {
            continue;
        }
        let exposes = |role: &&&str| {
            known
                .roles
                .get(**role)
                .is_some_and(|role| role.signals.contains_key(signal))
        };
        let lacking: Vec<&str> = roles
            .iter()
            .filter(|role| !exposes(role))
            .copied()
            .collect();
        let wrong = if chosen.is_empty() {
            lacking.len() == roles.len()
        } else {
            !lacking.is_empty()
        };
        if wrong {
            let known: BTreeSet<&String> = roles
                .iter()
                .filter_map(|role| known.roles.get(*role))
                .flat_map(|role| role.signals.keys())
                .collect();
            let known: Vec<&String> = known.into_iter().collect();
            let (at, path) = decoded.place(param.name);
            let why = format!("no signal `{}` on {}", shorten(signal), lacking.join(", "));
            reader.wrong(at, &path, why, reader.suggest(signal, "signals", &known));
        }
    }
}

/// Reports rounds where a chosen role does not say what a round takes.
pub(super) fn rounds(
    reader: &mut Reader,
    decoded: &Decoded,
    table: &'static [Param],
    known: &Known<'_>,
) {
    let Some(network) = &known.network else {
        return;
    };
    for param in table.iter().filter(|param| param.shape == Shape::Capacity) {
        if !matches!(
            decoded.params.get(param.name),
            Some(Value::Capacity(Capacity::MicroRounds(_)))
        ) {
            continue;
        }
        let chosen = decoded.selectors(table);
        let roles = chosen
            .iter()
            .flat_map(|(_, selector)| roles_of(selector, network));
        for role in roles.filter_map(|role| known.roles.get(role)) {
            if role.round_bytes.is_none() {
                let (at, path) = decoded.place(param.name);
                reader.wrong(at, &path, no_rounds(&role.name), NO_ROUNDS_HINT);
            }
        }
    }
}

/// Why `rounds` mean nothing for a role, and what to write instead.
pub(super) fn no_rounds(role: &str) -> String {
    format!("role `{role}` does not say what a round takes on disk")
}
pub(super) const NO_ROUNDS_HINT: &str =
    "write a size such as `64KiB`, or add `round-bytes: SIZE` to the role";

/// The roles that a selector reaches into.
pub(super) fn roles_of<'n>(selector: &'n Selector, network: &Network<'n>) -> BTreeSet<&'n str> {
    match selector {
        Selector::Every(role) | Selector::Any(role) | Selector::AnyOf(_, role) => {
            BTreeSet::from([role.as_str()])
        }
        Selector::Node(name) => network
            .node(name)
            .map(|node| node.role.as_str())
            .into_iter()
            .collect(),
        Selector::List(parts) => parts
            .iter()
            .flat_map(|part| roles_of(part, network))
            .collect(),
    }
}
