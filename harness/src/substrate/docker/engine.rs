//! Reaching an engine at its address, and what stands in the way.
//!
//! The API version is negotiated. Errors say what the user can do; nothing here is tried twice.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, ClientVersion, Docker};
use futures_util::future::{BoxFuture, FutureExt as _};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::address::{AddressError, EngineAddress, EngineEnv};
use super::others::Others;

/// The least API version: 1.40 (engine 19.03) is the first that changes a limit of processes
/// while a container runs, which `cap-pids` is made of.
pub const API_MIN: (usize, usize) = (1, 40);

/// How long the engine may take to answer the first questions: its version, and what it is.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// How long any one request may take until its answer begins. Starting a container was seen to
/// take 1.7 s when many start at once; a cold disk is slower.
const REQUEST_SECONDS: u64 = 120;

/// Why there is no engine to work with.
#[derive(Debug, Error)]
pub enum EngineError {
    /// It cannot be told where it is, or it is not reached in a way that is spoken here.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Nobody answers there.
    #[error("no engine answers at {address} (from {from}): {why}; {next}")]
    NoAnswer {
        /// Where the address was found.
        from: String,
        /// The address.
        address: String,
        /// What the system said.
        why: String,
        /// What to do.
        next: String,
    },
    /// The socket belongs to others.
    #[error(
        "the engine's socket {address} may not be opened by this user; join the socket's group (often \
         `sudo usermod -aG docker $USER`, then log in again) or run as a user who may"
    )]
    Denied {
        /// The address.
        address: String,
    },
    /// The engine is too old.
    #[error(
        "the engine at {address} is {version} and speaks API {api}; at least {}.{} (engine 19.03) is \
         needed, which first changes a limit of processes live; update the engine",
        API_MIN.0, API_MIN.1
    )]
    TooOld {
        /// The address.
        address: String,
        /// The engine's version.
        version: String,
        /// The API's version.
        api: String,
    },
    /// The engine runs other containers than ours.
    #[error(
        "the engine at {address} runs {os} containers on {arch}, and this executable is for linux on \
         {}; use an engine of the same kind",
        std::env::consts::ARCH
    )]
    Foreign {
        /// The address.
        address: String,
        /// Its system.
        os: String,
        /// Its processor.
        arch: String,
    },
    /// The engine answered something else than expected.
    #[error("the engine at {address} does not answer as an engine does: {why}; is it Docker?")]
    Strange {
        /// The address.
        address: String,
        /// What it answered.
        why: String,
    },
}

/// What an engine says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EngineAbout {
    /// How it is reached.
    pub address: EngineAddress,
    /// Its own id, by which records of one engine are told from those of another.
    pub id: String,
    /// Its version.
    pub version: String,
    /// The negotiated version of the API.
    pub api: String,
    /// Its kernel.
    pub kernel: String,
    /// `1` or `2`.
    pub cgroups: String,
    /// Its processors.
    pub cpus: u32,
    /// Its memory in bytes.
    pub memory: u64,
}

/// A connection to an engine. A handle that can be cloned.
#[derive(Clone, Debug)]
pub struct Engine {
    docker: Docker,
    about: std::sync::Arc<EngineAbout>,
    others: std::sync::Arc<Others>,
}

