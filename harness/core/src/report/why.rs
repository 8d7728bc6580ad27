//! What led to what, as a tree: faults, then what came of them, each kind once, under the latest of its causes.
//!
//! The links of a verdict are a graph between single findings. Twelve miners that stall for two PoETs are one step for a
//! reader, and a step with two effects is where the tree branches.

use std::collections::BTreeMap;

use super::text::alike;
use crate::verdict::{Cause, Finding, Link, Verdict};

/// One line of the tree.
pub(super) struct Twig<'a> {
    /// What is drawn before it.
    pub(super) branch: String,
    /// What it is about.
    pub(super) what: What<'a>,
    /// When it began, for faults.
    pub(super) from_ns: Option<u64>,
    /// Why it follows from the line it hangs on, where that needs saying.
    pub(super) how: &'a str,
    /// The first link to what it hangs on.
    pub(super) link: Option<&'a Link>,
}

/// What a line of the tree is about.
pub(super) enum What<'a> {
    /// A fault on these nodes.
    Fault {
        /// The timeline entry.
        entry: &'a str,
        /// Its nodes.
        nodes: Vec<&'a str>,
    },
    /// Findings of one kind.
    Findings(Vec<&'a Finding>),
}

/// Something that others hang on: an entry of the timeline, or a group of findings by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stem<'a> {
    Fault(&'a str),
    Group(usize),
}

/// The lines of the tree, from the top. What nothing led to and what led to nothing is not in it.
pub(super) fn twigs(verdict: &Verdict) -> Vec<Twig<'_>> {
    let all: Vec<&Finding> = verdict.findings.iter().collect();
    let groups = alike(&all);
    let group_of = |place: usize| {
        let finding = &verdict.findings[place];
        let same =
            |group: &Vec<&Finding>| group[0].id == finding.id && group[0].role == finding.role;
        groups.iter().position(same).unwrap_or_default()
    };
    // The latest cause is the nearest; groups come in the order of causes, and any of them is nearer than a fault.
    let mut parents: BTreeMap<usize, (Stem, &Link)> = BTreeMap::new();
    for link in &verdict.chain {
        let effect = group_of(link.effect);
        let cause = match &link.cause {
            Cause::Fault { entry, .. } => Stem::Fault(entry),
            Cause::Finding(place) => Stem::Group(group_of(*place)),
        };
        // Groups are put in order by their first finding, so a later member may look like a cause of an earlier group.
        let backwards = matches!(cause, Stem::Group(group) if group >= effect);
        let nearer = |(known, _): &(Stem, &Link)| match (known, cause) {
            (Stem::Fault(_), Stem::Group(_)) => true,
            (Stem::Group(known), Stem::Group(cause)) => cause > *known,
            (_, Stem::Fault(_)) => false,
        };
        if !backwards && parents.get(&effect).is_none_or(nearer) {
            parents.insert(effect, (cause, link));
        }
    }
    let mut children: BTreeMap<Stem, Vec<usize>> = BTreeMap::new();
    for (effect, (cause, _)) in &parents {
        children.entry(*cause).or_default().push(*effect);
    }
    // Top to bottom: what hangs on nothing, faults in the order of the timeline, then what no fault led to.
    let mut entries: Vec<&str> = Vec::new();
    for fault in &verdict.faults {
        if !entries.contains(&fault.entry.as_str()) {
            entries.push(&fault.entry);
        }
    }
    let roots = entries.into_iter().map(Stem::Fault);
    let orphans = (0..groups.len())
        .filter(|group| !parents.contains_key(group))
        .map(Stem::Group);
    let mut stack: Vec<(Stem, String, String)> = roots
        .chain(orphans)
        .filter(|stem| children.contains_key(stem))
        .map(|stem| (stem, String::new(), String::new()))
        .collect();
    stack.reverse();
    let mut twigs = Vec::new();
    while let Some((stem, branch, under)) = stack.pop() {
        let own = children.get(&stem).map_or(&[][..], Vec::as_slice);
        let last = own.last();
        for child in own.iter().rev() {
            let (fork, rest) = if Some(child) == last {
                ("└─ ", "   ")
            } else {
                ("├─ ", "│  ")
            };
            stack.push((
                Stem::Group(*child),
                format!("{under}{fork}"),
                format!("{under}{rest}"),
            ));
        }
        twigs.push(twig(stem, branch, verdict, &groups, &parents));
    }
    twigs
}

fn twig<'a>(
    stem: Stem<'a>,
    branch: String,
    verdict: &'a Verdict,
    groups: &[Vec<&'a Finding>],
    parents: &BTreeMap<usize, (Stem<'a>, &'a Link)>,
) -> Twig<'a> {
    match stem {
        Stem::Fault(entry) => {
            let faults = verdict.faults.iter().filter(|fault| fault.entry == entry);
            Twig {
                branch,
                from_ns: faults.clone().filter_map(|fault| fault.begun_ns).min(),
                what: What::Fault {
                    entry,
                    nodes: faults.map(|fault| fault.node.as_str()).collect(),
                },
                how: "",
                link: None,
            }
        }
        Stem::Group(group) => {
            let link = parents.get(&group).map(|(_, link)| *link);
            Twig {
                branch,
                what: What::Findings(groups[group].clone()),
                from_ns: None,
                how: link.map_or("", |link| link.how.as_str()),
                link,
            }
        }
    }
}
