//! The bundled roles as an executable of their own, so that tests and plans can use a foreign binary.

use clap::Parser;
use std::process::ExitCode;

/// A node of the bundled network under test.
#[derive(Debug, Parser)]
#[command(name = "tweedledum-node", version)]
struct Cli {
    #[command(flatten)]
    node: tweedledum_nodes::NodeArgs,
}

fn main() -> ExitCode {
    tweedledum_nodes::run(Cli::parse().node)
}
