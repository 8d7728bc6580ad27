//! The mesh's database: `mesh.redb` in the data directory.
//!
//! What is put is seen by every read at once and is on disk after the next [`Store::commit`], all of
//! it or nothing, so that one sync serves a layer. What must be durable, and when:
//!
//! | table | must be durable before |
//! |---|---|
//! | proofs, ATXs, blocks | a vote that rests on them is sent: if everybody forgot the blocks of a vote at the same moment, its layer would stay open for ever; an own ATX before it is published, since a second one would be a lie |
//! | decisions with their proof | their records leave the voter's log |
//! | accounts and roots | the layer is called verified, so that no restart takes it back |
//! | mark of the voter's log | nothing: the later, the more of a rolled-back log goes unnoticed |
//!
//! Losing what was not committed is safe: the log says what was said, and peers have the rest. A
//! database that is damaged, or of another network, is set aside, and everything is pulled anew. To
//! add a table, add it in `tables.rs`, where a full disk is dealt with too, and its functions here.

use super::decision::Decision;
use super::state::{Account, Root};
use super::tables::{Table, Tables, set_aside};
use super::voter_log::Mark;
use crate::poet::proof::Proof;
use crate::protocol::agreement::{BlockId, Epoch, Layer};
use crate::protocol::atx::{Atx, AtxId, ProofRef};
use crate::protocol::block::Block;
use crate::protocol::genesis::{Genesis, NodeId};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) use super::tables::StoreError;

const NAME: &str = "mesh.redb";
/// Proofs kept decoded: those of two PoETs for the epochs that are of interest.
const PROOFS_IN_MEMORY: usize = 6;
/// Changes with the tables, so that an older database is set aside.
const FORMAT: u32 = 1;

const META_NETWORK: &[u8] = b"network";
const META_LOG: &[u8] = b"voter-log";

/// What a node keeps.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    tables: Tables,
    /// The lowest layer of blocks and the lowest target of ATXs that are not on disk.
    unsaved_from: (Option<Layer>, Option<Epoch>),
    /// The latest ones, decoded.
    proofs: Vec<(ProofRef, Arc<Proof>)>,
}

/// What was found when the database was opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) store: Store,
    /// Why an earlier database is of no use, and where it lies now.
    pub(crate) aside: Option<(String, PathBuf)>,
}

impl Store {
    /// Opens the database in `dir`, or makes it.
    pub(crate) fn open(dir: &Path, genesis: &Genesis) -> Result<Opened, StoreError> {
        let path = dir.join(NAME);
        match Tables::open(&path) {
            Ok(tables) => {
                let mut store = Self::new(path, tables);
                let network = store.tables.get(Table::Meta, META_NETWORK);
                if let Some(error) = store.take_failure() {
                    return Err(error);
                }
                if network.is_some_and(|found| found != network_of(genesis)) {
                    let why = "it is of another network or format".to_owned();
                    return store.begin_anew(genesis, why);
                }
                store.begin(genesis, None)
            }
            Err(error) if error.is_damage() => Self::anew(path, genesis, error.to_string()),
            Err(error) => Err(error),
        }
    }

    /// Sets the database aside and begins an empty one: what it holds cannot be trusted.
    pub(crate) fn begin_anew(self, genesis: &Genesis, why: String) -> Result<Opened, StoreError> {
        let path = self.path.clone();
        drop(self);
        Self::anew(path, genesis, why)
    }

    fn anew(path: PathBuf, genesis: &Genesis, why: String) -> Result<Opened, StoreError> {
        let aside = set_aside(&path)?;
        let tables = Tables::open(&path)?;
        Self::new(path, tables).begin(genesis, Some((why, aside)))
    }

    fn new(path: PathBuf, tables: Tables) -> Self {
        Self {
            path,
            tables,
            unsaved_from: (None, None),
            proofs: Vec::new(),
        }
    }

