//! The Docker substrate behind the seam: one engine and image per run, one network of pods per release.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, select_all};
use tweedledum_core::launch::{Launch, Program};
use tweedledum_core::run::Pace;

use super::engine::Engine;
use super::gate::Gate;
use super::held::{HeldDisk, size_of};
use super::image::{Image, own_image, users_image};
use super::ledger::Ledger;
use super::life::ContainerLife;
use super::node::{Node, NodeSpec};
use super::pod::{Data, Pod, PodSpec};
use super::run::{DockerRun, RunSpec, Words};
use super::vantage::PodVantage;
use crate::observe::ready::ExecEnd;
use crate::substrate::process::Nonce;
use crate::substrate::{
    DiskHold, DiskNeed, Doing, Executables, Ground, Life, NodePipes, Request, Spot, Substrate,
    Vantage,
};

/// Where a node finds its data and its network file.
const DATA: &str = "/data";
const NETWORK: &str = "/run/tweedledum/network.json";

/// How long removing everything of a release may take.
pub const REMOVE_BOUND: Duration = Duration::from_secs(30);

/// Containers on an engine.
#[derive(Debug)]
pub struct DockerGround {
    engine: Engine,
    image: Image,
    words: Words,
    nonce: Nonce,
    ledger: Ledger,
    /// The images that roles name, by name. A tag can move while a run lasts, and a comparison speaks of one program, so
    /// each is looked up once for all releases.
    users: tokio::sync::Mutex<BTreeMap<String, Image>>,
}

impl DockerGround {
    /// Reaches the engine and makes sure that our executable is on it. What will be made there goes into `ledger` first.
    ///
    /// # Errors
    /// No engine, or one that refuses; what to do stands in the text.
    pub fn reach(
        nonce: Nonce,
        executable: &Path,
        words: Words,
        ledger: Ledger,
    ) -> BoxFuture<'_, Result<Self, String>> {
        async move {
            let engine = Engine::find().await.map_err(|error| error.to_string())?;
            let image = own_image(&engine, executable).await;
            let image = image.map_err(|error| error.to_string())?;
            Ok(Self {
                engine,
                image,
                words,
                nonce,
                ledger,
                users: tokio::sync::Mutex::default(),
            })
        }
        .boxed()
    }

    async fn make(&self, request: Request) -> Result<Arc<dyn Substrate>, String> {
        let spec = RunSpec {
            nonce: self.nonce,
            nodes: request.seats.iter().map(|seat| seat.node.clone()).collect(),
            image: self.image.clone(),
            words: self.words.clone(),
        };
        let run = DockerRun::begin(&self.engine, spec, &self.ledger).await;
        let run = run.map_err(|error| error.to_string())?;
        match self.furnish(&run, request).await {
            Ok(network) => Ok(Arc::new(network)),
            Err(why) => {
                let left = run.tear_down(REMOVE_BOUND).await.left;
                let left: Vec<String> = left.iter().map(ToString::to_string).collect();
                if left.is_empty() {
                    return Err(why);
                }
                Err(format!("{why}; left behind: {}", left.join("; ")))
            }
        }
    }

    /// Makes sure that the images of roles are on the engine, each once; by node.
    async fn users_images(&self, request: &Request) -> Result<BTreeMap<String, Image>, String> {
        let mut found = self.users.lock().await;
        let mut users = BTreeMap::new();
        for seat in &request.seats {
            let Some(asked) = &seat.image else { continue };
            let image = if let Some(image) = found.get(&asked.name) {
                image.clone()
            } else {
                let image = users_image(&self.engine, &asked.name, asked.pull).await;
                let image =
                    image.map_err(|error| format!("{} cannot be started: {error}", seat.node))?;
                found.insert(asked.name.clone(), image.clone());
                image
            };
            users.insert(seat.node.clone(), image);
        }
        Ok(users)
    }

    async fn furnish(&self, run: &DockerRun, request: Request) -> Result<Network, String> {
        let users = self.users_images(&request).await?;
        let needs: Vec<Option<DiskNeed>> = request.seats.iter().map(|seat| seat.disk).collect();
        let specs = request.seats.iter().map(|seat| PodSpec {
            node: seat.node.clone(),
            data: seat
                .disk
                .map_or(Data::Plain, |need| Data::Sized(size_of(need))),
            identities: request.identities,
            seen: request.saw.clone(),
            // Into the processes of another user, or with rights of their own, it cannot look without.
            looks_into: seat.image.is_some() && !seat.limits.is_empty(),
        });
        let pods = run.pods(specs.collect(), |progress| {
            tracing::debug!(?progress, "a pod is made");
        });
        let pods = pods.await.map_err(|error| error.to_string())?;
        let mut homes = BTreeMap::new();
        for (pod, need) in pods.into_iter().zip(needs) {
            let timed = pod.agent().keep_time(request.layer).await;
            timed.map_err(|error| error.to_string())?;
            let disk = match need {
                Some(need) => Some(Arc::new(HeldDisk::hold(&pod, need).await?)),
                None => None,
            };
            let vantage = Arc::new(PodVantage::new(&pod));
            let name = pod.name().to_owned();
            homes.insert(name, Home { pod, vantage, disk });
        }
        Ok(Network {
            run: run.clone(),
            image: self.image.clone(),
            users,
            base: request.base,
            executables: request.executables,
            images: tokio::sync::Mutex::default(),
            homes,
            nodes: Mutex::default(),
            gate: Gate::default(),
        })
    }
}

impl Ground for DockerGround {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn pace(&self) -> Pace {
        Pace::DOCKER
    }

    fn open(&self, request: Request) -> Doing<'_, Arc<dyn Substrate>> {
        self.make(request).boxed()
    }
}

