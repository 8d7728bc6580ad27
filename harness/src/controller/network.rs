//! A network before its first process: addresses, directories, network files, keys, and the header of its history.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tweedledum_core::history::{
    ExpectInfo, FORMAT, FaultInfo, Header, HealInfo, NodeInfo, RoleInfo,
};
use tweedledum_core::launch::{self, Launch, Network, Place};
use tweedledum_core::plan::model::{Deed, Node, Source, Stop};
use tweedledum_core::run;
use tweedledum_core::schedule::{Action, Schedule};

use super::{Host, Job, RunError};
use crate::agent::Dialect;
use crate::agent::request::PingAt;
use crate::clock::{monotonic_ns, unix_ns};
use crate::store::{NodeDirectory, ReleaseDirectory, write_atomic};
use crate::substrate::process::identity::boot_id;
use crate::substrate::{DiskNeed, Seat, Substrate};

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
    /// What its disk holds from the start on, in bytes.
    pub(super) disk_limit: Option<u64>,
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

impl Session {
    /// Whom to ping.
    pub(super) fn ping_at(&self) -> PingAt {
        PingAt {
            address: self.address,
            key: self.key,
            dialect: self.dialect.name().to_owned(),
        }
    }
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
    /// Seed of the run.
    pub(super) seed: u64,
    /// Network id.
    pub(super) netid: u32,
    /// How long after the start of the run all nodes may have been started.
    pub(super) started_by_ns: u64,
    /// How often a signal is polled in a layer.
    pub(super) polls_per_layer: u32,
}

/// Makes every node's directory, and says what will be done to its disk.
pub(super) fn seats(
    job: &Job<'_>,
    schedule: &Schedule,
    directory: &ReleaseDirectory,
) -> Result<Vec<Seat>, RunError> {
    let mut seats = Vec::new();
    for node in &job.plan.nodes {
        let steps = schedule.steps.iter();
        let faults: Vec<&Action> = steps
            .map(|step| &step.action)
            .filter(|action| action.holds_disk() && action.node() == node.name)
            .collect();
        let largest_cap = faults.iter().map(|action| match action {
            Action::CapDisk { bytes, .. } => *bytes,
            _ => 0,
        });
        let own = schedule.steps.iter().map(|step| &step.action);
        let own = own.filter(|action| action.node() == node.name);
        let limits = own.filter_map(Action::limits);
        let held = node.disk.is_some() || !faults.is_empty();
        seats.push(Seat {
            node: node.name.clone(),
            directory: directory.node(&node.name)?,
            disk: held.then_some(DiskNeed {
                limit: node.disk,
                largest_cap: largest_cap.max().unwrap_or(0),
            }),
            limits: limits.collect(),
            image: job
                .plan
                .roles
                .get(&node.role)
                .and_then(|role| role.image.clone()),
        });
    }
    Ok(seats)
}

impl Site {
    /// Fixes genesis and writes every node's network file. Starts nothing.
    pub(super) fn prepare(
        host: &Host,
        job: &Job<'_>,
        schedule: Schedule,
        substrate: &dyn Substrate,
        mut directories: BTreeMap<String, NodeDirectory>,
    ) -> Result<Self, RunError> {
        let plan = job.plan;
        let (began_ns, began_unix_ns) = (monotonic_ns(), unix_ns());
        let pace = job.ground.pace();
        let earliest_unix_ns = began_unix_ns.saturating_add(run::genesis_after_ns(plan, pace));
        let genesis_unix_ns = job.ground.genesis_unix_ns(earliest_unix_ns);
        let genesis_ns = genesis_unix_ns.saturating_sub(began_unix_ns);
        let mut places = BTreeMap::new();
        for node in &plan.nodes {
            let spot = substrate.spot(&node.name);
            let spot = spot.ok_or_else(|| RunError::NoPlace(node.name.clone()))?;
            let secret = launch::identity(job.seed, &node.name);
            let keys = dialect_of(job, node).map(|dialect| {
                let id = dialect.signing_key(&secret);
                (hex::encode(dialect.public_key(&secret)), hex::encode(id))
            });
            let (key, id) = keys.unwrap_or_default();
            let place = Place {
                address: spot.address.to_string(),
                data: spot.data,
                network: spot.network,
                key,
                id,
            };
            places.insert(node.name.clone(), place);
        }
        let network = Network {
            plan,
            release: job.release,
            seed: job.seed,
            netid: job.netid,
            genesis_unix_ns,
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
                    disk_limit: node.disk,
                    session,
                    api: api.and_then(|api| api.parse().ok()),
                },
            );
        }
        let mut header = header(host, job, schedule, genesis_ns, began_unix_ns, &places)?;
        header.nodes_stay = substrate.outlives_runs();
        header.executables.extend(substrate.images());
        Ok(Self {
            header,
            began_ns,
            began_unix_ns,
            nodes,
            seed: job.seed,
            netid: job.netid,
            started_by_ns: pace.start_all_ns(plan.nodes.len()),
            polls_per_layer: pace.polls_per_layer,
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
    host: &Host,
    job: &Job<'_>,
    schedule: Schedule,
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
    let heals = plan.timeline.iter().filter_map(|entry| match &entry.what {
        Deed::Heal(of) => {
            let (at, of) = (entry.at, of.clone());
            Some((entry.name.clone(), HealInfo { at, of }))
        }
        Deed::Fault(..) => None,
    });
    Ok(Header {
        format: FORMAT.to_owned(),
        run: host.context.nonce.to_string(),
        boot: boot_id()?,
        started_unix_ns,
        plan: plan.name.clone(),
        plan_digest: plan.digest.clone(),
        release: job.release.name.clone(),
        executables: job.executables.digests().clone(),
        substrate: job.ground.name().to_owned(),
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
        heals: heals.collect(),
        schedule,
        control: job.control.cloned(),
        fixed_end: plan.until.is_some(),
        nodes_stay: false,
        first_epoch: job
            .ground
            .first_epoch(started_unix_ns.saturating_add(genesis_ns)),
    })
}
