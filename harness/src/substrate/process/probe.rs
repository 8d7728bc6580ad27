//! Short commands that a role names, such as its readiness check: run to their end, with a bound.
//!
//! They are started exactly as nodes are, so guards hold them and nothing of them stays. Output
//! beyond a limit is read and dropped, never waited on.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use thiserror::Error;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;

use super::NodePipes;
use super::node::Exit;
use super::spawner::{NodeSpec, SpawnError, Spawner};

/// How much of each stream is kept: enough for a reason, and bounded.
const KEEP_BYTES: usize = 16 * 1024;
/// How much is read at once.
const CHUNK_BYTES: usize = 8 * 1024;

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Its exit.
    pub exit: Exit,
    /// The beginning of its standard output.
    pub stdout: Vec<u8>,
    /// The beginning of its standard error.
    pub stderr: Vec<u8>,
}

/// Why a command gave no answer.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// It was not started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// It did not end in time, and was killed.
    #[error("`{name}` did not end within {} ms and was killed; it must answer and exit", .bound.as_millis())]
    TooSlow {
        /// The command's name.
        name: String,
        /// The bound.
        bound: Duration,
    },
    /// The system refused something.
    #[error("cannot run `{name}`: {source}")]
    System {
        /// The command's name.
        name: String,
        /// Its reason.
        source: io::Error,
    },
}

impl Spawner {
    /// Runs a command to its end, at most for `bound` after its start. Dropping the future leaves
    /// the command to [`teardown`](Spawner::teardown).
    pub async fn run(&self, spec: &NodeSpec, bound: Duration) -> Result<Finished, ProbeError> {
        let system = |source| ProbeError::System {
            name: spec.name.clone(),
            source,
        };
        let (node, NodePipes { stdout, stderr, .. }) = self.start(spec).await?;
        let mut stdout = Stream::new(stdout).map_err(system)?;
        let mut stderr = Stream::new(stderr).map_err(system)?;
        let ended = async {
            // A child of the command may hold its streams open: its own exit is what counts.
            let reading = async { tokio::join!(stdout.read(), stderr.read()) };
            tokio::select! {
                exit = node.exited() => exit,
                // Both streams are closed, or broken, which the exit explains.
                _ = reading => node.exited().await,
            }
        };
        let finished = tokio::time::timeout(bound, ended).await;
        if finished.is_err() {
            node.kill().await.map_err(system)?;
        }
        self.retire(&[&node])
            .await
            .map_err(|error| system(io::Error::other(error)))?;
        let exit = finished.map_err(|_| ProbeError::TooSlow {
            name: spec.name.clone(),
            bound,
        })?;
        Ok(Finished {
            exit,
            stdout: stdout.finish(),
            stderr: stderr.finish(),
        })
    }
}

struct Stream {
    pipe: Receiver,
    kept: Vec<u8>,
}

impl Stream {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            pipe: Receiver::from_owned_fd(fd)?,
            kept: Vec::new(),
        })
    }

    /// Reads to the end.
    async fn read(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let length = self.pipe.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            self.keep(buffer.get(..length).unwrap_or_default());
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = KEEP_BYTES.saturating_sub(self.kept.len()).min(bytes.len());
        self.kept
            .extend_from_slice(bytes.get(..room).unwrap_or_default());
    }

    /// What was kept, with what still lies in the pipe: the exit may be seen before the last words.
    fn finish(mut self) -> Vec<u8> {
        let mut buffer = vec![0; CHUNK_BYTES];
        while self.kept.len() < KEEP_BYTES {
            match self.pipe.try_read(&mut buffer) {
                Ok(length) if length > 0 => self.keep(buffer.get(..length).unwrap_or_default()),
                _ => break,
            }
        }
        self.kept
    }
}
