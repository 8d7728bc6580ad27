//! Evidence of a cap: a child of the harness, under a filter and account like the node's, asks for room.
//!
//! It asks for all of it at once, with `fallocate` on a file that has no name, so nothing is written, nothing stays, and no
//! other file of the directory is touched. It runs in a [shim](super::super::shim) that has not become anything.

use std::io;
use std::path::Path;

use rustix::fs::{CWD, FallocateFlags, Mode, OFlags, fallocate, openat};

use crate::substrate::disk::Probed;

/// Asks for room in the working directory.
pub(crate) fn ask(bytes: u64) -> Probed {
    let errno = match attempt(bytes) {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
    };
    Probed {
        asked: bytes,
        errno,
    }
}

fn attempt(bytes: u64) -> io::Result<()> {
    let file = nameless(Path::new("."))?;
    Ok(fallocate(&file, FallocateFlags::empty(), 0, bytes)?)
}

fn nameless(directory: &Path) -> io::Result<std::os::fd::OwnedFd> {
    let mode = Mode::RUSR | Mode::WUSR;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match openat(CWD, directory, flags | OFlags::TMPFILE, mode) {
        Ok(file) => Ok(file),
        // Not every file system can make one without a name.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
            let name = format!(".tweedledum-probe-{}", std::process::id());
            let path = directory.join(name);
            let file = openat(CWD, &path, flags | OFlags::CREATE | OFlags::EXCL, mode)?;
            fs_err::remove_file(&path)?;
            Ok(file)
        }
        Err(error) => Err(error.into()),
    }
}
