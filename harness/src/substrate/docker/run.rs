//! A run on an engine: its keeper, its network, its pods.
//!
//! What it begins and ends with is its `keeper`'s.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};
use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::container::{DockerError, record};
use super::engine::{Engine, status_of};
use super::image::Image;
use super::keeper::{Keeper, Own};
use super::ledger::{Entry, Ledger, Role, Thing};
use super::pod::{Pod, PodSpec};
use super::remains::{Removal, remove_recorded};
use super::subnet::{self, Subnet};
use crate::substrate::process::Nonce;

/// Subnets to try: each that is refused was taken between looking and asking.
const SUBNETS_TRIED: usize = 16;

/// Pods that are made at once, for each processor of the engine: making one keeps a processor busy
/// for some 250 ms, and more at once only make the slowest slower.
const AT_ONCE_PER_CPU: usize = 4;

/// How long removing the little may take that a run made which could not begin.
const UNMAKE_BOUND: Duration = Duration::from_secs(10);

/// The words that make our own executable be what containers of a run need, after its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// To be an agent: [`agent_main`](super::inside::agent_main).
    pub agent: Vec<String>,
    /// To be a keeper: [`keeper_main`](super::inside::keeper_main).
    pub keeper: Vec<String>,
}

/// What a run on an engine needs to begin.
#[derive(Clone, Debug)]
pub struct RunSpec {
    /// The run's nonce.
    pub nonce: Nonce,
    /// The names of its nodes; pod `index` gets the address of its index.
    pub nodes: Vec<String>,
    /// Our own image.
    pub image: Image,
    /// How it becomes agent and keeper.
    pub words: Words,
}

/// A run on an engine. A handle that can be cloned.
#[derive(Clone, Debug)]
pub struct DockerRun(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) keeper: Keeper,
    nodes: Vec<String>,
    pub(super) network: String,
    subnet: Subnet,
    at_once: Semaphore,
}

/// What became of a pod that was being made; for progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The node.
    pub node: String,
    /// How many pods are made now.
    pub made: usize,
    /// How many will be.
    pub of: usize,
}

impl DockerRun {
    /// Records what will be made, then makes the keeper and the network. What was made is removed
    /// again if that fails.
    pub fn begin<'a>(
        engine: &'a Engine,
        spec: RunSpec,
        ledger: &'a Ledger,
    ) -> BoxFuture<'a, Result<Self, DockerError>> {
        async move {
            let made = Self::make(engine, spec, ledger).await;
            if made.is_err() {
                for left in remove_recorded(engine, &ledger.entries(), UNMAKE_BOUND)
                    .await
                    .left
                {
                    tracing::warn!(%left, "a run that could not begin left something");
                }
            }
            made
        }
        .boxed()
    }

    async fn make(engine: &Engine, spec: RunSpec, ledger: &Ledger) -> Result<Self, DockerError> {
        let RunSpec {
            nonce,
            nodes,
            image,
            words,
        } = spec;
        for name in &nodes {
            check_name(name)?;
        }
        let of_nodes = nodes.iter().flat_map(|node| {
            [Role::Data, Role::Agent, Role::Node].map(|role| Thing::of(&nonce, role, Some(node)))
        });
        let things = [Thing::of(&nonce, Role::Network, None)];
        let things = things.into_iter().chain(of_nodes);
        let own = Own {
            nonce,
            image,
            words,
        };
        let keeper = Keeper::begin(engine, ledger, own, things, []).await?;
        let (network, subnet) = connect(&keeper, nodes.len()).await?;
        let cpus = usize::try_from(engine.about().cpus).unwrap_or(1).max(1);
        Ok(Self(Arc::new(Inner {
            keeper,
            nodes,
            network,
            subnet,
            at_once: Semaphore::new(AT_ONCE_PER_CPU * cpus),
        })))
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.0.keeper.engine
    }

    /// The address that a node's pod has, by its place among the run's nodes.
    pub fn address(&self, node: &str) -> Option<std::net::Ipv4Addr> {
        let index = self.0.nodes.iter().position(|name| name == node)?;
        self.0.subnet.pod(index)
    }

    /// Makes one pod.
    pub fn pod(&self, spec: PodSpec) -> BoxFuture<'_, Result<Pod, DockerError>> {
        async move {
            let _turn = self
                .0
                .at_once
                .acquire()
                .await
                .map_err(|error| DockerError::Spec(error.to_string()))?;
            Pod::make(self, spec).await
        }
        .boxed()
    }

    /// Makes many pods at once, as the engine can stand; tells each that is made. After a
    /// failure teardown removes what was made.
    pub async fn pods(
        &self,
        specs: Vec<PodSpec>,
        mut progress: impl FnMut(&Progress),
    ) -> Result<Vec<Pod>, DockerError> {
        let of = specs.len();
        let mut making = JoinSet::new();
        for (index, spec) in specs.into_iter().enumerate() {
            let run = self.clone();
            making.spawn(async move { (index, run.pod(spec).await) });
        }
        let mut pods: Vec<Option<Pod>> = (0..of).map(|_| None).collect();
        let (mut made, mut failed) = (0, None);
        // All are waited for, also after a failure: a request that is given up in the middle may
        // be carried out after teardown has looked.
        while let Some(joined) = making.join_next().await {
            let joined = joined.map_err(|error| DockerError::Spec(error.to_string()));
            match joined.and_then(|(index, pod)| Ok((index, pod?))) {
                Ok((index, pod)) => {
                    made += 1;
                    progress(&Progress {
                        node: pod.name().to_owned(),
                        made,
                        of,
                    });
                    pods[index] = Some(pod);
                }
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(pods.into_iter().flatten().collect()),
        }
    }

    /// Removes everything of the run, and looks whether anything is left.
    pub async fn tear_down(&self, bound: Duration) -> Removal {
        self.0.keeper.let_go(bound).await
    }
}

