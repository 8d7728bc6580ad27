//! What the supervisor sees of a thread that waits for its answer: descriptors, memory, paths.
//!
//! All of it is read from `/proc` and by `process_vm_readv`, and belongs to the thread only while the listener says that it
//! still waits; whoever acts on it asks the listener first. Memory can be changed by other threads of the node after it was
//! read here: see [`account`](super::account) on why that does no harm.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::ledger::FileId;

/// The kernel's limit of a path.
const PATH_BYTES: usize = 4096;
/// The kernel's limit of buffers in one call.
const BUFFERS: u64 = 1024;
/// The kernel's limit of bytes in one call.
pub(super) const CALL_BYTES: u64 = 0x7fff_f000;
/// `fdinfo` of a regular file has a few lines; locks add more behind what is read here.
const INFO_BYTES: usize = 512;

/// A buffer in the node's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Buffer {
    pub(super) address: u64,
    pub(super) length: u64,
}

/// A waiting thread.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub(super) tid: i32,
}

/// What `fdinfo` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FdInfo {
    pub(super) position: u64,
    /// Status flags, with `O_CLOEXEC`.
    pub(super) flags: u32,
}

impl FdInfo {
    pub(super) const fn has(self, flag: i32) -> bool {
        self.flags & flag.unsigned_abs() != 0
    }

    pub(super) const fn writes(self) -> bool {
        self.flags & libc::O_ACCMODE.unsigned_abs() != libc::O_RDONLY.unsigned_abs()
    }
}

/// A number of a descriptor as registers carry it.
pub(super) fn descriptor(argument: u64) -> i32 {
    // The kernel takes the low half, too.
    u32::try_from(argument & 0xffff_ffff)
        .unwrap_or_default()
        .cast_signed()
}

/// The identity of a file.
pub(super) fn id_of(stat: &Stat) -> FileId {
    FileId {
        device: stat.st_dev,
        inode: stat.st_ino,
    }
}

/// Whether it is a regular file.
pub(super) fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// The size of a file.
pub(super) fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}

impl Caller {
    /// A path that leads to what a descriptor is open on, whatever its name is by now.
    pub(super) fn path_of(self, fd: i32) -> String {
        format!("/proc/{}/fd/{fd}", self.tid)
    }

    /// Where the descriptor's file was opened, or what it is.
    pub(super) fn name_of(self, fd: i32) -> io::Result<Vec<u8>> {
        let name = rustix::fs::readlink(self.path_of(fd), Vec::with_capacity(256))?;
        Ok(name.into_bytes())
    }

    /// What the descriptor is open on.
    pub(super) fn stat(self, fd: i32) -> io::Result<Stat> {
        Ok(rustix::fs::stat(self.path_of(fd))?)
    }

