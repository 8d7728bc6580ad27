//! `throttle-cpu`: a node has so much of the processors and no more, as on a machine that others keep busy.
//!
//! It is a quota per tenth of a second, for the node and everything that it started together: with `cpus: 0.1` they work for
//! 10 ms and stand still for 90. Of more than one processor several can be used at once.

use super::{Among, Effect, FaultKind, Impact};
use crate::capability::{Capability, Resource};
use crate::params::{Need, Param, Params, Shape};
use crate::plan::model::Node;

#[derive(Debug)]
pub(super) struct ThrottleCpu;

const PARAMS: &[Param] = &[
    Param {
        name: "target",
        shape: Shape::Nodes,
        need: Need::Required,
        doc: "Whose processors are throttled.",
    },
    Param {
        name: "cpus",
        shape: Shape::Cpus,
        need: Need::Required,
        doc: "How many processors a target and all that it started can use together, as 0.1; at least 0.01.",
    },
];

impl FaultKind for ThrottleCpu {
    fn name(&self) -> &'static str {
        "throttle-cpu"
    }

    fn summary(&self) -> &'static str {
        "Throttles the processors of its targets to a share, as 0.1 of one."
    }

    fn example(&self) -> &'static str {
        "{ target: gateway-0, cpus: 0.5 }"
    }

    fn params(&self) -> &'static [Param] {
        PARAMS
    }

    fn impact(&self) -> Impact {
        Impact::Stressed
    }

    fn needs(&self) -> &'static [Capability] {
        &[Capability::Cpu]
    }

    fn expand(&self, params: &Params, target: &Node, _among: &Among) -> Vec<Effect> {
        vec![Effect::limit(target, Resource::Cpu, params.count("cpus"))]
    }
}
