//! `advance`: a signal must keep advancing, measured as the time since it last did, per node.

use super::groups::{Group, groups};
use super::world::{Mark, World};
use super::{Gives, Oracle, OracleKind, Output, too_much};
use crate::findings;
use crate::history::{Body, Header, Record, SignalValue};
use crate::params::{Need, Param, Params, Shape};
use crate::plan::Selector;
use crate::plan::model::Plan;
use crate::time::{Span, layers};
use crate::verdict::{Code, Data, Expectation, Finding};

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

    fn gives(&self) -> &'static [Gives] {
        &[Gives {
            kind: findings::STALLED,
            can: |asked| asked.advances(),
        }]
    }

    fn bound(&self, params: &Params) -> Option<Span> {
        Some(params.span("within"))
    }

    fn build(&self, params: &Params, header: &Header) -> Box<dyn Oracle> {
        Box::new(Advances::new(params, header))
    }
}

/// Whether the quorum of a group is overdue, and what is known about it.
enum Standing {
    /// It advanced in time.
    Fresh,
    /// It did not, and that was seen.
    Stalled,
    /// It may or may not have: these nodes were not looked at for longer than the bound.
    Unseen(Vec<String>),
    /// Nothing can be said yet, or what is not seen is explained by a node that gives no answer.
    Open,
}

/// What is held against a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Charge {
    None,
    /// A finding; its place, unless there were too many.
    Stall(Option<usize>),
    /// It stalled before any fault began.
    Unsteady,
}

#[derive(Debug, Clone)]
struct Watched {
    group: Group,
    /// Since when enough of its nodes have been free to advance.
    able: Option<Mark>,
    /// It has advanced at least once.
    started: bool,
    /// When it last advanced, for measuring gaps.
    last: Option<Mark>,
    charge: Charge,
    worst_ns: u64,
    advances: u64,
    demanded_layers: u64,
    /// Those of them since the first fault began: only they say anything about faults.
    faulted_layers: u64,
    void_layers: u64,
    never_reported: bool,
}

/// The fold behind `advance`.
///
/// Stalls are decided when a layer ends, since only then it is known whether the host was fit during it. A stall is
/// proved by a *look* after the bound that still shows the old value, or by the node being dead; without a look there is
/// an observer gap, unless the node itself gives no answer, which [`super::responds`] finds. For a pushed signal silence is
/// a look, unless lines of the node's log were lost: then it is one from there on.
#[derive(Debug, Clone)]
struct Advances {
    signal: String,
    what: String,
    within: Span,
    within_ns: u64,
    watched: Vec<Watched>,
}

impl Advances {
    fn new(params: &Params, header: &Header) -> Self {
        let signal = params.text("signal").to_owned();
        let within = params.span("within");
        let of = params.nodes("of");
        let watched = groups(of, header).into_iter().map(|group| Watched {
            group,
            able: None,
            started: false,
            last: None,
            charge: Charge::None,
            worst_ns: 0,
            advances: 0,
            demanded_layers: 0,
            faulted_layers: 0,
            void_layers: 0,
            never_reported: false,
        });
        Self {
            what: format!("advance {signal} of {of} within {within}"),
            within,
            within_ns: header.calendar.ns_of(within),
            watched: watched.collect(),
            signal,
        }
    }

    /// A group must be demanded for at least its bound before its silence, or its lack of it, says anything.
    fn least_layers(&self) -> u64 {
        let micro = self.within.0.max(0).unsigned_abs();
        micro.div_ceil(crate::time::MICRO.unsigned_abs())
    }

    /// Whether all that was demanded was demanded before the first fault: then it only shows the steady state. One group
    /// that was demanded long enough is enough, since a node that is killed for good owes nothing any more.
    fn only_steady(&self, world: &World) -> bool {
        let least = self.least_layers();
        let after = self.watched.iter().map(|watched| watched.faulted_layers);
        world.first_fault.is_some() && after.max().is_some_and(|layers| layers < least)
    }

