//! Everyone who is of a node: its own process, and whatever it started, wherever that went.
//!
//! A stop signal reaches a process group, and a child that leaves the group goes on working. So a node that stands still is
//! its whole family standing still: what descends from it, is in its group or session, or carries its name and the run's
//! nonce; and what was handed to the controller with a cleared environment, if it holds a socket of the node's address. A
//! daemon that cleared its environment, left the session, lost its parents *and* holds no such socket is nobody's that one
//! could name; it is found at the end of the run only.
//!
//! Everything here blocks for as long as reading `/proc` takes.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use fs_err as fs;
use rustix::process::Signal;

use super::holders::holds;
use super::identity::{
    NODE_VARIABLE, Nonce, ProcStat, ProcessId, RUN_VARIABLE, descendants, environ, has_variable,
    own_pid, parse_stat, snapshot,
};
use super::packet::wait_readable;
use super::remains::signal_exactly;

/// The longest wait before looking again whether all stand still.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Whose family it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kin<'a> {
    /// The node's own process.
    pub(super) leader: &'a ProcessId,
    /// The node's name.
    pub(super) name: &'a str,
    /// The run's nonce.
    pub(super) nonce: &'a Nonce,
    /// The node's address, where it has one.
    pub(super) address: Option<Ipv4Addr>,
}

/// One process of a node, as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The process.
    pub stat: ProcStat,
    /// Whether all of its threads are stopped.
    pub stopped: bool,
    /// How long its threads have run on a CPU in their lives, in nanoseconds, where the kernel tells.
    pub ran_ns: Option<u64>,
}

impl Member {
    fn of(stat: ProcStat) -> Self {
        let (stopped, ran_ns) = threads(stat.pid);
        Self {
            stat,
            stopped,
            ran_ns,
        }
    }

    /// Whether it has done anything since an earlier look at the same process.
    fn worked_since(&self, earlier: &Self) -> bool {
        !self.stopped || self.ran_ns != earlier.ran_ns
    }
}

/// What of a family was at work between two looks: a member that is not stopped, that was on a CPU meanwhile, or that is
/// new. Those that are gone have worked no more.
pub fn at_work(before: &[Member], after: &[Member]) -> Vec<String> {
    let same = |now: &Member| {
        before
            .iter()
            .find(|then| then.stat.pid == now.stat.pid && then.stat.start == now.stat.start)
    };
    let worked = after
        .iter()
        .filter(|now| same(now).is_none_or(|then| now.worked_since(then)));
    worked
        .map(|now| format!("{} ({})", now.stat.pid, now.stat.comm))
        .collect()
}

impl Kin<'_> {
    /// The living members, the leader among them.
    pub(super) fn members(&self) -> io::Result<Vec<ProcStat>> {
        let all = snapshot()?;
        let leader = self.leader.pid;
        let below = descendants(&all, &[leader]);
        let nonce = self.nonce.to_string();
        let own = own_pid();
        let is_kin = |stat: &ProcStat| -> io::Result<bool> {
            // Nothing is older than the one who started it.
            if stat.is_dead() || stat.pid == own || stat.start < self.leader.start {
                return Ok(false);
            }
            if stat.pid == leader {
                return Ok(stat.start == self.leader.start);
            }
            if below.contains(&stat.pid) || stat.group == leader || stat.session == leader {
                return Ok(true);
            }
            let Some(environ) = environ(stat.pid) else {
                return Ok(false);
            };
            if has_variable(&environ, RUN_VARIABLE, &nonce) {
                return Ok(has_variable(&environ, NODE_VARIABLE, self.name));
            }
            match self.address {
                Some(address) if stat.parent == own => holds(stat.pid, address),
                _ => Ok(false),
            }
        };
        let mut members = Vec::new();
        for stat in all.into_values() {
            if is_kin(&stat)? {
                members.push(stat);
            }
        }
        Ok(members)
    }

    /// What each of them is doing.
    pub(super) fn look(&self) -> io::Result<Vec<Member>> {
        Ok(self.members()?.into_iter().map(Member::of).collect())
    }

    /// Stops all of them, also those that are started meanwhile, until two looks in a row see nobody at work or the bound
    /// has passed. Returns the last look.
    pub(super) fn stop(&self, bound: Duration) -> io::Result<Vec<Member>> {
        self.until(bound, Signal::STOP, |member| member.stopped)
    }

    /// Lets all of them go on.
    pub(super) fn go_on(&self, bound: Duration) -> io::Result<Vec<Member>> {
        self.until(bound, Signal::CONT, |member| {
            !matches!(member.stat.state, 'T')
        })
    }

    /// Kills all of them, also those that are started meanwhile, until two looks in a row see nobody or the bound has passed.
    /// Returns the last look.
    pub(super) fn kill(&self, bound: Duration) -> io::Result<Vec<ProcStat>> {
        let deadline = Instant::now() + bound;
        let mut looks = 0;
        loop {
            let members = self.members()?;
            // A process in the middle of an exec shows no environment for a moment.
            looks = if members.is_empty() { looks + 1 } else { 0 };
            if looks == 2 || Instant::now() >= deadline {
                return Ok(members);
            }
            for member in &members {
                // One that may not be signalled is seen alive at the end.
                let _ = signal_exactly(member, Signal::KILL);
            }
            wait_readable(&[], deadline.min(Instant::now() + LOOK_AGAIN)).ok();
        }
    }

    fn until(
        &self,
        bound: Duration,
        signal: Signal,
        done: impl Fn(&Member) -> bool,
    ) -> io::Result<Vec<Member>> {
        let deadline = Instant::now() + bound;
        let mut looks = 0;
        loop {
            let members = self.look()?;
            let undone: Vec<&Member> = members.iter().filter(|member| !done(member)).collect();
            looks = if undone.is_empty() { looks + 1 } else { 0 };
            if looks == 2 || Instant::now() >= deadline {
                return Ok(members);
            }
            for member in undone {
                // One that may not be signalled is seen at work at the end.
                let _ = signal_exactly(&member.stat, signal);
            }
            // The kernel announces the change to nobody but the parent.
            wait_readable(&[], deadline.min(Instant::now() + LOOK_AGAIN)).ok();
        }
    }
}

