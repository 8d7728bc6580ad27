//! Where nodes can live, as plans and the command line name it, and what of a plan does not fit there on any machine.
//!
//! How a place does something is the harness's, and whether a machine can is found there by trying. To add a place: a line
//! in the table below, its pace, its rules if it has any; the rest of the recipe is in CONTRIBUTING.md.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::capability::Resource;
use crate::plan::{Plan, SourceSpan, size};
use crate::run::Pace;
use crate::schedule::{Action, Schedule, Step};

/// What is in the table is in every list, so that none can lack a substrate.
macro_rules! substrates {
    ($($(#[$about:meta])* $name:ident = $word:literal,)*) => {
        /// A substrate, as `--substrate` and `substrate:` name it.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub enum SubstrateKind {
            $($(#[$about])* #[serde(rename = $word)] $name,)*
        }

        impl SubstrateKind {
            /// Every substrate, in the order of tables.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The names of all.
            pub const WORDS: &[&str] = &[$($word),*];

            /// Its name.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }
        }
    };
}

substrates! {
    /// Processes of this machine.
    #[default]
    Process = "process",
    /// Containers of an engine.
    Docker = "docker",
}

impl SubstrateKind {
    /// The substrate of this name.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.word() == word)
    }

    /// How long it takes for what it does.
    pub const fn pace(self) -> Pace {
        match self {
            Self::Process => Pace::PROCESS,
            Self::Docker => Pace::DOCKER,
        }
    }
}

/// Something of a plan that cannot be carried out in a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// Where in the text; nowhere in particular for a role.
    pub at: Option<SourceSpan>,
    /// What and why.
    pub why: String,
    /// What to do next.
    pub hint: String,
}

/// What of a plan cannot be carried out in a place, whatever machine that is.
pub fn unfit(plan: &Plan, schedule: &Schedule, substrate: SubstrateKind) -> Vec<Unfit> {
    match substrate {
        SubstrateKind::Process => no_command(plan),
        SubstrateKind::Docker => memory_below_disk(plan, schedule),
    }
}

/// Where an entry of the timeline stands in the text.
pub fn place_of(plan: &Plan, entry: &str) -> Option<SourceSpan> {
    let mut entries = plan.timeline.iter();
    let entry = entries.find(|other| other.name == entry)?;
    Some(entry.at_text)
}

/// Processes are started from a command and nothing else.
fn no_command(plan: &Plan) -> Vec<Unfit> {
    let roles = plan.roles.values();
    let without = roles.filter(|role| role.command.is_empty());
    let unfit = without.map(|role| Unfit {
        at: None,
        why: format!(
            "role `{}` has an `image` and no `command`, so there is nothing to start as a process",
            role.name
        ),
        hint: "add `command: [PROGRAM, ...]`, or run it with `substrate: docker` or `--substrate docker`"
            .to_owned(),
    });
    unfit.collect()
}

/// A disk that is held is memory there, and what a node writes counts as its own.
fn memory_below_disk(plan: &Plan, schedule: &Schedule) -> Vec<Unfit> {
    let mut caps: BTreeMap<&str, u64> = plan
        .nodes
        .iter()
        .filter_map(|node| Some((node.name.as_str(), node.disk?)))
        .collect();
    for step in &schedule.steps {
        if let Action::CapDisk { node, bytes } = &step.action {
            // A fault never makes a disk larger than its limit.
            let known = plan.node(node).and_then(|node| node.disk).is_some();
            let cap = caps.entry(node).or_default();
            *cap = if known { *cap } else { (*cap).max(*bytes) };
        }
    }
    let below = |step: &Step| match &step.action {
        Action::Limit {
            node,
            resource: Resource::Memory,
            amount,
        } => {
            let disk = caps.get(node.as_str()).filter(|disk| **disk > *amount)?;
            Some(Unfit {
                at: place_of(plan, &step.entry),
                why: format!(
                    "`{}` caps the memory of {node} at {}, which is less than the {} that its disk can take: in containers a disk that is held is memory, and what the node writes counts as its own",
                    step.entry,
                    size(*amount),
                    size(*disk)
                ),
                hint: "cap its memory above its disk, or its disk below its memory".to_owned(),
            })
        }
        _ => None,
    };
    schedule.steps.iter().filter_map(below).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::plan::model::Release;
    use crate::plan::{Catalogue, parse};
    use crate::schedule::resolve;

    /// What does not fit of a plan with these limits, role and fault.
    fn found(limits: &str, role: &str, fault: &str, substrate: SubstrateKind) -> Vec<String> {
        let text = format!(
            "format: 1\nplan: p\nnetwork: {{ layer: 250ms, layers-per-epoch: 4, nodes: {{ own: 2 }}, limits: {{ {limits} }} }}\n\
             roles: {{ own: {{ {role}, ready: {{ tcp: \"{{addr}}\" }}, signals: {{ s: {{ log: s, value: /n, period: 1 layer }} }} }} }}\n\
             timeline: [{{ at: epoch 2, name: squeeze, {fault} }}, {{ at: epoch 3, heal: all }}]\n\
             expect: [{{ advance: {{ signal: s, of: any own, within: 2 layers }} }}]\n"
        );
        let catalogue = Catalogue {
            roles: String::new(),
            releases: vec![Release {
                name: "fixed".to_owned(),
                base: None,
                without: BTreeSet::new(),
                bin: None,
            }],
            switches: Vec::new(),
        };
        let plan = parse(text.as_bytes(), &catalogue).unwrap();
        let unfit = unfit(&plan, &resolve(&plan, 0), substrate).into_iter();
        unfit
            .map(|unfit| format!("{:?} {}", unfit.at.map(|at| at.line), unfit.why))
            .collect()
    }

    #[test]
    fn words_are_what_json_has() {
        for (kind, word) in SubstrateKind::ALL.iter().zip(SubstrateKind::WORDS) {
            assert_eq!(serde_json::to_value(kind).unwrap(), *word);
            assert_eq!(SubstrateKind::named(word), Some(*kind));
        }
        assert_eq!(SubstrateKind::named("moon"), None);
    }

    const COMMAND: &str = "command: [./x]";
    const CAP: &str = "cap-memory: { target: own-0, size: 32MiB }";

    #[test]
    fn memory_is_not_capped_below_a_disk_that_is_memory() {
        let docker = |limits, fault| found(limits, COMMAND, fault, SubstrateKind::Docker);
        let told = docker("own: { disk: 33MiB }", CAP);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].starts_with(
                "Some(5) `squeeze` caps the memory of own-0 at 32MiB, which is less than the 33MiB"
            ),
            "{told:?}"
        );
        for fine in [
            "own: { disk: 32MiB }",
            "own-1: { disk: 33MiB }",
            "all: { disk: 33MiB }, own-0: { disk: 1MiB }",
        ] {
            assert_eq!(docker(fine, CAP), Vec::<String>::new(), "{fine}");
        }
        let disk = "cap-disk: { target: own-0, size: 64MiB }";
        assert_eq!(docker("own: { disk: 33MiB }", disk), Vec::<String>::new());
        let process = found("own: { disk: 33MiB }", COMMAND, CAP, SubstrateKind::Process);
        assert_eq!(process, Vec::<String>::new(), "there a disk is a disk");
    }

    #[test]
    fn an_image_alone_is_nothing_to_start_as_a_process() {
        let of = |role, substrate| found("own: { disk: 1MiB }", role, CAP, substrate);
        let told = of("image: my/node:1", SubstrateKind::Process);
        assert!(
            told.len() == 1
                && told[0].starts_with("None role `own` has an `image` and no `command`"),
            "{told:?}"
        );
        for (role, substrate) in [
            ("image: my/node:1", SubstrateKind::Docker),
            ("image: my/node:1, command: [./x]", SubstrateKind::Process),
            (COMMAND, SubstrateKind::Process),
        ] {
            assert_eq!(of(role, substrate), Vec::<String>::new(), "{role}");
        }
    }
}
