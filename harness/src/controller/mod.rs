//! The one event loop of a run: whatever happens becomes an event for the state machine, and what it answers is done.
//!
//! The controller decides nothing. Policy is in `tweedledum_core::run`, so it can be tested in virtual time; here are the
//! clock and the tasks. Everything concurrent lives in one `JoinSet` and reports into one bounded channel, so nothing
//! outlives the run. Where nodes live is behind the traits of [`substrate`](crate::substrate); nothing here knows which
//! substrates there are. To carry out a new action, see `steps`; to watch something new, see `attach`.

mod attach;
mod disks;
mod floods;
mod happened;
mod layers;
mod limits;
mod network;
mod steps;
mod tasks;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{FutureExt as _, LocalBoxFuture};
use tokio::sync::mpsc;
use tweedledum_core::history::read;
use tweedledum_core::history::{Body, FULL, Record, SignalValue};
use tweedledum_core::judge::{self, Judge};
use tweedledum_core::launch;
use tweedledum_core::plan::Plan;
use tweedledum_core::plan::model::{Control, Release};
use tweedledum_core::run::{Command, Event, Machine};
use tweedledum_core::schedule;
use tweedledum_core::verdict::Verdict;

use crate::agent::Dialect;
use crate::clock::{instant_at, monotonic_ns};
use crate::observe::{Observation, Value};
use crate::store::{FullNote, HistoryError, HistoryWriter, ReleaseDirectory, read_written};
use crate::substrate::{Executables, Ground, Identities, Request};
use crate::supervise::{GuardEvent, GuardEvents, RunContext};

use happened::Happened;
use network::Site;

/// Messages in flight to the loop. At 100 nodes a layer brings some 1,000 of them; a full channel holds observers back,
/// it loses nothing.
const CHANNEL: usize = 4096;

/// A history may grow to this size: at 250 ms layers and 20 nodes, some six hours.
const HISTORY_BYTES_MAX: u64 = 1 << 30;

/// One release to run a plan on.
#[derive(Debug)]
pub struct Job<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The release under test.
    pub release: &'a Release,
    /// What the run must give, when it is a control.
    pub control: Option<&'a Control>,
    /// Seed of everything random.
    pub seed: u64,
    /// Network id of the nodes.
    pub netid: u32,
    /// Where relative paths of executables start: the plan's directory.
    pub base: PathBuf,
    /// The protocols that the agent speaks.
    pub dialects: &'a [Arc<dyn Dialect>],
    /// The run gives up after this much wall time, and so does making ready for it.
    pub timeout: Duration,
    /// Where nodes live.
    pub ground: &'a dyn Ground,
    /// What nodes are started from, as it was when the run began.
    pub executables: Executables,
}

/// The supervised process that runs happen in.
#[derive(Debug)]
pub struct Host {
    /// What the stub told.
    pub context: RunContext,
    /// What the guards tell.
    pub events: GuardEvents,
}

