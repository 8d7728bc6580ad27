//! Taking room from a node's disk: shared by `cap-disk` and `fill-disk`.

use super::{Among, Effect, FaultKind, Impact};
use crate::capability::Capability;
use crate::params::{Param, Params};
use crate::plan::model::Node;
use crate::schedule::{Action, Class};

/// A limit on a node's disk until it is healed, which brings back the plan's own limit, or none.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) name: &'static str,
    pub(super) summary: &'static str,
    pub(super) example: &'static str,
    pub(super) params: &'static [Param],
    /// The parameter that says how much.
    pub(super) amount: &'static str,
    /// What is done to a node, with the amount in bytes.
    pub(super) limit: fn(String, u64) -> Action,
}

impl FaultKind for Room {
    fn name(&self) -> &'static str {
        self.name
    }

    fn summary(&self) -> &'static str {
        self.summary
    }

    fn example(&self) -> &'static str {
        self.example
    }

    fn params(&self) -> &'static [Param] {
        self.params
    }

    fn impact(&self) -> Impact {
        Impact::Stressed
    }

    fn needs(&self) -> &'static [Capability] {
        &[Capability::Disk]
    }

    fn expand(&self, params: &Params, target: &Node, _among: &Among) -> Vec<Effect> {
        let node = target.name.clone();
        // The plan's check has refused rounds for roles without `round-bytes`.
        let bytes = params.capacity(self.amount).bytes(target.round_bytes);
        vec![Effect {
            action: (self.limit)(node.clone(), bytes.unwrap_or_default()),
            class: Class::Restores(Action::FreeDisk {
                node,
                limit: target.disk,
            }),
        }]
    }
}
