//! Whether an expectation is demanded long enough to mean something.

use std::cell::OnceCell;
use std::collections::BTreeSet;

use super::super::model::{Deed, Expectation, Plan};
use super::super::reader::Reader;
use super::params::Decoded;
use crate::oracles;
use crate::params::{Shape, Value};
use crate::schedule::tolerated;
use crate::time::{ProtocolTime, Span};

/// Reports what the kind itself finds wrong, and expectations that are never demanded for twice their bound. `all_read`
/// says that no expectation of the plan was left out for a mistake; `longest` is the same for all of a plan, and resolving a long plan takes its time.
pub(super) fn check(
    reader: &mut Reader,
    plan: &Plan,
    expectation: &Expectation,
    decoded: &Decoded,
    all_read: bool,
    longest: &OnceCell<Span>,
) {
    let Some(kind) = oracles::by_name(expectation.kind) else {
        return;
    };
    for (key, why) in kind.check(&expectation.params, plan) {
        let (at, path) = decoded.place(key);
        reader.wrong(at, &path, why, format!("change `{key}`"));
    }
    if let Some(other) = kind.rests_on()
        && all_read
        && !plan.expect.iter().any(|it| it.kind == other)
    {
        let (at, path) = decoded.place("");
        let why = format!(
            "`{}` is about the signals that `{other}` names, and the plan has no `{other}`, so it could never pass",
            kind.name()
        );
        let example = oracles::by_name(other).map_or("...", |kind| kind.example());
        reader.wrong(
            at,
            &path,
            why,
            format!("add one, as `- {other}: {example}`"),
        );
    }
    let Some(bound) = kind.bound(&expectation.params) else {
        return;
    };
    let (at, path) = decoded.place("within");
    if let (Some(heal), Some(until)) = (heal_of(plan, expectation), plan.until) {
        let left = until.since(heal);
        if left < bound {
            let why =
                format!("the run ends {left} after that heal, before the bound of {bound} is over");
            reader.wrong(at, &path, why, "let the run last longer: see `until`");
        }
        return;
    }
    let enough = Span(bound.0.saturating_mul(2));
    // Nearly always the steady state alone is long enough, and a schedule of ten thousand steps takes its time.
    if calm(plan) >= enough {
        return;
    }
    let demanded = *longest.get_or_init(|| demanded(plan));
    if demanded < enough {
        let why = format!(
            "it is never demanded for more than {demanded}, less than twice its bound of {bound}"
        );
        reader.wrong(
            at,
            &path,
            why,
            "shorten the bound, heal earlier, or let the run last longer: see `until`",
        );
    }
}

/// When the heal that an expectation refers to happens.
fn heal_of(plan: &Plan, expectation: &Expectation) -> Option<ProtocolTime> {
    let kind = oracles::by_name(expectation.kind)?;
    let param = kind
        .params()
        .iter()
        .find(|param| param.shape == Shape::Heal)?;
    let Some(Value::Text(name)) = expectation.params.get(param.name) else {
        return None;
    };
    plan.timeline
        .iter()
        .find(|entry| entry.name == *name)
        .map(|entry| entry.at)
}

/// From genesis to the first fault nothing is impaired, and liveness is demanded if it ever is.
fn calm(plan: &Plan) -> Span {
    if !tolerated(&plan.tolerates, &plan.nodes, &BTreeSet::new()) {
        return Span::default();
    }
    let faults = plan.timeline.iter();
    let first = faults.filter(|entry| matches!(entry.what, Deed::Fault(..)));
    let ends = first.map(|entry| entry.at).chain(plan.until).min();
    ends.map_or(Span::default(), |ends| ends.since(ProtocolTime::GENESIS))
}

/// The longest stretch in which liveness is demanded, with the plan's own seed: what is drawn may differ with another.
fn demanded(plan: &Plan) -> Span {
    crate::schedule::resolve(plan, plan.seed).longest_window()
}
