//! The agent's loop: orders in, answers and sights out, over any pair of streams.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::wire::{
    Answer, Check, Clocks, Frames, Hello, Order, Ordered, PingAt, PingEvery, Poll, Said, Sight,
    Socket, Sockets, encode,
};
use super::disk::{TOP_UP, Volume};
use super::floods::Floods;
use crate::agent::Dialect;
use crate::clock::monotonic_ns;
use crate::observe::ping::{PingFrom, PingTarget, PingWatch, Pinger};
use crate::observe::poll::{Poller, SignalPoll, http_client};
use crate::observe::procfs::{InetSocket, tcp_sockets, udp_sockets};
use crate::observe::ready::{Ready, until_ready};
use crate::observe::{NodeName, Observation};
use crate::substrate::process::identity::boot_id;

/// Messages on their way out. A full channel holds observers back; it loses nothing.
const CHANNEL: usize = 256;
/// Orders that are carried out at once; the harness has a handful under way per node.
const ORDERS_MAX: usize = 64;
/// Sockets that a message can hold: a row takes some 110 bytes.
const SOCKETS_MAX: usize = 2000;

/// Everything that orders share.
#[derive(Debug)]
struct Agent {
    dialects: Vec<Arc<dyn Dialect>>,
    hello: OnceLock<Hello>,
    volume: Volume,
    floods: Floods,
    client: reqwest::Client,
    saw: mpsc::Sender<Observation>,
    node: NodeName,
    watched: tokio::sync::Mutex<Watched>,
}

/// What is watched, and the sockets that pings come from: one per protocol for the agent's whole
/// life, so that they take one session of the node.
#[derive(Debug, Default)]
struct Watched {
    poller: Option<Poller>,
    pings: Option<PingWatch>,
    pinger: Option<(String, Arc<Pinger>)>,
}

/// Serves until the input closes or `Bye` comes. The error says what could not be read.
pub(crate) async fn serve(
    mut input: impl AsyncRead + Unpin,
    output: impl AsyncWrite + Unpin + Send + 'static,
    dialects: Vec<Arc<dyn Dialect>>,
    volume: PathBuf,
) -> Result<(), String> {
    let (say, to_say) = mpsc::channel(CHANNEL);
    let (saw, seen) = mpsc::channel(CHANNEL);
    let agent = Arc::new(Agent {
        dialects,
        hello: OnceLock::new(),
        volume: Volume::new(volume),
        floods: Floods::default(),
        client: http_client(None).map_err(|error| error.to_string())?,
        saw,
        node: NodeName::from("the node"),
        watched: tokio::sync::Mutex::default(),
    });
    let mut streams = JoinSet::new();
    streams.spawn(write_all(to_say, output));
    let mut tasks = JoinSet::new();
    tasks.spawn(pass_on(seen, say.clone()));
    tasks.spawn(keep_ballast(Arc::clone(&agent)));
    let standing = tasks.len();
    let mut frames = Frames::default();
    let mut chunk = vec![0; 64 << 10];
    let broken = 'serving: loop {
        match input.read(&mut chunk).await {
            Ok(0) | Err(_) => break None,
            Ok(length) => frames.feed(&chunk[..length]),
        }
        loop {
            let Ordered { id, order } = match frames.next() {
                Ok(Some(order)) => order,
                Ok(None) => break,
                Err(error) => break 'serving Some(error.to_string()),
            };
            while tasks.try_join_next().is_some() {}
            if matches!(order, Order::Bye) {
                let _ = say
                    .send(Said::Answer {
                        id,
                        result: Ok(Answer::Done),
                    })
                    .await;
                break 'serving None;
            }
            if tasks.len() >= standing + ORDERS_MAX {
                let why = format!("{ORDERS_MAX} orders are being carried out already");
                let _ = say
                    .send(Said::Answer {
                        id,
                        result: Err(why),
                    })
                    .await;
                continue;
            }
            let (agent, say) = (Arc::clone(&agent), say.clone());
            tasks.spawn(async move {
                let result = agent.carry_out(order).await;
                // Nobody listens any more only when the agent is about to exit.
                let _ = say.send(Said::Answer { id, result }).await;
            });
        }
    };
    tasks.shutdown().await;
    if let Some(why) = &broken {
        let _ = say.send(Said::Broken(why.clone())).await;
    }
    drop(say);
    drop(agent);
    // What was said last still goes out, unless nobody reads it.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(1), streams.join_next()).await;
    broken.map_or(Ok(()), Err)
}

async fn write_all(mut to_say: mpsc::Receiver<Said>, mut output: impl AsyncWrite + Unpin) {
    while let Some(said) = to_say.recv().await {
        let frame = match encode(&said) {
            Ok(frame) => frame,
            Err(error) => {
                tracing::error!(%error, "a message is left out");
                continue;
            }
        };
        if output.write_all(&frame).await.is_err() || output.flush().await.is_err() {
            return;
        }
    }
}

async fn pass_on(mut seen: mpsc::Receiver<Observation>, say: mpsc::Sender<Said>) {
    while let Some(observation) = seen.recv().await {
        if let Some(sight) = Sight::of(observation)
            && say.send(Said::Saw(sight)).await.is_err()
        {
            return;
        }
    }
}

/// Takes what nodes give back of a volume whose ballast is not complete.
async fn keep_ballast(agent: Arc<Agent>) {
    let mut ticks = tokio::time::interval(TOP_UP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        if let Err(error) = agent.volume.top_up() {
            tracing::debug!(%error, "ballast cannot be taken now");
        }
    }
}

