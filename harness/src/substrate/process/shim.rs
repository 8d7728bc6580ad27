//! What runs in a node's process before the node does: a hidden subcommand of our own executable.
//!
//! The controller starts the shim and not the node, so that all guards can hold the process's
//! pidfd while it is still harmless: it leaves the controller's session, puts limits and signals
//! back to what a user's shell gives, waits for one word on its standard input, and becomes the
//! node. When the controller dies first, the wait ends and so does the shim. An exec that fails is
//! reported as an [`ExecError`] and not as the death of a node.
//!
//! A node whose disk is held gets its filter here, last of all: the listener goes to the controller through the socket, and
//! no copy of it stays, since a process that holds its own listener hangs when the supervisor dies. From then on a `write`
//! waits for the supervisor, so what the shim still has to say it says by `sendmsg`, which is not told. A shim may also stay
//! what it is and ask for room, as a probe of that filter. Nothing here decides what to start.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::disk::{self, Probed};
use super::packet::{PacketSocket, Received};
use super::{launch, limits, sys};

/// How long a shim waits for its go. A controller that lives but forgets a shim for so long has a
/// bug; the shim must not outlast it for ever.
const GO_BOUND: Duration = Duration::from_mins(10);

/// The word that lets a shim become its node.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToShim {
    /// Exec now. With: what to exec, unless that is done by its path.
    Go {
        /// With a filter, whose listener is sent back.
        filtered: bool,
    },
}

/// What a shim says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromShim {
    /// The filter is in place. With: its listener.
    Filtered,
    /// The program was not started.
    Failed(ExecError),
    /// The answer of a probe.
    Probed(Probed),
}

/// What to exec, as the first argument of the shim says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShimProgram {
    /// What comes as a descriptor with the go.
    Sent,
    Path,
    /// None: the "program" is how many bytes to ask the working directory for.
    Probe,
}

impl ShimProgram {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Path => "path",
            Self::Probe => "probe",
        }
    }

    fn of(word: &str) -> Option<Self> {
        [Self::Sent, Self::Path, Self::Probe]
            .into_iter()
            .find(|kind| kind.word() == word)
    }
}

/// The step at which a shim failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExecStep {
    /// Reading its own arguments and messages.
    Arguments,
    /// Leaving the controller's session.
    Session,
    /// Setting the limits of core dumps and descriptors.
    Limits,
    /// Keeping the harness's descriptors from the node.
    Descriptors,
    /// Resetting signals.
    Signals,
    /// Installing the filter that holds its disk.
    Filter,
    /// The exec itself.
    Exec,
}

impl ExecStep {
    /// What failed, where the reason alone would not say it.
    const fn words(self) -> &'static str {
        match self {
            Self::Filter => "the seccomp filter that holds its disk cannot be installed: ",
            _ => "",
        }
    }
}

/// Why a node's program did not start: nothing of the node ever ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error("cannot start `{path}`: {}{reason}", .step.words())]
pub struct ExecError {
    /// The step that failed.
    pub step: ExecStep,
    /// The program.
    pub path: String,
    /// The system's error number, 0 when there is none.
    pub errno: i32,
    /// The system's words for it.
    pub reason: String,
}

impl ExecError {
    fn new(step: ExecStep, path: &Path, error: &io::Error) -> Self {
        Self {
            step,
            path: path.display().to_string(),
            errno: error.raw_os_error().unwrap_or(0),
            reason: error.to_string(),
        }
    }

    /// What to do next.
    pub fn hint(&self) -> &'static str {
        match (self.step, self.errno) {
            (ExecStep::Filter, errno) => disk::remedy(&io::Error::from_raw_os_error(errno)),
            (ExecStep::Exec, libc::ENOENT) => {
                "check the path; for a script also the interpreter in its first line"
            }
            (ExecStep::Exec, libc::EACCES) => {
                "make it executable (chmod +x), and check that its file system is not mounted noexec"
            }
            (ExecStep::Exec, libc::ENOEXEC) => {
                "give a script a first line such as #!/bin/sh, and build a binary for this machine"
            }
            (ExecStep::Exec, libc::E2BIG) => "shorten the role's settings or environment",
            (ExecStep::Exec, libc::ETXTBSY) => "wait until the build that writes it is done",
            (ExecStep::Exec, libc::EMFILE | libc::ENFILE | libc::ENOMEM) => {
                "free resources of this machine or use fewer nodes"
            }
            _ => "this is unexpected: please report it with the run directory",
        }
    }
}

