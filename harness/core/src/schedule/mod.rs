//! Schedules: a plan and a seed become steps in protocol time. Running them makes no further choice.
//!
//! A schedule names no host, path, port or date, so the same plan and seed give the same bytes on every machine.

mod describe;
mod resolve;
mod tolerance;

pub use describe::{amount, describe, wall_ns_max};
pub use resolve::{STEADY_EPOCHS, resolve};
pub(crate) use tolerance::broken;
pub use tolerance::tolerated;

use serde::{Deserialize, Serialize};

use crate::capability::{Capability, Resource};
use crate::faults::Impact;
use crate::time::{ProtocolTime, Span};

/// One primitive effect. The set is small and closed: every substrate implements all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Action {
    /// SIGKILL.
    Kill {
        /// The node.
        node: String,
    },
    /// The role's stop signal, its grace, then SIGKILL.
    Terminate {
        /// The node.
        node: String,
    },
    /// Starts the node again at its address on its data.
    Start {
        /// The node.
        node: String,
    },
    /// Stops the node's execution without telling it.
    Freeze {
        /// The node.
        node: String,
    },
    /// Lets a frozen node go on.
    Thaw {
        /// The node.
        node: String,
    },
    /// One datagram from each of many sources to the node's session port.
    Flood {
        /// The node.
        node: String,
        /// Distinct ip:port.
        sources: u64,
        /// Spread over this time.
        over: Span,
        /// What they carry.
        datagrams: Datagrams,
        /// The last source waits until this long after the first, in wall nanoseconds.
        last_after_ns: Option<u64>,
    },
    /// Closes the flood's sources.
    EndFlood {
        /// The node.
        node: String,
    },
    /// Files of the node's data directory can take this much, whatever they take now.
    CapDisk {
        /// The node.
        node: String,
        /// In bytes; whole blocks of 4 KiB count.
        bytes: u64,
    },
    /// Takes what room there is on the node's disk, down to this.
    FillDisk {
        /// The node.
        node: String,
        /// What is left to it, in bytes.
        leave: u64,
    },
    /// Names the nodes that a PoET hands its proofs to, as its operator would.
    SetGateways {
        /// The PoET.
        node: String,
        /// The nodes, in the order of the network.
        gateways: Vec<String>,
    },
    /// Starts the rounds of a PoET that runs and waits for that, as its operator would.
    StartPoet {
        /// The PoET.
        node: String,
        /// Nodes that it hands its proofs to, in the order of the network.
        gateways: Vec<String>,
    },
    /// Of this resource the node has this much and no more.
    Limit {
        /// The node.
        node: String,
        /// What it is limited in.
        resource: Resource,
        /// How much it has, in the resource's own unit.
        amount: u64,
    },
    /// Of this resource the node has again what its machine has.
    Unlimit {
        /// The node.
        node: String,
        /// What it was limited in.
        resource: Resource,
    },
    /// Gives the node its disk back: what its limit allows, or without one all there is.
    FreeDisk {
        /// The node.
        node: String,
        /// Its limit in bytes.
        limit: Option<u64>,
    },
}

/// What a flood's datagrams carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Datagrams {
    /// Pings of this network from identities of their own.
    WellFormed,
    /// The same, sealed with another network id.
    ForeignNetid,
    /// Random bytes long enough to name a sender.
    Garbage,
}

impl Action {
    /// Whether it needs the node's disk to be held from its start on.
    pub fn holds_disk(&self) -> bool {
        self.needs() == Capability::Disk
    }

    /// What a substrate must be able to do to carry it out.
    pub fn needs(&self) -> Capability {
        match self {
            Self::Kill { .. } | Self::Terminate { .. } => Capability::Kill,
            Self::Start { .. } => Capability::Start,
            Self::Freeze { .. } | Self::Thaw { .. } => Capability::Freeze,
            Self::Flood { .. } | Self::EndFlood { .. } => Capability::Flood,
            Self::CapDisk { .. } | Self::FillDisk { .. } | Self::FreeDisk { .. } => {
                Capability::Disk
            }
            Self::SetGateways { .. } | Self::StartPoet { .. } => Capability::Operate,
            Self::Limit { resource, .. } | Self::Unlimit { resource, .. } => resource.capability(),
        }
    }

    /// Which resource of its node it limits.
    pub fn limits(&self) -> Option<Resource> {
        match self {
            Self::Limit { resource, .. } => Some(*resource),
            _ => None,
        }
    }

    /// The node it is about.
    pub fn node(&self) -> &str {
        match self {
            Self::Kill { node }
            | Self::Terminate { node }
            | Self::Start { node }
            | Self::Freeze { node }
            | Self::Thaw { node }
            | Self::Flood { node, .. }
            | Self::EndFlood { node }
            | Self::CapDisk { node, .. }
            | Self::FillDisk { node, .. }
            | Self::FreeDisk { node, .. }
            | Self::Limit { node, .. }
            | Self::Unlimit { node, .. }
            | Self::SetGateways { node, .. }
            | Self::StartPoet { node, .. } => node,
        }
    }
}

/// How an action ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// By this undo action, whose effect is checked.
    Restores(Action),
    /// Nothing is left of it once the run's own things are gone.
    EndsWithRun,
    /// It cannot be taken back.
    Permanent,
}

/// One step of a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its place in the schedule, from 0; histories refer to it.
    pub id: u32,
    /// When it is due.
    pub at: ProtocolTime,
    /// The timeline entry it belongs to.
    pub entry: String,
    /// What is done.
    pub action: Action,
    /// Whether it begins or ends its fault.
    pub part: Part,
}

/// Whether a step begins or ends a fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// It begins it.
    Begins {
        /// What the fault does to the node's duty.
        impact: Impact,
        /// How it ends; `ends-with-run` also when nothing in the plan undoes it.
        class: Class,
    },
    /// It takes back the step of this id.
    Ends(u32),
}

/// A stretch of protocol time in which liveness is demanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// From here.
    pub from: ProtocolTime,
    /// Until here.
    pub to: ProtocolTime,
}

/// A resolved plan: what will be done when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// [`crate::random::SCHEDULE_VERSION`] it was made by.
    pub version: u32,
    /// The plan's name.
    pub plan: String,
    /// The seed it was drawn from.
    pub seed: u64,
    /// Steps by due time, then by id.
    pub steps: Vec<Step>,
    /// When liveness is demanded, as far as the plan alone can tell.
    pub windows: Vec<Window>,
    /// The end of the last fault, from which fresh progress counts.
    pub healed_at: Option<ProtocolTime>,
    /// When the run ends at the latest.
    pub ends_at: ProtocolTime,
}