impl Agent {
    async fn carry_out(&self, order: Order) -> Result<Answer, String> {
        let told = |error: std::io::Error| error.to_string();
        Ok(match order {
            Order::Hello(hello) => {
                self.volume.open_to_all().map_err(told)?;
                if self.hello.set(hello).is_err() {
                    return Err("it was greeted before".to_owned());
                }
                Answer::Clock(clocks()?)
            }
            Order::Clock => Answer::Clock(clocks()?),
            Order::Ready { check, bound } => {
                let ready = match check {
                    Check::Http { url, status } => Ready::Http {
                        client: self.client.clone(),
                        url,
                        status,
                    },
                    Check::Tcp(address) => Ready::Tcp(address),
                };
                let took = until_ready(&self.node, ready, bound).await;
                Answer::Ready(took.map_err(|error| error.to_string())?)
            }
            Order::Watch { polls, ping } => {
                self.watch(polls, ping).await?;
                Answer::Done
            }
            Order::Ping { target, bound } => {
                // A socket of its own: an answer to an earlier ping must not count for this one.
                let pinger = self.bind(&target.dialect).await?;
                let ping = pinger.ping(&self.target(&target), bound).await;
                match ping.send_error {
                    Some(why) => return Err(format!("the ping was not sent: {why}")),
                    None => Answer::Ping(ping.rtt),
                }
            }
            Order::PrepareFlood {
                flood,
                dialect,
                spec,
            } => {
                self.floods
                    .prepare(flood, self.dialect(&dialect)?, spec)
                    .await?;
                Answer::Done
            }
            Order::StartFlood { flood, at_ns } => {
                Answer::Flood(self.floods.start(flood, at_ns).await?)
            }
            Order::StopFlood { flood } => self
                .floods
                .stop(flood)
                .await?
                .map_or(Answer::Done, Answer::Flood),
            Order::Ballast { bytes } => Answer::Disk(self.volume.want(bytes).map_err(told)?),
            Order::Disk => Answer::Disk(self.volume.state().map_err(told)?),
            Order::ProbeDisk { bytes } => Answer::Probe(self.volume.probe(bytes).map_err(told)?),
            Order::Sockets => Answer::Sockets(sockets().map_err(told)?),
            Order::Bye => Answer::Done,
        })
    }

    async fn watch(&self, polls: Vec<Poll>, ping: Option<PingEvery>) -> Result<(), String> {
        let mut signals = Vec::new();
        for poll in polls {
            signals.push(SignalPoll {
                node: NodeName::clone(&self.node),
                signal: poll.signal.as_str().into(),
                url: poll.url.as_str().into(),
                read: poll.read.extract()?,
                period: poll.period,
            });
        }
        let mut watched = self.watched.lock().await;
        watched.poller =
            (!signals.is_empty()).then(|| Poller::start(&self.client, signals, &self.saw));
        watched.pings = None;
        if let Some(PingEvery { target, period }) = ping {
            let pinger = match &watched.pinger {
                Some((dialect, pinger)) if *dialect == target.dialect => Arc::clone(pinger),
                _ => {
                    let pinger = Arc::new(self.bind(&target.dialect).await?);
                    watched.pinger = Some((target.dialect.clone(), Arc::clone(&pinger)));
                    pinger
                }
            };
            let targets = vec![self.target(&target)];
            watched.pings = Some(pinger.watch(targets, period, period, &self.saw));
        }
        Ok(())
    }

    async fn bind(&self, dialect: &str) -> Result<Pinger, String> {
        let hello = self.hello.get().ok_or("it was not greeted yet")?;
        let from = PingFrom {
            ip: hello.address,
            identity: hello.identity,
            netid: hello.netid,
        };
        Pinger::bind(self.dialect(dialect)?, from)
            .await
            .map_err(|error| error.to_string())
    }

    fn dialect(&self, name: &str) -> Result<Arc<dyn Dialect>, String> {
        let found = self.dialects.iter().find(|dialect| dialect.name() == name);
        found
            .cloned()
            .ok_or_else(|| format!("no protocol `{name}` is known here"))
    }

    fn target(&self, target: &PingAt) -> PingTarget {
        PingTarget {
            node: NodeName::clone(&self.node),
            address: target.address,
            key: target.key,
        }
    }
}

fn clocks() -> Result<Clocks, String> {
    let boot = boot_id().map_err(|error| error.to_string())?;
    Ok(Clocks {
        monotonic_ns: monotonic_ns(),
        boot,
    })
}

fn sockets() -> std::io::Result<Sockets> {
    let mut left_out = 0;
    let mut rows = |table: Vec<InetSocket>| {
        let rows: Vec<Socket> = table
            .into_iter()
            .filter(|socket| !socket.is_time_wait())
            .map(
                |InetSocket {
                     local,
                     remote,
                     state,
                     drops,
                     ..
                 }| Socket {
                    local,
                    remote,
                    state,
                    drops,
                },
            )
            .collect();
        left_out += rows.len().saturating_sub(SOCKETS_MAX);
        rows.into_iter().take(SOCKETS_MAX).collect::<Vec<_>>()
    };
    let (udp, tcp) = (rows(udp_sockets()?), rows(tcp_sockets()?));
    Ok(Sockets { udp, tcp, left_out })
}