/// The entry point of the hidden subcommand. Arguments (after the subcommand's own words): the
/// soft limit of descriptors, `sent`, `path` or `probe`, the program, the program's arguments.
///
/// Does not return when the node starts. Returns the exit code otherwise: 0 when there was no go,
/// 127 when the program could not be started, which has then been reported to the controller.
pub fn shim_main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let Ok(socket) = PacketSocket::from_stdin() else {
        return 127;
    };
    match run(&socket, args.into_iter().collect()) {
        Ok(()) => 0,
        Err(error) => {
            // Without a controller to tell there is nobody who would want to know.
            let _ = socket.send(&FromShim::Failed(error), &[]);
            127
        }
    }
}

fn run(socket: &PacketSocket, args: Vec<OsString>) -> Result<(), ExecError> {
    let (nofile, kind, program, args) = parse(args)?;
    let at = |step| {
        let program = &program;
        move |error: io::Error| ExecError::new(step, program, &error)
    };
    rustix::process::setsid().map_err(|error| at(ExecStep::Session)(error.into()))?;
    limits::apply_node_limits(nofile).map_err(at(ExecStep::Limits))?;
    sys::keep_descriptors_private().map_err(at(ExecStep::Descriptors))?;
    sys::reset_signals().map_err(|error| at(ExecStep::Signals)(error.into()))?;
    let go = socket
        .receive::<ToShim>(GO_BOUND)
        .map_err(at(ExecStep::Arguments))?;
    let Received::Message(ToShim::Go { filtered }, fds) = go else {
        return Ok(());
    };
    // `/proc/self/fd/N` opens the file before the close-on-exec descriptor is closed.
    let path = match (kind, fds.first()) {
        (ShimProgram::Sent, Some(exe)) => {
            PathBuf::from(format!("/proc/self/fd/{}", exe.as_raw_fd()))
        }
        (ShimProgram::Sent, None) => {
            let error = io::Error::other("the go came without what to exec");
            return Err(at(ExecStep::Arguments)(error));
        }
        (ShimProgram::Path | ShimProgram::Probe, _) => program.clone(),
    };
    if filtered {
        filter(socket).map_err(at(ExecStep::Filter))?;
    }
    if kind == ShimProgram::Probe {
        return answer(socket, &program).map_err(at(ExecStep::Arguments));
    }
    Err(at(ExecStep::Exec)(launch::replace(
        &path,
        program.as_os_str(),
        &args,
    )))
}

/// Nothing between these two may write: nobody would answer.
fn filter(socket: &PacketSocket) -> io::Result<()> {
    let listener = disk::install()?;
    socket.send(&FromShim::Filtered, &[listener.as_fd()])
}

fn answer(socket: &PacketSocket, bytes: &Path) -> io::Result<()> {
    let bytes = bytes
        .to_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| io::Error::other("a probe asks for a number of bytes"))?;
    socket.send(&FromShim::Probed(disk::probe::ask(bytes)), &[])
}

type Parsed = (u64, ShimProgram, PathBuf, Vec<OsString>);

fn parse(args: Vec<OsString>) -> Result<Parsed, ExecError> {
    let wrong = || {
        let error = io::Error::other("the shim got other arguments than it expects");
        ExecError::new(ExecStep::Arguments, Path::new("shim"), &error)
    };
    let mut args = args.into_iter();
    let nofile = args
        .next()
        .and_then(|text| text.to_str()?.parse().ok())
        .ok_or_else(wrong)?;
    let kind = args
        .next()
        .and_then(|word| ShimProgram::of(word.to_str()?))
        .ok_or_else(wrong)?;
    let program = args.next().ok_or_else(wrong)?;
    Ok((nofile, kind, program.into(), args.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        let parse = |words: &[&str]| parse(words.iter().map(OsString::from).collect());
        let (nofile, kind, program, args) = parse(&["1024", "path", "/bin/x", "-a", "b"]).unwrap();
        assert_eq!(
            (nofile, kind, program.as_path()),
            (1024, ShimProgram::Path, Path::new("/bin/x"))
        );
        assert_eq!(args, ["-a", "b"]);
        for kind in [ShimProgram::Sent, ShimProgram::Path, ShimProgram::Probe] {
            assert_eq!(parse(&["1024", kind.word(), "x"]).unwrap().1, kind);
        }
        let all_bad: [&[&str]; 5] = [
            &[],
            &["1024"],
            &["x", "sent", "x"],
            &["1024", "sent"],
            &["1024", "other", "x"],
        ];
        for bad in all_bad {
            assert_eq!(parse(bad).unwrap_err().step, ExecStep::Arguments, "{bad:?}");
        }
    }
}
