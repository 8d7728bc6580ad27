//! A life of a node as a process: its own signals, its family, what `/proc` shows of both.

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, FutureExt as _};
use serde_json::json;
use tweedledum_core::capability::Resource;
use tweedledum_core::history::ExitStatus;
use tweedledum_core::plan::model::StopSignal;

use super::family::at_work;
use super::group::{Group, of_process};
use super::node::{Exit, ExitKind, NodeProcess, NodeSignal, StoppedBy};
use crate::observe::procfs::oom_kills;
use crate::substrate::cgroup::{Lack, Share};
use crate::substrate::{Death, Detail, Doing, Life, Seen, Stopped};

/// A stopped process shows it within a scheduler tick; under load SIGSTOP was measured to take 36 ms.
const STATE_BOUND: Duration = Duration::from_secs(2);

/// A life of a node.
#[derive(Debug, Clone)]
pub(super) struct ProcessLife {
    /// Its process.
    pub(super) process: NodeProcess,
    /// The node's own address, by whose sockets strays of it are known.
    pub(super) address: Option<Ipv4Addr>,
    /// What limits are put on, where there will be any.
    group: Option<Counted>,
    /// How many processes the kernel had killed for lack of memory when it began, wherever.
    oom_kills: Option<u64>,
    /// How it ended: what its group counts goes on counting in its next life.
    death: OnceLock<Death>,
}

/// A node's group, and what it had counted before the node's life.
#[derive(Debug, Clone)]
pub(super) struct Counted {
    group: Group,
    before: Lack,
    /// Whether its own limit was met in this life. A limit that was taken away is not there to be asked any more.
    met: Arc<AtomicBool>,
}

impl Counted {
    /// Of a life that begins now.
    pub(super) fn from_now(group: Group) -> Self {
        group.forget_peak();
        Self {
            before: group.lack().unwrap_or_default(),
            group,
            met: Arc::default(),
        }
    }

    /// What the kernel has killed for since, once SIGKILL has ended the node.
    fn killed(&self) -> ExitStatus {
        let now = self.look();
        if now.kills <= self.before.kills {
            return ExitStatus::Signal(libc::SIGKILL);
        }
        if self.met.load(Ordering::Relaxed) {
            return ExitStatus::OutOfMemory;
        }
        ExitStatus::HostOutOfMemory
    }

    fn look(&self) -> Lack {
        let now = self.group.lack().unwrap_or_default();
        // What the life before has left in the group may fill it from the start.
        if now.met > self.before.met || now.full {
            self.met.store(true, Ordering::Relaxed);
        }
        now
    }
}

impl ProcessLife {
    /// A life of this process.
    pub(super) fn new(
        process: NodeProcess,
        address: Option<Ipv4Addr>,
        group: Option<Counted>,
    ) -> Self {
        Self {
            process,
            address,
            group,
            oom_kills: oom_kills(),
            death: OnceLock::new(),
        }
    }

    fn death(&self, exit: Exit) -> Death {
        let more = || oom_kills() > self.oom_kills;
        *self
            .death
            .get_or_init(|| death(exit, self.group.as_ref(), more))
    }

