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

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::identity::{
    NODE_VARIABLE, Nonce, ProcStat, RUN_VARIABLE, descendants, environ, has_variable, own_pid,
    pids, read_stat,
};
use super::packet::wait_readable;

/// The longest wait before looking again: new children may have appeared meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Glances in a row that find nobody new before everybody is looked at again.
const QUIET_GLANCES: usize = 2;
/// Clean looks in a row that are wanted where others come and go meanwhile.
const LOOKS_WHERE_MISSED: usize = 4;

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

/// What one look at everybody found.
#[derive(Debug, Default)]
struct Look {
    /// Who lives and is hunted.
    prey: BTreeMap<i32, ProcStat>,
    /// Who is not, and who is dead.
    others: BTreeMap<i32, ProcStat>,
    /// The dead below the roots that nobody has reaped, by pid and start.
    dead: BTreeSet<(i32, u64)>,
    /// Processes that were listed and gone before they could be read: perhaps somebody that is hunted.
    missed: usize,
}

impl Look {
    /// Nobody lives, and nobody has died since the look before. Whoever lives on by forking and exiting may be missed by
    /// any number of looks, but leaves a dead child to its subreaper, a root, with each step; and a root reaps none of them
    /// while it hunts or is frozen. So two such looks in a row prove that below a subreaper nobody lives.
    fn is_clean_after(&self, before: &Self) -> bool {
        self.prey.is_empty() && before.prey.is_empty() && self.dead.is_subset(&before.dead)
    }
}

impl Hunt<'_> {
    fn look(&self) -> io::Result<Look> {
        let mut look = Look::default();
        let mut all = BTreeMap::new();
        for pid in pids()? {
            match read_stat(pid) {
                Ok(stat) => {
                    all.insert(pid, stat);
                }
                Err(_) => look.missed += 1,
            }
        }
        let below = descendants(&all, self.roots);
        let left: BTreeSet<i32> = descendants(&all, self.leave)
            .into_iter()
            .chain(self.leave.iter().copied())
            .collect();
        for (pid, stat) in all {
            let below = below.contains(&pid) && !left.contains(&pid);
            if !left.contains(&pid) && self.wants(&stat, below) {
                look.prey.insert(pid, stat);
                continue;
            }
            if stat.is_dead() && below {
                look.dead.insert((pid, stat.start));
            }
            look.others.insert(pid, stat);
        }
        Ok(look)
    }

    /// Whether it is after this process, which is below a root or not, and of none that is left alone.
    fn wants(&self, stat: &ProcStat, below: bool) -> bool {
        if stat.is_dead() || stat.pid == own_pid() || self.spare.contains(&stat.pid) {
            return false;
        }
        below
            || self.also.contains(&stat.pid)
            || self
                .nonce
                .is_some_and(|nonce| self.carries(stat.pid, &nonce.to_string()))
    }

    /// Looks at those only that were not there at the last look and acts on each at once: within a fraction of a
    /// millisecond, so that also those are found who live no longer. Whether there was anybody.
    fn glance(&self, look: &mut Look, mut kill: impl FnMut(&ProcStat)) -> io::Result<bool> {
        let mut news = false;
        for pid in pids()? {
            if look.others.contains_key(&pid) || look.prey.contains_key(&pid) {
                continue;
            }
            let Ok(stat) = read_stat(pid) else { continue };
            let line = ancestors(look, &stat);
            let left = line.iter().any(|pid| self.leave.contains(pid));
            let below = !left && line.iter().skip(1).any(|pid| self.roots.contains(pid));
            if !left && self.wants(&stat, below) {
                kill(&stat);
                look.prey.insert(pid, stat);
                news = true;
            } else {
                news |= below && stat.is_dead();
                look.others.insert(pid, stat);
            }
        }
        Ok(news)
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

    /// Kills until two looks in a row find nobody alive and nobody dead who was not before, or the deadline passes; then
    /// says who lives.
    ///
    /// A process that is told to die forks no more, so whoever is ever another process ends once it is found in time.
    pub(crate) fn run(&self, deadline: Instant) -> KillReport {
        let mut signalled = BTreeSet::new();
        let left = self.kill_all(deadline, &mut signalled);
        KillReport {
            killed: signalled.len(),
            left: left.unwrap_or_else(|error| {
                vec![nobody(format!("cannot look for processes: {error}"))]
            }),
        }
    }

    fn kill_all(
        &self,
        deadline: Instant,
        signalled: &mut BTreeSet<(i32, u64)>,
    ) -> io::Result<Vec<Leftover>> {
        let mut before: Option<Look> = None;
        // A process in the middle of an exec shows no environment for a moment, and one without ancestors leaves no dead
        // behind: where somebody came and went unseen, a few more looks have to find nobody.
        let mut looks = 0;
        loop {
            let mut look = self.look()?;
            let clean = before.as_ref().is_some_and(|it| look.is_clean_after(it));
            looks = if clean { looks + 1 } else { 0 };
            let enough = if look.missed == 0 {
                1
            } else {
                LOOKS_WHERE_MISSED
            };
            if looks >= enough {
                return Ok(Vec::new());
            }
            let (mut waiting, mut refused) = (Vec::new(), Vec::new());
            let mut kill = |stat: &ProcStat| match signal_exactly(stat, Signal::KILL) {
                Ok(Some(pidfd)) => {
                    signalled.insert((stat.pid, stat.start));
                    waiting.push(pidfd);
                }
                Ok(None) => {}
                Err(error) => refused.push(leftover(stat, format!("cannot be killed: {error}"))),
            };
            for stat in look.prey.values() {
                kill(stat);
            }
            let anybody = !look.prey.is_empty();
            let mut quiet = 0;
            while quiet < QUIET_GLANCES && Instant::now() < deadline {
                let news = self.glance(&mut look, &mut kill)?;
                quiet = if news { 0 } else { quiet + 1 };
            }
            if Instant::now() >= deadline {
                return self.left_after(&look, refused);
            }
            wait_for_deaths(&waiting, deadline.min(Instant::now() + LOOK_AGAIN));
            if waiting.is_empty() && anybody {
                // Nothing could be signalled: wait a little for the state to change by itself.
                wait_readable(&[], deadline.min(Instant::now() + LOOK_AGAIN)).ok();
            }
            before = Some(look);
        }
    }

    /// Who is left when time is up.
    fn left_after(&self, look: &Look, mut refused: Vec<Leftover>) -> io::Result<Vec<Leftover>> {
        let now = self.look()?;
        refused.retain(|left| now.prey.contains_key(&left.pid));
        let alive = now.prey.values();
        let alive = alive.map(|stat| leftover(stat, format!("still in state {}", stat.state)));
        let mut left: Vec<Leftover> = refused.into_iter().chain(alive).collect();
        left.sort();
        left.dedup_by_key(|left| left.pid);
        let of_look =
            |(pid, _): &(i32, u64)| look.others.contains_key(pid) || look.prey.contains_key(pid);
        if left.is_empty() && !now.dead.iter().all(of_look) {
            let why = "somebody of the run starts ever new processes, faster than they are found";
            left.push(nobody(why.to_owned()));
        }
        Ok(left)
    }
}

