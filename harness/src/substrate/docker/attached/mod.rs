//! A compose project as the place where a plan is run: its containers are there already, and stay.
//!
//! Nothing of the project is made or removed. Beside each node runs an agent of ours in the node's network namespace,
//! made anew for each of its lives, since an engine gives a container that it starts a new one. Its output is read from
//! the engine's log, from some epochs ago on: what a node says now may rest on what it said before.
//!
//! What is ours is recorded before it is made, as that of any run, and removed by the same means. Only nodes are touched
//! that a plan names, and what was stopped or paused of them is brought up again however the run ends.

mod alone;
mod deeds;
pub mod facts;
mod life;
pub mod project;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, select_all};
use tokio::sync::mpsc;
use tweedledum_core::capability::Capability;
use tweedledum_core::launch::Launch;
use tweedledum_core::run::Pace;

use super::container::{self, DockerError};
use super::ground::REMOVE_BOUND;
use super::image::own_image;
use super::inside::VOLUME;
use super::keeper::{AgentSpec, Keeper, Own};
use super::ledger::{Ledger, Role, Thing};
use super::link::AgentLink;
use super::node::{self, Node};
use super::remains::remove_recorded;
use super::run::Words;
use super::vantage::PodVantage;
use crate::clock::unix_ns;
use crate::observe::Observation;
use crate::observe::ready::ExecEnd;
use crate::substrate::process::Nonce;
use crate::substrate::{
    DiskHold, Doing, Ground, Identities, Life, NodePipes, Request, Spot, Substrate, Vantage,
};
use deeds::{Deed, Deeds};
use life::AttachedLife;
use project::{Member, Project};

/// What can be done to a node of a project. Disks and limits are the project's own.
pub const CAPABILITIES: &[Capability] = &[
    Capability::Kill,
    Capability::Start,
    Capability::Freeze,
    Capability::Flood,
    Capability::Operate,
];

/// How long the engine may take to tell the death of a node that cannot be joined: far more than the 60 ms that it takes.
const DEATH_BOUND: Duration = Duration::from_secs(2);

/// A project that faults are run against.
#[derive(Debug)]
pub struct AttachedGround {
    project: Project,
    own: Own,
    who: String,
    ledger: Ledger,
    /// What the ends of its networks have brought up again.
    again: Arc<Mutex<Vec<String>>>,
}

impl AttachedGround {
    /// Makes sure that our executable is on the project's engine. `who` tells others who this is.
    ///
    /// # Errors
    /// The engine refuses; its words.
    pub fn reach(
        project: Project,
        nonce: Nonce,
        executable: &Path,
        words: Words,
        who: String,
        ledger: Ledger,
    ) -> BoxFuture<'_, Result<Self, String>> {
        async move {
            let image = own_image(&project.engine, executable).await;
            let image = image.map_err(|error| error.to_string())?;
            Ok(Self {
                project,
                own: Own {
                    nonce,
                    image,
                    words,
                },
                who,
                ledger,
                again: Arc::default(),
            })
        }
        .boxed()
    }

    async fn make(&self, request: Request) -> Result<Arc<dyn Substrate>, String> {
        if let Some(seat) = request.seats.iter().find(|seat| seat.disk.is_some()) {
            return Err(format!(
                "the disk of {} is the project's own: what it holds is said in the compose file",
                seat.node
            ));
        }
        match self.furnish(&request).await {
            Ok(attached) => Ok(Arc::new(attached)),
            Err(error) => {
                let entries = self.ledger.entries();
                let removal = remove_recorded(&self.project.engine, &entries, REMOVE_BOUND).await;
                let mut told = vec![error.to_string()];
                told.extend(removal.left.iter().map(ToString::to_string));
                Err(told.join("; left behind: "))
            }
        }
    }

    async fn furnish(&self, request: &Request) -> Result<Attached, DockerError> {
        let engine = &self.project.engine;
        let agents = request.seats.iter().map(|seat| {
            let node = Some(seat.node.as_str());
            Thing::of(&self.own.nonce, Role::Agent, node)
        });
        let name = &self.project.name;
        let says = alone::labels(name, &self.who);
        let keeper = Keeper::begin(engine, &self.ledger, self.own.clone(), agents, says).await?;
        alone::make_sure(engine, name, Some(&self.own.nonce)).await?;
        for (node, member) in &self.project.members {
            engine.others().follow(&member.id, node);
        }
        let maker = Arc::new(Maker {
            project: self.project.clone(),
            keeper,
            again: Arc::clone(&self.again),
            deeds: Deeds::new(self.ledger.clone()),
            identities: request.identities,
            layer: request.layer,
            saw: request.saw.clone(),
        });
        let mut homes = BTreeMap::new();
        for seat in &request.seats {
            let Some(member) = self.project.members.get(&seat.node).cloned() else {
                return Err(DockerError::Spec(format!(
                    "the project has no {}",
                    seat.node
                )));
            };
            let (agent, link) = maker.agent(&seat.node, &member).await?;
            let home = Home {
                node: Node::existing(engine, &seat.node, &member.id),
                vantage: Arc::new(PodVantage::at(link, member.address)),
                agent: Mutex::new(agent),
                lived: Mutex::new(false),
                member,
            };
            homes.insert(seat.node.clone(), home);
        }
        Ok(Attached {
            since: self.project.facts.told_since(unix_ns()),
            maker,
            homes,
        })
    }
}

