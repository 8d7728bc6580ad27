//! A node's container: its lives, its signals, its limits.
//!
//! A [`Node`] is the container; each start of it is a [`Life`] with output of its own. Signals go
//! through the engine's API, and what it then shows is read back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bollard::body_full;
use bollard::models::{ContainerCreateBody, ContainerUpdateBody, HostConfig, ResourcesUlimits};
use bollard::query_parameters::{KillContainerOptions, UploadToContainerOptions};
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tweedledum_core::capability::Resource;
use tweedledum_core::plan::model::StopSignal;

use super::container::{self, DockerError, State, attach, host_config, inspect, without_rights};
use super::death;
use super::engine::Engine;
use super::image::Image;
use super::ledger::{Role, Thing};
use super::link::{Output, Piece};
use super::log_reach;
use super::others::Act;
use super::pod::{Pod, mount};
use super::tar::{Archive, TarError};
use crate::clock::monotonic_ns;
use crate::substrate::process::{NodePipes, NodeSignal, StoppedBy};
use crate::substrate::{Death, Stopped};

/// How long a killed container may take until the engine tells its death. With fifty kills at once
/// 2.5 s were seen on two processors.
const KILL_BOUND: Duration = Duration::from_secs(30);

/// How long after the end of a life's output the engine may tell its death, some 60 ms as a rule, until it is asked.
const DEATH_MOMENT: Duration = Duration::from_secs(1);

/// What a node's container is made of.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// What runs: our own image or the user's.
    pub image: Image,
    /// The command after the image's entry point, or instead of it.
    pub command: Vec<String>,
    /// Whether `command` takes the place of the image's entry point.
    pub replace_entry_point: bool,
    /// Environment variables beside the image's own.
    pub env: BTreeMap<String, String>,
    /// Where the data volume is mounted.
    pub data: String,
    /// Files that the node reads, by their path in the container.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// A node's container. A handle that can be cloned.
#[derive(Clone, Debug)]
pub struct Node(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    engine: Engine,
    name: String,
    id: String,
    tasks: Mutex<JoinSet<()>>,
}

/// One life of a node, from its start to its death. A handle that can be cloned.
#[derive(Clone, Debug)]
pub struct Life {
    node: Node,
    pid: Option<u32>,
    started: Option<String>,
    death: watch::Receiver<Option<Death>>,
}

impl Node {
    pub(super) async fn make(pod: &Pod, spec: NodeSpec) -> Result<Self, DockerError> {
        let keeper = &pod.0.run.0.keeper;
        let (name, nonce) = (pod.name(), &keeper.own.nonce);
        let thing = Thing::of(nonce, Role::Node, Some(name));
        let own = spec.image.own;
        let host = HostConfig {
            network_mode: Some(format!("container:{}", pod.0.agent)),
            pid_mode: Some(format!("container:{}", pod.0.agent)),
            mounts: Some(vec![mount(nonce, name, &spec.data)]),
            // As for processes: a core for every death would fill the disk.
            ulimits: Some(vec![ResourcesUlimits {
                name: Some("core".to_owned()),
                soft: Some(0),
                hard: Some(0),
            }]),
            ..host_config()
        };
        let (entrypoint, cmd) = if spec.replace_entry_point {
            (Some(spec.command), None)
        } else {
            // None at all is the image's own.
            (None, (!spec.command.is_empty()).then_some(spec.command))
        };
        let env = spec.env.iter().map(|(key, value)| format!("{key}={value}"));
        let body = ContainerCreateBody {
            image: Some(spec.image.id),
            entrypoint,
            cmd,
            env: Some(env.collect()),
            labels: Some(thing.labels(nonce, Some(name))),
            // Our own nodes need no rights; what the user's image needs is for the user to say.
            host_config: Some(if own { without_rights(host, &[]) } else { host }),
            ..ContainerCreateBody::default()
        };
        let id = container::create(&keeper.engine, &keeper.ledger, &thing, body).await?;
        let node = Self(Arc::new(Inner {
            engine: keeper.engine.clone(),
            name: name.to_owned(),
            id,
            tasks: Mutex::new(JoinSet::new()),
        }));
        node.put(&spec.files).await?;
        Ok(node)
    }

