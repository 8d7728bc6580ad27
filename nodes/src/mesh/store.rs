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
//! add a table, add a row to [`Table`]. A full disk keeps what was put in memory, up to
//! [`UNSAVED_MAX`] bytes, and is tried again with each commit.

use super::state::{Account, Root};
use super::voter_log::Mark;
use crate::p2p::codec::{Reader, WireError, Writer};
use crate::poet::proof::Proof;
use crate::protocol::agreement::{
    BlockId, BlockSet, Body, Epoch, Layer, Message, Round, Signature, Signed, Voter,
};
use crate::protocol::atx::{Atx, AtxId, ProofRef};
use crate::protocol::block::Block;
use crate::protocol::genesis::{Genesis, NodeId};
use fs_err as fs;
use redb::{Builder, Database, ReadableDatabase as _, TableDefinition};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const NAME: &str = "mesh.redb";
/// Memory for pages of the database; the default of a gigabyte is not wanted.
const CACHE_BYTES: usize = 1 << 20;
/// The most that is kept in memory while the disk does not take it: a quarter of a minute at four
/// layers a second with proofs of two PoETs.
pub(crate) const UNSAVED_MAX: usize = 8 << 20;
/// Proofs kept decoded: those of two PoETs for the epochs that are of interest.
const PROOFS_IN_MEMORY: usize = 6;
/// Changes with the tables, so that an older database is set aside.
const FORMAT: u32 = 1;

/// What the database holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Table {
    /// By reference.
    Proofs,
    /// Round and PoET: the reference of the first valid proof.
    ProofOf,
    /// By id.
    Atxs,
    /// Target epoch and node: the id of the first valid ATX.
    AtxOf,
    /// Node: target epoch and id of its latest ATX.
    Latest,
    /// Layer and id.
    Blocks,
    Decisions,
    Roots,
    Accounts,
    Meta,
}

impl Table {
    const ALL: [Self; 10] = [
        Self::Proofs,
        Self::ProofOf,
        Self::Atxs,
        Self::AtxOf,
        Self::Latest,
        Self::Blocks,
        Self::Decisions,
        Self::Roots,
        Self::Accounts,
        Self::Meta,
    ];

    fn definition(self) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
        TableDefinition::new(match self {
            Self::Proofs => "proofs",
            Self::ProofOf => "proof-of",
            Self::Atxs => "atxs",
            Self::AtxOf => "atx-of",
            Self::Latest => "latest-atx",
            Self::Blocks => "blocks",
            Self::Decisions => "decisions",
            Self::Roots => "roots",
            Self::Accounts => "accounts",
            Self::Meta => "meta",
        })
    }
}

const META_NETWORK: &[u8] = b"network";
const META_LOG: &[u8] = b"voter-log";

/// The database and what is not in it yet.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    /// None after an error, until the next use opens it again.
    database: Option<Database>,
    unsaved: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
    unsaved_bytes: usize,
    proofs: Vec<(ProofRef, Arc<Proof>)>,
    /// A read that failed: the node must not go on as if nothing were there.
    failure: Option<StoreError>,
}

/// A database that does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("the mesh's database {} cannot be {what}: {source}", path.display())]
    Database {
        what: &'static str,
        path: PathBuf,
        source: Box<redb::Error>,
    },
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// What was found when the database was opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) store: Store,
    /// Why an earlier database is of no use, and where it lies now.
    pub(crate) aside: Option<(String, PathBuf)>,
}

/// What a quorum agreed on for a layer, with its commits, which say all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) round: Round,
    pub(crate) set: BlockSet,
    pub(crate) commits: Vec<(Voter, Epoch, Signature)>,
}

impl Store {
    /// Opens the database in `dir`, or makes it.
    pub(crate) fn open(dir: &Path, genesis: &Genesis) -> Result<Opened, StoreError> {
        let path = dir.join(NAME);
        let fits = |store: &Store| {
            let network = network_of(genesis);
            match store.read(Table::Meta, META_NETWORK)? {
                Some(found) if found == network => Ok(None),
                Some(_) => Ok(Some("it is of another network or format".to_owned())),
                None => Ok::<_, redb::Error>(None),
            }
        };
        let mut aside = None;
        let tried = Self::open_path(&path).and_then(|store| match fits(&store)? {
            None => Ok(Ok(store)),
            Some(why) => Ok(Err(why)),
        });
        let mut store = match tried {
            Ok(Ok(store)) => store,
            Ok(Err(why)) => Self::anew(&path, why, &mut aside)?,
            Err(error) if is_damage(&error) => Self::anew(&path, error.to_string(), &mut aside)?,
            Err(error) => return Err(failed("opened", &path)(error)),
        };
        store.put(Table::Meta, META_NETWORK, network_of(genesis));
        store.commit()?;
        Ok(Opened { store, aside })
    }

