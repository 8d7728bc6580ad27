//! `kill`: SIGKILL, as a power cut of one machine. Healing starts the node again on the data it left.

use super::{Among, Effect, FaultKind, Impact};
use crate::capability::Capability;
use crate::params::{Need, Param, Params, Shape};
use crate::plan::model::Node;
use crate::schedule::{Action, Class};

#[derive(Debug)]
pub(super) struct Kill;

impl FaultKind for Kill {
    fn name(&self) -> &'static str {
        "kill"
    }

    fn summary(&self) -> &'static str {
        "Kills its targets at once (SIGKILL); healing starts them again on the data they left."
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
                doc: "Which nodes die.",
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
            action: Action::Kill {
                node: target.name.clone(),
            },
            class: Class::Restores(Action::Start {
                node: target.name.clone(),
            }),
        }]
    }
}