    /// A container that somebody else has made.
    pub(super) fn existing(engine: &Engine, name: &str, id: &str) -> Self {
        engine.others().follow(id, name);
        Self(Arc::new(Inner {
            engine: engine.clone(),
            name: name.to_owned(),
            id: id.to_owned(),
            tasks: Mutex::new(JoinSet::new()),
        }))
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// The container's id.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Puts files into the container, whether it runs or not.
    pub async fn put(&self, files: &BTreeMap<String, Vec<u8>>) -> Result<(), DockerError> {
        if files.is_empty() {
            return Ok(());
        }
        let archive = archive_of(files);
        let archive = archive.map_err(|error| DockerError::Spec(error.to_string()))?;
        let options = UploadToContainerOptions {
            path: "/".to_owned(),
            ..UploadToContainerOptions::default()
        };
        let body = body_full(archive.into());
        let put = self
            .0
            .engine
            .docker()
            .upload_to_container(&self.0.id, Some(options), body)
            .await;
        put.map_err(|error| DockerError::engine(format!("put files into {}", self.name()), &error))
    }

    /// Starts it, for the first time or again. Its output comes through pipes, as that of a
    /// process does.
    pub fn start(&self) -> BoxFuture<'_, Result<(Life, NodePipes), DockerError>> {
        async move {
            let engine = &self.0.engine;
            let (_input, output) = attach(engine, &self.0.id, false).await?;
            container::start(engine, &self.0.id, self.name()).await?;
            let state = self.state().await.ok();
            self.live(output, None, state)
        }
        .boxed()
    }

    /// The life that it has already, with what the engine's log has of it and of those before it since this second of
    /// 1970.
    pub(super) async fn adopt(&self, since: i32) -> Result<(Life, NodePipes), DockerError> {
        let state = self.state().await?;
        if !state.lives() {
            let why = format!("{} does not run any more", self.name());
            return Err(DockerError::Spec(why));
        }
        let started = state.started.parse().map_err(|error| {
            let (name, at) = (self.name(), &state.started);
            DockerError::Spec(format!(
                "the engine says that {name} was started at `{at}`, which is no time ({error}), so nobody can tell what \
                 an earlier life of it has said"
            ))
        })?;
        let log = container::log(&self.0.engine, &self.0.id, since, started);
        let spec = |error: io::Error| DockerError::Spec(format!("cannot make a pipe: {error}"));
        let (former, to_former) = output_pipe().map_err(spec)?;
        let (life, pipes) = self.live(log, Some((to_former, since)), Some(state))?;
        let former = Some(former);
        Ok((life, NodePipes { former, ..pipes }))
    }

    /// The life whose beginning the engine has told in `state`; `former` is where its output is a log that is read back, and
    /// since when.
    fn live(
        &self,
        output: Output,
        former: Option<(pipe::Sender, i32)>,
        state: Option<State>,
    ) -> Result<(Life, NodePipes), DockerError> {
        let engine = &self.0.engine;
        let spec = |error: io::Error| DockerError::Spec(format!("cannot make a pipe: {error}"));
        let (stdout, to_stdout) = output_pipe().map_err(spec)?;
        let (stderr, to_stderr) = output_pipe().map_err(spec)?;
        // For people; one that is dead already has none.
        let pid = state.as_ref().and_then(|state| {
            let pid = u32::try_from(state.pid).ok()?;
            (pid > 0).then_some(pid)
        });
        let (tell_death, death) = watch::channel(None);
        let mut tasks = self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        let started = state.map(|state| state.started);
        let (tell_cut, cut) = watch::channel(None);
        let over = over(
            engine.clone(),
            self.0.id.clone(),
            started.clone(),
            death.clone(),
            DEATH_MOMENT,
        );
        let (to_former, since) = former.unzip();
        let (tell_lost, lost) = watch::channel(None);
        let (looked_at, id) = (engine.clone(), self.0.id.clone());
        let losing = async move { log_reach::lost(&looked_at, &id, since?).await };
        let pipes = (to_stdout, to_stderr, to_former);
        let tell = (tell_lost, tell_cut);
        tasks.spawn(pump(output, pipes, losing, over, death.clone(), tell));
        tasks.spawn(death::watch(
            engine.clone(),
            self.0.id.clone(),
            started.clone(),
            tell_death,
        ));
        Ok((
            Life {
                node: self.clone(),
                pid,
                started,
                death,
            },
            NodePipes {
                stdout,
                stderr,
                former: None,
                cut: Some(cut),
                lost: Some(lost),
            },
        ))
    }

    /// What the engine says of it now.
    pub async fn state(&self) -> Result<State, DockerError> {
        inspect(&self.0.engine, &self.0.id).await
    }

