//! Calls that bring blocks into the directory without writing them: copies by the kernel, clones, moves from outside.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{FileType, Stat};

use super::account::{Account, GO_ON, Told};
use super::caller::{
    CALL_BYTES, descriptor, found, id_of, is_regular, real_path, size_of, stat_path,
};
use super::calls::{Call, FICLONE};
use super::carry::{Carry, Side, Waiting};
use super::ledger::{BLOCK, Span};
use super::scan;
use super::seccomp::Answer;
use super::watches::Watches;

impl Account {
    /// `copy_file_range`, `sendfile`, `splice`: arguments of source and destination with those of their offsets, and of
    /// the length. What does not fit as a whole is done up to the last block that fits.
    pub(super) fn copy(
        &mut self,
        told: Told<'_>,
        watches: &mut Watches,
        from: (usize, Option<usize>),
        to: (usize, Option<usize>),
        length: usize,
    ) -> io::Result<Answer> {
        let Some(target) = self.target(told, to.0, watches)? else {
            return GO_ON;
        };
        let caller = told.caller();
        let from = Self::side(told, from)?;
        let to = Self::side(told, to)?;
        let stat = caller.stat(from.fd)?;
        let mut length = told.argument(length).min(CALL_BYTES);
        let whole = is_regular(&stat);
        if whole {
            length = length.min(size_of(&stat).saturating_sub(from.offset()));
        }
        if length == 0 || !to.info.writes() || !told.waits() {
            return GO_ON;
        }
        let offset = if to.info.has(libc::O_APPEND) {
            target.size
        } else {
            to.offset()
        };
        let placed = to.placed.is_some();
        let overtaken = if placed { 0 } else { self.sharing(target.file) };
        let mut span = Span {
            offset,
            length: length.saturating_add(overtaken),
        };
        let fits = self.fit(target.file, span, watches);
        if fits >= span.length {
            let shares = if placed { 0 } else { length };
            self.book(told, target.file, span, shares);
            return GO_ON;
        }
        let flags = match told.call {
            Call::Sendfile => 0,
            _ => descriptor(told.argument(5)),
        };
        if told.call == Call::CopyFileRange && flags != 0 {
            return GO_ON;
        }
        let carry = Carry {
            call: told.call,
            source: id_of(&stat),
            from,
            target: target.file,
            to,
            length: fits.saturating_sub(overtaken).min(length),
            flags: flags.unsigned_abs(),
        };
        let asked = match carry.waiting(told, &stat)? {
            Waiting::Whole => length,
            Waiting::Bytes(bytes) => bytes.min(length),
            // The kernel takes nothing from it either.
            Waiting::Ended => return GO_ON,
            Waiting::Refused(error) => return Ok(Answer::Error(error)),
        };
        if carry.length == 0 {
            self.hit(told, asked, 0);
            return Ok(Answer::Error(libc::ENOSPC));
        }
        let done = carry.carry(told, self.means);
        if let Some(why) = done.lost {
            self.broken(&why);
        }
        match done.result {
            Ok(moved) => {
                span.length = overtaken + moved;
                self.ledger.take(target.file, span);
                if moved < asked {
                    self.hit(told, asked, moved);
                }
                Ok(Answer::Value(moved))
            }
            Err(error) => Ok(Answer::Error(error.raw_os_error().unwrap_or(libc::EIO))),
        }
    }

    /// One end of a transfer: the argument of its descriptor, and that which may point to an offset.
    fn side(told: Told<'_>, (fd, offset): (usize, Option<usize>)) -> io::Result<Side> {
        let (caller, fd) = (told.caller(), told.fd(fd));
        let address = offset.map_or(0, |argument| told.argument(argument));
        let placed = match address {
            0 => None,
            address => Some((address, caller.words::<1>(address)?[0])),
        };
        let info = caller.info(fd)?;
        Ok(Side { fd, info, placed })
    }

    /// FICLONE and FICLONERANGE: shared blocks count as if they were copied.
    pub(super) fn clone(&mut self, told: Told<'_>, watches: &mut Watches) -> io::Result<Answer> {
        // Programs copy where a file system knows no clones, and give up where it has no room for one.
        if !self.knows.clones {
            return GO_ON;
        }
        let Some(target) = self.target(told, 0, watches)? else {
            return GO_ON;
        };
        let caller = told.caller();
        let (source, start, length, offset) = if told.argument(1) == u64::from(FICLONE) {
            (told.argument(2), 0, 0, 0)
        } else {
            let [source, start, length, offset] = caller.words(told.argument(2))?;
            (source, start, length, offset)
        };
        let size = size_of(&caller.stat(descriptor(source))?);
        let length = match length {
            0 => size.saturating_sub(start),
            length => length,
        };
        let span = Span { offset, length };
        if !told.waits() {
            return GO_ON;
        }
        if self.fit(target.file, span, watches) < length {
            self.hit(told, length, 0);
            return Ok(Answer::Error(libc::ENOSPC));
        }
        self.book(told, target.file, span, 0);
        GO_ON
    }

