//! Making blocks: which slots fall into a layer, and what was made for them, on disk.
//!
//! A miner makes one block per slot, so what it has made for a layer is written down before anybody
//! sees it; a miner that starts again within the layer hands out the same bytes. Only the latest layer
//! is kept: for an older one, after a clock was set back, nothing is made, and nothing for the first
//! layer after the notes were damaged. They are not synced: where a host goes down within the layer, a
//! slot may get a second block, which everybody is prepared for. When a miner may make blocks is for
//! its role.

use crate::activation::record::{Record, RecordError};
use crate::p2p::codec::{Reader, WireError, Writer};
use crate::protocol::atx::AtxId;
use crate::protocol::block::Block;
use crate::protocol::eligibility::{self, Slot};
use crate::protocol::genesis::Genesis;
use crate::protocol::transaction::Transaction;
use crate::protocol::vrf::VrfError;
use ed25519_dalek::SigningKey;
use std::path::Path;

const FILE: &str = "blocks.bin";
/// More than a block with all the transactions that it may have.
const BLOCK_MAX: u16 = 32_000;

/// Why there is no block.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlockError {
    #[error("{0}")]
    Record(#[from] RecordError),
    #[error("no slot can be drawn: {0}")]
    Vrf(#[from] VrfError),
    #[error("the mesh does not take it: {0}")]
    Refused(&'static str),
}

/// The blocks of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Made {
    layer: u32,
    blocks: Vec<Block>,
}

/// Makes the blocks of one miner.
#[derive(Debug)]
pub(crate) struct BlockMaker {
    record: Record,
    made: Option<Made>,
    /// What was made for the layer of the start is not known.
    unsure: bool,
    /// The slots of an epoch, drawn when it is first asked for.
    slots: Option<(u32, Vec<Slot>)>,
}

impl BlockMaker {
    /// Goes on from what is in `data_dir`; also why that is of no use, if it is not.
    pub(crate) fn open(data_dir: &Path) -> (Self, Option<RecordError>) {
        let record = Record::new(data_dir.join(FILE), "tweedledum blocks of a layer 1");
        let loaded = record.load().and_then(|bytes| match bytes {
            Some(bytes) => Made::decode(&bytes)
                .map(Some)
                .map_err(|error| record.damaged(&error)),
            None => Ok(None),
        });
        let (made, error) = match loaded {
            Ok(made) => (made, None),
            Err(error) => (None, Some(error)),
        };
        let maker = Self {
            record,
            made,
            unsure: error.is_some(),
            slots: None,
        };
        (maker, error)
    }

    /// The slots of the holder of `key` in a layer.
    pub(crate) fn slots(
        &mut self,
        genesis: &Genesis,
        key: &SigningKey,
        layer: u32,
    ) -> Result<Vec<Slot>, BlockError> {
        let epoch = genesis.epoch_of(layer);
        if self.slots.as_ref().is_none_or(|(drawn, _)| *drawn != epoch) {
            self.slots = Some((epoch, eligibility::own_slots(genesis, key, epoch)?));
        }
        let slots = self.slots.iter().flat_map(|(_, slots)| slots);
        Ok(slots.filter(|slot| slot.layer == layer).copied().collect())
    }

    /// The blocks for `slots`, all of one layer: those that were made for it before, or new ones,
    /// which are written down by then. Slots share out the transactions.
    pub(crate) fn make(
        &mut self,
        genesis: &Genesis,
        key: &SigningKey,
        slots: &[Slot],
        atx: Option<AtxId>,
        transactions: Vec<Transaction>,
    ) -> Result<Vec<Block>, BlockError> {
        let Some(layer) = slots.first().map(|slot| slot.layer) else {
            return Ok(Vec::new());
        };
        match &self.made {
            Some(made) if made.layer == layer => return Ok(made.blocks.clone()),
            Some(made) if made.layer > layer => return Ok(Vec::new()),
            _ => {}
        }
        if self.unsure {
            self.unsure = false;
            self.made = Some(Made {
                layer,
                blocks: Vec::new(),
            });
            return Ok(Vec::new());
        }
        let mut shares = vec![Vec::new(); slots.len()];
        for (transaction, turn) in transactions.into_iter().zip((0..slots.len()).cycle()) {
            shares[turn].push(transaction);
        }
        let blocks = slots.iter().zip(shares);
        let blocks = blocks.map(|(slot, share)| Block::sign(key, genesis.netid, slot, atx, share));
        let made = Made {
            layer,
            blocks: blocks.collect(),
        };
        self.record.note(&made.encode())?;
        Ok(self.made.insert(made).blocks.clone())
    }
}

impl Made {
    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u32(self.layer);
        out.u16(u16::try_from(self.blocks.len()).unwrap_or(u16::MAX));
        for block in &self.blocks {
            out.bytes(&block.encode(), BLOCK_MAX);
        }
        out.done()
    }

    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let layer = reader.u32("the layer of blocks")?;
        let count = reader.u16("the number of blocks")?;
        let blocks = (0..count)
            .map(|_| Block::decode(reader.bytes("a block", BLOCK_MAX.into())?))
            .collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Self { layer, blocks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::block::TRANSACTIONS_MAX;
    use crate::protocol::genesis::tests::{key, sample};

    fn transactions(genesis: &Genesis, count: u32) -> Vec<Transaction> {
        (0..count)
            .map(|index| Transaction::of_layer(genesis, &key(1), 7, index))
            .collect()
    }

    #[test]
    fn a_full_block_fits_its_record() {
        let most = Transaction::BYTES * TRANSACTIONS_MAX + 1_000;
        assert!(most < usize::from(BLOCK_MAX), "{most}");
    }

    #[test]
    fn a_slot_gets_one_block_however_often_the_miner_starts() {
        let dir = tempfile::tempdir().unwrap();
        let genesis = sample(1);
        let (mut maker, _) = BlockMaker::open(dir.path());
        // A lone miner has four slots in the four layers of an epoch, here or there two in one.
        let of_layer =
            |maker: &mut BlockMaker, layer| maker.slots(&genesis, &key(0), layer).unwrap();
        let all: Vec<Slot> = (0..40)
            .flat_map(|layer| of_layer(&mut maker, layer))
            .collect();
        assert_eq!(all.len(), 40);
        let layer = (0..40).find(|layer| of_layer(&mut maker, *layer).len() > 1);
        let layer = layer.unwrap();
        let slots = of_layer(&mut maker, layer);
        let some = transactions(&genesis, 5);
        let first = maker.make(&genesis, &key(0), &slots, None, some.clone());
        let first = first.unwrap();
        assert_eq!(first.len(), slots.len());
        let shared: usize = first.iter().map(|block| block.transactions.len()).sum();
        assert_eq!(shared, 5, "each transaction once");

        let (mut maker, _) = BlockMaker::open(dir.path());
        let again = maker.make(&genesis, &key(0), &slots, None, Vec::new());
        assert_eq!(again.unwrap(), first);
        let later = (layer + 1..layer + 40).find(|layer| !of_layer(&mut maker, *layer).is_empty());
        let slots_later = of_layer(&mut maker, later.unwrap());
        let new = maker.make(&genesis, &key(0), &slots_later, None, some.clone());
        assert_eq!(new.unwrap().len(), slots_later.len());
        // The clock was set back.
        for mut maker in [maker, BlockMaker::open(dir.path()).0] {
            let old = maker.make(&genesis, &key(0), &slots, None, some.clone());
            assert_eq!(old.unwrap(), []);
        }
    }

    #[test]
    fn what_cannot_be_written_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let genesis = sample(1);
        let (mut maker, _) = BlockMaker::open(dir.path());
        let layer =
            (0..40).find(|layer| !maker.slots(&genesis, &key(0), *layer).unwrap().is_empty());
        let slots = maker.slots(&genesis, &key(0), layer.unwrap()).unwrap();
        fs_err::create_dir(dir.path().join("blocks.new")).unwrap();
        let failed = maker.make(&genesis, &key(0), &slots, None, Vec::new());
        assert!(matches!(failed, Err(BlockError::Record(_))), "{failed:?}");
        fs_err::remove_dir(dir.path().join("blocks.new")).unwrap();
        let made = maker.make(&genesis, &key(0), &slots, None, Vec::new());
        assert_eq!(made.unwrap().len(), slots.len());
    }

    #[test]
    fn after_damage_the_first_layer_gets_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let genesis = sample(1);
        fs_err::write(dir.path().join(FILE), [0; 99]).unwrap();
        let (mut maker, error) = BlockMaker::open(dir.path());
        assert!(
            matches!(error, Some(RecordError::Damaged { .. })),
            "{error:?}"
        );
        let mut counts = Vec::new();
        for layer in (0..40).chain(0..40) {
            let slots = maker.slots(&genesis, &key(0), layer).unwrap();
            let made = maker.make(&genesis, &key(0), &slots, None, Vec::new());
            counts.push((slots.len(), made.unwrap().len()));
        }
        let with_slots: Vec<_> = counts[..40]
            .iter()
            .filter(|(slots, _)| *slots > 0)
            .collect();
        assert_eq!(with_slots[0].1, 0);
        assert!(with_slots[1..].iter().all(|(slots, made)| slots == made));
        assert!(counts[40..60].iter().all(|(_, made)| *made == 0));
    }
}
