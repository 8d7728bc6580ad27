//! Whether an expectation is demanded long enough to mean something.

use std::cell::OnceCell;
use std::collections::BTreeSet;

use super::super::model::{Amount, Deed, Expectation, Plan};
use super::super::reader::Reader;
use super::params::Decoded;
use crate::oracles;
use crate::params::{Shape, Value};
use crate::schedule::{Schedule, Step, broken, tolerated};
use crate::time::{ProtocolTime, Span};

/// Reports what the kind itself finds wrong, and expectations that are never demanded for twice their bound. `all_read`
/// says that no expectation of the plan was left out for a mistake, `sound` that nothing on which demands rest was;
/// `longest` is the same for all of a plan, and resolving a long plan takes its time.
pub(super) fn check(
    reader: &mut Reader,
    plan: &Plan,
    expectation: &Expectation,
    decoded: &Decoded,
    all_read: bool,
    sound: bool,
    longest: &OnceCell<Demanded>,
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
    if !sound || !all_read || calm(plan) >= enough {
        return;
    }
    let demanded = longest.get_or_init(|| Demanded::of(plan));
    if demanded.longest < enough {
        let why = format!(
            "it is never demanded for more than {}, less than twice its bound of {bound}: {}",
            demanded.longest, demanded.why_not
        );
        reader.wrong(
            at,
            &path,
            why,
            "shorten the bound, impair fewer nodes, heal earlier, or let the run last longer: see `until`",
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

/// When liveness is demanded, with the plan's own seed: what is drawn may differ with another.
#[derive(Debug)]
pub(super) struct Demanded {
    /// The longest single stretch.
    longest: Span,
    /// What keeps it from being longer.
    why_not: String,
}

impl Demanded {
    fn of(plan: &Plan) -> Self {
        let schedule = crate::schedule::resolve(plan, plan.seed);
        Self {
            longest: schedule.longest_window(),
            why_not: why_not(plan, &schedule),
        }
    }
}

/// The longest stretch in which liveness is not demanded and what is impaired then, or else the end of the run.
fn why_not(plan: &Plan, schedule: &Schedule) -> String {
    let ends_at = schedule.ends_at;
    let mut gaps = Vec::new();
    let mut from = ProtocolTime::GENESIS;
    let windows = schedule.windows.iter().map(|it| (it.from, it.to));
    for (begins, ends) in windows.chain([(ends_at, ends_at)]) {
        if begins > from {
            gaps.push((from, begins));
        }
        from = ends;
    }
    let Some((from, to)) = gaps.iter().max_by_key(|(from, to)| to.since(*from)) else {
        return format!("the run ends at {ends_at}");
    };
    let ends = schedule.ends();
    let impairing = schedule.steps.iter().filter(|step| {
        let end = ends.get(&step.id);
        step.impairs() && step.at <= *from && end.is_none_or(|end| end > from)
    });
    let impairing: Vec<&Step> = impairing.collect();
    let nodes = impairing.iter().map(|step| step.action.node().to_owned());
    let Some((condition, left)) = broken(&plan.tolerates, &plan.nodes, &nodes.collect()) else {
        return format!("the run ends at {ends_at}");
    };
    let members = condition.of.members(&plan.nodes);
    let mut entries: Vec<String> = Vec::new();
    for step in impairing {
        let entry = format!("`{}`", step.entry);
        if members.iter().any(|node| node == step.action.node()) && !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    let (verb, more) = match entries.len() {
        0 | 1 => ("leaves", String::new()),
        2 | 3 => ("leave", String::new()),
        many => ("leave", format!(" and {} more", many - 3)),
    };
    entries.truncate(3);
    let asked = match condition.amount {
        Amount::AtLeast(least) => format!("at least {least}"),
        Amount::MoreThan {
            numerator,
            denominator,
        } => format!("more than {numerator}/{denominator}"),
    };
    let who = match entries.as_slice() {
        [] => "the network has".to_owned(),
        entries => format!("{}{more} {verb}", entries.join(", ")),
    };
    let of_several = match gaps.len() {
        1 => String::new(),
        several => format!(", the longest of {several} such stretches"),
    };
    format!(
        "from {from} to {to} {who} {left} of `{}`, where `tolerates` asks for {asked}{of_several}; the run ends at {ends_at}",
        condition.of
    )
}