    /// Position and flags of the descriptor.
    pub(super) fn info(self, fd: i32) -> io::Result<FdInfo> {
        let path = format!("/proc/{}/fdinfo/{fd}", self.tid);
        let file = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut text = [0; INFO_BYTES];
        let length = rustix::io::read(&file, &mut text)?;
        parse_info(text.get(..length).unwrap_or_default())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "fdinfo cannot be read"))
    }

    /// Reads memory; fewer bytes than asked only where the rest is not mapped.
    pub(super) fn read(self, address: u64, into: &mut [u8]) -> io::Result<usize> {
        let base = usize::try_from(address).map_err(io::Error::other)?;
        let length = into.len();
        let mut local = [IoSliceMut::new(into)];
        let remote = [RemoteIoVec { base, len: length }];
        Ok(process_vm_readv(
            Pid::from_raw(self.tid),
            &mut local,
            &remote,
        )?)
    }

    /// Reads `N` words.
    pub(super) fn words<const N: usize>(self, address: u64) -> io::Result<[u64; N]> {
        let mut words = [0; N];
        let mut bytes = vec![0; 8 * N];
        if self.read(address, &mut bytes)? != bytes.len() {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        Ok(words)
    }

    /// The buffers of a vector.
    pub(super) fn buffers(self, address: u64, count: u64) -> io::Result<Vec<Buffer>> {
        if count > BUFFERS {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let length = usize::try_from(count * 16).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        if length > 0 && self.read(address, &mut bytes)? != length {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
        let words = bytes
            .as_chunks()
            .0
            .iter()
            .map(|word| u64::from_ne_bytes(*word));
        let words: Vec<u64> = words.collect();
        let pairs = words.as_chunks().0.iter();
        Ok(pairs
            .map(|[address, length]| Buffer {
                address: *address,
                length: *length,
            })
            .collect())
    }

    /// A path that leads us where a path of the thread's leads it, from one of its directories.
    pub(super) fn lookup(self, directory: i32, address: u64) -> io::Result<PathBuf> {
        let mut text = self.text(address)?;
        // These lead whoever looks to itself.
        for (own, his) in [
            ("/proc/self/", ""),
            ("/proc/thread-self/", ""),
            ("/dev/fd/", "fd/"),
        ] {
            if let Some(rest) = text.strip_prefix(own.as_bytes()) {
                text = [format!("/proc/{}/{his}", self.tid).as_bytes(), rest].concat();
                break;
            }
        }
        let from = if text.first() == Some(&b'/') {
            format!("/proc/{}/root", self.tid)
        } else if directory == libc::AT_FDCWD {
            format!("/proc/{}/cwd/", self.tid)
        } else {
            format!("{}/", self.path_of(directory))
        };
        let mut path = from.into_bytes();
        path.extend(text);
        Ok(PathBuf::from(
            <std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(path),
        ))
    }

    /// Text up to its zero byte. Read page by page, since the next page may not be there.
    pub(super) fn text(self, address: u64) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut page = vec![0; PATH_BYTES];
        while text.len() < PATH_BYTES {
            let at = address + text.len() as u64;
            let rest =
                usize::try_from(PATH_BYTES as u64 - at % PATH_BYTES as u64).unwrap_or(PATH_BYTES);
            let part = page.get_mut(..rest).unwrap_or_default();
            let length = self.read(at, part)?;
            let part = part.get(..length).unwrap_or_default();
            if let Some(end) = part.iter().position(|byte| *byte == 0) {
                text.extend(part.get(..end).unwrap_or_default());
                return Ok(text);
            }
            if length == 0 {
                return Err(io::Error::from_raw_os_error(libc::EFAULT));
            }
            text.extend(part);
        }
        Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG))
    }

    /// Writes a word.
    pub(super) fn put_word(self, address: u64, word: u64) -> io::Result<()> {
        let base = usize::try_from(address).map_err(io::Error::other)?;
        let bytes = word.to_ne_bytes();
        let remote = [RemoteIoVec {
            base,
            len: bytes.len(),
        }];
        let local = [IoSlice::new(&bytes)];
        match process_vm_writev(Pid::from_raw(self.tid), &local, &remote)? {
            8 => Ok(()),
            _ => Err(io::Error::from_raw_os_error(libc::EFAULT)),
        }
    }

    /// The thread's own descriptor: its position is the node's. Not allowed in every container.
    pub(super) fn own(self, fd: i32, file: FileId) -> io::Result<OwnedFd> {
        let status = fs_err::read_to_string(format!("/proc/{}/status", self.tid))?;
        let process = status
            .lines()
            .find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
            .and_then(rustix::process::Pid::from_raw)
            .ok_or_else(|| io::Error::other("no process"))?;
        let process = pidfd_open(process, PidfdFlags::empty())?;
        let own = pidfd_getfd(process, fd, PidfdGetfdFlags::empty())?;
        // A thread may have a table of descriptors apart from its process's.
        if id_of(&rustix::fs::fstat(&own)?) == file {
            Ok(own)
        } else {
            Err(io::Error::other("another file"))
        }
    }

    /// Another descriptor of the same file with the same flags, and a position of its own.
    pub(super) fn reopen(self, fd: i32, info: FdInfo) -> io::Result<OwnedFd> {
        const KEPT: i32 = libc::O_ACCMODE
            | libc::O_APPEND
            | libc::O_NONBLOCK
            | libc::O_DSYNC
            | libc::O_SYNC
            | libc::O_DIRECT
            | libc::O_NOATIME;
        let flags = OFlags::from_bits_retain(info.flags & KEPT.unsigned_abs());
        Ok(openat(
            CWD,
            self.path_of(fd),
            flags | OFlags::CLOEXEC,
            Mode::empty(),
        )?)
    }
}

