//! The flags that roles share: of every process ([`Process`]), and of every member of the swarm
//! ([`Settings`]). Each names its unit, its default and the real network's value.
//!
//! To add one, add a field here and, where a role's declaration lists settings, there. A flag that
//! only one role has belongs into that role's file.

use crate::p2p::peers::Wants;
use crate::p2p::session_table::Limits;
use crate::poet::{Params, ParamsError};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Flags of every process, with or without a swarm.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Process {
    /// This node's name, as the network file has it under `self.name`
    #[arg(long)]
    pub(crate) name: String,
    /// The network file: JSON with genesis, layer length, netid, seed, this node's identity, and all nodes
    #[arg(long, value_name = "FILE")]
    pub(crate) network: PathBuf,
    /// Address of the HTTP API, and the IP that HTTP requests to other nodes come from (real network: port 9090, PoETs 8080)
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) api: SocketAddr,
    /// Directory for this node's data, made if it is missing; one node at a time
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Run as this release instead of the one in the network file
    #[arg(long, value_name = "NAME")]
    pub(crate) release: Option<String>,
    /// Take this fix out of the release, instead of those the network file takes out; may be repeated
    #[arg(long, value_name = "SWITCH")]
    pub(crate) without: Vec<String>,
}

/// Flags of every role that takes part in the swarm. Durations are written as `250ms`, `2s`, `24h`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Settings {
    #[command(flatten)]
    pub(crate) process: Process,
    /// Address for UDP sessions and the TCP swarm; every socket of the node is bound to its IP (real network: port 7513)
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) p2p: SocketAddr,
    /// Dial nobody, and be ready without a peer
    #[arg(long)]
    pub(crate) alone: bool,

    /// UDP sessions in the table, a count (real network: 2048)
    #[arg(long, default_value_t = 2048, value_parser = count)]
    session_cap: usize,
    /// Age from which a UDP session is old (real network: 24h)
    #[arg(long, default_value = "24h", value_parser = duration)]
    session_max_age: Duration,
    /// Datagrams that wait for the reader of one session, a count (real network: 1000)
    #[arg(long, default_value_t = 64, value_parser = count)]
    session_queue: usize,
    /// Time between two discovery requests of this node, each to the next peer from a fresh port (real network: minutes, by need)
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub(crate) discovery_interval: Duration,
    /// How long a discovery request waits for its answer (real network: 5s)
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub(crate) discovery_timeout: Duration,

    /// Swarm peers this node dials, a count (real network: 10)
    #[arg(long, default_value_t = 4, value_parser = count)]
    outbound: usize,
    /// Miners wanted among the swarm peers, a count; more are dialled while there are fewer (real network: no such rule)
    #[arg(long, default_value_t = 3, value_parser = count_or_none)]
    miner_peers: usize,
    /// Swarm peers that may dial this node, a count (real network: 32)
    #[arg(long, default_value_t = 32, value_parser = count)]
    max_inbound: usize,
    /// Accepted connections that have not shaken hands yet, a count (real network: 100)
    #[arg(long, default_value_t = 64, value_parser = count)]
    pub(crate) max_pending: usize,
    /// Time for connecting and for both handshakes together (real network: 60s to dial, 15s for the handshake)
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub(crate) handshake_timeout: Duration,
    /// Wait after a first failed dial; doubles with each further one (real network: not known)
    #[arg(long, default_value = "50ms", value_parser = duration)]
    dial_backoff: Duration,
    /// Longest wait between two dials to one peer (real network: not known)
    #[arg(long, default_value = "2s", value_parser = duration)]
    dial_backoff_max: Duration,
    /// A swarm connection that is silent for this long is closed; a quarter of it is the time between signs of life (real network: none)
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub(crate) idle_timeout: Duration,
    /// Longest swarm message, in bytes (real network: no limit)
    #[arg(long, default_value_t = 1 << 20, value_parser = frame_bytes)]
    pub(crate) max_frame: usize,
    /// Messages that wait for one swarm peer; more are dropped and counted (real network: 250)
    #[arg(long, default_value_t = 250, value_parser = count)]
    pub(crate) peer_queue: usize,
    /// Swarm peers a message is passed on to, a count (real network: all)
    #[arg(long, default_value_t = 12, value_parser = count)]
    pub(crate) fan_out: usize,
    /// Gossip messages remembered at least, so as to drop them when they come again, a count (real network: 10000)
    #[arg(long, default_value_t = 10_000, value_parser = count)]
    pub(crate) gossip_cache: usize,

    /// Time for a PoET to answer a miner (real network: none, the miner waited for ever)
    #[arg(long, default_value = "500ms", value_parser = duration)]
    pub(crate) poet_timeout: Duration,
    /// Blocks that a layer should have, a count, alike on all nodes; half of the miners, rounded up, if it is not given (real network: 50)
    #[arg(long, value_name = "COUNT", value_parser = count)]
    pub(crate) layer_average_size: Option<usize>,
    /// A PoET's proof is over 2^this labels, alike on all nodes (real network: 30 or more)
    #[arg(long, value_name = "COUNT", default_value_t = Params::DEFAULT.log2_leaves())]
    poet_n: u32,
    /// Nested hashes per label of a PoET, a count, alike on all nodes (real network: 100)
    #[arg(long, value_name = "COUNT", default_value_t = Params::DEFAULT.depth())]
    poet_depth: u32,
    /// Labels that a PoET's proof opens, a count, alike on all nodes (real network: 150)
    #[arg(long, value_name = "COUNT", default_value_t = Params::DEFAULT.openings())]
    poet_openings: u32,
}

/// A bound on every count: far above any use, and small enough that queues of it can be made.
const COUNT_MAX: usize = 1_000_000;

impl Settings {
    pub(crate) fn session_limits(&self) -> Limits {
        Limits {
            cap: self.session_cap,
            max_age: self.session_max_age,
            queue: self.session_queue,
        }
    }

    /// What a PoET's proof has to prove.
    pub(crate) fn poet_params(&self) -> Result<Params, ParamsError> {
        Params::new(self.poet_n, self.poet_depth, self.poet_openings)
    }

    pub(crate) fn wants(&self) -> Wants {
        Wants {
            outbound: self.outbound,
            miner_peers: self.miner_peers,
            max_inbound: self.max_inbound,
            backoff: self.dial_backoff,
            backoff_max: self.dial_backoff_max.max(self.dial_backoff),
            settle: self.handshake_timeout,
        }
    }
}

/// A duration above zero and at most a year.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a number and a unit, such as 250ms, 2s or 24h"))?;
    if parsed.is_zero() || parsed > Duration::from_hours(365 * 24) {
        return Err("must be above zero and at most a year".to_owned());
    }
    Ok(parsed)
}

/// A whole number of at least 1.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    count_from(1, COUNT_MAX, text)
}

/// A whole number, 0 for none.
pub(crate) fn count_or_none(text: &str) -> Result<usize, String> {
    count_from(0, COUNT_MAX, text)
}

/// From the smallest frame that fits every message to what a node can hold for each peer.
fn frame_bytes(text: &str) -> Result<usize, String> {
    count_from(1024, 1 << 28, text)
}

fn count_from(least: usize, most: usize, text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (least..=most).contains(&count) => Ok(count),
        _ => Err(format!("must be a whole number from {least} to {most}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_durations_have_bounds() {
        assert_eq!(count("256"), Ok(256));
        for bad in ["0", "-1", "1.5", "1e3", "", "99999999999999999999"] {
            assert!(count(bad).is_err(), "{bad}");
        }
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["0s", "", "5", "-1s", "NaN", "400days", "999999999999years"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
