//! `advance`: a signal must keep advancing, measured as the time since it last did, per node.

use super::OracleKind;
use crate::params::{Need, Param, Params, Shape};
use crate::plan::Selector;
use crate::plan::model::Plan;
use crate::time::Span;

#[derive(Debug)]
pub(super) struct Advance;

const PARAMS: &[Param] = &[
    Param {
        name: "signal",
        shape: Shape::Signal,
        need: Need::Required,
        doc: "What must advance.",
    },
    Param {
        name: "of",
        shape: Shape::Nodes,
        need: Need::Required,
        doc: "On which nodes: `every` is each by itself, `any` is at least one.",
    },
    Param {
        name: "within",
        shape: Shape::Span,
        need: Need::Required,
        doc: "The longest time between two advances, at least 1.25 periods of the signal.",
    },
];

impl OracleKind for Advance {
    fn name(&self) -> &'static str {
        "advance"
    }

    fn summary(&self) -> &'static str {
        "The signal advances again within the bound, for as long as liveness is demanded."
    }

    fn example(&self) -> &'static str {
        "{ signal: tx, of: every miner, within: 3 layers }"
    }

    fn params(&self) -> &'static [Param] {
        PARAMS
    }

    fn check(&self, params: &Params, plan: &Plan) -> Vec<(&'static str, String)> {
        let name = params.text("signal");
        let within = params.span("within");
        let of = params.nodes("of");
        let mut wrong = Vec::new();
        let roles: std::collections::BTreeSet<&str> = of
            .members(&plan.nodes)
            .iter()
            .filter_map(|node| plan.node(node))
            .map(|node| node.role.as_str())
            .collect();
        for role in roles {
            let Some(signal) = plan.roles.get(role).and_then(|role| role.signals.get(name)) else {
                continue;
            };
            // A bound equal to the period cries wolf in every clean run; 1.25 periods survived all simulated jitter.
            let least = Span(signal.period.0.saturating_mul(5) / 4);
            if within < least {
                let why = format!(
                    "{within} is under 1.25 periods of `{name}` ({} each), so a clean run would fail",
                    signal.period
                );
                wrong.push(("within", why));
            }
            if signal.any_only && !matches!(of, Selector::Any(_)) {
                let why = format!(
                    "`{name}` may only be asked of `any {role}`: one node's healthy gaps are too long"
                );
                wrong.push(("of", why));
            }
        }
        wrong
    }

    fn bound(&self, params: &Params) -> Option<Span> {
        Some(params.span("within"))
    }
}
