//! What the nodes talk about: gossip topics and what each means.
//!
//! Transactions go into blocks, activations give the right to make these, and layer agreement picks
//! them. To add a kind of message, write its file and a line in `topics.rs`.

pub mod agreement;
pub(crate) mod atx;
pub(crate) mod atx_gossip;
pub(crate) mod block;
pub(crate) mod block_gossip;
pub(crate) mod eligibility;
pub(crate) mod genesis;
pub(crate) mod mempool;
pub(crate) mod poet_proof;
pub(crate) mod post;
pub(crate) mod topics;
pub(crate) mod transaction;
pub(crate) mod votes;
pub mod vrf;
