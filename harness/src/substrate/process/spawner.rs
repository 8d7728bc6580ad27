//! Starting nodes and removing what is left of them: the controller's side.
//!
//! A start has two steps. [`Spawner::prepare`] starts the shim and returns when both guards hold
//! it; [`Prepared::go`] lets it become the node and returns when the exec has happened or failed.
//! Nodes that shall start together are all prepared first. Readiness and output are for the
//! observers.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use thiserror::Error;

use super::NodePipes;
use super::disk::{DiskAccount, DiskError, Probed, Whose};
use super::identity::{NODE_VARIABLE, ProcStat, RUN_VARIABLE, own_pid, snapshot};
use super::launch::{Launch, launch};
use super::node::{NodeProcess, NodeSignal};
use super::packet::{PacketSocket, Received, receive_on, send_on};
use super::remains::{Hunt, KillReport, reap_children, wait_for_deaths};
use super::shim::{ExecError, FromShim, ShimProgram, ToShim};
use super::watched::WatchedFd;
use crate::clock::monotonic_ns;
use crate::substrate::executable::{Changed, Executable};
use crate::supervise::{GuardError, Guards, RunContext};

/// How long an exec may take once the go is given: a large binary on a cold, busy disk.
const EXEC_BOUND: Duration = Duration::from_secs(20);
/// How long what is left of dead nodes may take to be gone.
const RETIRE_BOUND: Duration = Duration::from_secs(2);
/// The longest name of a node.
const NAME_BYTES: usize = 128;

