//! The only module that starts processes.
//!
//! A child gets a socket as its standard input and nothing else that is open here: every other
//! descriptor of the harness is close-on-exec at all times. `std::process::Command` without
//! `pre_exec` goes through `posix_spawn`, which does not copy the controller's memory. What has to
//! happen in the child before the node runs happens in the [shim](super::shim).

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use fs_err::File;
use nix::unistd::execv;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::identity::ProcessId;
use super::packet::PacketSocket;

/// The running executable, opened once, so that a rebuild or an upgrade during a run cannot mix
/// two versions in it.
#[derive(Clone, Debug)]
pub struct OwnExecutable(Arc<OwnedFd>);

impl OwnExecutable {
    /// Opens the executable of the calling process.
    pub fn open() -> io::Result<Self> {
        Ok(Self(Arc::new(
            File::open("/proc/self/exe")?.into_parts().0.into(),
        )))
    }

    /// Takes a descriptor that was opened by another process of the run.
    pub(crate) fn from_fd(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }

    /// A path that can be exec'ed by this process and by its direct children.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    /// SHA-256 of the executable's bytes in hex: of what is running, whatever its path holds by now.
    pub fn sha256(&self) -> io::Result<String> {
        crate::store::file_sha256(&self.path())
    }
}

impl AsFd for OwnExecutable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// How a child of the harness is started. It is always our own executable.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) exe: &'a OwnExecutable,
    /// What `ps` shows as the first word.
    pub(crate) arg0: &'a OsStr,
    pub(crate) args: &'a [OsString],
    /// Variables to set; with `clear`, the only ones.
    pub(crate) env: &'a BTreeMap<OsString, OsString>,
    pub(crate) clear: bool,
    pub(crate) cwd: Option<&'a Path>,
    /// Own process group from the first instruction on, for children that must not be hit by the
    /// terminal's signals before they could ask for a group themselves.
    pub(crate) own_group: bool,
    pub(crate) stdin: PacketSocket,
    pub(crate) stdout: Stdio,
    pub(crate) stderr: Stdio,
}

/// A started child: held by pidfd, reaped by whoever holds it.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) id: ProcessId,
    pub(crate) pidfd: OwnedFd,
}

/// Starts a child.
pub(crate) fn launch(what: Launch<'_>) -> io::Result<Launched> {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the module that starts processes"
    )]
    let mut command = Command::new(what.exe.path());
    command.arg0(what.arg0).args(what.args);
    if what.clear {
        command.env_clear();
    }
    command.envs(what.env);
    if let Some(cwd) = what.cwd {
        command.current_dir(cwd);
    }
    if what.own_group {
        command.process_group(0);
    }
    command
        .stdin(Stdio::from(what.stdin.into_fd()))
        .stdout(what.stdout)
        .stderr(what.stderr);
    let child = command.spawn()?;
    // The child is not reaped before this process waits for it, so the pid is still its own.
    let pid = Pid::from_child(&child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    Ok(Launched {
        id: ProcessId::of(pid.as_raw_pid())?,
        pidfd,
    })
}

/// Replaces the calling process, keeping its environment. Returns only the error.
///
/// Not by `Command`, which on a file of unknown format tries a shell, as `execvp` does.
pub(super) fn replace(program: &Path, arg0: &OsStr, args: &[OsString]) -> io::Error {
    let words: Result<Vec<CString>, _> = std::iter::once(arg0)
        .chain(args.iter().map(OsString::as_os_str))
        .chain(std::iter::once(program.as_os_str()))
        .map(|word| CString::new(word.as_bytes()))
        .collect();
    match words {
        Ok(mut words) => match words.pop().map(|program| execv(&program, &words)) {
            Some(Err(error)) => error.into(),
            Some(Ok(never)) => match never {},
            None => io::Error::other("there is no program"),
        },
        Err(error) => io::Error::new(io::ErrorKind::InvalidInput, error),
    }
}
