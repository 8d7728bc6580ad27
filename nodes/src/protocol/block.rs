//! Blocks: what a miner puts into a layer, in a slot of its own.
//!
//! A block names its activation, except in the first two epochs, and brings its transactions along.
//! What can be checked without the activation is in [`Block::verify_alone_knowing`], the rest in
//! [`Block::verify_with`]; both look at content only, never at when it came. To add a field, add it to
//! [`Block`] and to both directions of the codec.

use super::agreement::BlockId;
use super::atx::{Atx, AtxId, read_id, write_id};
use super::eligibility::{self, Slot};
use super::genesis::{Genesis, NodeId};
use super::transaction::{Transaction, TransactionId};
use super::vrf;
use crate::p2p::codec::{Reader, WireError, Writer};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// Keeps signatures of blocks apart from all others.
const DOMAIN: &[u8] = b"tweedledum block 1";
/// The most transactions of a block, 10 KiB of them (real network: 200).
pub(crate) const TRANSACTIONS_MAX: usize = 64;

/// A signed block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) netid: u32,
    pub(crate) layer: u32,
    pub(crate) miner: NodeId,
    /// Which of the miner's slots in the layer's epoch.
    pub(crate) slot: u32,
    /// Shows that this slot falls into this layer.
    pub(crate) vrf: [u8; vrf::PROOF_LEN],
    /// The activation that targets the layer's epoch; none in epochs that need none.
    pub(crate) atx: Option<AtxId>,
    /// In the order of their ids, each once.
    pub(crate) transactions: Vec<Transaction>,
    signature: [u8; 64],
}

impl Block {
    /// A block for a slot of the holder of `key`. Of the transactions those with the lowest ids are
    /// taken, as many as a block holds.
    pub(crate) fn sign(
        key: &SigningKey,
        netid: u32,
        slot: &Slot,
        atx: Option<AtxId>,
        transactions: impl IntoIterator<Item = Transaction>,
    ) -> Self {
        let ordered: BTreeMap<TransactionId, Transaction> = transactions
            .into_iter()
            .map(|transaction| (transaction.id(), transaction))
            .collect();
        let mut made = Self {
            netid,
            layer: slot.layer,
            miner: key.verifying_key().to_bytes(),
            slot: slot.number,
            vrf: slot.proof,
            atx,
            transactions: ordered.into_values().take(TRANSACTIONS_MAX).collect(),
            signature: [0; 64],
        };
        made.signature = key.sign(&made.signed_bytes()).to_bytes();
        made
    }

    /// The hash of all its bytes.
    pub(crate) fn id(&self) -> BlockId {
        BlockId(Sha256::digest(self.encode()).into())
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.write_content(&mut out);
        out.raw(&self.signature).done()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let decoded = Self {
            netid: reader.u32("the netid")?,
            layer: reader.u32("the layer of a block")?,
            miner: reader.array("the miner of a block")?,
            slot: reader.u32("the slot of a block")?,
            vrf: reader.array("the slot's proof")?,
            atx: read_id(&mut reader)?,
            transactions: read_transactions(&mut reader)?,
            signature: reader.array("the signature of a block")?,
        };
        reader.finish()?;
        Ok(decoded)
    }

    /// Everything that does not need the activation. Transactions of which `known` says so are not
    /// verified again; it must say so only of those whose every byte was verified before.
    pub(crate) fn verify_alone_knowing(
        &self,
        genesis: &Genesis,
        known: impl Fn(&Transaction) -> bool,
    ) -> Result<(), &'static str> {
        if self.netid != genesis.netid {
            return Err("block-netid");
        }
        if !genesis.is_miner(&self.miner) {
            return Err("block-miner");
        }
        let needs_atx = Genesis::needs_atx(genesis.epoch_of(self.layer));
        if self.atx.is_some() != needs_atx {
            return Err("block-atx");
        }
        let signer = VerifyingKey::from_bytes(&self.miner).map_err(|_| "block-signer")?;
        signer
            .verify_strict(
                &self.signed_bytes(),
                &Signature::from_bytes(&self.signature),
            )
            .map_err(|_| "block-signature")?;
        let slot = Slot {
            number: self.slot,
            layer: self.layer,
            proof: self.vrf,
        };
        eligibility::verify(genesis, &self.miner, &slot)?;
        let ids: Vec<TransactionId> = self.transactions.iter().map(Transaction::id).collect();
        if ids.len() > TRANSACTIONS_MAX || !ids.is_sorted_by(|a, b| a < b) {
            return Err("block-transactions");
        }
        self.transactions
            .iter()
            .filter(|transaction| !known(transaction))
            .try_for_each(|transaction| transaction.verify(genesis.netid))
    }

    /// As if nothing were known.
    #[cfg(test)]
    pub(crate) fn verify_alone(&self, genesis: &Genesis) -> Result<(), &'static str> {
        self.verify_alone_knowing(genesis, |_| false)
    }

    /// What is left when the activation that it names is there, which its holder has found to be good.
    pub(crate) fn verify_with(&self, atx: &Atx, genesis: &Genesis) -> Result<(), &'static str> {
        if self.atx != Some(atx.id()) {
            return Err("block-other-atx");
        }
        if atx.node != self.miner {
            return Err("block-atx-node");
        }
        if atx.target_epoch() != genesis.epoch_of(self.layer) {
            return Err("block-atx-epoch");
        }
        Ok(())
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.write_content(out.raw(DOMAIN));
        out.done()
    }

    fn write_content(&self, out: &mut Writer) {
        out.u32(self.netid)
            .u32(self.layer)
            .raw(&self.miner)
            .u32(self.slot)
            .raw(&self.vrf);
        write_id(out, self.atx);
        out.u16(u16::try_from(self.transactions.len()).unwrap_or(u16::MAX));
        for transaction in &self.transactions {
            out.raw(&transaction.encode());
        }
    }
}

