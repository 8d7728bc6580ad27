//! `start-poet`: an operator starts the rounds of a PoET that waits for it, through the PoET's own API.
//!
//! A PoET that was given no gateways when its process began waits for this. It stays done, and it excuses nobody: its
//! target counts as stressed.

use super::{Among, Effect, FaultKind, Impact, Lasting};
use crate::capability::Capability;
use crate::params::{Need, Param, Params, Shape};
use crate::plan::model::Node;
use crate::schedule::{Action, Class};

#[derive(Debug)]
pub(super) struct StartPoet;

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
        doc: "The nodes that proofs are handed to.",
    },
];

impl FaultKind for StartPoet {
    fn name(&self) -> &'static str {
        "start-poet"
    }

    fn summary(&self) -> &'static str {
        "Starts the rounds of its targets, which run and wait for that, as an operator does by the API."
    }

    fn example(&self) -> &'static str {
        "{ target: every poet, gateways: every gateway }"
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
            action: Action::StartPoet {
                node: target.name.clone(),
                gateways: among.named(params.nodes("gateways")),
            },
            class: Class::Permanent,
        }]
    }
}
