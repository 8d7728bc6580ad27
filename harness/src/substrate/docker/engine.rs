//! Reaching an engine: which address, by which way, and what stands in the way.
//!
//! The address is found as the docker CLI finds it: `DOCKER_HOST`, `DOCKER_CONTEXT`, the current
//! context of `config.json`, the default socket. Unix sockets and plain tcp are spoken; TLS, ssh
//! and anything else is refused by name, with what to do instead. The API version is negotiated.
//! Errors say what the user can do; nothing here is tried twice.

use std::error::Error as _;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, ClientVersion, Docker};
use fs_err as fs;
use futures_util::future::{BoxFuture, FutureExt as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::others::Others;

/// The least API version: 1.40 (engine 19.03) is the first that changes a limit of processes
/// while a container runs, which `cap-pids` is made of.
pub const API_MIN: (usize, usize) = (1, 40);

/// Where Linux engines listen unless told otherwise.
const DEFAULT_SOCKET: &str = "unix:///var/run/docker.sock";

/// How long the engine may take to answer the first questions: its version, and what it is.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// How long any one request may take until its answer begins. Starting a container was seen to
/// take 1.7 s when many start at once; a cold disk is slower.
const REQUEST_SECONDS: u64 = 120;

/// Why there is no engine to work with.
#[derive(Debug, Error)]
pub enum EngineError {
    /// A way of reaching engines that is not spoken here.
    #[error("{from} names {address}: {why}; {next}")]
    Refused {
        /// Where the address was found.
        from: String,
        /// The address.
        address: String,
        /// What about it is not supported.
        why: String,
        /// What to do instead.
        next: String,
    },
    /// A variable that is no text.
    #[error(
        "{key} is not UTF-8 (`{shown}`), so which engine it means cannot be told; set it anew, or unset it"
    )]
    NoText {
        /// The variable.
        key: &'static str,
        /// What it holds, as far as it can be shown.
        shown: String,
    },
    /// A context that cannot be read.
    #[error(
        "the docker context `{name}` cannot be used: {why}; see `docker context ls`, or set DOCKER_HOST"
    )]
    Context {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
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

/// What of the environment says where the engine is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineEnv {
    /// `DOCKER_HOST`.
    pub host: Option<String>,
    /// `DOCKER_CONTEXT`.
    pub context: Option<String>,
    /// `DOCKER_TLS_VERIFY` or `DOCKER_TLS`, if not empty.
    pub tls: bool,
    /// `DOCKER_CONFIG`, or `~/.docker`.
    pub config: Option<PathBuf>,
}

impl EngineEnv {
    /// The environment of this process.
    ///
    /// # Errors
    /// A variable that names an engine and is no text: without it another engine would be found.
    pub fn read() -> Result<Self, EngineError> {
        Self::of(|key| std::env::var_os(key))
    }

    fn of(var: impl Fn(&str) -> Option<OsString>) -> Result<Self, EngineError> {
        let set = |key: &str| var(key).filter(|value| !value.is_empty());
        let text = |key: &'static str| {
            let text = set(key).map(OsString::into_string).transpose();
            text.map_err(|bytes| EngineError::NoText {
                key,
                shown: bytes.to_string_lossy().escape_default().to_string(),
            })
        };
        let home = || Some(PathBuf::from(set("HOME")?).join(".docker"));
        Ok(Self {
            host: text("DOCKER_HOST")?,
            context: text("DOCKER_CONTEXT")?,
            tls: set("DOCKER_TLS_VERIFY")
                .or_else(|| set("DOCKER_TLS"))
                .is_some(),
            config: text("DOCKER_CONFIG")?.map(PathBuf::from).or_else(home),
        })
    }
}

/// An address that can be spoken to, and where it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineAddress {
    /// `unix:///path` or `tcp://host:port`.
    pub url: String,
    /// `DOCKER_HOST`, `the docker context NAME`, `the default`.
    pub from: String,
}

impl EngineAddress {
    /// Finds the address.
    pub fn find(env: &EngineEnv) -> Result<Self, EngineError> {
        if let Some(host) = &env.host {
            return Self::checked(host, "DOCKER_HOST", env.tls);
        }
        let name = match &env.context {
            Some(name) => name.clone(),
            None => current_context(env.config.as_deref())?,
        };
        if name == "default" {
            return Self::checked(DEFAULT_SOCKET, "the default", false);
        }
        let fail = |why: String| EngineError::Context {
            name: shown(&name),
            why,
        };
        let Some(config) = &env.config else {
            return Err(fail("there is no home directory to find it in".to_owned()));
        };
        let id = hex::encode(Sha256::digest(name.as_bytes()));
        let path = config.join("contexts/meta").join(&id).join("meta.json");
        let text = fs::read_to_string(&path).map_err(|error| fail(error.to_string()))?;
        let meta: ContextMeta = serde_json::from_str(&text)
            .map_err(|error| fail(format!("{} has an unknown form: {error}", path.display())))?;
        let Some(docker) = meta.endpoints.docker else {
            return Err(fail("it names no docker endpoint".to_owned()));
        };
        let tls = config.join("contexts/tls").join(&id).is_dir();
        Self::checked(
            &docker.host,
            &format!("the docker context `{}`", shown(&name)),
            tls,
        )
    }

