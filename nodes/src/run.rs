//! From flags to a running node and back: read, bind, serve, stop.
//!
//! One thread runs everything. Whatever is wrong before the sockets are bound is said on stderr
//! and ends with exit code 2 (bad flags or network file) or 1 (the system refused). SIGTERM and SIGINT
//! send what is queued and end with 0 within a second.

use crate::node::Node;
use crate::p2p::{discovery, swarm, udp};
use crate::poet::ParamsError;
use crate::protocol::genesis::Genesis;
use crate::releases::{Release, ReleaseError};
use crate::runtime::identity::Nonces;
use crate::runtime::network::{Network, NetworkError};
use crate::runtime::process::{self, DataDir, DataDirError};
use crate::runtime::{api, events, lock, panics};
use crate::settings::Settings;
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
    #[error("cannot bind {what} to {address}: {error}; give each node its own address")]
    Bind {
        what: &'static str,
        address: SocketAddr,
        error: std::io::Error,
    },
    #[error(
        "--p2p {0} is no node's own address; every socket is bound to it, so give one such as 127.1.2.3:7513"
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

/// Runs a node until it is told to stop. `role` is its name in events, `add` starts its own tasks.
pub(crate) fn run(
    settings: Settings,
    role: &'static str,
    add: impl FnOnce(&Arc<Node>, &mut Tasks),
) -> ExitCode {
    process::set_name(&settings.name);
    panics::install();
    process::no_core_dumps();
    match prepare(settings).and_then(|(node, data_dir)| serve(&node, data_dir, role, add)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            events::say(&format!("error: {error}"));
            error.exit_code()
        }
    }
}

fn prepare(settings: Settings) -> Result<(Arc<Node>, DataDir), RunError> {
    if settings.p2p.ip().is_unspecified() || settings.p2p.port() == 0 {
        return Err(RunError::NoAddress(settings.p2p));
    }
    let network = Network::read(&settings.network, &settings.name)?;
    let release = release(&settings, &network)?;
    let genesis = Genesis::new(
        &network,
        settings.layer_average_size,
        settings.poet_params()?,
    );
    let data_dir = DataDir::open(&settings.data_dir)?;
    let node = Node::new(
        settings,
        network,
        genesis,
        release,
        Nonces::new().map_err(RunError::Entropy)?,
    );
    Ok((Arc::new(node), data_dir))
}

/// Flags override the file: `--release` all of it, `--without` its list.
fn release(settings: &Settings, network: &Network) -> Result<Release, ReleaseError> {
    let (file, flags) = (&network.release, &settings.without);
    match &settings.release {
        Some(name) => Release::resolve(name, name, flags),
        None if flags.is_empty() => Release::resolve(&file.name, &file.base, &file.without),
        None => Release::resolve(&file.name, &file.base, flags),
    }
}

fn serve(
    node: &Arc<Node>,
    _data_dir: DataDir,
    role: &'static str,
    add: impl FnOnce(&Arc<Node>, &mut Tasks),
) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut tasks = start(node, role)?;
        add(node, &mut tasks);
        tokio::select! {
            _ = terminate.recv() => stop(node, "SIGTERM").await,
            _ = interrupt.recv() => stop(node, "SIGINT").await,
            Some(ended) = tasks.join_next() => {
                // Tasks go on for ever, and a panic in one has already ended the process.
                ended.map_err(std::io::Error::other)??;
            }
        }
        Ok(())
    });
    runtime.shutdown_background();
    result
}

fn start(node: &Arc<Node>, role: &'static str) -> Result<Tasks, RunError> {
    let (p2p, api_at) = (node.settings.p2p, node.settings.api);
    let bind = |what, address| {
        move |error| RunError::Bind {
            what,
            address,
            error,
        }
    };
    let udp = std::net::UdpSocket::bind(p2p)
        .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
        .and_then(UdpSocket::from_std)
        .map_err(bind("UDP", p2p))?;
    let swarm_listener = listen(p2p).map_err(bind("the swarm", p2p))?;
    let api_listener = listen(api_at).map_err(bind("the API", api_at))?;

    let release = &node.release;
    let started = json!({
        "name": node.settings.name, "role": role, "pid": std::process::id(),
        "release": release.name, "base": release.base, "missing": release.missing(),
        "switches": release.switches(),
        "netid": node.network.netid, "p2p": p2p, "api": api_at,
        "key": hex::encode(node.identity.public), "id": hex::encode(node.identity.id()),
    });
    events::emit("started", started);

    let mut tasks = Tasks::new();
    tasks.spawn(udp::serve(Arc::clone(node), Arc::new(udp)));
    tasks.spawn(api::serve(Arc::clone(node), api_listener));
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

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // A restarted node must get its port back while old connections are in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn stop(node: &Node, why: &str) {
    events::emit_within(
        "stopping",
        json!({ "reason": why }),
        Duration::from_millis(100),
    );
    lock(&node.peers).stop();
    let mut talking = node.talking.subscribe();
    let flushed = talking.wait_for(|connections| *connections == 0);
    if tokio::time::timeout(FLUSH_WITHIN, flushed).await.is_err() {
        events::say("stopped before every peer had taken what was queued for it");
    }
}
