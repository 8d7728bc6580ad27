//! A node as a process: signals, state, death.
//!
//! A [`NodeProcess`] is a handle that can be cloned. It never signals by pid. Its death is seen
//! through the pidfd, together with the time at which it was seen; what is left of its process
//! group is killed at that moment, while the dead leader still keeps the group's number from being
//! reused. What escaped from the group is removed by
//! [`Spawner::retire`](super::spawner::Spawner::retire). Why a node died is for others to say.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_send_signal, waitid,
};
use serde::{Deserialize, Serialize};
use tweedledum_core::plan::model::StopSignal;

use super::family::{Kin, Member};
use super::identity::{Nonce, ProcStat, ProcessId};
use super::remains::signal_exactly;
use super::watched::WatchedFd;
use crate::clock::monotonic_ns;

/// How long a killed process may take to be gone: freeing much memory takes tens of milliseconds,
/// a process stuck in the kernel never ends.
const KILL_BOUND: Duration = Duration::from_secs(10);

/// The signals that the harness sends to nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeSignal {
    /// SIGKILL.
    Kill,
    /// SIGTERM.
    Term,
    /// SIGINT.
    Int,
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Cont,
}

impl NodeSignal {
    const fn signal(self) -> Signal {
        match self {
            Self::Kill => Signal::KILL,
            Self::Term => Signal::TERM,
            Self::Int => Signal::INT,
            Self::Stop => Signal::STOP,
            Self::Cont => Signal::CONT,
        }
    }
}

impl From<StopSignal> for NodeSignal {
    fn from(signal: StopSignal) -> Self {
        match signal {
            StopSignal::Term => Self::Term,
            StopSignal::Int => Self::Int,
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitKind {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It is gone, but its status was lost: somebody else reaped it.
    Lost,
}

/// The death of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// How it ended.
    pub kind: ExitKind,
    /// When the harness saw it, in nanoseconds of `CLOCK_MONOTONIC`.
    pub seen_ns: u64,
}

/// What made a node stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoppedBy {
    /// It was dead before.
    AlreadyDead,
    /// The signal that asks it to stop was enough.
    Term,
    /// It ignored that for the whole grace and was killed.
    Kill,
}

/// The result of [`NodeProcess::terminate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// What it took.
    pub by: StoppedBy,
    /// The death.
    pub exit: Exit,
    /// How long it took from the SIGTERM on.
    pub took: Duration,
}

/// A started node, or its shim before the go.
#[derive(Clone, Debug)]
pub struct NodeProcess(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    id: ProcessId,
    /// The key under which the guards know it.
    key: u64,
    nonce: Nonce,
    pidfd: WatchedFd,
    exit: Mutex<Option<Exit>>,
    /// The family as it was stopped, until it goes on.
    stopped: Mutex<Vec<Member>>,
    family: Mutex<Family>,
}

/// What became of those that a dead node left. After it is retired its name may have a new life, whose processes cannot be
/// told from its own, so they are sought before, or not at all.
#[derive(Debug)]
enum Family {
    Unsought,
    /// They were killed; these live on.
    Sought(Vec<ProcStat>),
    Retired,
}

