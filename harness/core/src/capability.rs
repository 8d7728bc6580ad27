//! Capabilities: what a substrate must be able to do so that a fault can be carried out and proved on it.
//!
//! A fault kind declares them in one line ([`crate::faults::FaultKind::needs`]), an action needs exactly one
//! ([`crate::schedule::Action::needs`]), and a test holds the two together. Whether a machine can do it, and how a substrate
//! does it, is told elsewhere (`doctor`); nothing here is tried. To add one: a variant, its row in [`Capability::ALL`] and
//! in the two functions below; every substrate's table then has to say how it does it, or that it does not.

use serde::{Deserialize, Serialize};

/// Something that a substrate can do to a node, with its evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    /// End its process by a signal and see the death.
    Kill,
    /// Start it again at its address on its data.
    Start,
    /// Stop and continue its execution, and see that nothing of it is at work.
    Freeze,
    /// Send from many addresses inside its network, and read what its socket dropped.
    Flood,
    /// Cap what its data directory can take, live, and probe the cap.
    Disk,
    /// Speak to its API as its operator does.
    Operate,
    /// Limit its memory, live, and tell a kill for lack of it from others.
    Memory,
    /// Limit its processors, live.
    Cpu,
    /// Limit its processes and threads, live.
    Pids,
}

impl Capability {
    /// Every capability, in the order of tables.
    pub const ALL: &[Self] = &[
        Self::Kill,
        Self::Start,
        Self::Freeze,
        Self::Flood,
        Self::Disk,
        Self::Operate,
        Self::Memory,
        Self::Cpu,
        Self::Pids,
    ];

    /// Its name in texts and in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Start => "start",
            Self::Freeze => "freeze",
            Self::Flood => "flood",
            Self::Disk => "disk",
            Self::Operate => "operate",
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }

    /// What it is, as a fragment that completes "it can …".
    pub const fn means(self) -> &'static str {
        match self {
            Self::Kill => "end a node's process by a signal and see the death",
            Self::Start => "start a node again at its address on its data",
            Self::Freeze => "stop and continue a node, and see that nothing of it is at work",
            Self::Flood => {
                "send from many addresses in a node's network, and read what its socket dropped"
            }
            Self::Disk => "cap what a node's data directory can take, live, and probe the cap",
            Self::Operate => "speak to a node's API as its operator does",
            Self::Memory => "limit a node's memory, live",
            Self::Cpu => "limit a node's processors, live",
            Self::Pids => "limit a node's processes and threads, live",
        }
    }
}

/// Something of its machine that a node can be limited in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resource {
    /// Memory, in bytes.
    Memory,
    /// Processors, in thousandths of one.
    Cpu,
    /// Processes and threads together.
    Pids,
}

impl Resource {
    /// Every resource.
    pub const ALL: &[Self] = &[Self::Memory, Self::Cpu, Self::Pids];

    /// What limiting it needs.
    pub const fn capability(self) -> Capability {
        match self {
            Self::Memory => Capability::Memory,
            Self::Cpu => Capability::Cpu,
            Self::Pids => Capability::Pids,
        }
    }

    /// What its amounts are called in evidence, with their unit.
    pub const fn limit_key(self) -> &'static str {
        match self {
            Self::Memory => "limit-bytes",
            Self::Cpu => "limit-millicpus",
            Self::Pids => "limit-processes",
        }
    }

    /// Its name in texts.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "processors",
            Self::Pids => "processes",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_what_json_has() {
        for capability in Capability::ALL {
            let json = serde_json::to_string(capability).unwrap();
            assert_eq!(json, format!("\"{}\"", capability.word()));
        }
        let mut sorted = Capability::ALL.to_vec();
        sorted.sort();
        assert_eq!(sorted, Capability::ALL, "all of them, once, in order");
    }
}
