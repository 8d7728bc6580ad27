//! What every container of a run has in common: how it is made, attached and looked at.

use std::collections::HashMap;
use std::future::Future;
use std::time::{Duration, Instant};

use bollard::container::LogOutput;
use bollard::models::{
    ContainerCreateBody, ContainerState, ContainerStateStatusEnum, HostConfig, HostConfigLogConfig,
};
use bollard::query_parameters::{
    AttachContainerOptions, CreateContainerOptions, LogsOptions, RemoveContainerOptions,
};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tweedledum_core::capability::Resource;

use super::engine::{Engine, said, status_of};
use super::ledger::{Entry, Ledger, Thing};
use super::link::{Input, LinkError, Output, Piece};

/// What went wrong with something on the engine.
#[derive(Debug, Error)]
pub enum DockerError {
    /// The engine would not.
    #[error("the engine would not {what}: {why}")]
    Engine {
        /// What it was asked.
        what: String,
        /// Its words.
        why: String,
        /// The status it gave, if it answered at all.
        status: Option<u16>,
    },
    /// Something that must be on the disk first could not be written.
    #[error("cannot record what is made on the engine, so nothing is made: {0}; is the disk full?")]
    Ledger(#[from] std::io::Error),
    /// An agent.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A description that cannot be carried out.
    #[error("{0}")]
    Spec(String),
    /// Something took too long.
    #[error("{what} was not over after {bound:?}")]
    TooLate {
        /// What.
        what: String,
        /// The time.
        bound: Duration,
    },
}

impl DockerError {
    pub(super) fn engine(what: impl Into<String>, error: &bollard::errors::Error) -> Self {
        Self::Engine {
            what: what.into(),
            why: said(error),
            status: status_of(error),
        }
    }

    /// Whether the engine said that this cannot be done to the thing as it is, so that nothing was.
    pub(super) fn is_refused(&self) -> bool {
        matches!(
            self,
            Self::Engine {
                status: Some(400..500),
                ..
            }
        )
    }

