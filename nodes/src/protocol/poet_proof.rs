//! The gossip topic of PoETs' proofs.
//!
//! A gateway takes a proof from its PoET and publishes its bytes as they came. Every node checks all of
//! it, once; whether anybody waits for it plays no part.

use super::topics::Validity;
use crate::mesh::{self, Origin};
use crate::node::Node;

/// Its gossip topic.
pub(crate) const TOPIC: u8 = 2;

/// A PoET's proof came by gossip.
pub(crate) fn receive(node: &Node, bytes: &[u8]) -> Validity {
    mesh::take_in(node, |mesh| mesh.proof(bytes, Origin::Gossip))
}
