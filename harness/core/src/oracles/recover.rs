//! `recover`: after the named heal every expected signal advances freshly, then the network converges.

use super::OracleKind;
use crate::params::{Need, Param, Params, Shape};
use crate::plan::model::Plan;
use crate::time::Span;

#[derive(Debug)]
pub(super) struct Recover;

const PARAMS: &[Param] = &[
    Param {
        name: "after",
        shape: Shape::Heal,
        need: Need::Required,
        doc: "Which heal, as `heal all`.",
    },
    Param {
        name: "within",
        shape: Shape::Span,
        need: Need::Required,
        doc: "How long fresh progress of every expected signal may take.",
    },
];

impl OracleKind for Recover {
    fn name(&self) -> &'static str {
        "recover"
    }

    fn summary(&self) -> &'static str {
        "Every signal that some expectation names advances freshly after the heal, within the bound."
    }

    fn example(&self) -> &'static str {
        "{ after: heal all, within: 3 epochs }"
    }

    fn params(&self) -> &'static [Param] {
        PARAMS
    }

    fn check(&self, _params: &Params, _plan: &Plan) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn bound(&self, params: &Params) -> Option<Span> {
        Some(params.span("within"))
    }
}
