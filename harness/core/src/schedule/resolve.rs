//! Plan and seed to schedule: targets are drawn, undo is placed, windows of demanded liveness are worked out.

use std::collections::{BTreeMap, BTreeSet};

use super::tolerance::tolerated;
use super::{Action, Class, Part, Schedule, Step, Window};
use crate::faults::{self, Impact, Lasting};
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
    action: Action,
    begins: Option<(Impact, Class)>,
}

/// Resolves a plan for a seed. Execution makes no further choice.
pub fn resolve(plan: &Plan, seed: u64) -> Schedule {
    let mut drafts = Vec::new();
    for (index, entry) in plan.timeline.iter().enumerate() {
        if let Deed::Fault(kind, params) = &entry.what {
            drafts.extend(expand(plan, seed, index, entry, kind, params));
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

    /// Pairs of faults that cannot both be carried out: the later entry's name and why.
    pub fn conflicts(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for later in self.steps.iter().filter(|step| step.begins()) {
            for earlier in self
                .steps
                .iter()
                .filter(|step| step.begins() && step.id < later.id)
            {
                let same_node = earlier.action.node() == later.action.node();
                let still_on = self.end_of(earlier.id).is_none_or(|end| end > later.at);
                if same_node
                    && still_on
                    && earlier.impairs()
                    && !(earlier.entry == later.entry && earlier.at < later.at)
                {
                    found.push((
                        later.entry.clone(),
                        format!(
                            "{} is still {} by `{}` then",
                            later.action.node(),
                            earlier.state_of_target(),
                            earlier.entry
                        ),
                    ));
                }
            }
        }
        found.dedup();
        found
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

    fn state_of_target(&self) -> &'static str {
        match self.action {
            Action::Freeze { .. } => "frozen",
            _ => "down",
        }
    }
}

fn expand(
    plan: &Plan,
    seed: u64,
    index: usize,
    entry: &Entry,
    kind: &str,
    params: &Params,
) -> Vec<Draft> {
    let Some(kind) = faults::by_name(kind) else {
        return Vec::new();
    };
    let end = end_of_entry(plan, entry, kind.lasting(params));
    let mut drafts = Vec::new();
    for name in params
        .nodes("target")
        .targets(&plan.nodes, seed, &entry.name)
    {
        let Some(position) = plan.nodes.iter().position(|node| node.name == name) else {
            continue;
        };
        for effect in kind.expand(params, &plan.nodes[position]) {
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
                action: effect.action,
                begins,
            });
            if let Some((at, action)) = undo {
                drafts.push(Draft {
                    at,
                    entry: index,
                    node: position,
                    action,
                    begins: None,
                });
            }
        }
    }
    drafts
}

/// When an entry's faults end: by its own length, or by the first heal after it that means it, whichever is first.
fn end_of_entry(plan: &Plan, entry: &Entry, lasting: Lasting) -> Option<ProtocolTime> {
    if let Lasting::Itself(span) = lasting {
        return Some(entry.at.plus(span));
    }
    let own = entry.lasts.map(|span| entry.at.plus(span));
    let healed = plan
        .timeline
        .iter()
        .filter(|heal| heal.at > entry.at && heals(heal, &entry.name))
        .map(|heal| heal.at)
        .min();
    own.into_iter().chain(healed).min()
}

fn heals(entry: &Entry, name: &str) -> bool {
    match &entry.what {
        Deed::Heal(None) => true,
        Deed::Heal(Some(names)) => names.iter().any(|healed| healed == name),
        Deed::Fault(..) => false,
    }
}

/// Orders drafts (what ends comes before what begins at the same instant) and gives them their numbers.
fn number(plan: &Plan, mut drafts: Vec<Draft>) -> Vec<Step> {
    drafts.sort_by_key(|draft| (draft.at, draft.begins.is_some(), draft.entry, draft.node));
    let mut open: BTreeMap<(usize, usize), u32> = BTreeMap::new();
    let mut steps = Vec::with_capacity(drafts.len());
    for (id, draft) in (0_u32..).zip(drafts) {
        let key = (draft.entry, draft.node);
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
    let mut impaired: BTreeMap<String, u32> = BTreeMap::new();
    let mut windows = Vec::new();
    let mut from = Some(ProtocolTime::GENESIS);
    let mut changes: BTreeSet<ProtocolTime> = steps.iter().map(|step| step.at).collect();
    changes.insert(ends_at);
    for at in changes.into_iter().filter(|at| *at <= ends_at) {
        for step in steps.iter().filter(|step| step.at == at) {
            let ends_impairment = match step.part {
                Part::Ends(begun) => steps
                    .iter()
                    .any(|other| other.id == begun && other.impairs()),
                Part::Begins { .. } => false,
            };
            let count = impaired.entry(step.action.node().to_owned()).or_default();
            if step.impairs() {
                *count += 1;
            } else if ends_impairment {
                *count = count.saturating_sub(1);
            }
        }
        let now: BTreeSet<String> = impaired
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(name, _)| name.clone())
            .collect();
        let demanded = at < ends_at && tolerated(&plan.tolerates, &plan.nodes, &now);
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
