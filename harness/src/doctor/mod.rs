//! `doctor`: whether faults can be carried out and proved on this machine, found by doing it.
//!
//! Reading order: [`steps`] (all that is tried, as tables), [`tiers`] (where nodes can live and how each does what faults
//! need), [`report`] (what was found), then who tries: `shared`, `isolated`, `containers`. `child` and [`scratch`] are what it
//! is tried on. Which fault needs what is in core ([`tweedledum_core::capability`]).
//!
//! Nothing is concluded from versions or settings where it can be tried. Scratch children end with their socket, whoever is
//! killed; what is made on an engine is recorded first, removed at the end also after a failure, and by the next
//! examination if this one was killed.

mod child;
mod containers;
mod isolated;
mod namespaces;
mod record;
pub mod report;
pub mod scratch;
mod shared;
pub mod steps;
pub mod tiers;

use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::{FutureExt as _, LocalBoxFuture};
use tweedledum_core::substrate::SubstrateKind;

use crate::agent::Dialect;
use crate::substrate::docker::run::Words;
use crate::substrate::process::{Nonce, OwnExecutable, raise_nofile};
use report::{Outcome, Report, StepReport, TierReport, Tried, Trouble};
use steps::StepRow;
use tiers::{TIERS, Tier};

/// Version of the report's form.
const FORMAT: u32 = 1;

/// How long one step may take. The slowest, making a pod while the engine is busy, was seen to take 3 s.
const STEP_BOUND: Duration = Duration::from_mins(1);

/// How our own executable becomes what is needed, which only the command line knows.
#[derive(Debug, Clone)]
pub struct Kit {
    /// The words that make it call [`shim_main`](crate::substrate::process::shim_main) with those that follow.
    pub shim: Vec<OsString>,
    /// The words that make it call [`scratch::main`] with those that follow.
    pub scratch: Vec<String>,
    /// The words that make it an agent and a keeper.
    pub words: Words,
    /// What floods are made of.
    pub dialect: Arc<dyn Dialect>,
}

/// Whether to end after the step that is being tried. A handle that can be cloned.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Ends the examination before its next step; what was made is removed.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether that was asked.
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Tries every step of every tier of these substrates; `None` is all of them. `progress` is told what comes next.
pub fn examine<'a>(
    kit: &'a Kit,
    substrate: Option<SubstrateKind>,
    stop: &'a Stop,
    progress: &'a dyn Fn(&str),
) -> LocalBoxFuture<'a, io::Result<Report>> {
    async move {
        let (exe, nonce) = (OwnExecutable::open()?, Nonce::random()?);
        // Runs do so too; what that does not give fails where it is needed.
        if let Err(error) = raise_nofile() {
            tracing::warn!(%error, "the limit of open files stays");
        }
        let kernel = rustix::system::uname();
        let mut report = Report {
            format: FORMAT,
            nonce,
            kernel: kernel.release().to_string_lossy().into_owned(),
            tiers: Vec::new(),
            left: Vec::new(),
        };
        let asked = |tier: &&Tier| substrate.is_none_or(|substrate| tier.substrate == substrate);
        for tier in TIERS.iter().filter(asked) {
            let mut bench = Bench {
                tier,
                stop,
                progress,
                steps: Vec::new(),
            };
            match (tier.substrate, tier.built) {
                (SubstrateKind::Process, Ok(())) => {
                    shared::examine(&mut bench, kit, &exe, nonce).await;
                }
                (SubstrateKind::Process, Err(_)) => {
                    isolated::examine(&mut bench, kit, &exe, nonce).await;
                }
                (SubstrateKind::Docker, _) => {
                    let left = containers::examine(&mut bench, kit, &exe, nonce).await;
                    report.left.extend(left);
                }
            }
            report.tiers.push(TierReport::of(tier, bench.finish()));
        }
        Ok(report)
    }
    .boxed_local()
}

/// The steps of a tier as they are tried, in the order of its table.
struct Bench<'a> {
    tier: &'static Tier,
    stop: &'a Stop,
    progress: &'a dyn Fn(&str),
    steps: Vec<StepReport>,
}

impl Bench<'_> {
    /// The next row, unless all are done.
    fn next(&self) -> Option<&'static StepRow> {
        self.tier.steps.get(self.steps.len())
    }

    /// Why a row cannot be tried.
    fn in_the_way(&self, row: &StepRow) -> Option<String> {
        let mut rows = self.tier.steps.iter().zip(&self.steps);
        let failed = rows.find(|(other, step)| {
            row.after.contains(&other.step) && step.outcome != Outcome::Works
        });
        if let Some((other, _)) = failed {
            return Some(format!("not tried: it needs {}", other.name));
        }
        self.stop
            .asked()
            .then(|| "not tried: interrupted".to_owned())
    }

    /// Tries a row, which is the next, unless something is in its way.
    async fn attempt(&mut self, row: &'static StepRow, what: impl Future<Output = Tried>) {
        if let Some(why) = self.in_the_way(row) {
            self.steps.push(StepReport::untried(row, why));
            return;
        }
        (self.progress)(&format!("{}: {}", self.tier.name, row.name));
        let began = Instant::now();
        let tried = tokio::time::timeout(STEP_BOUND, what).await;
        let tried = tried.unwrap_or_else(|_| {
            let why = format!("not over after {} s", STEP_BOUND.as_secs());
            Err(Trouble::new(why))
        });
        self.steps.push(StepReport::of(row, tried, began.elapsed()));
    }

    /// Takes the outcome of a row that is tried in any case; `None` where there was nothing to try it on.
    fn conclude(&mut self, row: &'static StepRow, tried: Option<Tried>, took: Duration) {
        let step = if let Some(tried) = tried {
            StepReport::of(row, tried, took)
        } else {
            let why = self.in_the_way(row);
            let why = why.unwrap_or_else(|| "not tried: nothing was made".to_owned());
            StepReport::untried(row, why)
        };
        self.steps.push(step);
    }

    fn finish(self) -> Vec<StepReport> {
        self.steps
    }
}
