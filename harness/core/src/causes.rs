//! What leads to what: a table of effects and causes, and the links it makes between the findings of a run.
//!
//! To add a relation, add a row to [`TABLE`]. A cause is never due later than its effect: `cause.due <= effect.proved`
//! and `cause.due <= effect.due + 1 layer`; the layer is there because a missed thing's due time is computed, while an
//! event's is observed, up to a layer late. A link is an explanation, not a proof: it says that the order, the place and
//! the kind fit.

use std::collections::BTreeSet;

use crate::faults::Impact;
use crate::history::Header;
use crate::time::Calendar;
use crate::verdict::{Cause, FaultReport, Finding, Link};

mod table;

pub use table::{CauseKind, Lag, Relation, Row, TABLE, Used};

/// Causes linked to one effect by one row: with more, a reader learns nothing new.
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
    round: Option<u64>,
    cause: Cause,
    text: String,
}

/// Links every finding to what the table says it may follow from, and puts causes before effects.
///
/// `findings` is reordered; links name the new places.
pub fn explain(findings: &mut Vec<Finding>, faults: &[FaultReport], clock: &Clock) -> Vec<Link> {
    let mut links = link(findings, faults, clock);
    let mut causes = vec![Vec::new(); findings.len()];
    for link in &links {
        if let Cause::Finding(cause) = link.cause {
            causes[link.effect].push(cause);
        }
    }
    let order = order(findings, &causes);
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
    // Within the layer of slack a circle may seem to fit; what comes later in the order is no cause.
    links.retain(|link| match link.cause {
        Cause::Finding(cause) => cause < link.effect,
        Cause::Fault { .. } => true,
    });
    links.sort_by(|a, b| (a.effect, &a.cause).cmp(&(b.effect, &b.cause)));
    links
}

/// All that the table knows a finding may follow from, whatever of it a reader is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    /// Findings, by place.
    pub findings: BTreeSet<usize>,
    /// Those of them by rows that say why it follows, and not only that they came before.
    pub firm: BTreeSet<usize>,
    /// Whether a fault is among it: one that a row names for itself, or one of the finding's own node. Of faults elsewhere
    /// the table knows only that they came before.
    pub fault: bool,
}

/// What every finding may follow from, by place, and the places, causes before effects.
pub fn origins(
    findings: &[Finding],
    faults: &[FaultReport],
    clock: &Clock,
) -> (Vec<usize>, Vec<Origins>) {
    let present = Presents::of(findings, faults);
    let mut all = vec![Origins::default(); findings.len()];
    for (origins, (place, effect)) in all.iter_mut().zip(findings.iter().enumerate()) {
        for row in TABLE.iter().filter(|row| matches(row.effect, &effect.id)) {
            for cause in present.fitting(row, place, effect, clock) {
                match cause.cause {
                    Cause::Finding(cause) => {
                        origins.findings.insert(cause);
                        if matches!(row.used, Used::Always | Used::Step) {
                            origins.firm.insert(cause);
                        }
                    }
                    Cause::Fault { .. } => {
                        let own = cause.node == effect.node.as_deref();
                        origins.fault |= own || row.used == Used::Always;
                    }
                }
            }
        }
    }
    let causes = all.iter().map(|it| it.findings.iter().copied().collect());
    let order = order(findings, &causes.collect::<Vec<_>>());
    let mut before = BTreeSet::new();
    for place in &order {
        // Within the layer of slack a circle may seem to fit; what comes later in the order is no cause.
        let Origins { findings, firm, .. } = &mut all[*place];
        findings.retain(|cause| before.contains(cause));
        firm.retain(|cause| before.contains(cause));
        before.insert(*place);
    }
    (order, all)
}

/// Protocol time as the nodes of a run count it.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    calendar: Calendar,
    genesis_ns: u64,
    first_epoch: u64,
}

impl Clock {
    /// That of the run with this header.
    pub fn of(header: &Header) -> Self {
        Self {
            calendar: header.calendar,
            genesis_ns: header.genesis_ns,
            first_epoch: header.first_epoch,
        }
    }

    fn epoch(&self, t_ns: u64) -> i64 {
        let at = self.calendar.instant(self.genesis_ns, t_ns);
        let epoch = at.0.div_euclid(self.calendar.epoch().0.max(1));
        epoch.saturating_add_unsigned(self.first_epoch)
    }
}