    /// An advance was seen on a node: measures gaps and closes what is open.
    fn advanced(&mut self, node: &str, world: &World, out: &mut Output) {
        for watched in &mut self.watched {
            if !watched.group.members.iter().any(|member| member == node) {
                continue;
            }
            let Some(at) = watched.group.advanced(world, &self.signal) else {
                continue;
            };
            if watched.last == Some(at) {
                continue;
            }
            watched.started = true;
            watched.advances += 1;
            // A group that just became able again is measured from then on, which only the next layer knows.
            let able = watched.able.is_some() && watched.group.able(world);
            if let (Some(from), true) = (watched.from(world), able) {
                let gap = world.void.elapsed(from.t_ns, at.t_ns);
                watched.worst_ns = watched.worst_ns.max(gap);
            }
            watched.last = Some(at);
            if let Charge::Stall(place) = watched.charge {
                out.recovered(place, at.t_ns);
            }
            // What was unsteady at first may still stall under a fault later, and that is a finding of its own.
            watched.charge = Charge::None;
        }
    }

    fn layer_ended(&mut self, world: &World, out: &mut Output) {
        for index in 0..self.watched.len() {
            let watched = &mut self.watched[index];
            let able = world.demanded.is_some() && watched.group.able(world);
            watched.able = match (able, watched.able) {
                (true, None) => Some(able_since(&watched.group, world)),
                (true, since) => since,
                (false, _) => None,
            };
            if !able {
                continue;
            }
            watched.demanded_layers += 1;
            watched.faulted_layers += u64::from(world.first_fault.is_some());
            watched.void_layers += u64::from(world.last_layer_void);
            if watched.started {
                self.weigh(index, world, out);
            } else {
                self.never(index, world, out);
            }
        }
    }

    /// A signal that has not advanced at all is not judged by its bound: before the steady state is due it may still be
    /// starting, and afterwards the run says nothing about the faults.
    fn never(&mut self, index: usize, world: &World, out: &mut Output) {
        let watched = &mut self.watched[index];
        let Some(until) = world.steady_until_ns() else {
            return;
        };
        if watched.never_reported || world.now.t_ns < until {
            return;
        }
        watched.never_reported = true;
        let (signal, label, when) = (&self.signal, &watched.group.label, world.when(until));
        let text = match watched.group.unread(world, signal) {
            Some(why) => format!("`{signal}` of {label} was never read before {when}: {why}"),
            None => format!(
                "`{signal}` of {label} never advanced before {when}; look at the node's log"
            ),
        };
        let measurement = format!("{} samples", watched.group.samples(world, &self.signal));
        let records = vec![world.now.seq];
        out.doubt(Code::SteadyStateNotReached, text, measurement, records);
    }

    fn weigh(&mut self, index: usize, world: &World, out: &mut Output) {
        let watched = &self.watched[index];
        let Some(mut from) = watched.from(world) else {
            return;
        };
        // It may have advanced in what was lost, but not after that.
        if let Some(lost) = watched.group.lost(world, &self.signal)
            && world.void.elapsed(lost.t_ns, world.now.t_ns) > self.within_ns
        {
            from = from.max(lost);
        }
        let elapsed = world.void.elapsed(from.t_ns, world.now.t_ns);
        match self.standing(watched, world, out) {
            Standing::Fresh | Standing::Open => {
                let watched = &mut self.watched[index];
                watched.worst_ns = watched.worst_ns.max(elapsed);
            }
            Standing::Stalled => {
                if watched.charge == Charge::None {
                    let charge = self.charge(watched, from, world, out);
                    self.watched[index].charge = charge;
                }
                let watched = &mut self.watched[index];
                watched.worst_ns = watched.worst_ns.max(elapsed);
            }
            Standing::Unseen(nodes) => {
                let text = format!(
                    "nobody could see for longer than {} whether `{}` advanced on {}",
                    self.within,
                    self.signal,
                    nodes.join(", ")
                );
                let measurement = format!("{:.1} layers", world.in_layers(elapsed));
                out.doubt(
                    Code::ObserverGap,
                    text,
                    measurement,
                    vec![from.seq, world.now.seq],
                );
            }
        }
    }

