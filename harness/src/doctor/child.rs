//! A scratch child: our own executable as a [shim](crate::substrate::process::shim), started as nodes are.
//!
//! Until its go it waits on its socket and ends when that closes, so nothing of it outlives the one who tries, however that
//! ends. After its go it is a short-lived program of our own, or asks its directory for room.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;

use super::report::Trouble;
use super::{Kit, scratch};
use crate::substrate::process::disk::{DiskAccount, Probed, Whose};
use crate::substrate::process::identity::{NODE_VARIABLE, RUN_VARIABLE};
use crate::substrate::process::launch::{Launch, launch};
use crate::substrate::process::packet::{PacketSocket, Received, receive_on, send_on};
use crate::substrate::process::shim::{FromShim, ShimProgram, ToShim};
use crate::substrate::process::watched::WatchedFd;
use crate::substrate::process::{Exit, NodeProcess, Nonce, OwnExecutable};

/// How long a child may take for anything: many times what was seen on a busy machine.
pub(super) const CHILD_BOUND: Duration = Duration::from_secs(10);
/// No scratch program says more.
const SAID_MAX: u64 = 16 * 1024;
/// Soft limit of open files of a child: it opens a handful.
const NOFILE: u64 = 1024;

/// What children of one examination have in common.
#[derive(Debug)]
pub(super) struct Nursery<'a> {
    pub(super) kit: &'a Kit,
    pub(super) exe: OwnExecutable,
    pub(super) nonce: Nonce,
}

/// What a child becomes after its go.
#[derive(Debug, Clone, Copy)]
pub(super) enum Becomes<'a> {
    /// Itself, with these words to [`scratch::main`].
    Scratch(&'a [&'a str]),
    /// Nothing: it asks its directory for this many bytes.
    Probe(u64),
}

/// A child that waits for its go.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) process: NodeProcess,
    socket: WatchedFd,
    stdout: Receiver,
    exe: OwnExecutable,
    own: bool,
}

impl Nursery<'_> {
    /// Starts a child in a directory.
    pub(super) fn start(&self, becomes: Becomes<'_>, cwd: &Path) -> Result<Child, Trouble> {
        self.launch(becomes, cwd)
            .map_err(|error| Trouble::system("a child could not be started", &error))
    }

    fn launch(&self, becomes: Becomes<'_>, cwd: &Path) -> io::Result<Child> {
        let (ours, theirs) = PacketSocket::pair()?;
        let (stdout, to_stdout) = io::pipe()?;
        let stdout = std::os::fd::OwnedFd::from(stdout);
        let flags = rustix::fs::fcntl_getfl(&stdout)?;
        rustix::fs::fcntl_setfl(&stdout, flags | rustix::fs::OFlags::NONBLOCK)?;
        let mut args = self.kit.shim.clone();
        args.push(NOFILE.to_string().into());
        match becomes {
            Becomes::Scratch(words) => {
                args.extend([
                    ShimProgram::Sent.word().into(),
                    OsString::from("tweedledum"),
                ]);
                args.extend(self.kit.scratch.iter().map(OsString::from));
                args.extend(words.iter().map(OsString::from));
            }
            Becomes::Probe(bytes) => {
                args.extend([ShimProgram::Probe.word().into(), bytes.to_string().into()]);
            }
        }
        let name = "doctor".to_owned();
        let env: BTreeMap<OsString, OsString> = [
            (RUN_VARIABLE, self.nonce.to_string()),
            (NODE_VARIABLE, name.clone()),
        ]
        .map(|(key, value)| (key.into(), value.into()))
        .into();
        let launched = launch(Launch {
            exe: &self.exe,
            arg0: "tweedledum".as_ref(),
            args: &args,
            env: &env,
            clear: true,
            cwd: Some(cwd),
            own_group: false,
            stdin: theirs,
            stdout: Stdio::from(to_stdout),
            stderr: Stdio::null(),
        })?;
        let process = NodeProcess::new(name, launched.id, 0, self.nonce, launched.pidfd)?;
        Ok(Child {
            process,
            socket: WatchedFd::reading(ours.into_fd())?,
            stdout: Receiver::from_owned_fd(stdout)?,
            exe: self.exe.clone(),
            own: matches!(becomes, Becomes::Scratch(_)),
        })
    }
}

