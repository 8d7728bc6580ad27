//! The kernel's side of user notification: installing a filter, and the four requests of a listener.
//!
//! `unsafe` because neither `seccomp(2)` nor its ioctls have a safe form anywhere; each block says why it is sound. Nothing
//! is decided here.
#![allow(
    unsafe_code,
    reason = "seccomp and its ioctls have no safe form; see each SAFETY"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use libc::sock_filter;

/// A new listener, and signals other than fatal ones wait once a call was received: else a signal restarts the call while
/// the supervisor performs it, and it is done twice (3,180 bytes were seen for 2,000).
const FLAGS: libc::c_ulong =
    libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;

/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`: both sides take turns on one CPU, which halves the cost of a call.
const SYNC_WAKE_UP: libc::c_ulong = 1;

/// Puts a filter on the calling process, which must have one thread and no new privileges. From now on it and all it
/// starts wait for the holder of the listener at every call that the filter tells.
pub(super) fn install(program: &mut [sock_filter]) -> io::Result<OwnedFd> {
    let length = u16::try_from(program.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the filter is too long"))?;
    let filter = libc::sock_fprog {
        len: length,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: `filter` points to `length` initialised instructions that live until the call returns; the kernel copies and
    // checks them.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            FLAGS,
            &raw const filter,
        )
    };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether this kernel takes the flags, without installing anything: a filter at no address is refused with EFAULT by one
/// that does, and with EINVAL by one that does not.
pub(super) fn knows_flags() -> io::Result<()> {
    // SAFETY: the kernel copies from the null address, which fails; nothing is installed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            FLAGS,
            std::ptr::null::<libc::sock_fprog>(),
        )
    };
    let error = io::Error::last_os_error();
    if result < 0 && error.raw_os_error() == Some(libc::EFAULT) {
        Ok(())
    } else {
        Err(error)
    }
}

/// A call that waits for its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Notification {
    pub(super) id: u64,
    /// The thread.
    pub(super) tid: i32,
    pub(super) number: i32,
    pub(super) arguments: [u64; 6],
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The kernel does it.
    Continue,
    /// It was done, with this result.
    Value(u64),
    /// It fails with this error number.
    Error(i32),
}

/// The supervisor's end of a filter.
#[derive(Debug)]
pub(super) struct Listener(OwnedFd);

impl Listener {
    pub(super) fn new(fd: OwnedFd) -> Self {
        // SAFETY: the request takes a number and no pointer. Kernels before 6.6 do not know it, and only take longer.
        unsafe {
            libc::ioctl(
                fd.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS,
                SYNC_WAKE_UP,
            )
        };
        Self(fd)
    }

    /// The next call; ENOENT when its thread died meanwhile. Call it when the listener is readable: else it blocks.
    pub(super) fn receive(&self) -> io::Result<Notification> {
        // SAFETY: the structure holds integers only, for which zeros are values.
        let mut told: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the request's number carries the size of this structure, which the kernel fills.
        let result = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_RECV,
                &raw mut told,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Notification {
            id: told.id,
            tid: told.pid.cast_signed(),
            number: told.data.nr,
            arguments: told.data.args,
        })
    }

    /// Whether the thread still waits: then what was read of it was its own, and not of a successor of its number.
    pub(super) fn waits(&self, id: u64) -> bool {
        // SAFETY: the kernel reads one u64.
        let result = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_ID_VALID,
                &raw const id,
            )
        };
        result == 0
    }

    /// Lets the thread go on. An error means that it is dead.
    pub(super) fn answer(&self, id: u64, answer: Answer) -> io::Result<()> {
        let (val, error, flags) = match answer {
            Answer::Continue => (0, 0, CONTINUE),
            Answer::Value(value) => (value.cast_signed(), 0, 0),
            Answer::Error(errno) => (0, -errno, 0),
        };
        let mut response = libc::seccomp_notif_resp {
            id,
            val,
            error,
            flags,
        };
        // SAFETY: the request's number carries the size of this structure, which the kernel reads.
        let result = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_SEND,
                &raw mut response,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Puts a copy of `source` in the place of the thread's descriptor.
    pub(super) fn replace(
        &self,
        id: u64,
        source: BorrowedFd<'_>,
        place: u32,
        close_on_exec: bool,
    ) -> io::Result<()> {
        let flags = |close| {
            if close {
                libc::O_CLOEXEC.unsigned_abs()
            } else {
                0
            }
        };
        let mut request = libc::seccomp_notif_addfd {
            id,
            flags: SETFD,
            srcfd: source.as_raw_fd().unsigned_abs(),
            newfd: place,
            newfd_flags: flags(close_on_exec),
        };
        // SAFETY: the request's number carries the size of this structure, which the kernel reads; `source` is open.
        let result = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_ADDFD,
                &raw mut request,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the flags are single low bits"
)]
const CONTINUE: u32 = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
#[expect(
    clippy::cast_possible_truncation,
    reason = "the flags are single low bits"
)]
const SETFD: u32 = libc::SECCOMP_ADDFD_FLAG_SETFD as u32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_for_the_flags_installs_nothing() {
        let filters = || {
            let status = fs_err::read_to_string("/proc/thread-self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("Seccomp"));
            line.unwrap().to_owned()
        };
        let before = filters();
        // Both answers are right, by kernel.
        let _ = knows_flags();
        assert_eq!(filters(), before);
    }
}
