//! `terminate`: an orderly stop, as an operator would do it. Healing starts the node again.

use super::{Among, Effect, FaultKind, Impact};
use crate::capability::Capability;
use crate::params::{Need, Param, Params, Shape};
use crate::plan::model::Node;
use crate::schedule::{Action, Class};

#[derive(Debug)]
pub(super) struct Terminate;

impl FaultKind for Terminate {
    fn name(&self) -> &'static str {
        "terminate"
    }

    fn summary(&self) -> &'static str {
        "Asks its targets to stop as their role says (signal, grace, then SIGKILL); healing starts them again."
    }

    fn example(&self) -> &'static str {
        "{ target: gateway-0 }"
    }

    fn params(&self) -> &'static [Param] {
        const {
            &[Param {
                name: "target",
                shape: Shape::Nodes,
                need: Need::Required,
                doc: "Which nodes stop.",
            }]
        }
    }

    fn impact(&self) -> Impact {
        Impact::Impaired
    }

    fn needs(&self) -> &'static [Capability] {
        &[Capability::Kill, Capability::Start]
    }

    fn expand(&self, _params: &Params, target: &Node, _among: &Among) -> Vec<Effect> {
        vec![Effect {
            action: Action::Terminate {
                node: target.name.clone(),
            },
            class: Class::Restores(Action::Start {
                node: target.name.clone(),
            }),
        }]
    }
}
