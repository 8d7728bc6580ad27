//! What a plan means, with every name resolved, every unit converted and every rule already checked.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Selector, SourceSpan};
use crate::params::Params;
use crate::substrate::SubstrateKind;
use crate::time::{Calendar, ProtocolTime, Span};

/// One plan: a network, a timeline of faults, expectations and controls.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its name, also of its run directories: letters, digits, `-`, `.`, `_`.
    pub name: String,
    /// SHA-256 of the text it was read from, in hex.
    pub digest: String,
    /// The seed of everything random in its schedule, unless the command line names another.
    pub seed: u64,
    /// Where its nodes live, unless the command line names another place.
    pub substrate: SubstrateKind,
    /// Layer length and layers per epoch.
    pub calendar: Calendar,
    /// Every node, role by role in the order of the plan, then by index.
    pub nodes: Vec<Node>,
    /// Where in the text their limits are.
    pub limits_text: Option<SourceSpan>,
    /// The roles of those nodes, by name.
    pub roles: BTreeMap<String, Role>,
    /// Every release the plan may name: bundled ones and its own.
    pub releases: BTreeMap<String, Release>,
    /// Liveness is demanded while all of these hold.
    pub tolerates: Vec<Tolerance>,
    /// Releases that must pass, or must fail for stated reasons, in the plan's order.
    pub controls: Vec<Control>,
    /// Faults and heals in the order of the text.
    pub timeline: Vec<Entry>,
    /// What must hold, in the order of the text.
    pub expect: Vec<Expectation>,
    /// The end of the run, where the plan fixes it.
    pub until: Option<ProtocolTime>,
}

/// A named node of the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `ROLE-i`.
    pub name: String,
    /// The role it was declared under.
    pub role: String,
    /// Its settings as `--key value` would carry them, already in the role's own spelling.
    pub settings: BTreeMap<String, String>,
    /// What a round takes on disk, in bytes, as its role says.
    #[serde(default)]
    pub round_bytes: Option<u64>,
    /// Its disk limit in bytes, held from its start to the end of the run.
    #[serde(default)]
    pub disk: Option<u64>,
}

/// Room on a disk as a plan spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capacity {
    /// Bytes.
    Bytes(u64),
    /// Millionths of what the role says a round takes.
    MicroRounds(u64),
}

impl Capacity {
    /// In bytes; `None` when it is in rounds and the role does not say what a round takes.
    pub fn bytes(self, round_bytes: Option<u64>) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::MicroRounds(micro) => {
                let bytes = u128::from(round_bytes?) * u128::from(micro) / 1_000_000;
                Some(u64::try_from(bytes).unwrap_or(u64::MAX))
            }
        }
    }
}

/// How one kind of node is started, when it is ready, how it stops, which signals it exposes.
#[derive(Debug, Clone, PartialEq)]
pub struct Role {
    /// Its name in the plan.
    pub name: String,
    /// Program and arguments, placeholders unexpanded. `{settings}` stands for all `--key value` pairs. Empty only with an
    /// image, which then starts by itself.
    pub command: Vec<String>,
    /// What its nodes are started from in containers, instead of an image with the harness's executable.
    pub image: Option<Image>,
    /// Declared settings: name to kind of value.
    pub settings: BTreeMap<String, SettingKind>,
    /// Protocols the node speaks; faults require them, the network file passes them on.
    pub speaks: BTreeSet<String>,
    /// Named ports of the node's own address.
    pub ports: BTreeMap<String, Port>,
    /// When it is ready.
    pub ready: Ready,
    /// How long after its start it must be, in wall nanoseconds; the start of a run allows for the slowest role.
    pub ready_within_ns: u64,
    /// How it is asked to stop.
    pub stop: Stop,
    /// Exit codes of an orderly stop.
    pub expect_exit: BTreeSet<i32>,
    /// What it exposes that must keep advancing.
    pub signals: BTreeMap<String, Signal>,
    /// Events of its log that are recorded: by these names oracles know what it reports.
    pub events: BTreeSet<String>,
    /// Components that its `panic` events may name; `None` for any.
    pub panics: Option<BTreeSet<String>>,
    /// The only environment it gets.
    pub env: BTreeMap<String, String>,
    /// What one round takes on its disk, in bytes: what `rounds` means in limits and disk faults.
    pub round_bytes: Option<u64>,
}

/// An image of the user's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its name, as `docker run` takes it.
    pub name: String,
    /// Whether it is fetched.
    pub pull: Pull,
}

/// Whether an engine fetches an image from its registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pull {
    /// It must be there.
    Never,
    /// Where the engine lacks it.
    Missing,
    /// Whether it is there or not.
    Always,
}

/// The kind of value a setting takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SettingKind {
    /// A whole number.
    Count,
    /// A wall duration (`2s`), passed on in the same spelling.
    Duration,
    /// A size (`64KiB`), passed on in bytes.
    Size,
    /// Any text.
    Text,
    /// True or false.
    Flag,
}