    fn begin(
        mut self,
        genesis: &Genesis,
        aside: Option<(String, PathBuf)>,
    ) -> Result<Opened, StoreError> {
        self.tables
            .put(Table::Meta, META_NETWORK, network_of(genesis));
        self.commit()?;
        Ok(Opened { store: self, aside })
    }

    /// Writes everything that was put, and waits until it is on disk. True if there was anything.
    pub(crate) fn commit(&mut self) -> Result<bool, StoreError> {
        let written = self.tables.commit()?;
        self.unsaved_from = (None, None);
        Ok(written)
    }

    /// Whether anything waits to be written.
    pub(crate) fn has_unsaved(&self) -> bool {
        self.tables.has_unsaved()
    }

    /// Whether what is said in `epoch` about `layer` could rest on something that is not on disk yet.
    /// The proof of an ATX came before it, and went to disk with it at the latest.
    pub(crate) fn has_unsaved_grounds(&self, layer: Layer, epoch: Epoch) -> bool {
        let (blocks, atxs) = self.unsaved_from;
        blocks.is_some_and(|from| from <= layer) || atxs.is_some_and(|from| from <= epoch)
    }

    /// Whether the disk has not taken anything for so long that there is no room in memory.
    pub(crate) fn is_full(&self) -> bool {
        self.tables.is_full()
    }

    /// Why a read came to nothing, if one did.
    pub(crate) fn take_failure(&mut self) -> Option<StoreError> {
        self.tables.take_failure()
    }

    pub(crate) fn put_proof(&mut self, reference: ProofRef, proof: Proof) -> Arc<Proof> {
        self.tables.put(Table::Proofs, &reference, proof.encode());
        let key = epoch_key(proof.round, &proof.service);
        if self.tables.get(Table::ProofOf, &key).is_none() {
            self.tables.put(Table::ProofOf, &key, reference.to_vec());
        }
        self.remember(reference, Arc::new(proof))
    }

    pub(crate) fn has_proof(&mut self, reference: &ProofRef) -> bool {
        self.proofs.iter().any(|(known, _)| known == reference)
            || self.tables.get(Table::Proofs, reference).is_some()
    }

    pub(crate) fn proof_bytes(&mut self, reference: &ProofRef) -> Option<Vec<u8>> {
        self.tables.get(Table::Proofs, reference)
    }

    pub(crate) fn proof(&mut self, reference: &ProofRef) -> Option<Arc<Proof>> {
        if let Some((_, proof)) = self.proofs.iter().find(|(known, _)| known == reference) {
            return Some(Arc::clone(proof));
        }
        let proof = Proof::decode(&self.tables.get(Table::Proofs, reference)?).ok()?;
        Some(self.remember(*reference, Arc::new(proof)))
    }

    /// The first valid proof of a PoET's round.
    pub(crate) fn proof_of(&mut self, poet: &[u8; 32], round: u32) -> Option<ProofRef> {
        array(&self.tables.get(Table::ProofOf, &epoch_key(round, poet))?)
    }

    /// The first valid proofs of all PoETs for a round.
    pub(crate) fn proofs_of_round(&mut self, round: u32) -> Vec<ProofRef> {
        self.tables
            .scan(Table::ProofOf, &round.to_be_bytes(), |_, reference| {
                array(reference)
            })
    }

    /// Puts a valid ATX; the first of its node for its epoch is found by them from then on.
    pub(crate) fn put_atx(&mut self, id: AtxId, atx: &Atx) {
        self.tables.put(Table::Atxs, &id.0, atx.encode());
        let target = atx.target_epoch();
        let lowest = self.unsaved_from.1.map_or(target, |from| from.min(target));
        self.unsaved_from.1 = Some(lowest);
        let key = epoch_key(target, &atx.node);
        if self.tables.get(Table::AtxOf, &key).is_none() {
            self.tables.put(Table::AtxOf, &key, id.0.to_vec());
            let latest = self.latest_atx(&atx.node);
            if latest.is_none_or(|(epoch, _)| epoch < target) {
                let value = [&target.to_be_bytes()[..], &id.0].concat();
                self.tables.put(Table::Latest, &atx.node, value);
            }
        }
    }

