//! Executables of a plan's own, held to what they were when the run began.
//!
//! A verdict speaks of one program, whose digest is in the history's header. So each file is opened and read once; binaries
//! are then exec'ed by that descriptor, whatever their path holds by now, and what cannot be (a `#!` script is opened by
//! its interpreter, an image is made from a path) is compared before and after each use. A file that is overwritten in
//! place is noticed either way. Reading 60 MB for each of 100 nodes would take seconds, so contents are read again only
//! when the file system says that something happened to them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use fs_err as fs;
use thiserror::Error;

use crate::clock::unix_ns;
use crate::store::file_sha256;
use crate::substrate::process::OwnExecutable;

/// A file that changed no longer ago than this may change again within the same tick of its file system's clock.
const SETTLED_NS: u64 = 100_000_000;

const NS: u64 = 1_000_000_000;

/// What the plan calls our own executable.
const OWN: &str = "{release.bin}";

/// All executables of a run, by the plan's names for them. A handle that can be cloned.
#[derive(Clone, Debug, Default)]
pub struct Executables(Arc<Held>);

#[derive(Debug, Default)]
struct Held {
    digests: BTreeMap<String, String>,
    files: BTreeMap<String, Arc<Executable>>,
}

impl Executables {
    /// Opens and reads all of them: our own, and those at these paths.
    pub fn hold(own: &OwnExecutable, paths: BTreeMap<String, PathBuf>) -> io::Result<Self> {
        let mut held = Held::default();
        held.digests.insert(OWN.to_owned(), own.sha256()?);
        for (name, path) in paths {
            let file = Executable::open(path)?;
            held.digests.insert(name.clone(), file.sha256.clone());
            held.files.insert(name, Arc::new(file));
        }
        Ok(Self(Arc::new(held)))
    }

    /// Those of nodes that somebody else has started, by ids of their images; nothing is started from them.
    pub fn elsewhere(images: BTreeMap<String, String>) -> Self {
        Self(Arc::new(Held {
            digests: images,
            ..Held::default()
        }))
    }

    /// SHA-256 of each, ours included.
    pub fn digests(&self) -> &BTreeMap<String, String> {
        &self.0.digests
    }

    /// The one that the plan names so.
    pub fn get(&self, name: &str) -> Option<Arc<Executable>> {
        self.0.files.get(name).cloned()
    }
}

/// One of them.
#[derive(Debug)]
pub struct Executable {
    path: PathBuf,
    file: fs::File,
    binary: bool,
    sha256: String,
    /// What the file system told of the contents when their digest was last taken, if that cannot stay the same while
    /// they change.
    seen: Mutex<Option<Stamp>>,
}

/// Why nothing more is started from an executable.
#[derive(Debug, Error)]
pub enum Changed {
    /// It is another one.
    #[error(
        "{} was replaced or overwritten during the run: its SHA-256 was {was} when the run began and is {now} now, and one \
         verdict cannot speak of two programs; run again, and build elsewhere as long as a run lasts", .path.display()
    )]
    Contents {
        /// Where it lies.
        path: PathBuf,
        /// The digest at the start of the run.
        was: String,
        /// The digest now.
        now: String,
    },
    /// It cannot be looked at.
    #[error(
        "{} cannot be read any more ({source}), so nobody knows whether it still is the program of SHA-256 {was} that the run \
         began with; put it back and run again", .path.display()
    )]
    Unreadable {
        /// Where it lay.
        path: PathBuf,
        /// The digest at the start of the run.
        was: String,
        /// The system's reason.
        source: io::Error,
    },
}

/// What changes with a file's contents: nobody but the kernel sets the time of the last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }

    fn settled(self, now_ns: u64) -> bool {
        let (seconds, nanos) = self.changed;
        let seconds = u64::try_from(seconds).unwrap_or_default();
        let nanos = u64::try_from(nanos).unwrap_or_default();
        let changed_ns = seconds.saturating_mul(NS).saturating_add(nanos);
        changed_ns.saturating_add(SETTLED_NS) < now_ns
    }
}

