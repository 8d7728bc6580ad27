//! A life of a node as a container: the engine signals and freezes it, and the agent, which shares its process
//! namespace, says whether anything of it was at work.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use serde_json::json;
use tweedledum_core::capability::Resource;
use tweedledum_core::history::ExitStatus;
use tweedledum_core::plan::model::StopSignal;

use super::container::{DockerError, State};
use super::link::{AgentLink, LinkError};
use super::node;
use super::wire::Working;
use crate::substrate::cgroup::Share;
use crate::substrate::process::NodeSignal;
use crate::substrate::{Death, Detail, Doing, Life, Seen, Stopped};

/// Limits of memory are kept in whole pages.
const PAGE: u64 = 4096;

/// Why a node that was killed is not known to have stayed dead.
const REMOVED: &str = "somebody has removed its container while it had to be down";

/// A life of a node.
#[derive(Debug)]
pub(super) struct ContainerLife {
    life: node::Life,
    /// Where an agent shares the node's process namespace.
    agent: Option<AgentLink>,
    /// What the agent's kernel had killed for lack of memory before this life.
    oom_kills: Option<u64>,
    /// Who there was, and how long each had worked, when it stood still.
    at_rest: Mutex<BTreeMap<i32, Working>>,
}

impl ContainerLife {
    pub(super) fn new(life: node::Life, agent: Option<AgentLink>, oom_kills: Option<u64>) -> Self {
        Self {
            life,
            agent,
            oom_kills,
            at_rest: Mutex::default(),
        }
    }

    async fn paused(&self) -> Result<bool, String> {
        told(self.life.node().state().await.map(|state| state.paused))
    }

    fn agent(&self) -> Result<&AgentLink, String> {
        let agent = self.agent.as_ref();
        agent.ok_or_else(|| "no agent shares its process namespace".to_owned())
    }

    async fn working(&self) -> Result<BTreeMap<i32, Working>, String> {
        let working = self.agent()?.working().await;
        working.map_err(|error| error.to_string())
    }

    async fn rest(&self) -> Seen {
        let mut detail = Detail::new();
        let holds = match (self.paused().await, self.working().await) {
            (Ok(paused), Ok(working)) => {
                detail.insert("paused".to_owned(), json!(paused));
                detail.insert("processes".to_owned(), json!(working.len()));
                let anybody = !working.is_empty();
                *self.at_rest.lock().unwrap_or_else(PoisonError::into_inner) = working;
                paused && anybody
            }
            (paused, working) => {
                let why = paused.err().or(working.err());
                detail.insert("unseen".to_owned(), json!(why));
                false
            }
        };
        Seen { holds, detail }
    }

    fn touched(&self) -> bool {
        let node = self.life.node();
        node.engine().others().touched(node.id())
    }

    async fn stays_dead(&self) -> Seen {
        let state = self.life.node().state().await;
        still_dead(state, self.life.started())
    }

    async fn worked(&self) -> Vec<String> {
        let now = match self.working().await {
            Ok(now) => now,
            Err(error) => return vec![error],
        };
        if now.is_empty() {
            return vec!["nobody was seen".to_owned()];
        }
        let before = self.at_rest.lock().unwrap_or_else(PoisonError::into_inner);
        let worked = now.iter().filter(|(pid, now)| before.get(pid) != Some(now));
        worked
            .map(|(pid, now)| format!("{pid} ({})", now.comm))
            .collect()
    }
}

