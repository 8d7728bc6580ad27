//! Plan and seed to schedule: targets are drawn, undo is placed, windows of demanded liveness are worked out.

use std::collections::{BTreeMap, BTreeSet};

use super::tolerance::Conditions;
use super::{Action, Class, Part, Schedule, Step, Window};
use crate::capability::{Capability, Resource};
use crate::faults::{self, Among, FaultKind, Impact, Lasting};
use crate::oracles;
use crate::params::Params;
use crate::plan::Plan;
use crate::plan::model::{Deed, Entry};
use crate::random::SCHEDULE_VERSION;
use crate::time::{ProtocolTime, Span};

/// Epochs of steady state before the first fault: every run's own control.
pub const STEADY_EPOCHS: i64 = 2;

/// A step before it has a number: its place in the order, and the place of the step it ends.
struct Draft {
    at: ProtocolTime,
    entry: usize,
    node: usize,
    /// Which of its entry's effects on the node.
    effect: usize,
    action: Action,
    begins: Option<(Impact, Class)>,
}

/// Resolves a plan for a seed. Execution makes no further choice.
pub fn resolve(plan: &Plan, seed: u64) -> Schedule {
    let heals = Heals::of(plan);
    let places = places(plan);
    let mut drafts = Vec::new();
    for (index, entry) in plan.timeline.iter().enumerate() {
        if let Deed::Fault(kind, params) = &entry.what
            && let Some(kind) = faults::by_name(kind)
        {
            let end = heals.end_of(entry, kind.lasting(params));
            drafts.extend(expand(plan, &places, seed, index, end, kind, params));
        }
    }
    let steps = number(plan, drafts);
    let ended = last_moment(plan, &steps);
    let longest = longest_bound(plan);
    let earliest =
        ProtocolTime::GENESIS.plus(Span(plan.calendar.epoch().0.saturating_mul(STEADY_EPOCHS)));
    // One layer more than the bound, so that a bound which runs out last is still seen to run out.
    let tail = Span(longest.0.saturating_add(crate::time::MICRO));
    let natural = match ended {
        Some(ended) => ended.plus(tail),
        None => earliest.plus(longest).plus(tail),
    };
    let ends_at = plan.until.unwrap_or(natural);
    // A heal that finds nothing left to undo is still the moment from which fresh progress counts.
    let undone = steps
        .iter()
        .filter(|step| matches!(step.part, Part::Ends(_)))
        .map(|step| step.at);
    let heals = plan
        .timeline
        .iter()
        .filter(|entry| matches!(entry.what, Deed::Heal(_)))
        .map(|entry| entry.at);
    let healed_at = undone.chain(heals).max();
    let windows = windows(plan, &steps, ends_at);
    Schedule {
        version: SCHEDULE_VERSION,
        plan: plan.name.clone(),
        seed,
        steps,
        windows,
        healed_at,
        ends_at,
    }
}

impl Schedule {
    /// The longest single stretch in which liveness is demanded.
    pub fn longest_window(&self) -> Span {
        self.windows
            .iter()
            .map(|window| window.to.since(window.from))
            .max()
            .unwrap_or_default()
    }

    /// Faults that cannot be carried out because of an earlier one: the later entry's name and why. One reason for each
    /// is enough, and keeps a plan of ten thousand faults on one node from giving millions.
    pub fn conflicts(&self) -> Vec<(String, String)> {
        let ends = self.ends();
        let mut found = Vec::new();
        // What is on each node as time goes by, and until when: the steps are in the order of their times.
        let mut on: BTreeMap<&str, Held<'_>> = BTreeMap::new();
        for later in self.steps.iter().filter(|step| step.begins()) {
            let node = later.action.node();
            let held = on.entry(node).or_default();
            if let Some(first) = held.in_the_way(later) {
                let state = first.state_of_target();
                let why = format!("{node} is still {state} by `{}` then", first.entry);
                found.push((later.entry.clone(), why));
            }
            let end = ends.get(&later.id).copied();
            held.push(end.unwrap_or(ProtocolTime(i64::MAX)), later);
        }
        found.dedup();
        found
    }

    /// When steps are taken back, by their ids.
    pub(crate) fn ends(&self) -> BTreeMap<u32, ProtocolTime> {
        let ends = self.steps.iter().filter_map(|step| match step.part {
            Part::Ends(begun) => Some((begun, step.at)),
            Part::Begins { .. } => None,
        });
        ends.collect()
    }

    /// When the step of this id is taken back.
    pub fn end_of(&self, begun: u32) -> Option<ProtocolTime> {
        self.steps
            .iter()
            .find(|step| step.part == Part::Ends(begun))
            .map(|step| step.at)
    }
}