    /// `rename` between the directory and the world outside. What is held is like a file system of its own, so programs know
    /// that whole directories do not cross its border (EXDEV) and copy them. A file that comes in has to fit, what goes out
    /// is free.
    pub(super) fn renames(
        &mut self,
        told: Told<'_>,
        watches: &mut Watches,
        from: (i32, usize),
        to: (i32, usize),
        flags: u64,
    ) -> io::Result<Answer> {
        let caller = told.caller();
        let old = caller.lookup(from.0, told.argument(from.1))?;
        let new = caller.lookup(to.0, told.argument(to.1))?;
        let (from, to) = (parent(&old)?, parent(&new)?);
        let (leaves, enters) = (self.contains(&from), self.contains(&to));
        if !told.waits() {
            return GO_ON;
        }
        if self.is_under(&from, &old) || self.is_under(&to, &new) {
            // As for a place where something is mounted: under another name its files would not be known any more.
            return Ok(Answer::Error(libc::EBUSY));
        }
        if leaves == enters {
            return GO_ON;
        }
        let stat: Stat = stat_path(&old)?;
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if flags & u64::from(libc::RENAME_EXCHANGE) != 0 || directory && enters {
            return Ok(Answer::Error(libc::EXDEV));
        }
        let file = id_of(&stat);
        if directory {
            for found in scan::files(&old) {
                if stat_path(&found.path).is_ok_and(|stat| stat.st_nlink == 1) {
                    self.gone(found.file);
                }
            }
        } else if !is_regular(&stat) {
            return GO_ON;
        } else if leaves {
            if stat.st_nlink == 1 {
                self.gone(file);
            }
        } else if !self.ledger.knows(file) {
            let data = scan::file(&old).map(|found| found.data).unwrap_or_default();
            let length = data.blocks() * BLOCK;
            let whole = Span { offset: 0, length };
            if self.fit(file, whole, watches) < length {
                self.hit(told, length, 0);
                return Ok(Answer::Error(libc::ENOSPC));
            }
            self.ledger.settle(file, data);
            watches.watch(self.key, file, &old);
        }
        self.unsettled = true;
        GO_ON
    }

    /// `link` into the directory: a file outside gets no name inside, as between file systems.
    pub(super) fn links(
        &mut self,
        told: Told<'_>,
        from: (i32, usize),
        to: (i32, usize),
        flags: i32,
    ) -> io::Result<Answer> {
        let caller = told.caller();
        let new = caller.lookup(to.0, told.argument(to.1))?;
        if !self.contains(&parent(&new)?) {
            return GO_ON;
        }
        let name = told.argument(from.1);
        let by_descriptor = flags & libc::AT_EMPTY_PATH != 0 && caller.text(name)?.is_empty();
        let (stat, path) = if by_descriptor {
            found(Path::new(&caller.path_of(from.0)), true)?
        } else {
            let followed = flags & libc::AT_SYMLINK_FOLLOW != 0;
            found(&caller.lookup(from.0, name)?, followed)?
        };
        let counted = self.holds(&path) || self.ledger.knows(id_of(&stat));
        if !is_regular(&stat) || counted || !told.waits() {
            return GO_ON;
        }
        Ok(Answer::Error(libc::EXDEV))
    }

    /// Whether a real path is that of the data directory or under it.
    fn contains(&self, real: &[u8]) -> bool {
        real == self.root.as_os_str().as_bytes() || self.holds(real)
    }

    /// Whether the data directory is what this path names in its real parent, or is somewhere under it.
    fn is_under(&self, parent: &[u8], path: &Path) -> bool {
        let parent = Path::new(OsStr::from_bytes(parent));
        path.file_name()
            .is_some_and(|name| self.root.starts_with(parent.join(name)))
    }
}

/// The real path of a path's directory.
fn parent(path: &Path) -> io::Result<Vec<u8>> {
    real_path(path.parent().unwrap_or(path))
}