/// What could be a cause, with the findings it is of.
struct Presents<'a> {
    findings: &'a [Finding],
    found: Vec<Present<'a>>,
    faults: Vec<Present<'a>>,
}

impl<'a> Presents<'a> {
    fn of(findings: &'a [Finding], faults: &'a [FaultReport]) -> Self {
        let found = findings.iter().enumerate();
        Self {
            findings,
            found: found
                .map(|(place, finding)| of_finding(place, finding))
                .collect(),
            faults: faults.iter().filter_map(of_fault).collect(),
        }
    }

    /// What a row explains this effect by, earliest first; of more than [`CAUSES_MAX`] the latest, which are the nearest.
    fn fitting(
        &self,
        row: &Row,
        place: usize,
        effect: &Finding,
        clock: &Clock,
    ) -> Vec<&Present<'a>> {
        let candidates: Vec<&Present> = match row.cause {
            CauseKind::Fault => self.faults.iter().collect(),
            CauseKind::Finding(pattern) => {
                let all = self.found.iter().zip(self.findings);
                all.filter(|(present, cause)| {
                    present.cause != Cause::Finding(place) && matches(pattern, &cause.id)
                })
                .map(|(present, _)| present)
                .collect()
            }
        };
        let mut fitting: Vec<&Present> = candidates
            .into_iter()
            .filter(|cause| {
                related(row, cause, effect, clock) && in_time(row, cause, effect, &clock.calendar)
            })
            .collect();
        fitting.sort_by_key(|cause| (cause.from_ns, cause.record));
        let from = fitting.len().saturating_sub(CAUSES_MAX);
        fitting.split_off(from)
    }
}

