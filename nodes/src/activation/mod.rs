//! Activation: how a miner gets the right to make blocks, epoch after epoch.
//!
//! A challenge goes to every PoET, a proof comes back through the network, the labels on disk are
//! proved, and the activation is published. [`builder`] decides all of it without I/O, [`activator`]
//! carries it out, [`record`] and [`labels`] are what lies on disk, [`client`] speaks to PoETs. `task` is the loop
//! that ties them to a node.

pub(crate) mod activator;
pub(crate) mod builder;
pub(crate) mod client;
pub(crate) mod labels;
pub(crate) mod record;

use crate::node::Node;
use crate::poet::RoundId;
use crate::poet::proof::Proof;
use crate::protocol::atx;
use crate::runtime::lock;
use builder::PoetKey;
use std::collections::BTreeSet;

/// Registrations are remembered for this many rounds, so that a late proof still finds its own.
const ROUNDS_KEPT: RoundId = 8;

/// Which PoETs have acknowledged a challenge of this node, for which rounds.
#[derive(Debug, Default)]
pub(crate) struct Registrations(BTreeSet<(RoundId, PoetKey)>);

impl Registrations {
    fn add(&mut self, registrations: impl Iterator<Item = (PoetKey, RoundId)>) {
        self.0
            .extend(registrations.map(|(poet, round)| (round, poet)));
        let newest = self.0.last().map_or(0, |(round, _)| *round);
        self.0
            .retain(|(round, _)| *round >= newest.saturating_sub(ROUNDS_KEPT));
    }

    /// Whether a challenge that was acknowledged for the proof's round is among its members; none if
    /// there was none.
    pub(crate) fn member_of(&self, proof: &Proof, challenge: &[u8; 32]) -> Option<bool> {
        self.0
            .contains(&(proof.round, proof.service))
            .then(|| proof.members.contains(challenge))
    }
}

/// Whether this node's own challenge is in a proof; none if it never registered there.
pub(crate) fn own_membership(node: &Node, proof: &Proof) -> Option<bool> {
    let challenge = atx::challenge(node.genesis.netid, &node.identity.id(), proof.round);
    lock(&node.registrations).member_of(proof, &challenge)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::atx::tests::proof;
    use crate::protocol::genesis::tests::{key, sample};

    #[test]
    fn only_acknowledged_challenges_are_looked_for_and_only_so_long() {
        let genesis = sample(2);
        let proof = proof(&genesis, 7, 3);
        let mine = key(0).verifying_key().to_bytes();
        let challenge = atx::challenge(genesis.netid, &mine, 3);
        let mut registrations = Registrations::default();
        assert_eq!(registrations.member_of(&proof, &challenge), None);
        registrations.add([(proof.service, 3)].into_iter());
        assert_eq!(registrations.member_of(&proof, &challenge), Some(true));
        assert_eq!(registrations.member_of(&proof, &[0; 32]), Some(false));
        for round in 4..=3 + ROUNDS_KEPT {
            registrations.add([(proof.service, round)].into_iter());
        }
        assert_eq!(registrations.member_of(&proof, &challenge), Some(true));
        registrations.add([(proof.service, 4 + ROUNDS_KEPT)].into_iter());
        assert_eq!(registrations.member_of(&proof, &challenge), None);
    }
}
