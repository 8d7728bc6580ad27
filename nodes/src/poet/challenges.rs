//! The challenges that were registered for a round, in a database of their own.
//!
//! Every registration is on disk before it is acknowledged, and challenges come out in the order of
//! their bytes, which is the order of the statement. A database that met a failed write gives no
//! further answers until it is opened again; this is done at the next call, so that a PoET whose disk
//! has room again takes registrations again. What to do about an error is for the caller: 2020's
//! PoET panicked when the database of a new round did not open.

use super::hash::Node;
use super::members::{Members, MembersError};
use super::work::is_disk_full;
use redb::{Builder, Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use std::path::{Path, PathBuf};

const TABLE: TableDefinition<'_, &Node, ()> = TableDefinition::new("challenges");

/// Memory for pages of the database: a round's fit, and the default of a gigabyte is not wanted.
const CACHE_BYTES: usize = 256 << 10;

/// The registered challenges of one round.
#[derive(Debug)]
pub struct Challenges {
    path: PathBuf,
    /// None after an error, until the next call opens it again.
    database: Option<Database>,
}

/// A database that does not do what it is asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChallengesError {
    /// The database or the system refuses.
    #[error("challenges in {} cannot be {what}", path.display())]
    Database {
        /// What was being done.
        what: &'static str,
        /// The file of the database.
        path: PathBuf,
        /// What the database said.
        #[source]
        source: Box<redb::Error>,
    },
    /// More challenges than a round takes.
    #[error("challenges in {} are no list of members", path.display())]
    Members {
        /// The file of the database.
        path: PathBuf,
        /// What is wrong with them.
        #[source]
        source: MembersError,
    },
}

impl ChallengesError {
    /// Whether the disk, or a quota on it, is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Database { source, .. } => {
                matches!(source.as_ref(), redb::Error::Io(error) if is_disk_full(error))
            }
            Self::Members { .. } => false,
        }
    }
}

impl Challenges {
    /// Opens the database in `path`, or makes it.
    ///
    /// # Errors
    /// No room, a damaged file, or one that another process has open.
    pub fn open(path: &Path) -> Result<Self, ChallengesError> {
        let mut challenges = Self {
            path: path.to_owned(),
            database: None,
        };
        challenges.with("opened", |_| Ok(()))?;
        Ok(challenges)
    }

    /// Registers a challenge, durably; false if it was registered before.
    ///
    /// # Errors
    /// No room, or any other refusal of the system: the challenge may or may not be registered, and
    /// registering it again is right.
    pub fn insert(&mut self, challenge: &Node) -> Result<bool, ChallengesError> {
        self.with("written", |database| {
            let write = database.begin_write()?;
            let is_new = write.open_table(TABLE)?.insert(challenge, ())?.is_none();
            write.commit()?;
            Ok(is_new)
        })
    }

    /// All registered challenges.
    ///
    /// # Errors
    /// A file that cannot be read, or more challenges than a round takes.
    pub fn members(&mut self) -> Result<Members, ChallengesError> {
        let challenges = self.with("read", |database| {
            let table = match database.begin_read()?.open_table(TABLE) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                table => table?,
            };
            let mut challenges = Vec::new();
            for entry in table.iter()? {
                challenges.push(*entry?.0.value());
            }
            Ok(challenges)
        })?;
        Members::ascending(challenges).map_err(|source| ChallengesError::Members {
            path: self.path.clone(),
            source,
        })
    }

    fn with<T>(
        &mut self,
        what: &'static str,
        act: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, ChallengesError> {
        let database = match self.database.take() {
            Some(database) => Ok(database),
            None => create(&self.path),
        };
        database
            .and_then(|database| {
                let done = act(&database)?;
                self.database = Some(database);
                Ok(done)
            })
            .map_err(|source| ChallengesError::Database {
                what,
                path: self.path.clone(),
                source: Box::new(source),
            })
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

#[cfg(test)]
#[path = "challenges_tests.rs"]
mod tests;
