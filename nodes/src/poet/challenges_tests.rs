//! Registrations come back sorted, survive closing, and meet full and damaged disks as errors.

use super::*;
use crate::poet::store::database_bytes;
use redb::StorageBackend;
use redb::backends::InMemoryBackend;
use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A disk that is full from the moment it is told to be, and counts the blocks that were written.
#[derive(Debug)]
struct Disk {
    inner: InMemoryBackend,
    full: Arc<AtomicBool>,
    blocks: Arc<Mutex<BTreeSet<u64>>>,
}

impl Disk {
    fn new() -> Self {
        Self {
            inner: InMemoryBackend::new(),
            full: Arc::default(),
            blocks: Arc::default(),
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.blocks
            .lock()
            .unwrap()
            .retain(|block| block * 4096 < len);
        self.inner.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        let end = offset + data.len() as u64;
        self.blocks
            .lock()
            .unwrap()
            .extend(offset / 4096..end.div_ceil(4096));
        self.inner.write(offset, data)
    }
}

#[test]
fn challenges_come_back_sorted_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("challenges.redb");
    let mut challenges = Challenges::open(&path).unwrap();
    assert!(challenges.members().unwrap().is_empty());
    for (challenge, is_new) in [(3, true), (1, true), (3, false), (2, true)] {
        assert_eq!(challenges.insert(&[challenge; 32]).unwrap(), is_new);
    }
    drop(challenges);
    let mut again = Challenges::open(&path).unwrap();
    assert_eq!(
        again.members().unwrap().as_slice(),
        [[1; 32], [2; 32], [3; 32]]
    );
    assert!(Challenges::open(&path).is_err(), "one process at a time");
}

#[test]
fn a_full_disk_is_an_error_and_a_disk_with_room_again_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::new();
    let full = Arc::clone(&disk.full);
    let database = Builder::new().create_with_backend(disk).unwrap();
    let mut challenges = Challenges {
        path: dir.path().join("challenges.redb"),
        database: Some(database),
    };
    assert!(challenges.insert(&[1; 32]).unwrap());
    full.store(true, Ordering::Relaxed);
    let error = challenges.insert(&[2; 32]).unwrap_err();
    assert!(error.is_disk_full(), "{error:?}");
    // The next call opens the file in `path`, where there is room.
    assert!(challenges.insert(&[2; 32]).unwrap());
}

#[test]
fn a_database_that_cannot_be_made_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let error = Challenges::open(&dir.path().join("no/such/dir.redb")).unwrap_err();
    assert!(!error.is_disk_full());
    let text = error.to_string();
    assert!(
        text.contains("no/such/dir.redb") && text.contains("opened"),
        "{text}"
    );
}

#[test]
fn a_damaged_database_is_refused_without_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("challenges.redb");
    let mut challenges = Challenges::open(&path).unwrap();
    for challenge in 0..12 {
        challenges.insert(&[challenge; 32]).unwrap();
    }
    let members = challenges.members().unwrap();
    drop(challenges);
    let whole = fs_err::read(&path).unwrap();
    // A flip in an unused page changes nothing; anywhere else it must show.
    let mut refused = 0;
    for place in (0..whole.len()).step_by(whole.len() / 64) {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x20;
        fs_err::write(&path, &bytes).unwrap();
        match Challenges::open(&path).and_then(|mut challenges| challenges.members()) {
            Ok(read) => assert_eq!(read, members, "byte {place}"),
            Err(_) => refused += 1,
        }
    }
    fs_err::write(&path, b"not a database").unwrap();
    assert!(Challenges::open(&path).is_err());
    assert!(refused > 0);
}

/// What a role declares as the size of a round rests on this.
#[test]
fn a_database_takes_the_blocks_that_are_said() {
    for (members, exactly) in [(12_u8, Some(14)), (100, Some(14)), (255, None)] {
        let disk = Disk::new();
        let blocks = Arc::clone(&disk.blocks);
        let mut challenges = Challenges {
            path: PathBuf::new(),
            database: Some(Builder::new().create_with_backend(disk).unwrap()),
        };
        for member in 0..members {
            challenges.insert(&[member.wrapping_mul(151); 32]).unwrap();
        }
        drop(challenges);
        let taken = blocks.lock().unwrap().len() as u64;
        let said = database_bytes(members.into()) / 4096;
        assert!(taken <= said, "{members} members: {taken} blocks of {said}");
        assert!(
            exactly.is_none_or(|exactly| taken == exactly),
            "{members} members: {taken}"
        );
    }
}
