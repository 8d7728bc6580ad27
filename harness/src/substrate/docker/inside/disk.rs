//! The data volume from inside: ballast that makes it smaller while it is in use, and probes.
//!
//! Ballast is allocated in a file without a name, so the node does not see it, cannot remove it,
//! and it is gone with the agent. A volume of size S is capped at C by a ballast of S − C. A node
//! that holds more than C already cannot be taken anything from: then the ballast takes what is
//! free, and goes on taking what the node gives back until it has its size.

use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fs_err as fs;
use rustix::fs::{FallocateFlags, Mode, OFlags, StatVfs, fallocate, ftruncate, statvfs};

use super::super::wire::Disk;

/// Volumes are allocated in these steps.
const PAGE: u64 = 4096;

/// How often a held volume is looked at, and how soon what a node gives back is taken: a node that
/// finds no room writes and removes within some milliseconds.
pub(super) const TOP_UP: Duration = Duration::from_millis(5);

/// The data volume.
#[derive(Debug)]
pub(super) struct Volume {
    root: std::path::PathBuf,
    ballast: Mutex<Ballast>,
    /// Used once somebody holds it.
    held: tokio::sync::Notify,
}

#[derive(Debug, Default)]
struct Ballast {
    file: Option<std::fs::File>,
    wanted: u64,
    held: u64,
    /// Whether there was no free block at the last look, and how often that began.
    is_full: bool,
    full: u64,
}

impl Volume {
    pub(super) fn new(root: std::path::PathBuf) -> Self {
        Self {
            root,
            ballast: Mutex::default(),
            held: tokio::sync::Notify::new(),
        }
    }

    /// Lets whoever the node runs as write. The engine makes volumes that belong to root.
    pub(super) fn open_to_all(&self) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&self.root, std::fs::Permissions::from_mode(0o777))
    }

    /// Waits until somebody holds it.
    pub(super) async fn held(&self) {
        self.held.notified().await;
    }

    /// Takes this much, or gives back what is too much.
    pub(super) fn want(&self, bytes: u64) -> io::Result<Disk> {
        self.held.notify_one();
        let mut ballast = self.ballast();
        ballast.wanted = bytes.min(self.statvfs()?.size()).next_multiple_of(PAGE);
        if ballast.wanted < ballast.held {
            if let Some(file) = &ballast.file {
                ftruncate(file, ballast.wanted)?;
            }
            ballast.held = ballast.wanted;
        }
        self.take(&mut ballast)?;
        // What the ballast itself has filled hit nobody yet.
        ballast.is_full = self.statvfs()?.free() < PAGE;
        self.state_with(&ballast)
    }

    /// Takes what is still missing, and looks whether there is room; true if nothing is missing.
    pub(super) fn look(&self) -> io::Result<bool> {
        let mut ballast = self.ballast();
        self.take(&mut ballast)?;
        let is_full = self.statvfs()?.free() < PAGE;
        if is_full && !ballast.is_full {
            ballast.full += 1;
        }
        ballast.is_full = is_full;
        Ok(ballast.held >= ballast.wanted)
    }

    pub(super) fn state(&self) -> io::Result<Disk> {
        let ballast = self.ballast();
        self.state_with(&ballast)
    }

    /// Tries to allocate this much; the error number with which that failed.
    pub(super) fn probe(&self, bytes: u64) -> io::Result<Option<i32>> {
        // While this is held nobody looks, so that what a probe takes for a moment fills nothing.
        let _ballast = self.ballast();
        let file = nameless(&self.root)?;
        match fallocate(&file, FallocateFlags::empty(), 0, bytes.max(1)) {
            Ok(()) => Ok(None),
            Err(errno) => Ok(Some(errno.raw_os_error())),
        }
    }

    fn take(&self, ballast: &mut Ballast) -> io::Result<()> {
        if ballast.wanted <= ballast.held {
            return Ok(());
        }
        if ballast.file.is_none() {
            ballast.file = Some(nameless(&self.root)?);
        }
        let Some(file) = &ballast.file else {
            return Ok(());
        };
        let free = self.statvfs()?.free() / PAGE * PAGE;
        let mut step = free.min(ballast.wanted - ballast.held);
        // All or nothing is allocated by a call, so what is free is asked for, then less and less:
        // the node may write meanwhile.
        while step >= PAGE {
            match fallocate(file, FallocateFlags::empty(), ballast.held, step) {
                Ok(()) => {
                    ballast.held += step;
                    return Ok(());
                }
                Err(rustix::io::Errno::NOSPC) => {
                    let free = self.statvfs()?.free() / PAGE * PAGE;
                    step = free.min(step / 2 / PAGE * PAGE);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn state_with(&self, ballast: &Ballast) -> io::Result<Disk> {
        let seen = self.statvfs()?;
        Ok(Disk {
            size: seen.size(),
            free: seen.free(),
            ballast_wanted: ballast.wanted,
            ballast: ballast.held,
            full: ballast.full,
        })
    }

    fn statvfs(&self) -> io::Result<Seen> {
        Ok(Seen(statvfs(&self.root)?))
    }

    fn ballast(&self) -> MutexGuard<'_, Ballast> {
        self.ballast.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Seen(StatVfs);

impl Seen {
    fn size(&self) -> u64 {
        self.0.f_blocks.saturating_mul(self.0.f_frsize)
    }

    fn free(&self) -> u64 {
        self.0.f_bavail.saturating_mul(self.0.f_frsize)
    }
}

/// A file without a name in a directory, gone when it is closed.
fn nameless(root: &Path) -> io::Result<std::fs::File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open(root, flags, Mode::RUSR | Mode::WUSR)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only what needs no file system of its own; the rest is tested in containers.
    #[test]
    fn ballast_is_taken_and_given_back_without_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::new(dir.path().to_owned());
        volume.open_to_all().unwrap();
        let disk = volume.want(10_000).unwrap();
        assert_eq!((disk.ballast_wanted, disk.ballast), (12_288, 12_288));
        assert!(volume.look().unwrap());
        assert_eq!(volume.want(0).unwrap().ballast, 0);
        assert_eq!(volume.probe(4096).unwrap(), None);
        let more_than_any_disk = volume.probe(1 << 60).unwrap();
        assert!(more_than_any_disk.is_some());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(volume.state().unwrap().size > 0);
    }
}
