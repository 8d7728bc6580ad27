//! A network before its first process: addresses, directories, network files, keys, and the header of its history.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use tweedledum_core::history::{ExpectInfo, FORMAT, FaultInfo, Header, NodeInfo, RoleInfo};
use tweedledum_core::launch::{self, Launch, Network, Place};
use tweedledum_core::plan::model::{Deed, Node, Source, Stop};
use tweedledum_core::{run, schedule};

use super::{Ground, Job, RunError};
use crate::agent::Dialect;
use crate::clock::{monotonic_ns, unix_ns};
use crate::store::{NodeDirectory, ReleaseDirectory, write_atomic};
use crate::substrate::process::identity::boot_id;

/// The port that sessions are asked at, by its name in the role.
const API_PORT: &str = "api";
const SESSION_PORT: &str = "p2p";

/// Everything about one node that does not change during the run.
#[derive(Debug)]
pub(super) struct NodeSite {
    /// Program, arguments, readiness, signals.
    pub(super) launch: Launch,
    /// Its directory.
    pub(super) directory: NodeDirectory,
    /// How it is stopped.
    pub(super) stop: Stop,
    /// Its address.
    pub(super) address: Option<Ipv4Addr>,
    /// Where it can be flooded and pinged, and in which protocol.
    pub(super) session: Option<Session>,
    /// Where its HTTP API listens, if it has one.
    pub(super) api: Option<SocketAddr>,
}

/// A node's UDP side as the agent knows it.
#[derive(Debug, Clone)]
pub(super) struct Session {
    /// Its address.
    pub(super) address: SocketAddr,
    /// Its public key.
    pub(super) key: [u8; 32],
    /// The protocol.
    pub(super) dialect: Arc<dyn Dialect>,
}

/// A network before its first process.
#[derive(Debug)]
pub(super) struct Site {
    /// The history's first record.
    pub(super) header: Header,
    /// The monotonic instant that the history counts from.
    pub(super) began_ns: u64,
    /// The same instant on the wall clock.
    pub(super) began_unix_ns: u64,
    /// Every node.
    pub(super) nodes: BTreeMap<String, NodeSite>,
    /// The agent's own address.
    pub(super) agent: IpAddr,
    /// Seed of the run.
    pub(super) seed: u64,
    /// Network id.
    pub(super) netid: u32,
    /// Where relative paths of the plan start.
    pub(super) base: PathBuf,
}

impl Site {
    /// Fixes genesis, makes every node's directory and writes its network file. Starts nothing.
    pub(super) fn prepare(
        ground: &Ground,
        job: &Job<'_>,
        directory: &ReleaseDirectory,
    ) -> Result<Self, RunError> {
        let plan = job.plan;
        let (began_ns, began_unix_ns) = (monotonic_ns(), unix_ns());
        let genesis_ns = run::genesis_after_ns(plan);
        let mut places = BTreeMap::new();
        let mut directories = BTreeMap::new();
        for (index, node) in plan.nodes.iter().enumerate() {
            let address = ground
                .blocks
                .node(index)
                .ok_or_else(|| RunError::NoAddress(node.name.clone()))?;
            let own = directory.node(&node.name)?;
            let secret = launch::identity(job.seed, &node.name);
            let keys = dialect_of(job, node).map(|dialect| {
                let id = dialect.signing_key(&secret);
                (hex::encode(dialect.public_key(&secret)), hex::encode(id))
            });
            let (key, id) = keys.unwrap_or_default();
            let place = Place {
                address: address.to_string(),
                data: own.data().display().to_string(),
                network: own.network().display().to_string(),
                key,
                id,
            };
            places.insert(node.name.clone(), place);
            directories.insert(node.name.clone(), own);
        }
        let network = Network {
            plan,
            release: job.release,
            seed: job.seed,
            netid: job.netid,
            genesis_unix_ns: began_unix_ns.saturating_add(genesis_ns),
            places: &places,
        };
        let mut nodes = BTreeMap::new();
        for node in &plan.nodes {
            let (Some(role), Some(own)) =
                (plan.roles.get(&node.role), directories.remove(&node.name))
            else {
                continue;
            };
            let launch = network.launch(node, role);
            let text = format!("{:#}\n", launch.network);
            write_atomic(&own.network(), text.as_bytes())?;
            let session = session(job, &network, node);
            let api = network.socket(node, API_PORT);
            nodes.insert(
                node.name.clone(),
                NodeSite {
                    launch,
                    directory: own,
                    stop: role.stop,
                    address: places
                        .get(&node.name)
                        .and_then(|place| place.address.parse().ok()),
                    session,
                    api: api.and_then(|api| api.parse().ok()),
                },
            );
        }
        let agent = ground
            .blocks
            .agent(0)
            .ok_or_else(|| RunError::NoAddress("of the agent".to_owned()))?;
        let header = header(ground, job, genesis_ns, began_unix_ns, &places)?;
        Ok(Self {
            header,
            began_ns,
            began_unix_ns,
            nodes,
            agent: IpAddr::V4(agent),
            seed: job.seed,
            netid: job.netid,
            base: job.base.clone(),
        })
    }

