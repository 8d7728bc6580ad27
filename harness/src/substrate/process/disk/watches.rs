//! When a file is really gone: its last link and its last descriptor.
//!
//! The kernel says so by inotify (`IN_DELETE_SELF`), in the course of the `unlink`, `rename` or `close` that does it, whoever
//! does it. So the event lies here before the same thread's next call, and is taken before that call is decided.
//!
//! A file that had several names (hard links) and is open by one of them when the last name goes may be told too early; it
//! counts again from its next write on.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};

use super::ledger::FileId;

/// Room for some hundred events; what does not fit is read next.
const EVENT_BYTES: usize = 8192;

/// What became of watched files.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// The account and the file.
    pub(super) files: Vec<(u64, FileId)>,
    /// There were more events than the kernel keeps.
    pub(super) missed: bool,
}

/// Watches over files of all accounts.
#[derive(Debug)]
pub(super) struct Watches {
    inotify: OwnedFd,
    files: BTreeMap<i32, (u64, FileId)>,
}

impl Watches {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            inotify: init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            files: BTreeMap::new(),
        })
    }

    /// Watches a file until it is gone. Where that is not possible (a limit of this machine, a file system without it)
    /// the file's blocks count until a node starts again.
    pub(super) fn watch(&mut self, account: u64, file: FileId, path: &Path) {
        match add_watch(&self.inotify, path, WatchFlags::DELETE_SELF) {
            Ok(watch) => {
                self.files.insert(watch, (account, file));
            }
            Err(error) => tracing::debug!(path = %path.display(), %error, "not watched"),
        }
    }

    /// What happened since the last call.
    pub(super) fn gone(&mut self) -> Gone {
        let mut gone = Gone::default();
        let mut room = [MaybeUninit::uninit(); EVENT_BYTES];
        let mut events = Reader::new(&self.inotify, &mut room);
        // Ends when there is nothing more to read.
        while let Ok(event) = events.next() {
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                gone.missed = true;
            }
            if event.events().contains(ReadFlags::DELETE_SELF)
                && let Some(known) = self.files.get(&event.wd())
            {
                gone.files.push(*known);
            }
            if event.events().contains(ReadFlags::IGNORED) {
                self.files.remove(&event.wd());
            }
        }
        gone
    }
}

impl AsFd for Watches {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::super::caller::id_of;
    use super::*;

    #[test]
    fn a_file_is_gone_with_its_last_link_and_its_last_descriptor() {
        let directory = tempfile::tempdir().unwrap();
        let mut watches = Watches::new().unwrap();
        let path = directory.path().join("file");
        let open = fs_err::File::create(&path).unwrap();
        let file = id_of(&rustix::fs::fstat(&open).unwrap());
        watches.watch(7, file, &path);
        let twin = directory.path().join("twin");
        fs_err::hard_link(&path, &twin).unwrap();
        fs_err::remove_file(&twin).unwrap();
        assert!(watches.gone().files.is_empty(), "a name is left");
        let other = directory.path().join("other");
        fs_err::write(&other, "x").unwrap();
        fs_err::rename(&other, &path).unwrap();
        assert!(watches.gone().files.is_empty(), "a descriptor is open");
        drop(open);
        assert_eq!(watches.gone().files, [(7, file)]);
        assert!(watches.files.is_empty());
    }
}
