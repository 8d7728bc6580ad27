//! The registry of roles: one file and one line each.
//!
//! A role is a clap `Args` struct with a `run` method, and a name. What all roles share is in
//! `settings.rs` and `run.rs`.

mod gateway;
mod miner;
mod poet;

use std::process::ExitCode;

macro_rules! roles {
    ($($(#[doc = $about:literal])* $name:ident($args:ty),)*) => {
        /// The roles a node can have.
        #[derive(Debug, Clone, clap::Subcommand)]
        pub(crate) enum Role {
            $($(#[doc = $about])* $name(Box<$args>),)*
        }

        impl Role {
            pub(crate) fn run(self) -> ExitCode {
                match self {
                    $(Self::$name(args) => args.run(),)*
                }
            }
        }
    };
}

roles! {
    /// A node that makes transactions (and, with a mesh, blocks)
    Miner(miner::Miner),
    /// A node that only passes things on: well known, asked by everybody, and where a PoET hands in its proofs
    Gateway(gateway::Gateway),
    /// A server that proves to miners that time has gone by, and hands its proofs to gateways
    Poet(poet::Poet),
}
