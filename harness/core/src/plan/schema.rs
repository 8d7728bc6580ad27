//! The JSON Schema (draft 2020-12) of plan files, made from the table that the decoder reads, so that editors complete
//! and check what this version understands.
//!
//! It says less than [`super::parse`]: names, bounds between keys and times are rules that a schema cannot say.

use serde_json::{Map, Value, json};

use super::keys::{ALL, Extra, Key, Mapping, PLAN, Takes};
use super::units::pattern;
use crate::params::{Need, Param, Shape};
use crate::{faults, oracles};

/// The schema of a plan.
pub fn schema() -> Value {
    let definitions: Map<String, Value> = ALL
        .iter()
        .filter(|table| table.name != PLAN.name)
        .map(|table| (table.name.to_owned(), mapping(table)))
        .collect();
    let mut whole = mapping(&PLAN);
    whole["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    whole["title"] = json!("Tweedledum plan, format 1");
    whole["$defs"] = Value::Object(definitions);
    whole
}

fn mapping(table: &Mapping) -> Value {
    let mut properties: Map<String, Value> = table
        .keys
        .iter()
        .map(|key| (key.name.to_owned(), documented(takes(&key.takes), key)))
        .collect();
    properties.extend(extra(table.extra));
    let required: Vec<&str> = table
        .keys
        .iter()
        .filter(|key| key.need == Need::Required)
        .map(|key| key.name)
        .collect();
    let mut schema = json!({
        "type": "object",
        "description": table.doc,
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if let Some(set) = table.one_of.first() {
        let one = set
            .iter()
            .copied()
            .chain(table.extra_names())
            .map(|key| json!({ "required": [key] }));
        schema["oneOf"] = Value::Array(one.collect());
    }
    schema
}

fn documented(mut schema: Value, key: &Key) -> Value {
    schema["description"] = json!(key.doc);
    if let Need::Default(text) = key.need {
        schema["default"] = default(text);
    }
    schema
}

/// A default as JSON: numbers, flags and lists as such, everything else as text.
fn default(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| json!(text))
}

fn extra(extra: Extra) -> Map<String, Value> {
    match extra {
        Extra::None => Map::new(),
        Extra::Faults => faults::ALL
            .iter()
            .map(|kind| {
                (
                    kind.name().to_owned(),
                    params(kind.summary(), kind.params()),
                )
            })
            .collect(),
        Extra::Expectations => oracles::ALL
            .iter()
            .map(|kind| {
                (
                    kind.name().to_owned(),
                    params(kind.summary(), kind.params()),
                )
            })
            .collect(),
    }
}

fn params(doc: &str, table: &[Param]) -> Value {
    let properties: Map<String, Value> = table
        .iter()
        .map(|param| {
            let mut schema = shape(param.shape);
            schema["description"] = json!(param.doc);
            if let Need::Default(text) = param.need {
                schema["default"] = default(text);
            }
            (param.name.to_owned(), schema)
        })
        .collect();
    let required: Vec<&str> = table
        .iter()
        .filter(|param| param.need == Need::Required)
        .map(|param| param.name)
        .collect();
    json!({
        "type": "object",
        "description": doc,
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn takes(takes: &Takes) -> Value {
    match takes {
        Takes::Text | Takes::Lines => json!({ "type": "string" }),
        Takes::Word(words) => json!({ "type": "string", "enum": words }),
        Takes::Count { min, max } if min == max => json!({ "type": "integer", "const": min }),
        Takes::Count { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Takes::Flag => json!({ "type": "boolean" }),
        Takes::Fraction => json!({ "type": "string", "pattern": pattern::FRACTION }),
        Takes::Instant => json!({ "type": "string", "pattern": pattern::INSTANT }),
        Takes::Span => json!({ "type": "string", "pattern": pattern::SPAN }),
        Takes::Duration => json!({ "type": "string", "pattern": pattern::DURATION }),
        Takes::Size => json!({ "type": "string", "pattern": pattern::SIZE }),
        Takes::Capacity => json!({ "type": "string", "pattern": pattern::CAPACITY }),
        Takes::Nodes => nodes(),
        Takes::Setting => json!({ "type": ["string", "integer", "boolean"] }),
        Takes::Map(table) => json!({ "$ref": format!("#/$defs/{}", table.name) }),
        Takes::Named(each) => {
            json!({ "type": "object", "additionalProperties": self::takes(each) })
        }
        Takes::List(each) => json!({ "type": "array", "items": self::takes(each) }),
        Takes::Either(all) => json!({ "anyOf": all.iter().map(self::takes).collect::<Vec<_>>() }),
    }
}

fn shape(shape: Shape) -> Value {
    match shape {
        Shape::Nodes => nodes(),
        Shape::Count { min, max } => takes(&Takes::Count { min, max }),
        Shape::Span => takes(&Takes::Span),
        Shape::Duration => takes(&Takes::Duration),
        Shape::Size => takes(&Takes::Size),
        Shape::Cpus => json!({ "type": "number", "minimum": 0.01, "maximum": 1024 }),
        Shape::Capacity => takes(&Takes::Capacity),
        Shape::OneOf(words) => json!({ "type": "string", "enum": words }),
        Shape::Signal => json!({ "type": "string" }),
        Shape::Heal => json!({ "type": "string", "pattern": "^heal " }),
        Shape::Flag => takes(&Takes::Flag),
    }
}

fn nodes() -> Value {
    json!({ "anyOf": [{ "type": "string" }, { "type": "array", "minItems": 1, "items": { "type": "string" } }] })
}
