//! What a run does with its steps: carrying them out, taking them back, and what was seen of both.

use std::collections::BTreeMap;

use super::machine::{Machine, Stage};
use super::nodes::{Blow, NodeView};
use super::{Command, HEAL_BOUND_NS, Watch};
use crate::faults::Impact;
use crate::history::{Body, Ending, Evidence, Grade, ImpactChange, Phase, StepChange};
use crate::schedule::{Action, Part, Step};

/// A restarted node has this long to become ready before its healing counts as failed.
const RESTART_BOUND_NS: u64 = 10_000_000_000;

impl<W: Watch> Machine<W> {
    pub(super) fn carry(&mut self, step: Step) {
        self.step_is(&step, Phase::Begun);
        let node = step.action.node().to_owned();
        if let Part::Ends(begun) = &step.part {
            self.open.remove(begun);
            if self.moot.remove(begun) {
                self.nothing_to_undo(&step, *begun);
                return;
            }
        }
        if let Some(why) = self.refusal(&step.action) {
            self.refuse(&step, why);
            return;
        }
        if let Part::Begins { impact, .. } = &step.part {
            self.impact(&step.entry, &node, *impact, true);
            self.on.insert(step.id, node.clone());
            let mut due = self.due.iter();
            let undo = due.find(|other| other.part == Part::Ends(step.id));
            if let Some(undo) = undo.cloned() {
                self.open.insert(step.id, undo);
            }
        }
        let view = self.nodes.entry(node.clone()).or_default();
        match &step.action {
            Action::Kill { .. } | Action::Terminate { .. } => {
                let killed = matches!(step.action, Action::Kill { .. });
                view.ending = Some(Blow {
                    step: Some(step.id),
                    killed,
                });
            }
            Action::Start { .. } => {
                if view.lives() {
                    view.awaits = Some(step);
                } else {
                    self.start_again(&step, &node);
                }
                return;
            }
            _ => {}
        }
        self.out.push(Command::Carry(step));
    }

    /// Why an action cannot be tried on its node as it is.
    fn refusal(&self, action: &Action) -> Option<String> {
        let node = action.node();
        let view = self.nodes.get(node);
        let lives = view.is_some_and(NodeView::lives);
        let dying = view.is_some_and(|view| view.ending.is_some());
        match action {
            Action::Kill { .. } | Action::Terminate { .. } if !lives => {
                Some(format!("{node} was already dead"))
            }
            Action::Start { .. } if lives && !dying => Some(format!("{node} was already running")),
            Action::Freeze { .. }
            | Action::Thaw { .. }
            | Action::Flood { .. }
            | Action::Limit { .. }
            | Action::SetGateways { .. }
            | Action::StartPoet { .. }
                if !lives =>
            {
                Some(format!("{node} was dead"))
            }
            // A disk is held by its directory, whether the node lives or not.
            _ => None,
        }
    }

    /// A step that is not even tried. What would take its effect back has nothing to do: above all, a node that had died
    /// by itself before it could be killed is not started again by the heal.
    fn refuse(&mut self, step: &Step, why: String) {
        self.step_is(step, Phase::Failed(why));
        match &step.part {
            Part::Begins { .. } => {
                self.moot.insert(step.id);
                self.out.push(Command::Drop(step.id));
            }
            // Thawing a node that has died meanwhile: nothing is frozen any more, and that is what the undo is for.
            Part::Ends(begun) if matches!(step.action, Action::Thaw { .. }) => {
                let why = format!("{} is dead", step.action.node());
                let detail = BTreeMap::from([("node".to_owned(), why.into())]);
                self.proved(*begun, Grade::Gone, true, detail);
            }
            Part::Ends(_) => {}
        }
    }

    /// The end of a fault that was never made.
    fn nothing_to_undo(&mut self, step: &Step, begun: u32) {
        self.step_is(step, Phase::Done);
        let detail = BTreeMap::from([("begun".to_owned(), false.into())]);
        self.proved(begun, Grade::Gone, true, detail);
    }

    pub(super) fn start_again(&mut self, step: &Step, node: &str) {
        let ready_by_ns = self.now_ns.saturating_add(RESTART_BOUND_NS);
        let view = self.nodes.entry(node.to_owned()).or_default();
        view.incarnation += 1;
        view.state = None;
        view.unready = false;
        view.panic = None;
        view.ending = None;
        // A value that is the same as in the former life is news of this one.
        view.signals.clear();
        let incarnation = view.incarnation;
        if let Part::Ends(begun) = step.part {
            view.healing.push(begun);
        }
        self.out.push(Command::Spawn {
            node: node.to_owned(),
            incarnation,
            ready_by_ns,
        });
        self.step_is(step, Phase::Done);
    }