/// The stat of a path, of the link itself when it is one.
pub(super) fn stat_path(path: &std::path::Path) -> io::Result<Stat> {
    Ok(statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// The real path of a directory.
pub(super) fn real_path(directory: &std::path::Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = openat(CWD, directory, flags, Mode::empty())?;
    name_of_own(&fd)
}

/// What a path leads to, through links only where they are followed: what it is, and its real path.
pub(super) fn found(path: &std::path::Path, followed: bool) -> io::Result<(Stat, Vec<u8>)> {
    let mut flags = OFlags::PATH | OFlags::CLOEXEC;
    flags.set(OFlags::NOFOLLOW, !followed);
    let fd = openat(CWD, path, flags, Mode::empty())?;
    Ok((rustix::fs::fstat(&fd)?, name_of_own(&fd)?))
}

fn name_of_own(fd: &impl AsFd) -> io::Result<Vec<u8>> {
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    Ok(rustix::fs::readlink(path, Vec::with_capacity(256))?.into_bytes())
}

fn parse_info(text: &[u8]) -> Option<FdInfo> {
    let text = std::str::from_utf8(text).ok()?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
    };
    Some(FdInfo {
        position: field("pos")?.parse().ok()?,
        flags: u32::from_str_radix(field("flags")?, 8).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};
    use std::os::fd::AsRawFd as _;

    use fs_err::os::unix::fs::OpenOptionsExt as _;

    use super::*;

    fn own() -> Caller {
        Caller {
            tid: rustix::thread::gettid().as_raw_pid(),
        }
    }

    #[test]
    fn a_descriptor_is_seen_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut file = fs_err::OpenOptions::new()
            .create_new(true)
            .append(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .unwrap();
        file.write_all(b"twelve bytes").unwrap();
        let fd = file.as_raw_fd();
        let info = own().info(fd).unwrap();
        assert_eq!(info.position, 12);
        assert!(info.has(libc::O_APPEND) && info.has(libc::O_CLOEXEC) && info.writes());
        assert!(info.has(libc::O_NONBLOCK) && !info.has(libc::O_DIRECT));
        let stat = own().stat(fd).unwrap();
        assert!(is_regular(&stat));
        assert_eq!(size_of(&stat), 12);
        let name = own().name_of(fd).unwrap();
        assert_eq!(name, path.as_os_str().as_encoded_bytes());
        let again = own().reopen(fd, info).unwrap();
        assert_eq!(id_of(&rustix::fs::fstat(&again).unwrap()), id_of(&stat));
        let flags = rustix::fs::fcntl_getfl(&again).unwrap();
        assert!(flags.contains(OFlags::APPEND | OFlags::NONBLOCK));
        fs_err::remove_file(&path).unwrap();
        assert!(own().name_of(fd).unwrap().ends_with(b" (deleted)"));
        if let Ok(mut same) = own().own(fd, id_of(&stat)).map(std::fs::File::from) {
            same.rewind().unwrap();
            assert_eq!(own().info(fd).unwrap().position, 0, "one position for both");
        }
    }

    #[test]
    fn memory_and_paths_are_read() {
        let caller = own();
        let text = c"some/file";
        let address = text.as_ptr() as u64;
        let path = caller.lookup(libc::AT_FDCWD, address).unwrap();
        assert_eq!(
            path,
            PathBuf::from(format!("/proc/{}/cwd/some/file", caller.tid))
        );
        let absolute = c"/tmp";
        let path = caller.lookup(3, absolute.as_ptr() as u64).unwrap();
        assert_eq!(
            path,
            PathBuf::from(format!("/proc/{}/root/tmp", caller.tid))
        );
        let vector = [11_u64, 12, 13, 14];
        let buffers = caller.buffers(vector.as_ptr() as u64, 2).unwrap();
        let buffer = |address, length| Buffer { address, length };
        assert_eq!(buffers, [buffer(11, 12), buffer(13, 14)]);
        assert_eq!(
            caller.words::<3>(vector.as_ptr() as u64).unwrap(),
            [11, 12, 13]
        );
        assert!(caller.words::<1>(8).is_err() && caller.lookup(-100, 8).is_err());
        assert!(caller.buffers(8, 1025).is_err());
    }

    #[test]
    fn fdinfo_of_any_kind_is_read_or_refused() {
        let text = b"pos:\t4096\nflags:\t02102001\nmnt_id:\t29\nino:\t7\nlock:\t1: POSIX";
        let info = parse_info(text).unwrap();
        assert_eq!(info.position, 4096);
        assert!(info.has(libc::O_CLOEXEC) && info.has(libc::O_APPEND) && info.writes());
        for bad in [
            &b""[..],
            b"pos:\t1\n",
            b"pos:\tx\nflags:\t1\n",
            b"flags:\t9\npos:\t1\n",
            b"\xff",
        ] {
            assert_eq!(parse_info(bad), None);
        }
        assert_eq!(descriptor(0xffff_ffff_ffff_ff9c), libc::AT_FDCWD);
        assert_eq!(descriptor(0xffff_ff9c), libc::AT_FDCWD);
    }
}
