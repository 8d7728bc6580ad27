//! A controller of our own, with stub and watchdog around it as in any run, and processes to measure on it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use tokio::net::unix::pipe;
use tweedledum_harness::controller::Host;
use tweedledum_harness::substrate::process::{
    NodePipes, NodeProcess, NodeSpec, ProcessGround, Program, Spawner,
};
use tweedledum_harness::supervise::{TEARDOWN_BOUND, controller_enter};

use crate::Failure;

/// Addresses that are claimed, hence nodes that there can be.
const NODES_MAX: usize = 100;
/// A bound for what takes milliseconds, on a machine that does much else.
const SOON: Duration = Duration::from_secs(20);

/// Where processes are measured.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The supervised process that this is.
    pub(crate) host: Host,
    /// Where nodes live.
    pub(crate) ground: ProcessGround,
}

impl Stage {
    /// Becomes a controller, on the single-threaded runtime that the real one has, and does `work`.
    pub(crate) fn enter(
        work: impl AsyncFnOnce(&mut Self) -> Result<(), Failure>,
    ) -> Result<u8, Failure> {
        let entry = controller_enter()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let (context, guards, events) = entry.connect()?;
            let blocks = guards.claim_addresses(&context, NODES_MAX).await?;
            let spawner = Spawner::new(context.clone(), guards, vec!["shim".into()]);
            let mut stage = Self {
                host: Host { context, events },
                ground: ProcessGround::new(spawner, blocks),
            };
            let worked = work(&mut stage).await;
            let cleared = stage.clear().await;
            worked.and(cleared).map(|()| 0)
        })
    }

    /// Starts a process with an empty environment.
    pub(crate) async fn start(
        &self,
        name: String,
        program: Program,
        args: impl IntoIterator<Item = OsString>,
    ) -> Result<(NodeProcess, NodePipes), Failure> {
        let spec = NodeSpec {
            disk: None,
            name,
            program,
            args: args.into_iter().collect(),
            env: BTreeMap::new(),
            cwd: self.host.context.runs.clone(),
        };
        Ok(self.ground.spawner().start(&spec).await?)
    }

    /// Kills all nodes and lets the guards forget them.
    pub(crate) async fn clear(&self) -> Result<(), Failure> {
        let nodes = self.ground.spawner().nodes();
        let report = self.ground.spawner().teardown(TEARDOWN_BOUND);
        self.ground
            .spawner()
            .retire(&nodes.iter().collect::<Vec<_>>())
            .await?;
        if report.left.is_empty() {
            Ok(())
        } else {
            Err(format!("left behind: {:?}", report.left).into())
        }
    }
}

/// Waits until a node has said `word`, as part of a line or alone.
pub(crate) async fn said(pipes: &NodePipes, word: &str) -> Result<(), Failure> {
    let stdout = pipe::Receiver::from_owned_fd(pipes.stdout.try_clone()?)?;
    let mut heard = Vec::new();
    let listen = async {
        loop {
            stdout.readable().await?;
            match stdout.try_read_buf(&mut heard) {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(_) if String::from_utf8_lossy(&heard).contains(word) => return Ok(()),
                Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    };
    let listened = tokio::time::timeout(SOON, listen).await;
    match listened.map_err(|_| format!("nothing more within {} s", SOON.as_secs())) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(unsaid(word, &error.to_string(), &heard)),
        Err(late) => Err(unsaid(word, &late, &heard)),
    }
}

fn unsaid(word: &str, why: &str, heard: &[u8]) -> Failure {
    let heard = String::from_utf8_lossy(heard);
    format!("a node did not say `{word}` ({why}), but: {heard}").into()
}
