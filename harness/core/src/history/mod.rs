//! The history of a run: an append-only list of records, the only input of oracles and reports.
//!
//! On disk it is JSON lines, one record a line, first a [`Header`], last an [`End`]. Readers of the same major version
//! skip kinds they do not know. A history without `end`, with a gap in `seq`, or of other bytes than its end tells of, never
//! gives a pass.

pub mod read;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::faults::Impact;
use crate::params::Params;
use crate::plan::model::{Control, FindingPattern, Tolerance};
use crate::schedule::{Action, Schedule};
use crate::time::{Calendar, ProtocolTime, Span};

/// Version of the format written now. The major part changes only when old readers would misread.
pub const FORMAT: &str = "1.3";
/// The signal's number on Linux.
const SIGKILL: i32 = 9;

/// The kind of the line that stands where a history reached its bound. It is no record: what it says, the missing end says.
pub const FULL: &str = "full";

/// The kind of the line behind the end of a history that was not found as it was written. It is no record: nothing of
/// such a history can be believed.
pub const REWRITTEN: &str = "rewritten";

/// The source of a [`Gap`] in what a node printed. No signal and no URL is spelled like this.
pub const LOG: &str = "log/stdout";

/// The event by which a node that declares it tells that it could not print others, `count` of them.
pub const DROPPED: &str = "events-dropped";

/// One line of a history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its number, from 0, without gaps.
    pub seq: u64,
    /// Monotonic nanoseconds since the run began.
    pub t_ns: u64,
    /// What happened.
    #[serde(flatten)]
    pub body: Body,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Body {
    /// What was run: always record 0.
    Header(Box<Header>),
    /// A node changed its state.
    Node(NodeChange),
    /// A node's process ended.
    Exit(Exit),
    /// A signal's value: on change, and once per layer as a heartbeat.
    Sample(Sample),
    /// A signal's source could not be read.
    Gap(Gap),
    /// A UDP ping by the harness.
    Ping(Ping),
    /// An event a node logged that somebody declared an interest in.
    Event(Event),
    /// A step of the schedule got on.
    Step(StepChange),
    /// A grade of evidence for a fault on a node.
    Evidence(Evidence),
    /// A grade of evidence for a limit that a node has from its start on.
    Limit(LimitEvidence),
    /// A node became or ceased to be impaired or stressed.
    Impact(ImpactChange),
    /// A layer ended; how fit the host was during it.
    Layer(LayerRecord),
    /// Somebody interrupted the run.
    Interrupt(Interrupt),
    /// What was found while tearing down.
    TornDown(TornDown),
    /// Nothing follows.
    End(End),
}

/// What was run, with everything that oracles need to judge it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`] of this history.
    pub format: String,
    /// Run id: the nonce in hex.
    pub run: String,
    /// The kernel's boot id.
    pub boot: String,
    /// Wall clock at the start, in nanoseconds since 1970; for people only.
    pub started_unix_ns: u64,
    /// Plan name.
    pub plan: String,
    /// SHA-256 of the plan's text.
    pub plan_digest: String,
    /// The release that was run.
    pub release: String,
    /// SHA-256 of every executable that nodes were started from, by path as the plan names it, and ids of images by their
    /// names, or by node where they were there before the run.
    pub executables: BTreeMap<String, String>,
    /// The substrate and its tier, as `process/shared`.
    pub substrate: String,
    /// Genesis in this history's `t_ns`.
    pub genesis_ns: u64,
    /// Layer length and layers per epoch.
    pub calendar: Calendar,
    /// Every node.
    pub nodes: Vec<NodeInfo>,
    /// What is watched of each role.
    pub roles: BTreeMap<String, RoleInfo>,
    /// Conditions under which liveness is demanded.
    pub tolerates: Vec<Tolerance>,
    /// Expectations: kind and parameters.
    pub expect: Vec<ExpectInfo>,
    /// Faults by entry name: for reports, and for what must be felt.
    pub faults: BTreeMap<String, FaultInfo>,
    /// Heals by entry name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub heals: BTreeMap<String, HealInfo>,
    /// The resolved schedule.
    pub schedule: Schedule,
    /// What this run must give, when it is a control.
    pub control: Option<Control>,
    /// Whether the plan itself says when the run ends (`until`): then it does not end as soon as all it waits for has held.
    #[serde(default)]
    pub fixed_end: bool,
    /// Whether the nodes were there before the run and stay: then nobody stops them at its end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nodes_stay: bool,
    /// Which of the nodes' own epochs is this run's first: above 0 where they counted before it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub first_epoch: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A node of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: String,
    /// Its address, for people.
    pub address: String,
    /// Its disk limit in bytes, held from its start on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<u64>,
}