    pub(crate) fn atx_bytes(&mut self, id: &AtxId) -> Option<Vec<u8>> {
        self.tables.get(Table::Atxs, &id.0)
    }

    pub(crate) fn atx(&mut self, id: &AtxId) -> Option<Atx> {
        Atx::decode(&self.tables.get(Table::Atxs, &id.0)?).ok()
    }

    /// The first valid ATX of a node that targets an epoch.
    pub(crate) fn atx_of(&mut self, target: Epoch, node: &NodeId) -> Option<AtxId> {
        array(&self.tables.get(Table::AtxOf, &epoch_key(target, node))?).map(AtxId)
    }

    /// Target epoch and id of a node's latest ATX.
    pub(crate) fn latest_atx(&mut self, node: &NodeId) -> Option<(Epoch, AtxId)> {
        let value = self.tables.get(Table::Latest, node)?;
        let (epoch, id) = value.split_first_chunk()?;
        Some((u32::from_be_bytes(*epoch), AtxId(array(id)?)))
    }

    /// The first valid ATXs that target an epoch, by node.
    pub(crate) fn atxs_of_epoch(&mut self, target: Epoch) -> Vec<(NodeId, AtxId)> {
        self.tables
            .scan(Table::AtxOf, &target.to_be_bytes(), |key, id| {
                Some((array(key.get(4..)?)?, AtxId(array(id)?)))
            })
    }

    /// All (target epoch, node) that have an ATX, from an epoch on.
    pub(crate) fn atxs_from(&mut self, target: Epoch) -> Vec<(Epoch, NodeId)> {
        let all = |_: &[u8]| true;
        self.tables
            .scan_while(Table::AtxOf, &target.to_be_bytes(), all, |key, _| {
                let (epoch, node) = key.split_first_chunk()?;
                Some((u32::from_be_bytes(*epoch), array(node)?))
            })
    }

    pub(crate) fn put_block(&mut self, id: &BlockId, block: &Block) {
        let layer = block.layer;
        let lowest = self.unsaved_from.0.map_or(layer, |from| from.min(layer));
        self.unsaved_from.0 = Some(lowest);
        self.tables.put(
            Table::Blocks,
            &epoch_key(block.layer, &id.0),
            block.encode(),
        );
    }

    pub(crate) fn block_bytes(&mut self, layer: Layer, id: &BlockId) -> Option<Vec<u8>> {
        self.tables.get(Table::Blocks, &epoch_key(layer, &id.0))
    }

    pub(crate) fn block(&mut self, layer: Layer, id: &BlockId) -> Option<Block> {
        Block::decode(&self.block_bytes(layer, id)?).ok()
    }

    /// All blocks of a layer.
    pub(crate) fn block_ids(&mut self, layer: Layer) -> Vec<BlockId> {
        self.tables
            .scan(Table::Blocks, &layer.to_be_bytes(), |key, _| {
                array(key.get(4..)?).map(BlockId)
            })
    }

    /// Layer, id, miner and slot of all blocks from a layer on.
    pub(crate) fn blocks_from(&mut self, layer: Layer) -> Vec<(Layer, BlockId, NodeId, u32)> {
        let all = |_: &[u8]| true;
        self.tables
            .scan_while(Table::Blocks, &layer.to_be_bytes(), all, |key, bytes| {
                let (layer, id) = key.split_first_chunk()?;
                let block = Block::decode(bytes).ok()?;
                let layer = u32::from_be_bytes(*layer);
                Some((layer, BlockId(array(id)?), block.miner, block.slot))
            })
    }

