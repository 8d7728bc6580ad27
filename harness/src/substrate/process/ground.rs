//! The process substrate behind the seam: one loopback block per run, one network of processes per release.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::sync::watch;
use tweedledum_core::capability::Resource;
use tweedledum_core::launch::{Launch, Program as Asked};
use tweedledum_core::run::Pace;

use super::disk::Means;
use super::group::{self, Group, GroupError, REMEDY};
use super::life::{Counted, ProcessLife};
use super::{
    AddressBlocks, DiskAccount, DiskSupervisor, ExitKind, NodePipes, NodeProcess, NodeSpec,
    Program, Spawner,
};
use crate::agent::local::{LocalAgent, LocalSpec};
use crate::observe::NodeName;
use crate::observe::poll::http_client;
use crate::observe::ready::ExecEnd;
use crate::store::NodeDirectory;
use crate::substrate::Executables;
use crate::substrate::disk::{DiskStatus, Probed, Reading, Wanted};
use crate::substrate::{DiskHold, Doing, Ground, Life, Request, Seat, Spot, Substrate, Vantage};
use crate::supervise::TEARDOWN_BOUND;
use crate::undo::{Intent, IntentLog};

/// Processes on a block of loopback addresses.
#[derive(Debug)]
pub struct ProcessGround {
    spawner: Spawner,
    blocks: AddressBlocks,
}

impl ProcessGround {
    /// Of addresses that the guards hold, too.
    pub fn new(spawner: Spawner, blocks: AddressBlocks) -> Self {
        Self { spawner, blocks }
    }

    /// What starts its processes.
    pub fn spawner(&self) -> &Spawner {
        &self.spawner
    }

    /// Its addresses.
    pub fn blocks(&self) -> &AddressBlocks {
        &self.blocks
    }

    async fn make(&self, request: Request) -> Result<Arc<dyn Substrate>, String> {
        let no_address = |node: &str| {
            format!(
                "node {node} has no address: a run of the process substrate has at most 1,000 nodes"
            )
        };
        let agent = self.blocks.agent(0);
        let agent = IpAddr::V4(agent.ok_or_else(|| no_address("of the agent"))?);
        let client = http_client(Some(agent))
            .map_err(|error| format!("cannot make the client that polls the nodes: {error}"))?;
        let (supervisor, mut accounts) = hold(&request.seats)?;
        let mut groups = self.groups(&request.seats)?;
        let mut homes = BTreeMap::new();
        for (index, seat) in request.seats.into_iter().enumerate() {
            let address = self.blocks.node(index);
            let address = address.ok_or_else(|| no_address(&seat.node))?;
            let agent = LocalAgent::new(LocalSpec {
                node: NodeName::from(seat.node.as_str()),
                address: agent,
                identities: request.identities,
                dialects: request.dialects.clone(),
                client: client.clone(),
                saw: request.saw.clone(),
            });
            let disk = match accounts.remove(&seat.node) {
                Some(account) => {
                    let limit = seat.disk.and_then(|need| need.limit);
                    let normal = limit.map_or(Wanted::None, Wanted::Bytes);
                    let set = account.set(normal).await;
                    set.map_err(|error| error.to_string())?;
                    Some(account)
                }
                None => None,
            };
            let home = Home {
                group: groups.remove(&seat.node),
                address,
                directory: seat.directory,
                agent: Arc::new(agent),
                disk,
            };
            homes.insert(seat.node, home);
        }
        Ok(Arc::new(Network {
            spawner: self.spawner.clone(),
            base: request.base,
            executables: request.executables,
            homes,
            living: Mutex::default(),
            checks: AtomicU64::new(0),
            _supervisor: supervisor,
        }))
    }
}