    /// Where each role's signals come from.
    pub(super) fn sources(&self) -> BTreeMap<String, BTreeMap<String, Source>> {
        self.header
            .nodes
            .iter()
            .filter_map(|info| {
                Some((
                    info.role.clone(),
                    self.nodes.get(&info.name)?.launch.signals.clone(),
                ))
            })
            .collect()
    }

    /// A protocol instant in nanoseconds of the machine's monotonic clock.
    pub(super) fn monotonic_of(&self, at: tweedledum_core::time::ProtocolTime) -> u64 {
        self.began_ns
            .saturating_add(self.header.calendar.at_ns(self.header.genesis_ns, at))
    }
}

fn dialect_of(job: &Job<'_>, node: &Node) -> Option<Arc<dyn Dialect>> {
    let role = job.plan.roles.get(&node.role)?;
    job.dialects
        .iter()
        .find(|dialect| role.speaks.contains(dialect.name()))
        .cloned()
}

fn session(job: &Job<'_>, network: &Network<'_>, node: &Node) -> Option<Session> {
    let dialect = dialect_of(job, node)?;
    let address = network.socket(node, SESSION_PORT)?.parse().ok()?;
    let key = dialect.public_key(&launch::identity(job.seed, &node.name));
    Some(Session {
        address,
        key,
        dialect,
    })
}

fn header(
    ground: &Ground,
    job: &Job<'_>,
    genesis_ns: u64,
    started_unix_ns: u64,
    places: &BTreeMap<String, Place>,
) -> Result<Header, RunError> {
    let plan = job.plan;
    let roles = plan.roles.iter().map(|(name, role)| {
        let signals = role
            .signals
            .iter()
            .map(|(name, signal)| (name.clone(), signal.period));
        let pinged = job
            .dialects
            .iter()
            .any(|dialect| role.speaks.contains(dialect.name()));
        let pushed = role
            .signals
            .iter()
            .filter(|(_, signal)| matches!(signal.source, Source::Log { .. }));
        let pushed = pushed.map(|(name, _)| name.clone()).collect();
        let info = RoleInfo {
            signals: signals.collect(),
            expect_exit: role.expect_exit.clone(),
            pinged,
            pushed,
            events: role.events.clone(),
        };
        (name.clone(), info)
    });
    let faults = plan.timeline.iter().filter_map(|entry| match &entry.what {
        Deed::Fault(kind, _) => {
            let info = FaultInfo {
                kind: (*kind).to_owned(),
                must_be_felt: entry.must_be_felt,
            };
            Some((entry.name.clone(), info))
        }
        Deed::Heal(_) => None,
    });
    Ok(Header {
        format: FORMAT.to_owned(),
        run: ground.context.nonce.to_string(),
        boot: boot_id()?,
        started_unix_ns,
        plan: plan.name.clone(),
        plan_digest: plan.digest.clone(),
        release: job.release.name.clone(),
        executables: job.executables.clone(),
        substrate: "process/shared".to_owned(),
        genesis_ns,
        calendar: plan.calendar,
        nodes: plan
            .nodes
            .iter()
            .map(|node| NodeInfo {
                name: node.name.clone(),
                role: node.role.clone(),
                address: places
                    .get(&node.name)
                    .map(|place| place.address.clone())
                    .unwrap_or_default(),
                disk: node.disk,
            })
            .collect(),
        roles: roles.collect(),
        tolerates: plan.tolerates.clone(),
        expect: plan
            .expect
            .iter()
            .map(|expectation| ExpectInfo {
                kind: expectation.kind.to_owned(),
                params: expectation.params.clone(),
            })
            .collect(),
        faults: faults.collect(),
        schedule: schedule::resolve(plan, job.seed),
        control: job.control.cloned(),
        fixed_end: plan.until.is_some(),
    })
}
