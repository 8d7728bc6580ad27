//! Which layers of an epoch a miner makes its blocks in: its slots, each placed by its VRF.
//!
//! Nobody but the miner can tell its slots before it shows them, it cannot choose them, and with the
//! proof everybody can check one. There is no beacon, so that a miner knows its own for all epochs in
//! advance, as in 2020.

use super::genesis::{Genesis, NodeId};
use super::vrf::{self, VrfError};
use crate::p2p::codec::Writer;
use ed25519_dalek::SigningKey;

/// Keeps what slots draw apart from all other uses of the same key.
const DOMAIN: &[u8] = b"tweedledum slot 1";

/// A right to make one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Counted from 0 in each epoch.
    pub(crate) number: u32,
    /// The layer that it falls into.
    pub(crate) layer: u32,
    pub(crate) proof: [u8; vrf::PROOF_LEN],
}

/// The slots of the holder of `key` in an epoch, which may share layers.
///
/// # Errors
/// Those of the VRF, which nobody has met yet.
pub(crate) fn own_slots(
    genesis: &Genesis,
    key: &SigningKey,
    epoch: u32,
) -> Result<Vec<Slot>, VrfError> {
    (0..genesis.slots_per_epoch)
        .map(|number| {
            let proof = vrf::prove(key.as_bytes(), &input(genesis.netid, epoch, number))?;
            let layer = layer_of(genesis, epoch, &vrf::proof_to_hash(&proof)?);
            Ok(Slot {
                number,
                layer,
                proof,
            })
        })
        .collect()
}

/// Is `slot` a slot of `miner` in `layer`?
pub(crate) fn verify(genesis: &Genesis, miner: &NodeId, slot: &Slot) -> Result<(), &'static str> {
    if slot.number >= genesis.slots_per_epoch {
        return Err("block-slot");
    }
    let epoch = genesis.epoch_of(slot.layer);
    let input = input(genesis.netid, epoch, slot.number);
    let output = vrf::verify(miner, &input, &slot.proof).map_err(|_| "block-vrf")?;
    if layer_of(genesis, epoch, &output) == slot.layer {
        Ok(())
    } else {
        Err("block-layer")
    }
}

fn input(netid: u32, epoch: u32, slot: u32) -> Vec<u8> {
    let mut out = Writer::default();
    out.raw(DOMAIN).u32(netid).u32(epoch).u32(slot).done()
}

fn layer_of(genesis: &Genesis, epoch: u32, output: &[u8; vrf::OUTPUT_LEN]) -> u32 {
    let first = output
        .first_chunk()
        .map_or(0, |bytes| u64::from_be_bytes(*bytes));
    let place = first % u64::from(genesis.layers_per_epoch.max(1));
    let begin = genesis.first_layer_of(epoch).unwrap_or(u32::MAX);
    begin.saturating_add(u32::try_from(place).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::super::genesis::tests::{key, sample};
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn own_slots_are_valid_and_nobody_elses() {
        let genesis = sample(3);
        let (mine, other) = (key(0), key(1).verifying_key().to_bytes());
        let id = mine.verifying_key().to_bytes();
        for epoch in [0, 1, 7] {
            let slots = own_slots(&genesis, &mine, epoch).unwrap();
            assert_eq!(slots.len(), genesis.slots_per_epoch as usize);
            for slot in slots {
                assert_eq!(genesis.epoch_of(slot.layer), epoch);
                assert_eq!(verify(&genesis, &id, &slot), Ok(()));
                assert_eq!(verify(&genesis, &other, &slot), Err("block-vrf"));
                let moved = Slot {
                    layer: epoch * 4 + (slot.layer + 1) % 4,
                    ..slot
                };
                assert_eq!(verify(&genesis, &id, &moved), Err("block-layer"));
                let next_epoch = Slot {
                    layer: slot.layer + 4,
                    ..slot
                };
                assert_eq!(verify(&genesis, &id, &next_epoch), Err("block-vrf"));
                let invented = Slot {
                    number: slot.number + genesis.slots_per_epoch,
                    ..slot
                };
                assert_eq!(verify(&genesis, &id, &invented), Err("block-slot"));
            }
        }
    }

    #[test]
    fn slots_spread_over_all_layers_of_an_epoch() {
        let genesis = sample(4);
        let mut count: BTreeMap<u32, u32> = BTreeMap::new();
        for epoch in 0..100 {
            for slot in own_slots(&genesis, &key(0), epoch).unwrap() {
                *count.entry(slot.layer % 4).or_default() += 1;
            }
        }
        // 200 slots over 4 layers; below 25 is four standard deviations away.
        assert!(
            count.len() == 4 && count.values().all(|layer| *layer > 25),
            "{count:?}"
        );
    }
}
