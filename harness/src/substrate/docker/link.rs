//! The harness's end of an agent: orders, answers, and what the agent sees.
//!
//! One link per pod. Its streams are the agent's standard input and output, attached through the
//! engine; when they end the agent is gone, whatever the reason, and everyone who waits is told.
//! Times that the agent reports are brought to this machine's monotonic clock: on the same kernel
//! they are the same, elsewhere the difference is measured. Wall clocks must agree, since nodes begin their layers by them.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use thiserror::Error;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tweedledum_core::capability::Resource;

use super::wire::{
    Answer, Clocks, Disk, Frames, Hello, Order, Ordered, Said, Waiting, Working, beat, encode,
};
use crate::agent::flood::{FloodReport, FloodSpec};
use crate::agent::operator;
use crate::agent::request::{Check, PingAt, PingEvery, Poll};
use crate::clock::{monotonic_ns, unix_ns};
use crate::observe::{NodeName, Observation, excerpt};
use crate::substrate::cgroup::Share;
use crate::substrate::process::identity::boot_id;

/// How long an agent may take for what needs no waiting: it is one round trip through the engine,
/// some milliseconds, on a host that may be busy.
const ANSWER_BOUND: Duration = Duration::from_secs(10);
/// How long an agent may take for each source of a flood that it makes ready: some 160 µs were measured on a busy host, and
/// floods of other pods are made ready at the same time.
const SOURCE_BOUND: Duration = Duration::from_millis(2);
/// Orders that may wait to be written.
const CHANNEL: usize = 64;
/// How often the clocks are compared where they differ; the shortest round trip counts.
const CLOCK_TRIES: usize = 5;
/// A wall clock may be off by a layer divided by this, as much as it may step before a layer is void.
const WALL_OFF: u32 = 5;
/// What an agent says on its standard error is kept up to here, for the reason of its death.
const LAST_WORDS: usize = 2048;

/// How long the end of a dead agent's stream may take to come.
const GONE_BOUND: Duration = Duration::from_secs(1);

/// Why an agent did not do something.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LinkError {
    /// It is gone.
    #[error("the agent of {node} is gone: {why}")]
    Gone {
        /// Whose.
        node: String,
        /// What is known of it.
        why: String,
    },
    /// It would not.
    #[error("the agent of {node}: {why}")]
    Refused {
        /// Whose.
        node: String,
        /// Its reason.
        why: String,
    },
    /// It said nothing.
    #[error("the agent of {node} gave no answer within {bound:?}")]
    Silent {
        /// Whose.
        node: String,
        /// The time.
        bound: Duration,
    },
    /// Its machine has another time of day.
    #[error(
        "the wall clock of the engine's machine is {off:?} (give or take {error:?}) {way} this machine's, as the agent of \
         {node} says: a layer lasts {layer:?}, and nodes begin their layers by that clock; synchronise the clocks of both \
         machines, as with NTP"
    )]
    WallClock {
        /// Whose.
        node: String,
        /// By how much.
        off: Duration,
        /// By how much that may be wrong.
        error: Duration,
        /// `ahead of` or `behind`.
        way: &'static str,
        /// How long a layer is.
        layer: Duration,
    },
    /// It answered something else.
    #[error("the agent of {node} answered something else than asked; this is a bug of the harness")]
    Other {
        /// Whose.
        node: String,
    },
}

/// A piece of a container's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Of its standard output.
    Out(Bytes),
    /// Of its standard error.
    Err(Bytes),
    /// Of its standard output, but said in an earlier life.
    Former(Bytes),
}

/// A container's output.
pub(crate) type Output = Pin<Box<dyn Stream<Item = io::Result<Piece>> + Send>>;
/// A container's input.
pub(crate) type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// A link to an agent. A handle that can be cloned; the last one that is dropped closes it.
#[derive(Clone, Debug)]
pub struct AgentLink(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    node: NodeName,
    next: AtomicU64,
    orders: mpsc::Sender<Vec<u8>>,
    shared: Arc<Shared>,
    gone: watch::Receiver<Option<String>>,
    _tasks: Mutex<JoinSet<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting<Answer>>,
    /// What is to be added to the agent's clock to get this one's.
    offset_ns: AtomicI64,
    /// How far the agent's wall clock is ahead of this one's, and by how much that may be wrong.
    wall: Mutex<(i64, Duration)>,
    /// How late the agent said it was at worst since that was asked here.
    late_ns: AtomicU64,
    /// When it was heard last, on this machine's clock.
    heard_ns: AtomicU64,
    /// How often it is to be heard; 0 while it was not asked to tell how late it is.
    beat_ns: AtomicU64,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting<Answer>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wall(&self) -> MutexGuard<'_, (i64, Duration)> {
        self.wall.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lateness(&self, now_ns: u64) -> Duration {
        let said_ns = self.late_ns.swap(0, Ordering::Relaxed);
        let silent_ns = match self.beat_ns.load(Ordering::Relaxed) {
            0 => 0,
            every_ns => {
                let heard_ns = self.heard_ns.load(Ordering::Relaxed);
                now_ns.saturating_sub(heard_ns).saturating_sub(every_ns)
            }
        };
        Duration::from_nanos(said_ns.max(silent_ns))
    }

    fn here(&self, there_ns: u64) -> u64 {
        there_ns.saturating_add_signed(self.offset_ns.load(Ordering::Relaxed))
    }
}

