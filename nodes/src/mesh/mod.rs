//! The mesh: what a node knows of the network's past, and what it agrees on with the others.

pub(crate) mod exchange;
pub(crate) mod state;
pub(crate) mod store;
pub(crate) mod voter_log;
pub(crate) mod waiting;