impl Step {
    /// Whether it begins a fault.
    pub fn begins(&self) -> bool {
        matches!(self.part, Part::Begins { .. })
    }

    /// Whether it begins an impairment.
    pub fn impairs(&self) -> bool {
        matches!(
            self.part,
            Part::Begins {
                impact: Impact::Impaired,
                ..
            }
        )
    }

    /// What of its node it gives a size.
    fn sizes(&self) -> Option<Capability> {
        let sizes = self.action.holds_disk() || self.action.limits().is_some();
        sizes.then(|| self.action.needs())
    }

    fn state_of_target(&self) -> &'static str {
        match self.action {
            Action::Freeze { .. } => "frozen",
            Action::CapDisk { .. } | Action::FillDisk { .. } => "short of disk",
            Action::Limit { resource, .. } => match resource {
                Resource::Memory => "short of memory",
                Resource::Cpu => "throttled",
                Resource::Pids => "short of processes",
            },
            _ => "down",
        }
    }
}

/// What is on a node, and until when. Load and limits stand together, but what is down takes nothing more, and a disk, or
/// a resource, has one size at a time.
#[derive(Default)]
struct Held<'a> {
    down: Vec<(ProtocolTime, &'a Step)>,
    /// What has one size at a time: a disk, a resource.
    sized: BTreeMap<Capability, Vec<(ProtocolTime, &'a Step)>>,
}

impl<'a> Held<'a> {
    /// The first thing that `later` cannot be done beside.
    fn in_the_way(&mut self, later: &Step) -> Option<&'a Step> {
        for steps in std::iter::once(&mut self.down).chain(self.sized.values_mut()) {
            steps.retain(|(end, _)| *end > later.at);
        }
        let sized = later.sizes().and_then(|what| self.sized.get(&what));
        let other = |step: &&Step| step.entry != later.entry || step.at >= later.at;
        self.down
            .iter()
            .chain(sized.into_iter().flatten())
            .map(|(_, step)| *step)
            .find(other)
    }

    fn push(&mut self, end: ProtocolTime, step: &'a Step) {
        let steps = if step.impairs() {
            &mut self.down
        } else if let Some(what) = step.sizes() {
            self.sized.entry(what).or_default()
        } else {
            return;
        };
        // Of two entries that last at least as long, one or the other is in the way of whatever this one is.
        let mut longer = steps.iter().filter(|(other, _)| *other >= end);
        let first = longer.next().map(|(_, step)| &step.entry);
        if longer.all(|(_, step)| Some(&step.entry) == first) {
            steps.push((end, step));
        }
    }
}

/// Where each node stands in the network.
fn places(plan: &Plan) -> BTreeMap<&str, usize> {
    let names = plan.nodes.iter().map(|node| node.name.as_str());
    names.zip(0..).collect()
}

fn expand(
    plan: &Plan,
    places: &BTreeMap<&str, usize>,
    seed: u64,
    index: usize,
    end: Option<ProtocolTime>,
    kind: &dyn FaultKind,
    params: &Params,
) -> Vec<Draft> {
    let entry = &plan.timeline[index];
    let among = Among {
        nodes: &plan.nodes,
        seed,
        entry: &entry.name,
    };
    let mut drafts = Vec::new();
    for name in params
        .nodes("target")
        .targets(&plan.nodes, seed, &entry.name)
    {
        let Some(&position) = places.get(name.as_str()) else {
            continue;
        };
        let effects = kind.expand(params, &plan.nodes[position], &among);
        for (place, effect) in effects.into_iter().enumerate() {
            let undo = match (&effect.class, end) {
                (Class::Restores(undo), Some(at)) => Some((at, undo.clone())),
                _ => None,
            };
            // What nothing in the plan undoes ends with the run.
            let class = match (effect.class, &undo) {
                (Class::Restores(_), None) => Class::EndsWithRun,
                (class, _) => class,
            };
            let begins = Some((kind.impact(), class));
            drafts.push(Draft {
                at: entry.at,
                entry: index,
                node: position,
                effect: place,
                action: effect.action,
                begins,
            });
            if let Some((at, action)) = undo {
                drafts.push(Draft {
                    at,
                    entry: index,
                    node: position,
                    effect: place,
                    action,
                    begins: None,
                });
            }
        }
    }
    drafts
}

/// The times of all heals, in order: a long timeline is not read again for each of its entries.
struct Heals<'a> {
    all: Vec<ProtocolTime>,
    named: BTreeMap<&'a str, Vec<ProtocolTime>>,
}