    /// Does something beside the event loop that the kernel may take its time for: it reads all of `/proc`, or takes memory
    /// back for a limit.
    async fn blocking<T: Send + 'static>(
        &self,
        act: impl FnOnce(&NodeProcess) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let process = self.process.clone();
        tokio::task::spawn_blocking(move || act(&process)).await?
    }

    async fn rest(&self) -> Seen {
        let address = self.address;
        // What left the process group did not get the signal.
        let stopped = self
            .blocking(move |process| process.stop_family(address, STATE_BOUND))
            .await;
        let mut detail = Detail::new();
        let holds = match &stopped {
            Ok(members) => {
                detail.insert("processes".to_owned(), json!(members.len()));
                !members.is_empty() && members.iter().all(|member| member.stopped)
            }
            Err(error) => {
                detail.insert("unseen".to_owned(), json!(error.to_string()));
                false
            }
        };
        Seen { holds, detail }
    }

    async fn worked(&self) -> Vec<String> {
        let address = self.address;
        let before = self.process.family_when_stopped();
        match self.blocking(move |process| process.family(address)).await {
            Ok(now) if now.is_empty() => vec!["nobody was seen".to_owned()],
            Ok(now) => at_work(&before, &now),
            Err(error) => vec![error.to_string()],
        }
    }

    /// The process's state once it is not stopped, else the last one seen within [`STATE_BOUND`]; `None` when it is gone.
    async fn going(&self) -> Option<char> {
        let deadline = Instant::now() + STATE_BOUND;
        loop {
            let state = self.process.state()?.state;
            if state != 'T' || Instant::now() >= deadline {
                return Some(state);
            }
            // The kernel announces no change of this state to anyone but the parent's wait, which the exit watcher uses.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A death; where the node has no group that counts, a kill while the kernel killed for lack of memory is taken for one of
/// those.
fn death(exit: Exit, group: Option<&Counted>, more_kills: impl FnOnce() -> bool) -> Death {
    let status = match (exit.kind, group) {
        (ExitKind::Signal(libc::SIGKILL), Some(group)) => group.killed(),
        (ExitKind::Signal(libc::SIGKILL), None) if more_kills() => ExitStatus::HostOutOfMemory,
        (ExitKind::Code(code), _) => ExitStatus::Code(code),
        (ExitKind::Signal(signal), _) => ExitStatus::Signal(signal),
        (ExitKind::Lost, _) => ExitStatus::Lost,
    };
    Death {
        status,
        seen_ns: exit.seen_ns,
    }
}

/// A limit that the kernel would not take, with what to do where that is known.
fn refused(resource: Resource, error: &io::Error) -> String {
    if resource == Resource::Memory && error.kind() == io::ErrorKind::ResourceBusy {
        return format!(
            "{error}; with cgroup v1 the kernel takes no memory back from who uses it: cap it above that, and it is killed when it wants more"
        );
    }
    error.to_string()
}

fn told<T>(result: io::Result<T>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

impl Life for ProcessLife {
    fn pid(&self) -> Option<u32> {
        u32::try_from(self.process.pid()).ok()
    }

    fn died(&self) -> BoxFuture<'_, Death> {
        async { self.death(self.process.exited().await) }.boxed()
    }

    fn try_died(&self) -> Option<Death> {
        self.process.try_exit().map(|exit| self.death(exit))
    }

    fn kill(&self) -> Doing<'_, u64> {
        async { told(self.process.signal(NodeSignal::Kill)) }.boxed()
    }

    fn terminate(&self, signal: StopSignal, grace: Duration) -> Doing<'_, Stopped> {
        async move {
            let stopped = told(self.process.terminate(signal, grace).await)?;
            Ok(Stopped {
                death: self.death(stopped.exit),
                forced: stopped.by == StoppedBy::Kill,
                took: stopped.took,
            })
        }
        .boxed()
    }

    fn extinct(&self) -> BoxFuture<'_, Seen> {
        let address = self.address;
        async move {
            let left = self
                .blocking(move |process| process.kill_family(address, STATE_BOUND))
                .await;
            let mut detail = Detail::new();
            let holds = match left {
                Ok(left) => {
                    if !left.is_empty() {
                        let left = left
                            .iter()
                            .map(|stat| format!("{} ({})", stat.pid, stat.comm));
                        detail.insert("living-on".to_owned(), json!(left.collect::<Vec<_>>()));
                    }
                    detail.is_empty()
                }
                Err(error) => {
                    detail.insert("unseen".to_owned(), json!(error.to_string()));
                    false
                }
            };
            Seen { holds, detail }
        }
        .boxed()
    }

    fn freeze(&self) -> Doing<'_, ()> {
        async { told(self.process.signal(NodeSignal::Stop)).map(drop) }.boxed()
    }

    fn at_rest(&self) -> BoxFuture<'_, Seen> {
        self.rest().boxed()
    }

    fn at_work(&self) -> BoxFuture<'_, Vec<String>> {
        self.worked().boxed()
    }

    fn thaw(&self) -> Doing<'_, ()> {
        let address = self.address;
        async move {
            let continued =
                move |process: &NodeProcess| process.continue_family(address, STATE_BOUND);
            told(self.blocking(continued).await)
        }
        .boxed()
    }

    fn limit(&self, resource: Resource, amount: Option<u64>) -> Doing<'_, Option<u64>> {
        let group = self.group.clone();
        async move {
            let group = group.ok_or("it was started without a group for limits")?;
            let limit = move |_: &NodeProcess| {
                group.look();
                let set = group.group.set(resource, amount);
                // What was used before the limit was there did not meet it.
                group.group.forget_peak();
                set
            };
            let set = self.blocking(limit).await;
            set.map_err(|error| refused(resource, &error))
        }
        .boxed()
    }

    fn share(&self, resource: Resource) -> Doing<'_, Share> {
        async move {
            let share = move |process: &NodeProcess| {
                if process.try_exit().is_some() {
                    return Err(io::Error::other("it is dead"));
                }
                of_process(process.pid(), resource)
            };
            told(self.blocking(share).await)
        }
        .boxed()
    }

    fn awake(&self) -> BoxFuture<'_, Seen> {
        async {
            let state = self.going().await;
            Seen {
                holds: state.is_some_and(|state| state != 'T'),
                detail: Detail::from([("state".to_owned(), json!(state.map(String::from)))]),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_while_the_host_had_no_memory_is_the_hosts() {
        for (signal, more, status) in [
            (libc::SIGKILL, true, ExitStatus::HostOutOfMemory),
            (libc::SIGKILL, false, ExitStatus::Signal(libc::SIGKILL)),
            (libc::SIGSEGV, true, ExitStatus::Signal(libc::SIGSEGV)),
        ] {
            let kind = ExitKind::Signal(signal);
            let exit = Exit { kind, seen_ns: 7 };
            assert_eq!(death(exit, None, || more).status, status, "{signal} {more}");
        }
    }

    #[test]
    fn a_kill_is_the_nodes_own_lack_of_memory_where_its_limit_was_met() {
        let directory = tempfile::tempdir().unwrap();
        let counts = |oom: u32, kills: u32| {
            let text = format!("max 9\noom {oom}\noom_kill {kills}\n");
            std::fs::write(directory.path().join("memory.events"), text).unwrap();
        };
        let by = |signal| Exit {
            kind: ExitKind::Signal(signal),
            seen_ns: 7,
        };
        for ((oom, kills), signal, status) in [
            ((1, 1), libc::SIGKILL, ExitStatus::Signal(libc::SIGKILL)),
            // Its limit was met, and nobody was killed for that.
            ((2, 1), libc::SIGKILL, ExitStatus::Signal(libc::SIGKILL)),
            ((2, 2), libc::SIGKILL, ExitStatus::OutOfMemory),
            ((1, 2), libc::SIGKILL, ExitStatus::HostOutOfMemory),
            ((2, 2), libc::SIGABRT, ExitStatus::Signal(libc::SIGABRT)),
        ] {
            // What an earlier life left in the counters is not this one's.
            counts(1, 1);
            let counted = Counted::from_now(Group::of_memory(directory.path()));
            counts(oom, kills);
            assert_eq!(
                death(by(signal), Some(&counted), || true).status,
                status,
                "{oom} {kills}"
            );
        }
    }
}
