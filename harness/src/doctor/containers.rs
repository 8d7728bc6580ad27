//! Tries the Docker substrate: a run of one node on the engine, made and removed as runs are.
//!
//! What is made is [recorded](super::record) before it is made, and removed whatever the steps give.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bollard::query_parameters::{ListContainersOptions, ListNetworksOptions, ListVolumesOptions};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;
use tweedledum_core::capability::Resource;
use tweedledum_core::history::ExitStatus;

use super::record::{REMOVAL_BOUND, Record, clean_dead};
use super::report::{Tried, Trouble};
use super::scratch::Said;
use super::steps::Step;
use super::{Bench, Kit, shared};
use crate::agent::evidence::FloodEvidence;
use crate::agent::request::Check;
use crate::clock::monotonic_ns;
use crate::observe::Observation;
use crate::substrate::Identities;
use crate::substrate::docker::DockerError;
use crate::substrate::docker::address::{AddressError, EngineAddress, EngineEnv};
use crate::substrate::docker::engine::{Engine, EngineError};
use crate::substrate::docker::image::{Image, own_image};
use crate::substrate::docker::ledger::NONCE_LABEL;
use crate::substrate::docker::link::LinkError;
use crate::substrate::docker::node::{Life, Node, NodeSpec};
use crate::substrate::docker::pod::{Data, Pod, PodSpec};
use crate::substrate::docker::remains;
use crate::substrate::docker::run::{DockerRun, RunSpec};
use crate::substrate::process::{NodePipes, NodeSignal, Nonce, OwnExecutable};

/// The one node.
const NODE: &str = "doctor";
/// Its port.
const PORT: u16 = 7000;
/// Its data volume.
const VOLUME: u64 = 1 << 20;
/// How long anything inside a pod may take that takes milliseconds.
const BOUND: Duration = Duration::from_secs(20);
/// How long a paused node is watched.
const SILENCE: Duration = Duration::from_millis(500);
/// The time over which the flood is spread.
const OVER: Duration = Duration::from_millis(500);
/// `CAP_NET_ADMIN`.
const NET_ADMIN_BIT: u32 = 12;

/// What has been made so far.
struct Ground<'a> {
    kit: &'a Kit,
    exe: OwnExecutable,
    nonce: Nonce,
    record: Option<Record>,
    address: Option<EngineAddress>,
    /// What greeting the engine gave, until the step that it belongs to.
    greeted: Option<Result<Engine, EngineError>>,
    engine: Option<Engine>,
    image: Option<Image>,
    run: Option<DockerRun>,
    pod: Option<Pod>,
    sights: Option<mpsc::Receiver<Observation>>,
    node: Option<Node>,
    life: Option<(Life, NodePipes)>,
    rights: Option<String>,
    left: Vec<String>,
}

/// Tries all rows, and removes what was made whatever they gave. Returns what is left.
pub(super) async fn examine(
    bench: &mut Bench<'_>,
    kit: &Kit,
    exe: &OwnExecutable,
    nonce: Nonce,
) -> Vec<String> {
    let mut ground = Ground {
        kit,
        exe: exe.clone(),
        nonce,
        record: None,
        address: None,
        greeted: None,
        engine: None,
        image: None,
        run: None,
        pod: None,
        sights: None,
        node: None,
        life: None,
        rights: None,
        left: Vec::new(),
    };
    while let Some(row) = bench.next() {
        if row.step == Step::Removal {
            // Whoever interrupts wants this more than anything.
            let began = Instant::now();
            let tried = ground.removal().await;
            bench.conclude(row, tried, began.elapsed());
        } else {
            bench.attempt(row, Box::pin(ground.attempt(row.step))).await;
        }
    }
    ground.left
}

