//! Doing part of a transfer in a node's place: the same call, only shorter.
//!
//! Best through the node's own descriptors, as [`perform`](super::perform) does, with the same two flaws where they cannot be
//! had. A pipe is never waited for, since all nodes would wait with it: one that is empty while somebody may still write to
//! it refuses the call as unsupported (EINVAL), upon which programs read and write.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags, SeekFrom, Stat, copy_file_range, openat, seek, sendfile};
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice, tee};

use super::Means;
use super::account::Told;
use super::caller::FdInfo;
use super::calls::Call;
use super::ledger::FileId;
use super::perform::Done;

/// One end of a transfer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side {
    pub(super) fd: i32,
    pub(super) info: FdInfo,
    /// Where the node keeps an offset of its own, and which; without one the descriptor's position is meant.
    pub(super) placed: Option<(u64, u64)>,
}

impl Side {
    pub(super) fn offset(&self) -> u64 {
        self.placed.map_or(self.info.position, |(_, offset)| offset)
    }
}

/// A transfer to do.
#[derive(Debug)]
pub(super) struct Carry {
    pub(super) call: Call,
    pub(super) source: FileId,
    pub(super) from: Side,
    pub(super) target: FileId,
    pub(super) to: Side,
    /// How much of it.
    pub(super) length: u64,
    pub(super) flags: u32,
}

/// What lies ready to be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    /// As much as the call asks for.
    Whole,
    /// So much in a pipe.
    Bytes(u64),
    /// Nothing, and nothing will come.
    Ended,
    /// Nothing yet, and this is the answer.
    Refused(i32),
}

impl Carry {
    /// What the source holds ready.
    pub(super) fn waiting(&self, told: Told<'_>, source: &Stat) -> io::Result<Waiting> {
        if FileType::from_raw_mode(source.st_mode) != FileType::Fifo {
            return Ok(Waiting::Whole);
        }
        let pipe = open_pipe(told, self.from)?;
        let (_read, scratch) = pipe_with(PipeFlags::CLOEXEC)?;
        match tee(&pipe, &scratch, 1, SpliceFlags::NONBLOCK) {
            Ok(0) => Ok(Waiting::Ended),
            Ok(_) => Ok(Waiting::Bytes(rustix::io::ioctl_fionread(&pipe)?)),
            Err(rustix::io::Errno::AGAIN) => {
                let now = self.flags & SpliceFlags::NONBLOCK.bits() != 0
                    || self.from.info.has(libc::O_NONBLOCK);
                Ok(Waiting::Refused(if now {
                    libc::EAGAIN
                } else {
                    libc::EINVAL
                }))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Moves, and leaves the node's descriptors and offsets as if the node had.
    pub(super) fn carry(&self, told: Told<'_>, means: Means) -> Done {
        let mut lost = None;
        let result = self.try_carry(told, means, &mut lost);
        Done { result, lost }
    }

    fn try_carry(
        &self,
        told: Told<'_>,
        means: Means,
        lost: &mut Option<String>,
    ) -> io::Result<u64> {
        let caller = told.caller();
        let own = || {
            let from = caller.own(self.from.fd, self.source).ok()?;
            Some((from, caller.own(self.to.fd, self.target).ok()?))
        };
        let own = match means {
            Means::Own => own(),
            Means::Reopen => None,
        };
        let theirs = own.is_some();
        let (from, to) = match own {
            Some(both) => both,
            None => (
                self.reopened(told, self.from, self.call == Call::Splice)?,
                self.reopened(told, self.to, false)?,
            ),
        };
        if !told.waits() {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        let (mut read, mut written) = (
            self.from.placed.map(|(_, offset)| offset),
            self.to.placed.map(|(_, offset)| offset),
        );
        let moved = self.call(&from, read.as_mut(), &to, written.as_mut())?;
        let sides = [
            (self.from, read, &from, self.call == Call::Splice),
            (self.to, written, &to, false),
        ];
        for (side, offset, fd, pipe) in sides {
            if let (Some((address, _)), Some(offset)) = (side.placed, offset) {
                caller.put_word(address, offset)?;
            } else if !theirs && !pipe {
                let place = u32::try_from(side.fd).map_err(io::Error::other)?;
                let replaced = told.listener.replace(
                    told.what.id,
                    std::os::fd::AsFd::as_fd(fd),
                    place,
                    side.info.has(libc::O_CLOEXEC),
                );
                if let Err(error) = replaced {
                    *lost = Some(format!("its descriptor could not be put right: {error}"));
                }
            }
        }
        Ok(moved)
    }

    fn call(
        &self,
        from: &OwnedFd,
        read: Option<&mut u64>,
        to: &OwnedFd,
        written: Option<&mut u64>,
    ) -> io::Result<u64> {
        let length = usize::try_from(self.length).unwrap_or(usize::MAX);
        let moved = match self.call {
            Call::CopyFileRange => copy_file_range(from, read, to, written, length),
            Call::Sendfile => sendfile(to, from, read, length),
            _ => {
                let flags = SpliceFlags::from_bits_retain(self.flags) | SpliceFlags::NONBLOCK;
                splice(from, read, to, written, length, flags)
            }
        };
        Ok(u64::try_from(moved?).unwrap_or_default())
    }

    /// Another descriptor of the same file, at the position of the node's.
    fn reopened(&self, told: Told<'_>, side: Side, pipe: bool) -> io::Result<OwnedFd> {
        if pipe {
            return open_pipe(told, side);
        }
        let new = told.caller().reopen(side.fd, side.info)?;
        if side.placed.is_none() {
            seek(&new, SeekFrom::Start(side.info.position))?;
        }
        Ok(new)
    }
}

fn open_pipe(told: Told<'_>, side: Side) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let path = told.caller().path_of(side.fd);
    Ok(openat(rustix::fs::CWD, path, flags, Mode::empty())?)
}