    fn standing(&self, watched: &Watched, world: &World, out: &Output) -> Standing {
        let Some(base) = watched.base(world) else {
            return Standing::Open;
        };
        let bound = self.within_ns;
        let late = |from: Mark, to: u64| world.void.elapsed(from.t_ns, to) > bound;
        let (mut fresh, mut stale, mut unseen, mut waiting) = (0, 0, Vec::new(), 0);
        for node in &watched.group.members {
            let track = world.track(node, &self.signal);
            let from = track
                .and_then(|track| track.advanced)
                .map_or(base, |advanced| advanced.max(base));
            if !late(from, world.now.t_ns) {
                fresh += 1;
                continue;
            }
            let pushed = world.pushed(node, &self.signal);
            let lost = world.lost(node).filter(|lost| pushed && *lost > from);
            let known = lost.unwrap_or(from);
            if late(known, self.looked(node, world)) {
                stale += 1;
            } else if out.findings.iter().any(|finding| silences(finding, node)) {
                waiting += 1;
            } else {
                let seen = track.and_then(|track| track.seen).unwrap_or(base).max(base);
                if lost.is_some() || late(seen, world.now.t_ns) {
                    unseen.push(node.clone());
                } else {
                    waiting += 1;
                }
            }
        }
        let members = watched.group.members.len();
        if fresh >= watched.group.quorum {
            Standing::Fresh
        } else if stale + watched.group.quorum > members {
            Standing::Stalled
        } else if !unseen.is_empty() && fresh + waiting < watched.group.quorum {
            Standing::Unseen(unseen)
        } else {
            Standing::Open
        }
    }

    /// Until when it is known that the node has not advanced, if it has not.
    fn looked(&self, node: &str, world: &World) -> u64 {
        let alive = !world.dead_by_itself(node) && !world.excused(node);
        if !alive || world.pushed(node, &self.signal) {
            return world.now.t_ns;
        }
        world
            .track(node, &self.signal)
            .and_then(|track| track.seen)
            .map_or(0, |seen| seen.t_ns)
    }

    fn charge(&self, watched: &Watched, from: Mark, world: &World, out: &mut Output) -> Charge {
        let due_ns = world.void.later(from.t_ns, self.within_ns);
        let label = &watched.group.label;
        let (verb, signal) = (
            format!("did not advance for {}", self.within),
            format!("`{}`", self.signal),
        );
        let since = world.when(from.t_ns);
        if world.steady_until_ns().is_none_or(|until| due_ns < until) {
            let text =
                format!("{signal} of {label} {verb} from {since} on, before any fault began");
            let measurement = format!("bound {}", self.within);
            let records = vec![from.seq, world.now.seq];
            out.doubt(Code::SteadyStateNotReached, text, measurement, records);
            return Charge::Unsteady;
        }
        let value = watched.group.node().and_then(|node| {
            let track = world.track(node, &self.signal)?;
            track.value.as_ref().map(show)
        });
        let value = value.map_or_else(String::new, |value| format!(", and stood at {value}"));
        let mut records = vec![from.seq];
        let looks = watched.group.members.iter().filter_map(|node| {
            let seen = world.track(node, &self.signal)?.seen?;
            (seen.t_ns > due_ns).then_some(seen.seq)
        });
        records.extend(looks.take(16));
        records.push(world.now.seq);
        records.sort_unstable();
        records.dedup();
        Charge::Stall(out.find(Finding {
            id: findings::STALLED.of(&self.signal),
            node: watched.group.node().map(str::to_owned),
            role: watched.group.role.clone(),
            due_ns,
            proved_ns: world.now.t_ns,
            since_ns: Some(from.t_ns),
            records,
            text: format!("{signal} of {label} {verb} from {since} on{value}"),
            counts: true,
            ..Finding::default()
        }))
    }
}

impl Advances {
    /// One word for all groups, since a host is unfit for all of them.
    fn unfit_told(&self, world: &World, out: &mut Output) {
        let mut unfit = self.watched.iter().filter(|watched| watched.unfit());
        let Some(first) = unfit.next() else { return };
        let others = match unfit.count() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let text = format!(
            "the host was unfit for too long while `{}` of {}{others} was demanded; run on a quieter host or with longer layers",
            self.signal, first.group.label
        );
        let (demanded, void) = (first.demanded_layers, first.void_layers);
        let measurement = format!("{void} of {}", layers(demanded));
        out.doubt(Code::VoidLayers, text, measurement, vec![world.now.seq]);
    }
}

impl Watched {
    /// More than a tenth of its time was void: then a stall says as much of the host as of the release.
    fn unfit(&self) -> bool {
        too_much(self.void_layers, self.demanded_layers)
    }

    fn about(&self, finding: &Finding) -> bool {
        self.group.node() == finding.node.as_deref() && self.group.role == finding.role
    }

