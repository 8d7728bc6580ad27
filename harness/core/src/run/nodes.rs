//! What the machine knows of each node, and who is to blame for its death.

use std::collections::BTreeMap;

use crate::history::{Death, ExitStatus, NodeState, Panic, SignalValue};
use crate::schedule::Step;

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
    /// The start that came while it was still being stopped, and is carried out when it is dead.
    pub(super) awaits: Option<Step>,
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
            (None, _) => false,
            // What is counted may be another process of the node, and long ago: who was killed by the harness died of that.
            // Who was only asked to stop and ran out of memory did not.
            (
                Some(blow),
                ExitStatus::OutOfMemory
                | ExitStatus::HostOutOfMemory
                | ExitStatus::HostGone
                | ExitStatus::Foreign,
            ) => blow.killed || forced,
            (Some(_), ExitStatus::Signal(signal)) if OWN_FAULTS.contains(&signal) => false,
            (Some(_), status) if status.is_kill() || status == ExitStatus::Lost => true,
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

    /// Whose memory ran out says nothing of who killed it in the end.
    #[test]
    fn a_kill_of_the_harness_is_never_the_kernels() {
        let lack = [
            ExitStatus::OutOfMemory,
            ExitStatus::HostOutOfMemory,
            ExitStatus::HostGone,
            ExitStatus::Foreign,
        ];
        for (ending, forced, own) in [
            (None, false, true),
            (Some((Some(0), true)), false, false),
            (Some((Some(0), false)), true, false),
            (Some((Some(0), false)), false, true),
            (Some((None, false)), false, true),
            (Some((None, false)), true, false),
        ] {
            let view = NodeView {
                ending: ending.map(|(step, killed)| Blow { step, killed }),
                ..NodeView::default()
            };
            for status in lack {
                let death = view.death(status, forced);
                assert_eq!(
                    matches!(death, Death::Itself(_)),
                    own,
                    "{ending:?} {forced} {status:?}"
                );
            }
        }
    }

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
