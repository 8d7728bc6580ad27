//! `agree`: nodes never show different values of a signal for the same height.

use super::OracleKind;
use crate::params::{Need, Param, Params, Shape};
use crate::plan::model::Plan;
use crate::time::Span;

#[derive(Debug)]
pub(super) struct Agree;

const PARAMS: &[Param] = &[Param {
    name: "about",
    shape: Shape::Signal,
    need: Need::Required,
    doc: "The signal all nodes must agree about.",
}];

impl OracleKind for Agree {
    fn name(&self) -> &'static str {
        "agree"
    }

    fn summary(&self) -> &'static str {
        "All nodes that expose the signal agree about it."
    }

    fn example(&self) -> &'static str {
        "{ about: state-root }"
    }

    fn params(&self) -> &'static [Param] {
        PARAMS
    }

    fn check(&self, _params: &Params, _plan: &Plan) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn bound(&self, _params: &Params) -> Option<Span> {
        None
    }
}
