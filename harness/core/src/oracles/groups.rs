//! Which nodes an expectation is about, as groups of which a quorum must advance.
//!
//! `every miner` is one group per node; `any miner` is one group of which one must advance.

use std::collections::BTreeSet;

use super::world::{Mark, World};
use crate::history::Header;
use crate::plan::Selector;
use crate::plan::model::Node;

/// Nodes of which `quorum` must advance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// Its nodes.
    pub(super) members: Vec<String>,
    /// How many of them must advance.
    pub(super) quorum: usize,
    /// For messages: `miner-0`, `any miner`.
    pub(super) label: String,
    /// The role of all of its nodes, if it is one.
    pub(super) role: Option<String>,
}

impl Group {
    /// The only node, where there is one.
    pub(super) fn node(&self) -> Option<&str> {
        match self.members.as_slice() {
            [only] => Some(only),
            _ => None,
        }
    }

    /// Whether enough of its nodes are free to advance: not excused. What died by itself is not excused.
    pub(super) fn able(&self, world: &World) -> bool {
        let excused = self
            .members
            .iter()
            .filter(|node| world.excused(node))
            .count();
        self.members.len() - excused >= self.quorum
    }

    /// The moment by which the quorum had advanced last: the quorum-th latest advance of its nodes.
    pub(super) fn advanced(&self, world: &World, signal: &str) -> Option<Mark> {
        let mut marks: Vec<Option<Mark>> = self
            .members
            .iter()
            .map(|node| world.track(node, signal).and_then(|track| track.advanced))
            .collect();
        marks.sort_unstable_by(|a, b| b.cmp(a));
        marks.get(self.quorum.saturating_sub(1)).copied().flatten()
    }

    /// When values of the signal that its nodes push were last told to be lost: until then they may have advanced.
    pub(super) fn lost(&self, world: &World, signal: &str) -> Option<Mark> {
        let members = self.members.iter();
        let pushing = members.filter(|node| world.pushed(node, signal));
        pushing.filter_map(|node| world.lost(node)).max()
    }

    /// Why the signal was never read on any of its nodes, in the words of the latest gap; `None` when it was.
    pub(super) fn unread(&self, world: &World, signal: &str) -> Option<String> {
        if self.samples(world, signal) > 0 {
            return None;
        }
        let mut tracks = self
            .members
            .iter()
            .filter_map(|node| world.track(node, signal));
        let gap = tracks.find_map(|track| track.gap.clone());
        let pushed = self.members.iter().any(|node| world.pushed(node, signal));
        Some(gap.unwrap_or_else(|| {
            let why = if pushed {
                "no such event was logged"
            } else {
                "it was never asked for"
            };
            why.to_owned()
        }))
    }

    /// How often the signal was read on its nodes.
    pub(super) fn samples(&self, world: &World, signal: &str) -> u64 {
        let tracks = self
            .members
            .iter()
            .filter_map(|node| world.track(node, signal));
        tracks.map(|track| track.samples).sum()
    }
}

/// The groups of a selector in the nodes of a run.
pub(super) fn groups(of: &Selector, header: &Header) -> Vec<Group> {
    let nodes: Vec<Node> = super::world::plan_nodes(header);
    let mut found = Vec::new();
    collect(of, &nodes, &mut found);
    found.retain(|group| !group.members.is_empty());
    found.dedup();
    found
}

fn collect(of: &Selector, nodes: &[Node], found: &mut Vec<Group>) {
    match of {
        Selector::List(parts) => parts.iter().for_each(|part| collect(part, nodes, found)),
        Selector::Every(_) | Selector::Node(_) => {
            for name in of.members(nodes) {
                found.push(group(vec![name.clone()], 1, name, nodes));
            }
        }
        Selector::Any(_) | Selector::AnyOf(..) => {
            let members = of.members(nodes);
            let quorum = of.quorum(members.len());
            found.push(group(members, quorum, of.to_string(), nodes));
        }
    }
}

fn group(members: Vec<String>, quorum: usize, label: String, nodes: &[Node]) -> Group {
    let roles: BTreeSet<&str> = nodes
        .iter()
        .filter(|node| members.contains(&node.name))
        .map(|node| node.role.as_str())
        .collect();
    let role = match roles.len() {
        1 => roles.first().map(|role| (*role).to_owned()),
        _ => None,
    };
    Group {
        members,
        quorum,
        label,
        role,
    }
}
