//! What an operator does to a PoET through its own API: shared by `set-gateways` and `start-poet`.
//!
//! It stays done, and it hurts nobody, so it excuses nobody: its target counts as stressed.

use super::{Among, Effect, FaultKind, Impact, Lasting};
use crate::capability::Capability;
use crate::params::{Need, Param, Params, Shape};
use crate::plan::model::Node;
use crate::schedule::{Action, Class};

/// An order to a PoET that names gateways.
#[derive(Debug)]
pub(super) struct Operate {
    pub(super) name: &'static str,
    pub(super) summary: &'static str,
    pub(super) example: &'static str,
    pub(super) params: &'static [Param],
    /// The order to a node, with the names of the gateways.
    pub(super) order: fn(String, Vec<String>) -> Action,
}

/// Parameters of an order; what naming gateways means is its own.
pub(super) const fn params(gateways: &'static str) -> [Param; 2] {
    [
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
            doc: gateways,
        },
    ]
}

impl FaultKind for Operate {
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
            action: (self.order)(target.name.clone(), among.named(params.nodes("gateways"))),
            class: Class::Permanent,
        }]
    }
}
