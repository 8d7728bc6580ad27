//! What a run is judged to be, with everything it rests on. Plain data: made by [`crate::judge`], drawn by
//! [`crate::report`].
//!
//! `verdict.json` is this type. Add fields freely; change [`SCHEMA`] when a field's meaning changes or one goes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::faults::Impact;
use crate::plan::model::Control;
use crate::time::Calendar;

/// Version of the shape of `verdict.json`.
pub const SCHEMA: u32 = 1;

/// What a run is judged to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every expectation held on real data, every fault was applied and undone.
    Pass,
    /// Something that must not happen was found.
    Fail,
    /// Nothing wrong was found, but what would show it was missing.
    Inconclusive,
    /// The substrate could not run it.
    Error,
}

impl Outcome {
    /// As in plans and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Inconclusive => "inconclusive",
            Self::Error => "error",
        }
    }
}

/// A run, judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The judgement.
    pub verdict: Outcome,
    /// Whether everything the run made is gone.
    pub cleanup: Cleanup,
    /// The signal that interrupted the run.
    pub interrupted: Option<i32>,
    /// What was run.
    pub run: RunInfo,
    /// What was found, causes before effects.
    pub findings: Vec<Finding>,
    /// Findings beyond the bound of [`crate::oracles::FINDINGS_MAX`], counted only.
    pub more_findings: u64,
    /// What an unfit host may have made, and what follows from such alone: reported, not held against the release.
    pub doubtful: Vec<Finding>,
    /// Why this cannot be a pass, beyond findings.
    pub reasons: Vec<Reason>,
    /// What led to what.
    pub chain: Vec<Link>,
    /// Every expectation and every check that runs unasked.
    pub expectations: Vec<Expectation>,
    /// Every fault on every node.
    pub faults: Vec<FaultReport>,
    /// How long things took.
    pub timings: Timings,
}

/// What was run, for people and for finding the run again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInfo {
    /// Run id.
    pub run: String,
    /// Plan name.
    pub plan: String,
    /// Release name.
    pub release: String,
    /// Seed of the schedule.
    pub seed: u64,
    /// Substrate and tier.
    pub substrate: String,
    /// Genesis in monotonic nanoseconds of the run.
    pub genesis_ns: u64,
    /// Layer length and layers per epoch.
    pub calendar: Calendar,
    /// Which of the nodes' own epochs is this run's first: above 0 where they counted before it.
    #[serde(default, skip_serializing_if = "crate::history::is_zero")]
    pub first_epoch: u64,
    /// Records judged.
    pub records: u64,
    /// Layers judged, and how many of them in which the host was unfit.
    pub layers: u64,
    /// Layers in which the host was unfit.
    pub void_layers: u64,
    /// What the run must give, when it is a control.
    pub control: Option<Control>,
}

/// Something that must not happen, and happened.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// `area/what`, never with a role in it.
    pub id: String,
    /// The node, where it is about one.
    pub node: Option<String>,
    /// The role, where it is about nodes of one.
    pub role: Option<String>,
    /// When the missed thing was due, or the event itself, in monotonic nanoseconds.
    pub due_ns: u64,
    /// When it was certain.
    pub proved_ns: u64,
    /// Since when what is missed has been missing: the last advance of what stalled, the heal after which nothing recovered,
    /// the proof of the oldest round that a full disk still keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ns: Option<u64>,
    /// Which PoET round it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<u64>,
    /// Numbers of the records it rests on, oldest first.
    pub records: Vec<u64>,
    /// One sentence. It may quote nodes: treat it as hostile.
    pub text: String,
    /// When it was over, if it ever was.
    pub recovered_ns: Option<u64>,
    /// Whether it makes the run fail; some are only worth telling.
    pub counts: bool,
    /// What else is known of it.
    pub notes: Vec<String>,
    /// Last lines of a dead node's output: hostile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tail: Vec<String>,
}

/// Why a run is not a pass although nothing wrong was found. The list is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// Something did not work before any fault began.
    SteadyStateNotReached,
    /// A fault was not shown to be there.
    FaultNotApplied,
    /// A fault was not shown to be gone.
    FaultNotGone,
    /// A fault that must hit its target did not.
    FaultNotFelt,
    /// Nobody could see whether something advanced.
    ObserverGap,
    /// The host was unfit for too much of the time, or let nodes wait for processors.
    VoidLayers,
    /// A check had less data than it needs.
    NoData,
    /// Liveness was not demanded for long enough to say anything.
    NotDemanded,
    /// The history has no end.
    HistoryUnfinished,
    /// Records are missing.
    HistoryGap,
    /// Lines cannot be read.
    HistoryDamaged,
    /// Somebody interrupted the run.
    Interrupted,
    /// Nodes were not ready before genesis.
    NotReady,
    /// The substrate failed.
    Substrate,
    /// `--timeout` ran out.
    TimedOut,
}