    /// Changes one limit, running or not, and leaves the others as they are; `None` lifts it. The amount is in the resource's
    /// own unit. Returns what was read back.
    ///
    /// With cgroup v1 the engine refuses a limit of memory below what is used now.
    pub async fn limit_one(
        &self,
        resource: Resource,
        amount: Option<u64>,
    ) -> Result<State, DockerError> {
        let about = self.0.engine.about();
        let number = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
        let mut update = ContainerUpdateBody::default();
        // Nothing takes a limit away from a running container, but one of all is none.
        match resource {
            Resource::Memory => {
                let memory = number(amount.unwrap_or(about.memory));
                (update.memory, update.memory_swap) = (Some(memory), Some(memory));
            }
            Resource::Cpu => {
                let milli = number(amount.unwrap_or(u64::from(about.cpus) * 1000));
                update.nano_cpus = Some(milli.saturating_mul(1_000_000));
            }
            Resource::Pids => update.pids_limit = Some(amount.map_or(-1, number)),
        }
        let Inner { engine, id, .. } = &*self.0;
        let updating = async {
            let updated = engine.docker().update_container(id, update).await;
            updated.map_err(|error| DockerError::engine(format!("limit {}", self.name()), &error))
        };
        engine.others().ours(id, Act::Update, updating).await?;
        self.state().await
    }
}

impl Life {
    /// The node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its process on the engine's host, for people.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// When it was started, as the engine writes it, if the engine told.
    pub(super) fn started(&self) -> Option<&str> {
        self.started.as_deref()
    }

    /// Sends a signal. Returns the instant just before, in nanoseconds of `CLOCK_MONOTONIC`. Stop
    /// and continue freeze and thaw the whole container.
    pub async fn signal(&self, signal: NodeSignal) -> Result<u64, DockerError> {
        let (engine, id) = (&self.node.0.engine, self.node.id());
        let docker = engine.docker();
        let at = monotonic_ns();
        let (word, act) = match signal {
            NodeSignal::Kill => ("kill", Act::Kill),
            NodeSignal::Term | NodeSignal::Int => ("stop", Act::Kill),
            NodeSignal::Stop => ("pause", Act::Pause),
            NodeSignal::Cont => ("unpause", Act::Unpause),
        };
        let sending = async {
            let sent = match signal {
                NodeSignal::Kill => docker.kill_container(id, named("SIGKILL")).await,
                NodeSignal::Term => docker.kill_container(id, named("SIGTERM")).await,
                NodeSignal::Int => docker.kill_container(id, named("SIGINT")).await,
                NodeSignal::Stop => docker.pause_container(id).await,
                NodeSignal::Cont => docker.unpause_container(id).await,
            };
            sent.map_err(|error| {
                DockerError::engine(format!("{word} {}", self.node.name()), &error)
            })
        };
        engine.others().ours(id, act, sending).await?;
        Ok(at)
    }

    /// Kills the node and waits until its death is told.
    pub async fn kill(&self) -> Result<Death, DockerError> {
        self.signal_unless_dead(NodeSignal::Kill).await?;
        tokio::time::timeout(KILL_BOUND, self.died())
            .await
            .map_err(|_| DockerError::TooLate {
                what: format!("the kill of {}", self.node.name()),
                bound: KILL_BOUND,
            })
    }

    /// Asks the node to end by `signal` and kills it when it does not within `grace`. A paused one is
    /// continued, so that it can answer. Also says what of that made it stop.
    pub async fn terminate(
        &self,
        signal: StopSignal,
        grace: Duration,
    ) -> Result<(StoppedBy, Stopped), DockerError> {
        let start = Instant::now();
        let done = |by, death| {
            let forced = by == StoppedBy::Kill;
            let took = start.elapsed();
            Ok((
                by,
                Stopped {
                    death,
                    forced,
                    took,
                },
            ))
        };
        if let Some(death) = self.try_died() {
            return done(StoppedBy::AlreadyDead, death);
        }
        if self.node.state().await?.paused {
            self.signal_unless_dead(NodeSignal::Cont).await?;
        }
        let asked = self.signal_unless_dead(signal.into()).await?;
        if let Ok(death) = tokio::time::timeout(grace, self.died()).await {
            let by = if asked {
                StoppedBy::Term
            } else {
                StoppedBy::AlreadyDead
            };
            return done(by, death);
        }
        let death = self.kill().await?;
        done(StoppedBy::Kill, death)
    }

    /// True if it was sent.
    async fn signal_unless_dead(&self, signal: NodeSignal) -> Result<bool, DockerError> {
        match self.signal(signal).await {
            // 409 is a container that does not run any more; its death is on its way.
            Err(DockerError::Engine {
                status: Some(409 | 404),
                ..
            }) if !self.runs().await => Ok(false),
            Err(error) => Err(error),
            Ok(_) => Ok(true),
        }
    }

    async fn runs(&self) -> bool {
        self.try_died().is_none() && self.node.state().await.is_ok_and(|state| state.running)
    }

