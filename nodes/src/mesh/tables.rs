//! The database under `store.rs`: tables of bytes, and what was put and is not written yet.
//!
//! Reads see what was put at once; [`Tables::commit`] writes all of it or nothing. A database that met
//! an error gives no answers any more, so it is opened again at the next use; a read that fails even
//! then is remembered as the failure that ends the node, since it must not go on as if nothing were
//! there. To add a table, add a row to [`Table`].

use fs_err as fs;
use redb::{Builder, Database, ReadableDatabase as _, TableDefinition};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Memory for pages of the database; the default of a gigabyte is not wanted.
const CACHE_BYTES: usize = 1 << 20;
/// The most that is kept in memory while the disk does not take it: a quarter of a minute at four
/// layers a second with proofs of two PoETs.
const UNSAVED_MAX: usize = 8 << 20;

/// What the database holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
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

/// The tables, on disk and not yet.
#[derive(Debug)]
pub(super) struct Tables {
    path: PathBuf,
    /// None after an error, until the next use opens it again.
    database: Option<Database>,
    unsaved: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
    unsaved_bytes: usize,
    /// A read that failed.
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

impl StoreError {
    /// Whether the file itself is bad, and not the disk or whoever holds the file.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Database { source, .. } => is_damage(source),
            Self::Io(_) => false,
        }
    }
}

impl Tables {
    /// Opens the database at `path`, or makes it.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self {
            path: path.to_owned(),
            database: Some(create(path).map_err(failed("opened", path))?),
            unsaved: BTreeMap::new(),
            unsaved_bytes: 0,
            failure: None,
        })
    }

    /// Writes everything that was put, and waits until it is on disk. True if there was anything.
    pub(super) fn commit(&mut self) -> Result<bool, StoreError> {
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
    pub(super) fn has_unsaved(&self) -> bool {
        !self.unsaved.is_empty()
    }

    /// Whether the disk has not taken anything for so long that there is no room in memory.
    pub(super) fn is_full(&self) -> bool {
        self.unsaved_bytes > UNSAVED_MAX
    }

    /// Why a read came to nothing, if one did.
    pub(super) fn take_failure(&mut self) -> Option<StoreError> {
        self.failure.take()
    }

    pub(super) fn put(&mut self, table: Table, key: &[u8], value: Vec<u8>) {
        self.unsaved_bytes += key.len() + value.len();
        if let Some(old) = self.unsaved.insert((table, key.to_vec()), value) {
            self.unsaved_bytes -= key.len() + old.len();
        }
    }

    pub(super) fn get(&mut self, table: Table, key: &[u8]) -> Option<Vec<u8>> {
        if let Some(value) = self.unsaved.get(&(table, key.to_vec())) {
            return Some(value.clone());
        }
        let read = self.with_database(|store| store.read(table, key));
        self.or_failure(read)
    }

    /// What `map` makes of every entry whose key begins with `prefix`, in the order of keys.
    pub(super) fn scan<T>(
        &mut self,
        table: Table,
        prefix: &[u8],
        map: impl Fn(&[u8], &[u8]) -> Option<T>,
    ) -> Vec<T> {
        self.scan_while(table, prefix, |key| key.starts_with(prefix), map)
    }

    /// As [`Self::scan`], for keys from `from` on while `wanted` says so.
    pub(super) fn scan_while<T>(
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

/// Moves a file to a name of its own beside it, which it returns.
pub(super) fn set_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let mut taken = 0_u32;
    let target = loop {
        let target = path.with_extension(format!("redb.damaged-{taken}"));
        if !fs::exists(&target)? {
            break target;
        }
        taken = taken.saturating_add(1);
    };
    fs::rename(path, &target)?;
    Ok(target)
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
