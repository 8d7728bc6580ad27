//! The registry of gossip topics: one line each.
//!
//! A topic says whether a message is valid, and keeps what it wants of it. Only valid messages are
//! relayed. Unknown topics are neither kept nor relayed.

use super::{atx_gossip, block_gossip, poet_proof, transaction, votes};
use crate::node::Node;

/// What a topic thinks of a message. Validity depends on content only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Validity {
    Valid,
    /// Something that it depends on is not here yet. It is kept, and passed on by whoever kept it once
    /// it is known to be valid.
    Waits,
    /// Well formed, and of no use to anybody any more, or not yet; neither kept nor passed on.
    OutOfTime,
    /// With a short reason, used as a metric label.
    Invalid(&'static str),
}

/// One kind of gossip message.
pub(crate) struct Topic {
    pub(crate) id: u8,
    /// The name go-spacemesh v0.1.12 gave it.
    pub(crate) name: &'static str,
    pub(crate) receive: fn(&Node, &[u8]) -> Validity,
}

impl std::fmt::Debug for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Topic({} {})", self.id, self.name)
    }
}

/// Every topic there is.
pub(crate) const TOPICS: &[Topic] = &[
    Topic {
        id: transaction::TOPIC,
        name: "TxGossip",
        receive: transaction::receive,
    },
    Topic {
        id: poet_proof::TOPIC,
        name: "PoetProof",
        receive: poet_proof::receive,
    },
    Topic {
        id: atx_gossip::TOPIC,
        name: "AtxGossip",
        receive: atx_gossip::receive,
    },
    Topic {
        id: block_gossip::TOPIC,
        name: "newBlock",
        receive: block_gossip::receive,
    },
    Topic {
        id: votes::TOPIC,
        name: "HARE_PROTOCOL",
        receive: votes::receive,
    },
];

pub(crate) fn find(id: u8) -> Option<&'static Topic> {
    TOPICS.iter().find(|topic| topic.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_and_names_are_unique() {
        let ids: BTreeSet<_> = TOPICS.iter().map(|topic| topic.id).collect();
        let names: BTreeSet<_> = TOPICS.iter().map(|topic| topic.name).collect();
        assert_eq!((ids.len(), names.len()), (TOPICS.len(), TOPICS.len()));
    }
}
