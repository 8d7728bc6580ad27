//! Starting nodes and removing what is left of them: the controller's side.
//!
//! A start has two steps. [`Spawner::prepare`] starts the shim and returns when both guards hold
//! it; [`Prepared::go`] lets it become the node and returns when the exec has happened or failed.
//! Nodes that shall start together are all prepared first. Readiness and output are for the
//! observers.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use thiserror::Error;

use super::identity::{NODE_VARIABLE, ProcStat, RUN_VARIABLE, own_pid, snapshot};
use super::launch::{Launch, launch};
use super::node::{NodePipes, NodeProcess, NodeSignal};
use super::packet::{PacketSocket, Received, receive_on, send_on};
use super::remains::{Hunt, KillReport, reap_children, wait_for_deaths};
use super::shim::{ExecError, ShimProgram, ToShim};
use super::watched::WatchedFd;
use crate::clock::monotonic_ns;
use crate::supervise::{GuardError, Guards, RunContext};

/// How long an exec may take once the go is given: a large binary on a cold, busy disk.
const EXEC_BOUND: Duration = Duration::from_secs(20);
/// How long what is left of dead nodes may take to be gone.
const RETIRE_BOUND: Duration = Duration::from_secs(2);
/// The longest name of a node.
const NAME_BYTES: usize = 128;

/// What to exec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// Our own executable, as it was when the run began.
    Own,
    /// A binary or `#!` script by its absolute path.
    Path(PathBuf),
}

/// One node to start.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// The node's name, unique among the living ones.
    pub name: String,
    /// What to exec.
    pub program: Program,
    /// Its arguments, without the program.
    pub args: Vec<OsString>,
    /// Its whole environment, but for the two variables that mark it as part of the run.
    pub env: BTreeMap<OsString, OsString>,
    /// Its working directory.
    pub cwd: PathBuf,
}

/// Why a node was not started.
#[derive(Debug, Error)]
pub enum SpawnError {
    /// The description cannot be started.
    #[error("cannot start `{node}`: {why}")]
    Spec {
        /// The node.
        node: String,
        /// What is wrong with it.
        why: String,
    },
    /// The system refused the process.
    #[error(
        "cannot start `{node}`: {source}; fewer nodes, or higher limits of processes and open files (ulimit -u, -n), may help"
    )]
    System {
        /// The node.
        node: String,
        /// Its reason.
        source: io::Error,
    },
    /// A guard did not take the node, so it got no go.
    #[error("`{node}` was not started: {source}")]
    Guard {
        /// The node.
        node: String,
        /// Which guard, and why.
        source: GuardError,
    },
    /// The program could not be exec'ed.
    #[error("node `{node}`: {source}; {}", source.hint())]
    Exec {
        /// The node.
        node: String,
        /// The shim's report.
        source: ExecError,
    },
    /// The shim neither became the node nor reported an error.
    #[error("`{node}` was given its go and did not start within {} s", EXEC_BOUND.as_secs())]
    NoExec {
        /// The node.
        node: String,
    },
}

/// Starts nodes. A handle that can be cloned.
#[derive(Clone, Debug)]
pub struct Spawner(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    context: RunContext,
    guards: Guards,
    shim: Vec<OsString>,
    next: AtomicU64,
    live: Mutex<BTreeMap<i32, NodeProcess>>,
}

/// A shim that all guards hold and that waits for its go. Dropping it ends the shim.
#[derive(Debug)]
pub struct Prepared {
    spawner: Spawner,
    node: NodeProcess,
    pipes: NodePipes,
    socket: WatchedFd,
    own: bool,
}

impl Spawner {
    /// A spawner for a run. `shim` are the words that make our own executable call
    /// [`shim_main`](super::shim::shim_main) with the words that follow them.
    pub fn new(context: RunContext, guards: Guards, shim: Vec<OsString>) -> Self {
        let live = Mutex::new(BTreeMap::new());
        Self(Arc::new(Inner {
            context,
            guards,
            shim,
            next: AtomicU64::new(1),
            live,
        }))
    }

    /// Prepares and goes.
    pub async fn start(&self, spec: &NodeSpec) -> Result<(NodeProcess, NodePipes), SpawnError> {
        self.prepare(spec).await?.go().await
    }