impl ProcessGround {
    /// A group for each node that will be limited. Where they are made is an intent first.
    fn groups(&self, seats: &[Seat]) -> Result<BTreeMap<String, Group>, String> {
        let limited: Vec<&Seat> = seats
            .iter()
            .filter(|seat| !seat.limits.is_empty())
            .collect();
        let all: BTreeSet<Resource> = seats
            .iter()
            .flat_map(|seat| &seat.limits)
            .copied()
            .collect();
        if limited.is_empty() {
            return Ok(BTreeMap::new());
        }
        let context = self.spawner.context();
        let no = |error: GroupError| format!("nodes cannot be limited: {error}; {REMEDY}");
        let intent = Intent::Groups {
            places: group::places(&all).map_err(no)?,
        };
        let recorded = IntentLog::open(&context.intents).and_then(|mut log| log.append(&intent));
        recorded.map_err(|error| format!("cannot record where groups are made: {error}"))?;
        let made = limited.into_iter().map(|seat| {
            let group = Group::make(&context.nonce, &seat.node, &seat.limits);
            Ok((seat.node.clone(), group.map_err(no)?))
        });
        made.collect()
    }
}

/// Takes up the disks that something is done to.
fn hold(seats: &[Seat]) -> Result<(Option<DiskSupervisor>, BTreeMap<String, DiskAccount>), String> {
    let held: Vec<&Seat> = seats.iter().filter(|seat| seat.disk.is_some()).collect();
    if held.is_empty() {
        return Ok((None, BTreeMap::new()));
    }
    let supervisor = DiskSupervisor::start(Means::Own).map_err(|error| error.to_string())?;
    let mut accounts = BTreeMap::new();
    for seat in held {
        let account = supervisor.open(&seat.directory.data());
        accounts.insert(
            seat.node.clone(),
            account.map_err(|error| error.to_string())?,
        );
    }
    Ok((Some(supervisor), accounts))
}

impl Ground for ProcessGround {
    fn name(&self) -> &'static str {
        "process/shared"
    }

    fn pace(&self) -> Pace {
        Pace::PROCESS
    }

    fn open(&self, request: Request) -> Doing<'_, Arc<dyn Substrate>> {
        self.make(request).boxed()
    }
}

/// What of a node outlives its lives.
#[derive(Debug)]
struct Home {
    address: Ipv4Addr,
    directory: NodeDirectory,
    agent: Arc<LocalAgent>,
    disk: Option<DiskAccount>,
    group: Option<Group>,
}

/// The processes of one release.
#[derive(Debug)]
struct Network {
    spawner: Spawner,
    base: PathBuf,
    executables: Executables,
    homes: BTreeMap<String, Home>,
    living: Mutex<BTreeMap<String, NodeProcess>>,
    /// How many commands were run, which names them.
    checks: AtomicU64,
    /// Lives as long as the nodes do.
    _supervisor: Option<DiskSupervisor>,
}

impl Network {
    fn living(&self) -> MutexGuard<'_, BTreeMap<String, NodeProcess>> {
        self.living.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn begin(&self, launch: Launch) -> Result<(Arc<dyn Life>, NodePipes), String> {
        let node = launch.node;
        let home = self.homes.get(&node).ok_or("no such node")?;
        let former = self.living().remove(&node);
        if let Some(process) = former {
            let address = Some(home.address);
            if process.try_exit().is_some() {
                // Before a new life bears its name: whoever asks later what this one left is told what was found now.
                let process = process.clone();
                ProcessLife::new(process, address, None).extinct().await;
            }
            if let Err(error) = self.spawner.retire(&[&process]).await {
                tracing::warn!(node, %error, "a former life is not retired");
            }
        }
        let spec = NodeSpec {
            name: node.clone(),
            program: match &launch.program {
                Asked::Own => Program::Own,
                Asked::Path(path) => match self.executables.get(path) {
                    Some(held) => Program::Held(held),
                    None => Program::Path(self.base.join(path)),
                },
                Asked::Image => {
                    return Err(format!("{node} has an image and no command to start here"));
                }
            },
            args: launch.args.iter().map(OsString::from).collect(),
            env: launch
                .env
                .iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
            cwd: home.directory.data(),
            disk: home.disk.clone(),
        };
        let prepared = self.spawner.prepare(&spec).await;
        let prepared = prepared.map_err(|error| error.to_string())?;
        if let Some(group) = &home.group {
            // Before its go: whatever it starts is in the group with it.
            let joined = group.join(prepared.node().pid());
            joined.map_err(|error| format!("cannot put {node} into its cgroup: {error}"))?;
        }
        let group = home.group.clone().map(Counted::from_now);
        let started = prepared.go().await;
        let (process, pipes) = started.map_err(|error| error.to_string())?;
        self.living().insert(node, process.clone());
        let life = ProcessLife::new(process, Some(home.address), group);
        Ok((Arc::new(life), pipes))
    }