    pub(super) fn carried(&mut self, id: u32, result: Result<(), String>) {
        let Some(step) = self
            .header
            .schedule
            .steps
            .iter()
            .find(|step| step.id == id)
            .cloned()
        else {
            return;
        };
        match result {
            Ok(()) => self.step_is(&step, Phase::Done),
            Err(why) => {
                self.step_is(&step, Phase::Failed(why));
                // Whoever dies from now on was not hit by this; its effect, if it had any, is taken back all the same.
                self.on.remove(&step.id);
            }
        }
    }

    pub(super) fn proved(
        &mut self,
        step: u32,
        grade: Grade,
        held: bool,
        detail: BTreeMap<String, serde_json::Value>,
    ) {
        let steps = &self.header.schedule.steps;
        let Some(begun) = steps.iter().find(|other| other.id == step).cloned() else {
            return;
        };
        let node = begun.action.node().to_owned();
        let entry = begun.entry.clone();
        let evidence = Evidence {
            entry: entry.clone(),
            step,
            node: node.clone(),
            grade,
            held,
            detail,
        };
        self.record(Body::Evidence(evidence));
        if grade == Grade::Gone {
            self.healing.retain(|open| *open != step);
            if held {
                self.on.remove(&step);
            }
            if held && let Part::Begins { impact, .. } = begun.part {
                self.impact(&entry, &node, impact, false);
            }
        }
    }

    /// A node that dies under a fault was hit by it, whatever the fault is.
    pub(super) fn felt_by_death(&mut self, node: &str) {
        let steps = self
            .on
            .iter()
            .filter(|(_, on)| on.as_str() == node)
            .map(|(step, _)| *step);
        for step in steps.collect::<Vec<_>>() {
            let detail = BTreeMap::from([("died".to_owned(), true.into())]);
            self.proved(step, Grade::Felt, true, detail);
        }
    }

    pub(super) fn end(&mut self, ending: Ending) {
        match self.stage {
            Stage::Starting | Stage::Running => {}
            Stage::Healing(_) | Stage::TearingDown(_) | Stage::Over => return,
        }
        // What would need the node's process to come back is left to teardown; what is still imposed is taken back.
        let outstanding: Vec<Step> = std::mem::take(&mut self.open)
            .into_values()
            .filter(|undo| {
                matches!(
                    undo.action,
                    Action::Thaw { .. }
                        | Action::EndFlood { .. }
                        | Action::FreeDisk { .. }
                        | Action::Unlimit { .. }
                )
            })
            .collect();
        // To a network that cannot be gone on with anything may have been done, so nothing more is demanded of it.
        if matches!(ending, Ending::Substrate(_)) {
            self.torn_down_ns = self.now_ns;
        }
        self.heal_by_ns = self.now_ns.saturating_add(HEAL_BOUND_NS);
        self.stage = Stage::Healing(ending);
        self.due.clear();
        for undo in outstanding {
            if let Part::Ends(begun) = undo.part {
                self.healing.push(begun);
            }
            self.carry(undo);
        }
        self.finish_healing();
    }

    /// Goes on to teardown once every undo has reported, or its bound is over.
    pub(super) fn finish_healing(&mut self) {
        let Stage::Healing(ending) = &self.stage else {
            return;
        };
        if self.healing.is_empty() || self.now_ns >= self.heal_by_ns {
            self.stage = Stage::TearingDown(ending.clone());
            self.tear_down();
        } else {
            self.out.push(Command::WakeAt(self.heal_by_ns));
        }
    }

    pub(super) fn step_is(&mut self, step: &Step, phase: Phase) {
        let change = StepChange {
            step: step.id,
            entry: step.entry.clone(),
            action: step.action.clone(),
            phase,
        };
        self.record(Body::Step(change));
    }

    fn impact(&mut self, entry: &str, node: &str, impact: Impact, on: bool) {
        let change = ImpactChange {
            entry: entry.to_owned(),
            node: node.to_owned(),
            impact,
            on,
        };
        self.record(Body::Impact(change));
    }
}