impl Ground<'_> {
    async fn attempt(&mut self, step: Step) -> Tried {
        match step {
            Step::FileSize => shared::file_size(),
            Step::EngineAddress => self.find(),
            Step::EngineAnswers => self.greet().await,
            Step::EngineApi => self.api(),
            Step::Image => self.import().await,
            Step::Pod => self.make_pod().await,
            Step::Node => self.make_node().await,
            Step::NetAdmin => self.net_admin(),
            Step::SizedVolume => self.sized_volume().await,
            Step::UdpSources => self.udp_sources().await,
            Step::LimitMemory => self.limit(Resource::Memory, 64 << 20).await,
            Step::LimitCpu => self.limit(Resource::Cpu, 100).await,
            Step::LimitPids => self.limit(Resource::Pids, 20).await,
            Step::Freeze => self.freeze().await,
            Step::KillNode => self.kill().await,
            Step::StartNode => self.start_again().await,
            // What was made is removed however far this came, so that has no turn of its own.
            Step::Removal
            | Step::Spawn
            | Step::Addresses
            | Step::UdpDrops
            | Step::DiskFilter
            | Step::DiskShortWrite
            | Step::DiskDescriptor
            | Step::UserNamespace
            | Step::MountNamespace
            | Step::NetworkNamespace
            | Step::Tun => Err(Trouble::new(format!("{step:?} is no step of this tier"))),
        }
    }

    fn find(&mut self) -> Tried {
        let trouble = |error: AddressError| engine_trouble(&error.into());
        let env = EngineEnv::read().map_err(trouble)?;
        let address = EngineAddress::find(&env).map_err(trouble)?;
        let told = format!("{} from {}; {}", address.url, address.from, sources(&env));
        self.address = Some(address);
        Ok(told)
    }

    async fn greet(&mut self) -> Tried {
        let address = self.address.clone().ok_or_else(missing)?;
        let url = address.url.clone();
        let greeted = Engine::connect(address).await;
        let told = match &greeted {
            Ok(engine) => Ok(format!(
                "engine {} at {url}, kernel {}, cgroup v{}, {} processors",
                engine.about().version,
                engine.about().kernel,
                engine.about().cgroups,
                engine.about().cpus
            )),
            // It did answer; what it answered is for the next step.
            Err(EngineError::TooOld { .. } | EngineError::Foreign { .. }) => {
                Ok(format!("an engine answers at {url}"))
            }
            Err(error) => Err(engine_trouble(error)),
        };
        self.greeted = Some(greeted);
        told
    }

    fn api(&mut self) -> Tried {
        match self.greeted.take().ok_or_else(missing)? {
            Ok(engine) => {
                let told = format!("API {} was agreed on", engine.about().api);
                self.engine = Some(engine);
                Ok(told)
            }
            Err(error) => Err(engine_trouble(&error)),
        }
    }

    async fn import(&mut self) -> Tried {
        let engine = self.engine()?;
        let image = own_image(engine, &self.exe.path()).await;
        let image = image.map_err(|error| Trouble::new(error.to_string()))?;
        let how = if image.made {
            "imported as"
        } else {
            "there as"
        };
        let told = format!("{how} {}", image.name);
        self.image = Some(image);
        Ok(told)
    }

    async fn make_pod(&mut self) -> Tried {
        let engine = self.engine()?.clone();
        let before = clean_dead().await;
        let record = Record::make(&self.nonce).map_err(|error| Trouble {
            fix: Some("set TMPDIR to a directory that can be written".to_owned()),
            ..Trouble::system(
                "what is made could not be recorded, so nothing is made",
                &error,
            )
        })?;
        let ledger = record.ledger.clone();
        self.record = Some(record);
        let spec = RunSpec {
            nonce: self.nonce,
            nodes: vec![NODE.to_owned()],
            image: self.image.clone().ok_or_else(missing)?,
            words: self.kit.words.clone(),
        };
        let run = DockerRun::begin(&engine, spec, &ledger).await;
        let run = self
            .run
            .insert(run.map_err(|error| docker_trouble(&error))?);
        let (seen, sights) = mpsc::channel(64);
        self.sights = Some(sights);
        let spec = PodSpec {
            node: NODE.to_owned(),
            data: Data::Sized(VOLUME),
            identities: Identities {
                watcher: [1; 32],
                prober: [2; 32],
                netid: 1,
            },
            seen,
            looks_into: false,
        };
        let pod = run
            .pod(spec)
            .await
            .map_err(|error| docker_trouble(&error))?;
        let told = format!("at {} in {:.1?}{before}", pod.address(), pod.took());
        self.pod = Some(pod);
        Ok(told)
    }

    async fn make_node(&mut self) -> Tried {
        let pod = self.pod()?.clone();
        let address = SocketAddr::from((pod.address(), PORT));
        let mut command = self.kit.scratch.clone();
        command.extend(["serve".to_owned(), address.to_string()]);
        let spec = NodeSpec {
            image: self.image.clone().ok_or_else(missing)?,
            command,
            replace_entry_point: false,
            env: BTreeMap::new(),
            data: "/data".to_owned(),
            files: BTreeMap::new(),
        };
        let node = pod
            .node(spec)
            .await
            .map_err(|error| docker_trouble(&error))?;
        self.node = Some(node);
        self.start(address).await
    }

    /// Starts the node's container and waits until it can be reached.
    async fn start(&mut self, address: SocketAddr) -> Tried {
        let node = self.node.clone().ok_or_else(missing)?;
        let (life, mut pipes) = node.start().await.map_err(|error| docker_trouble(&error))?;
        let heard = tokio::time::timeout(BOUND, first_line(&mut pipes)).await;
        let said = heard
            .unwrap_or_else(|_| Err(io::Error::other(format!("nothing within {BOUND:?}"))))
            .map_err(|error| Trouble::system("the node's container says nothing", &error))?;
        self.life = Some((life, pipes));
        match said {
            Said::Serves { rights } => self.rights = rights,
            Said::Failed(why) => return Err(Trouble::new(format!("in its container: {why}"))),
            other => return Err(Trouble::new(format!("the node said {other:?}"))),
        }
        let took = self.reach(address, BOUND).await?;
        Ok(format!("the agent reached it at {address} in {took:.1?}"))
    }

    async fn reach(&self, address: SocketAddr, bound: Duration) -> Result<Duration, Trouble> {
        let reached = self.pod()?.agent().until_ready(Check::Tcp(address), bound);
        reached.await.map_err(|error| link_trouble(&error))
    }

    fn net_admin(&self) -> Tried {
        let rights = self
            .rights
            .as_deref()
            .ok_or_else(|| Trouble::new("the rights of the pod's first process cannot be read"))?;
        let bits = u64::from_str_radix(rights, 16)
            .map_err(|error| Trouble::new(format!("CapEff is `{rights}`: {error}")))?;
        if bits == 1 << NET_ADMIN_BIT {
            Ok("the agent has NET_ADMIN and nothing else".to_owned())
        } else if bits & (1 << NET_ADMIN_BIT) != 0 {
            Ok(format!("the agent has NET_ADMIN (CapEff {rights})"))
        } else {
            Err(Trouble::new(format!(
                "the agent has no NET_ADMIN (CapEff {rights})"
            )))
        }
    }

    async fn sized_volume(&self) -> Tried {
        let agent = self.pod()?.agent();
        let lost = |error: LinkError| link_trouble(&error);
        let full = |errno: Option<i32>| errno == Some(libc::ENOSPC);
        let whole = agent.disk().await.map_err(lost)?;
        if whole.size != VOLUME {
            let why = format!(
                "a volume of {VOLUME} bytes was asked for and has {}",
                whole.size
            );
            return Err(Trouble::new(why));
        }
        let over = agent.probe_disk(VOLUME * 2).await.map_err(lost)?;
        let taken = agent.ballast(VOLUME).await.map_err(lost)?;
        let filled = agent.probe_disk(VOLUME / 2).await.map_err(lost)?;
        agent.ballast(0).await.map_err(lost)?;
        let empty = agent.probe_disk(VOLUME / 2).await.map_err(lost)?;
        if full(over) && full(filled) && empty.is_none() {
            return Ok(format!(
                "ENOSPC over {VOLUME} bytes and under {} of ballast, room without it",
                taken.ballast
            ));
        }
        Err(Trouble {
            errno: [over, filled, empty]
                .into_iter()
                .flatten()
                .find(|errno| *errno != libc::ENOSPC),
            ..Trouble::new(format!(
                "errors of the probes, over the size {over:?}, under ballast {filled:?}, without it {empty:?}"
            ))
        })
    }

    async fn udp_sources(&self) -> Tried {
        let pod = self.pod()?;
        let (agent, address) = (pod.agent(), pod.address());
        let lost = |error: LinkError| link_trouble(&error);
        let spec = shared::flood(SocketAddr::from((address, PORT)), address.into(), OVER);
        let asked = spec.sources;
        agent
            .prepare_flood(1, self.kit.dialect.name(), spec)
            .await
            .map_err(lost)?;
        let sent = agent
            .start_flood(1, monotonic_ns(), BOUND)
            .await
            .map_err(lost)?;
        let closed = agent.stop_flood(1).await.map_err(lost)?;
        let left_open = closed
            .and_then(|closed| closed.left_open)
            .unwrap_or_default();
        let evidence = FloodEvidence::of(&sent);
        shared::arrived(&evidence, left_open.len())?;
        Ok(format!(
            "{} of {asked} sent, {} dropped",
            evidence.sent, evidence.dropped
        ))
    }

    /// Sets one limit on the running node, reads it back, lets the agent find it from the node, lifts it, and the same.
    async fn limit(&self, resource: Resource, amount: u64) -> Tried {
        let node = self.node.as_ref().ok_or_else(missing)?;
        for wanted in [Some(amount), None] {
            let state = node.limit_one(resource, wanted).await;
            let state = state.map_err(|error| docker_trouble(&error))?;
            if state.limits.of(resource) != wanted {
                let shown = state.limits.of(resource);
                let why = format!("set to {wanted:?}, the engine shows {shown:?}");
                return Err(Trouble::new(why));
            }
            let share = self.pod()?.agent().share(resource).await;
            let share = share.map_err(|error| link_trouble(&error))?;
            if (share.limit == Some(amount)) != wanted.is_some() {
                let why = format!("set to {wanted:?}, the node is held to {:?}", share.limit);
                return Err(Trouble::new(why));
            }
        }
        Ok("set and lifted on the running node, read back and found from it both times".to_owned())
    }

    async fn freeze(&self) -> Tried {
        let (life, _) = self.life.as_ref().ok_or_else(missing)?;
        let address = SocketAddr::from((self.pod()?.address(), PORT));
        let refused = |error: DockerError| docker_trouble(&error);
        life.signal(NodeSignal::Stop).await.map_err(refused)?;
        let paused = life.node().state().await.map_err(refused)?.paused;
        let agent = self.pod()?.agent();
        let lost = |error: LinkError| link_trouble(&error);
        let before = agent.working().await.map_err(lost)?;
        tokio::time::sleep(SILENCE).await;
        let later = agent.working().await.map_err(lost)?;
        let still = life.node().state().await.map_err(refused)?.paused;
        life.signal(NodeSignal::Cont).await.map_err(refused)?;
        let after = life.node().state().await.map_err(refused)?;
        if before.is_empty() || before != later {
            return Err(Trouble::new(
                "the agent saw the paused node at work, or did not see it",
            ));
        }
        if !paused || !still {
            return Err(Trouble::new(
                "the engine paused it and does not show it paused",
            ));
        }
        if after.paused || !after.running {
            return Err(Trouble::new(
                "the engine let it go on and does not show it running",
            ));
        }
        self.reach(address, BOUND).await?;
        Ok("paused, and running again".to_owned())
    }

    async fn kill(&self) -> Tried {
        let (life, _) = self.life.as_ref().ok_or_else(missing)?;
        let death = life.kill().await.map_err(|error| docker_trouble(&error))?;
        match death.status {
            ExitStatus::Signal(9) => Ok("its death by signal 9 was told".to_owned()),
            other => Err(Trouble::new(format!(
                "it was killed, and the engine tells {other:?}"
            ))),
        }
    }

    async fn start_again(&mut self) -> Tried {
        let address = SocketAddr::from((self.pod()?.address(), PORT));
        self.start(address).await
    }

    /// Removes what was made. `None` where nothing was.
    async fn removal(&mut self) -> Option<Tried> {
        let record = self.record.take()?;
        let removed = self.remove(&record).await;
        match &removed {
            Ok(_) => {
                if let Err(error) = fs_err::remove_file(&record.path) {
                    self.left.push(error.to_string());
                }
            }
            Err(trouble) => self.left.push(format!(
                "{}; recorded in {}",
                trouble.why,
                record.path.display()
            )),
        }
        Some(removed)
    }

    async fn remove(&mut self, record: &Record) -> Tried {
        let engine = self.engine()?.clone();
        (self.life, self.node, self.pod, self.sights) = (None, None, None, None);
        let removal = if let Some(run) = self.run.take() {
            run.tear_down(REMOVAL_BOUND).await
        } else {
            // A run that could not begin has removed its things already; what is gone is fine.
            let entries = record.ledger.entries();
            Box::pin(remains::remove_recorded(&engine, &entries, REMOVAL_BOUND)).await
        };
        let mut left: Vec<String> = removal.left.iter().map(ToString::to_string).collect();
        // Looked for by another way than that of the removal: by the label alone.
        left.extend(carrying(&engine, &self.nonce).await?);
        if left.is_empty() {
            Ok(format!(
                "{} things removed, nothing carries the nonce",
                removal.removed
            ))
        } else {
            Err(Trouble::new(format!("still there: {}", left.join(", "))))
        }
    }

    fn engine(&self) -> Result<&Engine, Trouble> {
        self.engine.as_ref().ok_or_else(missing)
    }

    fn pod(&self) -> Result<&Pod, Trouble> {
        self.pod.as_ref().ok_or_else(missing)
    }
}