    /// Whether the engine said that the thing does not exist.
    pub fn is_gone(&self) -> bool {
        matches!(
            self,
            Self::Engine {
                status: Some(404),
                ..
            }
        )
    }
}

/// Host settings of every container of ours: nothing is logged by the engine, which would fill its
/// disk, and nothing is started again by it.
pub(super) fn host_config() -> HostConfig {
    HostConfig {
        log_config: Some(HostConfigLogConfig {
            typ: Some("none".to_owned()),
            config: Some(HashMap::new()),
        }),
        init: Some(false),
        ..HostConfig::default()
    }
}

/// Takes away from a container what our own executable does not need.
pub(super) fn without_rights(host: HostConfig, keep: &[&str]) -> HostConfig {
    HostConfig {
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: (!keep.is_empty()).then(|| keep.iter().map(ToString::to_string).collect()),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        ..host
    }
}

/// Makes a container and records its id.
pub(super) async fn create(
    engine: &Engine,
    ledger: &Ledger,
    thing: &Thing,
    body: ContainerCreateBody,
) -> Result<String, DockerError> {
    let options = CreateContainerOptions {
        name: Some(thing.name.clone()),
        ..CreateContainerOptions::default()
    };
    let made = engine.docker().create_container(Some(options), body).await;
    let made = made.map_err(|error| {
        DockerError::engine(format!("make the container {}", thing.name), &error)
    })?;
    for warning in made.warnings {
        tracing::warn!(container = thing.name, warning, "the engine warns");
    }
    engine.others().follow(&made.id, &thing.name);
    record(
        ledger,
        Entry::Made {
            thing: thing.clone(),
            id: made.id.clone(),
        },
    )
    .await?;
    Ok(made.id)
}

/// Records an entry without holding up the event loop while the disk syncs.
pub(super) async fn record(ledger: &Ledger, entry: Entry) -> Result<(), DockerError> {
    let ledger = ledger.clone();
    match tokio::task::spawn_blocking(move || ledger.record(entry)).await {
        Ok(recorded) => Ok(recorded?),
        Err(error) => Err(DockerError::Ledger(std::io::Error::other(error))),
    }
}

/// Attaches to a container that is not started yet, so that nothing is missed.
pub(super) async fn attach(
    engine: &Engine,
    id: &str,
    stdin: bool,
) -> Result<(Input, Output), DockerError> {
    let options = AttachContainerOptions {
        stream: true,
        stdin,
        stdout: true,
        stderr: true,
        ..AttachContainerOptions::default()
    };
    let attached = engine.docker().attach_container(id, Some(options)).await;
    let attached =
        attached.map_err(|error| DockerError::engine("attach to a container", &error))?;
    Ok((attached.input, pieces(attached.output)))
}

pub(super) fn pieces(
    output: impl futures_util::Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send + 'static,
) -> Output {
    Box::pin(output.filter_map(|piece| async {
        match piece {
            Ok(LogOutput::StdOut { message } | LogOutput::Console { message }) => {
                Some(Ok(Piece::Out(message)))
            }
            Ok(LogOutput::StdErr { message }) => Some(Ok(Piece::Err(message))),
            Ok(LogOutput::StdIn { .. }) => None,
            Err(error) => Some(Err(std::io::Error::other(said(&error)))),
        }
    }))
}

/// What a container that runs since `started` has said since this second of 1970, and what it says from now on. The log
/// of an engine goes on through a container's lives.
pub(super) fn log(engine: &Engine, id: &str, since: i32, started: Timestamp) -> Output {
    let options = LogsOptions {
        follow: true,
        since,
        stdout: true,
        stderr: true,
        timestamps: true,
        ..LogsOptions::default()
    };
    let said = pieces(engine.docker().logs(id, Some(options)));
    Box::pin(said.map(move |piece| Ok(dated(&piece?, started))))
}

/// A piece of a log without the time that the engine has put before it. What has none cannot be shown to be of the life
/// that began at `started`, so it is of none that counts.
fn dated(piece: &Piece, started: Timestamp) -> Piece {
    let (Piece::Out(bytes) | Piece::Err(bytes) | Piece::Former(bytes)) = piece;
    let time = bytes.iter().position(|byte| *byte == b' ').unwrap_or(0);
    let at = std::str::from_utf8(&bytes[..time]).ok();
    let at: Option<Timestamp> = at.and_then(|at| at.parse().ok());
    let said = bytes.slice(if at.is_some() { time + 1 } else { 0 }..);
    match piece {
        Piece::Out(_) if at.is_some_and(|at| at >= started) => Piece::Out(said),
        Piece::Err(_) => Piece::Err(said),
        Piece::Out(_) | Piece::Former(_) => Piece::Former(said),
    }
}

/// Starts a container.
pub(super) async fn start(engine: &Engine, id: &str, name: &str) -> Result<(), DockerError> {
    engine.others().starts(id);
    let started = engine.docker().start_container(id, None).await;
    started.map_err(|error| DockerError::engine(format!("start {name}"), &error))
}

/// Removes a container with what it made for itself. Gone is as good as removed.
pub(super) async fn remove(engine: &Engine, id: &str) -> Result<(), DockerError> {
    let options = RemoveContainerOptions {
        force: true,
        v: true,
        link: false,
    };
    engine.others().let_go(id);
    match engine.docker().remove_container(id, Some(options)).await {
        Err(error) if status_of(&error) != Some(404) => {
            Err(DockerError::engine("remove a container", &error))
        }
        _ => Ok(()),
    }
}

/// Limits of one node. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Limits {
    /// Memory in bytes; swap does not add to it. Engines want 6 MiB at least.
    pub memory: Option<u64>,
    /// Processors in thousandths of one.
    pub milli_cpus: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

impl Limits {
    /// That of one resource, in the resource's own unit.
    pub fn of(&self, resource: Resource) -> Option<u64> {
        match resource {
            Resource::Memory => self.memory,
            Resource::Cpu => self.milli_cpus.map(u64::from),
            Resource::Pids => self.pids.map(u64::from),
        }
    }
}

/// What the engine says of a container at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct State {
    /// `created`, `running`, `paused`, `exited`, …
    pub status: String,
    /// Whether its process exists; a paused one does.
    pub running: bool,
    /// Whether it is paused.
    pub paused: bool,
    /// Whether the kernel killed a process of it for lack of memory in this life.
    pub oom: bool,
    /// The code of its last exit.
    pub exit_code: i64,
    /// What kept it from starting.
    pub error: String,
    /// Its process on the engine's host; 0 if there is none.
    pub pid: i64,
    /// When it was started, as the engine writes it.
    pub started: String,
    /// Its limits.
    pub limits: Limits,
}