    /// Checks that an address is of a kind that is spoken here.
    fn checked(url: &str, from: &str, tls: bool) -> Result<Self, EngineError> {
        let refuse = |why: &str, next: String| {
            Err(EngineError::Refused {
                from: from.to_owned(),
                address: shown(url),
                why: why.to_owned(),
                next,
            })
        };
        if url.contains(char::is_control) {
            let next = "write unix:///PATH or tcp://HOST:PORT without them".to_owned();
            return refuse("it has control characters", next);
        }
        let Some((scheme, rest)) = url.split_once("://") else {
            return refuse(
                "it has no scheme",
                "write unix:///PATH or tcp://HOST:PORT".to_owned(),
            );
        };
        match scheme {
            "unix" if rest.starts_with('/') => {}
            "unix" => {
                return refuse(
                    "the path of a socket is absolute",
                    "write unix:///PATH".to_owned(),
                );
            }
            "tcp" | "http" | "https" | "ssh" if Remote::of(rest).host.is_empty() => {
                return refuse(
                    "it names no host",
                    "write tcp://HOST:PORT or unix:///PATH".to_owned(),
                );
            }
            "https" => {
                return refuse(
                    "TLS is not supported",
                    Remote::of(rest).only_host().forward(),
                );
            }
            "tcp" | "http" if tls => {
                return refuse(
                    "TLS is not supported",
                    Remote::of(rest).only_host().forward(),
                );
            }
            "tcp" | "http" => {}
            "ssh" => return refuse("ssh is not supported", Remote::of(rest).forward()),
            "npipe" => {
                return refuse(
                    "named pipes are of Windows",
                    "use an engine on Linux".to_owned(),
                );
            }
            "fd" => {
                return refuse(
                    "that is for the engine itself",
                    "write the socket's path as unix:///PATH".to_owned(),
                );
            }
            _ => {
                return refuse(
                    "its scheme is not known",
                    "write unix:///PATH or tcp://HOST:PORT".to_owned(),
                );
            }
        }
        let url = url.replacen("http://", "tcp://", 1);
        Ok(Self {
            url,
            from: from.to_owned(),
        })
    }

    /// The path of a unix socket.
    fn socket(&self) -> Option<&Path> {
        self.url.strip_prefix("unix://").map(Path::new)
    }
}

/// Where an address leads that is not of this machine.
#[derive(Clone, Copy, Debug)]
struct Remote<'a> {
    /// Who is logged in, with the sign after it.
    user: &'a str,
    host: &'a str,
    port: Option<&'a str>,
    /// The socket there.
    path: &'a str,
}

impl<'a> Remote<'a> {
    /// Reads what stands after `://`.
    fn of(rest: &'a str) -> Self {
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, at) = authority.split_at(authority.rfind('@').map_or(0, |sign| sign + 1));
        // Colons of an address in brackets are its own.
        let (host, port) = match at.strip_prefix('[').and_then(|at| at.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => match at.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (at, None),
            },
        };
        Self {
            user,
            host,
            port: port.filter(|port| !port.is_empty()),
            path,
        }
    }

    /// Ports and paths of HTTP are none of ssh.
    fn only_host(self) -> Self {
        Self {
            port: None,
            path: "",
            ..self
        }
    }

    /// How its socket is reached instead.
    fn forward(self) -> String {
        let port = self.port.map(|port| format!("-p {port} "));
        let path = match self.path {
            "" | "/" => "/var/run/docker.sock",
            path => path,
        };
        format!(
            "forward its socket with `ssh -nNT -L /tmp/engine.sock:{path} {}{}{}` and set \
             DOCKER_HOST=unix:///tmp/engine.sock",
            port.unwrap_or_default(),
            self.user,
            self.host
        )
    }
}

/// A text of the environment as a terminal can show it.
fn shown(text: &str) -> String {
    let shown = text.chars().map(|c| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    });
    shown.collect()
}

/// The name of the context that `docker context use` chose.
fn current_context(config: Option<&Path>) -> Result<String, EngineError> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default, rename = "currentContext")]
        current: Option<String>,
    }
    let default = || "default".to_owned();
    let Some(path) = config.map(|config| config.join("config.json")) else {
        return Ok(default());
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        // Neither the file nor its directory needs to exist or be ours.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(default());
        }
        Err(error) => {
            return Err(EngineError::Context {
                name: "current".to_owned(),
                why: error.to_string(),
            });
        }
    };
    match serde_json::from_str::<Config>(&text) {
        Ok(config) => Ok(config
            .current
            .filter(|name| !name.is_empty())
            .unwrap_or_else(default)),
        Err(error) => Err(EngineError::Context {
            name: "current".to_owned(),
            why: format!("{} has an unknown form: {error}", path.display()),
        }),
    }
}

/// `meta.json` of a context, as far as it is needed.
#[derive(Deserialize)]
struct ContextMeta {
    #[serde(rename = "Endpoints")]
    endpoints: Endpoints,
}

#[derive(Deserialize)]
struct Endpoints {
    docker: Option<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    #[serde(rename = "Host")]
    host: String,
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