/// What to exec.
#[derive(Clone, Debug)]
pub enum Program {
    /// Our own executable, as it was when the run began.
    Own,
    /// One of the plan's own, as it was when the run began.
    Held(Arc<Executable>),
    /// A binary or `#!` script by its absolute path.
    Path(PathBuf),
    /// None: the shim asks its working directory for this many bytes. See [`Spawner::probe_disk`].
    Probe(u64),
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
    /// The account that it and its children take disk on, when their disk is held.
    pub disk: Option<DiskAccount>,
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
    /// What it would be started from is not what the run began with.
    #[error("`{node}` must not run: {source}")]
    Changed {
        /// The node.
        node: String,
        /// What became of it.
        source: Changed,
    },
    /// Its disk cannot be held.
    #[error("`{node}` was not started: {source}")]
    Disk {
        /// The node.
        node: String,
        /// Why.
        source: DiskError,
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
    /// Held while dead nodes are retired.
    retiring: tokio::sync::Mutex<()>,
}

/// A shim that all guards hold and that waits for its go. Dropping it ends the shim.
#[derive(Debug)]
pub struct Prepared {
    spawner: Spawner,
    node: NodeProcess,
    pipes: NodePipes,
    socket: WatchedFd,
    program: Program,
    disk: Option<DiskAccount>,
    whose: Whose,
}

/// How a shim ended: it became a node, or asked for room and told what it got.
type Became = Option<Probed>;

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
            retiring: tokio::sync::Mutex::default(),
        }))
    }

    /// The run that it starts nodes of.
    pub(crate) fn context(&self) -> &RunContext {
        &self.0.context
    }

    /// Prepares and goes.
    pub async fn start(&self, spec: &NodeSpec) -> Result<(NodeProcess, NodePipes), SpawnError> {
        self.prepare(spec).await?.go().await
    }

    /// Starts the shim and waits until both guards hold it. The node does not run yet.
    pub async fn prepare(&self, spec: &NodeSpec) -> Result<Prepared, SpawnError> {
        self.check(spec)?;
        unchanged(&spec.name, &spec.program).await?;
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
        Ok(Prepared {
            spawner: self.clone(),
            node,
            pipes,
            socket,
            program: spec.program.clone(),
            disk: spec.disk.clone(),
            whose: match spec.program {
                Program::Probe(_) => Whose::Probe,
                Program::Own | Program::Held(_) | Program::Path(_) => Whose::Node,
            },
        })
    }

    /// Asks a disk for this many bytes at once, from a process of our own under a filter like the node's. The process is
    /// gone, and with it what it got, when this returns.
    pub async fn probe_disk(&self, disk: &DiskAccount, bytes: u64) -> Result<Probed, SpawnError> {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let spec = NodeSpec {
            name: format!("disk-probe-{number}"),
            program: Program::Probe(bytes),
            args: Vec::new(),
            env: BTreeMap::new(),
            cwd: disk.root().to_owned(),
            disk: Some(disk.clone()),
        };
        let prepared = self.prepare(&spec).await?;
        let became = prepared.become_it().await;
        // It has ended, unless it failed; either way nothing of it stays.
        self.abandon(&prepared.node).await;
        let why = || "the probe ended without an answer".to_owned();
        became?.ok_or_else(|| SpawnError::Spec {
            node: spec.name,
            why: why(),
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
            Program::Own => (ShimProgram::Sent, OsString::from("tweedledum")),
            Program::Held(held) if held.descriptor().is_some() => {
                (ShimProgram::Sent, held.path().as_os_str().to_owned())
            }
            Program::Held(held) => (ShimProgram::Path, held.path().as_os_str().to_owned()),
            Program::Path(path) => (ShimProgram::Path, path.clone().into_os_string()),
            Program::Probe(bytes) => (ShimProgram::Probe, bytes.to_string().into()),
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
        let former = None;
        let pipes = NodePipes {
            stdout,
            stderr,
            former,
            cut: None,
            lost: None,
        };
        Ok((node, pipes, socket))
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
        // One at a time: what a hunt is after must keep its pid, and so must not be reaped by another.
        let _turn = self.0.retiring.lock().await;
        let dead: Vec<NodeProcess> = nodes
            .iter()
            .filter(|node| node.try_exit().is_some())
            .map(|node| NodeProcess::clone(node))
            .collect();
        let deadline = Instant::now() + RETIRE_BOUND;
        for node in &dead {
            self.live().remove(&node.pid());
            node.retire();
        }
        // It reads all of /proc, twice at least, which must not hold up the event loop. Reaping stays here: a child that was
        // just started is not known yet, and this thread is the one that starts them.
        let (spawner, hunted) = (self.clone(), dead.clone());
        let hunt = tokio::task::spawn_blocking(move || spawner.hunt_remains(&hunted, deadline));
        let report = hunt.await.map_err(io::Error::other)?;
        self.reap_strays();
        for node in &dead {
            self.0.guards.unregister(node.key()).await?;
        }
        Ok(report)
    }

    fn hunt_remains(&self, dead: &[NodeProcess], deadline: Instant) -> KillReport {
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
        let names: Vec<&str> = dead.iter().map(NodeProcess::name).collect();
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

    /// Reaps dead processes that nodes left to this one.
    fn reap_strays(&self) -> usize {
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
        // From its exec on nobody can write into a binary, so one that is the same now is the one that runs.
        let became = match self.become_it().await {
            Ok(_) => unchanged(self.node.name(), &self.program).await,
            Err(error) => Err(error),
        };
        match became {
            Ok(()) => {
                tracing::debug!(node = self.node.name(), at_ns = monotonic_ns(), "started");
                Ok((self.node, self.pipes))
            }
            Err(error) => {
                self.spawner.abandon(&self.node).await;
                Err(error)
            }
        }
    }

    async fn become_it(&self) -> Result<Became, SpawnError> {
        let node = || self.node.name().to_owned();
        let system = |source| SpawnError::System {
            node: node(),
            source,
        };
        let fds: Vec<BorrowedFd<'_>> = match &self.program {
            Program::Own => vec![self.spawner.0.context.exe.as_fd()],
            Program::Held(held) => held.descriptor().into_iter().collect(),
            Program::Path(_) | Program::Probe(_) => Vec::new(),
        };
        let filtered = self.disk.is_some();
        match send_on(self.socket.as_fd(), &ToShim::Go { filtered }, &fds) {
            // A shim that reported an error and ended is asked for its report below.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(system(error)),
            _ => {}
        }
        tokio::time::timeout(EXEC_BOUND, self.answer())
            .await
            .map_err(|_| SpawnError::NoExec { node: node() })?
    }

    /// The shim's socket closes when the exec happens; what comes before is its listener, an error or a probe's answer.
    async fn answer(&self) -> Result<Became, SpawnError> {
        let node = || self.node.name().to_owned();
        let system = |source| SpawnError::System {
            node: node(),
            source,
        };
        let mut probed = None;
        loop {
            let mut ready = self.socket.readable().await.map_err(system)?;
            match receive_on::<FromShim>(self.socket.as_fd()).map_err(system)? {
                Received::Message(FromShim::Filtered, mut fds) => {
                    if let (Some(listener), Some(disk)) = (fds.pop(), &self.disk) {
                        let node = node();
                        disk.attach(listener, self.whose)
                            .map_err(|source| SpawnError::Disk { node, source })?;
                    }
                }
                Received::Message(FromShim::Failed(source), _) => {
                    let node = node();
                    return Err(SpawnError::Exec { node, source });
                }
                Received::Message(FromShim::Probed(answer), _) => probed = Some(answer),
                Received::Closed => return Ok(probed),
                Received::Empty => ready.clear_ready(),
            }
        }
    }
}

/// Whether a program of the plan's own still is what the run began with.
async fn unchanged(node: &str, program: &Program) -> Result<(), SpawnError> {
    let Program::Held(held) = program else {
        return Ok(());
    };
    let held = Arc::clone(held);
    // It may have to be read, which must not hold up the event loop.
    let checked = tokio::task::spawn_blocking(move || held.check()).await;
    let node = node.to_owned();
    match checked {
        Ok(Ok(())) => Ok(()),
        Ok(Err(source)) => Err(SpawnError::Changed { node, source }),
        Err(error) => Err(SpawnError::System {
            node,
            source: io::Error::other(error),
        }),
    }
}

/// A pipe whose read end is non-blocking: (read end, write end).
fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    let flags = rustix::fs::fcntl_getfl(&read)?;
    rustix::fs::fcntl_setfl(&read, flags | OFlags::NONBLOCK)?;
    Ok((read, write))
}