impl Child {
    /// Gives the go, under an account's filter where there is one, and waits until the child has become what it should. A
    /// probe's answer is returned.
    pub(super) async fn go(
        &self,
        disk: Option<(&DiskAccount, Whose)>,
    ) -> Result<Option<Probed>, Trouble> {
        let fds = if self.own {
            vec![self.exe.as_fd()]
        } else {
            Vec::new()
        };
        let go = ToShim::Go {
            filtered: disk.is_some(),
        };
        match send_on(self.socket.as_fd(), &go, &fds) {
            // A child that reported an error and ended is asked for its report below.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(Trouble::system("a child could not be told to go", &error));
            }
            _ => {}
        }
        tokio::time::timeout(CHILD_BOUND, self.answer(disk))
            .await
            .unwrap_or_else(|_| {
                let why = format!("a child did not begin within {CHILD_BOUND:?}");
                Err(Trouble::new(why))
            })
    }

    async fn answer(&self, disk: Option<(&DiskAccount, Whose)>) -> Result<Option<Probed>, Trouble> {
        let lost = |error: io::Error| Trouble::system("a child could not be heard", &error);
        let mut probed = None;
        loop {
            let mut ready = self.socket.readable().await.map_err(lost)?;
            match receive_on::<FromShim>(self.socket.as_fd()).map_err(lost)? {
                Received::Message(FromShim::Filtered, mut fds) => {
                    if let (Some(listener), Some((account, whose))) = (fds.pop(), disk) {
                        account
                            .attach(listener, whose)
                            .map_err(|error| Trouble::new(error.to_string()))?;
                    }
                }
                Received::Message(FromShim::Failed(error), _) => {
                    return Err(Trouble {
                        why: error.to_string(),
                        errno: (error.errno != 0).then_some(error.errno),
                        fix: Some(error.hint().to_owned()),
                    });
                }
                Received::Message(FromShim::Probed(answer), _) => probed = Some(answer),
                Received::Closed => return Ok(probed),
                Received::Empty => ready.clear_ready(),
            }
        }
    }

    /// All that it says on its standard output until its end.
    pub(super) async fn said(mut self) -> Result<scratch::Said, Trouble> {
        let mut text = Vec::new();
        let mut out = (&mut self.stdout).take(SAID_MAX);
        let heard = tokio::time::timeout(CHILD_BOUND, out.read_to_end(&mut text)).await;
        self.end().await?;
        match heard {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(Trouble::system("a child could not be heard", &error)),
            Err(_) => {
                let why = format!("a child had not ended after {CHILD_BOUND:?}");
                return Err(Trouble::new(why));
            }
        }
        serde_json::from_slice(&text).map_err(|error| {
            let text = String::from_utf8_lossy(&text);
            let said = crate::observe::excerpt(&text, 200);
            Trouble::new(format!("a child said `{said}`: {error}"))
        })
    }

    /// Kills it, if it lives, and waits for its death.
    pub(super) async fn end(&self) -> Result<Exit, Trouble> {
        let killed = self.process.kill().await;
        killed.map_err(|error| Trouble::system("a child could not be killed", &error))
    }

    /// Stops it, looks, lets it go on, and looks again. Blocks for as long as that takes.
    pub(super) fn stand_still(&self) -> Result<usize, Trouble> {
        use crate::substrate::process::family::at_work;
        let system = |what: &'static str| move |error: io::Error| Trouble::system(what, &error);
        let none: Option<Ipv4Addr> = None;
        let stopped = self
            .process
            .stop_family(none, CHILD_BOUND)
            .map_err(system("the child could not be stopped"))?;
        if stopped.is_empty() || !stopped.iter().all(|member| member.stopped) {
            return Err(Trouble::new(
                "the child was told to stop and is not seen stopped",
            ));
        }
        let later = self
            .process
            .family(none)
            .map_err(system("the child could not be looked at"))?;
        let worked = at_work(&stopped, &later);
        if !worked.is_empty() {
            let why = format!("at work while stopped: {}", worked.join(", "));
            return Err(Trouble::new(why));
        }
        self.process
            .continue_family(none, CHILD_BOUND)
            .map_err(system("the child could not be continued"))?;
        let after = self
            .process
            .family(none)
            .map_err(system("the child could not be looked at"))?;
        if after.is_empty() || after.iter().any(|member| member.stopped) {
            return Err(Trouble::new(
                "the child was told to go on and is seen stopped",
            ));
        }
        Ok(stopped.len())
    }
}
