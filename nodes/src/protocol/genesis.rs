//! Genesis: what the network file and the flags fix for ever, the same on every node.
//!
//! Who mines, who votes, how many blocks a miner may make, and what a PoET proof has to prove. Two
//! nodes that disagree on any of it refuse each other's blocks, so that everything here comes from
//! what all nodes are told alike. Nothing here changes after the start.

use super::agreement::{VOTERS_MAX, Voter};
use crate::poet;
use crate::runtime::network::Network;
use std::collections::BTreeSet;

/// Who a miner or gateway is to the protocol: the ed25519 key that it signs with.
pub(crate) type NodeId = [u8; 32];

/// Epochs whose blocks need no activation: no proof could be there yet.
const FIRST_EPOCH_WITH_ATXS: u32 = 2;

/// What is fixed before the first layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Genesis {
    pub(crate) netid: u32,
    pub(crate) layers_per_epoch: u32,
    /// Everybody who mines; nobody can join later.
    pub(crate) miners: BTreeSet<NodeId>,
    /// The first of the miners, in the order of the file.
    pub(crate) voters: Vec<NodeId>,
    /// Blocks that a miner with an activation makes in an epoch.
    pub(crate) slots_per_epoch: u32,
    /// What every PoET proof has to prove.
    pub(crate) poet: poet::Params,
}

impl Genesis {
    /// `layer_average_size` is how many blocks a layer should have; half of the miners if it is not
    /// given, since fewer leave layers empty by chance.
    pub(crate) fn new(
        network: &Network,
        layer_average_size: Option<usize>,
        poet: poet::Params,
    ) -> Self {
        let count = network.miners.len();
        let average = layer_average_size.unwrap_or(count.div_ceil(2));
        Self {
            netid: network.netid,
            layers_per_epoch: network.layers_per_epoch,
            miners: network.miners.iter().copied().collect(),
            voters: network.miners.iter().copied().take(VOTERS_MAX).collect(),
            slots_per_epoch: slots_per_epoch(average, network.layers_per_epoch, count),
            poet,
        }
    }

    pub(crate) fn epoch_of(&self, layer: u32) -> u32 {
        layer / self.layers_per_epoch.max(1)
    }

    /// The first layer of an epoch, if there is such a layer.
    pub(crate) fn first_layer_of(&self, epoch: u32) -> Option<u32> {
        epoch.checked_mul(self.layers_per_epoch)
    }

    /// Blocks and votes of this epoch need an activation that targets it.
    pub(crate) fn needs_atx(epoch: u32) -> bool {
        epoch >= FIRST_EPOCH_WITH_ATXS
    }

    pub(crate) fn is_miner(&self, node: &NodeId) -> bool {
        self.miners.contains(node)
    }

    pub(crate) fn voter_of(&self, node: &NodeId) -> Option<Voter> {
        let place = self.voters.iter().position(|voter| voter == node)?;
        u8::try_from(place).ok().map(Voter)
    }
}

/// All blocks of an epoch, shared out among the miners of genesis: how many take part later is not
/// known to everybody alike.
fn slots_per_epoch(average: usize, layers_per_epoch: u32, miners: usize) -> u32 {
    let wide = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let blocks = wide(average).saturating_mul(layers_per_epoch.into());
    u32::try_from(blocks / wide(miners).max(1))
        .unwrap_or(u32::MAX)
        .max(1)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;

    /// The signing key of miner `n` of [`sample`].
    pub(crate) fn key(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n + 1; 32])
    }

    /// A network of some miners, 4 layers per epoch, and a PoET of little work.
    pub(crate) fn sample(miners: u8) -> Genesis {
        let ids: Vec<NodeId> = (0..miners)
            .map(|n| key(n).verifying_key().to_bytes())
            .collect();
        Genesis {
            netid: 116,
            layers_per_epoch: 4,
            miners: ids.iter().copied().collect(),
            voters: ids.iter().copied().take(VOTERS_MAX).collect(),
            slots_per_epoch: slots_per_epoch(ids.len().div_ceil(2), 4, ids.len()),
            poet: poet::Params::new(6, 3, 8).unwrap(),
        }
    }

    #[test]
    fn slots_share_out_the_blocks_of_an_epoch() {
        for (average, layers, miners, slots) in [
            (6, 4, 12, 2),
            (2, 4, 4, 2),
            (2, 4, 3, 2),
            (1, 4, 1, 4),
            (50, 288, 10_000, 1),
            (50, 288, 100, 144),
            (0, 4, 4, 1),
            (6, 4, 0, 24),
            (usize::MAX, u32::MAX, 1, u32::MAX),
        ] {
            assert_eq!(
                slots_per_epoch(average, layers, miners),
                slots,
                "{average} {layers} {miners}"
            );
        }
    }

    #[test]
    fn epochs_are_runs_of_layers_and_the_first_two_need_nothing() {
        let genesis = sample(3);
        let epochs: Vec<u32> = [0, 3, 4, 7, 8].map(|layer| genesis.epoch_of(layer)).into();
        assert_eq!(epochs, [0, 0, 1, 1, 2]);
        assert_eq!(genesis.first_layer_of(2), Some(8));
        assert_eq!(genesis.first_layer_of(u32::MAX), None);
        assert_eq!(
            [0, 1, 2, 3].map(Genesis::needs_atx),
            [false, false, true, true]
        );
    }

    #[test]
    fn voters_are_numbered_by_the_file_and_others_have_no_vote() {
        let genesis = sample(40);
        assert_eq!(genesis.voters.len(), VOTERS_MAX);
        let id = |n| key(n).verifying_key().to_bytes();
        assert_eq!(genesis.voter_of(&id(0)), Some(Voter(0)));
        assert_eq!(genesis.voter_of(&id(31)), Some(Voter(31)));
        assert_eq!(genesis.voter_of(&id(32)), None);
        assert!(genesis.is_miner(&id(32)) && !genesis.is_miner(&id(40)));
    }
}
