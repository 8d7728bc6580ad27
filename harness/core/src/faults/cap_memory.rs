//! `cap-memory`: a node has so much memory and no more, swap included, as on a small machine.
//!
//! What the node and everything that it started take together is counted, with the pages that files of theirs hold in memory.
//! A node that asks for more is killed by the kernel for lack of memory, which is a death of its own and is told so. A cap
//! under what is taken already cannot be had everywhere: where the kernel refuses it, the fault was not applied.

use super::{Among, Effect, FaultKind, Impact};
use crate::capability::{Capability, Resource};
use crate::params::{Need, Param, Params, Shape};
use crate::plan::model::Node;
use crate::time::Calendar;

#[derive(Debug)]
pub(super) struct CapMemory;

/// Engines want so much at least, and no program of today runs in less.
const BYTES_MIN: u64 = 6 << 20;

const PARAMS: &[Param] = &[
    Param {
        name: "target",
        shape: Shape::Nodes,
        need: Need::Required,
        doc: "Whose memory is capped.",
    },
    Param {
        name: "size",
        shape: Shape::Size,
        need: Need::Required,
        doc: "What a target and all that it started can have together, at least 6MiB.",
    },
];

impl FaultKind for CapMemory {
    fn name(&self) -> &'static str {
        "cap-memory"
    }

    fn summary(&self) -> &'static str {
        "Caps the memory of its targets; one that wants more is killed by the kernel for lack of it."
    }

    fn example(&self) -> &'static str {
        "{ target: gateway-0, size: 64MiB }"
    }

    fn params(&self) -> &'static [Param] {
        PARAMS
    }

    fn impact(&self) -> Impact {
        Impact::Stressed
    }

    fn needs(&self) -> &'static [Capability] {
        &[Capability::Memory]
    }

    fn check(&self, params: &Params, _calendar: &Calendar) -> Vec<(&'static str, String)> {
        let small = params.count("size") < BYTES_MIN;
        let why = || "no node lives in less than 6MiB of memory".to_owned();
        small.then(|| ("size", why())).into_iter().collect()
    }

    fn expand(&self, params: &Params, target: &Node, _among: &Among) -> Vec<Effect> {
        vec![Effect::limit(
            target,
            Resource::Memory,
            params.count("size"),
        )]
    }
}
