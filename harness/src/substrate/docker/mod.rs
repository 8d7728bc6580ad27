//! The Docker substrate: nodes in containers, through the engine's API only.
//!
//! Per node a *pod*: an agent container, which is our own executable, owns the network namespace,
//! the process namespace, a fixed address, the data volume and `NET_ADMIN`; the node's container
//! joins it and has no added rights. The harness talks to each agent over its attached standard
//! input and output, and no container address is used from outside, so that an engine elsewhere
//! would do as well.
//!
//! Reading order: [`address`] and [`engine`] (reaching one), `elf`, `tar` and [`image`] (our executable as an image),
//! [`ledger`] (what is recorded before it is made), `keeper` (what a run begins and ends with, and its agents), `others`
//! (what somebody else does to its containers), [`run`] (network of a run), [`pod`] and [`node`] with `death` (what the
//! controller uses), `wire` and [`link`] (what harness and agent say to each other), [`inside`] (the agent itself),
//! [`remains`] with `thing` (how everything is removed, and by `bring_up` what was stopped is up again), [`ground`] with
//! `life`, `vantage` and `held` (all of it behind the seam of [`substrate`](super)), [`attached`] (the same seam over
//! containers that somebody else made and keeps) with `log_reach` (whether an engine's log has all that is read back of
//! it).
//!
//! Nothing here decides what to do to a node, and nothing touches a container, volume or network
//! that its run has not recorded.

pub mod address;
pub mod attached;
mod bring_up;
mod container;
mod death;
mod elf;
pub mod engine;
mod exec;
#[cfg(test)]
mod fake_engine;
mod gate;
pub mod ground;
mod held;
pub mod image;
pub mod inside;
mod keeper;
pub mod ledger;
mod life;
pub mod link;
mod log_reach;
pub mod node;
mod others;
pub mod pod;
pub mod remains;
pub mod run;
pub mod subnet;
mod tar;
mod thing;
mod vantage;
mod wire;

pub use container::{DockerError, Limits, State};
pub use ground::DockerGround;
pub use wire::Disk;