/// A process and who it descends from, as far as a look knows.
fn ancestors(look: &Look, stat: &ProcStat) -> Vec<i32> {
    let mut line = vec![stat.pid];
    let mut parent = stat.parent;
    while !line.contains(&parent) {
        line.push(parent);
        match look.others.get(&parent).or_else(|| look.prey.get(&parent)) {
            Some(stat) => parent = stat.parent,
            None => break,
        }
    }
    line
}

/// Something is left, and nobody knows which process.
fn nobody(why: String) -> Leftover {
    Leftover {
        pid: 0,
        comm: String::new(),
        why,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A look at one living process, or none, and the dead of these pids.
    fn look(alive: Option<i32>, dead: &[i32]) -> Look {
        let stat = |pid| ProcStat {
            pid,
            comm: "x".to_owned(),
            state: 'S',
            parent: 1,
            group: pid,
            session: pid,
            start: 7,
            rss_pages: 0,
        };
        Look {
            prey: alive.map(|pid| (pid, stat(pid))).into_iter().collect(),
            dead: dead.iter().map(|pid| (*pid, 7)).collect(),
            ..Look::default()
        }
    }

    #[test]
    fn a_look_is_clean_only_if_nobody_died_since_the_one_before() {
        for (what, before, now, clean) in [
            ("nobody ever", look(None, &[]), look(None, &[]), true),
            ("old dead", look(None, &[3, 4]), look(None, &[3, 4]), true),
            ("reaped", look(None, &[3, 4]), look(None, &[4]), true),
            ("alive", look(None, &[3]), look(Some(4), &[3]), false),
            ("was alive", look(Some(3), &[]), look(None, &[]), false),
            ("missed twice", look(None, &[3]), look(None, &[3, 4]), false),
        ] {
            assert_eq!(now.is_clean_after(&before), clean, "{what}");
        }
    }
}