fn read_transactions(reader: &mut Reader<'_>) -> Result<Vec<Transaction>, WireError> {
    let what = "the transactions of a block";
    let len = usize::from(reader.u16(what)?);
    if len > TRANSACTIONS_MAX {
        let limit = TRANSACTIONS_MAX;
        return Err(WireError::TooLong { what, len, limit });
    }
    (0..len)
        .map(|_| Transaction::decode(reader.take(what, Transaction::BYTES)?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::atx::tests::{atx, proof};
    use super::super::eligibility::own_slots;
    use super::super::genesis::tests::{key, sample};
    use super::*;
    use proptest::prelude::*;

    fn transactions(genesis: &Genesis, count: u32) -> Vec<Transaction> {
        (0..count)
            .map(|index| Transaction::of_layer(genesis, &key(0), 9, index))
            .collect()
    }

    fn slot(genesis: &Genesis, epoch: u32) -> Slot {
        own_slots(genesis, &key(1), epoch).unwrap()[0]
    }

    fn early(genesis: &Genesis) -> Block {
        let transactions = transactions(genesis, 3);
        Block::sign(
            &key(1),
            genesis.netid,
            &slot(genesis, 1),
            None,
            transactions,
        )
    }

    /// The block with some change, signed again.
    fn changed(block: &Block, change: impl Fn(&mut Block)) -> Block {
        let mut block = block.clone();
        change(&mut block);
        block.signature = key(1).sign(&block.signed_bytes()).to_bytes();
        block
    }

    #[test]
    fn a_block_is_good_in_its_slot_with_its_activation() {
        let genesis = sample(3);
        let block = early(&genesis);
        assert_eq!(block.verify_alone(&genesis), Ok(()));
        assert_eq!(Block::decode(&block.encode()).unwrap(), block);
        assert_eq!(
            early(&genesis).id(),
            block.id(),
            "making one is deterministic"
        );

        let activation = atx(&genesis, &proof(&genesis, 77, 5), &key(1));
        let id = Some(activation.id());
        let late = |epoch, atx| {
            let slot = slot(&genesis, epoch);
            Block::sign(&key(1), genesis.netid, &slot, atx, [])
        };
        let block = late(6, id);
        assert_eq!(block.verify_alone(&genesis), Ok(()));
        assert_eq!(block.verify_with(&activation, &genesis), Ok(()));
        assert_eq!(late(6, None).verify_alone(&genesis), Err("block-atx"));
        assert_eq!(late(1, id).verify_alone(&genesis), Err("block-atx"));
        let wrong_epoch = late(7, id).verify_with(&activation, &genesis);
        assert_eq!(wrong_epoch, Err("block-atx-epoch"));
        let another = atx(&genesis, &proof(&genesis, 77, 5), &key(2));
        assert_eq!(
            block.verify_with(&another, &genesis),
            Err("block-other-atx")
        );
        let stolen = changed(&block, |block| block.atx = Some(another.id()));
        assert_eq!(
            stolen.verify_with(&another, &genesis),
            Err("block-atx-node")
        );
    }

    type Change<'a> = &'a dyn Fn(&mut Block);

    #[test]
    fn every_wrong_part_is_named() {
        let genesis = sample(3);
        let good = early(&genesis);
        let table: [(Change<'_>, &str); 8] = [
            (&|b| b.netid += 1, "block-netid"),
            (&|b| b.miner = [9; 32], "block-miner"),
            (
                &|b| b.miner = key(2).verifying_key().to_bytes(),
                "block-signature",
            ),
            (&|b| b.layer = 4 + (b.layer + 1) % 4, "block-layer"),
            (&|b| b.slot = 99, "block-slot"),
            (&|b| b.vrf[70] ^= 1, "block-vrf"),
            (&|b| b.transactions.swap(0, 1), "block-transactions"),
            (
                &|b| b.transactions[1] = b.transactions[0].clone(),
                "block-transactions",
            ),
        ];
        for (change, reason) in table {
            let verdict = changed(&good, change).verify_alone(&genesis);
            assert_eq!(verdict, Err(reason));
        }
        let foreign = Genesis {
            netid: 117,
            ..genesis.clone()
        };
        let foreign = Transaction::of_layer(&foreign, &key(0), 9, 0);
        let block = changed(&good, |b| b.transactions = vec![foreign.clone()]);
        assert_eq!(block.verify_alone(&genesis), Err("tx-netid"));
        let verdict = block.verify_alone_knowing(&genesis, |known| *known == foreign);
        assert_eq!(verdict, Ok(()));
    }

    #[test]
    fn a_block_takes_so_many_transactions_and_no_more() {
        let genesis = sample(3);
        let many = transactions(&genesis, 100);
        let slot = slot(&genesis, 0);
        let block = Block::sign(&key(1), genesis.netid, &slot, None, many.clone());
        assert_eq!(block.transactions.len(), TRANSACTIONS_MAX);
        assert_eq!(block.verify_alone(&genesis), Ok(()));
        let crammed = changed(&block, |block| {
            block.transactions.clone_from(&many);
            block.transactions.sort_by_key(Transaction::id);
        });
        assert_eq!(crammed.verify_alone(&genesis), Err("block-transactions"));
        assert!(Block::decode(&crammed.encode()).is_err());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let genesis = sample(3);
        let good = early(&genesis);
        let bytes = good.encode();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(block) = Block::decode(&damaged) {
                assert!(block.verify_alone(&genesis).is_err(), "bit {bit}");
                assert_ne!(block.id(), good.id());
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(decoded) = Block::decode(&bytes) {
                prop_assert_eq!(decoded.encode(), bytes);
            }
        }
    }
}
