//! From flags to a running node and back: read, bind, serve, stop.
//!
//! One thread runs everything. Whatever is wrong before the sockets are bound is said on stderr
//! and ends with exit code 2 (bad flags or network file) or 1 (the system refused). SIGTERM and SIGINT
//! send what is queued and end with 0 within a second.

use crate::mesh::{self, Mesh, MeshError, Setup};
use crate::node::Node;
use crate::p2p::{discovery, swarm, udp};
use crate::poet::ParamsError;
use crate::protocol::genesis::Genesis;
use crate::releases::{Release, ReleaseError};
use crate::runtime::clock::{self, LayerClock};
use crate::runtime::identity::{Identity, Nonces};
use crate::runtime::metrics::Metrics;
use crate::runtime::network::{Network, NetworkError};
use crate::runtime::process::{self, DataDir, DataDirError};
use crate::runtime::{api, events, lock, panics};
use crate::settings::{Process, Settings};
use serde_json::json;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// Connections that wait to be accepted; all nodes of a network may start at once.
const BACKLOG: u32 = 512;
/// Threads for what would block the one that serves: databases and proofs; they end when idle.
const BLOCKING_THREADS: usize = 4;
/// How long a stopping node waits for its connections to send what is queued.
const FLUSH_WITHIN: Duration = Duration::from_millis(400);

/// What a role adds to a node: more tasks, each of which ends only when it cannot go on.
pub(crate) type Tasks = JoinSet<std::io::Result<()>>;

/// Why a node did not start or could not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("{0}")]
    Network(#[from] NetworkError),
    #[error("{0}")]
    Release(#[from] ReleaseError),
    #[error("--poet-n, --poet-depth, --poet-openings: {0}")]
    Poet(#[from] ParamsError),
    #[error("{0}")]
    DataDir(#[from] DataDirError),
    #[error("{0}")]
    Mesh(#[from] MeshError),
    #[error("cannot bind {what} to {address}: {error}; give each node its own address")]
    Bind {
        what: &'static str,
        address: SocketAddr,
        error: std::io::Error,
    },
    #[error(
        "{0} is no node's own address; every socket is bound to it, so give --p2p and --api one such as 127.1.2.3:7513"
    )]
    NoAddress(SocketAddr),
    #[error("the kernel gives no random bytes: {0}")]
    Entropy(getrandom::Error),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl RunError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Network(_) | Self::Release(_) | Self::Poet(_) | Self::NoAddress(_) => {
                ExitCode::from(2)
            }
            _ => ExitCode::from(1),
        }
    }
}

/// A role at work: what [`run_process`] starts, waits for and stops.
pub(crate) trait Running {
    /// Binds sockets and spawns tasks; called once, inside the runtime.
    fn start(&mut self) -> Result<Tasks, RunError>;
    /// Brings to an end what must not be cut off, in well under a second.
    async fn stop(&mut self);
}

/// Runs a role until it is told to stop: all that processes with and without a swarm share.
pub(crate) fn run_process<R: Running>(
    name: &str,
    prepare: impl FnOnce() -> Result<R, RunError>,
) -> ExitCode {
    process::set_name(name);
    panics::install();
    process::no_core_dumps();
    match prepare().and_then(serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            events::say(&format!("error: {error}"));
            error.exit_code()
        }
    }
}

fn serve(mut role: impl Running) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut tasks = role.start()?;
        let why = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            Some(ended) = tasks.join_next() => {
                // Tasks go on for ever, and a panic in one has already ended the process.
                return Ok(ended.map_err(std::io::Error::other)??);
            }
        };
        let patience = Duration::from_millis(100);
        events::emit_within("stopping", json!({ "reason": why }), patience);
        role.stop().await;
        Ok(())
    });
    runtime.shutdown_background();
    result
}

/// Runs a node of the swarm until it is told to stop. `role` is its name in events, `add` starts its
/// own tasks.
pub(crate) fn run(
    settings: Settings,
    role: &'static str,
    add: impl FnOnce(&Arc<Node>, &mut Tasks),
) -> ExitCode {
    let name = settings.process.name.clone();
    run_process(&name, || {
        let (node, data_dir) = prepare(settings)?;
        Ok(InSwarm {
            node,
            _data_dir: data_dir,
            role,
            add: Some(add),
        })
    })
}

/// A node of the swarm, and what its role adds to it.
struct InSwarm<A> {
    node: Arc<Node>,
    _data_dir: DataDir,
    role: &'static str,
    add: Option<A>,
}

impl<A: FnOnce(&Arc<Node>, &mut Tasks)> Running for InSwarm<A> {
    fn start(&mut self) -> Result<Tasks, RunError> {
        let mut tasks = start(&self.node, self.role)?;
        if let Some(add) = self.add.take() {
            add(&self.node, &mut tasks);
        }
        Ok(tasks)
    }

