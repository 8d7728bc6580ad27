//! Run directories: what a run leaves on disk, and how old runs are pruned.
//!
//! ```text
//! runs/<plan>-<time>-<seed>/            one `run PLAN`, made once, never overwritten
//!   run.json                            our marker: only directories with it are ever pruned
//!   plan.yaml, schedule.json            what was run, as written and as resolved
//!   <release>/                          one release (a control) of it
//!     history.jsonl                     all that a verdict rests on
//!     verdict.json, junit.xml           what it came to
//!     nodes/<name>/{data/, stdout.log, stderr.log, network.json}
//! ```
//!
//! The contents of records belong to the core; this module knows lines, sizes and directories.

mod history;
pub(crate) mod lines;

pub use history::{FullNote, HistoryError, HistoryWriter, read_lines, read_written};

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::substrate::process::Nonce;
use crate::undo::{self, Intent, IntentLog};

/// The marker of a run directory.
const MARKER: &str = "run.json";
/// The version of the marker.
const MARKER_FORMAT: u32 = 1;
/// How many run directories are kept.
pub const KEEP_RUNS: usize = 20;
/// How many runs of one plan and seed may start in the same second.
const SAME_NAME: u32 = 100;
/// A marker is a few hundred bytes; a larger file is not one.
const MARKER_BYTES: u64 = 64 * 1024;

/// What the marker file of a run directory says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RunMarker {
    /// The version of this file.
    pub tweedledum_run: u32,
    /// The run's nonce.
    pub nonce: Nonce,
    /// The plan's name.
    pub plan: String,
    /// The seed.
    pub seed: u64,
    /// When the run began, in nanoseconds of Unix time.
    pub began_unix_ns: i64,
}

/// Why a run directory or a file in it was not made.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file system refused something.
    #[error("cannot write the run's results: {0}; another place can be given with --runs")]
    Io(#[from] io::Error),
    /// A name would lead out of its directory, or is none.
    #[error("`{name}` cannot be the name of a {what}: use letters, digits, `-`, `_` and `.`")]
    Name {
        /// What it should name.
        what: &'static str,
        /// The name.
        name: String,
    },
}

/// A run directory.
#[derive(Clone, Debug)]
pub struct RunDirectory {
    path: PathBuf,
}

/// The directory of one release within a run.
#[derive(Clone, Debug)]
pub struct ReleaseDirectory {
    path: PathBuf,
}

/// The directory of one node.
#[derive(Clone, Debug)]
pub struct NodeDirectory {
    path: PathBuf,
}

impl RunDirectory {
    /// Makes a new run directory below `runs`, after recording the intent. An existing directory
    /// is never used: a second run within a second gets `-2`, and so on.
    pub fn create(
        runs: &Path,
        plan: &str,
        seed: u64,
        nonce: &Nonce,
        intents: &mut IntentLog,
    ) -> Result<Self, StoreError> {
        let now = jiff::Zoned::now();
        fs::create_dir_all(runs)?;
        let runs = fs::canonicalize(runs)?;
        let stem = format!("{}-{}-{seed}", tame(plan), now.strftime("%Y%m%dT%H%M%S"));
        let path = (1..=SAME_NAME)
            .map(|number| match number {
                1 => runs.join(&stem),
                _ => runs.join(format!("{stem}-{number}")),
            })
            .find_map(|path| match intents_and_directory(&path, intents) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
                other => Some(other.map(|()| path)),
            })
            .unwrap_or_else(|| {
                let text = format!("{SAME_NAME} runs of the same name began in one second");
                Err(io::Error::new(io::ErrorKind::AlreadyExists, text))
            })?;
        let marker = RunMarker {
            tweedledum_run: MARKER_FORMAT,
            nonce: *nonce,
            plan: plan.to_owned(),
            seed,
            began_unix_ns: i64::try_from(now.timestamp().as_nanosecond()).unwrap_or(i64::MAX),
        };
        let mut text = serde_json::to_vec_pretty(&marker).map_err(io::Error::from)?;
        text.push(b'\n');
        write_atomic(&path.join(MARKER), &text)?;
        Ok(Self { path })
    }

    /// Where it lies (absolute).
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the directory of a release.
    pub fn release(&self, name: &str) -> Result<ReleaseDirectory, StoreError> {
        let path = self.path.join(checked("release", name)?);
        fs::create_dir(&path)?;
        fs::create_dir(path.join("nodes"))?;
        Ok(ReleaseDirectory { path })
    }
}

