//! What lies on a PoET's disk: one state of its own, and a directory per round.
//!
//! ```text
//! <datadir>/state.bin                    the PoET's key and its next round
//! <datadir>/<round>/state.bin            where the round stands
//! <datadir>/<round>/challenges.redb      who registered for it
//! <datadir>/<round>/layercache_<k>.bin   merkle layer k of its work
//! ```
//!
//! States are rewritten in place, as in 2020, or atomically: see [`StateWrites`]. To keep another file
//! in a round's directory, give it a method here; removing a round removes all of it. Nothing here
//! decides when a round opens or ends, and a full disk is an error like any other
//! ([`StoreError::is_disk_full`]): what follows from it is for the role.

use super::challenges::{Challenges, ChallengesError};
use super::hash::Node;
use super::state::{RoundState, ServiceState, StateError};
use super::tree::{NODE_BYTES, Tree, TreeError, layer_path};
use super::work::{Checkpoint, is_disk_full, set_bits};
use super::{Params, RoundId};
use fs_err as fs;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

const STATE: &str = "state.bin";
const STATE_ASIDE: &str = "state.bin.new";
const CHALLENGES: &str = "challenges.redb";

/// How a state replaces the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateWrites {
    /// As 2020 did: empty the file, then write it. A full disk or a kill between the two leaves an
    /// empty state, and an empty `state.bin` of the PoET is the loss of its identity.
    InPlace,
    /// Write it aside, sync it, rename it: the old state or the new one is there, always (poet#347).
    Atomic,
}

/// A file that cannot be read or written, or does not hold what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The system refuses.
    #[error("{} cannot be {what}", path.display())]
    File {
        /// What was being done.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A state that is none.
    #[error("{} is not the state of a PoET or a round; restore it, or remove it to start anew", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: StateError,
    },
    /// Fewer nodes than the checkpoint counts.
    #[error("{} holds {have} bytes and the checkpoint needs {need} of merkle layer {layer}; the file was cut off, compute the round again", path.display())]
    LayerShort {
        /// Which layer, counted from the leaves.
        layer: u32,
        /// Its file.
        path: PathBuf,
        /// Bytes that are there.
        have: u64,
        /// Bytes up to the checkpoint.
        need: u64,
    },
    /// The last node is not the one that the checkpoint parked.
    #[error("{} does not end in the node that the checkpoint parked; the file or the state is damaged, compute the round again", path.display())]
    LayerDamaged {
        /// The file.
        path: PathBuf,
    },
    /// The challenges of a round.
    #[error(transparent)]
    Challenges(#[from] ChallengesError),
    /// The finished layers of a round.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

impl StoreError {
    /// Whether the disk, or a quota on it, is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::File { source, .. } => is_disk_full(source),
            Self::Challenges(source) => source.is_disk_full(),
            _ => false,
        }
    }
}

/// Reads the PoET's own state; none if it never had one.
///
/// # Errors
/// A state that cannot be read or is damaged. It is not replaced: that would be another identity.
pub fn load_service(datadir: &Path) -> Result<Option<ServiceState>, StoreError> {
    load(&datadir.join(STATE), ServiceState::decode)
}

/// Writes the PoET's own state, making its directory if need be.
///
/// # Errors
/// The system refuses; what is then left depends on `writes`.
pub fn save_service(
    datadir: &Path,
    state: &ServiceState,
    writes: StateWrites,
) -> Result<(), StoreError> {
    make_dir(datadir)?;
    save(datadir, &state.encode(), writes)
}

/// The rounds that have a directory, ascending; what is called otherwise is left alone.
///
/// # Errors
/// A directory that cannot be read; one that is missing has no rounds.
pub fn rounds(datadir: &Path) -> Result<Vec<RoundId>, StoreError> {
    let entries = match fs::read_dir(datadir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(file("listed", datadir))?,
    };
    let mut rounds = Vec::new();
    for entry in entries {
        let entry = entry.map_err(file("listed", datadir))?;
        let name = entry.file_name();
        let round = name.to_str().and_then(|name| name.parse::<RoundId>().ok());
        // Only the name that this program gives: `7`, not `+7` or `007`.
        rounds.extend(round.filter(|round| name == *round.to_string()));
    }
    rounds.sort_unstable();
    Ok(rounds)
}

/// The directory of one round.
#[derive(Debug, Clone)]
pub struct RoundDir {
    path: PathBuf,
    writes: StateWrites,
}

impl RoundDir {
    /// The directory of `round` in `datadir`, which need not exist yet.
    pub fn new(datadir: &Path, round: RoundId, writes: StateWrites) -> Self {
        Self {
            path: datadir.join(round.to_string()),
            writes,
        }
    }

