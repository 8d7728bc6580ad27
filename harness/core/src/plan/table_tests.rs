//! The table of keys, the decoder and the schema say the same: held against a plan that uses every key.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::decode::Catalogue;
use super::keys::{Extra, Mapping, PLAN, Takes};
use super::model::Release;
use super::raw::{Kind, Node, join, read};
use super::{parse, schema};
use crate::{faults, oracles};

const EVERYTHING: &str = include_str!("../../tests/plans/good/everything.yaml");
const GOOD: &[&str] = &[
    EVERYTHING,
    include_str!("../../tests/plans/good/incident.yaml"),
    include_str!("../../tests/plans/good/smoke.yaml"),
];

fn catalogue() -> Catalogue {
    let release = |name: &str| Release {
        name: name.to_owned(),
        base: Some(name.to_owned()),
        without: BTreeSet::new(),
        bin: None,
    };
    Catalogue {
        roles: include_str!("../../tests/plans/roles.yaml").to_owned(),
        releases: ["netid-116", "fixed"].map(release).to_vec(),
        switches: vec!["session-table".to_owned()],
    }
}

fn tree(source: &str) -> Node {
    read(source.as_bytes(), &mut Vec::new()).unwrap()
}

/// Every declared key as `mapping.key`, and every parameter as `kind.key`.
fn declared() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for table in super::keys::ALL {
        all.extend(
            table
                .keys
                .iter()
                .map(|key| format!("{}.{}", table.name, key.name)),
        );
    }
    let tables = faults::ALL.iter().map(|kind| (kind.name(), kind.params()));
    for (kind, params) in tables.chain(oracles::ALL.iter().map(|kind| (kind.name(), kind.params())))
    {
        all.extend(params.iter().map(|param| format!("{kind}.{}", param.name)));
    }
    all
}

/// The declared keys that a tree uses, with the key path of each use.
fn used(node: &Node, takes: &Takes, path: &str, out: &mut Vec<(String, String)>) {
    match (takes, &node.kind) {
        (Takes::Map(table), Kind::Map(_)) => used_in(node, table, path, out),
        (Takes::Named(each), Kind::Map(entries)) => {
            for (key, value) in entries {
                used(value, each, &join(path, &key.text), out);
            }
        }
        (Takes::List(each), Kind::List(items)) => {
            for (at, item) in items.iter().enumerate() {
                used(item, each, &format!("{path}[{at}]"), out);
            }
        }
        (Takes::Either(all), _) => all.iter().for_each(|takes| used(node, takes, path, out)),
        _ => {}
    }
}

fn used_in(node: &Node, table: &'static Mapping, path: &str, out: &mut Vec<(String, String)>) {
    let Kind::Map(entries) = &node.kind else {
        return;
    };
    for (key, value) in entries {
        let inner = join(path, &key.text);
        match table.key(&key.text) {
            Some(declared) => {
                out.push((format!("{}.{}", table.name, key.text), inner.clone()));
                used(value, &declared.takes, &inner, out);
            }
            None if table.extra != Extra::None => {
                let Kind::Map(params) = &value.kind else {
                    panic!("{inner} is not a mapping")
                };
                out.extend(params.iter().map(|(param, _)| {
                    (
                        format!("{}.{}", key.text, param.text),
                        join(&inner, &param.text),
                    )
                }));
            }
            None => panic!("{inner} is not declared"),
        }
    }
}

/// The tree as text in one line, with what stands at `target` replaced by something that fits nowhere.
fn emit(node: &Node, path: &str, target: &str) -> String {
    if path == target && !path.is_empty() {
        return "{ \"?\": [] }".to_owned();
    }
    match &node.kind {
        Kind::Scalar { text, plain: true } => text.clone(),
        Kind::Scalar { text, .. } => Value::from(text.as_str()).to_string(),
        Kind::List(items) => {
            let items = items
                .iter()
                .enumerate()
                .map(|(at, item)| emit(item, &format!("{path}[{at}]"), target));
            format!("[{}]", items.collect::<Vec<_>>().join(", "))
        }
        Kind::Map(entries) => {
            let entries = entries.iter().map(|(key, value)| {
                format!(
                    "{}: {}",
                    key.text,
                    emit(value, &join(path, &key.text), target)
                )
            });
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        Kind::Broken => panic!("{path} is broken"),
    }
}

#[test]
fn one_plan_uses_every_declared_key() {
    let mut uses = Vec::new();
    used_in(&tree(EVERYTHING), &PLAN, "", &mut uses);
    let uses: BTreeSet<String> = uses.into_iter().map(|(key, _)| key).collect();
    assert_eq!(uses, declared());
}

#[test]
fn every_declared_key_is_read() {
    let root = tree(EVERYTHING);
    assert!(
        parse(emit(&root, "", "").as_bytes(), &catalogue()).is_ok(),
        "{}",
        emit(&root, "", "")
    );
    let mut uses = Vec::new();
    used_in(&root, &PLAN, "", &mut uses);
    assert!(uses.len() > 100, "{}", uses.len());
    for (key, path) in uses {
        let wrong = parse(emit(&root, "", &path).as_bytes(), &catalogue()).unwrap_err();
        assert!(
            wrong.iter().any(|wrong| wrong.path.starts_with(&path)),
            "{key}: nothing is said about {path}: {wrong:?}"
        );
    }
}

#[test]
fn the_schema_has_every_declared_key_and_no_other() {
    let schema = schema();
    let mut found = BTreeSet::new();
    let mut tables: Vec<(&str, &Value)> = schema["$defs"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, table)| (name.as_str(), table))
        .collect();
    tables.push(("plan", &schema));
    for (name, table) in tables {
        for (key, value) in table["properties"].as_object().unwrap() {
            match value.get("properties").and_then(Value::as_object) {
                Some(params) => found.extend(params.keys().map(|param| format!("{key}.{param}"))),
                None => {
                    found.insert(format!("{name}.{key}"));
                }
            }
        }
    }
    assert_eq!(found, declared());
}

