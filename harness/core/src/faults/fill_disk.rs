//! `fill-disk`: somebody else's data takes the room that a node's disk has left.
//!
//! It is a cap at what the node's files take when the fault begins, plus what is left to them. Nothing is written, so it
//! does not hurt the machine's own disk. Healing brings back the plan's own limit, or none.

use super::{Among, Effect, FaultKind, Impact};
use crate::capability::Capability;
use crate::params::{Need, Param, Params, Shape};
use crate::plan::model::Node;
use crate::schedule::{Action, Class};

#[derive(Debug)]
pub(super) struct FillDisk;

const PARAMS: &[Param] = &[
    Param {
        name: "target",
        shape: Shape::Nodes,
        need: Need::Required,
        doc: "Whose disks are filled.",
    },
    Param {
        name: "leave",
        shape: Shape::Capacity,
        need: Need::Default("0B"),
        doc: "What is left to a target's files: a size, or rounds of its role's `round-bytes`.",
    },
];

impl FaultKind for FillDisk {
    fn name(&self) -> &'static str {
        "fill-disk"
    }

    fn summary(&self) -> &'static str {
        "Takes the room that is left on the disks of its targets; writes that need more fail with ENOSPC."
    }

    fn example(&self) -> &'static str {
        "{ target: gateway-0, leave: 8KiB }"
    }

    fn params(&self) -> &'static [Param] {
        PARAMS
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
        let leave = params.capacity("leave").bytes(target.round_bytes);
        vec![Effect {
            action: Action::FillDisk {
                node: node.clone(),
                leave: leave.unwrap_or_default(),
            },
            class: Class::Restores(Action::FreeDisk {
                node,
                limit: target.disk,
            }),
        }]
    }
}