/// What is watched of a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleInfo {
    /// Signals and their periods.
    pub signals: BTreeMap<String, Span>,
    /// Exit codes of an orderly stop.
    pub expect_exit: BTreeSet<i32>,
    /// Whether the harness pings it by UDP.
    pub pinged: bool,
    /// Signals that the node pushes through its log: while it lives, silence means that nothing happened. The others are
    /// polled, and silence means that nobody looked.
    #[serde(default)]
    pub pushed: BTreeSet<String>,
    /// Events that the nodes report and that are recorded. An oracle on events looks only at roles that report them.
    #[serde(default)]
    pub events: BTreeSet<String>,
}

/// An expectation of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectInfo {
    /// The oracle's kind.
    pub kind: String,
    /// Its parameters.
    pub params: Params,
}

/// A fault of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultInfo {
    /// Its kind, for people: oracles must not look at it.
    pub kind: String,
    /// Whether it counts only when its targets were hit.
    pub must_be_felt: bool,
}

/// A heal of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealInfo {
    /// When it is due.
    pub at: ProtocolTime,
    /// The entries that it takes back; `None` is all that began before it.
    pub of: Option<Vec<String>>,
}

/// States of a node's life. `Dead` is entered by an [`Exit`] record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// Its process exists.
    Starting,
    /// Its role's readiness check held.
    Ready,
    /// It was asked to stop.
    Stopping,
    /// Its process is gone.
    Dead,
}

/// A node changed its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeChange {
    /// The node.
    pub node: String,
    /// How often it has been started before.
    pub incarnation: u32,
    /// The new state.
    pub state: NodeState,
    /// Process id, for people.
    pub pid: Option<u32>,
    /// What more is known, as the last answer of a readiness check that never held.
    pub detail: Option<String>,
}

/// A node's process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The node.
    pub node: String,
    /// Which of its lives.
    pub incarnation: u32,
    /// How it ended.
    pub death: Death,
    /// The panic it reported, if it did.
    pub panic: Option<Panic>,
    /// Last lines of its output, oldest first.
    pub tail: Vec<String>,
}

/// How a node's process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Death {
    /// The harness killed or stopped it by this step; `None` is the end of the run.
    Harness {
        /// The step.
        step: Option<u32>,
        /// It had to be killed, since it ignored its stop signal for the whole grace.
        ignored_stop: bool,
        /// How the process ended.
        status: ExitStatus,
    },
    /// By itself.
    Itself(ExitStatus),
}

/// What the kernel says of an ended process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// The kernel killed it for lack of memory within its own limit, where that can be told from a kill.
    OutOfMemory,
    /// The kernel killed it for lack of memory that was not its own limit's: the host had none left, or a group above.
    HostOutOfMemory,
    /// The kernel killed it because what the harness had put it into ended, as a namespace whose first process did.
    HostGone,
    /// Somebody who is neither the harness nor the node ended it, and was seen doing so.
    Foreign,
    /// It is gone, and nobody learnt how: somebody else reaped it.
    Lost,
}

impl ExitStatus {
    /// Whether SIGKILL ended it, whoever sent that.
    pub const fn is_kill(self) -> bool {
        matches!(
            self,
            Self::Signal(SIGKILL) | Self::OutOfMemory | Self::HostOutOfMemory | Self::HostGone
        )
    }

    /// Whether the host did it or somebody on it, of which no node is to blame.
    pub const fn is_hosts(self) -> bool {
        matches!(self, Self::HostOutOfMemory | Self::HostGone | Self::Foreign)
    }
}

/// A panic as a node reported it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Panic {
    /// The component it happened in, for bundled nodes.
    pub component: Option<String>,
    /// Its message.
    pub message: String,
    /// `file:line`.
    pub place: Option<String>,
}

/// A signal's value on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The node.
    pub node: String,
    /// The signal.
    pub signal: String,
    /// Its value.
    pub value: SignalValue,
}

/// A signal's value: a number that grows, or a text that changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SignalValue {
    /// Heights and counts.
    Number(u64),
    /// Roots.
    Text(String),
}

