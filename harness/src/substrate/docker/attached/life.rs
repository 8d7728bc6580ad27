//! A life of a project's node. Its agent is in another process namespace, so the engine says who was at work.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bollard::query_parameters::StatsOptions;
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _, TryFutureExt as _};
use serde_json::json;
use tweedledum_core::plan::model::StopSignal;

use super::super::container::DockerError;
use super::super::ledger::Halt;
use super::super::life::ContainerLife;
use super::super::node;
use super::deeds::Deeds;
use super::project::Member;
use crate::substrate::process::{NodeSignal, StoppedBy};
use crate::substrate::{Death, Detail, Doing, Life, Seen, Stopped};

/// Why a node that stands still does not go on.
const NOT_PAUSED_BY_US: &str = "this run has not paused it in this life, so it stays as it is: if it is paused, that is \
                                somebody else's doing, and theirs to end";
/// Why a node that was paused is not continued.
const NOT_PAUSED_ANY_MORE: &str = "this run had paused it, and somebody else has continued, ended or restarted it since, \
                                   so it stays as it is";

/// A life of a node.
#[derive(Debug)]
pub(super) struct AttachedLife {
    inner: ContainerLife,
    life: node::Life,
    member: Member,
    deeds: Deeds,
    /// How long all of it had been on a processor when it stood still, in nanoseconds.
    at_rest: Mutex<Option<u64>>,
}

impl AttachedLife {
    pub(super) fn new(life: node::Life, member: Member, deeds: Deeds) -> Self {
        Self {
            inner: ContainerLife::new(life.clone(), None, None),
            life,
            member,
            deeds,
            at_rest: Mutex::default(),
        }
    }

    /// How long all of it has been on a processor.
    async fn worked_ns(&self) -> Result<u64, String> {
        let node = self.life.node();
        let options = StatsOptions {
            stream: false,
            one_shot: true,
        };
        let mut stats = std::pin::pin!(node.engine().docker().stats(node.id(), Some(options)));
        let seen = match stats.next().await {
            Some(Ok(seen)) => seen,
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err("the engine told nothing".to_owned()),
        };
        let usage = seen.cpu_stats.and_then(|cpu| cpu.cpu_usage);
        let total = usage.and_then(|usage| usage.total_usage);
        // Who has started has used some.
        let total = total.filter(|total| *total > 0);
        total.ok_or_else(|| "the engine does not count processor time".to_owned())
    }

    async fn rest(&self) -> Seen {
        let paused = self.life.node().state().await.map(|state| state.paused);
        let worked = self.worked_ns().await;
        let mut detail = Detail::from([("paused".to_owned(), json!(paused.as_ref().ok()))]);
        if let Err(why) = &worked {
            detail.insert("unseen".to_owned(), json!(why));
        }
        let holds = paused.is_ok_and(|paused| paused) && worked.is_ok();
        *self.at_rest.lock().unwrap_or_else(PoisonError::into_inner) = worked.ok();
        Seen { holds, detail }
    }

    /// Does what stops or pauses it. One that had died by itself just before stays as it is, also at the end.
    async fn stop<T>(
        &self,
        halt: Halt,
        doing: impl Future<Output = Result<T, DockerError>>,
        stopped_it: impl FnOnce(&T) -> bool,
    ) -> Result<T, String> {
        let started = self.life.started();
        let deed = self.deeds.down(&self.member, started, halt).await?;
        let done = doing.await;
        let nothing = match &done {
            Ok(done) => !stopped_it(done),
            Err(error) => error.is_refused(),
        };
        if nothing {
            deed.not_done(&self.member).await;
        }
        done.map_err(|error| error.to_string())
    }

    /// Takes back a pause of this run's, and nobody else's.
    async fn unpause(&self) -> Result<(), String> {
        let deed = self.deeds.begin().await?;
        let started = self.life.started();
        let Some(started) =
            started.filter(|_| self.deeds.has_done(&self.member, started, Halt::Pause))
        else {
            return Err(NOT_PAUSED_BY_US.to_owned());
        };
        let state = self.life.node().state().await;
        let state = state.map_err(|error| error.to_string())?;
        let still_ours = state.paused && state.started == started;
        if still_ours {
            self.inner.thaw().await?;
        }
        deed.strike(&self.member, started, Halt::Pause).await;
        if !still_ours {
            return Err(NOT_PAUSED_ANY_MORE.to_owned());
        }
        Ok(())
    }

    async fn work(&self) -> Vec<String> {
        let now = self.worked_ns().await;
        let before = *self.at_rest.lock().unwrap_or_else(PoisonError::into_inner);
        match (before, now) {
            (Some(before), Ok(now)) if before == now => Vec::new(),
            (Some(before), Ok(now)) => {
                vec![format!("it worked for {} ns", now.saturating_sub(before))]
            }
            (None, _) => vec!["it was not seen at rest".to_owned()],
            (_, Err(why)) => vec![why],
        }
    }
}

impl Life for AttachedLife {
    fn pid(&self) -> Option<u32> {
        self.inner.pid()
    }