impl<'a> Heals<'a> {
    fn of(plan: &'a Plan) -> Self {
        let mut heals = Self {
            all: Vec::new(),
            named: BTreeMap::new(),
        };
        for entry in &plan.timeline {
            match &entry.what {
                Deed::Heal(None) => heals.all.push(entry.at),
                Deed::Heal(Some(names)) => {
                    for name in names {
                        heals.named.entry(name).or_default().push(entry.at);
                    }
                }
                Deed::Fault(..) => {}
            }
        }
        heals.all.sort_unstable();
        heals
            .named
            .values_mut()
            .for_each(|times| times.sort_unstable());
        heals
    }

    /// When an entry's faults end: by its own length, or by the first heal after it that means it, whichever is first.
    fn end_of(&self, entry: &Entry, lasting: Lasting) -> Option<ProtocolTime> {
        match lasting {
            Lasting::Itself(span) => return Some(entry.at.plus(span)),
            Lasting::ForGood => return None,
            Lasting::UntilHealed => {}
        }
        let own = entry.lasts.map(|span| entry.at.plus(span));
        let first_after = |times: &[ProtocolTime]| {
            let after = times.partition_point(|at| *at <= entry.at);
            times.get(after).copied()
        };
        let named = self.named.get(entry.name.as_str());
        let named = named.and_then(|times| first_after(times));
        [own, first_after(&self.all), named]
            .into_iter()
            .flatten()
            .min()
    }
}

/// Orders drafts (what ends comes before what begins at the same instant) and gives them their numbers.
fn number(plan: &Plan, mut drafts: Vec<Draft>) -> Vec<Step> {
    drafts.sort_by_key(|draft| (draft.at, draft.begins.is_some(), draft.entry, draft.node));
    let mut open: BTreeMap<(usize, usize, usize), u32> = BTreeMap::new();
    let mut steps = Vec::with_capacity(drafts.len());
    for (id, draft) in (0_u32..).zip(drafts) {
        let key = (draft.entry, draft.node, draft.effect);
        let part = match draft.begins {
            Some((impact, class)) => {
                open.insert(key, id);
                Part::Begins { impact, class }
            }
            None => match open.remove(&key) {
                Some(begun) => Part::Ends(begun),
                None => continue,
            },
        };
        let entry = plan.timeline[draft.entry].name.clone();
        steps.push(Step {
            id,
            at: draft.at,
            entry,
            action: draft.action,
            part,
        });
    }
    steps
}

fn last_moment(plan: &Plan, steps: &[Step]) -> Option<ProtocolTime> {
    steps
        .iter()
        .map(|step| step.at)
        .chain(plan.timeline.iter().map(|entry| entry.at))
        .max()
}

fn longest_bound(plan: &Plan) -> Span {
    plan.expect
        .iter()
        .filter_map(|expectation| oracles::by_name(expectation.kind)?.bound(&expectation.params))
        .max()
        .unwrap_or(plan.calendar.epoch())
}