impl Ground for AttachedGround {
    fn name(&self) -> &'static str {
        "attached"
    }

    fn pace(&self) -> Pace {
        Pace::DOCKER
    }

    fn genesis_unix_ns(&self, earliest_unix_ns: u64) -> u64 {
        self.project.facts.epoch_from(earliest_unix_ns)
    }

    fn first_epoch(&self, genesis_unix_ns: u64) -> u64 {
        self.project.facts.epoch_at(genesis_unix_ns)
    }

    fn open(&self, request: Request) -> Doing<'_, Arc<dyn Substrate>> {
        self.make(request).boxed()
    }

    fn brought_up(&self) -> Vec<String> {
        lock(&self.again).clone()
    }
}

/// What it takes to make an agent.
#[derive(Debug)]
struct Maker {
    project: Project,
    keeper: Keeper,
    again: Arc<Mutex<Vec<String>>>,
    deeds: Deeds,
    identities: Identities,
    layer: Duration,
    saw: mpsc::Sender<Observation>,
}

impl Maker {
    /// Makes a node's agent in the network namespace of the life that the node has now.
    async fn agent(&self, node: &str, member: &Member) -> Result<(String, AgentLink), DockerError> {
        let spec = AgentSpec {
            node,
            address: member.address,
            identities: self.identities,
            seen: self.saw.clone(),
            hostname: None,
            connected: None,
            network: format!("container:{}", member.id),
            mounts: None,
            // It looks at a data volume in pods, and finds an empty one here.
            tmpfs: Some(HashMap::from([(VOLUME.to_owned(), String::new())])),
            rights: &[],
        };
        let (id, greeted) = self.keeper.agent(spec).await?;
        let timed = async {
            let link = greeted?;
            link.keep_time(self.layer).await?;
            Ok(link)
        };
        match timed.await {
            Ok(link) => Ok((id, link)),
            Err(error) => {
                // The next life's agent has the same name.
                if let Err(stays) = container::remove(&self.keeper.engine, &id).await {
                    tracing::warn!(%stays, "teardown looks again");
                }
                Err(error)
            }
        }
    }
}

/// What of a node outlives its lives.
#[derive(Debug)]
struct Home {
    member: Member,
    node: Node,
    vantage: Arc<PodVantage>,
    /// The agent's container.
    agent: Mutex<String>,
    /// Whether it had a life in this run.
    lived: Mutex<bool>,
}

/// A project with our agents beside its nodes.
#[derive(Debug)]
struct Attached {
    maker: Arc<Maker>,
    homes: BTreeMap<String, Home>,
    /// Since which second of 1970 logs are read. It is the same for all nodes: what one of them tells is followed in the
    /// logs of others.
    since: i32,
}

