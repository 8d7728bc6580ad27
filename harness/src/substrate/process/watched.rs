//! A descriptor whose readiness a task can wait for.
//!
//! tokio's `AsyncFd` can no longer be made safely for any type, since a type could close its
//! descriptor behind the reactor's back. An owned descriptor that is never handed out mutably
//! cannot, and this module holds just that. Reading and writing are for its users.
#![allow(
    unsafe_code,
    reason = "AsyncFd::register is unsafe; the condition holds by construction"
)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// An owned descriptor in the reactor of the current runtime.
#[derive(Debug)]
pub struct WatchedFd(AsyncFd<OwnedFd>);

impl WatchedFd {
    /// Watches for reading only. Call it inside the runtime.
    pub fn reading(fd: OwnedFd) -> io::Result<Self> {
        Self::new(fd, Interest::READABLE)
    }

    /// Watches for reading and writing. Call it inside the runtime.
    pub fn both(fd: OwnedFd) -> io::Result<Self> {
        Self::new(fd, Interest::READABLE | Interest::WRITABLE)
    }

    fn new(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        // SAFETY: an OwnedFd is open until it is dropped and always names the same descriptor. It
        // lives inside the AsyncFd, and this type gives out shared references only, so it cannot
        // be replaced or closed before the AsyncFd deregisters it.
        let watched = unsafe { AsyncFd::register_with_interest(fd, interest) };
        watched.map(Self).map_err(io::Error::from)
    }

    /// Waits until it is readable or closed by the other side.
    pub async fn readable(&self) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        self.0.readable().await
    }

    /// Waits until it is writable.
    pub async fn writable(&self) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        self.0.writable().await
    }
}

impl AsFd for WatchedFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_pipe_is_seen() {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let read = WatchedFd::reading(read).unwrap();
        drop(write);
        read.readable().await.unwrap().clear_ready();
        let mut byte = [0];
        assert_eq!(rustix::io::read(&read, &mut byte).unwrap(), 0);
    }
}
