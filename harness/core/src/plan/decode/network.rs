//! `network:`: protocol time, nodes, settings, limits.

use std::collections::{BTreeMap, BTreeSet};

use super::super::keys::{LIMITS, NODES_MAX};
use super::super::model::{Node, Role, SettingKind};
use super::super::raw::{self, shorten};
use super::super::reader::{Field, Fields, Reader};
use super::params::{NO_ROUNDS_HINT, no_rounds};
use crate::time::Calendar;

/// A disk with less room than one block holds no file.
const DISK_BYTES_MIN: u64 = 4096;

/// A layer counts as void when its host was late by a fifth of it, and hosts that do something else besides are late by
/// up to ten milliseconds: shorter layers could not be told from noise.
const LAYER_NS_MIN: u64 = 50_000_000;

/// How long layers and epochs last.
pub(super) fn calendar(reader: &mut Reader, network: &Fields<'_>) -> Option<Calendar> {
    let layers_per_epoch = network.count(reader, "layers-per-epoch");
    let field = network.get("layer")?;
    let layer_ns = reader.duration(&field)?;
    if layer_ns < LAYER_NS_MIN {
        reader.wrong(
            field.node.span,
            &field.path,
            "a layer is shorter than 50ms, which no ordinary host can time: being 10ms late is a fifth of it, and makes it void",
            "use at least 50ms, 250ms is usual",
        );
        return None;
    }
    Some(Calendar {
        layer_ns,
        layers_per_epoch: u32::try_from(layers_per_epoch?).ok()?,
    })
}

/// Every node with its settings; `None` when the nodes cannot be trusted.
pub(super) fn nodes(
    reader: &mut Reader,
    network: &Fields<'_>,
    roles: &BTreeMap<String, Role>,
    declared: &BTreeSet<String>,
) -> Option<Vec<Node>> {
    let field = network.get("nodes")?;
    let mut nodes = Vec::new();
    let mut sound = true;
    for (key, count_field) in reader.named(&field)? {
        let count = reader.count(&count_field, 1, NODES_MAX);
        if !declared.contains(&key.text) {
            let known: Vec<&String> = declared.iter().collect();
            let why = format!("no role is called `{}`", shorten(&key.text));
            reader.wrong(
                key.span,
                &count_field.path,
                why,
                reader.suggest(&key.text, "roles", &known),
            );
            sound = false;
        }
        let Some(count) = count else {
            sound = false;
            continue;
        };
        let round_bytes = roles.get(&key.text).and_then(|role| role.round_bytes);
        nodes.extend((0..count).map(|at| Node {
            name: format!("{}-{at}", key.text),
            role: key.text.clone(),
            settings: BTreeMap::new(),
            round_bytes,
            disk: None,
        }));
    }
    if nodes.len() as u64 > NODES_MAX {
        let why = format!(
            "{} nodes are more than one run can hold ({NODES_MAX})",
            nodes.len()
        );
        reader.wrong(field.node.span, &field.path, why, "use fewer nodes");
        return None;
    }
    if nodes.is_empty() && sound {
        reader.wrong(
            field.node.span,
            &field.path,
            "the network has no nodes",
            "write `nodes: { ROLE: 3 }`",
        );
        return None;
    }
    if !sound {
        return None;
    }
    settings(reader, network.get("settings"), &mut nodes, roles);
    limits(reader, network.get("limits"), &mut nodes, roles);
    Some(nodes)
}

/// Applies settings from the widest to the narrowest scope: `all`, role, node.
fn settings(
    reader: &mut Reader,
    field: Option<Field<'_>>,
    nodes: &mut [Node],
    roles: &BTreeMap<String, Role>,
) {
    for (scope, field) in scopes(reader, field, nodes) {
        for (setting, value) in reader.named(&field).unwrap_or_default() {
            apply(reader, scope, setting, &value, nodes, roles);
        }
    }
}

/// Room on the disks of nodes, from the widest to the narrowest scope.
fn limits(
    reader: &mut Reader,
    field: Option<Field<'_>>,
    nodes: &mut [Node],
    roles: &BTreeMap<String, Role>,
) {
    for (scope, field) in scopes(reader, field, nodes) {
        let disk = reader
            .fields(&field, &LIMITS)
            .and_then(|fields| fields.get("disk"));
        let Some(disk) = disk else { continue };
        let Some(capacity) = reader.capacity(&disk) else {
            continue;
        };
        for node in nodes.iter_mut().filter(|node| scope.holds(node)) {
            match capacity.bytes(node.round_bytes) {
                Some(bytes) if bytes < DISK_BYTES_MIN => reader.wrong(
                    disk.node.span,
                    &disk.path,
                    format!("a disk of {bytes} bytes holds no file"),
                    "files take blocks of 4KiB: use at least one",
                ),
                Some(bytes) => node.disk = Some(bytes),
                // A role that could not be read has reported why.
                None if roles.contains_key(&node.role) => reader.wrong(
                    disk.node.span,
                    &disk.path,
                    no_rounds(&node.role),
                    NO_ROUNDS_HINT,
                ),
                None => {}
            }
        }
    }
}

