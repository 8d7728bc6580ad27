//! What is on disk: the data and holes of a file, and the files of a directory.
//!
//! Data is asked for with `SEEK_DATA`, which counts what was written, also when it is not on disk yet, and no hole.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, SeekFrom, openat, seek};

use super::caller::{id_of, is_regular, size_of};
use super::ledger::{BLOCK, Extents, FileId};

/// A file with more stretches of data than this is counted as data from there on.
const STRETCHES: usize = 100_000;
/// A data directory with more files than this is not looked through to its end.
const FILES: usize = 100_000;

/// The data of a file.
pub(super) fn data(file: impl AsFd) -> io::Result<Extents> {
    let size = size_of(&rustix::fs::fstat(&file)?);
    let mut found = Extents::default();
    let mut at = 0;
    for _ in 0..STRETCHES {
        let from = match seek(&file, SeekFrom::Data(at)) {
            Ok(from) => from,
            Err(rustix::io::Errno::NXIO) => return Ok(found),
            Err(error) => return Err(error.into()),
        };
        at = seek(&file, SeekFrom::Hole(from))?;
        found.insert(from / BLOCK, at.div_ceil(BLOCK));
    }
    found.insert(at / BLOCK, size.div_ceil(BLOCK));
    Ok(found)
}

/// What the file system of a directory can do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Knows {
    /// It shows holes.
    pub(super) holes: bool,
    /// It perhaps clones; one that does not refuses that by itself.
    pub(super) clones: bool,
}

impl Knows {
    pub(super) fn at(directory: &Path) -> Self {
        Self {
            // A file system without unlinked files is not asked for its holes, too.
            holes: shows_holes(directory).unwrap_or(false),
            clones: clones(directory),
        }
    }
}

/// Whether the file system of a directory shows holes. Where it does not, looking would count them as data.
fn shows_holes(directory: &Path) -> io::Result<bool> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = openat(CWD, directory, flags, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::ftruncate(&file, 64 * BLOCK)?;
    Ok(data(&file)?.blocks() == 0)
}

/// Whether files of a directory's file system can perhaps be clones of others.
fn clones(directory: &Path) -> bool {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = || openat(CWD, directory, flags, Mode::RUSR | Mode::WUSR);
    let tried = file().and_then(|source| rustix::fs::ioctl_ficlone(file()?, source));
    !matches!(
        tried,
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOTTY)
    )
}

/// A regular file of a directory.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) file: FileId,
    pub(super) path: std::path::PathBuf,
    /// In bytes, read before the data was.
    pub(super) size: u64,
    pub(super) data: Extents,
}

/// The regular files under a directory. What cannot be read, or is gone again, is passed over.
pub(super) fn files(root: &Path) -> Vec<Found> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        let Ok(entries) = fs_err::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(path),
                Ok(kind) if kind.is_file() => found.extend(file(&path)),
                _ => {}
            }
            if found.len() >= FILES {
                return found;
            }
        }
    }
    found
}

/// One of them.
pub(super) fn file(path: &Path) -> Option<Found> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = openat(CWD, path, flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&fd).ok()?;
    if !is_regular(&stat) {
        return None;
    }
    Some(Found {
        file: id_of(&stat),
        path: path.to_owned(),
        size: size_of(&stat),
        data: data(&fd).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn holes_are_free_and_directories_are_walked() {
        let root = tempfile::tempdir().unwrap();
        if !shows_holes(root.path()).unwrap() {
            return;
        }
        fs_err::create_dir(root.path().join("deeper")).unwrap();
        let sparse = fs_err::File::create(root.path().join("deeper/sparse")).unwrap();
        sparse.file().write_all_at(b"x", 10 * BLOCK).unwrap();
        sparse
            .file()
            .write_all_at(&[1; 5000], 20 * BLOCK - 1)
            .unwrap();
        sparse.set_len(1 << 30).unwrap();
        fs_err::write(root.path().join("plain"), vec![0; 4097]).unwrap();
        std::os::unix::fs::symlink("plain", root.path().join("link")).unwrap();
        let mut found = files(root.path());
        found.sort_by_key(|found| found.path.clone());
        let blocks: Vec<u64> = found.iter().map(|found| found.data.blocks()).collect();
        assert_eq!(blocks, [4, 2], "{found:?}");
        assert!(file(&root.path().join("link")).is_none());
    }
}
