//! What leads to what: a table of effects and causes, and the links it makes between the findings of a run.
//!
//! To add a relation, add a row to [`TABLE`]. A cause is never due later than its effect: `cause.due <= effect.proved`
//! and `cause.due <= effect.due + 1 layer`; the layer is there because a missed thing's due time is computed, while an
//! event's is observed, up to a layer late. A link is an explanation, not a proof: it says that the order, the place and
//! the kind fit.

use std::collections::BTreeSet;

use crate::faults::Impact;
use crate::time::{Calendar, Span};
use crate::verdict::{Cause, FaultReport, Finding, Link};

/// What a cause is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CauseKind {
    /// A finding whose id matches this, as `crash/*`.
    Finding(&'static str),
    /// A fault of the plan.
    Fault,
}

/// How cause and effect must be related.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// They are about the same node.
    SameNode,
    /// They are about the same role.
    SameRole,
    /// Anywhere in the run.
    Anywhere,
}

impl Relation {
    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SameNode => "same-node",
            Self::SameRole => "same-role",
            Self::Anywhere => "anywhere",
        }
    }
}

/// One relation.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Which findings it explains, as `stalled/*`.
    pub effect: &'static str,
    /// By what.
    pub cause: CauseKind,
    /// How they must be related.
    pub relation: Relation,
    /// How long after the cause is over the effect may still be due.
    pub lag: Span,
    /// Used only for effects that no row before it explains.
    pub fallback: bool,
    /// The sentence, from `{cause}` and `{effect}`.
    pub template: &'static str,
}

/// Effects of a load or of a restart show within an epoch of four layers.
const SOON: Span = Span::layers(4);
/// A stall is due a bound after what stopped it; bounds are a few layers, and some signals have one value an epoch.
const LATER: Span = Span::layers(16);

/// All relations, the strongest explanation of an effect first.
pub const TABLE: &[Row] = &[
    row(
        "crash/*",
        CauseKind::Fault,
        Relation::SameNode,
        SOON,
        "{cause}; {effect}",
    ),
    row(
        "hang/*",
        CauseKind::Fault,
        Relation::SameNode,
        SOON,
        "{cause}; {effect}",
    ),
    row(
        "deaf/*",
        CauseKind::Fault,
        Relation::SameNode,
        SOON,
        "{cause}; {effect}",
    ),
    row(
        "stop/*",
        CauseKind::Fault,
        Relation::SameNode,
        SOON,
        "{cause}; {effect}",
    ),
    row(
        "role/all-dead",
        CauseKind::Finding("crash/*"),
        Relation::SameRole,
        LATER,
        "{cause}; at the end {effect}",
    ),
    row(
        "stalled/*",
        CauseKind::Finding("crash/*"),
        Relation::SameNode,
        LATER,
        "{cause}, and so {effect}",
    ),
    row(
        "stalled/*",
        CauseKind::Finding("hang/*"),
        Relation::SameNode,
        LATER,
        "{cause}, and so {effect}",
    ),
    row(
        "stalled/*",
        CauseKind::Finding("role/all-dead"),
        Relation::Anywhere,
        LATER,
        "{cause}, and then {effect}",
    ),
    fallback(
        "stalled/*",
        CauseKind::Finding("crash/*"),
        "{cause}, and then {effect}",
    ),
    fallback(
        "stalled/*",
        CauseKind::Finding("deaf/*"),
        "{cause}, and then {effect}",
    ),
    fallback(
        "stalled/*",
        CauseKind::Finding("hang/*"),
        "{cause}, and then {effect}",
    ),
    fallback("stalled/*", CauseKind::Fault, "{cause}, and then {effect}"),
    row(
        "unrecovered/*",
        CauseKind::Finding("role/all-dead"),
        Relation::Anywhere,
        LATER,
        "{cause}, and then {effect}",
    ),
    fallback(
        "unrecovered/*",
        CauseKind::Finding("crash/*"),
        "{cause}, and then {effect}",
    ),
    fallback(
        "unrecovered/*",
        CauseKind::Fault,
        "{cause}, and then {effect}",
    ),
];

const fn row(
    effect: &'static str,
    cause: CauseKind,
    relation: Relation,
    lag: Span,
    template: &'static str,
) -> Row {
    Row {
        effect,
        cause,
        relation,
        lag,
        fallback: false,
        template,
    }
}

