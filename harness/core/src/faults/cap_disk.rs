//! `cap-disk`: the files of a node's data directory can take so much and no more, as on a small disk.
//!
//! What is counted are allocated blocks of 4 KiB, so sparse files are free, and a write over the end is shortened to the
//! last block that fits. A cap under what is taken already lets nothing grow; what is there stays. Healing brings back the
//! plan's own limit, or none.

use super::{Among, Effect, FaultKind, Impact};
use crate::capability::Capability;
use crate::params::{Need, Param, Params, Shape};
use crate::plan::model::Node;
use crate::schedule::{Action, Class};

#[derive(Debug)]
pub(super) struct CapDisk;

const PARAMS: &[Param] = &[
    Param {
        name: "target",
        shape: Shape::Nodes,
        need: Need::Required,
        doc: "Whose data directories are capped.",
    },
    Param {
        name: "size",
        shape: Shape::Capacity,
        need: Need::Required,
        doc: "What all files of a target's data directory together can take: a size, or rounds of its role's `round-bytes`.",
    },
];

impl FaultKind for CapDisk {
    fn name(&self) -> &'static str {
        "cap-disk"
    }

    fn summary(&self) -> &'static str {
        "Caps what the data directories of its targets can take; writes over it fail with ENOSPC."
    }

    fn example(&self) -> &'static str {
        "{ target: gateway-0, size: 64KiB }"
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
        let bytes = params.capacity("size").bytes(target.round_bytes);
        vec![Effect {
            action: Action::CapDisk {
                node: node.clone(),
                bytes: bytes.unwrap_or_default(),
            },
            class: Class::Restores(Action::FreeDisk {
                node,
                limit: target.disk,
            }),
        }]
    }
}
