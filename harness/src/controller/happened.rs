//! What tasks of a run tell its loop.

use std::collections::BTreeMap;

use tweedledum_core::history::{ExitStatus, Grade, LayerRecord};

use crate::substrate::process::{NodePipes, NodeProcess, SpawnError};

/// One message to the loop.
#[derive(Debug)]
pub(super) enum Happened {
    /// A node's process runs.
    Started {
        /// The node.
        node: String,
        /// Which of its lives.
        incarnation: u32,
        /// Until when it may become ready, in the history's time.
        ready_by_ns: u64,
        /// Its process.
        process: NodeProcess,
        /// Its output.
        pipes: NodePipes,
    },
    /// A node's process could not be made.
    NotStarted {
        /// The node.
        node: String,
        /// Why.
        error: SpawnError,
    },
    /// A readiness check held.
    Ready {
        /// The node.
        node: String,
        /// Which of its lives.
        incarnation: u32,
    },
    /// A readiness check did not hold in time.
    NotReady {
        /// The node.
        node: String,
        /// Which of its lives.
        incarnation: u32,
        /// The last answer.
        last_seen: String,
    },
    /// A node's process ended and its output was read to the end.
    Exited {
        /// The node.
        node: String,
        /// Which of its lives.
        incarnation: u32,
        /// What the kernel says.
        status: ExitStatus,
        /// Last lines of its output.
        tail: Vec<String>,
    },
    /// A node had to be killed because it ignored its stop signal.
    Forced {
        /// The node.
        node: String,
    },
    /// A layer is over.
    LayerEnded(LayerRecord),
    /// A step's effect was made, or why not.
    Carried {
        /// The step.
        step: u32,
        /// Why not.
        result: Result<(), String>,
    },
    /// A probe looked.
    Proved {
        /// The step that began the fault.
        step: u32,
        /// Which grade.
        grade: Grade,
        /// Whether it was seen.
        held: bool,
        /// What was measured.
        detail: BTreeMap<String, serde_json::Value>,
    },
    /// A probe looked for a limit.
    Limited {
        /// The node.
        node: String,
        /// Which grade.
        grade: Grade,
        /// Whether it was seen.
        held: bool,
        /// What was measured.
        detail: BTreeMap<String, serde_json::Value>,
    },
    /// The substrate cannot go on.
    SubstrateFailed {
        /// How.
        why: String,
    },
    /// Everything is gone, except for what is listed.
    TornDown {
        /// What is left.
        left: Vec<String>,
    },
}