impl Code {
    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SteadyStateNotReached => "steady-state-not-reached",
            Self::FaultNotApplied => "fault-not-applied",
            Self::FaultNotGone => "fault-not-gone",
            Self::FaultNotFelt => "fault-not-felt",
            Self::ObserverGap => "observer-gap",
            Self::VoidLayers => "void-layers",
            Self::NoData => "no-data",
            Self::NotDemanded => "not-demanded",
            Self::HistoryUnfinished => "history-unfinished",
            Self::HistoryGap => "history-gap",
            Self::HistoryDamaged => "history-damaged",
            Self::Interrupted => "interrupted",
            Self::NotReady => "not-ready",
            Self::Substrate => "substrate",
            Self::TimedOut => "timed-out",
        }
    }

    /// Whether the run could not be carried out at all.
    pub const fn is_error(self) -> bool {
        matches!(self, Self::NotReady | Self::Substrate | Self::TimedOut)
    }
}

/// Why a run is not a pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// From the closed list.
    pub code: Code,
    /// One sentence with what to do next where there is something to do. It may quote nodes: treat it as hostile.
    pub text: String,
    /// The measurement it rests on, as `3 of 24 layers`.
    pub measurement: String,
    /// Numbers of the records it rests on.
    pub records: Vec<u64>,
}

/// One link of the explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The cause.
    pub cause: Cause,
    /// The effect: its place in [`Verdict::findings`].
    pub effect: usize,
    /// A record that shows the cause and one that shows the effect.
    pub records: [u64; 2],
    /// How the two are related, as `same-node`.
    pub relation: String,
    /// Why the one leads to the other, where that needs saying: `without a proof there is no ATX`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub how: String,
    /// One sentence. It may quote nodes: treat it as hostile.
    pub text: String,
}

/// What led to a finding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Another finding: its place in [`Verdict::findings`].
    Finding(usize),
    /// A fault on a node.
    Fault {
        /// The timeline entry.
        entry: String,
        /// The node.
        node: String,
    },
}

/// Whether everything the run made is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cleanup {
    /// It was looked for and nothing is left.
    Clean,
    /// This is left.
    Left(Vec<String>),
    /// The history does not say.
    Unknown,
}

/// How an expectation or an unasked check fared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Expectation {
    /// `advance tx of every miner within 3 layers`, or `alive`.
    pub what: String,
    /// The check's kind.
    pub kind: String,
    /// Whether it runs in every plan.
    pub always: bool,
    /// How it fared.
    pub held: Held,
    /// The bound in layers.
    pub bound_layers: Option<f64>,
    /// The worst value in layers of what is bounded.
    pub worst_layers: Option<f64>,
    /// For how many layers it was demanded.
    pub demanded_layers: Option<u64>,
    /// How many of these were void.
    pub void_layers: u64,
    /// How much it had to go on.
    pub data: Data,
    /// Its findings: places in [`Verdict::findings`].
    pub findings: Vec<usize>,
    /// Why nothing can be said, in the words of its reasons.
    pub doubts: Vec<String>,
}

impl Expectation {
    /// One that has seen nothing yet.
    pub fn new(what: impl Into<String>, kind: &str, always: bool, data: Data) -> Self {
        Self {
            what: what.into(),
            kind: kind.to_owned(),
            always,
            held: Held::Unknown,
            bound_layers: None,
            worst_layers: None,
            demanded_layers: None,
            void_layers: 0,
            data,
            findings: Vec::new(),
            doubts: Vec::new(),
        }
    }
}

/// How much a check had to go on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// What is counted.
    pub what: String,
    /// The least.
    pub least: u64,
    /// What there was.
    pub had: u64,
}

/// How an expectation fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Held {
    /// It held on enough data.
    Yes,
    /// It was violated.
    No,
    /// Nothing can be said.
    Unknown,
}

