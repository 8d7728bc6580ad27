//! What the nodes talk about: gossip topics and what each means.
//!
//! So far transactions. To add a kind of message, write its file and a line in `topics.rs`.

pub mod agreement;
pub(crate) mod mempool;
pub(crate) mod topics;
pub(crate) mod transaction;
pub mod vrf;