/// Forgets an order however its future ends.
struct Forget<'a>(&'a Shared, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.waiting().remove(&self.1);
    }
}

impl AgentLink {
    /// Takes up the streams of an agent. What it sees goes to `seen`.
    pub(crate) fn open(
        node: &NodeName,
        input: Input,
        output: Output,
        seen: mpsc::Sender<Observation>,
    ) -> Self {
        let (orders, to_write) = mpsc::channel(CHANNEL);
        let (tell_gone, gone) = watch::channel(None);
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(write_orders(to_write, input));
        tasks.spawn(read_answers(
            NodeName::clone(node),
            output,
            Arc::clone(&shared),
            seen,
            tell_gone,
        ));
        Self(Arc::new(Inner {
            node: NodeName::clone(node),
            next: AtomicU64::new(1),
            orders,
            shared,
            gone,
            _tasks: Mutex::new(tasks),
        }))
    }

    /// Greets the agent and compares clocks.
    pub(crate) async fn greet(&self, hello: Hello, bound: Duration) -> Result<(), LinkError> {
        let Answer::Clock(clocks) = self.ask(Order::Hello(hello), bound).await? else {
            return Err(self.other());
        };
        if boot_id().is_ok_and(|own| own == clocks.boot) {
            return Ok(());
        }
        let mut best = Duration::MAX;
        for _ in 0..CLOCK_TRIES {
            let (asked_ns, asked_unix_ns) = (monotonic_ns(), unix_ns());
            let Answer::Clock(Clocks {
                monotonic_ns: there,
                unix_ns: unix_there,
                ..
            }) = self.ask(Order::Clock, ANSWER_BOUND).await?
            else {
                return Err(self.other());
            };
            let took = Duration::from_nanos(monotonic_ns().saturating_sub(asked_ns));
            if took < best {
                best = took;
                let half_ns = crate::observe::duration_ns(took / 2);
                let here = asked_ns.saturating_add(half_ns);
                let offset = i128::from(here) - i128::from(there);
                let offset = i64::try_from(offset).unwrap_or(0);
                self.0.shared.offset_ns.store(offset, Ordering::Relaxed);
                let unix_here = asked_unix_ns.saturating_add(half_ns);
                let ahead = i128::from(unix_there) - i128::from(unix_here);
                // What does not fit is centuries.
                let ahead = i64::try_from(ahead).unwrap_or(i64::MAX);
                *self.0.shared.wall() = (ahead, took / 2);
            }
        }
        Ok(())
    }

    /// Has the agent measure from now on how late it is itself, in layers of this length; see
    /// [`lateness`](Self::lateness). Refuses where the agent's wall clock is off by too much of a layer.
    pub async fn keep_time(&self, layer: Duration) -> Result<(), LinkError> {
        self.check_wall(layer)?;
        self.done(Order::KeepTime { layer }).await?;
        let every = crate::observe::duration_ns(beat(layer));
        self.0.shared.beat_ns.store(every, Ordering::Relaxed);
        Ok(())
    }

    fn check_wall(&self, layer: Duration) -> Result<(), LinkError> {
        let (ahead_ns, error) = *self.0.shared.wall();
        let off = Duration::from_nanos(ahead_ns.unsigned_abs());
        if off <= layer / WALL_OFF {
            return Ok(());
        }
        Err(LinkError::WallClock {
            node: self.0.node.to_string(),
            off,
            error,
            way: if ahead_ns > 0 { "ahead of" } else { "behind" },
            layer,
        })
    }

    /// How late the agent was at worst since this was asked last: what it said, or for how long it
    /// should have said something and did not.
    pub fn lateness(&self) -> Duration {
        self.0.shared.lateness(monotonic_ns())
    }

