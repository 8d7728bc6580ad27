//! What is ours of every run on an engine, whoever made its nodes: the keeper's container, the ledger, and the agents.
//!
//! Everything that will be made is recorded before the first of it is made. The keeper comes first, so that others see from
//! then on that the run lives, and goes last. What it does inside its container is in [`inside`](super::inside).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bollard::models::{ContainerCreateBody, HostConfig, Mount, NetworkingConfig};
use futures_util::StreamExt as _;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::container::{self, DockerError, attach, host_config, record, without_rights};
use super::engine::Engine;
use super::image::Image;
use super::ledger::{Entry, Ledger, Role, Thing};
use super::link::{AgentLink, Input, Piece};
use super::others;
use super::remains::{Removal, remove_recorded};
use super::run::Words;
use super::wire::Hello;
use crate::observe::{NodeName, Observation};
use crate::substrate::Identities;
use crate::substrate::process::Nonce;

/// How long an agent's first answer may take: its container was started, nothing else is.
const GREETING_BOUND: Duration = Duration::from_secs(20);

/// Who a run is on its engine, and what its own containers are made of.
#[derive(Clone, Debug)]
pub(super) struct Own {
    pub(super) nonce: Nonce,
    pub(super) image: Image,
    pub(super) words: Words,
}

/// A run's keeper.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) engine: Engine,
    pub(super) ledger: Ledger,
    pub(super) own: Own,
    /// Held open for the run's whole life; its end is what makes the keeper go.
    stream: Mutex<Option<Stream>>,
    /// Hears what others do to the run's containers, until these are removed.
    hearing: Mutex<JoinSet<()>>,
    /// Why the run cannot go on.
    failed: watch::Receiver<Option<String>>,
}

/// The keeper's input, and what reads its output.
struct Stream {
    _input: Input,
    _output: JoinSet<()>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stream")
    }
}

/// What an agent's container is made of.
#[derive(Debug)]
pub(super) struct AgentSpec<'a> {
    pub(super) node: &'a str,
    /// The address that it acts from.
    pub(super) address: IpAddr,
    /// Who it pings as.
    pub(super) identities: Identities,
    /// Where what it sees goes.
    pub(super) seen: mpsc::Sender<Observation>,
    /// Its host's name, where the network is its own.
    pub(super) hostname: Option<String>,
    /// How it is connected, where the network is its own.
    pub(super) connected: Option<NetworkingConfig>,
    /// The network that it is in, as engines write it.
    pub(super) network: String,
    /// Its volume, if it has one.
    pub(super) mounts: Option<Vec<Mount>>,
    /// What it has in memory instead.
    pub(super) tmpfs: Option<HashMap<String, String>>,
    /// The rights that it keeps.
    pub(super) rights: &'a [&'a str],
}

