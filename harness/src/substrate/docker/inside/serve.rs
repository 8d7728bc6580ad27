//! The agent's loop: orders in, answers and sights out, over any pair of streams.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tweedledum_core::capability::Resource;
use tweedledum_core::oracles::LATE_PART;

use super::super::wire::{
    Answer, Clocks, Frames, Hello, Order, Ordered, Said, Sight, Working, beat, encode,
};
use super::disk::{TOP_UP, Volume};
use super::hunger::Hunger;
use crate::agent::Dialect;
use crate::agent::drift::Drift;
use crate::agent::local::{LocalAgent, LocalSpec};
use crate::clock::{monotonic_ns, unix_ns};
use crate::observe::poll::http_client;
use crate::observe::procfs::oom_kills;
use crate::observe::{NodeName, Observation};
use crate::substrate::cgroup::{self, Share};
use crate::substrate::process::ProcStat;
use crate::substrate::process::family::threads;
use crate::substrate::process::identity::{boot_id, own_pid, snapshot};
use crate::substrate::{Identities, Vantage as _};

/// Messages on their way out. A full channel holds observers back; it loses nothing.
const CHANNEL: usize = 256;
/// Orders that are carried out at once; the harness has a handful under way per node.
const ORDERS_MAX: usize = 64;

/// Everything that orders share.
#[derive(Debug)]
struct Agent {
    dialects: Vec<Arc<dyn Dialect>>,
    volume: Volume,
    client: reqwest::Client,
    saw: mpsc::Sender<Observation>,
    /// What acts and looks, from the greeting on.
    local: OnceLock<LocalAgent>,
    /// How late it is, once it was told how long layers are.
    time: watch::Sender<Option<Arc<Time>>>,
}

/// An agent's lateness, its node's hunger, and the length of layers.
#[derive(Debug)]
struct Time {
    layer: Duration,
    drift: Drift,
    hunger: Hunger,
}

impl Time {
    fn new(layer: Duration) -> Self {
        let limit = layer / u32::try_from(LATE_PART).unwrap_or(u32::MAX);
        Self {
            layer,
            drift: Drift::new(layer, limit),
            hunger: Hunger::default(),
        }
    }

    /// What was not answered while the agent itself was late, or the node starved, says nothing about the node.
    fn weigh(&self, sight: Sight) -> Sight {
        match sight.unanswered_since(self.layer) {
            Some(since_ns) if self.drift.blind_since(since_ns) => {
                sight.excused("the agent itself was too late to see an answer")
            }
            Some(since_ns) if self.hunger.starved_since(since_ns) => {
                sight.excused("the node waited for a processor for most of the time")
            }
            _ => sight,
        }
    }
}

/// Serves until the input closes. The error says what could not be read.
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
        volume: Volume::new(volume),
        client: http_client(None).map_err(|error| error.to_string())?,
        saw,
        local: OnceLock::new(),
        time: watch::Sender::new(None),
    });
    let mut streams = JoinSet::new();
    streams.spawn(write_all(to_say, output));
    let mut tasks = JoinSet::new();
    tasks.spawn(pass_on(Arc::clone(&agent), seen, say.clone()));
    tasks.spawn(tell_lateness(Arc::clone(&agent), say.clone()));
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

async fn pass_on(
    agent: Arc<Agent>,
    mut seen: mpsc::Receiver<Observation>,
    say: mpsc::Sender<Said>,
) {
    while let Some(observation) = seen.recv().await {
        let Some(sight) = Sight::of(observation) else {
            continue;
        };
        let time = agent.time.borrow().clone();
        let sight = match time {
            Some(time) => time.weigh(sight),
            None => sight,
        };
        if say.send(Said::Saw(sight)).await.is_err() {
            return;
        }
    }
}