    fn died(&self) -> BoxFuture<'_, Death> {
        self.inner.died()
    }

    fn try_died(&self) -> Option<Death> {
        self.inner.try_died()
    }

    fn kill(&self) -> Doing<'_, u64> {
        let kill = self.life.signal(NodeSignal::Kill);
        self.stop(Halt::Stop, kill, |_| true).boxed()
    }

    fn terminate(&self, signal: StopSignal, grace: Duration) -> Doing<'_, Stopped> {
        async move {
            let end = self.life.terminate(signal, grace);
            let ended = self.stop(Halt::Stop, end, |(by, _)| *by != StoppedBy::AlreadyDead);
            ended.await.map(|(_, stopped)| stopped)
        }
        .boxed()
    }

    fn still_dead(&self) -> BoxFuture<'_, Seen> {
        self.inner.still_dead()
    }

    fn freeze(&self) -> Doing<'_, ()> {
        let pause = self.life.signal(NodeSignal::Stop);
        self.stop(Halt::Pause, pause, |_| true).map_ok(drop).boxed()
    }

    fn at_rest(&self) -> BoxFuture<'_, Seen> {
        self.rest().boxed()
    }

    fn at_work(&self) -> BoxFuture<'_, Vec<String>> {
        self.work().boxed()
    }

    fn thaw(&self) -> Doing<'_, ()> {
        self.unpause().boxed()
    }

    fn awake(&self) -> BoxFuture<'_, Seen> {
        self.inner.awake()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::Value;

    use super::super::super::bring_up::down;
    use super::super::super::engine::Engine;
    use super::super::super::fake_engine::FakeEngine;
    use super::super::super::ledger::Ledger;
    use super::*;

    /// A container as its engine has it: whether it is paused, and when its life began.
    type Container = Arc<Mutex<(bool, &'static str)>>;

    const FIRST: &str = "2026-03-01T10:00:00Z";
    const SECOND: &str = "2026-03-01T10:00:07Z";

    fn answer(container: &Container, deed: &str) -> (u16, Value) {
        let (paused, started) = &mut *container.lock().unwrap();
        match (deed, *paused) {
            ("json", _) => {
                let state = json!({ "Status": "running", "Running": true, "Paused": paused, "StartedAt": started });
                (200, json!({ "Id": "i", "State": state }))
            }
            ("pause", false) | ("unpause", true) => {
                *paused = deed == "pause";
                (204, json!(null))
            }
            ("pause", true) => (409, json!({ "message": "Container i is already paused" })),
            ("unpause", false) => (500, json!({ "message": "Container i is not paused" })),
            // Neither its log nor its death is of interest here.
            _ => (500, json!({ "message": "not now" })),
        }
    }

    #[tokio::test]
    async fn only_a_pause_of_the_runs_own_is_taken_back() {
        let container: Container = Arc::new(Mutex::new((true, FIRST)));
        let set = |paused, started| *container.lock().unwrap() = (paused, started);
        let paused = || container.lock().unwrap().0;
        let served = Arc::clone(&container);
        let fake = FakeEngine::serve(move |_, parts| answer(&served, parts[2]));
        let engine = Engine::connect(fake.address()).await.unwrap();
        let ledger = Ledger::new(|_| Ok(()));
        let counts_as_down = || down(&ledger.entries()).contains_key("i");
        let member = Member {
            id: "i".to_owned(),
            container: "p_gateway-0_1".to_owned(),
            image: "sha256:1".to_owned(),
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            network: String::new(),
            on: std::collections::BTreeMap::new(),
        };
        let node = node::Node::existing(&engine, "gateway-0", "i");
        let (life, _pipes) = node.adopt(0).await.unwrap();
        let life = AttachedLife::new(life, member, Deeds::new(ledger.clone()));

        // Its owner has paused it before.
        let refused = life.freeze().await.unwrap_err();
        assert!(refused.contains("already paused"), "{refused}");
        assert!(!counts_as_down());
        assert_eq!(life.thaw().await, Err(NOT_PAUSED_BY_US.to_owned()));
        assert!(paused());

        set(false, FIRST);
        life.freeze().await.unwrap();
        assert!(paused() && counts_as_down());
        life.thaw().await.unwrap();
        assert!(!paused() && !counts_as_down());

        // Its owner has continued it, and then paused it.
        life.freeze().await.unwrap();
        set(false, FIRST);
        assert_eq!(life.thaw().await, Err(NOT_PAUSED_ANY_MORE.to_owned()));
        set(true, FIRST);
        assert_eq!(life.thaw().await, Err(NOT_PAUSED_BY_US.to_owned()));
        assert!(paused() && !counts_as_down());

        // Its owner has restarted it, and then paused it.
        set(false, FIRST);
        life.freeze().await.unwrap();
        set(true, SECOND);
        assert_eq!(life.thaw().await, Err(NOT_PAUSED_ANY_MORE.to_owned()));
        assert!(paused() && !counts_as_down());
    }
}
