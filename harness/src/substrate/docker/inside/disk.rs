//! The data volume from inside: ballast that makes it smaller while it is in use, and probes.
//!
//! Ballast is allocated in a file without a name, so the node does not see it, cannot remove it,
//! and it is gone with the agent. A volume of size S is capped at C by a ballast of S − C. A node
//! that holds more than C already cannot be taken anything from: then the ballast takes what is
//! free, and goes on taking what the node gives back until it has its size.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fs_err as fs;
use rustix::fs::{FallocateFlags, Mode, OFlags, StatVfs, fallocate, ftruncate, statvfs};
use tokio::sync::{Mutex, Notify};

use super::super::wire::Disk;

/// Volumes are allocated in these steps.
const PAGE: u64 = 4096;

/// How often a held volume is looked at, and how soon what a node gives back is taken: a node that
/// finds no room writes and removes within some milliseconds.
pub(super) const TOP_UP: Duration = Duration::from_millis(5);

/// The data volume, for a loop that must not wait for it.
///
/// The kernel clears every page that it allocates, some 20 ms for 64 MiB, and on the loop the agent measures how late it
/// is. So what is done to the volume is done on a thread beside it, one thing at a time and in the order of the asking.
#[derive(Debug)]
pub(super) struct Volume {
    ballast: Arc<Mutex<Ballast>>,
    /// Used once somebody holds it.
    held: Notify,
}

/// The ballast of a volume, and what was seen of it.
#[derive(Debug)]
struct Ballast {
    root: PathBuf,
    file: Option<std::fs::File>,
    wanted: u64,
    held: u64,
    /// Whether there was no free block at the last look, and how often that began.
    is_full: bool,
    full: u64,
}

impl Volume {
    pub(super) fn new(root: PathBuf) -> Self {
        Self {
            ballast: Arc::new(Mutex::new(Ballast::new(root))),
            held: Notify::new(),
        }
    }

    /// Lets whoever the node runs as write. The engine makes volumes that belong to root.
    pub(super) async fn open_to_all(&self) -> io::Result<()> {
        self.in_turn(|ballast| ballast.open_to_all()).await
    }

    /// Waits until somebody holds it.
    pub(super) async fn held(&self) {
        self.held.notified().await;
    }

    /// Takes this much, or gives back what is too much.
    pub(super) async fn want(&self, bytes: u64) -> io::Result<Disk> {
        self.held.notify_one();
        self.in_turn(move |ballast| ballast.want(bytes)).await
    }

    /// Takes what is still missing, and looks whether there is room; true if nothing is missing.
    pub(super) async fn look(&self) -> io::Result<bool> {
        self.in_turn(Ballast::look).await
    }

    pub(super) async fn state(&self) -> io::Result<Disk> {
        self.in_turn(|ballast| ballast.state()).await
    }

    /// Whether this much can be allocated; the error number with which it cannot. Nobody looks meanwhile, so that what it
    /// takes for a moment fills nothing.
    pub(super) async fn probe(&self, bytes: u64) -> io::Result<Option<i32>> {
        self.in_turn(move |ballast| ballast.probe(bytes)).await
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        deed: impl FnOnce(&mut Ballast) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        // Who asked first has it first: this lock is fair, which one that threads wait for is not.
        let mut ballast = Arc::clone(&self.ballast).lock_owned().await;
        let done = tokio::task::spawn_blocking(move || deed(&mut ballast)).await;
        done.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

impl Ballast {
    fn new(root: PathBuf) -> Self {
        Self {
            root,
            file: None,
            wanted: 0,
            held: 0,
            is_full: false,
            full: 0,
        }
    }

    fn open_to_all(&self) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&self.root, std::fs::Permissions::from_mode(0o777))
    }

    fn want(&mut self, bytes: u64) -> io::Result<Disk> {
        self.wanted = bytes.min(self.statvfs()?.size()).next_multiple_of(PAGE);
        if self.wanted < self.held {
            if let Some(file) = &self.file {
                ftruncate(file, self.wanted)?;
            }
            self.held = self.wanted;
        }
        self.take()?;
        // What the ballast itself has filled hit nobody yet.
        self.is_full = self.statvfs()?.free() < PAGE;
        self.state()
    }

    fn look(&mut self) -> io::Result<bool> {
        self.take()?;
        let is_full = self.statvfs()?.free() < PAGE;
        if is_full && !self.is_full {
            self.full += 1;
        }
        self.is_full = is_full;
        Ok(self.held >= self.wanted)
    }