    /// From when on the group can be blamed at the earliest.
    fn base(&self, world: &World) -> Option<Mark> {
        let demanded = world.demanded?;
        Some(self.able.map_or(demanded, |able| able.max(demanded)))
    }

    /// From when its sliding bound runs: the last advance, or what it can be blamed from.
    fn from(&self, world: &World) -> Option<Mark> {
        let base = self.base(world)?;
        Some(self.last.map_or(base, |last| last.max(base)))
    }
}

/// Since when enough nodes of a group have been free: for one node, since it was; else since the demand began or now.
fn able_since(group: &Group, world: &World) -> Mark {
    let view = group.node().and_then(|node| world.nodes.get(node));
    match (view.and_then(|view| view.able), world.demanded) {
        (Some(able), Some(demanded)) => able.max(demanded),
        (None, Some(demanded)) if world.layers <= 1 => demanded,
        _ => world.now,
    }
}

/// Whether a finding explains why a node's values cannot be read.
fn silences(finding: &Finding, node: &str) -> bool {
    finding.id.starts_with("hang/")
        && finding.recovered_ns.is_none()
        && finding.node.as_deref() == Some(node)
}

fn show(value: &SignalValue) -> String {
    match value {
        SignalValue::Number(number) => number.to_string(),
        SignalValue::Text(text) => text.chars().take(64).collect(),
    }
}

impl Oracle for Advances {
    fn observe(&mut self, record: &Record, world: &World, out: &mut Output) {
        match &record.body {
            Body::Sample(sample) if sample.signal == self.signal => {
                let track = world.track(&sample.node, &self.signal);
                let advanced = track.and_then(|track| track.advanced);
                if advanced.is_some_and(|mark| mark.seq == record.seq) {
                    self.advanced(&sample.node, world, out);
                }
            }
            Body::Layer(_) => self.layer_ended(world, out),
            _ => {}
        }
    }

    fn finish(&mut self, world: &World, out: &mut Output) {
        let least = self.least_layers();
        if self.only_steady(world) {
            let text = format!(
                "`{}` was demanded for less than its bound since the first fault; heal it, impair less or let the run last longer",
                self.what
            );
            let after = self.watched.iter().map(|watched| watched.faulted_layers);
            let measurement = format!("{} of at least {}", after.max().unwrap_or(0), layers(least));
            out.doubt(Code::NotDemanded, text, measurement, vec![world.now.seq]);
        }
        for watched in &self.watched {
            let demanded = watched.demanded_layers;
            if demanded < least {
                let text = format!(
                    "`{}` of {} was demanded for less than its bound; let the run last longer or impair less",
                    self.signal, watched.group.label
                );
                let measurement = format!("{demanded} of at least {}", layers(least));
                out.doubt(Code::NotDemanded, text, measurement, vec![world.now.seq]);
            }
        }
        self.unfit_told(world, out);
    }

    fn report(&self, world: &World) -> Expectation {
        let worst = self.watched.iter().map(|watched| watched.worst_ns).max();
        let demanded = self.watched.iter().map(|watched| watched.demanded_layers);
        // What the group with the least had: a single advance shows that the signal is the right one; that it goes on
        // is what the bound is for.
        let had = self.watched.iter().map(|watched| watched.advances).min();
        let data = Data {
            what: "advances".to_owned(),
            least: 1,
            had: had.unwrap_or(0),
        };
        let void = self.watched.iter().map(|it| it.void_layers).max();
        Expectation {
            bound_layers: Some(self.within.in_layers()),
            worst_layers: worst.map(|worst| world.in_layers(worst)),
            demanded_layers: demanded.min(),
            void_layers: void.unwrap_or(0),
            ..Expectation::new(self.what.clone(), "advance", false, data)
        }
    }

    fn settled(&self, world: &World) -> bool {
        let least = self.least_layers();
        let mut watched = self.watched.iter();
        !self.only_steady(world)
            && watched
                .all(|it| it.charge == Charge::None && it.demanded_layers >= least && !it.unfit())
    }

    fn owns(&self, finding: &Finding) -> bool {
        findings::STALLED.about(&finding.id) == Some(&self.signal)
            && self.watched.iter().any(|watched| watched.about(finding))
    }

    fn unfit(&self, finding: &Finding) -> bool {
        let mut watched = self.watched.iter();
        watched.any(|watched| watched.about(finding) && watched.unfit())
    }
}
