//! Where an engine is.
//!
//! The address is found as the docker CLI finds it: `DOCKER_HOST`, `DOCKER_CONTEXT`, the current
//! context of `config.json`, the default socket. Unix sockets and plain tcp are spoken; TLS, ssh
//! and anything else is refused by name, with what to do instead.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// Where Linux engines listen unless told otherwise.
const DEFAULT_SOCKET: &str = "unix:///var/run/docker.sock";

/// Why there is no address to speak to.
#[derive(Debug, Error)]
pub enum AddressError {
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
    pub fn read() -> Result<Self, AddressError> {
        Self::of(|key| std::env::var_os(key))
    }

    fn of(var: impl Fn(&str) -> Option<OsString>) -> Result<Self, AddressError> {
        let set = |key: &str| var(key).filter(|value| !value.is_empty());
        let text = |key: &'static str| {
            let text = set(key).map(OsString::into_string).transpose();
            text.map_err(|bytes| AddressError::NoText {
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
    pub fn find(env: &EngineEnv) -> Result<Self, AddressError> {
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
        let fail = |why: String| AddressError::Context {
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
    fn checked(url: &str, from: &str, tls: bool) -> Result<Self, AddressError> {
        let refuse = |why: &str, next: String| {
            Err(AddressError::Refused {
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
    pub(super) fn socket(&self) -> Option<&Path> {
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
fn current_context(config: Option<&Path>) -> Result<String, AddressError> {
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
            return Err(AddressError::Context {
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
        Err(error) => Err(AddressError::Context {
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

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;
