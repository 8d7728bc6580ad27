//! A run as a state machine: events in, commands out, no effects.
//!
//! The controller owns processes, sockets and clocks; it turns whatever happens into an [`Event`] with a time and carries
//! out the [`Command`]s it gets back. All policy (when a step is due, who killed whom, what is recorded, when the run is
//! over) is here, so it can be tested in virtual time.

mod machine;
mod nodes;
mod staging;
mod steps;
mod teardown;

use std::collections::BTreeMap;

pub use machine::Machine;

use crate::history::{ExitStatus, Grade, LayerRecord, Record, SignalValue};
use crate::plan::Plan;
use crate::schedule::Step;
use crate::time::Calendar;

/// How long undoing may take at the end of a run before teardown goes on without it, in nanoseconds; an undo of the
/// process substrate takes well under a millisecond, one over a container engine's API up to a second under load.
pub const HEAL_BOUND_NS: u64 = 5_000_000_000;

/// How long teardown may take beyond the grace of the slowest node before the run ends without it, in nanoseconds: above
/// the sum of what a container engine is given for killing and removing.
pub const TEARDOWN_BOUND_NS: u64 = 120_000_000_000;

/// How long a substrate takes for what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// For starting one node more, in nanoseconds.
    pub start_each_ns: u64,
    /// How often a signal is polled in a layer: often enough that a change is seen within its layer, seldom enough that
    /// looking leaves the processors to the nodes.
    pub polls_per_layer: u32,
}

impl Pace {
    /// Processes: twice what 100 nodes were measured to take on two busy cores.
    pub const PROCESS: Self = Self {
        start_each_ns: 30_000_000,
        polls_per_layer: 4,
    };

    /// Containers: each is made, gets its files and is started through the engine's API, several at once. Every poll is
    /// a wake-up of an agent of its own and passes the engine, so that there are fewer of them.
    pub const DOCKER: Self = Self {
        start_each_ns: 400_000_000,
        polls_per_layer: 2,
    };

    /// How long it may take to start `nodes` nodes, in nanoseconds.
    pub const fn start_all_ns(self, nodes: usize) -> u64 {
        (nodes as u64).saturating_mul(self.start_each_ns)
    }
}

/// How long a plan's nodes may take to become ready: all are started, and then the slowest role has what it declares as
/// `ready: { within: ... }`. Genesis is fixed before the first spawn, so this cannot be cut short when all are ready.
pub fn start_budget_ns(plan: &Plan, pace: Pace) -> u64 {
    let slowest = plan.roles.values().map(|role| role.ready_within_ns).max();
    pace.start_all_ns(plan.nodes.len())
        .saturating_add(slowest.unwrap_or_default())
}

/// How long before genesis all nodes must be ready: an epoch, in which they register for the first round, never under 1 s.
pub fn lead_ns(calendar: Calendar) -> u64 {
    calendar.ns_of(calendar.epoch()).max(1_000_000_000)
}

/// How long after the first spawn genesis is. It is fixed before that spawn, since nodes get it as a setting.
pub fn genesis_after_ns(plan: &Plan, pace: Pace) -> u64 {
    start_budget_ns(plan, pace).saturating_add(lead_ns(plan.calendar))
}