impl Keeper {
    /// Records the engine and everything that will be made, which is the keeper and `others`, and makes the keeper. What
    /// its labels say beside that is for others to read.
    pub(super) async fn begin(
        engine: &Engine,
        ledger: &Ledger,
        own: Own,
        others: impl IntoIterator<Item = Thing>,
        says: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, DockerError> {
        let (about, nonce) = (engine.about(), own.nonce);
        let (address, id) = (about.address.clone(), about.id.clone());
        record(ledger, Entry::Engine { address, id, nonce }).await?;
        let thing = Thing::of(&nonce, Role::Keeper, None);
        let mut things = vec![thing.clone()];
        things.extend(others);
        record(ledger, Entry::Planned { things }).await?;
        let mut labels = thing.labels(&nonce, None);
        labels.extend(says);
        let host = HostConfig {
            network_mode: Some("none".to_owned()),
            ..host_config()
        };
        let body = own.container(&own.words.keeper, labels, host, &[]);
        let id = container::create(engine, ledger, &thing, body).await?;
        let (input, mut output) = attach(engine, &id, true).await?;
        container::start(engine, &id, "the run's keeper").await?;
        let (tell, failed) = watch::channel(None);
        let mut hearing = JoinSet::new();
        hearing.spawn(others::watch(engine.clone(), tell.clone()));
        let mut reading = JoinSet::new();
        reading.spawn(async move {
            // It says nothing, but what is not read would hold the connection up.
            while let Some(Ok(piece)) = output.next().await {
                if let Piece::Err(words) = piece {
                    tracing::warn!(words = %String::from_utf8_lossy(&words), "the keeper complains");
                }
            }
            let why = "the run's keeper is gone, so others may take the run for dead";
            tell.send_replace(Some(why.to_owned()));
        });
        let stream = Stream {
            _input: input,
            _output: reading,
        };
        Ok(Self {
            engine: engine.clone(),
            ledger: ledger.clone(),
            own,
            stream: Mutex::new(Some(stream)),
            hearing: Mutex::new(hearing),
            failed,
        })
    }

    /// Makes a node's agent, starts it and greets it. Its container's id is told also where it could not be greeted, for
    /// whoever makes another of the same name.
    pub(super) async fn agent(
        &self,
        spec: AgentSpec<'_>,
    ) -> Result<(String, Result<AgentLink, DockerError>), DockerError> {
        let node = spec.node;
        let thing = Thing::of(&self.own.nonce, Role::Agent, Some(node));
        let labels = thing.labels(&self.own.nonce, Some(node));
        let words = &self.own.words.agent;
        let host = HostConfig {
            network_mode: Some(spec.network),
            mounts: spec.mounts,
            tmpfs: spec.tmpfs,
            ..host_config()
        };
        let body = ContainerCreateBody {
            hostname: spec.hostname,
            networking_config: spec.connected,
            ..self.own.container(words, labels, host, spec.rights)
        };
        let id = container::create(&self.engine, &self.ledger, &thing, body).await?;
        let hello = Hello {
            node: node.to_owned(),
            address: spec.address,
            watcher: spec.identities.watcher,
            prober: spec.identities.prober,
            netid: spec.identities.netid,
        };
        let greeted = self.greet(&id, hello, spec.seen).await;
        Ok((id, greeted))
    }

    async fn greet(
        &self,
        id: &str,
        hello: Hello,
        seen: mpsc::Sender<Observation>,
    ) -> Result<AgentLink, DockerError> {
        let (input, output) = attach(&self.engine, id, true).await?;
        container::start(&self.engine, id, &format!("the agent of {}", hello.node)).await?;
        let node = NodeName::from(hello.node.as_str());
        let link = AgentLink::open(&node, input, output, seen);
        link.greet(hello, GREETING_BOUND).await?;
        Ok(link)
    }

    /// Waits until the run cannot go on: its keeper's stream ends, or somebody else touches its containers. Returns why.
    pub(super) async fn failed(&self) -> String {
        let mut failed = self.failed.clone();
        let why = failed.wait_for(Option::is_some).await;
        match why.map(|why| why.clone()) {
            Ok(Some(why)) => why,
            // Senders that are dropped have ended with the run itself.
            _ => std::future::pending().await,
        }
    }

    /// Removes everything of the run, looks whether anything is left, and lets the keeper go.
    pub(super) async fn let_go(&self, bound: Duration) -> Removal {
        let hearing = || self.hearing.lock().unwrap_or_else(PoisonError::into_inner);
        hearing().abort_all();
        let removal = remove_recorded(&self.engine, &self.ledger.entries(), bound).await;
        if removal.left.is_empty()
            && let Err(error) = record(&self.ledger, Entry::Gone).await
        {
            tracing::warn!(%error, "guards will look once more");
        }
        self.stream
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        removal
    }
}

impl Own {
    /// A container of our own executable, to which we speak through its input. It writes nowhere but into its volumes.
    fn container(
        &self,
        words: &[String],
        labels: HashMap<String, String>,
        host: HostConfig,
        rights: &[&str],
    ) -> ContainerCreateBody {
        ContainerCreateBody {
            image: Some(self.image.id.clone()),
            cmd: Some(words.to_vec()),
            labels: Some(labels),
            open_stdin: Some(true),
            stdin_once: Some(true),
            attach_stdin: Some(true),
            host_config: Some(HostConfig {
                readonly_rootfs: Some(true),
                ..without_rights(host, rights)
            }),
            ..ContainerCreateBody::default()
        }
    }
}