    /// Makes the directory, and those above it.
    ///
    /// # Errors
    /// The system refuses. A directory that is there already is no error.
    pub fn create(&self) -> Result<(), StoreError> {
        make_dir(&self.path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes where the round stands.
    ///
    /// # Errors
    /// The system refuses; what is then left depends on [`StateWrites`].
    pub fn save(&self, state: &RoundState) -> Result<(), StoreError> {
        save(&self.path, &state.encode(), self.writes)
    }

    /// Reads where the round stands; none if it was never written.
    ///
    /// # Errors
    /// A state that cannot be read or is damaged.
    pub fn load(&self) -> Result<Option<RoundState>, StoreError> {
        load(&self.path.join(STATE), RoundState::decode)
    }

    /// Opens the challenges of the round, or makes their database.
    ///
    /// # Errors
    /// No room, a damaged file, or one that another process has open.
    pub fn challenges(&self) -> Result<Challenges, StoreError> {
        Ok(Challenges::open(&self.path.join(CHALLENGES))?)
    }

    /// Opens the layer files for the work that goes on from `from`, upper `memory` layers left out:
    /// what was written after the checkpoint is cut off, and what follows is appended.
    ///
    /// # Errors
    /// A file that holds less than the checkpoint counts or does not end in the node that it parked,
    /// and whatever the system refuses.
    pub fn layers(
        &self,
        params: Params,
        memory: u32,
        from: &Checkpoint,
    ) -> Result<Vec<fs::File>, StoreError> {
        (0..params.layers_on_disk(memory))
            .map(|layer| self.layer(layer, from))
            .collect()
    }

    /// Opens the finished layers for reading.
    ///
    /// # Errors
    /// A file that is missing, unreadable or not of its length.
    pub fn tree(&self, statement: Node, params: Params, memory: u32) -> Result<Tree, StoreError> {
        Ok(Tree::open(&self.path, statement, params, memory)?)
    }

    /// Removes the round with all that is in its directory.
    ///
    /// # Errors
    /// The system refuses; some files may then be gone. A directory that is not there is no error.
    pub fn remove(&self) -> Result<(), StoreError> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(file("removed", &self.path)(error))
            }
            _ => Ok(()),
        }
    }

    fn layer(&self, layer: u32, from: &Checkpoint) -> Result<fs::File, StoreError> {
        let path = layer_path(&self.path, layer);
        let refused = |source| file("opened at the checkpoint", &path)(source);
        let mut opened = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(refused)?;
        let have = opened.metadata().map_err(refused)?.len();
        let need = (from.next_leaf >> layer) * NODE_BYTES;
        if have < need {
            return Err(StoreError::LayerShort {
                layer,
                path,
                have,
                need,
            });
        }
        if have > need {
            opened.set_len(need).map_err(refused)?;
        }
        let parked = set_bits(from.next_leaf).zip(&from.parked);
        for (_, node) in parked.filter(|(parked, _)| *parked == layer as usize) {
            let mut last = [0; 32];
            opened
                .file()
                .read_exact_at(&mut last, need - NODE_BYTES)
                .map_err(refused)?;
            if last != *node {
                return Err(StoreError::LayerDamaged { path });
            }
        }
        opened.seek(SeekFrom::Start(need)).map_err(refused)?;
        Ok(opened)
    }
}

/// A file system's block: disk is counted in these.
const BLOCK_BYTES: u64 = 4096;
/// What the database of a round takes: with up to [`DATABASE_MEMBERS`] registrations, each committed
/// by itself, 14 blocks were counted.
const DATABASE_BLOCKS: u64 = 14;
const DATABASE_MEMBERS: u64 = 100;
/// Registrations beyond that which take one block more: fewer than were counted.
const MEMBERS_PER_BLOCK: u64 = 25;

/// Bytes that a round takes on disk when its work is done and nobody acknowledged it: all files in
/// whole blocks of 4 KiB, with this many members, upper `memory` layers not written.
///
/// Layers and state are exact, the database is at most what is said: 592 KiB for the default
/// parameters, no memory, and 12 members.
pub fn round_bytes(params: Params, memory: u32, members: usize) -> u64 {
    let layers: u64 = (0..params.layers_on_disk(memory))
        .map(|layer| blocks((params.leaves() >> layer) * NODE_BYTES))
        .sum();
    layers + blocks(RoundState::max_bytes(params, members)) + database_bytes(members)
}

/// At most what the database of a round takes.
pub(super) fn database_bytes(members: usize) -> u64 {
    let beyond = (members as u64).saturating_sub(DATABASE_MEMBERS);
    (DATABASE_BLOCKS + beyond.div_ceil(MEMBERS_PER_BLOCK)) * BLOCK_BYTES
}

fn blocks(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES)
}

fn make_dir(path: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(path).map_err(file("made", path))
}

fn load<T>(
    path: &Path,
    decode: fn(&[u8]) -> Result<T, StateError>,
) -> Result<Option<T>, StoreError> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(file("read", path))?,
    };
    decode(&bytes)
        .map(Some)
        .map_err(|source| StoreError::State {
            path: path.to_owned(),
            source,
        })
}

fn save(dir: &Path, state: &[u8], writes: StateWrites) -> Result<(), StoreError> {
    save_with(dir, writes, |file| file.write_all(state))
}

/// Replaces a state by what `write` writes, which tests make fail between emptying and writing.
fn save_with(
    dir: &Path,
    writes: StateWrites,
    write: impl FnOnce(&mut fs::File) -> io::Result<()>,
) -> Result<(), StoreError> {
    let path = dir.join(STATE);
    let saved = match writes {
        StateWrites::InPlace => fs::File::create(&path).and_then(|mut file| write(&mut file)),
        StateWrites::Atomic => save_aside(dir, &path, write),
    };
    saved.map_err(file("written", &path))
}

fn save_aside(
    dir: &Path,
    path: &Path,
    write: impl FnOnce(&mut fs::File) -> io::Result<()>,
) -> io::Result<()> {
    let aside = dir.join(STATE_ASIDE);
    let written = fs::File::create(&aside)
        .and_then(|mut file| {
            write(&mut file)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&aside, path));
    if let Err(error) = written {
        // What is half written only takes room; that it could not be removed is the lesser trouble.
        let _ = fs::remove_file(&aside);
        return Err(error);
    }
    // Until the directory is synced, a power cut could bring the old name back.
    fs::File::open(dir)?.sync_all()
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::File {
        what,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