    /// Starts the shim and waits until both guards hold it. The node does not run yet.
    pub async fn prepare(&self, spec: &NodeSpec) -> Result<Prepared, SpawnError> {
        self.check(spec)?;
        let system = |source| SpawnError::System {
            node: spec.name.clone(),
            source,
        };
        let (node, pipes, socket) = self.launch(spec).map_err(system)?;
        self.live().insert(node.pid(), node.clone());
        let taken = self
            .0
            .guards
            .register(node.key(), &spec.name, node.id(), node.as_fd())
            .await;
        if let Err(source) = taken {
            drop(socket);
            self.abandon(&node).await;
            return Err(SpawnError::Guard {
                node: spec.name.clone(),
                source,
            });
        }
        let own = spec.program == Program::Own;
        Ok(Prepared {
            spawner: self.clone(),
            node,
            pipes,
            socket,
            own,
        })
    }

    fn check(&self, spec: &NodeSpec) -> Result<(), SpawnError> {
        let refuse = |why: String| {
            Err(SpawnError::Spec {
                node: spec.name.clone(),
                why,
            })
        };
        let name = spec.name.as_str();
        if name.is_empty() || name.len() > NAME_BYTES || name.contains(['\0', '/']) {
            return refuse(format!(
                "a node's name has 1 to {NAME_BYTES} bytes and no `/`"
            ));
        }
        if self
            .live()
            .values()
            .any(|node| node.name() == name && node.try_exit().is_none())
        {
            return refuse("a process of that name is alive; end it first".to_owned());
        }
        match &spec.program {
            Program::Path(path) if !path.is_absolute() => {
                refuse(format!("`{}` is not an absolute path", path.display()))
            }
            _ => Ok(()),
        }
    }

    fn launch(&self, spec: &NodeSpec) -> io::Result<(NodeProcess, NodePipes, WatchedFd)> {
        let context = &self.0.context;
        let (ours, theirs) = PacketSocket::pair()?;
        let (stdout, stdout_node) = output_pipe()?;
        let (stderr, stderr_node) = output_pipe()?;
        let (kind, program) = match &spec.program {
            Program::Own => (ShimProgram::Own, OsString::from("tweedledum")),
            Program::Path(path) => (ShimProgram::Path, path.clone().into_os_string()),
        };
        let mut args = self.0.shim.clone();
        args.extend([
            context.nofile.to_string().into(),
            kind.word().into(),
            program,
        ]);
        args.extend(spec.args.iter().cloned());
        let mut env = spec.env.clone();
        env.insert(RUN_VARIABLE.into(), context.nonce.to_string().into());
        env.insert(NODE_VARIABLE.into(), spec.name.clone().into());
        let launched = launch(Launch {
            exe: &context.exe,
            arg0: "tweedledum".as_ref(),
            args: &args,
            env: &env,
            clear: true,
            cwd: Some(&spec.cwd),
            own_group: false,
            stdin: theirs,
            stdout: Stdio::from(stdout_node),
            stderr: Stdio::from(stderr_node),
        })?;
        let key = self.0.next.fetch_add(1, Ordering::Relaxed);
        let node = NodeProcess::new(
            spec.name.clone(),
            launched.id,
            key,
            context.nonce,
            launched.pidfd,
        )?;
        let socket = WatchedFd::reading(ours.into_fd())?;
        Ok((node, NodePipes { stdout, stderr }, socket))
    }

    /// Kills a process that never became a node.
    async fn abandon(&self, node: &NodeProcess) {
        if let Err(error) = node.kill().await {
            tracing::warn!(node = node.name(), %error, "a shim is left");
            return;
        }
        // The error of the start is what the caller needs; teardown looks again.
        let _ = self.retire(&[node]).await;
    }

    /// Removes what dead nodes left behind: children that carry the run and the node in their
    /// environment, or stayed in the node's session. Call it before a node of the same name starts
    /// again. Then the guards forget the nodes. Nodes that are still alive are passed over.
    ///
    /// A child that left the session *and* cleared its environment is found only by
    /// [`teardown`](Self::teardown).
    pub async fn retire(&self, nodes: &[&NodeProcess]) -> Result<KillReport, GuardError> {
        let dead: Vec<&NodeProcess> = nodes
            .iter()
            .copied()
            .filter(|node| node.try_exit().is_some())
            .collect();
        let deadline = Instant::now() + RETIRE_BOUND;
        for node in &dead {
            self.live().remove(&node.pid());
        }
        let report = self.hunt_remains(&dead, deadline);
        self.reap_strays();
        for node in &dead {
            self.0.guards.unregister(node.key()).await?;
        }
        Ok(report)
    }

