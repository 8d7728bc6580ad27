//! The network file: what a node is told about the network before it starts.
//!
//! JSON, written by who starts the network. Fields that are not known here are ignored, so that a
//! newer harness can start an older node; a missing or wrong one is an error that says where it is.
//! Roles are free text: what another node is good for is what it `speaks`. To add a field, add it to
//! the raw struct and to [`Network`]. This module reads one file and decides nothing.

use super::identity::node_id;
use crate::p2p::wire::{PublicKey, SecretKey};
use crate::protocol::genesis::NodeId;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;

/// The one format there is.
const FORMAT: u64 = 1;
/// Who speaks this has a UDP session table and takes part in the swarm.
const SPEAKS_SESSIONS: &str = "udp-session-2020";
/// Who speaks this mines and votes.
const SPEAKS_VOTES: &str = "layer-votes";
/// Who speaks this is a PoET.
const SPEAKS_POET: &str = "poet-2020";

/// The network as one node sees it.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) netid: u32,
    pub(crate) genesis_unix_ns: u64,
    pub(crate) layer_ns: u64,
    pub(crate) layers_per_epoch: u32,
    /// Keys every choice this node draws.
    pub(crate) seed: u64,
    pub(crate) release: ReleaseEntry,
    pub(crate) secret: SecretKey,
    /// Everyone else who speaks the node protocol.
    pub(crate) others: Vec<Other>,
    /// The signing keys of all who mine, this node too, in the order of the file.
    pub(crate) miners: Vec<NodeId>,
    pub(crate) poets: Vec<PoetAt>,
}

/// The release the file names; resolved by `releases.rs`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ReleaseEntry {
    pub(crate) name: String,
    pub(crate) base: String,
    #[serde(default)]
    pub(crate) without: Vec<String>,
}

/// Another node of the network.
#[derive(Debug, Clone)]
pub(crate) struct Other {
    pub(crate) name: String,
    pub(crate) p2p: SocketAddr,
    pub(crate) key: PublicKey,
    pub(crate) votes: bool,
}

/// Where a PoET takes challenges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PoetAt {
    pub(crate) name: String,
    pub(crate) api: SocketAddr,
}

/// Why a network file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error("the network file cannot be read: {0}")]
    Read(#[from] std::io::Error),
    #[error("the network file {path} is not JSON: {error}")]
    Json {
        path: String,
        error: serde_json::Error,
    },
    #[error("the network file {path}: {place}: {what}")]
    Content {
        path: String,
        place: String,
        what: String,
    },
}

impl Network {
    /// Reads the file for the node called `name`.
    pub(crate) fn read(path: &Path, name: &str) -> Result<Self, NetworkError> {
        let bytes = fs_err::read(path)?;
        let path = path.display().to_string();
        let json: Value = serde_json::from_slice(&bytes).map_err(|error| NetworkError::Json {
            path: path.clone(),
            error,
        })?;
        Self::from_json(&json, name).map_err(|(place, what)| NetworkError::Content {
            path,
            place,
            what,
        })
    }

    fn from_json(json: &Value, name: &str) -> Result<Self, (String, String)> {
        let top: Top = part(json, "top level")?;
        if top.format != FORMAT {
            let what = format!("is {}, and this node reads format {FORMAT}", top.format);
            return Err(("format".to_owned(), what));
        }
        if top.layer_ns == 0 || top.layers_per_epoch == 0 {
            return Err((
                "layer_ns, layers_per_epoch".to_owned(),
                "must not be 0".to_owned(),
            ));
        }
        let me: Myself = part(&top.myself, "self")?;
        if me.name != name {
            let what = format!(
                "is `{}`, but this node was started with --name {name}",
                me.name
            );
            return Err(("self.name".to_owned(), what));
        }
        let release: ReleaseEntry = part(&top.release, "release")?;
        let secret = key(&me.identity, "self.identity")?;
        let mut nodes = Nodes::default();
        for (i, node) in top.nodes.iter().enumerate() {
            nodes.add(node, &format!("nodes[{i}]"), name, &secret)?;
        }
        Ok(Self {
            netid: top.netid,
            genesis_unix_ns: top.genesis_unix_ns,
            layer_ns: top.layer_ns,
            layers_per_epoch: top.layers_per_epoch,
            seed: top.seed,
            release,
            secret,
            others: nodes.others,
            miners: nodes.miners,
            poets: nodes.poets,
        })
    }
}

