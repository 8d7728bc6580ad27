//! Which nodes are meant: `gateway`, `every gateway`, `any gateway`, `any 2 of gateway`, `gateway-3`, or a list.
//!
//! There are no plurals, since a user's role names are the user's own.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::model::Node;
use super::suggest::nearest;
use crate::random;

/// A choice of nodes as the plan spells it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selector {
    /// `ROLE` or `every ROLE`: each node of the role by itself.
    Every(String),
    /// `any ROLE`: at least one, where something is expected; one that is drawn, where something is done.
    Any(String),
    /// `any N of ROLE`.
    AnyOf(usize, String),
    /// `ROLE-i`: one node by its name.
    Node(String),
    /// Several of these together.
    List(Vec<Selector>),
}

impl Selector {
    /// Reads one selector that is not a list. Whether role and node exist is asked once all of a plan is read.
    ///
    /// # Errors
    /// A fragment that says what cannot be read.
    pub fn parse(text: &str, nodes: &[Node]) -> Result<Self, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words.as_slice() {
            ["every", role] => Ok(Self::Every((*role).to_owned())),
            ["any", role] => Ok(Self::Any((*role).to_owned())),
            ["any", count, "of", role] => match count.parse::<usize>() {
                Ok(count) if count > 0 => Ok(Self::AnyOf(count, (*role).to_owned())),
                _ => Err(format!("`{count}` is not a number of nodes of at least 1")),
            },
            [name] if nodes.iter().any(|node| node.name == *name) => {
                Ok(Self::Node((*name).to_owned()))
            }
            [role] if !matches!(*role, "any" | "every") => Ok(Self::Every((*role).to_owned())),
            _ => Err(format!("`{text}` does not say which nodes")),
        }
    }

    /// Why this matches nothing or too little among `nodes`, or `None` when it is sound.
    pub(super) fn unknown(&self, nodes: &[Node]) -> Option<String> {
        let of_role = |role: &str| nodes.iter().filter(|node| node.role == role).count();
        match self {
            Self::Every(role) | Self::Any(role) if of_role(role) == 0 => {
                Some(format!("no node has the role or name `{role}`"))
            }
            Self::AnyOf(_, role) if of_role(role) == 0 => {
                Some(format!("no role of the network is called `{role}`"))
            }
            Self::AnyOf(count, role) if of_role(role) < *count => Some(format!(
                "asks for {count} of `{role}`, but the network has {}",
                of_role(role)
            )),
            Self::Node(name) if !nodes.iter().any(|node| node.name == *name) => {
                Some(format!("no node is called `{name}`"))
            }
            Self::List(parts) if parts.is_empty() => {
                Some("an empty list matches no node".to_owned())
            }
            Self::List(parts) => parts.iter().find_map(|part| part.unknown(nodes)),
            _ => None,
        }
    }

    /// Whether resolving needs a draw, and so a name that the draw is keyed by.
    pub fn draws(&self) -> bool {
        match self {
            Self::Any(_) | Self::AnyOf(..) => true,
            Self::List(parts) => parts.iter().any(Self::draws),
            Self::Every(_) | Self::Node(_) => false,
        }
    }

    /// The nodes something is done to: draws are keyed by `purpose`, in the order of the network, without repeats.
    pub fn targets(&self, nodes: &[Node], seed: u64, purpose: &str) -> Vec<String> {
        let mut chosen: Vec<String> = match self {
            Self::List(parts) => parts
                .iter()
                .flat_map(|part| part.targets(nodes, seed, purpose))
                .collect(),
            Self::Node(name) => vec![name.clone()],
            Self::Every(role) => names_of(nodes, role)
                .into_iter()
                .map(str::to_owned)
                .collect(),
            Self::Any(role) => draw(nodes, seed, purpose, role, 1),
            Self::AnyOf(count, role) => draw(nodes, seed, purpose, role, *count),
        };
        // Those of one role come in order already, and a long timeline asks ten thousand times.
        if !matches!(self, Self::Every(_)) && chosen.len() > 1 {
            let order = order(nodes);
            chosen.sort_by_key(|name| order.get(name.as_str()));
            chosen.dedup();
        }
        chosen
    }

    /// All nodes that could be meant, for expectations and conditions.
    pub fn members(&self, nodes: &[Node]) -> Vec<String> {
        match self {
            Self::List(parts) => {
                let mut all: Vec<String> =
                    parts.iter().flat_map(|part| part.members(nodes)).collect();
                let order = order(nodes);
                all.sort_by_key(|name| order.get(name.as_str()));
                all.dedup();
                all
            }
            Self::Node(name) => vec![name.clone()],
            Self::Every(role) | Self::Any(role) | Self::AnyOf(_, role) => names_of(nodes, role)
                .into_iter()
                .map(str::to_owned)
                .collect(),
        }
    }

    /// How many of [`Selector::members`] must hold: all of them, one, or N.
    pub fn quorum(&self, members: usize) -> usize {
        match self {
            Self::Any(_) => 1,
            Self::AnyOf(count, _) => *count,
            Self::Every(_) | Self::Node(_) | Self::List(_) => members,
        }
    }
}

