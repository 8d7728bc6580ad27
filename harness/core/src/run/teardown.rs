//! How a run ends: everything is stopped and removed, or what could not be is listed.

use super::machine::{Machine, Stage};
use super::nodes::Blow;
use super::{Command, TEARDOWN_BOUND_NS, Watch};
use crate::history::{Body, End, Ending, NodeState, TornDown};

impl<W: Watch> Machine<W> {
    pub(super) fn tear_down(&mut self) {
        for view in self.nodes.values_mut() {
            // One that is only just being started is killed with the rest, and is no more to blame for it.
            if view.state != Some(NodeState::Dead) && view.ending.is_none() {
                view.ending = Some(Blow {
                    step: None,
                    killed: false,
                });
            }
        }
        let bound_ns = self.slowest_stop_ns.saturating_add(TEARDOWN_BOUND_NS);
        self.teardown_by_ns = self.now_ns.saturating_add(bound_ns);
        self.torn_down_ns = self.torn_down_ns.min(self.now_ns);
        self.out.push(Command::TearDown);
        self.out.push(Command::WakeAt(self.teardown_by_ns));
    }

    /// Ends a run whose teardown does not: nobody could say any more what became of it.
    pub(super) fn finish_teardown(&mut self) {
        if self.now_ns < self.teardown_by_ns {
            self.out.push(Command::WakeAt(self.teardown_by_ns));
            return;
        }
        let bound_ns = self.slowest_stop_ns.saturating_add(TEARDOWN_BOUND_NS);
        self.left_by_teardown(&format!(
            "teardown did not end within {} s",
            bound_ns / 1_000_000_000
        ));
    }

    /// What a teardown that did not end may have left: every node whose death was not seen.
    pub(super) fn left_by_teardown(&mut self, why: &str) {
        let alive = self
            .nodes
            .iter()
            .filter(|(_, view)| view.state.is_some_and(|state| state != NodeState::Dead));
        let mut left: Vec<String> = alive
            .map(|(name, _)| format!("{name}: its death was not seen"))
            .collect();
        left.insert(0, why.to_owned());
        self.torn_down(left);
    }

    /// Something that carries the run out or looks at it is gone: whatever came of the run after that is not known.
    pub(super) fn task_failed(&mut self, why: String) {
        self.end(Ending::Substrate(why.clone()));
        if let Stage::Healing(ending) | Stage::TearingDown(ending) = &mut self.stage
            && matches!(ending, Ending::Scheduled | Ending::Early)
        {
            *ending = Ending::Substrate(why);
        }
    }

    pub(super) fn torn_down(&mut self, left: Vec<String>) {
        let Stage::TearingDown(ending) = self.stage.clone() else {
            return;
        };
        self.record(Body::TornDown(TornDown { left }));
        let end = End {
            count: self.next_seq + 1,
            why: ending,
            // Only who writes the lines knows their bytes.
            digest: None,
        };
        self.record(Body::End(end));
        self.out.push(Command::Sync);
        self.out.push(Command::Finish);
        self.stage = Stage::Over;
    }
}
