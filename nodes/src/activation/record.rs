//! A small file that is replaced as a whole or not at all, and notices damage.
//!
//! Content is written aside with a checksum and renamed: after a kill the old content is there or the
//! new one. What is saved is synced on the way, so that this holds after a power cut too; what is noted
//! is not, since a sync takes milliseconds that all nodes of a host share, and may be damaged or old
//! then. What is damaged is refused, never taken for missing; what follows is for the caller, as is
//! the content.

use sha2::{Digest as _, Sha256};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Far more than any record here holds.
const BYTES_MAX: u64 = 1 << 20;
const CHECKSUM_BYTES: usize = 32;

/// Where a record lies, and what it is about: content of another kind is not taken.
#[derive(Debug)]
pub(crate) struct Record {
    path: PathBuf,
    kind: &'static str,
}

/// Why a record cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("{} cannot be {what}: {error}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        error: io::Error,
    },
    #[error(
        "{} is damaged: {why}; restore it, or remove it if this miner may do again what it has done in this epoch",
        path.display()
    )]
    Damaged { path: PathBuf, why: String },
}

impl Record {
    pub(crate) fn new(path: PathBuf, kind: &'static str) -> Self {
        Self { path, kind }
    }

    /// The content; none if it was never written.
    pub(crate) fn load(&self) -> Result<Option<Vec<u8>>, RecordError> {
        let mut bytes = Vec::new();
        match fs_err::File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened
                .and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut bytes))
                .map_err(|error| self.failed("read", error))?,
        };
        let Some((content, checksum)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
            return Err(self.damaged(&"it is shorter than its checksum"));
        };
        if self.checksum(content) != *checksum {
            return Err(self.damaged(&"its checksum does not fit"));
        }
        Ok(Some(content.to_vec()))
    }

    /// Replaces the content, for good. On an error the old one is still there.
    pub(crate) fn save(&self, content: &[u8]) -> Result<(), RecordError> {
        self.replace(content, true)
    }

    /// Replaces the content by what may be lost when the host goes down, but not when the process does.
    pub(crate) fn note(&self, content: &[u8]) -> Result<(), RecordError> {
        self.replace(content, false)
    }

    fn replace(&self, content: &[u8], sync: bool) -> Result<(), RecordError> {
        let bytes = [content, &self.checksum(content)].concat();
        write_whole(&self.path, &bytes, sync).map_err(|error| self.failed("written", error))
    }

    /// Content that is whole and makes no sense, or cannot be used by this node.
    pub(crate) fn damaged(&self, why: &dyn std::fmt::Display) -> RecordError {
        RecordError::Damaged {
            path: self.path.clone(),
            why: why.to_string(),
        }
    }

    fn failed(&self, what: &'static str, error: io::Error) -> RecordError {
        RecordError::File {
            what,
            path: self.path.clone(),
            error,
        }
    }

    fn checksum(&self, content: &[u8]) -> [u8; CHECKSUM_BYTES] {
        Sha256::new()
            .chain_update(self.kind)
            .chain_update(content)
            .finalize()
            .into()
    }
}

/// Writes a file aside and gives it its name when it is all there; if it is to be synced, on disk.
pub(super) fn write_whole(path: &Path, bytes: &[u8], sync: bool) -> io::Result<()> {
    let aside = path.with_extension("new");
    let written = fs_err::File::create(&aside)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            if sync { file.sync_all() } else { Ok(()) }
        })
        .and_then(|()| fs_err::rename(&aside, path));
    if let Err(error) = written {
        // What is half written only takes room; that it could not be removed is the lesser trouble.
        let _ = fs_err::remove_file(&aside);
        return Err(error);
    }
    match path.parent() {
        Some(directory) if sync => fs_err::File::open(directory)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_last_is_loaded_and_damage_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        let record = Record::new(path.clone(), "a");
        assert!(record.load().unwrap().is_none());
        for content in [&b"first"[..], b"", b"third"] {
            record.save(content).unwrap();
            assert_eq!(record.load().unwrap().unwrap(), content);
            record.note(b"a note").unwrap();
            assert_eq!(record.load().unwrap().unwrap(), b"a note");
            record.note(content).unwrap();
        }
        let other = Record::new(path.clone(), "b");
        assert!(matches!(other.load(), Err(RecordError::Damaged { .. })));
        let good = fs_err::read(&path).unwrap();
        for byte in 0..good.len() {
            let mut bad = good.clone();
            bad[byte] ^= 1;
            fs_err::write(&path, bad).unwrap();
            assert!(record.load().is_err(), "byte {byte}");
            fs_err::write(&path, &good[..byte]).unwrap();
            assert!(record.load().is_err(), "{byte} bytes");
        }
    }

    #[test]
    fn a_failed_save_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record::new(dir.path().join("a.bin"), "a");
        record.save(b"old").unwrap();
        // A directory in the way of the file that is written aside.
        fs_err::create_dir(dir.path().join("a.new")).unwrap();
        assert!(record.save(b"new").is_err() && record.note(b"new").is_err());
        assert_eq!(record.load().unwrap().unwrap(), b"old");
    }
}
