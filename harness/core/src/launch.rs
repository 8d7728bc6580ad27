//! What is started: a node's program, arguments, environment and network file, with every placeholder filled in.
//!
//! Pure: addresses, paths and keys are handed in. Placeholders are `{release.bin}`, `{release.name}`, `{name}`, `{role}`,
//! `{network}`, `{data}`, `{addr}`, `{PORT.addr}`, `{PORT.port}`, `{addr of ROLE}` and `{PORT.addr of ROLE}`
//! (comma-separated; nothing if there are no such nodes) and, as a whole argument, `{settings}`. The plan's check has refused every other.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::plan::Plan;
use crate::plan::model::{Node, Ready, Release, Role, Source};
use crate::random;

/// Version of the network file.
const NETWORK_FORMAT: u32 = 1;

/// What the substrate has decided about a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its own address, without a port.
    pub address: String,
    /// Its data directory as the node sees it.
    pub data: String,
    /// Its network file as the node sees it.
    pub network: String,
    /// Its public key in hex, for those who speak a protocol with keys.
    pub key: String,
    /// The public key that it signs with, in hex, likewise.
    pub id: String,
}

/// A network that is about to be started.
#[derive(Debug, Clone, Copy)]
pub struct Network<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The release under test.
    pub release: &'a Release,
    /// The seed of the run.
    pub seed: u64,
    /// Its network id.
    pub netid: u32,
    /// Genesis on the wall clock, in nanoseconds since 1970.
    pub genesis_unix_ns: u64,
    /// Every node's place.
    pub places: &'a BTreeMap<String, Place>,
}

/// What to exec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// The running executable.
    Own,
    /// A path as the plan spells it.
    Path(String),
    /// Nothing: its image starts by itself.
    Image,
}

/// An image of the user's own to start a node from, in a place where nodes have images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FromImage {
    /// Its name.
    pub name: String,
    /// What takes the place of its entry point, if anything.
    pub entry: Option<String>,
}

/// One node, ready to be started.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// The node.
    pub node: String,
    /// What to exec.
    pub program: Program,
    /// The image to exec it in, where nodes have images of their own.
    pub image: Option<FromImage>,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// When it is ready.
    pub ready: Ready,
    /// How long after its start it must be.
    pub ready_within_ns: u64,
    /// Where its signals come from.
    pub signals: BTreeMap<String, Source>,
    /// Events of its log that are recorded.
    pub events: BTreeSet<String>,
    /// Contents of its network file.
    pub network: Value,
}

/// The secret that a node's identity is derived from: by seed and name, so that every run of a seed has the same nodes.
pub fn identity(seed: u64, node: &str) -> [u8; 32] {
    random::key(seed, &["identity", node])
}

