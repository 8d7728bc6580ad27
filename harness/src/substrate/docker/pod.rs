//! One node's pod: the agent's container with everything that outlives the node's own.
//!
//! The agent owns the network namespace and with it the address and every rule in it, the process
//! namespace, and the data volume, which would be emptied when its last container stops. So all of
//! that survives the node's kill and restart. The node is never process 1: signals that it does
//! not handle kill it as they do anywhere else, and its orphans are reaped.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bollard::models::{
    EndpointIpamConfig, EndpointSettings, Mount, MountType, MountVolumeOptions, NetworkingConfig,
    VolumeCreateRequest,
};
use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::sync::mpsc;

use super::container::{DockerError, record};
use super::inside::VOLUME;
use super::keeper::{AgentSpec, Keeper};
use super::ledger::{Entry, Role, Thing};
use super::link::AgentLink;
use super::node::{Node, NodeSpec};
use super::run::DockerRun;
use crate::observe::Observation;
use crate::substrate::Identities;
use crate::substrate::process::Nonce;

/// How a node's data is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// In memory, at most this much, in bytes: what a plan that changes disks needs. What is
    /// written counts as memory of whoever wrote it.
    Sized(u64),
    /// On the engine's disk.
    Plain,
}

/// What a pod is made of.
#[derive(Debug, Clone)]
pub struct PodSpec {
    /// The node's name, one of the run's.
    pub node: String,
    /// Its data.
    pub data: Data,
    /// Who pings it.
    pub identities: Identities,
    /// Where what the agent sees goes.
    pub seen: mpsc::Sender<Observation>,
    /// Whether it must look into processes that have more rights than it: `SYS_PTRACE`.
    pub looks_into: bool,
}

/// A pod. A handle that can be cloned.
#[derive(Clone, Debug)]
pub struct Pod(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) run: DockerRun,
    pub(super) node: String,
    /// The agent's container.
    pub(super) agent: String,
    address: Ipv4Addr,
    data: Data,
    link: AgentLink,
    took: Duration,
}

impl Pod {
    pub(super) async fn make(run: &DockerRun, spec: PodSpec) -> Result<Self, DockerError> {
        let began = Instant::now();
        let PodSpec {
            node,
            data,
            identities,
            seen,
            looks_into,
        } = spec;
        let (keeper, network) = (&run.0.keeper, &run.0.network);
        let address = run.address(&node).ok_or_else(|| {
            DockerError::Spec(format!(
                "`{node}` is none of the run's nodes, or its subnet is full"
            ))
        })?;
        make_volume(keeper, &node, data).await?;
        let endpoint = EndpointSettings {
            ipam_config: Some(EndpointIpamConfig {
                ipv4_address: Some(address.to_string()),
                ..EndpointIpamConfig::default()
            }),
            ..EndpointSettings::default()
        };
        // NET_ADMIN is kept for link faults, which a later issue brings through the same agent. Nothing uses it today.
        let rights: &[&str] = if looks_into {
            &["NET_ADMIN", "SYS_PTRACE"]
        } else {
            &["NET_ADMIN"]
        };
        let agent = AgentSpec {
            node: &node,
            address: address.into(),
            identities,
            seen,
            hostname: Some(node.clone()),
            connected: Some(NetworkingConfig {
                endpoints_config: Some(HashMap::from([(network.clone(), endpoint)])),
            }),
            network: network.clone(),
            mounts: Some(vec![mount(&keeper.own.nonce, &node, VOLUME)]),
            tmpfs: None,
            rights,
        };
        let (agent, link) = keeper.agent(agent).await?;
        let link = link?;
        let took = began.elapsed();
        Ok(Self(Arc::new(Inner {
            run: run.clone(),
            node,
            agent,
            address,
            data,
            link,
            took,
        })))
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.0.node
    }

    /// The pod's address.
    pub fn address(&self) -> Ipv4Addr {
        self.0.address
    }

    /// How the node's data is kept.
    pub fn data(&self) -> Data {
        self.0.data
    }

    /// The agent.
    pub fn agent(&self) -> &AgentLink {
        &self.0.link
    }

    /// How long it took to make.
    pub fn took(&self) -> Duration {
        self.0.took
    }

    /// Makes the node's container. It is not started yet.
    pub fn node(&self, spec: NodeSpec) -> BoxFuture<'_, Result<Node, DockerError>> {
        Node::make(self, spec).boxed()
    }
}

/// A mount of a node's data volume, without what an image has at that place. It has the volume's labels, because an engine
/// that is still making a container when the volume is removed makes it anew, and by its labels it is found.
pub(super) fn mount(nonce: &Nonce, node: &str, target: &str) -> Mount {
    let volume = Thing::of(nonce, Role::Data, Some(node));
    Mount {
        typ: Some(MountType::VOLUME),
        target: Some(target.to_owned()),
        volume_options: Some(MountVolumeOptions {
            no_copy: Some(true),
            labels: Some(volume.labels(nonce, Some(node))),
            ..MountVolumeOptions::default()
        }),
        source: Some(volume.name),
        ..Mount::default()
    }
}

async fn make_volume(keeper: &Keeper, node: &str, data: Data) -> Result<(), DockerError> {
    let (engine, nonce) = (&keeper.engine, &keeper.own.nonce);
    let thing = Thing::of(nonce, Role::Data, Some(node));
    let options = match data {
        Data::Plain => HashMap::new(),
        Data::Sized(bytes) => HashMap::from(
            [
                ("type", "tmpfs"),
                ("device", "tmpfs"),
                ("o", format!("size={bytes},mode=0777").as_str()),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
        ),
    };
    let request = VolumeCreateRequest {
        name: Some(thing.name.clone()),
        driver: Some("local".to_owned()),
        driver_opts: Some(options),
        labels: Some(thing.labels(nonce, Some(node))),
        ..VolumeCreateRequest::default()
    };
    let made = engine.docker().create_volume(request).await;
    let made = made
        .map_err(|error| DockerError::engine(format!("make the volume {}", thing.name), &error))?;
    let id = made.name;
    record(&keeper.ledger, Entry::Made { thing, id }).await
}