    fn hunt_remains(&self, dead: &[&NodeProcess], deadline: Instant) -> KillReport {
        if dead.is_empty() {
            return KillReport::default();
        }
        let living: Vec<i32> = self.live().keys().copied().collect();
        let own = own_pid();
        // What a node left behind was handed to this process, the nearest subreaper, and so keeps
        // its pid until this process reaps it.
        let orphan = |stat: &&ProcStat| {
            stat.parent == own && dead.iter().any(|node| node.pid() == stat.session)
        };
        let orphans: Vec<i32> = snapshot()
            .map(|all| all.values().filter(orphan).map(|stat| stat.pid).collect())
            .unwrap_or_default();
        let names: Vec<&str> = dead.iter().map(|node| node.name()).collect();
        let hunt = Hunt {
            also: &orphans,
            roots: &orphans,
            nonce: Some(&self.0.context.nonce),
            nodes: &names,
            leave: &living,
            ..Hunt::default()
        };
        hunt.run(deadline)
    }

    /// Reaps dead processes that nodes left to this one. Call it now and then in a long run.
    pub fn reap_strays(&self) -> usize {
        let live = self.live();
        reap_children(|pid| live.contains_key(&pid))
    }

    /// The nodes that were started and not retired.
    pub fn nodes(&self) -> Vec<NodeProcess> {
        self.live().values().cloned().collect()
    }

    /// Kills all nodes and everything that ever descended from them, and reaps it all. Blocks for
    /// at most `bound`, and little longer; meant for the end of a run, when nothing else goes on.
    pub fn teardown(&self, bound: Duration) -> KillReport {
        let deadline = Instant::now() + bound;
        let nodes = self.nodes();
        let alive: Vec<&NodeProcess> = nodes
            .iter()
            .filter(|node| node.try_exit().is_none())
            .collect();
        for node in &alive {
            // One that cannot be killed is found, and reported, by the hunt.
            let _ = node.signal(NodeSignal::Kill);
        }
        let pidfds: Vec<OwnedFd> = alive
            .iter()
            .filter_map(|node| node.as_fd().try_clone_to_owned().ok())
            .collect();
        wait_for_deaths(&pidfds, deadline);
        let context = &self.0.context;
        let own = [own_pid()];
        let hunt = Hunt {
            roots: &own,
            nonce: Some(&context.nonce),
            spare: &[context.watchdog.pid, context.stub.pid],
            ..Hunt::default()
        };
        let mut report = hunt.run(deadline);
        report.killed += alive.len();
        for node in &nodes {
            node.try_exit();
        }
        reap_children(|_| false);
        report
    }

    fn live(&self) -> MutexGuard<'_, BTreeMap<i32, NodeProcess>> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Prepared {
    /// The process, a shim still.
    pub fn node(&self) -> &NodeProcess {
        &self.node
    }

    /// Gives the go, and waits until the program runs or could not be exec'ed.
    pub async fn go(self) -> Result<(NodeProcess, NodePipes), SpawnError> {
        let name = self.node.name().to_owned();
        let exe = self.spawner.0.context.exe.clone();
        let fds = if self.own {
            vec![exe.as_fd()]
        } else {
            Vec::new()
        };
        let sent = send_on(self.socket.as_fd(), &ToShim::Go, &fds);
        let failed = match sent {
            // A shim that reported an error and ended is asked for its report below.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Some(SpawnError::System {
                node: name,
                source: error,
            }),
            _ => match tokio::time::timeout(EXEC_BOUND, self.answer()).await {
                Err(_) => Some(SpawnError::NoExec { node: name }),
                Ok(Err(source)) => Some(SpawnError::System { node: name, source }),
                Ok(Ok(Some(source))) => Some(SpawnError::Exec { node: name, source }),
                Ok(Ok(None)) => None,
            },
        };
        match failed {
            None => {
                tracing::debug!(node = self.node.name(), at_ns = monotonic_ns(), "started");
                Ok((self.node, self.pipes))
            }
            Some(error) => {
                self.spawner.abandon(&self.node).await;
                Err(error)
            }
        }
    }

    /// The shim's socket closes when the exec happens; a message before that is an error report.
    async fn answer(&self) -> io::Result<Option<ExecError>> {
        loop {
            let mut ready = self.socket.readable().await?;
            match receive_on::<ExecError>(self.socket.as_fd())? {
                Received::Message(error, _) => return Ok(Some(error)),
                Received::Closed => return Ok(None),
                Received::Empty => ready.clear_ready(),
            }
        }
    }
}

/// A pipe whose read end is non-blocking: (read end, write end).
fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    let flags = rustix::fs::fcntl_getfl(&read)?;
    rustix::fs::fcntl_setfl(&read, flags | OFlags::NONBLOCK)?;
    Ok((read, write))
}