    /// Commands are run as nodes are: held by the guards, with nothing of our environment.
    async fn run_once(&self, argv: Vec<String>, bound: Duration) -> Result<ExecEnd, String> {
        let number = self.checks.fetch_add(1, Ordering::Relaxed);
        let (program, args) = argv.split_first().ok_or("an empty command")?;
        let spec = NodeSpec {
            name: format!("ready-check-{number}"),
            program: Program::Path(self.base.join(program)),
            args: args.iter().map(OsString::from).collect(),
            env: BTreeMap::new(),
            cwd: self.base.clone(),
            disk: None,
        };
        let finished = self.spawner.run(&spec, bound).await;
        let finished = finished.map_err(|error| error.to_string())?;
        let code = match finished.exit.kind {
            ExitKind::Code(code) => Some(code),
            ExitKind::Signal(_) | ExitKind::Lost => None,
        };
        let output = [finished.stdout, finished.stderr].concat();
        Ok(ExecEnd {
            code,
            output: String::from_utf8_lossy(&output).into_owned(),
        })
    }
}

impl Substrate for Network {
    fn spot(&self, node: &str) -> Option<Spot> {
        let home = self.homes.get(node)?;
        Some(Spot {
            address: home.address.into(),
            data: home.directory.data().display().to_string(),
            network: home.directory.network().display().to_string(),
        })
    }

    fn vantage(&self, node: &str) -> Option<Arc<dyn Vantage>> {
        let home = self.homes.get(node)?;
        Some(Arc::clone(&home.agent) as Arc<dyn Vantage>)
    }

    fn disk(&self, node: &str) -> Option<Arc<dyn DiskHold>> {
        let account = self.homes.get(node)?.disk.clone()?;
        Some(Arc::new(ProcessDisk {
            account,
            spawner: self.spawner.clone(),
        }))
    }

    fn start(&self, launch: Launch) -> Doing<'_, (Arc<dyn Life>, NodePipes)> {
        self.begin(launch).boxed()
    }

    fn run(&self, _node: &str, argv: Vec<String>, bound: Duration) -> Doing<'_, ExecEnd> {
        self.run_once(argv, bound).boxed()
    }

    fn failed(&self) -> BoxFuture<'_, String> {
        // What can fail here tells so by itself: guards by their links, disks by their status.
        std::future::pending().boxed()
    }

    fn tear_down(&self) -> BoxFuture<'_, Vec<String>> {
        let spawner = self.spawner.clone();
        let groups = self.homes.values().filter_map(|home| home.group.clone());
        let groups: Vec<Group> = groups.collect();
        async move {
            let torn = tokio::task::spawn_blocking(move || {
                let report = spawner.teardown(TEARDOWN_BOUND);
                let kept = groups.iter().filter_map(|group| group.remove().err());
                (
                    report,
                    kept.map(|error| error.to_string()).collect::<Vec<_>>(),
                )
            });
            match torn.await {
                Ok((report, kept)) => report
                    .left
                    .iter()
                    .map(|left| format!("process {} ({}): {}", left.pid, left.comm, left.why))
                    .chain(kept)
                    .collect(),
                Err(error) => vec![format!("teardown itself failed: {error}")],
            }
        }
        .boxed()
    }
}

/// A data directory whose calls are answered by the supervisor, probed by a process of our own.
#[derive(Debug)]
struct ProcessDisk {
    account: DiskAccount,
    spawner: Spawner,
}

impl DiskHold for ProcessDisk {
    fn set(&self, wanted: Wanted) -> Doing<'_, Reading> {
        async move {
            let set = self.account.set(wanted).await;
            set.map_err(|error| error.to_string())
        }
        .boxed()
    }

    fn probe(&self, bytes: u64) -> Doing<'_, Probed> {
        async move {
            let probed = self.spawner.probe_disk(&self.account, bytes).await;
            probed.map_err(|error| error.to_string())
        }
        .boxed()
    }

    fn status(&self) -> watch::Receiver<DiskStatus> {
        self.account.status()
    }
}
