//! What is asked of an agent, whether it runs in this process or in a node's pod.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::observe::poll::Extract;
use crate::observe::prometheus::MetricName;

/// What it means for a node to be ready, as far as an agent can see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// A page answers with this status.
    Http {
        /// The page.
        url: String,
        /// The status.
        status: u16,
    },
    /// A TCP connection is accepted.
    Tcp(SocketAddr),
}

/// One signal to be polled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poll {
    /// Its name.
    pub signal: String,
    /// The page that has it.
    pub url: String,
    /// Where on the page.
    pub read: Read,
    /// How often.
    pub period: Duration,
    /// How long an answer may take.
    pub within: Duration,
}

/// How a value is taken out of a page; see [`Extract`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Read {
    /// What is at a JSON pointer.
    Json(String),
    /// A metric's name, with labels in braces if it has any.
    Metric(String),
}

impl Read {
    pub(crate) fn extract(&self) -> Result<Extract, String> {
        match self {
            Self::Json(pointer) => Ok(Extract::Json(pointer.clone())),
            Self::Metric(name) => MetricName::parse(name)
                .map(Extract::Metric)
                .ok_or_else(|| format!("`{name}` is no name of a metric")),
        }
    }
}

/// Whom to ping, and in which protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingAt {
    /// The node's UDP address.
    pub address: SocketAddr,
    /// Its public key.
    pub key: [u8; 32],
    /// The protocol's name.
    pub dialect: String,
}

/// A ping that is repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingEvery {
    /// Whom.
    pub target: PingAt,
    /// How often.
    pub period: Duration,
}