/// Stretches from genesis to the end in which what is impaired stays within what is tolerated.
fn windows(plan: &Plan, steps: &[Step], ends_at: ProtocolTime) -> Vec<Window> {
    let conditions = Conditions::new(&plan.tolerates, &plan.nodes);
    let mut impaired: BTreeMap<&str, u32> = BTreeMap::new();
    let mut windows = Vec::new();
    let mut from = Some(ProtocolTime::GENESIS);
    let mut changes: BTreeSet<ProtocolTime> = steps.iter().map(|step| step.at).collect();
    changes.insert(ends_at);
    let impairing: BTreeSet<u32> = steps
        .iter()
        .filter(|step| step.impairs())
        .map(|step| step.id)
        .collect();
    for at in changes.into_iter().filter(|at| *at <= ends_at) {
        // They are in the order of their times.
        let first = steps.partition_point(|step| step.at < at);
        for step in steps[first..].iter().take_while(|step| step.at == at) {
            let ends_impairment = match step.part {
                Part::Ends(begun) => impairing.contains(&begun),
                Part::Begins { .. } => false,
            };
            let node = step.action.node();
            if step.impairs() {
                *impaired.entry(node).or_default() += 1;
            } else if ends_impairment && let Some(count) = impaired.get_mut(node) {
                *count -= 1;
                if *count == 0 {
                    impaired.remove(node);
                }
            }
        }
        let demanded = at < ends_at && conditions.hold(&impaired.keys().copied());
        match (from, demanded) {
            (Some(start), false) => {
                if at > start {
                    windows.push(Window {
                        from: start,
                        to: at,
                    });
                }
                from = None;
            }
            (None, true) => from = Some(at),
            _ => {}
        }
    }
    windows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Faults as (layer, node, entry, layers until its end, impairs), resolved to a schedule.
    fn schedule(faults: &[(i64, u8, u8, Option<i64>, bool)]) -> Schedule {
        let at = |layers: i64| ProtocolTime::GENESIS.plus(Span::layers(layers));
        let mut steps = Vec::new();
        for (id, (layer, node, entry, lasts, impairs)) in (0_u32..).step_by(2).zip(faults) {
            let node = format!("n-{node}");
            let impact = if *impairs {
                Impact::Impaired
            } else {
                Impact::Stressed
            };
            let begins = Part::Begins {
                impact,
                class: Class::Permanent,
            };
            let step = |id, at, part| Step {
                id,
                at,
                entry: format!("e-{entry}"),
                action: Action::Freeze { node: node.clone() },
                part,
            };
            steps.push(step(id, at(*layer), begins));
            steps.extend(lasts.map(|lasts| step(id + 1, at(layer + lasts), Part::Ends(id))));
        }
        steps.sort_by_key(|step| (step.at, step.begins(), step.id));
        Schedule {
            version: SCHEDULE_VERSION,
            plan: "p".into(),
            seed: 0,
            steps,
            windows: Vec::new(),
            healed_at: None,
            ends_at: at(1000),
        }
    }

    /// The definition, pair by pair: which steps have an earlier one in their way.
    fn by_definition(schedule: &Schedule) -> Vec<String> {
        let begins: Vec<&Step> = schedule.steps.iter().filter(|step| step.begins()).collect();
        let hindered = begins.iter().enumerate().filter(|(place, later)| {
            begins[..*place].iter().any(|earlier| {
                earlier.impairs()
                    && earlier.action.node() == later.action.node()
                    && schedule.end_of(earlier.id).is_none_or(|end| end > later.at)
                    && (earlier.entry != later.entry || earlier.at >= later.at)
            })
        });
        hindered.map(|(_, later)| later.entry.clone()).collect()
    }

    fn found(schedule: &Schedule) -> Vec<String> {
        let conflicts = schedule.conflicts().into_iter();
        conflicts.map(|(entry, _)| entry).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn conflicts_are_those_of_the_definition(
            faults in prop::collection::vec(
                (0_i64..12, 0_u8..2, 0_u8..6, prop::option::of(1_i64..4), any::<bool>()), 0..12)
        ) {
            let schedule = schedule(&faults);
            let (mut found, mut expected) = (found(&schedule), by_definition(&schedule));
            found.dedup();
            expected.dedup();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_disk_has_one_size_at_a_time() {
        let mut schedule = schedule(&[
            (8, 0, 0, Some(4), false),
            (10, 0, 1, Some(4), false),
            (10, 1, 2, Some(4), false),
            (12, 0, 3, Some(1), false),
        ]);
        for step in schedule.steps.iter_mut().filter(|step| step.begins()) {
            step.action = Action::CapDisk {
                node: step.action.node().to_owned(),
                bytes: 0,
            };
        }
        assert_eq!(found(&schedule), ["e-1", "e-3"]);
        let (_, why) = &schedule.conflicts()[0];
        assert!(why.contains("n-0 is still short of disk by `e-0`"), "{why}");
        // What stands together: load, and a disk that is short.
        for step in &mut schedule.steps {
            step.action = Action::EndFlood {
                node: step.action.node().to_owned(),
            };
        }
        assert!(found(&schedule).is_empty());
    }

    #[test]
    fn a_resource_has_one_size_at_a_time_and_others_stand_beside_it() {
        let mut schedule = schedule(&[(8, 0, 0, Some(4), false), (10, 0, 1, Some(4), false)]);
        let mut limit = |resources: [Resource; 2]| {
            let begins = schedule.steps.iter_mut().filter(|step| step.begins());
            for (step, resource) in begins.zip(resources) {
                step.action = Action::Limit {
                    node: "n-0".to_owned(),
                    resource,
                    amount: 100,
                };
            }
            schedule.conflicts()
        };
        let twice = limit([Resource::Memory, Resource::Memory]);
        let why = "n-0 is still short of memory by `e-0` then".to_owned();
        assert_eq!(twice, [("e-1".to_owned(), why)]);
        assert_eq!(limit([Resource::Memory, Resource::Cpu]), []);
        assert_eq!(limit([Resource::Pids, Resource::Memory]), []);
    }

    #[test]
    fn what_is_over_is_in_nobodys_way() {
        let one = |lasts| schedule(&[(8, 0, 0, lasts, true), (10, 0, 1, None, true)]);
        assert_eq!(found(&one(Some(2))), Vec::<String>::new());
        assert_eq!(found(&one(Some(3))), ["e-1"]);
        assert_eq!(found(&one(None)), ["e-1"]);
    }
}
