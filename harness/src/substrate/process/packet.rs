//! Messages between the harness's own processes: one JSON value per packet of a Unix
//! `SOCK_SEQPACKET` pair, with descriptors attached.
//!
//! A packet arrives whole or not at all, and the end of the other side is seen as an empty read,
//! also when it was killed: this is the death pipe as well. Descriptors received are close-on-exec
//! from the start. Nothing here knows what the messages mean.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest packet: far more than any message has, far less than a socket buffer.
const PACKET_BYTES: usize = 32 * 1024;
/// The most descriptors in one packet.
const PACKET_FDS: usize = 4;

/// One end of a pair.
#[derive(Debug)]
pub(crate) struct PacketSocket(OwnedFd);

/// What a receive found.
#[derive(Debug)]
pub(crate) enum Received<M> {
    /// A message and the descriptors that came with it.
    Message(M, Vec<OwnedFd>),
    /// The other side is closed or dead.
    Closed,
    /// Nothing is there now.
    Empty,
}

impl PacketSocket {
    /// Makes a connected pair, close-on-exec on both ends.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self(a), Self(b)))
    }

    /// Takes a descriptor that came from the other side of another pair.
    pub(crate) fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let kind = rustix::net::sockopt::socket_type(&fd)?;
        if kind == SocketType::SEQPACKET {
            Ok(Self(fd))
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a packet socket",
            ))
        }
    }

    /// Takes standard input, on which a process of the harness gets its socket, and puts
    /// `/dev/null` in its place. An error means that the process was started by something else.
    pub(crate) fn from_stdin() -> io::Result<Self> {
        let fd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
        let socket = Self::from_fd(fd)?;
        let null = fs_err::File::open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        Ok(socket)
    }

    /// Gives up the descriptor.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// See [`send_on`].
    pub(crate) fn send<M: Serialize>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        send_on(self.as_fd(), message, fds)
    }

    /// See [`receive_on`].
    pub(crate) fn try_receive<M: DeserializeOwned>(&self) -> io::Result<Received<M>> {
        receive_on(self.as_fd())
    }

    /// Receives one message, waiting at most `bound`; [`Received::Empty`] when none came.
    pub(crate) fn receive<M: DeserializeOwned>(&self, bound: Duration) -> io::Result<Received<M>> {
        let deadline = Instant::now() + bound;
        loop {
            match self.try_receive()? {
                Received::Empty => {}
                other => return Ok(other),
            }
            if !wait_readable(&[self.as_fd()], deadline)? {
                return Ok(Received::Empty);
            }
        }
    }
}

/// Sends one message without waiting; a full buffer is an error.
pub(crate) fn send_on<M: Serialize>(
    socket: BorrowedFd<'_>,
    message: &M,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > PACKET_BYTES || fds.len() > PACKET_FDS {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "message too large",
        ));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PACKET_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many descriptors",
        ));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = rustix::io::retry_on_intr(|| {
        sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, flags)
    })?;
    debug_assert_eq!(sent, bytes.len(), "packets are sent whole");
    Ok(())
}

/// Receives one message if there is one.
pub(crate) fn receive_on<M: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Received<M>> {
    let mut bytes = vec![0; PACKET_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PACKET_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            flags,
        )
    });
    let length = match received {
        Ok(message) => message.bytes,
        Err(rustix::io::Errno::AGAIN) => return Ok(Received::Empty),
        Err(rustix::io::Errno::CONNRESET) => return Ok(Received::Closed),
        Err(error) => return Err(error.into()),
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if length == 0 {
        return Ok(Received::Closed);
    }
    let message = serde_json::from_slice(bytes.get(..length).unwrap_or_default())?;
    Ok(Received::Message(message, fds))
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until one of the descriptors is readable or closed, or the deadline passed; says which.
pub(crate) fn wait_readable(fds: &[BorrowedFd<'_>], deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = timespec(left);
        let mut polled: Vec<PollFd<'_>> = fds
            .iter()
            .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
            .collect();
        match poll(&mut polled, Some(&timeout)) {
            Ok(0) if Instant::now() >= deadline => return Ok(false),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A duration as the kernel wants it.
pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_descriptors_cross() {
        let (a, b) = PacketSocket::pair().unwrap();
        let (inner, outer) = PacketSocket::pair().unwrap();
        a.send(&"first", &[inner.as_fd()]).unwrap();
        a.send(&"second", &[]).unwrap();
        drop(inner);
        let Received::Message(text, mut fds) = b.try_receive::<String>().unwrap() else {
            panic!("no message");
        };
        assert_eq!((text.as_str(), fds.len()), ("first", 1));
        PacketSocket::from_fd(fds.remove(0))
            .unwrap()
            .send(&7, &[])
            .unwrap();
        assert!(matches!(
            outer.try_receive::<u8>().unwrap(),
            Received::Message(7, _)
        ));
        let second = b.receive::<String>(Duration::ZERO).unwrap();
        assert!(matches!(second, Received::Message(text, _) if text == "second"));
        assert!(matches!(
            b.try_receive::<String>().unwrap(),
            Received::Empty
        ));
        assert!(matches!(
            b.receive::<u8>(Duration::from_millis(5)).unwrap(),
            Received::Empty
        ));
        drop(a);
        assert!(matches!(
            b.receive::<u8>(Duration::from_secs(5)).unwrap(),
            Received::Closed
        ));
    }

    #[test]
    fn received_descriptors_do_not_survive_exec() {
        let (a, b) = PacketSocket::pair().unwrap();
        a.send(&0, &[a.as_fd()]).unwrap();
        let Received::Message(0, fds) = b.try_receive::<u8>().unwrap() else {
            panic!("no message");
        };
        let flags = rustix::io::fcntl_getfd(&fds[0]).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn rubbish_is_an_error() {
        let (a, b) = PacketSocket::pair().unwrap();
        a.send(&"text", &[]).unwrap();
        assert!(b.try_receive::<u8>().is_err());
        assert!(a.send(&"x".repeat(PACKET_BYTES), &[]).is_err());
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(PacketSocket::from_fd(null.into()).is_err());
    }
}