fn intents_and_directory(path: &Path, intents: &mut IntentLog) -> io::Result<()> {
    // The common case of a taken name needs no intent; `create_dir` decides races.
    if path.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    intents.append(&Intent::Directory {
        path: path.to_owned(),
    })?;
    fs::create_dir(path)
}

impl ReleaseDirectory {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the history belongs.
    pub fn history(&self) -> PathBuf {
        self.path.join("history.jsonl")
    }

    /// Makes the directory of a node, with its empty data directory.
    pub fn node(&self, name: &str) -> Result<NodeDirectory, StoreError> {
        let path = self.path.join("nodes").join(checked("node", name)?);
        fs::create_dir(&path)?;
        fs::create_dir(path.join("data"))?;
        Ok(NodeDirectory { path })
    }
}

impl NodeDirectory {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The node's own data directory.
    pub fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// The file that tells it about the network.
    pub fn network(&self) -> PathBuf {
        self.path.join("network.json")
    }
}

/// A file name made from any text: other characters become `-`.
fn tame(text: &str) -> String {
    let tame: String = text
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') {
                c
            } else {
                '-'
            }
        })
        .take(80)
        .collect();
    let tame = tame.trim_start_matches(['.', '-']);
    if tame.is_empty() {
        "plan".to_owned()
    } else {
        tame.to_owned()
    }
}

/// A name that is one path component and needs no change.
fn checked<'a>(what: &'static str, name: &'a str) -> Result<&'a str, StoreError> {
    if tame(name) == name {
        Ok(name)
    } else {
        Err(StoreError::Name {
            what,
            name: name.to_owned(),
        })
    }
}

/// Writes a file so that it is there whole or not at all, also after a crash: a temporary file in
/// the same directory, fsync, rename, fsync of the directory.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let no_name = || io::Error::new(io::ErrorKind::InvalidInput, "a file needs a name");
    let directory = path.parent().ok_or_else(no_name)?;
    let name = path.file_name().ok_or_else(no_name)?.to_string_lossy();
    let temporary = directory.join(format!(".{name}.{}.tmp", std::process::id()));
    let written = (|| {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(directory)?.sync_all()
    })();
    if written.is_err() {
        // What failed matters more than a temporary file that stays.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// SHA-256 of a file in hex. Reads the whole file.
pub fn file_sha256(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            length => hash.update(buffer.get(..length).unwrap_or_default()),
        }
    }
}

/// A run directory that was removed, or could not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Where it lay.
    pub path: PathBuf,
    /// How many bytes its files had.
    pub bytes: u64,
    /// Why it is still there.
    pub failed: Option<String>,
}

/// Removes the oldest run directories beyond the newest `keep`. Only directories with our marker
/// are counted and touched, never one whose run may still live, and no symbolic link is followed.
pub fn prune(runs: &Path, keep: usize) -> io::Result<Vec<Pruned>> {
    let unfinished = undo::unfinished(runs)?;
    let mut all = Vec::new();
    let entries = match fs::read_dir(runs) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir()
            && let Some(marker) = read_marker(&entry.path())
        {
            all.push((marker.began_unix_ns, entry.path(), marker.nonce));
        }
    }
    all.sort();
    let excess = all.len().saturating_sub(keep);
    let prune = |(_, path, _): (i64, PathBuf, Nonce)| {
        let bytes = size_of(&path);
        let failed = remove_run(&path).err().map(|error| error.to_string());
        Pruned {
            path,
            bytes,
            failed,
        }
    };
    let dead = |(_, _, nonce): &(i64, PathBuf, Nonce)| !unfinished.contains(nonce);
    Ok(all
        .into_iter()
        .take(excess)
        .filter(dead)
        .map(prune)
        .collect())
}