const fn fallback(effect: &'static str, cause: CauseKind, template: &'static str) -> Row {
    Row {
        fallback: true,
        ..row(effect, cause, Relation::Anywhere, LATER, template)
    }
}

/// Causes linked to one effect by one row, earliest first: with more, a reader learns nothing new.
const CAUSES_MAX: usize = 32;

/// Whether an id matches a pattern: itself, or an area with any `what`, as `crash/*`.
pub fn matches(pattern: &str, id: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(area) => id.starts_with(area),
        None => pattern == id,
    }
}

/// When something was there and what shows it.
struct Present<'a> {
    from_ns: u64,
    to_ns: u64,
    record: u64,
    node: Option<&'a str>,
    role: Option<&'a str>,
    cause: Cause,
    text: String,
}

/// Links every finding to what the table says it may follow from, and puts causes before effects.
///
/// `findings` is reordered; links name the new places.
pub fn explain(
    findings: &mut Vec<Finding>,
    faults: &[FaultReport],
    calendar: &Calendar,
) -> Vec<Link> {
    let mut links = link(findings, faults, calendar);
    let order = order(findings, &links);
    let mut place = vec![0; order.len()];
    for (new, old) in order.iter().enumerate() {
        place[*old] = new;
    }
    let mut sorted: Vec<(usize, Finding)> = place.iter().copied().zip(findings.drain(..)).collect();
    sorted.sort_by_key(|(new, _)| *new);
    findings.extend(sorted.into_iter().map(|(_, finding)| finding));
    for link in &mut links {
        link.effect = place[link.effect];
        if let Cause::Finding(cause) = &mut link.cause {
            *cause = place[*cause];
        }
    }
    links.sort_by(|a, b| (a.effect, &a.cause).cmp(&(b.effect, &b.cause)));
    links
}

fn link(findings: &[Finding], faults: &[FaultReport], calendar: &Calendar) -> Vec<Link> {
    let found: Vec<Present> = findings
        .iter()
        .enumerate()
        .map(|(place, finding)| of_finding(place, finding))
        .collect();
    let faults: Vec<Present> = faults.iter().filter_map(of_fault).collect();
    let mut links = Vec::new();
    for (place, effect) in findings.iter().enumerate() {
        let mut explained = false;
        for row in TABLE.iter().filter(|row| matches(row.effect, &effect.id)) {
            if row.fallback && explained {
                continue;
            }
            let candidates: Vec<&Present> = match row.cause {
                CauseKind::Fault => faults.iter().collect(),
                CauseKind::Finding(pattern) => found
                    .iter()
                    .zip(findings)
                    .filter(|(present, cause)| {
                        present.cause != Cause::Finding(place) && matches(pattern, &cause.id)
                    })
                    .map(|(present, _)| present)
                    .collect(),
            };
            let mut fitting: Vec<&Present> = candidates
                .into_iter()
                .filter(|cause| {
                    related(row, cause, effect) && in_time(row, cause, effect, calendar)
                })
                .collect();
            fitting.sort_by_key(|cause| (cause.from_ns, cause.record));
            explained |= !fitting.is_empty();
            for cause in fitting.into_iter().take(CAUSES_MAX) {
                links.push(made(row, cause, place, effect));
            }
        }
    }
    links
}

fn of_finding(place: usize, finding: &Finding) -> Present<'_> {
    Present {
        from_ns: finding.due_ns,
        to_ns: finding.recovered_ns.unwrap_or(u64::MAX),
        record: finding.records.first().copied().unwrap_or(0),
        node: finding.node.as_deref(),
        role: finding.role.as_deref(),
        cause: Cause::Finding(place),
        text: finding.text.clone(),
    }
}

fn of_fault(fault: &FaultReport) -> Option<Present<'_>> {
    Some(Present {
        from_ns: fault.begun_ns?,
        to_ns: fault.ended_ns.unwrap_or(u64::MAX),
        record: fault.record?,
        node: Some(&fault.node),
        role: None,
        cause: Cause::Fault {
            entry: fault.entry.clone(),
            node: fault.node.clone(),
        },
        text: fault.told(),
    })
}