/// Why a run could not be conducted to an end. The guards still remove everything.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The history.
    #[error("cannot write the history: {0}; is the disk full?")]
    History(#[from] HistoryError),
    /// The run directory.
    #[error("cannot prepare the run directory: {0}")]
    Store(#[from] crate::store::StoreError),
    /// Files and sockets of the harness itself.
    #[error("the harness itself failed: {0}")]
    System(#[from] std::io::Error),
    /// What was just written cannot be judged.
    #[error("the history cannot be judged: {0}")]
    Judge(#[from] read::ReadError),
    /// Where nodes live.
    #[error("{0}")]
    Substrate(String),
    /// Where nodes live took too long.
    #[error(
        "the places of the nodes were not ready after {0:?}; see whether the engine answers and what it is pulling, or give \
         it more with --timeout"
    )]
    NotReady(Duration),
    /// The substrate has no place for a node.
    #[error("node {0} has no place on the substrate; this is a bug of the harness")]
    NoPlace(String),
}

/// Runs a plan on one release to its end, and judges what was written. `on_record` sees every record as it is written.
pub fn run<'a>(
    host: &'a mut Host,
    job: &'a Job<'a>,
    directory: &'a ReleaseDirectory,
    on_record: &'a mut dyn FnMut(&Record),
) -> LocalBoxFuture<'a, Result<Verdict, RunError>> {
    async move {
        let (happened, inbox) = mpsc::channel(CHANNEL);
        let (saw, observations) = mpsc::channel(CHANNEL);
        let schedule = schedule::resolve(job.plan, job.seed);
        let seats = network::seats(job, &schedule, directory)?;
        let directories = seats
            .iter()
            .map(|seat| (seat.node.clone(), seat.directory.clone()))
            .collect();
        let request = Request {
            seats,
            base: job.base.clone(),
            executables: job.executables.clone(),
            layer: Duration::from_nanos(job.plan.calendar.layer_ns),
            dialects: job.dialects.to_vec(),
            identities: Identities {
                watcher: launch::identity(job.seed, "the agent"),
                prober: launch::identity(job.seed, "the prober"),
                netid: job.netid,
            },
            saw: saw.clone(),
        };
        let opened = tokio::time::timeout(job.timeout, job.ground.open(request)).await;
        let substrate = opened.map_err(|_| RunError::NotReady(job.timeout))?;
        let substrate = substrate.map_err(RunError::Substrate)?;
        let site = Site::prepare(host, job, schedule, substrate.as_ref(), directories)?;
        let path = directory.history();
        let history = HistoryWriter::create(&path, HISTORY_BYTES_MAX, full_line)?;
        let machine = Machine::new(
            site.header.clone(),
            &site.sources(),
            slowest_stop_ns(job.plan),
            Judge::new(&site.header)?,
        );
        let began_ns = site.began_ns;
        let watch = watch::Watch::new(site, substrate, happened, &saw)?;
        let give_up = tokio::time::Instant::now() + job.timeout;
        let mut running = Running {
            machine,
            history,
            watch,
            inbox,
            observations,
            began_ns,
            give_up: Some(give_up),
        };
        let ended = running.conduct(&mut host.events, on_record).await;
        running.watch.close().await;
        ended?;
        // The verdict is that of the file, so that judging it again cannot give another; but a file that somebody else wrote
        // into says nothing.
        let lines = read_written(&path, running.history.written())?;
        Ok(judge::judge_history(lines)?)
    }
    .boxed_local()
}

/// The longest that a node may take to stop.
fn slowest_stop_ns(plan: &Plan) -> u64 {
    let graces = plan.roles.values().map(|role| role.stop.grace_ns);
    graces.max().unwrap_or(0)
}

/// A run that is going on.
struct Running {
    machine: Machine<Judge>,
    history: HistoryWriter,
    watch: watch::Watch,
    inbox: mpsc::Receiver<Happened>,
    observations: mpsc::Receiver<Observation>,
    began_ns: u64,
    give_up: Option<tokio::time::Instant>,
}

impl Running {
    async fn conduct(
        &mut self,
        guards: &mut GuardEvents,
        on_record: &mut dyn FnMut(&Record),
    ) -> Result<(), RunError> {
        let mut wake_ns = u64::MAX;
        let mut event = Event::Begun;
        loop {
            let now_ns = monotonic_ns().saturating_sub(self.began_ns);
            let mut full = None;
            for command in self.machine.on(now_ns, event) {
                match command {
                    Command::Record(mut record) => {
                        if let Body::End(end) = &mut record.body {
                            end.digest = Some(self.history.written().sha256);
                        }
                        on_record(&record);
                        match self.history.append(&record) {
                            Ok(()) => {}
                            Err(error @ HistoryError::Full(_)) => full = Some(error.to_string()),
                            Err(error) => return Err(error.into()),
                        }
                    }
                    // Its record did not find room, and no fault takes effect before its intent is on disk. What ends one does.
                    Command::Prepare(step) | Command::Carry(step)
                        if full.is_some() && step.begins() => {}
                    Command::Sync => self.history.sync()?,
                    Command::Spawn {
                        node,
                        incarnation,
                        ready_by_ns,
                    } => {
                        self.watch.spawn(&node, incarnation, ready_by_ns);
                    }
                    Command::Prepare(step) => self.watch.prepare(&step),
                    Command::Carry(step) => self.watch.carry(step),
                    Command::Drop(step) => self.watch.drop_prepared(step),
                    Command::WakeAt(ns) => wake_ns = ns,
                    Command::TearDown => self.watch.tear_down(),
                    Command::Finish => return Ok(()),
                }
            }
            event = match full {
                Some(why) => Event::SubstrateFailed { why },
                None => self.next(&mut wake_ns, guards).await,
            };
        }
    }