fn told<T>(result: Result<T, DockerError>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

/// A limit that the engine would not set, with what to do where that is known.
fn refused(resource: Resource, error: &DockerError) -> String {
    let why = error.to_string();
    // The words are those of runc, which every version has said it in.
    if resource == Resource::Memory && why.contains("current usage") {
        return format!(
            "{why}; with cgroup v1 the kernel takes no memory back from who uses it: cap it above that, and it is killed when it wants more"
        );
    }
    why
}

/// A death beside an agent that shares its process namespace. A container that somebody else has touched died of who knows
/// what.
async fn beside(
    agent: Option<&AgentLink>,
    oom_kills: Option<u64>,
    death: Death,
    touched: bool,
) -> Death {
    let killed = death.status == ExitStatus::Signal(libc::SIGKILL);
    let status = match agent {
        _ if touched => ExitStatus::Foreign,
        Some(agent) if killed => killed_beside(oom_kills, &agent.oom_kills().await),
        _ => death.status,
    };
    Death { status, ..death }
}

/// What a kill was, by what the agent says of its kernel. With an agent the kernel kills all that is in its process
/// namespace, so a kill is the host's if the agent is gone too. With cgroup v1 engines do not tell of what the host itself
/// killed for lack of memory, so a kill while the kernel killed for that is taken for one of those.
fn killed_beside(before: Option<u64>, says: &Result<Option<u64>, LinkError>) -> ExitStatus {
    match (before, says) {
        (_, Err(LinkError::Gone { .. })) => ExitStatus::HostGone,
        (Some(before), Ok(Some(now))) if *now > before => ExitStatus::HostOutOfMemory,
        _ => ExitStatus::Signal(libc::SIGKILL),
    }
}

/// Whether a container whose life began at `started` and was ended has had no other since. What became of the node of one
/// that was removed nobody can tell: another container may have its place.
fn still_dead(state: Result<State, DockerError>, started: Option<&str>) -> Seen {
    let unseen = |key: &str, why: String| Seen {
        holds: false,
        detail: Detail::from([(key.to_owned(), json!(why))]),
    };
    let state = match state {
        Ok(state) => state,
        Err(error) if error.is_gone() => return unseen("removed", REMOVED.to_owned()),
        Err(error) => return unseen("unseen", error.to_string()),
    };
    let same = started == Some(state.started.as_str());
    Seen {
        holds: same && !state.lives(),
        detail: Detail::from([
            ("runs".to_owned(), json!(state.lives())),
            ("started".to_owned(), json!(state.started)),
            ("killed-life-started".to_owned(), json!(started)),
        ]),
    }
}

impl Life for ContainerLife {
    fn pid(&self) -> Option<u32> {
        self.life.pid()
    }

    fn died(&self) -> BoxFuture<'_, Death> {
        async {
            let death = self.life.died().await;
            beside(self.agent.as_ref(), self.oom_kills, death, self.touched()).await
        }
        .boxed()
    }

    fn try_died(&self) -> Option<Death> {
        self.life.try_died()
    }

    fn kill(&self) -> Doing<'_, u64> {
        async { told(self.life.signal(NodeSignal::Kill).await) }.boxed()
    }

    fn terminate(&self, signal: StopSignal, grace: Duration) -> Doing<'_, Stopped> {
        async move {
            let ended = self.life.terminate(signal, grace).await;
            let (_, stopped) = told(ended)?;
            Ok(Stopped {
                death: beside(
                    self.agent.as_ref(),
                    self.oom_kills,
                    stopped.death,
                    self.touched(),
                )
                .await,
                ..stopped
            })
        }
        .boxed()
    }

    fn still_dead(&self) -> BoxFuture<'_, Seen> {
        self.stays_dead().boxed()
    }

    fn freeze(&self) -> Doing<'_, ()> {
        async { told(self.life.signal(NodeSignal::Stop).await).map(drop) }.boxed()
    }

    fn at_rest(&self) -> BoxFuture<'_, Seen> {
        self.rest().boxed()
    }

    fn at_work(&self) -> BoxFuture<'_, Vec<String>> {
        self.worked().boxed()
    }

    fn thaw(&self) -> Doing<'_, ()> {
        async { told(self.life.signal(NodeSignal::Cont).await).map(drop) }.boxed()
    }

    fn limit(&self, resource: Resource, amount: Option<u64>) -> Doing<'_, Option<u64>> {
        async move {
            let limited = self.life.node().limit_one(resource, amount).await;
            let state = limited.map_err(|error| refused(resource, &error))?;
            Ok(state.limits.of(resource))
        }
        .boxed()
    }

    fn share(&self, resource: Resource) -> Doing<'_, Share> {
        async move {
            let share = self.agent()?.share(resource).await;
            let mut share = share.map_err(|error| error.to_string())?;
            // One of all that the machine has is none, and the only way to take one from a running container.
            let about = self.life.node().engine().about();
            let all = match resource {
                Resource::Memory => about.memory / PAGE * PAGE,
                Resource::Cpu => u64::from(about.cpus) * 1000,
                Resource::Pids => u64::MAX,
            };
            share.limit = share.limit.filter(|limit| *limit < all);
            Ok(share)
        }
        .boxed()
    }

    fn awake(&self) -> BoxFuture<'_, Seen> {
        async {
            let paused = self.paused().await;
            Seen {
                holds: paused == Ok(false),
                detail: Detail::from([("paused".to_owned(), json!(paused.ok()))]),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use tokio::sync::mpsc;

    use super::*;

    /// An agent whose stream has ended or that says nothing, and a node that was killed or ended otherwise.
    #[tokio::test(start_paused = true)]
    async fn a_kill_is_the_hosts_only_with_its_agent() {
        let link = |output| {
            let (seen, _) = mpsc::channel(1);
            AgentLink::open(&"x".into(), Box::pin(tokio::io::sink()), output, seen)
        };
        let gone = link(Box::pin(stream::empty()));
        let there = link(Box::pin(stream::pending()));
        let (kill, abort) = (ExitStatus::Signal(9), ExitStatus::Signal(6));
        let (code, oom) = (ExitStatus::Code(137), ExitStatus::OutOfMemory);
        for (agent, status, want) in [
            (Some(&gone), kill, ExitStatus::HostGone),
            (Some(&gone), abort, abort),
            (Some(&gone), code, code),
            (Some(&gone), oom, oom),
            (Some(&there), kill, kill),
            (None, kill, kill),
        ] {
            let death = Death { status, seen_ns: 7 };
            let seen = beside(agent, Some(0), death, false).await;
            assert_eq!((seen.status, seen.seen_ns), (want, 7), "{status:?}");
            let touched = beside(agent, Some(0), death, true).await;
            assert_eq!(touched.status, ExitStatus::Foreign, "{status:?}");
        }
    }

    #[test]
    fn a_kill_while_the_kernel_killed_for_lack_of_memory_is_the_hosts() {
        let killed = ExitStatus::Signal(9);
        let silent = LinkError::Silent {
            node: "x".to_owned(),
            bound: Duration::from_secs(1),
        };
        for (before, says, want) in [
            (Some(7), Ok(Some(8)), ExitStatus::HostOutOfMemory),
            (Some(7), Ok(Some(7)), killed),
            (None, Ok(Some(8)), killed),
            (Some(7), Ok(None), killed),
            (Some(7), Err(silent), killed),
        ] {
            assert_eq!(killed_beside(before, &says), want, "{before:?} {says:?}");
        }
    }

    #[test]
    fn a_container_that_was_started_since_was_not_held_down() {
        let (first, second) = ("2026-03-01T10:00:00Z", "2026-03-01T10:00:07Z");
        for (running, at, started, holds) in [
            (false, first, Some(first), true),
            (true, second, Some(first), false),
            // It was started, and is down again.
            (false, second, Some(first), false),
            // Its death was told, and it lives.
            (true, first, Some(first), false),
            // Nobody knows.
            (false, first, None, false),
        ] {
            let state = State {
                running,
                started: at.to_owned(),
                ..State::default()
            };
            let seen = still_dead(Ok(state), started);
            assert_eq!(seen.holds, holds, "{running} {at} {started:?}");
        }
    }

    #[test]
    fn a_container_that_was_removed_since_does_not_count_as_held_down() {
        let refused = |status_code| {
            let message = "No such container: x".to_owned();
            let error = bollard::errors::Error::DockerResponseServerError {
                status_code,
                message,
            };
            DockerError::engine("show a container", &error)
        };
        let seen = still_dead(Err(refused(404)), Some("t"));
        assert!(!seen.holds);
        assert_eq!(seen.detail["removed"], json!(REMOVED));
        let seen = still_dead(Err(refused(500)), Some("t"));
        assert!(!seen.holds && seen.detail.contains_key("unseen"));
    }
}
