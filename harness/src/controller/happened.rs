//! What tasks of a run tell its loop.

use std::sync::Arc;

use tweedledum_core::history::{ExitStatus, Grade};
use tweedledum_core::run::Event;

use crate::substrate::{Detail, Life, NodePipes};

/// One message to the loop.
#[derive(Debug)]
pub(super) enum Happened {
    /// A life of a node began.
    Started {
        /// The node.
        node: String,
        /// Which of its lives.
        incarnation: u32,
        /// Until when it may become ready, in the history's time.
        ready_by_ns: u64,
        /// The life.
        life: Arc<dyn Life>,
        /// Its output.
        pipes: NodePipes,
    },
    /// A readiness check held.
    Ready {
        /// The node.
        node: String,
        /// Which of its lives.
        incarnation: u32,
    },
    /// A life of a node ended and its output was read to the end.
    Exited {
        /// The node.
        node: String,
        /// Which of its lives.
        incarnation: u32,
        /// What is known of the end.
        status: ExitStatus,
        /// Last lines of its output.
        tail: Vec<String>,
    },
    /// A node had to be killed because it ignored its stop signal.
    Forced {
        /// The node.
        node: String,
    },
    /// Anything that needs no bookkeeping here.
    Told(Event),
}

impl Happened {
    /// A step's effect was made, or why not.
    pub(super) fn carried(step: u32, result: Result<(), String>) -> Self {
        Self::Told(Event::Carried { step, result })
    }

    /// A probe looked for what the step `begun` began.
    pub(super) fn proved(begun: u32, grade: Grade, held: bool, detail: Detail) -> Self {
        Self::Told(Event::Proved {
            step: begun,
            grade,
            held,
            detail,
        })
    }

    /// The substrate cannot go on.
    pub(super) fn failed(why: String) -> Self {
        Self::Told(Event::SubstrateFailed { why })
    }
}
