//! `pause`: SIGSTOP, as a machine that hangs: sockets stay open and nobody answers.

use super::{Among, Effect, FaultKind, Impact};
use crate::capability::Capability;
use crate::params::{Need, Param, Params, Shape};
use crate::plan::model::Node;
use crate::schedule::{Action, Class};

#[derive(Debug)]
pub(super) struct Pause;

impl FaultKind for Pause {
    fn name(&self) -> &'static str {
        "pause"
    }

    fn summary(&self) -> &'static str {
        "Freezes its targets: sockets stay open, nothing is answered; healing lets them go on."
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
                doc: "Which nodes freeze.",
            }]
        }
    }

    fn impact(&self) -> Impact {
        Impact::Impaired
    }

    fn needs(&self) -> &'static [Capability] {
        &[Capability::Freeze]
    }

    fn expand(&self, _params: &Params, target: &Node, _among: &Among) -> Vec<Effect> {
        vec![Effect {
            action: Action::Freeze {
                node: target.name.clone(),
            },
            class: Class::Restores(Action::Thaw {
                node: target.name.clone(),
            }),
        }]
    }
}
