//! What runs inside a node's network: the flooder, and the wire dialect it speaks.
//!
//! The harness knows no protocol of the network under test. Whoever does (the command line, which knows both sides) hands in a
//! [`Dialect`]; everything here is then the same for the bundled network and for anyone else's. To add a protocol, implement
//! [`Dialect`] next to that protocol's codec; to add a way of hurting a node from inside its network, add a file here.
//!
//! It does not decide whom to hit or when: that is the schedule's.

pub(crate) mod drift;
mod drops;
pub mod evidence;
pub mod flood;
pub(crate) mod floods;
pub mod local;
pub mod operator;
pub mod request;
mod stop;
#[cfg(test)]
pub(crate) mod testing;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What a datagram of a flood is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DatagramKind {
    /// A message that a node of the same network would send.
    WellFormed,
    /// Sealed and encoded correctly, but for another network id.
    ForeignNetid,
    /// Long enough to be taken for a message, and nothing else about it is right.
    Garbage,
}

/// What one datagram of a flood is about. Equal contents give equal bytes.
#[derive(Debug, Clone, Copy)]
pub struct DatagramSpec<'a> {
    /// What the datagram is made of.
    pub kind: DatagramKind,
    /// Names this datagram and no other: derived from run seed, entry and source ordinal, see [`source_seed`]. The sender's identity
    /// and the nonce are to be drawn from it.
    pub seed: &'a [u8; 32],
    /// Public key of the node that is to receive it.
    pub target_key: &'a [u8; 32],
    /// Network id of the network under test; [`DatagramKind::ForeignNetid`] must use another one.
    pub netid: u32,
    /// Wall clock for the message's own timestamp, in nanoseconds since the Unix epoch.
    pub now_unix_ns: u64,
}

/// One ping of a node, and what its answer must fit.
#[derive(Debug, Clone, Copy)]
pub struct PingSpec<'a> {
    /// Secret of the one who pings; the same for every ping of one agent.
    pub identity: &'a [u8; 32],
    /// Number of this request; no two pings of one agent share it.
    pub request: u64,
    /// Public key of the node that is to answer.
    pub target_key: &'a [u8; 32],
    /// Network id of the network under test.
    pub netid: u32,
    /// Wall clock for the message's own timestamp, in nanoseconds since the Unix epoch.
    pub now_unix_ns: u64,
}

/// How the network under test encodes its datagrams. Implementations are pure: no clock, no entropy, equal input gives equal bytes.
pub trait Dialect: Send + Sync + std::fmt::Debug {
    /// Name that a role gives under `speaks`, such as `udp-session-2020`.
    fn name(&self) -> &'static str;

    /// Public key that belongs to a secret identity.
    fn public_key(&self, identity: &[u8; 32]) -> [u8; 32];

    /// Public key that the node with this secret identity signs with: `id` in the network file.
    fn signing_key(&self, identity: &[u8; 32]) -> [u8; 32];

    /// One datagram of a flood.
    fn datagram(&self, spec: &DatagramSpec<'_>) -> Vec<u8>;

    /// A discovery ping.
    fn ping(&self, spec: &PingSpec<'_>) -> Vec<u8>;

    /// Whether `datagram` answers the ping that `spec` describes. Any bytes may come here.
    fn is_pong(&self, datagram: &[u8], spec: &PingSpec<'_>) -> bool;
}

/// Seed of one source's datagram: SHA-256 over a domain tag, the flood's seed and the source's ordinal (little endian).
///
/// Keyed by the ordinal, so that a flood of more sources repeats the datagrams of a smaller one.
pub fn source_seed(flood: &[u8; 32], ordinal: u32) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"tweedledum/flood-source/1");
    hash.update(flood);
    hash.update(ordinal.to_le_bytes());
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::source_seed;

    #[test]
    fn source_seeds_differ_by_flood_and_by_ordinal_and_are_pinned() {
        let seeds: BTreeSet<_> = (0..2u8)
            .flat_map(|flood| (0..500).map(move |i| source_seed(&[flood; 32], i)))
            .collect();
        assert_eq!(seeds.len(), 1000);
        // A replay must send the same bytes for ever; a change here is a change of the schedule version.
        assert_eq!(
            hex::encode(&source_seed(&[7; 32], 3)[..8]),
            "f8ba71211c66ec85"
        );
    }
}
