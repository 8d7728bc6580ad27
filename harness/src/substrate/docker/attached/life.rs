//! A life of a project's node. Its agent is in another process namespace, so the engine says who was at work.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bollard::query_parameters::StatsOptions;
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _, TryFutureExt as _};
use serde_json::json;

use super::super::container::DockerError;
use super::super::life::ContainerLife;
use super::super::node;
use super::deeds::Deeds;
use super::project::Member;
use crate::substrate::process::{NodeSignal, StoppedBy};
use crate::substrate::{Death, Detail, Doing, Life, Seen, Stopped};

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
            inner: ContainerLife::new(life.clone(), None),
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
        doing: impl Future<Output = Result<T, DockerError>>,
        stopped_it: impl FnOnce(&T) -> bool,
    ) -> Result<T, String> {
        let deed = self.deeds.down(&self.member, self.life.started()).await?;
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
        self.stop(kill, |_| true).boxed()
    }

    fn terminate(&self, grace: Duration) -> Doing<'_, Stopped> {
        async move {
            let end = self.life.terminate(grace);
            let ended = self.stop(end, |(by, _)| *by != StoppedBy::AlreadyDead);
            ended.await.map(|(_, stopped)| stopped)
        }
        .boxed()
    }

    fn still_dead(&self) -> BoxFuture<'_, Seen> {
        self.inner.still_dead()
    }

    fn freeze(&self) -> Doing<'_, ()> {
        let pause = self.life.signal(NodeSignal::Stop);
        self.stop(pause, |_| true).map_ok(drop).boxed()
    }

    fn at_rest(&self) -> BoxFuture<'_, Seen> {
        self.rest().boxed()
    }

    fn at_work(&self) -> BoxFuture<'_, Vec<String>> {
        self.work().boxed()
    }

    fn thaw(&self) -> Doing<'_, ()> {
        async {
            let deed = self.deeds.begin().await?;
            self.inner.thaw().await?;
            deed.up(&self.member).await;
            Ok(())
        }
        .boxed()
    }

    fn awake(&self) -> BoxFuture<'_, Seen> {
        self.inner.awake()
    }
}
