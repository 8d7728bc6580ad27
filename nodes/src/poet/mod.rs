//! Proofs of elapsed time: sequential work, its merkle tree on disk, the proof, and its check.
//!
//! The sequential work of 2020: the merkle root of a round's members is the statement ([`members`]); labels are
//! computed one after the other, each over the tree so far ([`work`]); a proof opens leaves that the
//! root itself picks ([`proof`]). [`tree`] reads the layers back from disk, [`store`] and [`challenges`]
//! are what lies in a data directory, [`rate`] measures a host; the hashes are in `nodes/crypto`. To change what the network proves,
//! change [`Params`]: all nodes must agree on them. None of these speaks to a network, sleeps, or knows
//! when rounds open and close.
//!
//! The server of 2020 that does is `service.rs`: it opens rounds by the schedule (`schedule.rs`,
//! `new_round.rs`), works (`execution.rs`), hands proofs to gateways (`broadcaster.rs`), and speaks the
//! REST API of then (`messages.rs`, `rest.rs`). `gateway.rs` is the other end.

pub(crate) mod broadcaster;
pub mod challenges;
pub(crate) mod execution;
pub(crate) mod gateway;
pub mod members;
pub(crate) mod messages;
pub(crate) mod new_round;
pub mod proof;
pub mod rate;
pub(crate) mod rest;
pub(crate) mod schedule;
pub(crate) mod service;
mod state;
pub mod store;
pub mod tree;
pub mod work;

pub use tweedledum_crypto::hash::Node;

pub use state::{Execution, RoundState, ServiceState};
// For the modules here: `super::hash`.
use tweedledum_crypto::hash;

/// Which round of a PoET: rounds are numbered from 0, and their directories are called by the number.
pub type RoundId = u32;

/// What a proof proves: so many sequential labels, so deep, opened at so many places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params {
    log2_leaves: u32,
    depth: u32,
    openings: u32,
}

/// A number of labels, a depth or a number of openings that cannot work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParamsError {
    /// The tree is too small or too large.
    #[error(
        "a tree of 2^{log2_leaves} leaves is not possible; n must be from 1 to {}",
        Params::MAX_LOG2_LEAVES
    )]
    Leaves {
        /// The n that was asked for.
        log2_leaves: u32,
    },
    /// No work at all, or labels of more than a second.
    #[error(
        "a depth of {depth} is not possible; it must be from 1 to {}",
        Params::MAX_DEPTH
    )]
    Depth {
        /// The depth that was asked for.
        depth: u32,
    },
    /// More distinct leaves than the tree has, or none.
    #[error(
        "{openings} openings are not possible with {leaves} leaves; take from 1 to {}, or a larger n",
        (*leaves).min(u64::from(Params::MAX_OPENINGS))
    )]
    Openings {
        /// The number of openings that was asked for.
        openings: u32,
        /// How many leaves the tree has.
        leaves: u64,
    },
}

impl Params {
    /// The largest n: 2^32 leaves, the most that testnets of 2020 are thought to have used.
    pub const MAX_LOG2_LEAVES: u32 = 32;
    /// The largest depth: 2020 used 100, later releases 400; a million takes 50 ms per label.
    pub const MAX_DEPTH: u32 = 1_000_000;
    /// The most openings: 2020 used 150; this many make a proof of some megabytes.
    pub const MAX_OPENINGS: u32 = 4096;
    /// 2^13 labels of depth 100, 150 of them opened: 2020's numbers with a tree that takes 50 ms.
    pub const DEFAULT: Self = Self {
        log2_leaves: 13,
        depth: 100,
        openings: 150,
    };

    /// Parameters with 2^`log2_leaves` labels, each the result of `depth` SHA-256 calls, of which a
    /// proof opens `openings` distinct ones.
    ///
    /// # Errors
    /// A number out of its range, or more openings than leaves. 2020 drew with an 8-bit counter and
    /// hung for ever on small trees; here what cannot be drawn is refused.
    pub fn new(log2_leaves: u32, depth: u32, openings: u32) -> Result<Self, ParamsError> {
        if !(1..=Self::MAX_LOG2_LEAVES).contains(&log2_leaves) {
            return Err(ParamsError::Leaves { log2_leaves });
        }
        if !(1..=Self::MAX_DEPTH).contains(&depth) {
            return Err(ParamsError::Depth { depth });
        }
        let leaves = 1_u64 << log2_leaves;
        if openings == 0 || openings > Self::MAX_OPENINGS || u64::from(openings) > leaves {
            return Err(ParamsError::Openings { openings, leaves });
        }
        Ok(Self {
            log2_leaves,
            depth,
            openings,
        })
    }

    /// The number of labels, N = 2^n.
    pub fn leaves(&self) -> u64 {
        1 << self.log2_leaves
    }

    /// The height of the tree, n: layer 0 holds the leaves and layer n the root.
    pub fn log2_leaves(&self) -> u32 {
        self.log2_leaves
    }

    /// SHA-256 calls per label, the one over the statement and the siblings included.
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// Distinct leaves that a proof opens, T.
    pub fn openings(&self) -> u32 {
        self.openings
    }

    /// How many layers are on disk, counted from the leaves, when the upper `memory` are not: at
    /// least the leaves. 2020's default of `memory` is 26.
    pub fn layers_on_disk(&self, memory: u32) -> u32 {
        self.log2_leaves.saturating_sub(memory).max(1)
    }

    /// SHA-256 compressions that the whole tree takes, exactly.
    pub fn compressions(&self) -> u64 {
        hash::compressions(self.log2_leaves, self.depth)
    }
}

/// An error with all that caused it, in one line.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(source) = below {
        text = format!("{text}: {source}");
        below = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn params_out_of_range_are_refused() {
        for (n, depth, openings, good) in [
            (13, 100, 150, true),
            (1, 1, 2, true),
            (8, 100, 150, true),
            (7, 100, 150, false),
            (0, 100, 1, false),
            (33, 100, 150, false),
            (13, 0, 150, false),
            (13, 1_000_001, 150, false),
            (13, 100, 0, false),
            (32, 100, 4097, false),
        ] {
            let made = Params::new(n, depth, openings);
            assert_eq!(made.is_ok(), good, "{n} {depth} {openings}: {made:?}");
        }
        assert_eq!(Params::new(13, 100, 150), Ok(Params::DEFAULT));
    }

    #[test]
    fn the_leaves_are_on_disk_whatever_the_memory() {
        for (memory, layers) in [(0, 13), (5, 8), (12, 1), (13, 1), (26, 1)] {
            assert_eq!(Params::DEFAULT.layers_on_disk(memory), layers, "{memory}");
        }
    }
}