impl Executable {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = fs::File::open(&path)?;
        let mut magic = [0; 4];
        let binary = file.file().read_exact_at(&mut magic, 0).is_ok() && magic == *b"\x7fELF";
        let mut executable = Self {
            path,
            file,
            binary,
            sha256: String::new(),
            seen: Mutex::default(),
        };
        let used = executable.used();
        let (began_ns, stamp) = (unix_ns(), Stamp::of(&used)?);
        executable.sha256 = file_sha256(&used)?;
        if stamp.settled(began_ns) {
            executable.seen = Mutex::new(Some(stamp));
        }
        Ok(executable)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What to exec it by, where that is possible.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.binary.then(|| self.file.as_fd())
    }

    /// What an exec of it opens.
    fn used(&self) -> PathBuf {
        if self.binary {
            PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
        } else {
            self.path.clone()
        }
    }

    /// Whether what is exec'ed is what the run began with. May read all of it.
    pub fn check(&self) -> Result<(), Changed> {
        self.check_at(&self.used())
    }

    /// Whether its path still leads to what the run began with. May read all of it.
    pub fn check_path(&self) -> Result<(), Changed> {
        self.check_at(&self.path)
    }

    fn check_at(&self, used: &Path) -> Result<(), Changed> {
        // Held while it is read: of 100 nodes that start together one reads.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (began_ns, stamp) = (unix_ns(), Stamp::of(used));
        let stamp = stamp.map_err(|source| self.unreadable(source))?;
        if *seen == Some(stamp) {
            return Ok(());
        }
        let now = file_sha256(used).map_err(|source| self.unreadable(source))?;
        if now != self.sha256 {
            return Err(Changed::Contents {
                path: self.path.clone(),
                was: self.sha256.clone(),
                now,
            });
        }
        *seen = stamp.settled(began_ns).then_some(stamp);
        Ok(())
    }

    fn unreadable(&self, source: io::Error) -> Changed {
        Changed::Unreadable {
            path: self.path.clone(),
            was: self.sha256.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BINARY: &[u8] = b"\x7fELF and so on";
    const SCRIPT: &[u8] = b"#!/bin/sh\nexit 0\n";

    fn held(directory: &Path, contents: &[u8]) -> Executable {
        let path = directory.join("node");
        fs::write(&path, contents).unwrap();
        Executable::open(path).unwrap()
    }

    #[test]
    fn what_is_overwritten_in_place_is_noticed() {
        for contents in [BINARY, SCRIPT] {
            let directory = tempfile::tempdir().unwrap();
            let node = held(directory.path(), contents);
            for _ in 0..3 {
                node.check().unwrap();
            }
            let mut other = contents.to_vec();
            *other.last_mut().unwrap() ^= 1;
            fs::write(node.path(), &other).unwrap();
            let told = node.check().unwrap_err().to_string();
            assert!(told.contains("node was replaced or overwritten"), "{told}");
            assert!(told.contains(&node.sha256), "{told}");
            // As it was is as good as never touched.
            fs::write(node.path(), contents).unwrap();
            node.check().unwrap();
        }
    }

    #[test]
    fn another_file_in_its_place_matters_only_where_the_path_is_used() {
        for (contents, by_descriptor) in [(BINARY, true), (SCRIPT, false)] {
            let directory = tempfile::tempdir().unwrap();
            let node = held(directory.path(), contents);
            let new = directory.path().join("new");
            fs::write(&new, "#!/bin/sh\nexit 1\n").unwrap();
            fs::rename(&new, node.path()).unwrap();
            assert_eq!(node.descriptor().is_some(), by_descriptor);
            assert_eq!(node.check().is_ok(), by_descriptor);
            assert!(matches!(node.check_path(), Err(Changed::Contents { .. })));
            fs::remove_file(node.path()).unwrap();
            assert_eq!(node.check().is_ok(), by_descriptor);
            assert!(matches!(node.check_path(), Err(Changed::Unreadable { .. })));
        }
    }

    #[test]
    fn what_has_settled_is_not_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let node = held(directory.path(), BINARY);
        let stamp = Stamp::of(node.path()).unwrap();
        let (seconds, nanos) = stamp.changed;
        let changed_ns = u64::try_from(seconds).unwrap() * NS + u64::try_from(nanos).unwrap();
        assert!(!stamp.settled(changed_ns + SETTLED_NS));
        assert!(stamp.settled(changed_ns + SETTLED_NS + 1));
        // As if that time had passed: a digest that cannot be right shows that it is not taken.
        *node.seen.lock().unwrap() = Some(stamp);
        let node = Executable {
            sha256: "never computed".to_owned(),
            ..node
        };
        node.check().unwrap();
    }
}
