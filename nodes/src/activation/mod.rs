//! Activation: how a miner gets the right to make blocks, epoch after epoch.
//!
//! A challenge goes to every PoET, a proof comes back through the network, the labels on disk are
//! proved, and the activation is published. [`builder`] decides all of it without I/O, [`activator`]
//! carries it out, [`record`] and [`labels`] are what lies on disk, [`client`] speaks to PoETs. `task` is the loop
//! that ties them to a node.

pub(crate) mod activator;
pub(crate) mod builder;
pub(crate) mod client;
pub(crate) mod labels;
pub(crate) mod record;
pub(crate) mod task;