/// A signal's source could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The node.
    pub node: String,
    /// Which source: a URL, a signal, or [`LOG`] for lines of the node's log that were lost. What these were nobody knows, so
    /// any event and any pushed signal that its role declares may be missing.
    pub source: String,
    /// The signals that are missing because of it; older histories do not say, and for [`LOG`] the header does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signals: Vec<String>,
    /// Why.
    pub why: String,
    /// Whether the source answered at all, with something that could not be read. A node that gives no answer may hang;
    /// one that answers garbage does not.
    #[serde(default)]
    pub answered: bool,
    /// Whether the node is not answerable for it: who asked was late, or the node was given no processor.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub excused: bool,
}

/// A UDP ping by the harness, once a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// The node.
    pub node: String,
    /// Round trip in microseconds; `None` is no answer within a layer.
    pub rtt_us: Option<u64>,
}

/// An event that a node logged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The node.
    pub node: String,
    /// The event's name.
    pub event: String,
    /// Its other fields.
    pub fields: BTreeMap<String, serde_json::Value>,
}

/// A step of the schedule got on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepChange {
    /// The step.
    pub step: u32,
    /// Its entry.
    pub entry: String,
    /// What is done.
    pub action: Action,
    /// How far it got.
    pub phase: Phase,
}

/// How far a step got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Its intent is on disk.
    Staged,
    /// It was begun.
    Begun,
    /// The effect was made.
    Done,
    /// It could not be made, and why.
    Failed(String),
}

/// Grades of evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grade {
    /// The setting was read back.
    Armed,
    /// A probe that does not depend on how the target behaves sees it.
    Applied,
    /// The same probe sees it gone.
    Gone,
    /// The target itself was hit.
    Felt,
}

/// A grade of evidence for a fault on a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The timeline entry.
    pub entry: String,
    /// The step that began the fault on this node.
    pub step: u32,
    /// The node.
    pub node: String,
    /// Which grade.
    pub grade: Grade,
    /// Whether the probe saw it; a grade may be recorded again, the last one counts.
    pub held: bool,
    /// What was measured.
    pub detail: BTreeMap<String, serde_json::Value>,
}

/// A grade of evidence for a limit that a node has from its start on: the disk limit of its [`NodeInfo`]. No fault and no
/// heal changes it, so it belongs to the steady state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LimitEvidence {
    /// The node.
    pub node: String,
    /// Which grade.
    pub grade: Grade,
    /// Whether the probe saw it; a grade may be recorded again, the last one counts.
    pub held: bool,
    /// What was measured.
    pub detail: BTreeMap<String, serde_json::Value>,
}

/// A node became or ceased to be impaired or stressed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImpactChange {
    /// The timeline entry.
    pub entry: String,
    /// The node.
    pub node: String,
    /// Impaired or stressed.
    pub impact: Impact,
    /// From now on, or no longer. An impaired node ceases to be so when it is ready again.
    pub on: bool,
}

/// A layer ended; how fit the host was during it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The layer.
    pub layer: i64,
    /// How much later than due the controller woke, in microseconds.
    pub late_us: u64,
    /// CPU time stolen by the hypervisor during it, in microseconds per second of all CPUs.
    pub steal_ppm: u64,
    /// Share of time in which something runnable had to wait for a CPU, in parts per million, where the kernel tells.
    pub cpu_pressure_ppm: Option<u64>,
    /// How far the wall clock, by which nodes tick, moved against the monotonic one during it, in microseconds; older
    /// histories do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_step_us: Option<i64>,
    /// Whether the run was torn down for most of it: then nothing is demanded of nodes, which nobody asks any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unwatched: bool,
}

/// Somebody interrupted the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupt {
    /// The signal's number.
    pub signal: i32,
}

/// What was found while tearing down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TornDown {
    /// What could not be removed; empty is clean.
    pub left: Vec<String>,
}

/// Nothing follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// How many records there are, this one included.
    pub count: u64,
    /// Why the run ended.
    pub why: Ending,
    /// SHA-256 of every byte before this line, in hex, as the writer wrote them; older histories do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// Why a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// At its scheduled end.
    Scheduled,
    /// Everything it waited for held or was found.
    Early,
    /// Nodes exited or were not ready before genesis: which and what was last seen.
    NotReady(Vec<String>),
    /// By a signal of this number.
    Interrupted(i32),
    /// The substrate failed, and how.
    Substrate(String),
    /// `--timeout` ran out.
    TimedOut,
}

/// The findings a control allows at all: what it demands and what it tolerates.
impl Control {
    /// All patterns of this control.
    pub fn patterns(&self) -> impl Iterator<Item = &FindingPattern> {
        self.findings.iter().chain(&self.also_allowed)
    }
}