    /// Waits until the node is ready; returns how long that took.
    pub async fn until_ready(&self, check: Check, bound: Duration) -> Result<Duration, LinkError> {
        match self
            .ask(Order::Ready { check, bound }, bound + ANSWER_BOUND)
            .await?
        {
            Answer::Ready(took) => Ok(took),
            _ => Err(self.other()),
        }
    }

    /// Polls these signals and pings the node from now on, in place of what was watched before.
    pub async fn watch(&self, polls: Vec<Poll>, ping: Option<PingEvery>) -> Result<(), LinkError> {
        self.done(Order::Watch { polls, ping }).await
    }

    /// Pings the node once, from a socket of its own; the time of its answer, if one came.
    pub async fn ping(
        &self,
        target: PingAt,
        bound: Duration,
    ) -> Result<Option<Duration>, LinkError> {
        match self
            .ask(Order::Ping { target, bound }, bound + ANSWER_BOUND)
            .await?
        {
            Answer::Ping(rtt) => Ok(rtt),
            _ => Err(self.other()),
        }
    }

    /// Gives a PoET its operator's order; what came of it.
    pub async fn operate(
        &self,
        order: operator::Order,
        bound: Duration,
    ) -> Result<operator::Obeyed, LinkError> {
        // The order is given within one bound and its effect looked for within another.
        match self
            .ask(Order::Operate { order, bound }, bound * 2 + ANSWER_BOUND)
            .await?
        {
            Answer::Obeyed(obeyed) => Ok(obeyed),
            _ => Err(self.other()),
        }
    }

    /// Opens a flood's sockets and builds its datagrams. `flood` names it on this link.
    pub async fn prepare_flood(
        &self,
        flood: u32,
        dialect: &str,
        spec: FloodSpec,
    ) -> Result<(), LinkError> {
        let bound = ANSWER_BOUND + SOURCE_BOUND * spec.sources;
        let order = Order::PrepareFlood {
            flood,
            dialect: dialect.to_owned(),
            spec,
        };
        match self.ask(order, bound).await? {
            Answer::Done => Ok(()),
            _ => Err(self.other()),
        }
    }

    /// Sends a prepared flood, at this moment of this machine's monotonic clock, and waits until
    /// all is sent within `bound`. Its ports stay open.
    pub async fn start_flood(
        &self,
        flood: u32,
        at_ns: u64,
        bound: Duration,
    ) -> Result<FloodReport, LinkError> {
        let offset = self.0.shared.offset_ns.load(Ordering::Relaxed);
        let order = Order::StartFlood {
            flood,
            at_ns: at_ns.saturating_add_signed(-offset),
        };
        match self.ask(order, bound).await? {
            Answer::Flood(report) => Ok(*report),
            _ => Err(self.other()),
        }
    }

    /// Stops a flood and waits until its ports are closed; `None` if it was never started.
    pub async fn stop_flood(&self, flood: u32) -> Result<Option<FloodReport>, LinkError> {
        match self.ask(Order::StopFlood { flood }, ANSWER_BOUND).await? {
            Answer::Flood(report) => Ok(Some(*report)),
            Answer::Done => Ok(None),
            _ => Err(self.other()),
        }
    }

    /// Takes this much of the data volume, so that only the rest is left to the node; 0 gives all
    /// back. What the node holds now is taken as it gives it back.
    pub async fn ballast(&self, bytes: u64) -> Result<Disk, LinkError> {
        self.disk_after(Order::Ballast { bytes }).await
    }

    /// How full the data volume is.
    pub async fn disk(&self) -> Result<Disk, LinkError> {
        self.disk_after(Order::Disk).await
    }

    /// Tries to allocate this much at once in the data volume, gives it back, and returns the
    /// error number, `None` if it went well. What is asked for is free for the node only
    /// before and after.
    pub async fn probe_disk(&self, bytes: u64) -> Result<Option<i32>, LinkError> {
        match self.ask(Order::ProbeDisk { bytes }, ANSWER_BOUND).await? {
            Answer::Probe(errno) => Ok(errno),
            _ => Err(self.other()),
        }
    }

    /// The processes of the pod but the agent's own, by their number there, and how long each has
    /// worked.
    pub async fn working(&self) -> Result<BTreeMap<i32, Working>, LinkError> {
        match self.ask(Order::Working, ANSWER_BOUND).await? {
            Answer::Working(working) => Ok(working),
            _ => Err(self.other()),
        }
    }

    /// What the kernel holds the node to, as the control group of one of its processes has it.
    pub async fn share(&self, resource: Resource) -> Result<Share, LinkError> {
        match self.ask(Order::Share { resource }, ANSWER_BOUND).await? {
            Answer::Share(share) => Ok(share),
            _ => Err(self.other()),
        }
    }