    /// Sets the database aside and begins an empty one: what it holds cannot be trusted.
    pub(crate) fn begin_anew(self, genesis: &Genesis, why: String) -> Result<Opened, StoreError> {
        let (path, mut aside) = (self.path.clone(), None);
        drop(self);
        let mut store = Self::anew(&path, why, &mut aside)?;
        store.put(Table::Meta, META_NETWORK, network_of(genesis));
        store.commit()?;
        Ok(Opened { store, aside })
    }

    fn anew(
        path: &Path,
        why: String,
        aside: &mut Option<(String, PathBuf)>,
    ) -> Result<Self, StoreError> {
        let mut taken = 0_u32;
        let target = loop {
            let target = path.with_extension(format!("redb.damaged-{taken}"));
            if !fs::exists(&target)? {
                break target;
            }
            taken = taken.saturating_add(1);
        };
        fs::rename(path, &target)?;
        *aside = Some((why, target));
        Self::open_path(path).map_err(failed("opened", path))
    }

    fn open_path(path: &Path) -> Result<Self, redb::Error> {
        Ok(Self {
            path: path.to_owned(),
            database: Some(create(path)?),
            unsaved: BTreeMap::new(),
            unsaved_bytes: 0,
            proofs: Vec::new(),
            failure: None,
        })
    }

    /// Writes everything that was put, and waits until it is on disk. True if there was anything.
    pub(crate) fn commit(&mut self) -> Result<bool, StoreError> {
        if self.unsaved.is_empty() {
            return Ok(false);
        }
        let database = match self.database.take() {
            Some(database) => database,
            None => create(&self.path).map_err(failed("opened again", &self.path))?,
        };
        write(&database, &self.unsaved).map_err(failed("written", &self.path))?;
        self.database = Some(database);
        self.unsaved.clear();
        self.unsaved_bytes = 0;
        Ok(true)
    }

    /// Whether anything waits to be written.
    pub(crate) fn has_unsaved(&self) -> bool {
        !self.unsaved.is_empty()
    }

    /// Whether a vote could rest on something that is not on disk yet.
    pub(crate) fn has_unsaved_grounds(&self) -> bool {
        [Table::Proofs, Table::Atxs, Table::Blocks]
            .into_iter()
            .any(|table| self.unsaved_of(table, &[]).next().is_some())
    }

    /// Whether the disk has not taken anything for so long that there is no room in memory.
    pub(crate) fn is_full(&self) -> bool {
        self.unsaved_bytes > UNSAVED_MAX
    }

    /// Why a read came to nothing, if one did.
    pub(crate) fn take_failure(&mut self) -> Option<StoreError> {
        self.failure.take()
    }

    pub(crate) fn put_proof(&mut self, reference: ProofRef, proof: Proof) -> Arc<Proof> {
        self.put(Table::Proofs, &reference, proof.encode());
        let key = epoch_key(proof.round, &proof.service);
        if self.get(Table::ProofOf, &key).is_none() {
            self.put(Table::ProofOf, &key, reference.to_vec());
        }
        self.remember(reference, Arc::new(proof))
    }

    pub(crate) fn has_proof(&mut self, reference: &ProofRef) -> bool {
        self.proofs.iter().any(|(known, _)| known == reference)
            || self.get(Table::Proofs, reference).is_some()
    }

    pub(crate) fn proof_bytes(&mut self, reference: &ProofRef) -> Option<Vec<u8>> {
        self.get(Table::Proofs, reference)
    }

    pub(crate) fn proof(&mut self, reference: &ProofRef) -> Option<Arc<Proof>> {
        if let Some((_, proof)) = self.proofs.iter().find(|(known, _)| known == reference) {
            return Some(Arc::clone(proof));
        }
        let proof = Proof::decode(&self.get(Table::Proofs, reference)?).ok()?;
        Some(self.remember(*reference, Arc::new(proof)))
    }

    /// The first valid proof of a PoET's round.
    pub(crate) fn proof_of(&mut self, poet: &[u8; 32], round: u32) -> Option<ProofRef> {
        array(&self.get(Table::ProofOf, &epoch_key(round, poet))?)
    }

    /// The first valid proofs of all PoETs for a round.
    pub(crate) fn proofs_of_round(&mut self, round: u32) -> Vec<ProofRef> {
        self.scan(Table::ProofOf, &round.to_be_bytes(), |_, reference| {
            array(reference)
        })
    }

