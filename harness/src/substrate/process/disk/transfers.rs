//! Calls that bring blocks into the directory without writing them: copies by the kernel, clones, moves from outside.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::Stat;

use super::account::{Account, GO_ON, Told};
use super::caller::{
    CALL_BYTES, FdInfo, descriptor, id_of, is_regular, real_path, size_of, stat_path,
};
use super::calls::{Call, FICLONE};
use super::ledger::{BLOCK, Span};
use super::scan;
use super::seccomp::Answer;
use super::watches::Watches;

impl Account {
    /// `copy_file_range`, `sendfile`, `splice`: arguments of source and destination with those of their offsets, and of
    /// the length. What does not fit as a whole is refused as unsupported, upon which programs read and write, and a
    /// write can be shortened.
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
        let info = caller.info(target.fd)?;
        let offset = self.offset(told, to.1, info)?;
        let source = told.fd(from.0);
        let stat = caller.stat(source)?;
        let mut length = told.argument(length).min(CALL_BYTES);
        let whole = is_regular(&stat);
        if whole {
            let start = self.offset(told, from.1, caller.info(source)?)?;
            length = length.min(size_of(&stat).saturating_sub(start));
        }
        if length == 0 || !told.waits() {
            return GO_ON;
        }
        let offset = if info.has(libc::O_APPEND) {
            target.size
        } else {
            offset
        };
        let placed = to.1.is_some_and(|argument| told.argument(argument) != 0);
        let overtaken = if placed { 0 } else { self.sharing(target.file) };
        let span = Span {
            offset,
            length: length.saturating_add(overtaken),
        };
        let fits = self.fit(target.file, span, watches);
        if fits >= span.length {
            let shares = if placed { 0 } else { length };
            self.book(told, target.file, span, shares);
            return GO_ON;
        }
        // How much a pipe holds is known only once it is read.
        if fits == 0 && whole {
            self.hit(told, length, 0);
            return Ok(Answer::Error(libc::ENOSPC));
        }
        Ok(Answer::Error(match told.call {
            Call::CopyFileRange => libc::EXDEV,
            _ => libc::EINVAL,
        }))
    }

    /// The offset that an argument points to, or the descriptor's position when it points nowhere.
    fn offset(&self, told: Told<'_>, argument: Option<usize>, info: FdInfo) -> io::Result<u64> {
        match argument.map(|argument| told.argument(argument)) {
            None | Some(0) => Ok(info.position),
            Some(address) => Ok(told.caller().words::<1>(address)?[0]),
        }
    }

    /// FICLONE and FICLONERANGE: shared blocks count as if they were copied.
    pub(super) fn clone(&mut self, told: Told<'_>, watches: &mut Watches) -> io::Result<Answer> {
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

    /// `rename` and `link` between the directory and the world outside: what comes in has to fit, what goes out is free.
    pub(super) fn moves(
        &mut self,
        told: Told<'_>,
        watches: &mut Watches,
        from: (i32, usize),
        to: (i32, usize),
    ) -> io::Result<Answer> {
        let caller = told.caller();
        let old = caller.lookup(from.0, told.argument(from.1))?;
        let new = caller.lookup(to.0, told.argument(to.1))?;
        let (leaves, enters) = (self.parent_inside(&old)?, self.parent_inside(&new)?);
        if leaves == enters || !told.waits() {
            return GO_ON;
        }
        let stat: Stat = stat_path(&old)?;
        let file = id_of(&stat);
        if !is_regular(&stat) {
            // A tree changes sides: looked through when it matters.
            self.unsettled = true;
            return GO_ON;
        }
        if enters {
            let data = scan::file(&old).map(|found| found.data).unwrap_or_default();
            let length = data.blocks() * BLOCK;
            if !self.ledger.knows(file) {
                let whole = Span { offset: 0, length };
                if self.fit(file, whole, watches) < length {
                    self.hit(told, length, 0);
                    return Ok(Answer::Error(libc::ENOSPC));
                }
                self.ledger.settle(file, data);
                watches.watch(self.key, file, &old);
            }
        } else if matches!(told.call, Call::Rename | Call::Renameat) && stat.st_nlink == 1 {
            self.ledger.forget(file);
        }
        self.unsettled = true;
        GO_ON
    }

    /// Whether a path's directory is the data directory or under it.
    fn parent_inside(&self, path: &Path) -> io::Result<bool> {
        let parent = path.parent().unwrap_or(path);
        let real = real_path(parent)?;
        Ok(real == self.root.as_os_str().as_bytes() || self.holds(&real))
    }
}
