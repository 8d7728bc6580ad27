//! The gossip topic of blocks.
//!
//! One that comes before its activation is kept for a while, and passed on once it is known to be good.

use super::topics::Validity;
use crate::mesh::{self, Origin};
use crate::node::Node;

/// Its gossip topic.
pub(crate) const TOPIC: u8 = 4;

/// A block came by gossip.
pub(crate) fn receive(node: &Node, bytes: &[u8]) -> Validity {
    mesh::take_in(node, |mesh| mesh.block(bytes, Origin::Gossip))
}