    /// Puts a valid ATX; the first of its node for its epoch is found by them from then on.
    pub(crate) fn put_atx(&mut self, id: AtxId, atx: &Atx) {
        self.put(Table::Atxs, &id.0, atx.encode());
        let target = atx.target_epoch();
        let key = epoch_key(target, &atx.node);
        if self.get(Table::AtxOf, &key).is_none() {
            self.put(Table::AtxOf, &key, id.0.to_vec());
            let latest = self.latest_atx(&atx.node);
            if latest.is_none_or(|(epoch, _)| epoch < target) {
                let value = [&target.to_be_bytes()[..], &id.0].concat();
                self.put(Table::Latest, &atx.node, value);
            }
        }
    }

    pub(crate) fn atx_bytes(&mut self, id: &AtxId) -> Option<Vec<u8>> {
        self.get(Table::Atxs, &id.0)
    }

    pub(crate) fn atx(&mut self, id: &AtxId) -> Option<Atx> {
        Atx::decode(&self.get(Table::Atxs, &id.0)?).ok()
    }

    /// The first valid ATX of a node that targets an epoch.
    pub(crate) fn atx_of(&mut self, target: Epoch, node: &NodeId) -> Option<AtxId> {
        array(&self.get(Table::AtxOf, &epoch_key(target, node))?).map(AtxId)
    }

    /// Target epoch and id of a node's latest ATX.
    pub(crate) fn latest_atx(&mut self, node: &NodeId) -> Option<(Epoch, AtxId)> {
        let value = self.get(Table::Latest, node)?;
        let (epoch, id) = value.split_first_chunk()?;
        Some((u32::from_be_bytes(*epoch), AtxId(array(id)?)))
    }

    /// The first valid ATXs that target an epoch, by node.
    pub(crate) fn atxs_of_epoch(&mut self, target: Epoch) -> Vec<(NodeId, AtxId)> {
        self.scan(Table::AtxOf, &target.to_be_bytes(), |key, id| {
            Some((array(key.get(4..)?)?, AtxId(array(id)?)))
        })
    }

    /// All (target epoch, node) that have an ATX, from an epoch on.
    pub(crate) fn atxs_from(&mut self, target: Epoch) -> Vec<(Epoch, NodeId)> {
        let all = |_: &[u8]| true;
        self.scan_while(Table::AtxOf, &target.to_be_bytes(), all, |key, _| {
            let (epoch, node) = key.split_first_chunk()?;
            Some((u32::from_be_bytes(*epoch), array(node)?))
        })
    }

    pub(crate) fn put_block(&mut self, id: &BlockId, block: &Block) {
        self.put(
            Table::Blocks,
            &epoch_key(block.layer, &id.0),
            block.encode(),
        );
    }

    pub(crate) fn block_bytes(&mut self, layer: Layer, id: &BlockId) -> Option<Vec<u8>> {
        self.get(Table::Blocks, &epoch_key(layer, &id.0))
    }

    pub(crate) fn block(&mut self, layer: Layer, id: &BlockId) -> Option<Block> {
        Block::decode(&self.block_bytes(layer, id)?).ok()
    }

    /// All blocks of a layer.
    pub(crate) fn block_ids(&mut self, layer: Layer) -> Vec<BlockId> {
        self.scan(Table::Blocks, &layer.to_be_bytes(), |key, _| {
            array(key.get(4..)?).map(BlockId)
        })
    }

    /// Layer, id, miner and slot of all blocks from a layer on.
    pub(crate) fn blocks_from(&mut self, layer: Layer) -> Vec<(Layer, BlockId, NodeId, u32)> {
        let all = |_: &[u8]| true;
        self.scan_while(Table::Blocks, &layer.to_be_bytes(), all, |key, bytes| {
            let (layer, id) = key.split_first_chunk()?;
            let block = Block::decode(bytes).ok()?;
            let layer = u32::from_be_bytes(*layer);
            Some((layer, BlockId(array(id)?), block.miner, block.slot))
        })
    }

    pub(crate) fn put_decision(&mut self, layer: Layer, decision: &Decision) {
        self.put(Table::Decisions, &layer.to_be_bytes(), decision.encode());
    }

    pub(crate) fn decision(&mut self, layer: Layer) -> Option<Decision> {
        Decision::decode(&self.get(Table::Decisions, &layer.to_be_bytes())?).ok()
    }

    /// All decided layers, ascending. For the start only: it walks over every decision.
    pub(crate) fn decided(&mut self) -> Vec<Layer> {
        self.scan(Table::Decisions, &[], |key, _| {
            array(key).map(u32::from_be_bytes)
        })
    }