impl Network<'_> {
    /// How a node is started.
    pub fn launch(&self, node: &Node, role: &Role) -> Launch {
        let fill = |text: &str| self.fill(text, node, role);
        let mut words = role.command.iter();
        let program = match words.next().map(String::as_str) {
            Some("{release.bin}") => match &self.release.bin {
                Some(path) => Program::Path(path.clone()),
                None => Program::Own,
            },
            Some(path) => Program::Path(fill(path)),
            None => Program::Image,
        };
        let image = role.image.as_ref().map(|image| FromImage {
            name: image.name.clone(),
            entry: match role.command.first().map(String::as_str) {
                // What a release is, is what its image starts.
                None | Some("{release.bin}") => None,
                Some(path) => Some(fill(path)),
            },
        });
        let args = words.flat_map(|word| match word.as_str() {
            "{settings}" => settings(node),
            _ => vec![fill(word)],
        });
        let ready = match &role.ready {
            Ready::Http { url, status } => Ready::Http {
                url: fill(url),
                status: *status,
            },
            Ready::Tcp(address) => Ready::Tcp(fill(address)),
            Ready::Log(pattern) => Ready::Log(pattern.clone()),
            Ready::Exec(words) => Ready::Exec(words.iter().map(|word| fill(word)).collect()),
        };
        let signals = role.signals.iter().map(|(name, signal)| {
            let source = match &signal.source {
                Source::Json { url, pointer } => Source::Json {
                    url: fill(url),
                    pointer: pointer.clone(),
                },
                Source::Metric { url, name } => Source::Metric {
                    url: fill(url),
                    name: name.clone(),
                },
                Source::Log { event, value } => Source::Log {
                    event: event.clone(),
                    value: value.clone(),
                },
            };
            (name.clone(), source)
        });
        Launch {
            node: node.name.clone(),
            program,
            image,
            args: args.collect(),
            env: role
                .env
                .iter()
                .map(|(key, value)| (key.clone(), fill(value)))
                .collect(),
            ready,
            ready_within_ns: role.ready_within_ns,
            signals: signals.collect(),
            events: role.events.clone(),
            network: self.file(node),
        }
    }

    /// `ADDRESS:PORT` of a node's port.
    pub fn socket(&self, node: &Node, port: &str) -> Option<String> {
        let number = self.plan.roles.get(&node.role)?.ports.get(port)?.number;
        Some(format!("{}:{number}", self.places.get(&node.name)?.address))
    }

    fn fill(&self, text: &str, node: &Node, role: &Role) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let Some(close) = rest[open..].find('}') else {
                break;
            };
            out.push_str(&rest[..open]);
            let key = &rest[open + 1..open + close];
            match self.value(key, node, role) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&rest[open..=open + close]),
            }
            rest = &rest[open + close + 1..];
        }
        out.push_str(rest);
        out
    }

    fn value(&self, key: &str, node: &Node, role: &Role) -> Option<String> {
        let place = self.places.get(&node.name)?;
        if let Some((what, of)) = key.split_once(" of ") {
            let members = self.plan.nodes.iter().filter(|other| other.role == of);
            let address = |other: &Node| match what.strip_suffix(".addr") {
                Some(port) => self.socket(other, port),
                None => Some(self.places.get(&other.name)?.address.clone()),
            };
            return Some(members.filter_map(address).collect::<Vec<_>>().join(","));
        }
        match key {
            "name" => Some(node.name.clone()),
            "role" => Some(node.role.clone()),
            "network" => Some(place.network.clone()),
            "data" => Some(place.data.clone()),
            "addr" => Some(place.address.clone()),
            "release.name" => Some(self.release.name.clone()),
            "release.bin" => self.release.bin.clone(),
            _ => {
                let (port, what) = key.rsplit_once('.')?;
                match what {
                    "addr" => self.socket(node, port),
                    "port" => role.ports.get(port).map(|port| port.number.to_string()),
                    _ => None,
                }
            }
        }
    }

    /// The network file of one node: the only one that holds its secret.
    fn file(&self, node: &Node) -> Value {
        let nodes: Vec<Value> = self
            .plan
            .nodes
            .iter()
            .map(|other| self.entry(other))
            .collect();
        json!({
            "format": NETWORK_FORMAT,
            "netid": self.netid,
            "genesis_unix_ns": self.genesis_unix_ns,
            "layer_ns": self.plan.calendar.layer_ns,
            "layers_per_epoch": self.plan.calendar.layers_per_epoch,
            "seed": self.seed,
            "release": {
                "name": self.release.name,
                "base": self.release.base,
                "without": self.release.without,
            },
            "self": {
                "name": node.name,
                "role": node.role,
                "identity": hex::encode(identity(self.seed, &node.name)),
            },
            "nodes": nodes,
        })
    }

    fn entry(&self, node: &Node) -> Value {
        let mut entry = serde_json::Map::new();
        if let Some(role) = self.plan.roles.get(&node.role) {
            for port in role.ports.keys() {
                entry.insert(port.clone(), json!(self.socket(node, port)));
            }
            entry.insert("speaks".to_owned(), json!(role.speaks));
        }
        entry.insert("name".to_owned(), json!(node.name));
        entry.insert("role".to_owned(), json!(node.role));
        let place = self.places.get(&node.name);
        entry.insert("key".to_owned(), json!(place.map(|place| &place.key)));
        entry.insert("id".to_owned(), json!(place.map(|place| &place.id)));
        Value::Object(entry)
    }
}

fn settings(node: &Node) -> Vec<String> {
    node.settings
        .iter()
        .flat_map(|(key, value)| [format!("--{key}"), value.clone()])
        .collect()
}
