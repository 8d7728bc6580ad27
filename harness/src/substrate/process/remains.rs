//! How everything of a run is found and killed, whoever is left to do it.
//!
//! Two ways lead to a process, and each covers what the other cannot. Descent: stub and controller
//! are subreapers, so whatever was ever started below them stays below them, also a daemon that
//! cleared its environment; this needs the ancestor to be alive. The nonce in the environment:
//! it needs no ancestor. A process is signalled only through a pidfd opened after it was found and
//! checked again afterwards, so a reused pid is never hit.
//!
//! A process that clears its environment *and* lost both subreapers is not found here, unless the caller knows it by what
//! it holds: see `holders` and [`undo`](crate::undo).

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::identity::{
    NODE_VARIABLE, Nonce, ProcStat, RUN_VARIABLE, descendants, environ, has_variable, own_pid,
    read_stat, snapshot,
};
use super::packet::wait_readable;

/// The longest wait before looking again: new children may have appeared meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A process that could not be removed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Leftover {
    /// Its pid.
    pub pid: i32,
    /// Its command name.
    pub comm: String,
    /// Why it is still there.
    pub why: String,
}

/// What a hunt did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillReport {
    /// How many processes were signalled.
    pub killed: usize,
    /// What is still there.
    pub left: Vec<Leftover>,
}

impl KillReport {
    /// Adds a later hunt: what it found left is what is left now.
    pub fn then(&mut self, later: Self) {
        self.killed += later.killed;
        self.left = later.left;
    }
}

/// What to kill. The caller itself is never hit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hunt<'a> {
    /// Everything below these processes, they themselves not.
    pub(crate) roots: &'a [i32],
    /// These processes too.
    pub(crate) also: &'a [i32],
    /// Everything that carries this nonce in its environment …
    pub(crate) nonce: Option<&'a Nonce>,
    /// … and, unless this is empty, the name of one of these nodes.
    pub(crate) nodes: &'a [&'a str],
    /// Processes that are left alone, though what is below them is not.
    pub(crate) spare: &'a [i32],
    /// Processes that are left alone with everything below them.
    pub(crate) leave: &'a [i32],
}

impl Hunt<'_> {
    /// The living processes that the hunt is after.
    fn prey(&self) -> io::Result<Vec<ProcStat>> {
        let all = snapshot()?;
        let below = descendants(&all, self.roots);
        let left: BTreeSet<i32> = descendants(&all, self.leave)
            .into_iter()
            .chain(self.leave.iter().copied())
            .collect();
        let nonce = self.nonce.map(ToString::to_string);
        let own = own_pid();
        let wanted = |stat: &ProcStat| {
            if stat.is_dead()
                || stat.pid == own
                || self.spare.contains(&stat.pid)
                || left.contains(&stat.pid)
            {
                return false;
            }
            below.contains(&stat.pid)
                || self.also.contains(&stat.pid)
                || nonce
                    .as_ref()
                    .is_some_and(|nonce| self.carries(stat.pid, nonce))
        };
        Ok(all.into_values().filter(wanted).collect())
    }

    fn carries(&self, pid: i32, nonce: &str) -> bool {
        let Some(environ) = environ(pid) else {
            return false;
        };
        has_variable(&environ, RUN_VARIABLE, nonce)
            && (self.nodes.is_empty()
                || self
                    .nodes
                    .iter()
                    .any(|node| has_variable(&environ, NODE_VARIABLE, node)))
    }

    /// Kills until nothing is found twice in a row, or the deadline passes.
    pub(crate) fn run(&self, deadline: Instant) -> KillReport {
        let mut signalled = BTreeSet::new();
        let mut clean_looks = 0;
        let report = |signalled: &BTreeSet<(i32, u64)>, left| KillReport {
            killed: signalled.len(),
            left,
        };
        loop {
            let prey = match self.prey() {
                Ok(prey) => prey,
                Err(error) => {
                    let why = format!("cannot look for processes: {error}");
                    let left = Leftover {
                        pid: 0,
                        comm: String::new(),
                        why,
                    };
                    return report(&signalled, vec![left]);
                }
            };
            // A process in the middle of an exec shows no environment for a moment.
            clean_looks = if prey.is_empty() { clean_looks + 1 } else { 0 };
            if clean_looks == 2 {
                return report(&signalled, Vec::new());
            }
            let mut waiting = Vec::new();
            let mut left = Vec::new();
            for stat in &prey {
                match signal_exactly(stat, Signal::KILL) {
                    Ok(Some(pidfd)) => {
                        signalled.insert((stat.pid, stat.start));
                        waiting.push(pidfd);
                    }
                    Ok(None) => {}
                    Err(error) => left.push(leftover(stat, format!("cannot be killed: {error}"))),
                }
            }
            if Instant::now() >= deadline {
                left.extend(prey.iter().filter_map(|stat| {
                    let now = read_stat(stat.pid).ok()?;
                    let same = now.start == stat.start && !now.is_dead();
                    same.then(|| leftover(&now, format!("still in state {}", now.state)))
                }));
                left.sort();
                left.dedup_by_key(|left| left.pid);
                return report(&signalled, left);
            }
            wait_for_deaths(&waiting, deadline.min(Instant::now() + LOOK_AGAIN));
            if waiting.is_empty() && !prey.is_empty() {
                // Nothing could be signalled: wait a little for the state to change by itself.
                wait_readable(&[], deadline.min(Instant::now() + LOOK_AGAIN)).ok();
            }
        }
    }
}

fn leftover(stat: &ProcStat, why: String) -> Leftover {
    Leftover {
        pid: stat.pid,
        comm: stat.comm.clone(),
        why,
    }
}

/// Signals the process that was seen, and no other with its pid; `None` when it is gone.
pub(super) fn signal_exactly(seen: &ProcStat, signal: Signal) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = Pid::from_raw(seen.pid) else {
        return Ok(None);
    };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // The pidfd may have been opened on a successor; the start time tells, once it is held.
    if !read_stat(seen.pid).is_ok_and(|now| now.start == seen.start) {
        return Ok(None);
    }
    match pidfd_send_signal(&pidfd, signal) {
        Ok(()) => Ok(Some(pidfd)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Waits until all these processes are dead, or the deadline passes.
pub(crate) fn wait_for_deaths(pidfds: &[OwnedFd], deadline: Instant) {
    for pidfd in pidfds {
        if !wait_readable(&[pidfd.as_fd()], deadline).unwrap_or(false) {
            return;
        }
    }
}

/// Reaps every dead child of the caller, except those that `keep` names. Returns how many.
pub(crate) fn reap_children(keep: impl Fn(i32) -> bool) -> usize {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    let mut reaped = 0;
    // The kernel shows the same dead child until it is reaped, so one to keep ends the round.
    while let Ok(status) = waitid(Id::All, peek) {
        let Some(pid) = status.pid() else { break };
        if keep(pid.as_raw()) {
            break;
        }
        if waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG).is_err() {
            break;
        }
        reaped += 1;
    }
    reaped
}