impl NodeProcess {
    pub(crate) fn new(
        name: String,
        id: ProcessId,
        key: u64,
        nonce: Nonce,
        pidfd: OwnedFd,
    ) -> io::Result<Self> {
        let pidfd = WatchedFd::reading(pidfd)?;
        Ok(Self(Arc::new(Inner {
            name,
            id,
            key,
            nonce,
            pidfd,
            exit: Mutex::new(None),
            stopped: Mutex::new(Vec::new()),
            family: Mutex::new(Family::Unsought),
        })))
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The process's identity.
    pub fn id(&self) -> &ProcessId {
        &self.0.id
    }

    /// The pid; also the number of its process group and session.
    pub fn pid(&self) -> i32 {
        self.0.id.pid
    }

    pub(super) fn key(&self) -> u64 {
        self.0.key
    }

    /// Sends a signal. Returns the instant just before it was sent, in nanoseconds of
    /// `CLOCK_MONOTONIC`. The error for a process that is dead and reaped is `ESRCH`.
    ///
    /// Stop and continue reach the node's whole process group: a node that is started by a wrapper
    /// script would else go on working while only the script stands still.
    pub fn signal(&self, signal: NodeSignal) -> io::Result<u64> {
        let at = monotonic_ns();
        // While this is held nobody reaps the leader, so its number stays that of its group.
        let exit = self.0.exit.lock().unwrap_or_else(PoisonError::into_inner);
        pidfd_send_signal(&self.0.pidfd, signal.signal())?;
        if exit.is_none()
            && matches!(signal, NodeSignal::Stop | NodeSignal::Cont)
            && let Some(group) = Pid::from_raw(self.pid())
        {
            match kill_process_group(group, signal.signal()) {
                // There is no group before the shim has made it; then there is nobody else either.
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(at)
    }

    /// Stops the node with everything that it ever started, as far as that can be told to be its own: see
    /// [`family`](super::family). Blocks for at most `bound` and little longer. Returns what each of them is doing then;
    /// nobody when the node is gone.
    pub fn stop_family(
        &self,
        address: Option<Ipv4Addr>,
        bound: Duration,
    ) -> io::Result<Vec<Member>> {
        self.signal_unless_dead(NodeSignal::Stop)?;
        let members = self.kin(address).stop(bound)?;
        self.stopped().clone_from(&members);
        Ok(members)
    }

    /// Kills everything that the node ever started and that can be told to be its own. Blocks for at most `bound` and little
    /// longer, and holds up a retirement as long. Returns who lives on; asked again, the same. The error of a node that was
    /// retired first says that nobody can know.
    pub fn kill_family(
        &self,
        address: Option<Ipv4Addr>,
        bound: Duration,
    ) -> io::Result<Vec<ProcStat>> {
        let mut family = self.fate();
        match &*family {
            Family::Sought(left) => Ok(left.clone()),
            Family::Retired => Err(io::Error::other(format!(
                "`{}` was retired before what it had left was looked for, and its name may have a new life",
                self.name()
            ))),
            Family::Unsought => {
                let left = self.kin(address).kill(bound)?;
                *family = Family::Sought(left.clone());
                Ok(left)
            }
        }
    }

    /// Says that a new life of this name may begin: nothing is killed any more for being of this one by its name.
    pub(super) fn retire(&self) {
        let mut family = self.fate();
        if matches!(*family, Family::Unsought) {
            *family = Family::Retired;
        }
    }

    fn fate(&self) -> MutexGuard<'_, Family> {
        self.0.family.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What everybody of the node is doing.
    pub fn family(&self, address: Option<Ipv4Addr>) -> io::Result<Vec<Member>> {
        self.kin(address).look()
    }

    /// The family as it was when it was stopped; nobody when it was not.
    pub fn family_when_stopped(&self) -> Vec<Member> {
        self.stopped().clone()
    }

    /// Lets everybody of the node go on. Blocks for at most `bound` and little longer.
    pub fn continue_family(&self, address: Option<Ipv4Addr>, bound: Duration) -> io::Result<()> {
        self.continue_stopped();
        self.signal_unless_dead(NodeSignal::Cont)?;
        self.kin(address).go_on(bound)?;
        Ok(())
    }

    /// Lets those go on that [`stop_family`](Self::stop_family) has stopped: the node's own signals do not reach them.
    fn continue_stopped(&self) {
        for member in std::mem::take(&mut *self.stopped()) {
            // Whoever is gone or changed hands needs nothing.
            let _ = signal_exactly(&member.stat, Signal::CONT);
        }
    }

    fn kin(&self, address: Option<Ipv4Addr>) -> Kin<'_> {
        Kin {
            leader: &self.0.id,
            name: &self.0.name,
            nonce: &self.0.nonce,
            address,
        }
    }

    fn stopped(&self) -> MutexGuard<'_, Vec<Member>> {
        self.0
            .stopped
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the death. May be called by several tasks, and dropped at any time.
    pub async fn exited(&self) -> Exit {
        loop {
            if let Some(exit) = self.try_exit() {
                return exit;
            }
            match self.0.pidfd.readable().await {
                // It may be readable by a stale event only: then forget it and wait again.
                Ok(mut ready) => match self.try_exit() {
                    Some(exit) => return exit,
                    None => ready.clear_ready(),
                },
                // Only a runtime that shuts down gives this; nobody polls this future again.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// The death, if it has happened.
    pub fn try_exit(&self) -> Option<Exit> {
        let mut known = self.0.exit.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() {
            *known = self.reap();
        }
        *known
    }

    fn reap(&self) -> Option<Exit> {
        let wait = |options| {
            rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(self.0.pidfd.as_fd()), options))
        };
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let seen = wait(look | WaitIdOptions::NOWAIT);
        let seen_ns = monotonic_ns();
        let kind = match seen {
            Ok(None) => return None,
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => ExitKind::Code(code),
                (None, Some(signal)) => ExitKind::Signal(signal),
                (None, None) => ExitKind::Lost,
            },
            Err(_) => {
                return Some(Exit {
                    kind: ExitKind::Lost,
                    seen_ns,
                });
            }
        };
        // The dead leader is not reaped yet, so this number is still its group and nobody else's.
        // The group is empty, or was never made, when there is nobody to hit.
        if let Some(group) = Pid::from_raw(self.pid()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = wait(look);
        Some(Exit { kind, seen_ns })
    }

    /// Asks the node to end by `signal` and kills it when it does not within `grace`. A paused node is
    /// continued, so that it can answer. The error says that even SIGKILL did not end it.
    pub async fn terminate(&self, signal: StopSignal, grace: Duration) -> io::Result<Stopped> {
        let start = Instant::now();
        let done = |by, exit| Stopped {
            by,
            exit,
            took: start.elapsed(),
        };
        if let Some(exit) = self.try_exit() {
            return Ok(done(StoppedBy::AlreadyDead, exit));
        }
        self.signal_unless_dead(signal.into())?;
        self.continue_stopped();
        self.signal_unless_dead(NodeSignal::Cont)?;
        if let Ok(exit) = tokio::time::timeout(grace, self.exited()).await {
            return Ok(done(StoppedBy::Term, exit));
        }
        let exit = self.kill().await?;
        Ok(done(StoppedBy::Kill, exit))
    }

    /// Kills the node and waits until it is dead.
    pub async fn kill(&self) -> io::Result<Exit> {
        self.signal_unless_dead(NodeSignal::Kill)?;
        tokio::time::timeout(KILL_BOUND, self.exited())
            .await
            .map_err(|_| {
                let state = self.state().map_or('?', |stat| stat.state);
                io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!(
                        "`{}` (pid {}) was killed but still is in state {state} after {} s",
                        self.name(),
                        self.pid(),
                        KILL_BOUND.as_secs()
                    ),
                )
            })
    }

    fn signal_unless_dead(&self, signal: NodeSignal) -> io::Result<()> {
        match self.signal(signal) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(error),
            _ => Ok(()),
        }
    }

    /// What `/proc` shows of the process; `None` when it is gone.
    pub fn state(&self) -> Option<ProcStat> {
        self.0.id.stat()
    }
}

impl AsFd for NodeProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.pidfd.as_fd()
    }
}