    fn probe(&self, bytes: u64) -> io::Result<Option<i32>> {
        let seen = self.statvfs()?;
        let Some(asked) = asked(bytes, seen.size(), seen.free()) else {
            return Ok(Some(rustix::io::Errno::NOSPC.raw_os_error()));
        };
        let file = nameless(&self.root)?;
        match fallocate(&file, FallocateFlags::empty(), 0, asked) {
            Ok(()) => Ok(None),
            Err(errno) => Ok(Some(errno.raw_os_error())),
        }
    }

    fn take(&mut self) -> io::Result<()> {
        if self.wanted <= self.held {
            return Ok(());
        }
        if self.file.is_none() {
            self.file = Some(nameless(&self.root)?);
        }
        let Some(file) = &self.file else {
            return Ok(());
        };
        let free = self.statvfs()?.free() / PAGE * PAGE;
        let mut step = free.min(self.wanted - self.held);
        // All or nothing is allocated by a call, so what is free is asked for, then less and less:
        // the node may write meanwhile.
        while step >= PAGE {
            match fallocate(file, FallocateFlags::empty(), self.held, step) {
                Ok(()) => {
                    self.held += step;
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

    fn state(&self) -> io::Result<Disk> {
        let seen = self.statvfs()?;
        Ok(Disk {
            size: seen.size(),
            free: seen.free(),
            ballast_wanted: self.wanted,
            ballast: self.held,
            full: self.full,
        })
    }

    fn statvfs(&self) -> io::Result<Seen> {
        Ok(Seen(statvfs(&self.root)?))
    }
}

/// How much is asked for to know whether `bytes` could be had of a volume; `None` where what is free says that they could
/// not.
///
/// More than a volume's size the kernel refuses at once. Anything less it takes page by page, some 20 ms for 64 MiB, and
/// keeps, or gives back when there is no more: a node that writes meanwhile could find its disk full, and be blamed for what
/// this did. So there the kernel's count of free blocks answers, by which it refuses, and what it says is free is tried with
/// one page.
fn asked(bytes: u64, size: u64, free: u64) -> Option<u64> {
    if bytes > size {
        Some(bytes)
    } else {
        (bytes <= free).then_some(PAGE)
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
    #[tokio::test]
    async fn ballast_is_taken_and_given_back_without_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::new(dir.path().to_owned());
        volume.open_to_all().await.unwrap();
        let disk = volume.want(10_000).await.unwrap();
        assert_eq!((disk.ballast_wanted, disk.ballast), (12_288, 12_288));
        assert!(volume.look().await.unwrap());
        assert_eq!(volume.want(0).await.unwrap().ballast, 0);
        assert_eq!(volume.probe(4096).await.unwrap(), None);
        let more_than_any_disk = volume.probe(1 << 60).await.unwrap();
        assert!(more_than_any_disk.is_some());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(volume.state().await.unwrap().size > 0);
    }

    #[test]
    fn a_probe_takes_one_page_or_is_refused_at_once() {
        let (size, free) = (100 * PAGE, 40 * PAGE);
        for (bytes, want) in [
            (0, Some(PAGE)),
            (PAGE, Some(PAGE)),
            (free, Some(PAGE)),
            (free + 1, None),
            (size, None),
            (size + 1, Some(size + 1)),
        ] {
            assert_eq!(asked(bytes, size, free), want, "{bytes}");
        }
    }

    #[tokio::test]
    async fn the_loop_goes_on_meanwhile_and_turns_are_taken_in_the_order_of_the_asking() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::new(dir.path().to_owned());
        let (go, wait) = std::sync::mpsc::channel();
        let slow = volume.in_turn(move |_| {
            let bound = Duration::from_secs(10);
            wait.recv_timeout(bound).map_err(io::Error::other)
        });
        let (tell, order) = std::sync::mpsc::channel();
        let others = (0..8).map(|turn| {
            let tell = tell.clone();
            volume.in_turn(move |_| tell.send(turn).map_err(io::Error::other))
        });
        let others = futures_util::future::try_join_all(others);
        // Had the first turn held up the loop, nobody would tell it to go on.
        let told = async { go.send(()).unwrap() };
        let (slow, done, ()) = tokio::join!(slow, others, told);
        slow.unwrap();
        done.unwrap();
        assert_eq!(
            order.try_iter().collect::<Vec<_>>(),
            [0, 1, 2, 3, 4, 5, 6, 7]
        );
    }
}
