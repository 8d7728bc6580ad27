//! Doing part of a write in a node's place, as the kernel does when a disk runs full.
//!
//! Best through the node's own descriptor (`pidfd_getfd`): position, append, locks and copies of the descriptor are then
//! right by themselves. Ordinary containers refuse that; then the file is opened again through `/proc/PID/fd/N`, written to,
//! moved to where the node's position would be, and put in the place of N. That second way has two flaws, which only show
//! where a node's write at the position crosses the cap: copies of N made by `dup` or `fork` keep the old position (and a
//! thread that writes there at the same moment may write to the same place), and locks that hung on N (`flock`, or a POSIX
//! lock of the file) are gone, as after a `close`. Writes at an offset of their own (`pwrite`) need no new descriptor and
//! have neither.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{SeekFrom, seek};
use rustix::io::ReadWriteFlags;

use super::Means;
use super::account::{Target, Told};
use super::caller::{Buffer, FdInfo};

/// How much of the node's memory is held at once.
const CHUNK: usize = 256 * 1024;
/// Memory for `O_DIRECT` begins at multiples of this.
const ALIGNED: usize = 4096;

/// Where a write lands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Position,
    Offset(u64),
    End,
}

/// A write to do.
#[derive(Debug)]
pub(super) struct Write<'a> {
    pub(super) target: Target,
    pub(super) info: FdInfo,
    pub(super) place: Place,
    /// The descriptor's position moves with it.
    pub(super) moves: bool,
    /// Where it begins in the file.
    pub(super) offset: u64,
    pub(super) buffers: &'a [Buffer],
    /// How much of the buffers is written.
    pub(super) length: u64,
    /// Those of `pwritev2`.
    pub(super) flags: i32,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) result: io::Result<u64>,
    /// The node's descriptor could not be put right, and why.
    pub(super) lost: Option<String>,
}

/// Writes, and leaves the node's descriptor as if the node had.
pub(super) fn perform(told: Told<'_>, means: Means, write: &Write<'_>) -> Done {
    let own = match means {
        Means::Own => through_own(told, write),
        Means::Reopen => None,
    };
    own.unwrap_or_else(|| reopened(told, write))
}

/// The same, only where the node's own descriptor can be had.
pub(super) fn through_own(told: Told<'_>, write: &Write<'_>) -> Option<Done> {
    let own = told.caller().own(write.target.fd, write.target.file).ok()?;
    Some(Done {
        result: put(told, &own, write),
        lost: None,
    })
}

fn reopened(told: Told<'_>, write: &Write<'_>) -> Done {
    let new = match told.caller().reopen(write.target.fd, write.info) {
        Ok(new) => new,
        Err(error) => {
            return Done {
                lost: Some(format!("its file could not be opened again: {error}")),
                result: Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            };
        }
    };
    let result = ready(&new, write).and_then(|()| put(told, &new, write));
    let lost = match &result {
        Ok(written) if write.moves => replace(told, &new, write, *written)
            .err()
            .map(|error| format!("its descriptor could not be put right: {error}")),
        _ => None,
    };
    Done { result, lost }
}

/// A fresh descriptor begins at 0; writes at the position begin where the node's is.
fn ready(new: &OwnedFd, write: &Write<'_>) -> io::Result<()> {
    if write.place == Place::Position {
        seek(new, SeekFrom::Start(write.offset))?;
    }
    Ok(())
}

fn replace(told: Told<'_>, new: &OwnedFd, write: &Write<'_>, written: u64) -> io::Result<()> {
    seek(new, SeekFrom::Start(write.offset + written))?;
    let place = u32::try_from(write.target.fd).map_err(io::Error::other)?;
    let close_on_exec = write.info.has(libc::O_CLOEXEC);
    told.listener
        .replace(told.what.id, new.as_fd(), place, close_on_exec)
}

/// Copies memory to the file, chunk by chunk; what was written before an error counts.
fn put(told: Told<'_>, file: &OwnedFd, write: &Write<'_>) -> io::Result<u64> {
    let mut memory = vec![0_u8; CHUNK + ALIGNED];
    let start = memory.as_ptr().align_offset(ALIGNED).min(ALIGNED);
    let chunk = memory.get_mut(start..start + CHUNK).unwrap_or_default();
    let mut source = Source {
        buffers: write.buffers,
        buffer: 0,
        at: 0,
    };
    let mut written = 0;
    while written < write.length {
        let wanted = usize::try_from(write.length - written)
            .unwrap_or(usize::MAX)
            .min(chunk.len());
        let part = chunk.get_mut(..wanted).unwrap_or_default();
        let step = source.fill(told, part).and_then(|length| {
            if !told.waits() {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            let bytes = part.get(..length).unwrap_or_default();
            put_once(file.as_fd(), write, written, bytes).map(|done| (length, done))
        });
        match step {
            Ok((length, done)) => {
                written += done as u64;
                if done < length || length < wanted {
                    break;
                }
            }
            Err(error) if written == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(written)
}

fn put_once(
    file: BorrowedFd<'_>,
    write: &Write<'_>,
    before: u64,
    bytes: &[u8],
) -> io::Result<usize> {
    // What is no matter of durability does not change what is written.
    const KEPT: i32 = libc::RWF_DSYNC | libc::RWF_SYNC | libc::RWF_APPEND;
    let flags = ReadWriteFlags::from_bits_retain((write.flags & KEPT).unsigned_abs());
    // The highest number is the kernel's word for "at the position". At the end is where it appends by its own flags.
    let position = if write.moves {
        u64::MAX
    } else {
        write.offset + before
    };
    let bytes = [io::IoSlice::new(bytes)];
    Ok(rustix::io::retry_on_intr(|| {
        rustix::io::pwritev2(file, &bytes, position, flags)
    })?)
}

/// The node's buffers, one after the other.
struct Source<'a> {
    buffers: &'a [Buffer],
    buffer: usize,
    at: u64,
}

impl Source<'_> {
    /// Fills as far as memory goes; says how far.
    fn fill(&mut self, told: Told<'_>, into: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < into.len() {
            let Some(buffer) = self.buffers.get(self.buffer) else {
                break;
            };
            let left = buffer.length - self.at;
            if left == 0 {
                self.buffer += 1;
                self.at = 0;
                continue;
            }
            let wanted = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(into.len() - filled);
            let part = into.get_mut(filled..filled + wanted).unwrap_or_default();
            match told.caller().read(buffer.address + self.at, part) {
                Ok(length) => {
                    filled += length;
                    self.at += length as u64;
                    if length < wanted {
                        break;
                    }
                }
                Err(error) if filled == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(filled)
    }
}