    /// Waits for the death. May be called by several tasks, and dropped at any time.
    pub async fn died(&self) -> Death {
        let mut death = self.death.clone();
        let told = death
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|seen| *seen);
        match told {
            Some(death) => death,
            // The watching task ends with the runtime only; nobody polls this again.
            None => std::future::pending().await,
        }
    }

    /// The death, if it was told.
    pub fn try_died(&self) -> Option<Death> {
        *self.death.borrow()
    }
}

/// Files as the engine takes them. An entry for a directory changes the owner and the mode of one that is there, so only
/// that which a file is in has one, and not at the top, as `/run`, which is the image's; the engine makes what is missing.
fn archive_of(files: &BTreeMap<String, Vec<u8>>) -> Result<Vec<u8>, TarError> {
    let mut archive = Archive::default();
    let mut ours = BTreeSet::new();
    for (path, bytes) in files {
        let path = path.trim_start_matches('/');
        if let Some((parent, _)) = path.rsplit_once('/')
            && parent.contains('/')
            && ours.insert(parent)
        {
            archive.directory(parent, 0o755)?;
        }
        archive.file(path, 0o644, bytes)?;
    }
    Ok(archive.finish())
}

fn named(signal: &str) -> Option<KillContainerOptions> {
    Some(KillContainerOptions {
        signal: signal.to_owned(),
    })
}

/// Why something of a log is not there, once that is so.
type Told = Option<String>;

/// Passes a container's output on into pipes until it ends. A pipe that nobody reads any more is given up. What of the
/// output was lost before it came is told before the first of it is passed on. Where the output ends and the life is not
/// `over`, that is told, and the pipes stay open until the death: what the life says from then on is lost.
async fn pump(
    mut output: Output,
    (stdout, stderr, mut former): (pipe::Sender, pipe::Sender, Option<pipe::Sender>),
    losing: impl Future<Output = Option<String>>,
    over: impl Future<Output = bool>,
    mut death: watch::Receiver<Option<Death>>,
    (tell_lost, tell_cut): (watch::Sender<Told>, watch::Sender<Told>),
) {
    use tokio::io::AsyncWriteExt as _;
    let mut losing = Some(losing);
    let (mut stdout, mut stderr) = (Some(stdout), Some(stderr));
    let broke = loop {
        let piece = match output.next().await {
            Some(Ok(piece)) => piece,
            Some(Err(error)) => break Some(error),
            None => break None,
        };
        // Not before it comes: a log that rotates while it is opened has lost what it had when it was asked for.
        if let Some(losing) = losing.take()
            && let Some(why) = losing.await
        {
            tracing::warn!(why, "part of a node's log is lost");
            tell_lost.send_replace(Some(why));
        }
        let (pipe, bytes) = match piece {
            Piece::Out(bytes) => (&mut stdout, bytes),
            Piece::Err(bytes) => (&mut stderr, bytes),
            Piece::Former(bytes) => (&mut former, bytes),
        };
        if let Some(writer) = pipe
            && writer.write_all(&bytes).await.is_err()
        {
            *pipe = None;
        }
    };
    let why = match broke {
        Some(error) => {
            format!("it cannot be read any more: the engine's stream of it broke: {error}")
        }
        None if over.await => return,
        None => "it cannot be read any more: the engine's stream of it ended, and the node lives"
            .to_owned(),
    };
    tracing::warn!(why, "a node's log is cut off");
    tell_cut.send_replace(Some(why));
    // An error is that the watching task has ended, with the runtime.
    let _ = death.wait_for(Option::is_some).await;
}

/// Whether a life whose output has ended is over too. An engine that is late to tell a death is asked; one that does not
/// answer has shown none.
async fn over(
    engine: Engine,
    id: String,
    started: Option<String>,
    mut death: watch::Receiver<Option<Death>>,
    moment: Duration,
) -> bool {
    let told = tokio::time::timeout(moment, death.wait_for(Option::is_some)).await;
    if told.is_ok_and(|told| told.is_ok()) {
        return true;
    }
    let state = inspect(&engine, &id).await;
    state.is_ok_and(|state| !state.lives() || started.is_some_and(|began| began != state.started))
}

/// A pipe: its read end as processes' pipes have it, its write end for a task.
fn output_pipe() -> io::Result<(OwnedFd, pipe::Sender)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    for end in [&read, &write] {
        let flags = rustix::fs::fcntl_getfl(end)?;
        rustix::fs::fcntl_setfl(end, flags | OFlags::NONBLOCK)?;
    }
    Ok((read, pipe::Sender::from_owned_fd(write)?))
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