    pub(crate) fn put_root(&mut self, layer: Layer, root: &Root) {
        self.put(Table::Roots, &layer.to_be_bytes(), root.to_vec());
    }

    pub(crate) fn root(&mut self, layer: Layer) -> Option<Root> {
        array(&self.get(Table::Roots, &layer.to_be_bytes())?)
    }

    /// The last applied layer. For the start only: it walks over every root.
    pub(crate) fn last_applied(&mut self) -> Option<Layer> {
        let layers = self.scan(Table::Roots, &[], |key, _| array(key));
        layers.last().copied().map(u32::from_be_bytes)
    }

    pub(crate) fn put_account(&mut self, node: &NodeId, account: &Account) {
        self.put(Table::Accounts, node, account.encode());
    }

    /// All accounts that ever changed.
    pub(crate) fn accounts(&mut self) -> BTreeMap<NodeId, Account> {
        let account = |key: &[u8], bytes: &[u8]| Some((array(key)?, Account::decode(bytes).ok()?));
        self.scan(Table::Accounts, &[], account)
            .into_iter()
            .collect()
    }

    pub(crate) fn put_mark(&mut self, mark: Mark) {
        let value = [mark.generation.to_be_bytes(), mark.len.to_be_bytes()].concat();
        self.put(Table::Meta, META_LOG, value);
    }

    pub(crate) fn mark(&mut self) -> Mark {
        let value = self.get(Table::Meta, META_LOG).unwrap_or_default();
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

    fn put(&mut self, table: Table, key: &[u8], value: Vec<u8>) {
        self.unsaved_bytes += key.len() + value.len();
        if let Some(old) = self.unsaved.insert((table, key.to_vec()), value) {
            self.unsaved_bytes -= key.len() + old.len();
        }
    }

    fn get(&mut self, table: Table, key: &[u8]) -> Option<Vec<u8>> {
        if let Some(value) = self.unsaved.get(&(table, key.to_vec())) {
            return Some(value.clone());
        }
        let read = self.with_database(|store| store.read(table, key));
        self.or_failure(read)
    }

    /// What `map` makes of every entry whose key begins with `prefix`, in the order of keys.
    fn scan<T>(
        &mut self,
        table: Table,
        prefix: &[u8],
        map: impl Fn(&[u8], &[u8]) -> Option<T>,
    ) -> Vec<T> {
        self.scan_while(table, prefix, |key| key.starts_with(prefix), map)
    }

    /// As [`Self::scan`], for keys from `from` on while `wanted` says so.
    fn scan_while<T>(
        &mut self,
        table: Table,
        from: &[u8],
        wanted: impl Fn(&[u8]) -> bool,
        map: impl Fn(&[u8], &[u8]) -> Option<T>,
    ) -> Vec<T> {
        let read = self.with_database(|store| store.read_range(table, from, &wanted, &map));
        let mut found = self.or_failure(read.map(Some)).unwrap_or_default();
        let unsaved = self
            .unsaved_of(table, from)
            .take_while(|(key, _)| wanted(key));
        for (key, value) in unsaved {
            if let Some(mapped) = map(key, value) {
                found.insert(key.to_vec(), mapped);
            }
        }
        found.into_values().collect()
    }

    fn unsaved_of(&self, table: Table, from: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.unsaved
            .range((table, from.to_vec())..)
            .take_while(move |((of, _), _)| *of == table)
            .map(|((_, key), value)| (&key[..], &value[..]))
    }

    /// Reads, and once more after opening the database again, since one that met an error gives no
    /// answers any more.
    fn with_database<T>(
        &mut self,
        read: impl Fn(&Self) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        if self.database.is_some()
            && let Ok(found) = read(self)
        {
            return Ok(found);
        }
        self.database = None;
        self.database = Some(create(&self.path)?);
        read(self)
    }

    fn or_failure<T>(&mut self, read: Result<Option<T>, redb::Error>) -> Option<T> {
        match read {
            Ok(found) => found,
            Err(error) => {
                self.failure
                    .get_or_insert(failed("read", &self.path)(error));
                None
            }
        }
    }

    fn read(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, redb::Error> {
        let Some(database) = &self.database else {
            return Ok(None);
        };
        let table = match database.begin_read()?.open_table(table.definition()) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            table => table?,
        };
        Ok(table.get(key)?.map(|value| value.value().to_vec()))
    }

    fn read_range<T>(
        &self,
        table: Table,
        from: &[u8],
        wanted: &impl Fn(&[u8]) -> bool,
        map: &impl Fn(&[u8], &[u8]) -> Option<T>,
    ) -> Result<BTreeMap<Vec<u8>, T>, redb::Error> {
        let mut found = BTreeMap::new();
        let Some(database) = &self.database else {
            return Ok(found);
        };
        let table = match database.begin_read()?.open_table(table.definition()) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(found),
            table => table?,
        };
        for entry in table.range(from..)? {
            let (key, value) = entry?;
            if !wanted(key.value()) {
                break;
            }
            if let Some(mapped) = map(key.value(), value.value()) {
                found.insert(key.value().to_vec(), mapped);
            }
        }
        Ok(found)
    }
}