impl Attached {
    async fn begin(&self, node: &str) -> Result<(Arc<dyn Life>, NodePipes), String> {
        let home = self.homes.get(node).ok_or("no such node")?;
        let first = !std::mem::replace(&mut *lock(&home.lived), true);
        let begun = if first {
            self.adopt(node, home).await
        } else {
            let deed = self.maker.deeds.begin().await?;
            self.begin_again(node, home, &deed).await
        };
        let (life, pipes) = begun.map_err(|error| error.to_string())?;
        let life = AttachedLife::new(life, home.member.clone(), self.maker.deeds.clone());
        Ok((Arc::new(life), pipes))
    }

    /// The life that a node has already. Between the project's being found and its containers' being followed somebody may
    /// have done something to it.
    async fn adopt(&self, node: &str, home: &Home) -> Result<(node::Life, NodePipes), DockerError> {
        let container = &home.member.container;
        if home.node.state().await?.paused {
            return Err(DockerError::Spec(format!(
                "{container} is paused, and not by this run; `docker unpause {container}` continues it"
            )));
        }
        let project = &self.maker.project;
        project.still_there(node, &home.member).await?;
        home.node.adopt(self.since).await
    }

    async fn begin_again(
        &self,
        node: &str,
        home: &Home,
        deed: &Deed,
    ) -> Result<(node::Life, NodePipes), DockerError> {
        let (life, pipes) = home.node.start().await?;
        deed.up(&home.member).await;
        let project = &self.maker.project;
        project.still_there(node, &home.member).await?;
        if let Err(error) = self.renew(node, home).await {
            // Nobody joins the network of a node that has died at once, and that is a death and no failure of ours.
            let died = tokio::time::timeout(DEATH_BOUND, life.died()).await;
            died.map_err(|_| error)?;
        }
        Ok((life, pipes))
    }

    /// The agent of the life before is in a namespace that nothing is connected to any more.
    async fn renew(&self, node: &str, home: &Home) -> Result<(), DockerError> {
        home.vantage.take();
        let former = lock(&home.agent).clone();
        container::remove(&self.maker.project.engine, &former).await?;
        let (agent, link) = self.maker.agent(node, &home.member).await?;
        *lock(&home.agent) = agent;
        home.vantage.give(link);
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Substrate for Attached {
    fn spot(&self, node: &str) -> Option<Spot> {
        let member = &self.homes.get(node)?.member;
        Some(Spot {
            address: member.address,
            // Nobody is started on it, and nobody here looks into it.
            data: String::new(),
            network: member.network.clone(),
        })
    }

    fn vantage(&self, node: &str) -> Option<Arc<dyn Vantage>> {
        let home = self.homes.get(node)?;
        Some(Arc::clone(&home.vantage) as Arc<dyn Vantage>)
    }

    fn disk(&self, _node: &str) -> Option<Arc<dyn DiskHold>> {
        None
    }

    fn start(&self, launch: Launch) -> Doing<'_, (Arc<dyn Life>, NodePipes)> {
        async move { self.begin(&launch.node).await }.boxed()
    }

    fn run(&self, node: &str, argv: Vec<String>, bound: Duration) -> Doing<'_, ExecEnd> {
        let node = self.homes.get(node).map(|home| home.node.clone());
        async move {
            let node = node.ok_or("no such node")?;
            let ended = node.exec(argv, bound).await;
            ended.map_err(|error| error.to_string())
        }
        .boxed()
    }

    fn images(&self) -> BTreeMap<String, String> {
        self.maker.project.images()
    }

    fn outlives_runs(&self) -> bool {
        true
    }

    fn failed(&self) -> BoxFuture<'_, String> {
        let agents = self.homes.iter().map(|(name, home)| {
            async move {
                let why = home.vantage.lost().await;
                format!("the agent of {name} is gone: {why}")
            }
            .boxed()
        });
        let keeper = self.maker.keeper.failed().boxed();
        let all: Vec<BoxFuture<'_, String>> = agents.chain([keeper]).collect();
        async move { select_all(all).await.0 }.boxed()
    }

    fn tear_down(&self) -> BoxFuture<'_, Vec<String>> {
        async move {
            self.maker.deeds.end().await;
            let removal = self.maker.keeper.let_go(REMOVE_BOUND).await;
            lock(&self.maker.again).extend(removal.brought_up);
            removal.left.iter().map(ToString::to_string).collect()
        }
        .boxed()
    }
}