/// The marker goes last, so that an interrupted removal is taken up by the next one.
fn remove_run(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name() == MARKER {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_file(path.join(MARKER))?;
    fs::remove_dir(path)
}

/// Reads the marker of a run directory; `None` when the directory is not ours.
pub fn read_marker(run: &Path) -> Option<RunMarker> {
    let path = run.join(MARKER);
    let meta = path.symlink_metadata().ok()?;
    if !meta.is_file() || meta.len() > MARKER_BYTES {
        return None;
    }
    let marker: RunMarker = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (marker.tweedledum_run == MARKER_FORMAT).then_some(marker)
}

fn size_of(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => size_of(&entry.path()),
            Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |meta| meta.len()),
            _ => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::substrate::process::ProcessId;

    fn intents(runs: &Path, nonce: &Nonce) -> IntentLog {
        IntentLog::create(runs, nonce, &ProcessId::own().unwrap()).unwrap()
    }

    #[test]
    fn directories_are_made_once() {
        let runs = tempfile::tempdir().unwrap();
        let nonce = Nonce::random().unwrap();
        let mut intents = intents(runs.path(), &nonce);
        let mut make = || RunDirectory::create(runs.path(), "a/b: c", 7, &nonce, &mut intents);
        let (first, second) = (make().unwrap(), make().unwrap());
        assert_ne!(first.path(), second.path());
        let name = first.path().file_name().unwrap().to_str().unwrap();
        assert!(
            name.starts_with("a-b--c-20") && name.ends_with("-7"),
            "{name}"
        );
        let release = first.release("netid-116").unwrap();
        assert!(first.release("netid-116").is_err());
        let node = release.node("miner-0").unwrap();
        assert!(node.data().is_dir());
        for bad in ["", ".", "..", "../x", "a/b", "-x", "a b", "\u{e4}"] {
            let refused = release.node(bad);
            assert!(
                matches!(refused, Err(StoreError::Name { what: "node", .. })),
                "{bad}"
            );
        }
        assert_eq!(read_marker(first.path()).unwrap().nonce, nonce);
    }

    #[test]
    fn pruning_touches_only_what_is_ours_and_dead() {
        let runs = tempfile::tempdir().unwrap();
        let living = Nonce::random().unwrap();
        let mut log = intents(runs.path(), &living);
        let oldest_but_live = RunDirectory::create(runs.path(), "p", 0, &living, &mut log).unwrap();
        let mut made = Vec::new();
        for seed in 1..=4 {
            let nonce = Nonce::random().unwrap();
            let mut log = intents(runs.path(), &nonce);
            let run = RunDirectory::create(runs.path(), "p", seed, &nonce, &mut log).unwrap();
            fs::write(run.release("r").unwrap().history(), "x".repeat(100)).unwrap();
            undo::forget(log.path()).unwrap();
            made.push(run);
        }
        fs::create_dir(runs.path().join("mine")).unwrap();
        fs::write(runs.path().join("mine/notes"), "x").unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(
            outside.path().join(MARKER),
            fs::read(made[0].path().join(MARKER)).unwrap(),
        )
        .unwrap();
        std::os::unix::fs::symlink(outside.path(), runs.path().join("link")).unwrap();
        std::os::unix::fs::symlink(outside.path(), made[0].path().join("link")).unwrap();

        let pruned = prune(runs.path(), 2).unwrap();
        let paths: Vec<_> = pruned
            .iter()
            .map(|pruned| pruned.path.file_name())
            .collect();
        let expected: Vec<_> = made[..2].iter().map(|run| run.path().file_name()).collect();
        assert_eq!(paths, expected);
        assert!(
            pruned
                .iter()
                .all(|pruned| pruned.failed.is_none() && pruned.bytes > 100)
        );
        assert!(oldest_but_live.path().exists() && made[3].path().exists());
        assert!(runs.path().join("mine/notes").exists() && outside.path().join(MARKER).exists());
        assert_eq!(prune(runs.path(), 3).unwrap(), []);
    }

    #[test]
    fn atomic_writes_replace_and_leave_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("verdict.json");
        for text in ["one", "two"] {
            write_atomic(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(write_atomic(&directory.path().join("no/such"), b"").is_err());
    }
}