impl State {
    /// Whether its process exists: a container that the engine is about to start again counts as running for the engine.
    pub(super) fn lives(&self) -> bool {
        self.running && self.status != ContainerStateStatusEnum::RESTARTING.as_ref()
    }
}

/// Looks at a container.
pub(super) async fn inspect(engine: &Engine, id: &str) -> Result<State, DockerError> {
    let seen = engine.docker().inspect_container(id, None).await;
    let seen = seen.map_err(|error| DockerError::engine("show a container", &error))?;
    let ContainerState {
        status,
        running,
        paused,
        oom_killed,
        exit_code,
        error,
        pid,
        started_at,
        ..
    } = seen.state.unwrap_or_default();
    let host = seen.host_config.unwrap_or_default();
    Ok(State {
        status: status
            .unwrap_or(ContainerStateStatusEnum::EMPTY)
            .to_string(),
        running: running.unwrap_or(false),
        paused: paused.unwrap_or(false),
        oom: oom_killed.unwrap_or(false),
        exit_code: exit_code.unwrap_or(0),
        error: error.unwrap_or_default(),
        pid: pid.unwrap_or(0),
        started: started_at.unwrap_or_default(),
        limits: limits_of(engine, &host),
    })
}

/// The limits that the engine's settings are. A limit cannot be taken away from a container that
/// runs, so one that is lifted is as large as the engine's host: that is none.
fn limits_of(engine: &Engine, host: &HostConfig) -> Limits {
    let about = engine.about();
    let below = |value: Option<i64>, all: u64| {
        let value = u64::try_from(value?).ok()?;
        (value > 0 && value < all).then_some(value)
    };
    let all_cpus = u64::from(about.cpus) * 1_000_000_000;
    Limits {
        memory: below(host.memory, about.memory),
        milli_cpus: below(host.nano_cpus, all_cpus)
            .and_then(|nano| u32::try_from(nano / 1_000_000).ok()),
        pids: below(host.pids_limit, u64::MAX).and_then(|pids| u32::try_from(pids).ok()),
    }
}

/// How long the engine may take over what is asked of it when the time is over already.
pub(super) const MOMENT: Duration = Duration::from_secs(1);

/// What the engine is asked to do, given up at the deadline; what is begun later has a moment all the same.
pub(super) async fn in_time<T>(
    deadline: Instant,
    what: &str,
    asked: impl Future<Output = Result<T, DockerError>>,
) -> Result<T, DockerError> {
    let bound = deadline
        .saturating_duration_since(Instant::now())
        .max(MOMENT);
    let answered = tokio::time::timeout(bound, Box::pin(asked)).await;
    answered.unwrap_or_else(|_| {
        Err(DockerError::Engine {
            what: what.to_owned(),
            why: format!("it has not answered for {bound:.1?}"),
            status: None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As an engine of version 20.10 tells them: the first life panicked a moment before the second began.
    #[test]
    fn what_an_earlier_life_said_is_told_apart() {
        let started: Timestamp = "2026-03-01T10:00:00.5Z".parse().unwrap();
        let told = |text: &'static str| dated(&Piece::Out(text.into()), started);
        let panic = told("2026-03-01T10:00:00.499999999Z {\"event\":\"panic\"}\n");
        assert_eq!(panic, Piece::Former("{\"event\":\"panic\"}\n".into()));
        let ready = told("2026-03-01T10:00:00.500000000Z {\"event\":\"ready\"}\n");
        assert_eq!(ready, Piece::Out("{\"event\":\"ready\"}\n".into()));
        for undated in ["{\"event\": \"panic\"}\n", "", "panic\n"] {
            assert_eq!(told(undated), Piece::Former(undated.into()));
        }
        let trace = Piece::Err("2026-03-01T10:00:00.600000000Z at main.rs\n".into());
        assert_eq!(dated(&trace, started), Piece::Err("at main.rs\n".into()));
    }

    #[test]
    fn containers_have_no_rights_but_those_that_are_kept() {
        let host = without_rights(host_config(), &["NET_ADMIN"]);
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        assert_eq!(host.cap_add, Some(vec!["NET_ADMIN".to_owned()]));
        assert_eq!(without_rights(host_config(), &[]).cap_add, None);
        assert!(host.privileged.is_none() && host.binds.is_none());
    }
}