/// A file that was changed by other hands is refused instead of trusted.
fn create(path: &Path) -> Result<Database, redb::Error> {
    let database = Builder::new()
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true)
        .create(path)?;
    Ok(database)
}

fn write(
    database: &Database,
    unsaved: &BTreeMap<(Table, Vec<u8>), Vec<u8>>,
) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    for table in Table::ALL {
        let mut of_table = unsaved
            .range((table, Vec::new())..)
            .take_while(|((of, _), _)| *of == table)
            .peekable();
        if of_table.peek().is_none() {
            continue;
        }
        let mut open = transaction.open_table(table.definition())?;
        for ((_, key), value) in of_table {
            open.insert(&key[..], &value[..])?;
        }
    }
    transaction.commit()?;
    Ok(())
}

/// Whether the file itself is bad, and not the disk or whoever holds the file.
fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::Corrupted(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::RepairAborted
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TypeDefinitionChanged { .. } => true,
        redb::Error::Io(error) => matches!(
            error.kind(),
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
        ),
        _ => false,
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(redb::Error) -> StoreError {
    move |source| StoreError::Database {
        what,
        path: path.to_owned(),
        source: Box::new(source),
    }
}

/// What must be the same for a database to be of use.
fn network_of(genesis: &Genesis) -> Vec<u8> {
    let mut hash = Sha256::new()
        .chain_update(FORMAT.to_be_bytes())
        .chain_update(genesis.netid.to_be_bytes())
        .chain_update(genesis.layers_per_epoch.to_be_bytes())
        .chain_update(genesis.slots_per_epoch.to_be_bytes());
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

impl Decision {
    /// What the commits of a decision have in common, and who signed them.
    pub(crate) fn of(set: &BlockSet, proof: &[Signed]) -> Option<Self> {
        let round = proof.first()?.message.round;
        let commits = proof
            .iter()
            .map(|signed| (signed.voter, signed.message.epoch, signed.signature))
            .collect();
        Some(Self {
            round,
            set: set.clone(),
            commits,
        })
    }

    /// The commits as they were sent.
    pub(crate) fn messages(&self, layer: Layer) -> Vec<Signed> {
        let signed = |(voter, epoch, signature): &(Voter, Epoch, Signature)| Signed {
            voter: *voter,
            message: Message {
                layer,
                round: self.round,
                epoch: *epoch,
                body: Body::Commit(Some(self.set.clone())),
            },
            signature: *signature,
        };
        self.commits.iter().map(signed).collect()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        let count = u16::try_from(self.set.ids().len()).unwrap_or(u16::MAX);
        out.u32(self.round).u16(count);
        for id in self.set.ids().iter().take(count.into()) {
            out.raw(&id.0);
        }
        let commits = u8::try_from(self.commits.len()).unwrap_or(u8::MAX);
        out.u8(commits);
        for (voter, epoch, signature) in self.commits.iter().take(commits.into()) {
            out.u8(voter.0).u32(*epoch).raw(signature);
        }
        out.done()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let decoded = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(decoded)
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let round = reader.u32("the round of a decision")?;
        let count = usize::from(reader.u16("the blocks of a decision")?);
        let ids = reader.take("the blocks of a decision", count * 32)?;
        let (ids, _) = ids.as_chunks::<32>();
        if !ids.is_sorted_by(|a, b| a < b) {
            let what = "the order of the blocks of a decision";
            return Err(WireError::BadValue { what, value: 0 });
        }
        let set = BlockSet::new(ids.iter().copied().map(BlockId));
        let commits = (0..reader.u8("the commits of a decision")?)
            .map(|_| {
                Ok((
                    Voter(reader.u8("the voter of a commit")?),
                    reader.u32("the epoch of a commit")?,
                    reader.array("the signature of a commit")?,
                ))
            })
            .collect::<Result<_, WireError>>()?;
        Ok(Self {
            round,
            set,
            commits,
        })
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
