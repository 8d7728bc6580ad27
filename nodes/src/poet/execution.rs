//! The work of one round, spread over its time, from the first label to the proof.
//!
//! Labels are computed on the thread that serves, in batches of at most two milliseconds with sleeps
//! in between; checkpoints are written as the work goes, and once more when the process is told to
//! stop. Whatever goes wrong fails the round and nothing else: its directory stays as it is, for a
//! restart to go on from. This module sends nothing.

use super::hash::Node;
use super::proof::{Proof, ProveError};
use super::schedule::{Pace, Step};
use super::store::{RoundDir, StoreError};
use super::work::{Progress, ResumeError, WorkError, Worker};
use super::{Execution, RoundId, RoundState, told};
use crate::runtime::clock;
use ed25519_dalek::SigningKey;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// The clock is asked again this often at least, since it may be set while we wait.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Why a round came to nothing.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) disk_full: bool,
    pub(crate) error: String,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self {
            disk_full: error.is_disk_full(),
            error: told(&error),
        }
    }
}

impl From<WorkError> for Failure {
    fn from(error: WorkError) -> Self {
        Self {
            disk_full: error.is_disk_full(),
            error: told(&error),
        }
    }
}

impl From<ResumeError> for Failure {
    fn from(error: ResumeError) -> Self {
        Self {
            disk_full: false,
            error: told(&error),
        }
    }
}

impl From<ProveError> for Failure {
    fn from(error: ProveError) -> Self {
        Self {
            disk_full: false,
            error: told(&error),
        }
    }
}

/// How a round's work is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// When it is to be finished.
    pub(crate) due_ns: u64,
    /// Labels per second that this host computes.
    pub(crate) rate: f64,
    /// Upper layers that are not written.
    pub(crate) memory: u32,
    /// Labels from one checkpoint to the next.
    pub(crate) checkpoint: u64,
}

/// A round whose members are known.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) number: RoundId,
    pub(crate) dir: RoundDir,
    pub(crate) opened_ms: u64,
    pub(crate) execution: Execution,
}

impl Round {
    /// Writes where the round stands.
    pub(crate) fn save(&self) -> Result<(), StoreError> {
        self.dir.save(&RoundState {
            opened_ms: self.opened_ms,
            execution: Some(self.execution.clone()),
        })
    }

    /// Computes what is left of the work and returns its root; none if the process is told to stop
    /// first, in which case the work goes on after a restart from where it stopped.
    pub(crate) async fn work(
        &mut self,
        plan: Plan,
        stopping: &mut watch::Receiver<bool>,
    ) -> Result<Option<Node>, Failure> {
        if let Some(root) = self.execution.root {
            return Ok(Some(root));
        }
        let params = self.execution.params;
        let from = &self.execution.checkpoint;
        let layers = self.dir.layers(params, plan.memory, from)?;
        let statement = self.execution.members.statement();
        let mut worker = Worker::new(statement, params, from, layers)?;
        let mut written = from.next_leaf;
        let pace = Pace::new(
            clock::unix_ns(),
            plan.due_ns,
            written,
            params.leaves(),
            plan.rate,
        );
        while !*stopping.borrow() {
            match pace.step(worker.next_leaf(), clock::unix_ns()) {
                Step::Wait(time) => {
                    // A sender that is gone has told all it will.
                    let _ = timeout(time.min(LOOK_AGAIN), stopping.changed()).await;
                }
                Step::Labels(labels) => {
                    if let Progress::Done { root } = worker.run(labels)? {
                        self.execution.checkpoint = worker.checkpoint()?;
                        self.execution.root = Some(root);
                        self.save()?;
                        return Ok(Some(root));
                    }
                    if worker.next_leaf() - written >= plan.checkpoint {
                        self.execution.checkpoint = worker.checkpoint()?;
                        self.save()?;
                        written = worker.next_leaf();
                    }
                    // Overdue work does not wait, and others must get the thread all the same.
                    tokio::task::yield_now().await;
                }
            }
        }
        self.execution.checkpoint = worker.checkpoint()?;
        self.save()?;
        Ok(None)
    }

    /// Makes the proof of finished work out of the layers on disk.
    pub(crate) fn prove(&self, memory: u32, key: &SigningKey) -> Result<Proof, Failure> {
        let Execution {
            members, params, ..
        } = &self.execution;
        let tree = self.dir.tree(members.statement(), *params, memory)?;
        Ok(Proof::make(&tree, members.clone(), self.number, key)?)
    }
}