/// What is made of the file's `nodes`.
#[derive(Default)]
struct Nodes {
    others: Vec<Other>,
    miners: Vec<NodeId>,
    poets: Vec<PoetAt>,
}

impl Nodes {
    fn add(
        &mut self,
        node: &Value,
        place: &str,
        me: &str,
        secret: &SecretKey,
    ) -> Result<(), (String, String)> {
        let raw: Node = part(node, place)?;
        let speaks = |what| raw.speaks.iter().any(|word| word == what);
        if speaks(SPEAKS_VOTES) {
            self.add_miner(&raw, place, me, secret)?;
        }
        if speaks(SPEAKS_POET) {
            let api = raw.address(place, "api", raw.api.as_ref())?;
            let name = raw.name.clone();
            self.poets.push(PoetAt { name, api });
        }
        if speaks(SPEAKS_SESSIONS) {
            self.add_other(&raw, place, me, secret, speaks(SPEAKS_VOTES))?;
        }
        Ok(())
    }

    fn add_miner(
        &mut self,
        raw: &Node,
        place: &str,
        me: &str,
        secret: &SecretKey,
    ) -> Result<(), (String, String)> {
        let at = format!("{place}.id");
        let id = key(raw.field(place, "id", raw.id.as_ref())?, &at)?;
        if raw.name == me && id != node_id(secret) {
            let what = "is not the ed25519 public key that follows from self.identity";
            return Err((at, what.to_owned()));
        }
        if self.miners.contains(&id) {
            return Err((at, "is the id of another miner too".to_owned()));
        }
        self.miners.push(id);
        Ok(())
    }

    fn add_other(
        &mut self,
        raw: &Node,
        place: &str,
        me: &str,
        secret: &SecretKey,
        votes: bool,
    ) -> Result<(), (String, String)> {
        let at = format!("{place}.key");
        let key = key(raw.field(place, "key", raw.key.as_ref())?, &at)?;
        let p2p = raw.address(place, "p2p", raw.p2p.as_ref())?;
        if raw.name == me {
            if key != crate::p2p::wire::public_key(secret) {
                let what = "is not the x25519 public key of self.identity".to_owned();
                return Err((at, what));
            }
            return Ok(());
        }
        let twin = |other: &&Other| other.name == raw.name || other.key == key;
        if let Some(twin) = self.others.iter().find(twin) {
            let what = format!("has the name or the key of `{}`", twin.name);
            return Err((place.to_owned(), what));
        }
        self.others.push(Other {
            name: raw.name.clone(),
            p2p,
            key,
            votes,
        });
        Ok(())
    }
}

fn part<T: DeserializeOwned>(value: &Value, place: &str) -> Result<T, (String, String)> {
    T::deserialize(value).map_err(|error| (place.to_owned(), error.to_string()))
}

fn key(text: &str, place: &str) -> Result<[u8; 32], (String, String)> {
    let mut key = [0; 32];
    hex::decode_to_slice(text, &mut key).map_err(|error| {
        (
            place.to_owned(),
            format!("is not 64 hexadecimal digits: {error}"),
        )
    })?;
    Ok(key)
}

#[derive(Deserialize)]
struct Top {
    format: u64,
    netid: u32,
    genesis_unix_ns: u64,
    layer_ns: u64,
    layers_per_epoch: u32,
    seed: u64,
    release: Value,
    #[serde(rename = "self")]
    myself: Value,
    nodes: Vec<Value>,
}

#[derive(Deserialize)]
struct Myself {
    name: String,
    identity: String,
}

#[derive(Deserialize)]
struct Node {
    name: String,
    speaks: Vec<String>,
    p2p: Option<String>,
    api: Option<String>,
    key: Option<String>,
    id: Option<String>,
}