/// A row names in `after` what it stands on, so this is a mistake of its table.
fn missing() -> Trouble {
    Trouble::new("a step came before what it needs; this is a bug of the harness")
}

/// An error whose own words end in what to do is split there.
fn engine_trouble(error: &EngineError) -> Trouble {
    let fix = match error {
        EngineError::Address(AddressError::Refused { next, .. })
        | EngineError::NoAnswer { next, .. } => Some(next.clone()),
        EngineError::Denied { .. } => Some(
            "join the socket's group (often `sudo usermod -aG docker $USER`, then log in again) or run as a user who may"
                .to_owned(),
        ),
        EngineError::Address(AddressError::Context { .. }) => {
            Some("choose one of `docker context ls`, or set DOCKER_HOST".to_owned())
        }
        _ => None,
    };
    let why = error.to_string();
    let said = fix.as_deref().and_then(|fix| why.strip_suffix(fix));
    let why = said.map_or(why.as_str(), |why| why.trim_end_matches("; "));
    Trouble {
        errno: matches!(error, EngineError::Denied { .. }).then_some(libc::EACCES),
        fix: fix.clone(),
        ..Trouble::new(why)
    }
}

fn docker_trouble(error: &DockerError) -> Trouble {
    Trouble::new(error.to_string())
}