/// What a text names that reads like one node of a role: why there is no such node, and which there are.
pub(super) fn near_node(text: &str, nodes: &[Node]) -> Option<(String, String)> {
    let (name, index) = text.rsplit_once('-')?;
    if index.is_empty() || !index.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let roles: BTreeSet<&str> = nodes.iter().map(|node| node.role.as_str()).collect();
    let roles: Vec<&str> = roles.into_iter().collect();
    let exact = roles.iter().copied().find(|role| *role == name);
    let role = exact.or_else(|| nearest(name, &roles))?;
    let why = format!("no node is called `{text}`");
    let meant = format!("{role}-{index}");
    if nodes.iter().any(|node| node.name == meant) {
        return Some((why, format!("did you mean `{meant}`?")));
    }
    let names = names_of(nodes, role);
    let hint = match names.as_slice() {
        [] => return None,
        [only] => format!("the only node of the role is `{only}`"),
        [first, .., last] => format!("the nodes of the role are `{first}` to `{last}`"),
    };
    Some((why, hint))
}

/// The form that a text which is no selector was probably meant for: `any 2 of gateway` for `any 2 gateways`.
pub(super) fn near_form(text: &str, roles: &[&str]) -> Option<String> {
    const NUMBERS: [&str; 9] = [
        "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    ];
    let words: Vec<&str> = text.split_whitespace().collect();
    let (last, before) = words.split_last().filter(|_| words.len() <= 4)?;
    let singular = last.strip_suffix('s').unwrap_or(last);
    let exact = roles.iter().find(|role| [last, singular].contains(role));
    let role = exact.copied().or_else(|| nearest(last, roles))?;
    let count = before.iter().find_map(|word| {
        let spelled = NUMBERS.iter().zip(1..).find(|(name, _)| *name == word);
        spelled
            .map(|(_, number)| number)
            .or_else(|| word.parse().ok())
    });
    match count {
        Some(0) => None,
        Some(count) => Some(Selector::AnyOf(count, role.to_owned()).to_string()),
        None if before
            .iter()
            .any(|word| ["all", "each", "every"].contains(word)) =>
        {
            Some(Selector::Every(role.to_owned()).to_string())
        }
        None if before
            .iter()
            .any(|word| ["any", "some", "a"].contains(word)) =>
        {
            Some(Selector::Any(role.to_owned()).to_string())
        }
        None => None,
    }
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Every(role) => write!(f, "every {role}"),
            Self::Any(role) => write!(f, "any {role}"),
            Self::AnyOf(count, role) => write!(f, "any {count} of {role}"),
            Self::Node(name) => write!(f, "{name}"),
            Self::List(parts) => {
                write!(f, "[")?;
                for (i, part) in parts.iter().enumerate() {
                    write!(f, "{}{part}", if i == 0 { "" } else { ", " })?;
                }
                write!(f, "]")
            }
        }
    }
}

/// The place of every node in the network.
fn order(nodes: &[Node]) -> BTreeMap<&str, usize> {
    nodes
        .iter()
        .map(|node| node.name.as_str())
        .zip(0..)
        .collect()
}

fn names_of<'a>(nodes: &'a [Node], role: &str) -> Vec<&'a str> {
    nodes
        .iter()
        .filter(|node| node.role == role)
        .map(|node| node.name.as_str())
        .collect()
}

fn draw(nodes: &[Node], seed: u64, purpose: &str, role: &str, count: usize) -> Vec<String> {
    random::pick(seed, purpose, &names_of(nodes, role), count)
        .into_iter()
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_forms() {
        let roles = ["gateway", "miner"];
        for (text, meant) in [
            ("any 2 gateways", Some("any 2 of gateway")),
            ("any 2 gateway", Some("any 2 of gateway")),
            ("2 of gatewya", Some("any 2 of gateway")),
            ("any two of gateway", Some("any 2 of gateway")),
            ("all miners", Some("every miner")),
            ("each miner", Some("every miner")),
            ("some of miner", Some("any miner")),
            ("any 0 of miner", None),
            ("all bananas", None),
            ("any any any any any miner", None),
            ("", None),
        ] {
            assert_eq!(near_form(text, &roles).as_deref(), meant, "{text}");
        }
    }
}
