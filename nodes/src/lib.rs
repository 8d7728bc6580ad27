//! The bundled network under test: miners and gateways of 2020, small but real where the incident
//! happened.
//!
//! Real UDP sessions, sealed datagrams, TCP gossip and processes; everything a node is told comes from
//! its flags and one network file. Start reading at `roles/`, then `run.rs`, `node.rs`, `p2p/`, `mesh/`.
//! What each release gets wrong is in [`releases`]. Layer agreement ([`agreement`]),
//! the PoET's work ([`poet`]) and the VRF ([`vrf`]) are public so that they can be measured from outside.

mod activation;
mod blocks;
mod mesh;
mod node;
mod p2p;
pub mod poet;
mod protocol;
pub mod releases;
mod roles;
mod run;
mod runtime;
mod settings;

pub use p2p::wire;
pub use protocol::{agreement, vrf};
pub use runtime::identity::node_id;

use std::process::ExitCode;

/// The bundled roles as YAML, in the form a plan declares its own.
pub const ROLES: &str = include_str!("roles.yaml");

/// The command line of a node: `<role> --name ... --network ...`.
#[derive(Debug, Clone, clap::Args)]
pub struct NodeArgs {
    #[command(subcommand)]
    role: roles::Role,
}

/// Runs a node until SIGTERM or SIGINT.
///
/// It takes over the process: its name, its panic hook (every panic is an event and an abort), its
/// signals, and its stdout, which carries events as JSON lines. Exit codes: 0 told to stop, 1 the system
/// refused something, 2 bad flags or network file.
pub fn run(args: NodeArgs) -> ExitCode {
    args.role.run()
}