fn link_trouble(error: &LinkError) -> Trouble {
    Trouble::new(error.to_string())
}

/// What each place says that an address could come from.
fn sources(env: &EngineEnv) -> String {
    let set = |name: &str, value: Option<&String>| match value {
        Some(value) => format!("{name} is {}", value.escape_debug()),
        None => format!("{name} is not set"),
    };
    let config = match &env.config {
        Some(path) if path.join("config.json").is_file() => {
            format!("{} was read", path.join("config.json").display())
        }
        Some(path) => format!("{} is not there", path.join("config.json").display()),
        None => "there is no directory of contexts".to_owned(),
    };
    format!(
        "{}, {}, {config}",
        set("DOCKER_HOST", env.host.as_ref()),
        set("DOCKER_CONTEXT", env.context.as_ref())
    )
}

/// The first line of a node's standard output.
async fn first_line(pipes: &mut NodePipes) -> io::Result<Said> {
    let pipe = Receiver::from_owned_fd(pipes.stdout.try_clone()?)?;
    let mut line = String::new();
    BufReader::new(pipe).read_line(&mut line).await?;
    serde_json::from_str(&line).map_err(|error| {
        io::Error::other(format!(
            "`{}`: {error}",
            crate::observe::excerpt(&line, 200)
        ))
    })
}

