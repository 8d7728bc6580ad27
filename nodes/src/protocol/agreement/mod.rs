//! Layer agreement: which blocks make up each layer, decided by a fixed set of voters.
//!
//! [`Agreement`] is a sans-I/O state machine for one voter or follower; start reading at
//! `machine.rs`, then `stand.rs` (the rules of a round) and `ballot.rs` (counting). It is
//! Tendermint (arXiv 1807.04938) with one instance per layer, whose first round has no leader:
//!
//! - VOTE(r, S) names a set of blocks, COMMIT(r, S or none) says that a quorum did, or did not.
//! - A **certificate** is VOTE(r, S) from a quorum; a voter's **lock** is its latest commit to a
//!   set; COMMIT(r, S) from a quorum **decides** S.
//! - Safe whatever is delayed or lost, with up to f liars among N voters; live while q = N − f
//!   voters can talk and hold ATXs; stalled otherwise, and recovering by itself.
//!
//! To change a rule, change `stand.rs`, and add to the tests a mutant that shows what the rule is
//! for: the search of `tests/` must convict it. This module neither checks signatures nor sends,
//! stores or fetches anything.

mod ballot;
mod layers;
mod machine;
mod message;
mod outgoing;
mod pull;
mod rules;
mod stand;
mod voters;

#[cfg(test)]
mod tests;

pub use layers::LayerSet;
pub use machine::{
    Agreement, Config, EARLY_LAYERS_MAX, Evidence, Input, OVERDUE_STARTS_PER_TICK, OpenError,
    Output, Past, Refusal, START_DELAY_LAYERS,
};
pub use message::{
    BlockId, BlockSet, Body, DecodeError, Epoch, Layer, Message, Round, SET_MAX, SetDigest,
    Signature, Signed, Step,
};
pub use outgoing::{Record, RecordError, Unsent, save_all};
pub use pull::{Answer, Holding, Pull, Wanted};
pub use voters::{VOTERS_MAX, Voter, VoterSet, Voters, VotersError};