/// The entries of a mapping from scopes, the widest first.
fn scopes<'n>(
    reader: &mut Reader,
    field: Option<Field<'n>>,
    nodes: &[Node],
) -> Vec<(Scope<'n>, Field<'n>)> {
    let scopes = field.and_then(|field| reader.named(&field));
    let mut sorted: Vec<(Scope<'n>, Field<'n>)> = Vec::new();
    for (key, scope) in scopes.unwrap_or_default() {
        if let Some(found) = Scope::of(&key.text, nodes) {
            sorted.push((found, scope));
            continue;
        }
        let roles = nodes.iter().map(|node| node.role.as_str());
        let known: BTreeSet<&str> = roles.chain(["all"]).collect();
        let known: Vec<&str> = known.into_iter().collect();
        let why = format!(
            "no role or node of the network is called `{}`",
            shorten(&key.text)
        );
        reader.wrong(
            key.span,
            &scope.path,
            why,
            reader.suggest(&key.text, "scopes", &known),
        );
    }
    sorted.sort_by_key(|(scope, _)| *scope);
    sorted
}

/// Which nodes a group of settings is for, the widest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scope<'t> {
    All,
    Role(&'t str),
    Node(&'t str),
}

impl<'t> Scope<'t> {
    fn of(text: &'t str, nodes: &[Node]) -> Option<Self> {
        match text {
            "all" => Some(Self::All),
            role if nodes.iter().any(|node| node.role == role) => Some(Self::Role(role)),
            name if nodes.iter().any(|node| node.name == name) => Some(Self::Node(name)),
            _ => None,
        }
    }

    fn holds(self, node: &Node) -> bool {
        match self {
            Self::All => true,
            Self::Role(role) => node.role == role,
            Self::Node(name) => node.name == name,
        }
    }
}

/// Gives a setting to the nodes of a scope whose roles know it.
fn apply(
    reader: &mut Reader,
    scope: Scope<'_>,
    setting: &raw::Key,
    value: &Field<'_>,
    nodes: &mut [Node],
    roles: &BTreeMap<String, Role>,
) {
    let in_scope: BTreeSet<String> = nodes
        .iter()
        .filter(|node| scope.holds(node))
        .map(|node| node.role.clone())
        .collect();
    let mut spellings: BTreeMap<&str, String> = BTreeMap::new();
    let mut somewhere = false;
    for role in in_scope.iter().filter_map(|role| roles.get(role)) {
        let Some(kind) = role.settings.get(&setting.text) else {
            continue;
        };
        somewhere = true;
        if let Some(text) = spelled(reader, value, *kind) {
            spellings.insert(&role.name, text);
        }
    }
    if !somewhere {
        unknown_setting(reader, setting, value, &in_scope, roles);
    }
    for node in nodes.iter_mut().filter(|node| scope.holds(node)) {
        if let Some(text) = spellings.get(node.role.as_str()) {
            node.settings.insert(setting.text.clone(), text.clone());
        }
    }
}

fn unknown_setting(
    reader: &mut Reader,
    setting: &raw::Key,
    value: &Field<'_>,
    in_scope: &BTreeSet<String>,
    roles: &BTreeMap<String, Role>,
) {
    // A role that could not be read has reported why; its settings are unknown, not wrong.
    if in_scope.iter().any(|role| !roles.contains_key(role)) {
        return;
    }
    let known: BTreeSet<&String> = in_scope
        .iter()
        .filter_map(|role| roles.get(role))
        .flat_map(|role| role.settings.keys())
        .collect();
    let known: Vec<&String> = known.into_iter().collect();
    let roles: Vec<&str> = in_scope.iter().map(String::as_str).collect();
    let why = format!(
        "`{}` is not a setting of {}",
        shorten(&setting.text),
        roles.join(", ")
    );
    reader.wrong(
        setting.span,
        &value.path,
        why,
        reader.suggest(&setting.text, "settings", &known),
    );
}

/// A setting's value as `--key value` carries it.
fn spelled(reader: &mut Reader, value: &Field<'_>, kind: SettingKind) -> Option<String> {
    match kind {
        SettingKind::Count => reader
            .count(value, 0, u64::MAX)
            .map(|count| count.to_string()),
        SettingKind::Duration => {
            reader.duration(value)?;
            reader
                .lines(value)
                .map(|text| text.split_whitespace().collect())
        }
        SettingKind::Size => reader.size(value).map(|bytes| bytes.to_string()),
        SettingKind::Text => reader.text(value),
        SettingKind::Flag => reader.flag(value).map(|flag| flag.to_string()),
    }
}
