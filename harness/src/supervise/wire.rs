//! What stub, watchdog and controller say to each other.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
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
    /// Stub to controller, first. With: the controller's end of its link to the watchdog, our own
    /// executable, and its input.
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

/// A file without a name that holds these bytes and that nobody can change any more.
pub(super) fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let make = |more| memfd_create("tweedledum-input", flags | more);
    // Some kernels demand the flag (vm.memfd_noexec=2), older ones do not know it.
    let file = make(MemfdFlags::NOEXEC_SEAL).or_else(|_| make(MemfdFlags::empty()))?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, rest))?;
        rest = rest.get(written..).unwrap_or_default();
    }
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&file, seals)?;
    Ok(file)
}

/// What [`sealed`] holds. Position and all else of it are shared with whoever has it, so it is read from its start.
pub(super) fn unsealed(file: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 1 << 14];
    loop {
        let offset = bytes.len() as u64;
        match rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut buffer, offset))? {
            0 => return Ok(bytes),
            length => bytes.extend_from_slice(buffer.get(..length).unwrap_or_default()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_read_whole_by_everybody_and_stays_as_it_is() {
        for length in [0, 1, 1 << 14, 100_000] {
            let bytes: Vec<u8> = (0..length).map(|n: u32| n.to_le_bytes()[0]).collect();
            let file = sealed(&bytes).unwrap();
            assert!(rustix::io::pwrite(&file, b"x", 0).is_err());
            assert!(rustix::fs::ftruncate(&file, 0).is_err() || length == 0);
            for _ in 0..2 {
                assert!(unsealed(&file).unwrap() == bytes, "{length} bytes");
            }
        }
    }
}