    /// Waits until the agent is gone; returns what is known of it. May be dropped at any time.
    pub async fn gone(&self) -> String {
        let mut gone = self.0.gone.clone();
        let told = gone
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|why| why.clone());
        told.unwrap_or_else(|| "its link was closed".to_owned())
    }

    /// How many processes its kernel has killed for lack of memory so far, where that counts them. Whoever answers is not
    /// gone; one that says nothing within a second is not known to be.
    pub(crate) async fn oom_kills(&self) -> Result<Option<u64>, LinkError> {
        match self.ask(Order::Clock, GONE_BOUND).await? {
            Answer::Clock(clocks) => Ok(clocks.oom_kills),
            _ => Err(self.other()),
        }
    }

    async fn done(&self, order: Order) -> Result<(), LinkError> {
        match self.ask(order, ANSWER_BOUND).await? {
            Answer::Done => Ok(()),
            _ => Err(self.other()),
        }
    }

    async fn disk_after(&self, order: Order) -> Result<Disk, LinkError> {
        match self.ask(order, ANSWER_BOUND).await? {
            Answer::Disk(disk) => Ok(disk),
            _ => Err(self.other()),
        }
    }

    fn other(&self) -> LinkError {
        LinkError::Other {
            node: self.0.node.to_string(),
        }
    }

    async fn ask(&self, order: Order, bound: Duration) -> Result<Answer, LinkError> {
        let node = || self.0.node.to_string();
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.0.shared.waiting().insert(id, answer);
        let _forget = Forget(&self.0.shared, id);
        let frame = encode(&Ordered { id, order }).map_err(|error| LinkError::Refused {
            node: node(),
            why: error.to_string(),
        })?;
        let asked = async {
            // A writer that ended has told why, or is about to.
            let _ = self.0.orders.send(frame).await;
            tokio::select! {
                biased;
                Ok(answer) = answered => answer.map_err(|why| LinkError::Refused { node: node(), why }),
                why = self.gone() => Err(LinkError::Gone { node: node(), why }),
            }
        };
        match tokio::time::timeout(bound, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(LinkError::Silent {
                node: node(),
                bound,
            }),
        }
    }
}

async fn write_orders(mut to_write: mpsc::Receiver<Vec<u8>>, mut input: Input) {
    while let Some(frame) = to_write.recv().await {
        if input.write_all(&frame).await.is_err() || input.flush().await.is_err() {
            // The reader sees the same end and tells it.
            return;
        }
    }
    let _ = input.shutdown().await;
}

async fn read_answers(
    node: NodeName,
    mut output: Output,
    shared: Arc<Shared>,
    seen: mpsc::Sender<Observation>,
    gone: watch::Sender<Option<String>>,
) {
    let mut frames = Frames::default();
    let mut words = Vec::new();
    let why = 'reading: loop {
        match output.next().await {
            None => break "its stream ended".to_owned(),
            Some(Err(error)) => break format!("its stream broke: {error}"),
            Some(Ok(Piece::Err(bytes))) => {
                words.extend_from_slice(&bytes);
                words.drain(..words.len().saturating_sub(LAST_WORDS));
                continue;
            }
            Some(Ok(Piece::Out(bytes) | Piece::Former(bytes))) => {
                shared.heard_ns.store(monotonic_ns(), Ordering::Relaxed);
                frames.feed(&bytes);
            }
        }
        loop {
            match frames.next() {
                Ok(None) => break,
                Ok(Some(Said::Answer { id, result })) => {
                    if let Some(waiting) = shared.waiting().remove(&id) {
                        // Who asked may have given up.
                        let _ = waiting.send(result);
                    }
                }
                Ok(Some(Said::Saw(sight))) => {
                    let observation = sight.of_node(&node, |there| shared.here(there));
                    // Only a run that is over has no reader.
                    let _ = seen.send(observation).await;
                }
                Ok(Some(Said::Late(late))) => {
                    let late_ns = crate::observe::duration_ns(late);
                    shared.late_ns.fetch_max(late_ns, Ordering::Relaxed);
                }
                Ok(Some(Said::Broken(why))) => {
                    break 'reading format!("it could not read on: {why}");
                }
                Err(error) => break 'reading error.to_string(),
            }
        }
    };
    let words = excerpt(&String::from_utf8_lossy(&words), 400);
    let why = if words.is_empty() {
        why
    } else {
        format!("{why}; its last words: {words}")
    };
    gone.send_replace(Some(why));
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