/// Names of everything on the engine that carries a nonce.
async fn carrying(engine: &Engine, nonce: &Nonce) -> Result<Vec<String>, Trouble> {
    let label = vec![format!("{NONCE_LABEL}={nonce}")];
    let filters = Some(HashMap::from([("label".to_owned(), label)]));
    let docker = engine.docker();
    let refused = |error: bollard::errors::Error| {
        Trouble::new(format!("the engine would not list what it has: {error}"))
    };
    let containers = ListContainersOptions {
        all: true,
        filters: filters.clone(),
        ..ListContainersOptions::default()
    };
    let volumes = ListVolumesOptions {
        filters: filters.clone(),
    };
    let containers = docker
        .list_containers(Some(containers))
        .await
        .map_err(refused)?;
    let volumes = docker.list_volumes(Some(volumes)).await.map_err(refused)?;
    let networks = docker
        .list_networks(Some(ListNetworksOptions { filters }))
        .await;
    let networks = networks.map_err(refused)?;
    let containers = containers
        .into_iter()
        .flat_map(|container| container.names.unwrap_or_default());
    let volumes = volumes
        .volumes
        .into_iter()
        .flatten()
        .map(|volume| volume.name);
    let networks = networks.into_iter().filter_map(|network| network.name);
    Ok(containers.chain(volumes).chain(networks).collect())
}
