//! Calls on a file of the directory itself: writes, reservations, cuts, mappings.

use std::io;
use std::os::unix::ffi::OsStrExt as _;

use super::Means;
use super::account::{Account, GO_ON, Told};
use super::caller::{Buffer, CALL_BYTES, descriptor, id_of};
use super::ledger::{FileId, Freed, Span};
use super::perform::{self, Place, Write};
use super::seccomp::Answer;
use super::watches::Watches;

/// With fewer blocks left than this, writes at shared positions are performed and not left to the kernel.
const NEAR: u64 = 64;

/// Where a write lands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// At the descriptor's position.
    Position,
    Offset(u64),
}

impl Account {
    pub(super) fn write(
        &mut self,
        told: Told<'_>,
        watches: &mut Watches,
        at: At,
        flags: i32,
        buffers: impl Fn() -> io::Result<Vec<Buffer>>,
    ) -> io::Result<Answer> {
        let Some(target) = self.target(told, 0, watches)? else {
            return GO_ON;
        };
        let buffers = buffers()?;
        let length = buffers
            .iter()
            .fold(0_u64, |sum, buffer| sum.saturating_add(buffer.length))
            .min(CALL_BYTES);
        let info = told.caller().info(target.fd)?;
        // Of a thread that died since, a wrong booking is harmless, and nothing is performed.
        if length == 0 || !info.writes() {
            return GO_ON;
        }
        let appends = info.has(libc::O_APPEND) || flags & libc::RWF_APPEND != 0;
        let place = match (appends, at) {
            (true, _) => Place::End,
            (false, At::Position) => Place::Position,
            (false, At::Offset(offset)) => Place::Offset(offset),
        };
        let offset = match place {
            Place::End => target.size,
            Place::Position => info.position,
            Place::Offset(offset) => offset,
        };
        let mut span = Span { offset, length };
        let overtaken = match place {
            Place::Offset(_) => 0,
            Place::Position | Place::End => self.sharing(target.file),
        };
        span.length += overtaken;
        let fits = self.fit(target.file, span, watches);
        let write = Write {
            target,
            info,
            place,
            moves: at == At::Position,
            offset,
            buffers: &buffers,
            length: fits.saturating_sub(overtaken).min(length),
            flags,
        };
        let shares = match place {
            Place::Offset(_) => 0,
            Place::Position | Place::End => length,
        };
        let near = shares > 0 && self.ledger.room().is_some_and(|room| room < NEAR);
        let done = if fits >= span.length {
            // Near the cap nothing may be under way to a position that is shared, or nobody knows where it lands.
            match self.means {
                Means::Own if near => perform::through_own(told, &write),
                _ => None,
            }
        } else if write.length > 0 {
            Some(perform::perform(told, self.means, &write))
        } else {
            self.hit(told, length, 0);
            return Ok(Answer::Error(libc::ENOSPC));
        };
        let Some(done) = done else {
            self.book(told, target.file, span, shares);
            return GO_ON;
        };
        if let Some(why) = done.lost {
            self.broken(&why);
        }
        match done.result {
            Ok(written) => {
                span.length = overtaken + written;
                self.ledger.take(target.file, span);
                if fits < length + overtaken {
                    self.hit(told, length, written);
                }
                Ok(Answer::Value(written))
            }
            Err(error) => Ok(Answer::Error(error.raw_os_error().unwrap_or(libc::EIO))),
        }
    }

    pub(super) fn fallocate(
        &mut self,
        told: Told<'_>,
        watches: &mut Watches,
    ) -> io::Result<Answer> {
        let Some(target) = self.target(told, 0, watches)? else {
            return GO_ON;
        };
        let mode = descriptor(told.argument(1));
        let span = Span {
            offset: told.argument(2),
            length: told.argument(3),
        };
        if mode & libc::FALLOC_FL_PUNCH_HOLE != 0 {
            let freed = self.frees(told, target.file);
            self.ledger.punch(target.file, span, freed);
            return GO_ON;
        }
        if mode & (libc::FALLOC_FL_COLLAPSE_RANGE | libc::FALLOC_FL_INSERT_RANGE) != 0 {
            // Blocks move, none is taken. The next look finds where they are.
            self.frees(told, target.file);
            return GO_ON;
        }
        if self.fit(target.file, span, watches) < span.length {
            self.hit(told, span.length, 0);
            return Ok(Answer::Error(libc::ENOSPC));
        }
        self.ledger.allocate(target.file, span);
        self.goes_on(told, target.file, span, 0);
        GO_ON
    }

    /// A file gets a size. More than it had is a hole and free; less frees what was behind.
    pub(super) fn cut(&mut self, told: Told<'_>, file: FileId, size: u64) {
        if self.ledger.knows(file) {
            let freed = self.frees(told, file);
            self.ledger.cut(file, size, freed);
        }
    }

    /// A call is about to free blocks, unless it fails. Where reality can be looked up, that is left to the next look.
    fn frees(&mut self, told: Told<'_>, file: FileId) -> Freed {
        let nothing = Span {
            offset: 0,
            length: 0,
        };
        self.goes_on(told, file, nothing, 0);
        self.freed = true;
        if self.knows.holes {
            Freed::Perhaps
        } else {
            Freed::Surely
        }
    }

    pub(super) fn cut_path(
        &mut self,
        told: Told<'_>,
        directory: i32,
        argument: usize,
        size: u64,
    ) -> io::Result<Answer> {
        let path = told.caller().lookup(directory, told.argument(argument))?;
        // A link is followed, as by the call; a path that leads nowhere creates a file, which takes nothing.
        if let Ok(stat) = rustix::fs::stat(&path)
            && told.waits()
        {
            self.cut(told, id_of(&stat), size);
        }
        GO_ON
    }

    /// A shared mapping through a descriptor that may write: stores through it take blocks, and no call says so.
    pub(super) fn mmap(&mut self, told: Told<'_>, watches: &mut Watches) -> io::Result<Answer> {
        let Some(target) = self.target(told, 4, watches)? else {
            return GO_ON;
        };
        let info = told.caller().info(target.fd)?;
        if info.flags & libc::O_ACCMODE.unsigned_abs() == libc::O_RDWR.unsigned_abs()
            && told.waits()
        {
            let name = told.caller().name_of(target.fd)?;
            let root = self.root.as_os_str().as_bytes();
            let name = name.strip_prefix(root).unwrap_or(&name);
            let name = String::from_utf8_lossy(name);
            let name = name.trim_start_matches('/');
            self.broken(&format!(
                "it maps `{name}` shared and writable, and what it stores there cannot be counted"
            ));
        }
        GO_ON
    }
}