impl Node {
    /// A field that what the node speaks asks for.
    fn field<'a>(
        &self,
        place: &str,
        name: &str,
        value: Option<&'a String>,
    ) -> Result<&'a String, (String, String)> {
        value.ok_or_else(|| {
            (
                format!("{place} (`{}`)", self.name),
                format!("missing field `{name}`"),
            )
        })
    }

    fn address(
        &self,
        place: &str,
        name: &str,
        value: Option<&String>,
    ) -> Result<SocketAddr, (String, String)> {
        let text = self.field(place, name, value)?;
        text.parse().map_err(|_| {
            (
                format!("{place}.{name}"),
                format!("`{text}` is not an address such as 127.1.2.3:7513"),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sample() -> Value {
        let key = |n: u8| hex::encode(crate::p2p::wire::public_key(&[n; 32]));
        let id = |n: u8| hex::encode(node_id(&[n; 32]));
        let speaks = ["udp-session-2020", "nodestatus", "layer-votes"];
        json!({
            "format": 1, "netid": 116, "genesis_unix_ns": 5, "layer_ns": 250, "layers_per_epoch": 4,
            "seed": 9, "release": { "name": "x", "base": "fixed" },
            "self": { "name": "a", "role": "anything", "identity": hex::encode([1; 32]) },
            "nodes": [
                { "name": "a", "role": "miner", "speaks": speaks, "p2p": "127.1.2.3:7513", "api": "127.1.2.3:9090", "key": key(1), "id": id(1) },
                { "name": "b", "role": "digger", "speaks": speaks, "p2p": "127.1.2.4:7513", "key": key(2), "id": id(2) },
                { "name": "c", "role": "relay", "speaks": ["udp-session-2020"], "p2p": "127.1.2.5:7513", "key": key(3) },
                { "name": "d", "role": "poet", "speaks": ["poet-2020"], "api": "127.1.2.6:8080", "from": "the future" },
            ],
        })
    }

    #[test]
    fn peers_are_those_who_speak_the_protocol_whatever_their_role_is_called() {
        let network = Network::from_json(&sample(), "a").unwrap();
        let seen: Vec<_> = network
            .others
            .iter()
            .map(|o| (o.name.as_str(), o.votes))
            .collect();
        assert_eq!(seen, [("b", true), ("c", false)]);
        assert_eq!(network.secret, [1; 32]);
        assert_eq!(network.miners, [1, 2].map(|n| node_id(&[n; 32])));
        let poet = PoetAt {
            name: "d".to_owned(),
            api: "127.1.2.6:8080".parse().unwrap(),
        };
        assert_eq!(network.poets, [poet]);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_with_its_place() {
        let table: [(&str, Value, &str); 15] = [
            ("/netid", Value::Null, "netid"),
            ("/format", json!(2), "format"),
            ("/layer_ns", json!(0), "layer_ns"),
            ("/release/base", Value::Null, "release"),
            ("/self/identity", json!("zz"), "self.identity"),
            ("/self/name", json!("b"), "--name a"),
            (
                "/nodes/1/key",
                Value::Null,
                "nodes[1] (`b`): missing field `key`",
            ),
            ("/nodes/1/p2p", json!("127.0.0.1"), "nodes[1].p2p"),
            ("/nodes/1/name", json!("c"), "nodes[2]"),
            ("/nodes/0/key", json!(hex::encode([7; 32])), "nodes[0].key"),
            ("/nodes/2/speaks", Value::Null, "nodes[2]"),
            (
                "/nodes/1/id",
                Value::Null,
                "nodes[1] (`b`): missing field `id`",
            ),
            ("/nodes/0/id", json!(hex::encode([7; 32])), "nodes[0].id"),
            (
                "/nodes/1/id",
                json!(hex::encode(node_id(&[1; 32]))),
                "nodes[1].id",
            ),
            (
                "/nodes/3/api",
                Value::Null,
                "nodes[3] (`d`): missing field `api`",
            ),
        ];
        for (pointer, value, expected) in table {
            let mut json = sample();
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            let parent = json.pointer_mut(parent).unwrap().as_object_mut().unwrap();
            if value.is_null() {
                parent.remove(field);
            } else {
                parent.insert(field.to_owned(), value);
            }
            let (place, what) = Network::from_json(&json, "a").unwrap_err();
            let text = format!("{place}: {what}");
            assert!(text.contains(expected), "{pointer}: {text}");
        }
    }
}
