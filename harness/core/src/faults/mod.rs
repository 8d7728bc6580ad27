//! Fault kinds: one file each, and one line in [`ALL`].
//!
//! A kind declares its parameters in a table, its impact, what its targets must speak, which capabilities of a substrate it
//! needs, and how it expands into actions of the small closed set in [`crate::schedule::Action`]. It never touches anything: substrates carry actions out.
//! To add one, copy `pause.rs` and follow CONTRIBUTING.md. Tests then check names, tables, that it needs what it says and
//! that its smallest plan is there.

use crate::capability::{Capability, Resource};
use crate::params::{Param, Params};
use crate::plan::Selector;
use crate::plan::model::Node;
use crate::schedule::{Action, Class};
use crate::time::{Calendar, Span};

mod cap_disk;
mod cap_memory;
mod cap_pids;
mod fill_disk;
mod flood_sessions;
mod kill;
mod operate;
mod pause;
mod restart;
mod room;
mod set_gateways;
mod start_poet;
mod terminate;
mod throttle_cpu;

/// Every fault kind, in the order of the reference page.
pub static ALL: &[&dyn FaultKind] = &[
    &kill::Kill,
    &terminate::Terminate,
    &restart::Restart,
    &pause::Pause,
    &flood_sessions::FloodSessions,
    &cap_disk::CAP_DISK,
    &fill_disk::FILL_DISK,
    &cap_memory::CapMemory,
    &throttle_cpu::ThrottleCpu,
    &cap_pids::CapPids,
    &set_gateways::SET_GATEWAYS,
    &start_poet::START_POET,
];

/// The kind of this name.
pub fn by_name(name: &str) -> Option<&'static dyn FaultKind> {
    ALL.iter().copied().find(|kind| kind.name() == name)
}

/// What a fault does to its targets' duty to make progress (design: impaired excuses, stressed does not).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Impact {
    /// Killed, frozen or cut off by the harness: while `tolerates` is broken by such nodes, liveness is not demanded.
    Impaired,
    /// Loaded or limited: it must go on working.
    Stressed,
}

/// How long a fault of a kind lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    /// Until its `for` is over, its heal, or the end of the run.
    UntilHealed,
    /// As long as its own parameters say; `for` is refused.
    Itself(Span),
    /// It is done and stays done; `for` is refused, and so is a heal that names it.
    ForGood,
}

/// The network that a fault happens in, for kinds that name nodes besides their targets.
#[derive(Debug, Clone, Copy)]
pub struct Among<'a> {
    /// Every node.
    pub nodes: &'a [Node],
    /// The seed that draws are made from.
    pub seed: u64,
    /// The entry's name, which draws are keyed by.
    pub entry: &'a str,
}

impl Among<'_> {
    /// The nodes that a selector of the entry means.
    pub fn named(&self, selector: &Selector) -> Vec<String> {
        selector.targets(self.nodes, self.seed, self.entry)
    }
}

/// One primitive effect of a fault and how it is taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// What is done when the fault begins.
    pub action: Action,
    /// How it ends.
    pub class: Class,
}

impl Effect {
    /// A resource that the target has so much of until the fault ends.
    fn limit(target: &Node, resource: Resource, amount: u64) -> Self {
        let node = target.name.clone();
        Self {
            action: Action::Limit {
                node: node.clone(),
                resource,
                amount,
            },
            class: Class::Restores(Action::Unlimit { node, resource }),
        }
    }
}

/// A kind of fault.
pub trait FaultKind: Sync + std::fmt::Debug {
    /// The key in a plan, in kebab-case.
    fn name(&self) -> &'static str;

    /// One sentence: what it does to its targets.
    fn summary(&self) -> &'static str;

    /// The smallest sensible parameters as a plan would spell them.
    fn example(&self) -> &'static str;

    /// Its parameters. One called `target` with [`crate::params::Shape::Nodes`] is expected of every kind.
    fn params(&self) -> &'static [Param];

    /// What it does to its targets' duty to make progress.
    fn impact(&self) -> Impact;

    /// What a substrate must be able to do for it: first what begins it, then what takes it back, where that is another.
    fn needs(&self) -> &'static [Capability];

    /// The protocol that every target's role must speak.
    fn requires(&self) -> Option<&'static str> {
        None
    }

    /// How long it lasts with these parameters.
    fn lasting(&self, _params: &Params) -> Lasting {
        Lasting::UntilHealed
    }

    /// Rules between parameters that the table cannot say: the offending key and why.
    fn check(&self, _params: &Params, _calendar: &Calendar) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// Ports that the nodes of a parameter must have, since the fault reaches them there: parameter and port.
    fn ports(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// What is done to one target when the fault begins, and how each effect ends.
    fn expand(&self, params: &Params, target: &Node, among: &Among) -> Vec<Effect>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::Shape;

    #[test]
    fn names_are_unique_kebab_case() {
        let mut seen = std::collections::BTreeSet::new();
        for kind in ALL {
            let name = kind.name();
            assert!(seen.insert(name), "{name} is registered twice");
            assert!(
                name.chars().all(|c| c.is_ascii_lowercase() || c == '-'),
                "{name} is not kebab-case"
            );
        }
    }

    #[test]
    fn every_kind_has_a_target_and_says_what_it_does() {
        for kind in ALL {
            let target = kind.params().iter().find(|param| param.name == "target");
            assert!(
                target.is_some_and(|param| param.shape == Shape::Nodes),
                "{} has no target",
                kind.name()
            );
            assert!(
                kind.summary().ends_with('.'),
                "{}: the summary is a sentence",
                kind.name()
            );
            for param in kind.params() {
                assert!(
                    param.doc.ends_with('.'),
                    "{}.{}: the doc is a sentence",
                    kind.name(),
                    param.name
                );
            }
        }
    }
}
