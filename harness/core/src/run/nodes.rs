//! What the machine knows of each node, and who is to blame for its death.

use std::collections::BTreeMap;

use crate::history::{Death, ExitStatus, NodeState, Panic, SignalValue};

/// SIGKILL's number on Linux.
const SIGKILL: i32 = 9;
/// SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV and SIGSYS on Linux: a process that ends by one of these did so
/// because of what it did itself, whoever asked it to stop meanwhile.
const OWN_FAULTS: [i32; 7] = [4, 5, 6, 7, 8, 11, 31];

/// What is known of a node.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeView {
    /// Which of its lives this is.
    pub(super) incarnation: u32,
    /// Where it is in its life; `None` before its first start.
    pub(super) state: Option<NodeState>,
    /// The step by which the harness is ending this life, and whether it asked or killed.
    pub(super) ending: Option<Blow>,
    /// Its readiness check has given up and said what it saw last.
    pub(super) unready: bool,
    /// The panic it reported in this life.
    pub(super) panic: Option<Panic>,
    /// Steps whose impairment ends once the node is ready again.
    pub(super) healing: Vec<u32>,
    /// Last value and the layer it was last recorded in, per signal.
    pub(super) signals: BTreeMap<String, (SignalValue, i64)>,
}

/// What the harness did to end a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blow {
    /// The step; `None` is the end of the run.
    pub(super) step: Option<u32>,
    /// Killed rather than asked.
    pub(super) killed: bool,
}

impl NodeView {
    /// Whether its process exists.
    pub(super) fn lives(&self) -> bool {
        matches!(
            self.state,
            Some(NodeState::Starting | NodeState::Ready | NodeState::Stopping)
        )
    }

    /// Who ended this life. A node that panics while it is asked to stop did so by itself, and so did one that exits
    /// between the decision to kill it and the kill.
    pub(super) fn death(&self, status: ExitStatus, forced: bool) -> Death {
        let by_harness = match (self.ending, status) {
            // Lack of memory was the kernel's doing, whatever the harness was about to do.
            (None, _) | (Some(_), ExitStatus::OutOfMemory) => false,
            (Some(_), ExitStatus::Signal(signal)) if OWN_FAULTS.contains(&signal) => false,
            (Some(_), ExitStatus::Signal(SIGKILL) | ExitStatus::Lost) => true,
            (Some(blow), _) => !blow.killed && self.panic.is_none(),
        };
        match self.ending {
            Some(blow) if by_harness => Death::Harness {
                step: blow.step,
                ignored_stop: forced,
                status,
            },
            _ => Death::Itself(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a node that is asked to stop.
    #[test]
    fn a_stop_excuses_no_fault_of_its_own() {
        let asked = NodeView {
            ending: Some(Blow {
                step: None,
                killed: false,
            }),
            ..NodeView::default()
        };
        for (signal, own) in [(6, true), (7, true), (11, true), (9, false), (15, false)] {
            let death = asked.death(ExitStatus::Signal(signal), false);
            assert_eq!(matches!(death, Death::Itself(_)), own, "signal {signal}");
        }
    }
}
