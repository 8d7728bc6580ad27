//! `set-gateways`: an operator names the nodes that a PoET hands its proofs to, through the PoET's own API.
//!
//! It stays done: the API of 2020 does not tell which gateways were set before, and what an operator has set, no heal takes
//! back. To have others later, add another entry. It hurts nobody, so it excuses nobody: its target counts as stressed.

use super::{Among, Effect, FaultKind, Impact, Lasting};
use crate::capability::Capability;
use crate::params::{Need, Param, Params, Shape};
use crate::plan::model::Node;
use crate::schedule::{Action, Class};

#[derive(Debug)]
pub(super) struct SetGateways;

const PARAMS: &[Param] = &[
    Param {
        name: "target",
        shape: Shape::Nodes,
        need: Need::Required,
        doc: "Which PoETs.",
    },
    Param {
        name: "gateways",
        shape: Shape::Nodes,
        need: Need::Required,
        doc: "The nodes that proofs are handed to from now on.",
    },
];

impl FaultKind for SetGateways {
    fn name(&self) -> &'static str {
        "set-gateways"
    }

    fn summary(&self) -> &'static str {
        "Names the nodes that its targets hand their proofs to, as an operator does by the API."
    }

    fn example(&self) -> &'static str {
        "{ target: every poet, gateways: gateway-0 }"
    }

    fn params(&self) -> &'static [Param] {
        PARAMS
    }

    fn impact(&self) -> Impact {
        Impact::Stressed
    }

    fn needs(&self) -> &'static [Capability] {
        &[Capability::Operate]
    }

    fn requires(&self) -> Option<&'static str> {
        Some("poet-2020")
    }

    fn lasting(&self, _params: &Params) -> Lasting {
        Lasting::ForGood
    }

    fn ports(&self) -> &'static [(&'static str, &'static str)] {
        &[("target", "api"), ("gateways", "api")]
    }

    fn expand(&self, params: &Params, target: &Node, among: &Among) -> Vec<Effect> {
        vec![Effect {
            action: Action::SetGateways {
                node: target.name.clone(),
                gateways: among.named(params.nodes("gateways")),
            },
            class: Class::Permanent,
        }]
    }
}