/// Whether every thread of a process is stopped, and how long they have run.
pub(crate) fn threads(pid: i32) -> (bool, Option<u64>) {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return (false, None);
    };
    let mut stopped = true;
    let mut ran = Some(0_u64);
    for entry in entries.flatten() {
        // A thread that ends while it is looked at was at work.
        let stat = fs::read(entry.path().join("stat")).unwrap_or_default();
        let stat = parse_stat(&String::from_utf8_lossy(&stat));
        stopped &= stat.is_some_and(|stat| matches!(stat.state, 'T' | 't'));
        ran = ran
            .zip(ran_ns(&entry.path()))
            .map(|(sum, ns)| sum.saturating_add(ns));
    }
    (stopped, ran)
}

/// How long each thread of a process was ready to run and did not, in nanoseconds.
pub(crate) fn waits(pid: i32) -> BTreeMap<i32, u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"));
    let waited = entries.into_iter().flatten().flatten().filter_map(|entry| {
        let thread = entry.file_name().to_str()?.parse().ok()?;
        Some((thread, schedstat(&entry.path(), 1)?))
    });
    waited.collect()
}

/// How long a thread was on a CPU, in nanoseconds.
fn ran_ns(task: &Path) -> Option<u64> {
    schedstat(task, 0)
}

/// A number of `schedstat`: nanoseconds on a CPU, and those spent waiting for one.
fn schedstat(task: &Path, index: usize) -> Option<u64> {
    let text = fs::read(task.join("schedstat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    text.split_ascii_whitespace().nth(index)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(pid: i32, start: u64, stopped: bool, ran_ns: Option<u64>) -> Member {
        let stat = ProcStat {
            pid,
            comm: "x".to_owned(),
            state: if stopped { 'T' } else { 'S' },
            parent: 1,
            group: pid,
            session: pid,
            start,
            rss_pages: 0,
        };
        Member {
            stat,
            stopped,
            ran_ns,
        }
    }

    #[test]
    fn who_was_at_work_between_two_looks() {
        let then = [member(7, 1, true, Some(100))];
        for (what, now, worked) in [
            ("stands still", vec![member(7, 1, true, Some(100))], 0),
            ("is gone", vec![], 0),
            (
                "the kernel does not tell",
                vec![member(7, 1, true, None)],
                1,
            ),
            (
                "ran and stopped again",
                vec![member(7, 1, true, Some(101))],
                1,
            ),
            ("runs", vec![member(7, 1, false, Some(100))], 1),
            (
                "another of that pid",
                vec![member(7, 2, true, Some(100))],
                1,
            ),
            (
                "a new one",
                vec![member(7, 1, true, Some(100)), member(8, 1, true, Some(0))],
                1,
            ),
        ] {
            assert_eq!(at_work(&then, &now).len(), worked, "{what}");
        }
    }

    #[test]
    fn a_process_that_runs_shows_it() {
        let (stopped, first) = threads(own_pid());
        assert!(!stopped && first.is_some());
        // The kernel adds up at its ticks; other threads of this process may end meanwhile, and then the sum is less.
        let deadline = Instant::now() + Duration::from_secs(10);
        while threads(own_pid()).1 == first {
            assert!(Instant::now() < deadline, "nothing ran for 10 s");
        }
    }
}
