//! `cap-pids`: a node has so many processes and threads and no more; starting another fails with EAGAIN.
//!
//! What runs already goes on, also under a cap below its number. Runtimes make their threads early, so a cap that shall be
//! felt has to be below what a node needs for something that it does later.

use super::{Among, Effect, FaultKind, Impact};
use crate::capability::{Capability, Resource};
use crate::params::{Need, Param, Params, Shape};
use crate::plan::model::Node;

#[derive(Debug)]
pub(super) struct CapPids;

const PARAMS: &[Param] = &[
    Param {
        name: "target",
        shape: Shape::Nodes,
        need: Need::Required,
        doc: "Whose processes and threads are capped.",
    },
    Param {
        name: "count",
        shape: Shape::Count {
            min: 1,
            max: 4_194_304,
        },
        need: Need::Required,
        doc: "How many processes and threads a target and all that it started can be together.",
    },
];

impl FaultKind for CapPids {
    fn name(&self) -> &'static str {
        "cap-pids"
    }

    fn summary(&self) -> &'static str {
        "Caps the processes and threads of its targets; starting another fails with EAGAIN."
    }

    fn example(&self) -> &'static str {
        "{ target: gateway-0, count: 64 }"
    }

    fn params(&self) -> &'static [Param] {
        PARAMS
    }

    fn impact(&self) -> Impact {
        Impact::Stressed
    }

    fn needs(&self) -> &'static [Capability] {
        &[Capability::Pids]
    }

    fn expand(&self, params: &Params, target: &Node, _among: &Among) -> Vec<Effect> {
        vec![Effect::limit(target, Resource::Pids, params.count("count"))]
    }
}
