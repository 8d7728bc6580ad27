//! The one event loop of a run: whatever happens becomes an event for the state machine, and what it answers is done.
//!
//! The controller decides nothing. Policy is in `tweedledum_core::run`, so it can be tested in virtual time; here are the
//! clock, the processes and the sockets. Everything concurrent lives in one `JoinSet` and reports into one bounded
//! channel, so nothing outlives the run. To carry out a new action, see `steps`; to watch something new, see `watch`.

mod happened;
mod live;
mod network;
mod steps;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tweedledum_core::history::{Body, Ending, Record};
use tweedledum_core::judge::Verdict;
use tweedledum_core::plan::Plan;
use tweedledum_core::plan::model::{Control, Release};
use tweedledum_core::run::{Command, Event, Machine};

use crate::agent::Dialect;
use crate::observe::monotonic_ns;
use crate::store::{HistoryError, HistoryWriter, ReleaseDirectory};
use crate::substrate::process::{AddressBlocks, SpawnError, Spawner};
use crate::supervise::{GuardEvent, GuardEvents, RunContext, TEARDOWN_BOUND};

use happened::Happened;
use live::LiveJudge;
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
    /// The protocols that the agent speaks.
    pub dialects: &'a [Arc<dyn Dialect>],
    /// The run gives up after this much wall time.
    pub timeout: Duration,
    /// SHA-256 of each executable, by the path that the plan names it with.
    pub executables: BTreeMap<String, String>,
}

/// The place where runs happen: the supervised process, its guards and its addresses.
#[derive(Debug)]
pub struct Ground {
    /// What the stub told.
    pub context: RunContext,
    /// Starts nodes.
    pub spawner: Spawner,
    /// What the guards tell.
    pub events: GuardEvents,
    /// Addresses of nodes and agent.
    pub blocks: AddressBlocks,
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its verdict.
    pub verdict: Verdict,
    /// Why it ended.
    pub ending: Ending,
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
    /// More nodes than addresses.
    #[error("node {0} has no address: a run of the process substrate has at most 1,000 nodes")]
    NoAddress(String),
}

/// Runs a plan on one release to its end and judges it. `on_record` sees every record as it is written.
pub async fn run(
    ground: &mut Ground,
    job: &Job<'_>,
    directory: &ReleaseDirectory,
    on_record: &mut (dyn FnMut(&Record) + Send),
) -> Result<Outcome, RunError> {
    let site = Site::prepare(ground, job, directory)?;
    let mut history = HistoryWriter::create(&directory.history(), HISTORY_BYTES_MAX)?;
    let mut machine = Machine::new(site.header.clone(), &site.sources(), LiveJudge::new(&site.header));
    let (sender, mut inbox) = mpsc::channel(CHANNEL);
    let began_ns = site.began_ns;
    let mut watch = watch::Watch::new(site, ground.spawner.clone(), sender);
    let mut ending = Ending::Scheduled;
    let give_up = tokio::time::Instant::now() + job.timeout;
    let mut timed_out = false;
    let mut wake_ns = u64::MAX;
    let mut event = Event::Begun;
    loop {
        let now_ns = monotonic_ns().saturating_sub(began_ns);
        let mut finished = false;
        for command in machine.on(now_ns, event) {
            match command {
                Command::Record(record) => {
                    on_record(&record);
                    if let Body::End(end) = &record.body {
                        ending = end.why.clone();
                    }
                    history.append(&record)?;
                }
                Command::Sync => history.sync()?,
                Command::Spawn { node, incarnation, ready_by_ns } => {
                    watch.spawn(&node, incarnation, ready_by_ns);
                }
                Command::Prepare(step) => watch.prepare(&step),
                Command::Carry(step) => watch.carry(step),
                Command::WakeAt(ns) => wake_ns = ns,
                Command::TearDown => watch.tear_down(TEARDOWN_BOUND),
                Command::Finish => finished = true,
            }
        }
        if finished {
            break;
        }
        event = tokio::select! {
            guard = ground.events.next() => match guard {
                GuardEvent::Interrupt { signal } => Event::Interrupted { signal },
                GuardEvent::GuardDied { guard } => Event::SubstrateFailed { why: format!("{guard:?} died") },
            },
            happened = inbox.recv() => match happened {
                Some(happened) => watch.take(happened),
                // The watch holds a sender, so this cannot end before the run does.
                None => Event::Tick,
            },
            () = sleep_until(began_ns, wake_ns) => {
                wake_ns = u64::MAX;
                Event::Tick
            }
            () = tokio::time::sleep_until(give_up), if !timed_out => {
                timed_out = true;
                Event::TimedOut
            }
        };
    }
    watch.close().await;
    let verdict = machine.into_watch().finish();
    Ok(Outcome { verdict, ending })
}