#[test]
fn the_schema_accepts_good_plans_and_refuses_what_fits_nowhere() {
    let schema = schema();
    for source in GOOD {
        assert_eq!(refused(&json(&tree(source)), &schema, &schema), None);
    }
    let root = tree(EVERYTHING);
    let mut uses = Vec::new();
    used_in(&root, &PLAN, "", &mut uses);
    for (key, path) in uses {
        let value = json(&tree(&emit(&root, "", &path)));
        assert!(
            refused(&value, &schema, &schema).is_some(),
            "{key} at {path} may be anything"
        );
    }
    let unknown = json(&tree(&EVERYTHING.replace("seed:", "sead:")));
    assert!(
        refused(&unknown, &schema, &schema)
            .unwrap()
            .contains("sead")
    );
}

/// As YAML 1.2 and so editors read the tree.
fn json(node: &Node) -> Value {
    match &node.kind {
        Kind::Scalar { text, plain: true } => match serde_json::from_str(text) {
            Ok(value @ (Value::Number(_) | Value::Bool(_) | Value::Null)) => value,
            _ => Value::from(text.as_str()),
        },
        Kind::Scalar { text, .. } => Value::from(text.as_str()),
        Kind::List(items) => items.iter().map(json).collect(),
        Kind::Map(entries) => Value::Object(
            entries
                .iter()
                .map(|(key, value)| (key.text.clone(), json(value)))
                .collect::<Map<_, _>>(),
        ),
        Kind::Broken => Value::Null,
    }
}

/// Why a value does not fit a schema, by the keywords that [`schema`] uses; any other keyword is a mistake of the test.
fn refused(value: &Value, schema: &Value, whole: &Value) -> Option<String> {
    let rules = schema.as_object().unwrap();
    rules
        .iter()
        .find_map(|(keyword, rule)| match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" | "default" => None,
            "$ref" => refused(
                value,
                whole
                    .pointer(rule.as_str().unwrap().trim_start_matches('#'))
                    .unwrap(),
                whole,
            ),
            "type" => {
                let types: Vec<&Value> = rule
                    .as_array()
                    .map_or_else(|| vec![rule], |all| all.iter().collect());
                let fits = types.iter().any(|name| match name.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "integer" => value.is_u64(),
                    "number" => value.is_number(),
                    "boolean" => value.is_boolean(),
                    other => panic!("unknown type {other}"),
                });
                (!fits).then(|| format!("{value} is not {rule}"))
            }
            "enum" => (!rule.as_array().unwrap().contains(value))
                .then(|| format!("{value} is none of {rule}")),
            "const" => (value != rule).then(|| format!("{value} is not {rule}")),
            "minimum" => {
                (value.as_f64() < rule.as_f64()).then(|| format!("{value} is under {rule}"))
            }
            "maximum" => {
                (value.as_f64() > rule.as_f64()).then(|| format!("{value} is over {rule}"))
            }
            "minItems" => value
                .as_array()
                .filter(|items| (items.len() as u64) < rule.as_u64().unwrap())
                .map(|_| "too few".to_owned()),
            "pattern" => {
                let text = value.as_str()?;
                (!regex::Regex::new(rule.as_str().unwrap())
                    .unwrap()
                    .is_match(text))
                .then(|| format!("{text} does not match {rule}"))
            }
            "items" => value
                .as_array()?
                .iter()
                .find_map(|item| refused(item, rule, whole)),
            "required" => {
                let missing = rule
                    .as_array()
                    .unwrap()
                    .iter()
                    .find(|key| value.get(key.as_str().unwrap()).is_none())?;
                Some(format!("{missing} is missing"))
            }
            "properties" => rule
                .as_object()
                .unwrap()
                .iter()
                .find_map(|(key, rule)| refused(value.get(key)?, rule, whole)),
            "additionalProperties" => {
                let known = rules.get("properties").and_then(Value::as_object);
                let mut others = value
                    .as_object()?
                    .iter()
                    .filter(|(key, _)| known.is_none_or(|known| !known.contains_key(*key)));
                if rule == &Value::Bool(false) {
                    return others.map(|(key, _)| format!("{key} is unknown")).next();
                }
                others.find_map(|(_, value)| refused(value, rule, whole))
            }
            "anyOf" => {
                let all = rule.as_array().unwrap();
                all.iter()
                    .all(|one| refused(value, one, whole).is_some())
                    .then(|| format!("{value} fits none of {rule}"))
            }
            "oneOf" => {
                let fitting = rule
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter(|one| refused(value, one, whole).is_none())
                    .count();
                (fitting != 1).then(|| format!("{value} fits {fitting} of {rule}"))
            }
            other => panic!("the schema uses {other}, which this test does not know"),
        })
}