/// Something that happened, in the order in which the controller's one loop saw it.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The run begins: spawn.
    Begun,
    /// The time asked for by [`Command::WakeAt`] has come.
    Tick,
    /// A node's process exists.
    Spawned {
        /// The node.
        node: String,
        /// Its process id, for people.
        pid: u32,
    },
    /// A node's process could not be made.
    SpawnFailed {
        /// The node.
        node: String,
        /// What, where, why, and what to do.
        why: String,
    },
    /// A node's readiness check held.
    Ready {
        /// The node.
        node: String,
        /// Which of its lives.
        incarnation: u32,
    },
    /// A node's readiness check did not hold in time.
    NotReady {
        /// The node.
        node: String,
        /// Which of its lives.
        incarnation: u32,
        /// The last answer.
        last_seen: String,
    },
    /// A node's process ended.
    Exited {
        /// The node.
        node: String,
        /// Which of its lives.
        incarnation: u32,
        /// What the kernel says.
        status: ExitStatus,
        /// It ignored its stop signal and had to be killed.
        forced: bool,
        /// Last lines of its output.
        tail: Vec<String>,
    },
    /// A node logged an event.
    Logged {
        /// The node.
        node: String,
        /// Whether it did so in a life before its first of this run.
        former: bool,
        /// Its name.
        event: String,
        /// Its fields.
        fields: BTreeMap<String, serde_json::Value>,
    },
    /// A signal was read.
    Sampled {
        /// The node.
        node: String,
        /// The signal.
        signal: String,
        /// Its value.
        value: SignalValue,
    },
    /// A source could not be read.
    Unreadable {
        /// The node.
        node: String,
        /// Which source.
        source: String,
        /// The signals that are missing because of it.
        signals: Vec<String>,
        /// Why.
        why: String,
        /// Whether it answered at all, with something that could not be read.
        answered: bool,
        /// Whether the node is not answerable for it.
        excused: bool,
    },
    /// A UDP ping was answered, or not within a layer.
    Pinged {
        /// The node.
        node: String,
        /// Round trip in microseconds.
        rtt_us: Option<u64>,
    },
    /// A layer is over.
    LayerEnded(LayerRecord),
    /// A step's effect was made, or why not.
    Carried {
        /// The step.
        step: u32,
        /// Why it could not be made.
        result: Result<(), String>,
    },
    /// A probe looked for a fault's effect.
    Proved {
        /// The step that began the fault.
        step: u32,
        /// Which grade it is about.
        grade: Grade,
        /// Whether it was seen (for [`Grade::Gone`]: that nothing of it is left).
        held: bool,
        /// What was measured.
        detail: BTreeMap<String, serde_json::Value>,
    },
    /// A probe looked for a limit that a node has from its start on.
    Limited {
        /// The node.
        node: String,
        /// Which grade it is about.
        grade: Grade,
        /// Whether it was seen.
        held: bool,
        /// What was measured.
        detail: BTreeMap<String, serde_json::Value>,
    },
    /// Somebody asked the run to stop.
    Interrupted {
        /// The signal's number.
        signal: i32,
    },
    /// The substrate cannot go on.
    SubstrateFailed {
        /// How.
        why: String,
    },
    /// A task of the harness that carries the run out or looks at it died.
    TaskFailed {
        /// Which, and of what.
        why: String,
    },
    /// The task that tears down died: no [`Event::TornDown`] will come.
    TeardownFailed {
        /// Of what.
        why: String,
    },
    /// `--timeout` ran out.
    TimedOut,
    /// All processes are gone, except for what is listed.
    TornDown {
        /// What is left.
        left: Vec<String>,
    },
}

/// Something the controller must do.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Append this record.
    Record(Record),
    /// Put everything appended so far on disk before going on.
    Sync,
    /// Start a node and watch for its readiness until `ready_by_ns`.
    Spawn {
        /// The node.
        node: String,
        /// Which of its lives.
        incarnation: u32,
        /// Bound of the readiness check, monotonic.
        ready_by_ns: u64,
    },
    /// Get ready for a step whose intent is on disk: what takes time is done before it is due.
    Prepare(Step),
    /// Carry a step out, then report it carried and proved.
    Carry(Step),
    /// Let go of what was prepared for this step: it will not be carried out.
    Drop(u32),
    /// Wake the machine at this monotonic time at the latest; replaces any earlier wish.
    WakeAt(u64),
    /// Stop every node in the orderly way and tear down; then report it.
    TearDown,
    /// The run is over; nothing follows.
    Finish,
}

/// Somebody who reads records as they are made and can tell when nothing more is to be learnt.
pub trait Watch: std::fmt::Debug {
    /// A record was made.
    fn observe(&mut self, record: &Record);

    /// Whether the run may end now: all it waited for has held, or what a control demands has been found.
    fn may_end(&self, t_ns: u64) -> bool;
}

#[cfg(test)]
mod tests;
