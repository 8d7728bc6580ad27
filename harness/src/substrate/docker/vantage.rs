//! A pod's agent as what acts and looks inside a node's network.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::FutureExt as _;
use tokio::sync::watch;

use super::link::{AgentLink, LinkError};
use super::pod::Pod;
use crate::agent::flood::{FloodReport, FloodSpec};
use crate::agent::operator::{Obeyed, Order};
use crate::agent::request::{Check, PingAt, PingEvery, Poll};
use crate::clock::monotonic_ns;
use crate::substrate::{Doing, Vantage};

/// How much longer than planned a flood may take until its agent counts as silent.
const FLOOD_LATE: Duration = Duration::from_secs(30);

/// The vantage of one node.
#[derive(Debug)]
pub(super) struct PodVantage {
    /// `None` while it is made anew.
    link: watch::Sender<Option<AgentLink>>,
    address: IpAddr,
    /// How long each prepared flood takes once it began.
    floods: Mutex<BTreeMap<u32, Duration>>,
}

impl PodVantage {
    pub(super) fn new(pod: &Pod) -> Self {
        Self::at(pod.agent().clone(), pod.address().into())
    }

    /// That of an agent that sends from this address.
    pub(super) fn at(link: AgentLink, address: IpAddr) -> Self {
        Self {
            link: watch::Sender::new(Some(link)),
            address,
            floods: Mutex::default(),
        }
    }

    /// The agent that is there now.
    pub(super) fn link(&self) -> Result<AgentLink, String> {
        let link = self.link.borrow().clone();
        link.ok_or_else(|| "its agent is being made anew".to_owned())
    }

    /// From now on the agent may go: another one is on its way.
    pub(super) fn take(&self) {
        self.link.send_replace(None);
    }

    /// The other one is there.
    pub(super) fn give(&self, link: AgentLink) {
        self.link.send_replace(Some(link));
    }

    /// Waits until an agent is gone that nobody took; returns what is known of it.
    pub(super) async fn lost(&self) -> String {
        let mut links = self.link.subscribe();
        loop {
            let link = links.borrow_and_update().clone();
            let gone = async {
                match link {
                    Some(link) => link.gone().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // Its sender is this vantage's own.
                Ok(()) = links.changed() => {}
                why = gone => return why,
            }
        }
    }

    /// How long to wait for a flood that begins then.
    fn bound(&self, flood: u32, at_ns: u64) -> Duration {
        let floods = self.floods.lock().unwrap_or_else(PoisonError::into_inner);
        let takes = floods.get(&flood).copied().unwrap_or_default();
        let begins = Duration::from_nanos(at_ns.saturating_sub(monotonic_ns()));
        begins.saturating_add(takes).saturating_add(FLOOD_LATE)
    }
}

fn told<T>(result: Result<T, LinkError>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

impl Vantage for PodVantage {
    fn address(&self) -> IpAddr {
        self.address
    }

    fn lateness(&self) -> Duration {
        self.link().map_or(Duration::ZERO, |link| link.lateness())
    }

    fn until_ready(&self, check: Check, bound: Duration) -> Doing<'_, Duration> {
        async move { told(self.link()?.until_ready(check, bound).await) }.boxed()
    }

    fn watch(&self, polls: Vec<Poll>, ping: Option<PingEvery>) -> Doing<'_, ()> {
        async move { told(self.link()?.watch(polls, ping).await) }.boxed()
    }

    fn ping(&self, at: PingAt, bound: Duration) -> Doing<'_, Option<Duration>> {
        async move { told(self.link()?.ping(at, bound).await) }.boxed()
    }

    fn operate(&self, order: Order, bound: Duration) -> Doing<'_, Obeyed> {
        async move { told(self.link()?.operate(order, bound).await) }.boxed()
    }

    fn prepare_flood(&self, flood: u32, dialect: String, spec: FloodSpec) -> Doing<'_, ()> {
        let takes = spec.over.max(spec.last_after.unwrap_or_default());
        self.floods
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(flood, takes);
        async move { told(self.link()?.prepare_flood(flood, &dialect, spec).await) }.boxed()
    }

    fn start_flood(&self, flood: u32, at_ns: u64) -> Doing<'_, FloodReport> {
        let bound = self.bound(flood, at_ns);
        async move { told(self.link()?.start_flood(flood, at_ns, bound).await) }.boxed()
    }

    fn stop_flood(&self, flood: u32) -> Doing<'_, Option<FloodReport>> {
        async move { told(self.link()?.stop_flood(flood).await) }.boxed()
    }
}
