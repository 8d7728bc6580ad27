//! What a node does to its own process: its name, core dumps, its data directory.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::ffi::CString;
use std::path::Path;

/// The kernel keeps 15 bytes of a thread's name.
const NAME_MAX: usize = 15;

/// Shows `name` in `ps` and `top`: a node that is exec'ed from a descriptor would be called `3`.
pub(crate) fn set_name(name: &str) {
    let bytes: Vec<u8> = name
        .bytes()
        .filter(|byte| *byte != 0)
        .take(NAME_MAX)
        .collect();
    if let Ok(name) = CString::new(bytes) {
        // A wrong name in `ps` is no reason not to run.
        let _ = rustix::thread::set_name(&name);
    }
}

/// A panic aborts and is recorded as an event; a core file beside it would only fill the disk.
pub(crate) fn no_core_dumps() {
    let hard = getrlimit(Resource::Core).maximum;
    let _ = setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: hard,
        },
    );
}

/// A data directory that no other node uses as long as this value lives.
#[derive(Debug)]
pub(crate) struct DataDir {
    _lock: fs_err::File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataDirError {
    #[error("the data directory cannot be used: {0}")]
    Io(#[from] std::io::Error),
    #[error("the data directory {0} is in use by another node; give each node its own --data-dir")]
    Taken(String),
}

impl DataDir {
    /// Creates the directory where needed and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, DataDirError> {
        fs_err::create_dir_all(path)?;
        let lock = fs_err::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path.join("LOCK"))?;
        match lock.file().try_lock() {
            Ok(()) => Ok(Self { _lock: lock }),
            Err(std::fs::TryLockError::WouldBlock) => {
                Err(DataDirError::Taken(path.display().to_string()))
            }
            Err(std::fs::TryLockError::Error(error)) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_has_one_owner_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let first = DataDir::open(&path).unwrap();
        assert!(matches!(DataDir::open(&path), Err(DataDirError::Taken(_))));
        drop(first);
        DataDir::open(&path).unwrap();
    }
}
