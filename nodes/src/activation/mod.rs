//! Activation: how a miner gets the right to make blocks, epoch after epoch.
//!
//! A challenge goes to every PoET, a proof comes back through the network, the labels on disk are
//! proved, and the activation is published. [`builder`] decides all of it without I/O.
//! [`record`] and [`labels`] are what lies on disk, [`client`] speaks to PoETs.

pub(crate) mod builder;
pub(crate) mod client;
pub(crate) mod labels;
pub(crate) mod record;