/// Measures how late this agent is, and tells it often enough that its silence tells as much.
async fn tell_lateness(agent: Arc<Agent>, say: mpsc::Sender<Said>) {
    let mut time = agent.time.subscribe();
    loop {
        let now = time.borrow_and_update().clone();
        let telling = async {
            let Some(time) = now else {
                return std::future::pending().await;
            };
            let mut ticks = tokio::time::interval(beat(time.layer));
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let telling = async {
                loop {
                    ticks.tick().await;
                    time.hunger.look();
                    if say.send(Said::Late(time.drift.take())).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = time.drift.measure() => {}
                () = telling => {}
            }
        };
        tokio::select! {
            () = telling => return,
            changed = time.changed() => if changed.is_err() { return },
        }
    }
}

/// Looks at a volume that is held: whether it is full, and what nodes give back while its ballast is not complete.
async fn keep_ballast(agent: Arc<Agent>) {
    agent.volume.held().await;
    let mut ticks = tokio::time::interval(TOP_UP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        if let Err(error) = agent.volume.look().await {
            tracing::debug!(%error, "ballast cannot be taken now");
        }
    }
}

impl Agent {
    async fn carry_out(&self, order: Order) -> Result<Answer, String> {
        let told = |error: std::io::Error| error.to_string();
        Ok(match order {
            Order::Hello(hello) => {
                self.volume.open_to_all().await.map_err(told)?;
                if self.local.set(self.local_of(hello)).is_err() {
                    return Err("it was greeted before".to_owned());
                }
                Answer::Clock(clocks()?)
            }
            Order::Clock => Answer::Clock(clocks()?),
            Order::KeepTime { layer } => {
                self.time.send_replace(Some(Arc::new(Time::new(layer))));
                Answer::Done
            }
            Order::Ready { check, bound } => {
                Answer::Ready(self.local()?.until_ready(check, bound).await?)
            }
            Order::Watch { polls, ping } => {
                self.local()?.watch(polls, ping).await?;
                Answer::Done
            }
            Order::Ping { target, bound } => Answer::Ping(self.local()?.ping(target, bound).await?),
            Order::Operate { order, bound } => {
                Answer::Obeyed(self.local()?.operate(order, bound).await?)
            }
            Order::PrepareFlood {
                flood,
                dialect,
                spec,
            } => {
                self.local()?.prepare_flood(flood, dialect, spec).await?;
                Answer::Done
            }
            Order::StartFlood { flood, at_ns } => {
                let report = self.local()?.start_flood(flood, at_ns).await?;
                Answer::Flood(Box::new(report))
            }
            Order::StopFlood { flood } => self
                .local()?
                .stop_flood(flood)
                .await?
                .map_or(Answer::Done, |report| Answer::Flood(Box::new(report))),
            Order::Ballast { bytes } => Answer::Disk(self.volume.want(bytes).await.map_err(told)?),
            Order::Disk => Answer::Disk(self.volume.state().await.map_err(told)?),
            Order::ProbeDisk { bytes } => {
                Answer::Probe(self.volume.probe(bytes).await.map_err(told)?)
            }
            Order::Working => Answer::Working(working().map_err(told)?),
            Order::Share { resource } => Answer::Share(share(resource)?),
        })
    }

    fn local(&self) -> Result<&LocalAgent, String> {
        let local = self.local.get();
        local.ok_or_else(|| "it was not greeted yet".to_owned())
    }

    fn local_of(&self, hello: Hello) -> LocalAgent {
        LocalAgent::new(LocalSpec {
            node: NodeName::from(hello.node),
            address: hello.address,
            identities: Identities {
                watcher: hello.watcher,
                prober: hello.prober,
                netid: hello.netid,
            },
            dialects: self.dialects.clone(),
            client: self.client.clone(),
            saw: self.saw.clone(),
        })
    }
}

fn clocks() -> Result<Clocks, String> {
    let boot = boot_id().map_err(|error| error.to_string())?;
    Ok(Clocks {
        monotonic_ns: monotonic_ns(),
        unix_ns: unix_ns(),
        boot,
        oom_kills: oom_kills(),
    })
}

/// Everybody in the pod but this process: those of the node, whatever they did to leave it.
fn working() -> std::io::Result<BTreeMap<i32, Working>> {
    let own = own_pid();
    let others = snapshot()?.into_values();
    let others = others.filter(|stat| stat.pid != own && !stat.is_dead());
    let of = |stat: ProcStat| {
        let (_, ran_ns) = threads(stat.pid);
        let working = Working {
            comm: stat.comm,
            start: stat.start,
            ran_ns,
        };
        (stat.pid, working)
    };
    Ok(others.map(of).collect())
}

/// A container sees its own control group and no other, so the node's is looked for where the node sees it.
fn share(resource: Resource) -> Result<Share, String> {
    let own = own_pid();
    let others = snapshot().map_err(|error| error.to_string())?.into_values();
    // The node's container may run commands beside it; all of them are in the one group.
    let mut others = others.filter(|stat| stat.pid != own && !stat.is_dead());
    let of = others.next().ok_or("nobody of the node is there")?.pid;
    let mounted = PathBuf::from(format!("/proc/{of}/root/sys/fs/cgroup"));
    let (group, v2) = cgroup::below(&mounted, resource);
    cgroup::look(&group, v2, resource)
        .map_err(|error| format!("the node's control group cannot be read: {error}"))
}
