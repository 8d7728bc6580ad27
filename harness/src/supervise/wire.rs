//! What stub, watchdog and controller say to each other.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};

use crate::substrate::process::packet::{PacketSocket, timespec};
use crate::substrate::process::{Nonce, ProcessId};

/// How long a member of the chain may take to answer: it does little, but the host may be busy.
pub(super) const ANSWER_BOUND: Duration = Duration::from_secs(5);
/// How long a full buffer towards a member may stay full before the member counts as broken.
const SEND_BOUND: Duration = Duration::from_secs(2);

/// One message. Descriptors that come with it are named at each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Message {
    /// Stub to watchdog, first. With: the watchdog's end of its link to the controller.
    HelloWatchdog { nonce: Nonce, intents: PathBuf },
    /// Stub to watchdog. With: the controller's pidfd.
    Controller { seq: u64, id: ProcessId },
    /// Stub to watchdog, last: all is torn down, just go.
    Bye,
    /// Stub to controller, first. With: the controller's end of its link to the watchdog, and our
    /// own executable.
    HelloController {
        nonce: Nonce,
        intents: PathBuf,
        runs: PathBuf,
        nofile: u64,
        stub: ProcessId,
        watchdog: ProcessId,
    },
    /// Stub to controller: the user wants the run to end.
    Interrupt { signal: i32 },
    /// Controller to guards. With: the node's pidfd.
    Register {
        seq: u64,
        node: u64,
        name: String,
        id: ProcessId,
    },
    /// Controller to guards: the node is dead and reaped.
    Unregister { seq: u64, node: u64 },
    /// Controller to guards. With: the lock of an address block.
    Hold { seq: u64 },
    /// The answer to a message with this `seq`: done, or why not.
    Ack { seq: u64, refused: Option<String> },
}

/// Sends from a poll loop: waits a bounded time while the other side's buffer is full.
pub(super) fn send(
    socket: &PacketSocket,
    message: &Message,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let deadline = Instant::now() + SEND_BOUND;
    loop {
        match socket.send(message, fds) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let why = "the other side did not read for two seconds";
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        let mut fds = [PollFd::new(socket, PollFlags::OUT)];
        match poll(&mut fds, Some(&timespec(left))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The descriptors of a message, which must be exactly `N`.
pub(super) fn exactly<const N: usize>(fds: Vec<OwnedFd>) -> io::Result<[OwnedFd; N]> {
    fds.try_into().map_err(|fds: Vec<OwnedFd>| {
        let text = format!("a message came with {} descriptors and not {N}", fds.len());
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}