fn check_name(name: &str) -> Result<(), DockerError> {
    let fits = !name.is_empty()
        && name.len() <= 63
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    fits.then_some(()).ok_or_else(|| {
        DockerError::Spec(format!(
            "`{name}` cannot name a container: 1 to 63 letters, digits, `-`, `_` or `.`"
        ))
    })
}

/// Makes the run's network on a subnet that nobody else uses. It leads nowhere else.
async fn connect(keeper: &Keeper, nodes: usize) -> Result<(String, Subnet), DockerError> {
    let (engine, nonce) = (&keeper.engine, &keeper.own.nonce);
    let thing = Thing::of(nonce, Role::Network, None);
    let what = || "make the run's network".to_owned();
    let networks = engine.docker().list_networks(None).await;
    let networks = networks.map_err(|error| DockerError::engine("list its networks", &error))?;
    let mut taken: Vec<Subnet> = networks
        .into_iter()
        .filter_map(|network| network.ipam?.config)
        .flatten()
        .filter_map(|config| Subnet::parse(config.subnet.as_deref()?))
        .collect();
    // Routes of this machine matter only where the engine is on it; elsewhere they cost a few
    // candidates of thousands.
    if let Ok(routes) = fs_err::read_to_string(Path::new("/proc/net/route")) {
        taken.extend(subnet::parse_routes(&routes));
    }
    let mut refused = None;
    for subnet in subnet::free(nonce, nodes, &taken).take(SUBNETS_TRIED) {
        let config = IpamConfig {
            subnet: Some(subnet.to_string()),
            ..IpamConfig::default()
        };
        let request = NetworkCreateRequest {
            name: thing.name.clone(),
            driver: Some("bridge".to_owned()),
            internal: Some(true),
            ipam: Some(Ipam {
                config: Some(vec![config]),
                ..Ipam::default()
            }),
            labels: Some(thing.labels(nonce, None)),
            ..NetworkCreateRequest::default()
        };
        match engine.docker().create_network(request).await {
            Ok(made) => {
                record(
                    &keeper.ledger,
                    Entry::Made {
                        thing,
                        id: made.id.clone(),
                    },
                )
                .await?;
                return Ok((made.id, subnet));
            }
            // The words differ between versions, but all of them say this.
            Err(error) if status_of(&error).is_some() && error.to_string().contains("overlap") => {
                refused = Some(error);
            }
            Err(error) => return Err(DockerError::engine(what(), &error)),
        }
    }
    Err(match refused {
        Some(error) => DockerError::engine(what(), &error),
        None => DockerError::Engine {
            what: what(),
            why: "every subnet of 10.0.0.0/8 overlaps one of its networks or a route of this machine; \
                  remove networks that nobody needs (`docker network prune`)"
                .to_owned(),
            status: None,
        },
    })
}