impl FaultReport {
    /// `gateway-0 was stressed by `flood` (applied: sent 320, sources 320)`.
    pub fn told(&self) -> String {
        let impact = match self.impact {
            Impact::Impaired => "impaired",
            Impact::Stressed => "stressed",
        };
        let mut text = format!("{} was {impact} by `{}`", self.node, self.entry);
        if self.applied == Some(true) {
            let detail: Vec<String> = self
                .detail
                .iter()
                .map(|(key, value)| match value {
                    serde_json::Value::String(value) => format!("{key} {value}"),
                    other => format!("{key} {other}"),
                })
                .collect();
            text.push_str(" (applied");
            if !detail.is_empty() {
                text.push_str(": ");
                text.push_str(&detail.join(", "));
            }
            text.push(')');
        }
        text
    }
}

fn related(row: &Row, cause: &Present, effect: &Finding) -> bool {
    match row.relation {
        Relation::SameNode => cause.node.is_some() && cause.node == effect.node.as_deref(),
        Relation::SameRole => cause.role.is_some() && cause.role == effect.role.as_deref(),
        Relation::Anywhere => true,
    }
}

fn in_time(row: &Row, cause: &Present, effect: &Finding, calendar: &Calendar) -> bool {
    let before = cause.from_ns <= effect.proved_ns
        && cause.from_ns <= effect.due_ns.saturating_add(calendar.layer_ns);
    let lag = effect.due_ns.saturating_sub(cause.to_ns);
    before && lag <= calendar.ns_of(row.lag)
}

fn made(row: &Row, cause: &Present, place: usize, effect: &Finding) -> Link {
    // Split before inserting: a node's own words may contain the placeholders.
    let text: String = row
        .template
        .split_inclusive('}')
        .map(|part| {
            if let Some(before) = part.strip_suffix("{cause}") {
                format!("{before}{}", cause.text)
            } else if let Some(before) = part.strip_suffix("{effect}") {
                format!("{before}{}", effect.text)
            } else {
                part.to_owned()
            }
        })
        .collect();
    Link {
        cause: cause.cause.clone(),
        effect: place,
        records: [
            cause.record,
            effect.records.last().copied().unwrap_or(cause.record),
        ],
        relation: row.relation.name().to_owned(),
        text,
    }
}

/// Causes before effects, else by when they were due and proved.
fn order(findings: &[Finding], links: &[Link]) -> Vec<usize> {
    let mut waits = vec![0_usize; findings.len()];
    let mut effects: Vec<Vec<usize>> = vec![Vec::new(); findings.len()];
    for link in links {
        if let Cause::Finding(cause) = link.cause {
            waits[link.effect] += 1;
            effects[cause].push(link.effect);
        }
    }
    let key = |place: usize| (findings[place].due_ns, findings[place].proved_ns, place);
    let mut free: BTreeSet<(u64, u64, usize)> = (0..findings.len())
        .filter(|place| waits[*place] == 0)
        .map(key)
        .collect();
    let mut order = Vec::with_capacity(findings.len());
    while let Some((.., place)) = free.pop_first() {
        order.push(place);
        for effect in &effects[place] {
            waits[*effect] -= 1;
            if waits[*effect] == 0 {
                free.insert(key(*effect));
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [`order`] loses findings if the table can go round in a circle, so it must not.
    #[test]
    fn the_table_has_no_circle() {
        let mut edges: BTreeSet<(&str, &str)> = BTreeSet::new();
        for row in TABLE {
            if let CauseKind::Finding(cause) = row.cause {
                edges.insert((cause, row.effect));
            }
        }
        let overlap = |a: &str, b: &str| {
            matches(a, b.trim_end_matches('*')) || matches(b, a.trim_end_matches('*'))
        };
        for start in TABLE.iter().map(|row| row.effect) {
            let mut reached = vec![start];
            let mut next = 0;
            while next < reached.len() {
                for (cause, effect) in &edges {
                    if overlap(cause, reached[next]) {
                        assert!(!overlap(effect, start), "{start} leads to itself");
                        if !reached.contains(effect) {
                            reached.push(effect);
                        }
                    }
                }
                next += 1;
            }
        }
    }

    #[test]
    fn every_template_says_both() {
        for row in TABLE {
            assert!(row.template.contains("{cause}"), "{}", row.template);
            assert!(row.template.ends_with("{effect}"), "{}", row.template);
        }
    }
}