impl Engine {
    /// Finds the engine by this process's environment and greets it.
    pub fn find() -> BoxFuture<'static, Result<Self, EngineError>> {
        async move { Self::connect(EngineAddress::find(&EngineEnv::read()?)?).await }.boxed()
    }

    /// Greets an engine: negotiates the version and asks what it is.
    pub fn connect(address: EngineAddress) -> BoxFuture<'static, Result<Self, EngineError>> {
        async move {
            let strange = |why: String| EngineError::Strange {
                address: address.url.clone(),
                why,
            };
            let docker = match address.socket() {
                Some(path) => {
                    let path = path.to_string_lossy();
                    Docker::connect_with_unix(&path, REQUEST_SECONDS, API_DEFAULT_VERSION)
                }
                None => {
                    Docker::connect_with_http(&address.url, REQUEST_SECONDS, API_DEFAULT_VERSION)
                }
            };
            let greeted = async {
                let docker = docker?.negotiate_version().await?;
                let version = docker.version().await?;
                Ok::<_, bollard::errors::Error>((docker, version))
            };
            let deadline = tokio::time::Instant::now() + FIRST_ANSWER;
            let late = |asked: &str| {
                let why = format!("no answer to {asked} within {} s", FIRST_ANSWER.as_secs());
                no_answer(&address, why, "look at the engine's own log")
            };
            let (docker, version) = match tokio::time::timeout_at(deadline, greeted).await {
                Ok(Ok(greeted)) => greeted,
                Ok(Err(error)) => return Err(unreachable_because(&address, &error)),
                Err(_) => return Err(late("/version")),
            };
            let ClientVersion {
                major_version,
                minor_version,
            } = docker.client_version();
            let api = format!("{major_version}.{minor_version}");
            let name = version
                .version
                .unwrap_or_else(|| "of unknown version".to_owned());
            if (major_version, minor_version) < API_MIN {
                return Err(EngineError::TooOld {
                    address: address.url,
                    version: name,
                    api,
                });
            }
            let info = match tokio::time::timeout_at(deadline, docker.info()).await {
                Ok(info) => info.map_err(|error| strange(said(&error)))?,
                Err(_) => return Err(late("/info")),
            };
            let (os, arch) = (
                info.os_type.unwrap_or_default(),
                info.architecture.unwrap_or_default(),
            );
            if os.is_empty() || arch.is_empty() {
                return Err(strange(
                    "/info does not tell its system and its processor".to_owned(),
                ));
            }
            let same = arch == std::env::consts::ARCH
                || matches!(
                    (arch.as_str(), std::env::consts::ARCH),
                    ("amd64", "x86_64") | ("arm64", "aarch64")
                );
            if os != "linux" || !same {
                return Err(EngineError::Foreign {
                    address: address.url,
                    os,
                    arch,
                });
            }
            let id = info.id.filter(|id| !id.is_empty());
            let about = EngineAbout {
                id: id.ok_or_else(|| strange("it has no id".to_owned()))?,
                version: name,
                api,
                kernel: info.kernel_version.unwrap_or_default(),
                cgroups: info
                    .cgroup_version
                    .map_or_else(|| "1".to_owned(), |version| version.to_string()),
                cpus: info
                    .ncpu
                    .and_then(|cpus| u32::try_from(cpus).ok())
                    .unwrap_or(1),
                memory: info
                    .mem_total
                    .and_then(|bytes| u64::try_from(bytes).ok())
                    .unwrap_or(u64::MAX),
                address,
            };
            Ok(Self {
                docker,
                about: std::sync::Arc::new(about),
                others: std::sync::Arc::default(),
            })
        }
        .boxed()
    }

    /// What it says about itself.
    pub fn about(&self) -> &EngineAbout {
        &self.about
    }

    /// What of this process's containers others do something to.
    pub(super) fn others(&self) -> &Others {
        &self.others
    }

    /// The client.
    pub(crate) fn docker(&self) -> &Docker {
        &self.docker
    }
}

fn no_answer(address: &EngineAddress, why: String, next: &str) -> EngineError {
    EngineError::NoAnswer {
        from: address.from.clone(),
        address: address.url.clone(),
        why,
        next: next.to_owned(),
    }
}

/// Says in words why the first question was not answered.
fn unreachable_because(address: &EngineAddress, error: &bollard::errors::Error) -> EngineError {
    if matches!(error, bollard::errors::Error::SocketNotFoundError(_)) {
        let next =
            "start the engine (`systemctl start docker`), or set DOCKER_HOST to where it listens";
        return no_answer(address, "there is no such socket".to_owned(), next);
    }
    match io_cause(error) {
        Some(cause) if cause.kind() == io::ErrorKind::PermissionDenied => EngineError::Denied {
            address: address.url.clone(),
        },
        Some(cause) => {
            let next = "start the engine (`systemctl start docker`), or set DOCKER_HOST to where it listens";
            no_answer(address, cause.to_string(), next)
        }
        None => EngineError::Strange {
            address: address.url.clone(),
            why: said(error),
        },
    }
}

/// The system's error below an error of the client.
fn io_cause(error: &bollard::errors::Error) -> Option<&io::Error> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return Some(io);
        }
        cause = inner.source();
    }
    None
}

/// An error of the client with its causes, as one line.
pub(crate) fn said(error: &bollard::errors::Error) -> String {
    if let bollard::errors::Error::DockerResponseServerError {
        status_code,
        message,
    } = error
    {
        return format!(
            "{} (status {status_code})",
            crate::observe::excerpt(message, 400)
        );
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = inner.source();
    }
    text
}

/// The status code with which the engine refused.
pub(crate) fn status_of(error: &bollard::errors::Error) -> Option<u16> {
    match error {
        bollard::errors::Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