/// A named port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The number, the same on every node, since each has an address of its own.
    pub number: u16,
    /// Which transports listen there.
    pub transport: Transport,
}

/// Transports of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// TCP only.
    Tcp,
    /// UDP only.
    Udp,
    /// Both on the same number.
    #[serde(rename = "udp+tcp")]
    UdpTcp,
}

/// When a node counts as ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ready {
    /// An HTTP GET gives this status.
    Http {
        /// With placeholders.
        url: String,
        /// Usually 200.
        status: u16,
    },
    /// A TCP connection is accepted at this address (with placeholders).
    Tcp(String),
    /// A line of its output matches this regular expression.
    Log(String),
    /// This command exits 0.
    Exec(Vec<String>),
}

/// How a node is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// The polite signal.
    pub signal: StopSignal,
    /// Wall nanoseconds until SIGKILL.
    pub grace_ns: u64,
}

/// Signals that ask a process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum StopSignal {
    /// SIGTERM.
    Term,
    /// SIGINT.
    Int,
}

/// Something monotonic that must keep advancing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    /// Where its value comes from.
    pub source: Source,
    /// How often it advances in a healthy network; no bound may be under 1.25 of it.
    pub period: Span,
    /// Roles whose single nodes may have long healthy gaps say so here: the signal may only be asked of `any ROLE`.
    pub any_only: bool,
}

/// Where a signal's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A JSON pointer into the answer of a URL (with placeholders).
    Json {
        /// With placeholders.
        url: String,
        /// RFC 6901.
        pointer: String,
    },
    /// A Prometheus sample at a URL; summed over labels.
    Metric {
        /// With placeholders.
        url: String,
        /// Bare metric name.
        name: String,
    },
    /// An event of the node's own log: a JSON line with this `event`, and a JSON pointer to the value.
    Log {
        /// The value of the line's `event` key.
        event: String,
        /// RFC 6901.
        value: String,
    },
}

/// A named version of the software under test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Its name in the plan.
    pub name: String,
    /// The bundled release it is or builds on, for nodes that know such names.
    pub base: Option<String>,
    /// Fixes switched off.
    pub without: BTreeSet<String>,
    /// The executable `{release.bin}` stands for; `None` is the running executable.
    pub bin: Option<String>,
}

/// A condition on impaired nodes; liveness is demanded while all of them hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tolerance {
    /// How many nodes must be unimpaired (and related as below).
    pub amount: Amount,
    /// Of which nodes.
    pub of: Selector,
    /// How they must be connected; without link faults every unimpaired node reaches every other.
    pub relation: Relation,
}

/// A number of nodes out of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Amount {
    /// At least this many.
    AtLeast(u64),
    /// Strictly more than this fraction.
    MoreThan {
        /// Upper half of the fraction.
        numerator: u64,
        /// Lower half, at least 1.
        denominator: u64,
    },
}

/// How the counted nodes must be connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// Merely unimpaired.
    Unimpaired,
    /// Reachable from every (or any) node of this selector that is unimpaired.
    ReachableFrom(Selector),
    /// All of them mutually.
    Mutually,
}

/// A release that must pass, or must fail for stated reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// The release.
    pub release: String,
    /// What its verdict must be: pass or fail.
    pub must_pass: bool,
    /// All of these must be found (must-fail only).
    pub findings: Vec<FindingPattern>,
    /// These may be found as well.
    pub also_allowed: Vec<FindingPattern>,
}

/// A finding that a control names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FindingPattern {
    /// `area/what`.
    pub id: String,
    /// Only of this role.
    pub role: Option<String>,
    /// Only when the finding's sentence contains this.
    pub says: Option<String>,
}

/// One line of the timeline.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name; unnamed ones are called after their kind and place, `kill#2`.
    pub name: String,
    /// When it begins.
    pub at: ProtocolTime,
    /// How long it lasts; without it a fault lasts until its heal or the end of the run.
    pub lasts: Option<Span>,
    /// Only when the target itself was hit does the run count.
    pub must_be_felt: bool,
    /// What it does.
    pub what: Deed,
    /// Where in the text.
    pub at_text: SourceSpan,
}

/// What a timeline entry does.
#[derive(Debug, Clone)]
pub enum Deed {
    /// A fault of this kind from [`crate::faults::ALL`] with its parameters.
    Fault(&'static str, Params),
    /// Undoes the named entries; `None` is all of them.
    Heal(Option<Vec<String>>),
}

/// Something that must hold: a kind from [`crate::oracles::ALL`] with its parameters.
#[derive(Debug, Clone)]
pub struct Expectation {
    /// The kind, as `advance`.
    pub kind: &'static str,
    /// Its parameters.
    pub params: Params,
    /// Where in the text.
    pub at_text: SourceSpan,
}

impl Plan {
    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }
}