/// What of a node outlives its lives.
#[derive(Debug)]
struct Home {
    pod: Pod,
    vantage: Arc<PodVantage>,
    disk: Option<Arc<HeldDisk>>,
}

/// The containers of one release.
#[derive(Debug)]
struct Network {
    run: DockerRun,
    image: Image,
    /// The images that roles name, by node.
    users: BTreeMap<String, Image>,
    base: PathBuf,
    executables: Executables,
    /// Images of the plan's own executables, by the plan's names for them.
    images: tokio::sync::Mutex<BTreeMap<String, Image>>,
    homes: BTreeMap<String, Home>,
    /// Nodes that had a life.
    nodes: Mutex<BTreeMap<String, Node>>,
    /// The end waits for nodes that are being made.
    gate: Gate,
}

impl Network {
    fn nodes(&self) -> MutexGuard<'_, BTreeMap<String, Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn begin(&self, launch: Launch) -> Result<(Arc<dyn Life>, NodePipes), String> {
        let _inside = self.gate.enter().await?;
        let home = self.homes.get(&launch.node).ok_or("no such node")?;
        let known = self.nodes().get(&launch.node).cloned();
        // A later life is one of the same container, on what it has left there.
        let node = if let Some(node) = known {
            node
        } else {
            let node = home.pod.node(self.spec(&launch).await?).await;
            let node = node.map_err(|error| error.to_string())?;
            self.nodes().insert(launch.node.clone(), node.clone());
            node
        };
        let agent = home.pod.agent().clone();
        let oom_kills = agent.oom_kills().await.unwrap_or_default();
        let (life, pipes) = node.start().await.map_err(|error| error.to_string())?;
        let life = ContainerLife::new(life, Some(agent), oom_kills);
        Ok((Arc::new(life), pipes))
    }

    async fn spec(&self, launch: &Launch) -> Result<NodeSpec, String> {
        let (image, entry) = match (&launch.image, self.users.get(&launch.node)) {
            (Some(asked), Some(image)) => (image.clone(), asked.entry.clone()),
            _ => match &launch.program {
                Program::Path(path) => (self.image_of(path).await?, None),
                Program::Own | Program::Image => (self.image.clone(), None),
            },
        };
        let replace_entry_point = entry.is_some();
        let file = format!("{:#}\n", launch.network);
        Ok(NodeSpec {
            image,
            command: entry.into_iter().chain(launch.args.clone()).collect(),
            replace_entry_point,
            env: launch.env.clone(),
            data: DATA.to_owned(),
            files: BTreeMap::from([(NETWORK.to_owned(), file.into_bytes())]),
        })
    }

    /// An executable of the plan's own becomes an image as ours does.
    async fn image_of(&self, name: &str) -> Result<Image, String> {
        let mut images = self.images.lock().await;
        if let Some(image) = images.get(name) {
            return Ok(image.clone());
        }
        let image = own_image(self.run.engine(), &self.base.join(name)).await;
        let image = image.map_err(|error| error.to_string())?;
        // Read once more, as it lies beside the libraries that it names, and so compared with what was read first.
        if let Some(held) = self.executables.get(name) {
            let checked = tokio::task::spawn_blocking(move || held.check_path()).await;
            let checked = checked.map_err(|error| error.to_string())?;
            checked.map_err(|error| error.to_string())?;
        }
        images.insert(name.to_owned(), image.clone());
        Ok(image)
    }
}

impl Substrate for Network {
    fn spot(&self, node: &str) -> Option<Spot> {
        let home = self.homes.get(node)?;
        Some(Spot {
            address: home.pod.address().into(),
            data: DATA.to_owned(),
            network: NETWORK.to_owned(),
        })
    }

    fn vantage(&self, node: &str) -> Option<Arc<dyn Vantage>> {
        let home = self.homes.get(node)?;
        Some(Arc::clone(&home.vantage) as Arc<dyn Vantage>)
    }

    fn disk(&self, node: &str) -> Option<Arc<dyn DiskHold>> {
        let disk = self.homes.get(node)?.disk.as_ref()?;
        Some(Arc::clone(disk) as Arc<dyn DiskHold>)
    }

    fn start(&self, launch: Launch) -> Doing<'_, (Arc<dyn Life>, NodePipes)> {
        self.begin(launch).boxed()
    }

    fn run(&self, node: &str, argv: Vec<String>, bound: Duration) -> Doing<'_, ExecEnd> {
        let node = self.nodes().get(node).cloned();
        async move {
            let node = node.ok_or("it was never started")?;
            let ended = node.exec(argv, bound).await;
            ended.map_err(|error| error.to_string())
        }
        .boxed()
    }

    fn images(&self) -> BTreeMap<String, String> {
        let images = self.users.values();
        images
            .map(|image| (image.name.clone(), image.id.clone()))
            .collect()
    }

    fn failed(&self) -> BoxFuture<'_, String> {
        let agents = self.homes.iter().map(|(name, home)| {
            async move {
                let why = home.pod.agent().gone().await;
                format!("the agent of {name} is gone, and its node with it: {why}")
            }
            .boxed()
        });
        let keeper = self.run.0.keeper.failed().boxed();
        let all: Vec<BoxFuture<'_, String>> = agents.chain([keeper]).collect();
        async move { select_all(all).await.0 }.boxed()
    }

    fn tear_down(&self) -> BoxFuture<'_, Vec<String>> {
        async move {
            self.gate.close().await;
            let removal = self.run.tear_down(REMOVE_BOUND).await;
            removal.left.iter().map(ToString::to_string).collect()
        }
        .boxed()
    }
}
