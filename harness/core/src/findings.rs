//! Every kind of finding, with what it means. Oracles take their ids from here, plans are checked against it, and
//! `tweedledum list findings` prints it. To add one: a constant, and its place in [`ALL`].

/// A kind of finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FindingKind {
    /// The id as findings have it; where something of the run's own follows the `/`, only up to there.
    pub id: &'static str,
    /// What follows the `/`, where that is not fixed.
    pub open: Option<Open>,
    /// One line: what was seen.
    pub meaning: &'static str,
    /// Whether what was seen is that something did not come in time, so that a host that let nodes wait may have made it.
    pub late: Option<Late>,
}

/// The time in which the host may have made that something was late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    /// Until it was proved: what comes later changes nothing any more.
    Once,
    /// Until it was over: while it goes on on a fit host, it is proved anew.
    WhileItLasts,
}

/// What completes an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// A signal of a role.
    Signal,
    /// What a node's `panic` event names as its component.
    Component,
}

impl FindingKind {
    const fn new(id: &'static str, meaning: &'static str) -> Self {
        Self {
            id,
            open: None,
            meaning,
            late: None,
        }
    }

    const fn open(id: &'static str, open: Open, meaning: &'static str) -> Self {
        Self {
            id,
            open: Some(open),
            meaning,
            late: None,
        }
    }

    const fn late(self, late: Late) -> Self {
        Self {
            late: Some(late),
            ..self
        }
    }

    /// The id of a finding of this kind about `what`.
    pub fn of(&self, what: &str) -> String {
        format!("{}{what}", self.id)
    }

    /// What an id of this kind is about, where its kind leaves that open.
    pub fn about<'i>(&self, id: &'i str) -> Option<&'i str> {
        self.open.and_then(|_| id.strip_prefix(self.id))
    }

    /// As people write it: `stalled/SIGNAL`.
    pub fn written(&self) -> String {
        match self.open {
            None => self.id.to_owned(),
            Some(Open::Signal) => self.of("SIGNAL"),
            Some(Open::Component) => self.of("COMPONENT"),
        }
    }
}

/// A panic of a component that it names.
pub const CRASH_COMPONENT: FindingKind = FindingKind::open(
    "crash/",
    Open::Component,
    "a node panicked in this component, as its `panic` event names it",
);
/// A panic without a component.
pub const CRASH_PANIC: FindingKind = FindingKind::new(
    "crash/panic",
    "a node panicked, and its `panic` event names no component",
);
/// An exit.
pub const CRASH_EXIT: FindingKind = FindingKind::new(
    "crash/exit",
    "a node exited without being asked to stop, and without a `panic` event",
);
/// A signal.
pub const CRASH_SIGNAL: FindingKind = FindingKind::new(
    "crash/signal",
    "a node was ended by a signal that the harness did not send",
);
/// Killed for memory.
pub const CRASH_MEMORY: FindingKind = FindingKind::new(
    "crash/out-of-memory",
    "the kernel killed a node for lack of memory",
);
/// A whole role.
pub const ALL_DEAD: FindingKind = FindingKind::new(
    "role/all-dead",
    "all nodes of a role, of two at least, died by themselves",
);
/// No answer over HTTP.
pub const HANG_API: FindingKind = FindingKind::new(
    "hang/api",
    "a node that lived and was not frozen gave no answer at its sources, layers in a row",
);
/// No answer over UDP.
pub const DEAF_UDP: FindingKind = FindingKind::new(
    "deaf/udp",
    "a node answered at its sources and not to UDP pings, layers in a row",
);
/// A signal that stands still.
pub const STALLED: FindingKind = FindingKind::open(
    "stalled/",
    Open::Signal,
    "`advance`: this signal did not advance within its bound while that was demanded",
)
.late(Late::WhileItLasts);
/// No fresh advance.
pub const UNRECOVERED: FindingKind = FindingKind::open(
    "unrecovered/",
    Open::Signal,
    "`recover`: this signal made no fresh advance within its bound after a heal",
)
.late(Late::WhileItLasts);
/// Two values.
pub const DISAGREE: FindingKind = FindingKind::open(
    "disagree/",
    Open::Signal,
    "`agree`: nodes reported different values of this signal",
);
/// A proof that nobody took.
pub const PROOF_UNDELIVERED: FindingKind = FindingKind::new(
    "proof/undelivered",
    "a PoET's proof did not reach every node that was to use it",
)
.late(Late::Once);
/// A full disk.
pub const DISK_FULL: FindingKind = FindingKind::new(
    "disk/full",
    "a PoET's round failed for lack of disk, by its node's own record",
)
.late(Late::Once);
/// A challenge that is gone.
pub const LOST_CHALLENGE: FindingKind = FindingKind::new(
    "lost/challenge",
    "a challenge is in no proof of its round, although all PoETs that acknowledged it made one",
);
/// A proof that does not hold.
pub const INVALID_ATX_PROOF: FindingKind = FindingKind::new(
    "invalid/atx-proof",
    "an ATX cites a proof that no PoET made",
);
/// Two ATXs.
pub const FORK_ATXS: FindingKind = FindingKind::new(
    "fork/two-atxs",
    "one identity published two ATXs for one epoch",
);
/// Two votes.
pub const FORK_VOTES: FindingKind = FindingKind::new(
    "fork/two-votes",
    "one identity gave two votes on one question",
);
/// Backwards.
pub const WENT_BACK: FindingKind = FindingKind::new(
    "safety/went-back",
    "a height went back within one life of a node",
);
/// A stop that was ignored.
pub const STOP_IGNORED: FindingKind = FindingKind::new(
    "stop/ignored",
    "a node ignored its stop signal for the whole grace and had to be killed",
);
/// A stop with another code.
pub const STOP_EXIT_CODE: FindingKind = FindingKind::new(
    "stop/exit-code",
    "a node that was asked to stop ended in another way than its role expects",
);

/// All kinds, in the order of the reference page.
pub const ALL: &[FindingKind] = &[
    CRASH_COMPONENT,
    CRASH_PANIC,
    CRASH_EXIT,
    CRASH_SIGNAL,
    CRASH_MEMORY,
    ALL_DEAD,
    HANG_API,
    DEAF_UDP,
    STALLED,
    UNRECOVERED,
    DISAGREE,
    PROOF_UNDELIVERED,
    DISK_FULL,
    LOST_CHALLENGE,
    INVALID_ATX_PROOF,
    FORK_ATXS,
    FORK_VOTES,
    WENT_BACK,
    STOP_IGNORED,
    STOP_EXIT_CODE,
];

/// The kind of an id; one that is fixed comes before one that is open.
pub fn by_id(id: &str) -> Option<&'static FindingKind> {
    let fixed = ALL.iter().find(|kind| kind.open.is_none() && kind.id == id);
    fixed.or_else(|| {
        let mut open = ALL.iter();
        open.find(|kind| kind.about(id).is_some_and(|what| !what.is_empty()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_by_what_they_are() {
        for (id, kind) in [
            ("crash/exit", Some(&CRASH_EXIT)),
            ("crash/session-table", Some(&CRASH_COMPONENT)),
            ("stalled/atx", Some(&STALLED)),
            ("stalled/", None),
            ("foo/bar", None),
            ("disk/fill", None),
        ] {
            assert_eq!(by_id(id), kind, "{id}");
        }
    }
}
