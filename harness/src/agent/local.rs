//! An agent: everything that acts and looks inside the network of the process that it runs in.
//!
//! On the process substrate the controller has one per node, all on the same loopback; in containers each pod's agent
//! is one. It is where [`request`](super::request)s become sockets. What it sees goes into one channel.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::FutureExt as _;
use reqwest::Client;
use tokio::sync::{Mutex, mpsc};

use super::Dialect;
use super::flood::{FloodReport, FloodSpec};
use super::floods::Floods;
use super::operator::{Obeyed, Order};
use super::request::{Check, PingAt, PingEvery, Poll};
use crate::observe::ping::{PingFrom, PingTarget, PingWatch, Pinger};
use crate::observe::poll::{Poller, SignalPoll};
use crate::observe::ready::{Ready, until_ready};
use crate::observe::{NodeName, Observation};
use crate::substrate::{Doing, Identities, Vantage};

/// What an agent is.
#[derive(Debug)]
pub(crate) struct LocalSpec {
    /// The node it is for.
    pub(crate) node: NodeName,
    /// The address that it sends from.
    pub(crate) address: IpAddr,
    /// Who pings.
    pub(crate) identities: Identities,
    /// The protocols that it speaks.
    pub(crate) dialects: Vec<Arc<dyn Dialect>>,
    /// The client that asks over HTTP.
    pub(crate) client: Client,
    /// Where what it sees goes.
    pub(crate) saw: mpsc::Sender<Observation>,
}

/// An agent.
#[derive(Debug)]
pub(crate) struct LocalAgent {
    spec: LocalSpec,
    floods: Floods,
    watched: Mutex<Watched>,
}

/// What is watched, and the socket that pings come from: one for the agent's whole life, so that it takes one session of
/// the node.
#[derive(Debug, Default)]
struct Watched {
    poller: Option<Poller>,
    pings: Option<PingWatch>,
    pinger: Option<(String, Arc<Pinger>)>,
}

impl LocalAgent {
    pub(crate) fn new(spec: LocalSpec) -> Self {
        Self {
            spec,
            floods: Floods::default(),
            watched: Mutex::default(),
        }
    }

    async fn ready(&self, check: Check, bound: Duration) -> Result<Duration, String> {
        let ready = match check {
            Check::Http { url, status } => Ready::Http {
                client: self.spec.client.clone(),
                url,
                status,
            },
            Check::Tcp(address) => Ready::Tcp(address),
        };
        until_ready(&self.spec.node, ready, bound)
            .await
            .map_err(|error| error.to_string())
    }

    async fn look(&self, polls: Vec<Poll>, ping: Option<PingEvery>) -> Result<(), String> {
        let mut signals = Vec::new();
        for poll in polls {
            signals.push(SignalPoll {
                node: NodeName::clone(&self.spec.node),
                signal: poll.signal.as_str().into(),
                url: poll.url.as_str().into(),
                read: poll.read.extract()?,
                period: poll.period,
                within: poll.within,
            });
        }
        let mut watched = self.watched.lock().await;
        watched.poller = (!signals.is_empty())
            .then(|| Poller::start(&self.spec.client, signals, &self.spec.saw));
        watched.pings = None;
        if let Some(PingEvery { target, period }) = ping {
            let pinger = match &watched.pinger {
                Some((dialect, pinger)) if *dialect == target.dialect => Arc::clone(pinger),
                _ => {
                    let watcher = self.spec.identities.watcher;
                    let pinger = Arc::new(self.bind(&target.dialect, watcher).await?);
                    watched.pinger = Some((target.dialect.clone(), Arc::clone(&pinger)));
                    pinger
                }
            };
            let targets = vec![self.target(&target)];
            watched.pings = Some(pinger.watch(targets, period, period, &self.spec.saw));
        }
        Ok(())
    }

    async fn ping_once(&self, at: PingAt, bound: Duration) -> Result<Option<Duration>, String> {
        // A socket of its own: an answer to an earlier ping, given after a thaw, must not count for this one.
        let pinger = self.bind(&at.dialect, self.spec.identities.prober).await?;
        let ping = pinger.ping(&self.target(&at), bound).await;
        match ping.send_error {
            // An address that refuses is no answer either.
            Some(why) if ping.rtt.is_none() => {
                tracing::debug!(node = %self.spec.node, why, "a ping was not sent");
                Ok(None)
            }
            _ => Ok(ping.rtt),
        }
    }

    async fn bind(&self, dialect: &str, identity: [u8; 32]) -> Result<Pinger, String> {
        let from = PingFrom {
            ip: self.spec.address,
            identity,
            netid: self.spec.identities.netid,
        };
        Pinger::bind(self.dialect(dialect)?, from)
            .await
            .map_err(|error| error.to_string())
    }

    fn dialect(&self, name: &str) -> Result<Arc<dyn Dialect>, String> {
        let mut known = self.spec.dialects.iter();
        let found = known.find(|dialect| dialect.name() == name);
        found
            .cloned()
            .ok_or_else(|| format!("no protocol `{name}` is known here"))
    }

    fn target(&self, at: &PingAt) -> PingTarget {
        PingTarget {
            node: NodeName::clone(&self.spec.node),
            address: at.address,
            key: at.key,
        }
    }
}

impl Vantage for LocalAgent {
    fn address(&self) -> IpAddr {
        self.spec.address
    }

    fn until_ready(&self, check: Check, bound: Duration) -> Doing<'_, Duration> {
        self.ready(check, bound).boxed()
    }

    fn watch(&self, polls: Vec<Poll>, ping: Option<PingEvery>) -> Doing<'_, ()> {
        self.look(polls, ping).boxed()
    }

    fn ping(&self, at: PingAt, bound: Duration) -> Doing<'_, Option<Duration>> {
        self.ping_once(at, bound).boxed()
    }

    fn operate(&self, order: Order, bound: Duration) -> Doing<'_, Obeyed> {
        async move { order.give(&self.spec.client, bound).await }.boxed()
    }

    fn prepare_flood(&self, flood: u32, dialect: String, spec: FloodSpec) -> Doing<'_, ()> {
        async move {
            let dialect = self.dialect(&dialect)?;
            self.floods.prepare(flood, dialect, spec).await
        }
        .boxed()
    }

    fn start_flood(&self, flood: u32, at_ns: u64) -> Doing<'_, FloodReport> {
        self.floods.start(flood, at_ns).boxed()
    }

    fn stop_flood(&self, flood: u32) -> Doing<'_, Option<FloodReport>> {
        self.floods.stop(flood).boxed()
    }
}
