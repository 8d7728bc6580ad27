//! Intents, and (in `dead`) what `clean` does with those of dead runs.
//!
//! Before a run creates something that outlives its processes, a line about it is appended to
//! `runs/.intents/<nonce>.jsonl` and fsynced. The file is removed when everything is gone, so a
//! file that is left names a run that lives or one that was killed with all its guards. `clean`
//! acts on recorded identities and on the nonce, never on a name, and never on a live run. What lost
//! both is found by the sockets it holds in the run's recorded addresses: it is removed only when it
//! also holds something in the run's own directories, else it is listed, and the intents stay.
//!
//! Run directories are results, not leftovers: they are pruned by the [store](crate::store).

mod dead;

pub use dead::{CleanError, CleanReport, CleanedRun, RunState, clean};

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::store::lines;
use crate::substrate::docker::ledger::{Entry, Ledger};
use crate::substrate::docker::remains::{Left, remove_blocking};
use crate::substrate::process::group;
use crate::substrate::process::identity::pid_namespace;
use crate::substrate::process::{Leftover, Nonce, ProcessId};

/// Where intents lie, below the directory of runs.
const DIRECTORY: &str = ".intents";
/// How long removing everything of one run from an engine may take.
const ENGINE_BOUND: Duration = Duration::from_secs(40);

/// A member of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// What the user started.
    Stub,
    /// The second guard.
    Watchdog,
    /// What runs the plan.
    Controller,
}

/// One line of an intent file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Intent {
    /// A run begins: processes that carry the nonce will exist. Always the first line.
    Run {
        /// The run's nonce.
        nonce: Nonce,
        /// Its stub.
        stub: ProcessId,
        /// The inode of the pid namespace in which its processes are what they are called here. Earlier releases did not say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid_namespace: Option<u64>,
    },
    /// A member of the chain was started.
    Member {
        /// Which.
        part: Part,
        /// The process.
        id: ProcessId,
    },
    /// A block of addresses was locked.
    Block {
        /// The first three octets.
        prefix: [u8; 3],
    },
    /// A run directory is about to be made.
    Directory {
        /// Its path.
        path: PathBuf,
    },
    /// Control groups with the run's nonce in their names are about to be made in these directories.
    Groups {
        /// Their places.
        places: Vec<PathBuf>,
    },
    /// Something is about to be made on a container engine, was made there, or is gone from it.
    Docker {
        /// What.
        entry: Entry,
    },
}

/// An open intent file.
#[derive(Debug)]
pub struct IntentLog {
    path: PathBuf,
    file: fs::File,
}

impl IntentLog {
    /// Begins a run's intents. The first line is there whole, or the file is not.
    pub fn create(runs: &Path, nonce: &Nonce, stub: &ProcessId) -> io::Result<Self> {
        let directory = runs.join(DIRECTORY);
        fs::create_dir_all(&directory)?;
        let path = std::path::absolute(directory.join(format!("{nonce}.jsonl")))?;
        let begins = Intent::Run {
            nonce: *nonce,
            stub: stub.clone(),
            pid_namespace: Some(pid_namespace()?),
        };
        crate::store::write_atomic(&path, &first_line(&begins)?)?;
        Self::open(&path)
    }

    /// Opens an existing file, to append to it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = fs::OpenOptions::new().append(true).open(path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// Appends a line, and returns when it is on the disk.
    pub fn append(&mut self, intent: &Intent) -> io::Result<()> {
        lines::append(&mut self.file, intent)
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn first_line(intent: &Intent) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(intent)?;
    line.push(b'\n');
    Ok(line)
}

/// Removes an intent file: nothing of the run is left. It is no error when it is gone already.
pub fn forget(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The runs in this directory of runs whose intents are not forgotten, by nonce.
pub fn unfinished(runs: &Path) -> io::Result<Vec<Nonce>> {
    Ok(intent_files(runs)?
        .into_iter()
        .filter_map(|(_, nonce)| nonce)
        .collect())
}

fn intent_files(runs: &Path) -> io::Result<Vec<(PathBuf, Option<Nonce>)>> {
    let entries = match fs::read_dir(runs.join(DIRECTORY)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "jsonl")
            && entry.file_type()?.is_file()
        {
            let nonce = path
                .file_stem()
                .and_then(|stem| Nonce::parse(stem.to_str()?));
            files.push((path, nonce));
        }
    }
    files.sort();
    Ok(files)
}

/// A ledger whose entries are intents of this run.
pub fn ledger(path: &Path) -> io::Result<Ledger> {
    let log = Mutex::new(IntentLog::open(path)?);
    Ok(Ledger::new(move |entry| {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.append(&Intent::Docker {
            entry: entry.clone(),
        })
    }))
}

/// What a guard does when its run is over and its processes are gone: removes from engines, and of control groups, what
/// the run's intents name. Returns what is left.
pub(crate) fn remove_recorded(path: &Path) -> Vec<Leftover> {
    match lines::read::<Intent>(path) {
        Ok(intents) => {
            let mut left = on_engine(&remove_blocking(&entries_of(&intents), ENGINE_BOUND).left);
            left.extend(of_groups(&intents));
            left
        }
        // Another guard has seen to it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => vec![of_engine(format!("intents cannot be read: {error}"))],
    }
}

/// Removes the run's control groups; what is left. The file is only somebody's word, but what it leads to is an empty
/// directory with the run's nonce in its name.
fn of_groups(intents: &[Intent]) -> Vec<Leftover> {
    let Some(Intent::Run { nonce, .. }) = intents.first() else {
        return Vec::new();
    };
    let places = intents.iter().filter_map(|intent| match intent {
        Intent::Groups { places } => Some(places.as_slice()),
        _ => None,
    });
    let places: BTreeSet<PathBuf> = places.flatten().cloned().collect();
    let places: Vec<PathBuf> = places.into_iter().collect();
    let left = group::remove_all(nonce, &places);
    left.into_iter().map(of_engine).collect()
}

fn entries_of(intents: &[Intent]) -> Vec<Entry> {
    let entries = intents.iter().filter_map(|intent| match intent {
        Intent::Docker { entry } => Some(entry.clone()),
        _ => None,
    });
    entries.collect()
}

fn on_engine(left: &[Left]) -> Vec<Leftover> {
    left.iter()
        .map(|left| of_engine(left.to_string()))
        .collect()
}

/// What is left on an engine, or of a group, is no process of this machine.
fn of_engine(why: String) -> Leftover {
    Leftover {
        pid: 0,
        comm: String::new(),
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_last_line_is_left_out() {
        let runs = tempfile::tempdir().unwrap();
        let own = ProcessId::own().unwrap();
        let nonce = Nonce::from_bytes([5; 16]);
        let mut log = IntentLog::create(runs.path(), &nonce, &own).unwrap();
        log.append(&Intent::Block {
            prefix: [127, 1, 2],
        })
        .unwrap();
        let text = fs::read(log.path()).unwrap();
        for end in 0..=text.len() {
            fs::write(log.path(), &text[..end]).unwrap();
            if let Ok(intents) = lines::read::<Intent>(log.path()) {
                assert!(intents.len() <= 2);
            }
        }
        assert_eq!(lines::read::<Intent>(log.path()).unwrap().len(), 2);
    }
}