    pub(crate) fn put_decision(&mut self, layer: Layer, decision: &Decision) {
        self.tables
            .put(Table::Decisions, &layer.to_be_bytes(), decision.encode());
    }

    pub(crate) fn decision(&mut self, layer: Layer) -> Option<Decision> {
        Decision::decode(&self.tables.get(Table::Decisions, &layer.to_be_bytes())?).ok()
    }

    /// All decided layers, ascending. For the start only: it walks over every decision.
    pub(crate) fn decided(&mut self) -> Vec<Layer> {
        self.tables.scan(Table::Decisions, &[], |key, _| {
            array(key).map(u32::from_be_bytes)
        })
    }

    pub(crate) fn put_root(&mut self, layer: Layer, root: &Root) {
        self.tables
            .put(Table::Roots, &layer.to_be_bytes(), root.to_vec());
    }

    pub(crate) fn root(&mut self, layer: Layer) -> Option<Root> {
        array(&self.tables.get(Table::Roots, &layer.to_be_bytes())?)
    }

    /// The last applied layer. For the start only: it walks over every root.
    pub(crate) fn last_applied(&mut self) -> Option<Layer> {
        let layers = self.tables.scan(Table::Roots, &[], |key, _| array(key));
        layers.last().copied().map(u32::from_be_bytes)
    }

    pub(crate) fn put_account(&mut self, node: &NodeId, account: &Account) {
        self.tables.put(Table::Accounts, node, account.encode());
    }

    /// All accounts that ever changed.
    pub(crate) fn accounts(&mut self) -> BTreeMap<NodeId, Account> {
        let account = |key: &[u8], bytes: &[u8]| Some((array(key)?, Account::decode(bytes).ok()?));
        self.tables
            .scan(Table::Accounts, &[], account)
            .into_iter()
            .collect()
    }

    pub(crate) fn put_mark(&mut self, mark: Mark) {
        let value = [mark.generation.to_be_bytes(), mark.len.to_be_bytes()].concat();
        self.tables.put(Table::Meta, META_LOG, value);
    }

    pub(crate) fn mark(&mut self) -> Mark {
        let value = self.tables.get(Table::Meta, META_LOG).unwrap_or_default();
        let number = |range| {
            let field = value.get::<std::ops::Range<usize>>(range).and_then(array);
            field.map_or(0, u64::from_be_bytes)
        };
        Mark {
            generation: number(0..8),
            len: number(8..16),
        }
    }

    fn remember(&mut self, reference: ProofRef, proof: Arc<Proof>) -> Arc<Proof> {
        if self.proofs.len() >= PROOFS_IN_MEMORY {
            self.proofs.remove(0);
        }
        self.proofs.push((reference, Arc::clone(&proof)));
        proof
    }
}

/// What must be the same for a database to be of use.
fn network_of(genesis: &Genesis) -> Vec<u8> {
    let mut hash = Sha256::new()
        .chain_update(FORMAT.to_be_bytes())
        .chain_update(genesis.netid.to_be_bytes())
        .chain_update(genesis.layers_per_epoch.to_be_bytes())
        .chain_update(genesis.slots_per_epoch.to_be_bytes())
        .chain_update(genesis.poet.leaves().to_be_bytes())
        .chain_update(genesis.poet.depth().to_be_bytes())
        .chain_update(genesis.poet.openings().to_be_bytes());
    for miner in genesis.voters.iter().chain(&genesis.miners) {
        hash.update(miner);
    }
    hash.finalize().to_vec()
}

/// A number, then 32 bytes: what belongs to an epoch, layer or round lies together.
fn epoch_key(number: u32, id: &[u8; 32]) -> [u8; 36] {
    let mut key = [0; 36];
    key[..4].copy_from_slice(&number.to_be_bytes());
    key[4..].copy_from_slice(id);
    key
}

fn array<const N: usize>(bytes: impl AsRef<[u8]>) -> Option<[u8; N]> {
    bytes.as_ref().try_into().ok()
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