fn link(findings: &[Finding], faults: &[FaultReport], clock: &Clock) -> Vec<Link> {
    let present = Presents::of(findings, faults);
    let mut links = Vec::new();
    for (place, effect) in findings.iter().enumerate() {
        let (mut explained, mut stepped) = (false, false);
        for row in TABLE.iter().filter(|row| matches(row.effect, &effect.id)) {
            let superfluous = match row.used {
                Used::Always => false,
                Used::Step | Used::Directly => stepped,
                Used::Otherwise => explained,
            };
            if superfluous {
                continue;
            }
            let fitting = present.fitting(row, place, effect, clock);
            explained |= !fitting.is_empty();
            stepped |= !fitting.is_empty() && row.used == Used::Step;
            for cause in fitting {
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
        round: finding.round,
        cause: Cause::Finding(place),
        text: finding.text.clone(),
    }
}

/// A fault that failed before anybody saw it applied caused nothing, whatever happened while it should have been on.
fn of_fault(fault: &FaultReport) -> Option<Present<'_>> {
    if fault.failed.is_some() && fault.applied != Some(true) {
        return None;
    }
    Some(Present {
        from_ns: fault.begun_ns?,
        to_ns: fault.ended_ns.unwrap_or(u64::MAX),
        record: fault.record?,
        node: Some(&fault.node),
        role: None,
        round: None,
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

fn related(row: &Row, cause: &Present, effect: &Finding, clock: &Clock) -> bool {
    match row.relation {
        Relation::SameNode => cause.node.is_some() && cause.node == effect.node.as_deref(),
        Relation::SameRole => cause.role.is_some() && cause.role == effect.role.as_deref(),
        Relation::OtherRole => cause.role.is_some() && cause.role != effect.role.as_deref(),
        Relation::RoundMissed => {
            let round = cause.round.and_then(|round| i64::try_from(round).ok());
            round.is_some_and(|round| {
                let before = effect
                    .since_ns
                    .is_none_or(|since| clock.epoch(since) < round);
                before && round <= clock.epoch(effect.due_ns)
            })
        }
        Relation::Anywhere => true,
    }
}

fn in_time(row: &Row, cause: &Present, effect: &Finding, calendar: &Calendar) -> bool {
    let before = cause.from_ns <= effect.proved_ns
        && cause.from_ns <= effect.due_ns.saturating_add(calendar.layer_ns);
    let lag = effect.due_ns.saturating_sub(cause.to_ns);
    before && lag <= row.lag.ns(calendar)
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
        how: how(row.template).to_owned(),
        text,
    }
}

/// What a template says between cause and effect, if it is a reason.
fn how(template: &str) -> &str {
    let between = template
        .trim_start_matches("{cause}")
        .trim_end_matches("{effect}")
        .trim();
    match between.strip_suffix(':') {
        Some(reason) => reason
            .trim_start_matches([',', ';', ' '])
            .trim_start_matches("and ")
            .trim_start_matches("so "),
        None => "",
    }
}

/// Causes before effects, else by when they were due and proved. Where causes go round in a circle, the earliest is first.
/// `causes` has the findings that each may follow from.
fn order(findings: &[Finding], causes: &[Vec<usize>]) -> Vec<usize> {
    let mut waits: Vec<usize> = causes.iter().map(Vec::len).collect();
    let mut effects: Vec<Vec<usize>> = vec![Vec::new(); findings.len()];
    for (effect, causes) in causes.iter().enumerate() {
        for cause in causes {
            effects[*cause].push(effect);
        }
    }
    let key = |place: usize| (findings[place].due_ns, findings[place].proved_ns, place);
    let mut free: BTreeSet<(u64, u64, usize)> = (0..findings.len())
        .filter(|place| waits[*place] == 0)
        .map(key)
        .collect();
    let mut order = Vec::with_capacity(findings.len());
    let mut left: BTreeSet<(u64, u64, usize)> = (0..findings.len()).map(key).collect();
    while let Some(first) = free.pop_first().or_else(|| left.first().copied()) {
        let (.., place) = first;
        if !left.remove(&first) {
            continue;
        }
        order.push(place);
        for effect in &effects[place] {
            waits[*effect] = waits[*effect].saturating_sub(1);
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

    fn finding(id: &str, node: &str, due_ns: u64) -> Finding {
        Finding {
            id: id.to_owned(),
            node: Some(node.to_owned()),
            role: Some(node.to_owned()),
            due_ns,
            proved_ns: due_ns,
            counts: true,
            ..Finding::default()
        }
    }

    fn clock(first_epoch: u64) -> Clock {
        Clock {
            calendar: Calendar {
                layer_ns: 1_000,
                layers_per_epoch: 4,
            },
            genesis_ns: 0,
            first_epoch,
        }
    }

    /// Two roles that take each other's proofs and die of it at once: each could be the other's cause.
    #[test]
    fn a_circle_loses_nothing_and_is_cut() {
        let mut findings = Vec::new();
        for node in ["a", "b"] {
            for id in [
                "role/all-dead",
                "proof/undelivered",
                "disk/full",
                "crash/new-round",
            ] {
                findings.push(finding(id, node, 10_000));
            }
        }
        let links = explain(&mut findings, &[], &clock(0));
        assert_eq!(findings.len(), 8);
        for link in &links {
            assert!(
                matches!(link.cause, Cause::Finding(cause) if cause < link.effect),
                "{link:?}"
            );
        }
        // What is cut is at most what leads back to what stands before.
        assert!(links.len() >= 5, "{links:#?}");
    }

    #[test]
    fn a_round_explains_only_the_epoch_that_uses_it() {
        for (first_epoch, round, since_ns, due_ns, linked) in [
            (0, 3, 8_100, 14_100, true),
            (0, 2, 8_100, 14_100, false),
            (0, 4, 8_100, 14_100, false),
            (0, 4, 8_100, 18_100, true),
            // Of a network that had counted 16 epochs before the run.
            (16, 19, 8_100, 14_100, true),
            (16, 3, 8_100, 14_100, false),
        ] {
            let undelivered = Finding {
                round: Some(round),
                ..finding(
                    "proof/undelivered",
                    "poet-0",
                    round.saturating_sub(first_epoch) * 4_000,
                )
            };
            let stalled = Finding {
                since_ns: Some(since_ns),
                proved_ns: due_ns + 1_000,
                ..finding("stalled/atx", "miner-0", due_ns)
            };
            let links = explain(&mut vec![undelivered, stalled], &[], &clock(first_epoch));
            assert_eq!(!links.is_empty(), linked, "round {round}, due {due_ns}");
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
