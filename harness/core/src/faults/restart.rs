//! `restart`: a node goes down and comes back at the same address with the same data.

use super::{Among, Effect, FaultKind, Impact, Lasting};
use crate::capability::Capability;
use crate::params::{Need, Param, Params, Shape};
use crate::plan::model::Node;
use crate::schedule::{Action, Class};

#[derive(Debug)]
pub(super) struct Restart;

const PARAMS: &[Param] = &[
    Param {
        name: "target",
        shape: Shape::Nodes,
        need: Need::Required,
        doc: "Which nodes restart.",
    },
    Param {
        name: "down",
        shape: Shape::Span,
        need: Need::Default("1 layer"),
        doc: "How long they stay away before they are started again.",
    },
    Param {
        name: "by",
        shape: Shape::OneOf(&["terminate", "kill"]),
        need: Need::Default("terminate"),
        doc: "Whether they are asked to stop or killed.",
    },
];

impl FaultKind for Restart {
    fn name(&self) -> &'static str {
        "restart"
    }

    fn summary(&self) -> &'static str {
        "Stops its targets and starts them again at the same addresses on the same data."
    }

    fn example(&self) -> &'static str {
        "{ target: gateway-0 }"
    }

    fn params(&self) -> &'static [Param] {
        PARAMS
    }

    fn impact(&self) -> Impact {
        Impact::Impaired
    }

    fn needs(&self) -> &'static [Capability] {
        &[Capability::Kill, Capability::Start]
    }

    fn lasting(&self, params: &Params) -> Lasting {
        Lasting::Itself(params.span("down"))
    }

    fn expand(&self, params: &Params, target: &Node, _among: &Among) -> Vec<Effect> {
        let node = target.name.clone();
        let action = match params.text("by") {
            "kill" => Action::Kill { node },
            _ => Action::Terminate { node },
        };
        vec![Effect {
            action,
            class: Class::Restores(Action::Start {
                node: target.name.clone(),
            }),
        }]
    }
}