    /// The next event: what is due comes first, then what guards say, then what was seen before what came of it (a panic
    /// is logged before the process is gone).
    async fn next(&mut self, wake_ns: &mut u64, guards: &mut GuardEvents) -> Event {
        let wake =
            tokio::time::Instant::from_std(instant_at(self.began_ns.saturating_add(*wake_ns)));
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(wake), if *wake_ns != u64::MAX => {
                *wake_ns = u64::MAX;
                Event::Tick
            }
            guard = guards.next() => match guard {
                GuardEvent::Interrupt { signal } => Event::Interrupted { signal },
                GuardEvent::GuardDied { guard } => Event::SubstrateFailed { why: format!("the {guard} died") },
            },
            () = until(self.give_up) => {
                self.give_up = None;
                Event::TimedOut
            }
            Some(observation) = self.observations.recv() => seen(observation),
            Some(happened) = self.inbox.recv() => self.watch.take(happened),
            failed = self.watch.failed() => failed,
        }
    }
}

async fn until(instant: Option<tokio::time::Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// The line that stands where a history reached its bound; the missing `end` behind it is what keeps the run from passing.
fn full_line(note: FullNote) -> serde_json::Value {
    serde_json::json!({ "seq": note.records, "t_ns": 0, "kind": FULL, "bytes": note.bytes, "limit": note.limit })
}

/// An observation as an event.
fn seen(observation: Observation) -> Event {
    match observation {
        Observation::Event(log) => {
            let mut fields: BTreeMap<String, serde_json::Value> = log.fields.into_iter().collect();
            fields.remove("event");
            Event::Logged {
                node: log.node.to_string(),
                former: log.former,
                event: log.event,
                fields,
            }
        }
        Observation::Sample(sample) => match signal_value(&sample.value) {
            Some(value) => Event::Sampled {
                node: sample.node.to_string(),
                signal: sample.signal.to_string(),
                value,
            },
            None => Event::Unreadable {
                node: sample.node.to_string(),
                source: sample.signal.to_string(),
                signals: vec![sample.signal.to_string()],
                why: format!(
                    "{:?} is neither a whole number from 0 nor a text",
                    sample.value
                ),
                answered: true,
                excused: false,
            },
        },
        Observation::Gap(gap) => Event::Unreadable {
            node: gap.node.to_string(),
            source: gap.url.to_string(),
            signals: gap.signals.iter().map(ToString::to_string).collect(),
            why: gap.why,
            answered: gap.answered,
            excused: gap.excused,
        },
        Observation::Ping(ping) => {
            let rtt_us = ping
                .rtt
                .map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX));
            Event::Pinged {
                node: ping.node.to_string(),
                rtt_us,
            }
        }
    }
}

/// A polled value as a signal's value; metrics are floats on the wire also where they count.
fn signal_value(value: &Value) -> Option<SignalValue> {
    match value {
        Value::Bool(flag) => Some(SignalValue::Number(u64::from(*flag))),
        Value::Int(number) => u64::try_from(*number).ok().map(SignalValue::Number),
        Value::Float(number) => {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked to be a whole number below 2^53"
            )]
            let whole =
                (number.fract() == 0.0 && (0.0..9e15).contains(number)).then_some(*number as u64);
            whole.map(SignalValue::Number)
        }
        Value::Text(text) => Some(match text.parse() {
            Ok(number) => SignalValue::Number(number),
            Err(_) => SignalValue::Text(text.clone()),
        }),
    }
}