    async fn stop(&mut self) {
        stop(&self.node).await;
    }
}

fn prepare(settings: Settings) -> Result<(Arc<Node>, DataDir), RunError> {
    check_own(settings.p2p)?;
    let process = &settings.process;
    let network = Network::read(&process.network, &process.name)?;
    let release = release(process, &network)?;
    let genesis = Genesis::new(
        &network,
        settings.layer_average_size,
        settings.poet_params()?,
    );
    let data_dir = DataDir::open(&process.data_dir)?;
    let metrics = Metrics::default();
    let identity = Identity::new(network.secret);
    let clock = LayerClock::new(network.genesis_unix_ns, network.layer_ns);
    let now = clock.layer_at(clock::unix_ns()).unwrap_or(0);
    let mesh = Mesh::open(Setup {
        dir: &process.data_dir,
        genesis: genesis.clone(),
        key: identity.signing.clone(),
        now: u32::try_from(now).unwrap_or(u32::MAX),
        seed: network.seed,
        metrics: metrics.mesh.clone(),
    })?;
    let node = Node::new(
        settings,
        network,
        genesis,
        release,
        Nonces::new().map_err(RunError::Entropy)?,
        metrics,
        mesh,
    );
    Ok((Arc::new(node), data_dir))
}

/// An address that others can be told, and that is nobody else's.
pub(crate) fn check_own(address: SocketAddr) -> Result<(), RunError> {
    if address.ip().is_unspecified() || address.port() == 0 {
        return Err(RunError::NoAddress(address));
    }
    Ok(())
}

/// Flags override the file: `--release` all of it, `--without` its list.
pub(crate) fn release(flags: &Process, network: &Network) -> Result<Release, ReleaseError> {
    let (file, without) = (&network.release, &flags.without);
    match &flags.release {
        Some(name) => Release::resolve(name, name, without),
        None if without.is_empty() => Release::resolve(&file.name, &file.base, &file.without),
        None => Release::resolve(&file.name, &file.base, without),
    }
}

fn start(node: &Arc<Node>, role: &'static str) -> Result<Tasks, RunError> {
    let (p2p, api_at) = (node.settings.p2p, node.settings.process.api);
    let udp = std::net::UdpSocket::bind(p2p)
        .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
        .and_then(UdpSocket::from_std)
        .map_err(|error| RunError::Bind {
            what: "UDP",
            address: p2p,
            error,
        })?;
    let swarm_listener = listen("the swarm", p2p)?;
    let api_listener = listen("the API", api_at)?;

    let mut started = started(&node.settings.process, role, &node.release, &node.network);
    started["p2p"] = json!(p2p);
    started["key"] = json!(hex::encode(node.identity.public));
    started["id"] = json!(hex::encode(node.identity.id()));
    events::emit("started", started);

    let mut tasks = Tasks::new();
    tasks.spawn(udp::serve(Arc::clone(node), Arc::new(udp)));
    tasks.spawn(api::serve(Arc::clone(node), api_listener));
    tasks.spawn(mesh::follow(Arc::clone(node)));
    tasks.spawn(endless(swarm::accept(Arc::clone(node), swarm_listener)));
    if node.settings.alone {
        node.now_ready();
    } else {
        tasks.spawn(endless(swarm::dial_around(Arc::clone(node))));
        tasks.spawn(endless(discovery::ask_around(Arc::clone(node))));
    }
    Ok(tasks)
}

/// A task that has nothing to fail at; if it ends, there was nothing to do.
pub(crate) async fn endless(task: impl Future<Output = ()>) -> std::io::Result<()> {
    task.await;
    std::future::pending().await
}

/// The fields of the first event of every role.
pub(crate) fn started(
    flags: &Process,
    role: &str,
    release: &Release,
    network: &Network,
) -> serde_json::Value {
    json!({
        "name": flags.name, "role": role, "pid": std::process::id(),
        "release": release.name, "base": release.base, "missing": release.missing(),
        "switches": release.switches(), "netid": network.netid, "api": flags.api,
    })
}

/// A TCP listener; `what` is what it is for, in errors.
pub(crate) fn listen(what: &'static str, address: SocketAddr) -> Result<TcpListener, RunError> {
    let bound = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        // A restarted node must get its port back while old connections are in TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bound().map_err(|error| RunError::Bind {
        what,
        address,
        error,
    })
}

async fn stop(node: &Node) {
    mesh::close(node);
    lock(&node.peers).stop();
    let mut talking = node.talking.subscribe();
    let flushed = talking.wait_for(|connections| *connections == 0);
    if tokio::time::timeout(FLUSH_WITHIN, flushed).await.is_err() {
        events::say("stopped before every peer had taken what was queued for it");
    }
}