/// A fault on a node, and the evidence for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FaultReport {
    /// The timeline entry.
    pub entry: String,
    /// The kind, for people.
    pub kind: String,
    /// The node.
    pub node: String,
    /// What it does to the node's duty.
    pub impact: Impact,
    /// When it was begun.
    pub begun_ns: Option<u64>,
    /// The record that shows it best: of the probe that saw it, else of its beginning.
    pub record: Option<u64>,
    /// When its end was carried out.
    pub ended_ns: Option<u64>,
    /// Whether something takes it back, so that its absence must be shown.
    pub restores: bool,
    /// Whether taking it back was begun, by something that would outlive the run if it did not end well.
    #[serde(default)]
    pub undoing: bool,
    /// Why it could not be made or taken back.
    pub failed: Option<String>,
    /// The setting was read back.
    pub armed: Option<bool>,
    /// An independent probe saw it.
    pub applied: Option<bool>,
    /// The same probe saw it gone.
    pub gone: Option<bool>,
    /// The target was hit.
    pub felt: Option<bool>,
    /// What the last probe of *applied* measured.
    pub detail: BTreeMap<String, serde_json::Value>,
}

/// How long things took, in layers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// From a timeline entry's beginning to the first finding it led to was proved.
    pub detected_after: BTreeMap<String, f64>,
    /// From the last heal to the first advance after it.
    pub fresh_after: Vec<Fresh>,
}

/// A signal's first advance after the last heal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fresh {
    /// The signal.
    pub signal: String,
    /// Whose: a node, or `any miner`.
    pub of: String,
    /// Layers after the heal; `None` is never.
    pub layers: Option<f64>,
}

/// Exit codes, from what counts most to what counts least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitCode {
    /// Ended by SIGINT or SIGHUP: 130.
    Interrupted,
    /// Ended by SIGTERM: 143.
    Terminated,
    /// Something is left, or what a run recorded cannot be read: 5.
    Left,
    /// A violation, or a control that differs: 1.
    Fail,
    /// The substrate could not run it: 4.
    Substrate,
    /// Not enough to judge by: 3.
    Inconclusive,
    /// Everything as it must be: 0.
    Pass,
}

impl ExitCode {
    /// The number for the operating system.
    pub const fn code(self) -> u8 {
        match self {
            Self::Interrupted => 130,
            Self::Terminated => 143,
            Self::Left => 5,
            Self::Fail => 1,
            Self::Substrate => 4,
            Self::Inconclusive => 3,
            Self::Pass => 0,
        }
    }
}

/// The exit code of several runs: the one that counts most. No run at all shows nothing, so it is inconclusive.
pub fn exit_code(codes: &[ExitCode]) -> ExitCode {
    codes
        .iter()
        .copied()
        .min()
        .unwrap_or(ExitCode::Inconclusive)
}

impl Verdict {
    /// The exit code of this run by itself.
    pub fn exit_code(&self) -> ExitCode {
        self.disturbed().unwrap_or(match self.verdict {
            Outcome::Pass => ExitCode::Pass,
            Outcome::Fail => ExitCode::Fail,
            Outcome::Inconclusive => ExitCode::Inconclusive,
            Outcome::Error => ExitCode::Substrate,
        })
    }

    /// What counts more than any verdict: an interruption, or things left behind.
    pub fn disturbed(&self) -> Option<ExitCode> {
        match (self.interrupted, &self.cleanup) {
            // SIGTERM; anything else that interrupts was typed or the terminal going away.
            (Some(15), _) => Some(ExitCode::Terminated),
            (Some(_), _) => Some(ExitCode::Interrupted),
            (None, Cleanup::Left(_)) => Some(ExitCode::Left),
            (None, Cleanup::Clean | Cleanup::Unknown) => None,
        }
    }

    /// Protocol time of a moment of the run, for people: `epoch 2.75`.
    pub fn when(&self, t_ns: u64) -> String {
        let instant = self.run.calendar.instant(self.run.genesis_ns, t_ns);
        self.run.calendar.describe(instant)
    }
}

impl Finding {
    /// Whose finding it is: the node, else the role.
    pub fn of(&self) -> &str {
        self.node.as_deref().or(self.role.as_deref()).unwrap_or("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_code_wins() {
        use ExitCode::{Fail, Inconclusive, Interrupted, Left, Pass, Substrate, Terminated};
        let order = [
            Interrupted,
            Terminated,
            Left,
            Fail,
            Substrate,
            Inconclusive,
            Pass,
        ];
        for (place, first) in order.iter().enumerate() {
            for second in &order[place..] {
                assert_eq!(exit_code(&[*first, *second]), *first);
                assert_eq!(exit_code(&[*second, *first]), *first);
            }
        }
        assert_eq!(exit_code(&[]), Inconclusive);
        assert_eq!(
            order.map(ExitCode::code),
            [130, 143, 5, 1, 4, 3, 0],
            "the documented numbers"
        );
    }
}
