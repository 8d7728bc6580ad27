//! The network file: what a node is told about the network before it starts.
//!
//! JSON, written by who starts the network. Fields that are not known here are ignored, so that a
//! newer harness can start an older node; a missing or wrong one is an error that says where it is.
//! Roles are free text: what another node is good for is what it `speaks`. To add a field, add it to
//! the raw struct and to [`Network`]. This module reads one file and decides nothing.

use crate::p2p::wire::{PublicKey, SecretKey};
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

/// The network as one node sees it.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) netid: u32,
    pub(crate) genesis_unix_ns: u64,
    pub(crate) layer_ns: u64,
    /// Keys every choice this node draws.
    pub(crate) seed: u64,
    pub(crate) release: ReleaseEntry,
    pub(crate) secret: SecretKey,
    /// Everyone else who speaks the node protocol.
    pub(crate) others: Vec<Other>,
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
        Ok(Self {
            netid: top.netid,
            genesis_unix_ns: top.genesis_unix_ns,
            layer_ns: top.layer_ns,
            seed: top.seed,
            release,
            secret,
            others: others(&top.nodes, name, &secret)?,
        })
    }
}

fn others(nodes: &[Value], name: &str, secret: &SecretKey) -> Result<Vec<Other>, (String, String)> {
    let mut others: Vec<Other> = Vec::new();
    for (i, node) in nodes.iter().enumerate() {
        let place = format!("nodes[{i}]");
        let raw: Node = part(node, &place)?;
        if !raw.speaks.iter().any(|word| word == SPEAKS_SESSIONS) {
            continue;
        }
        let missing = |field| {
            (
                format!("{place} (`{}`)", raw.name),
                format!("missing field `{field}`"),
            )
        };
        let written = raw.key.as_ref().ok_or_else(|| missing("key"))?;
        let key = key(written, &format!("{place}.key"))?;
        let p2p = raw.p2p.as_ref().ok_or_else(|| missing("p2p"))?;
        let p2p = p2p.parse().map_err(|_| {
            (
                format!("{place}.p2p"),
                format!("`{p2p}` is not an address such as 127.1.2.3:7513"),
            )
        })?;
        if raw.name == name {
            if key != crate::p2p::wire::public_key(secret) {
                let what = "is not the x25519 public key of self.identity".to_owned();
                return Err((format!("{place}.key"), what));
            }
            continue;
        }
        if let Some(twin) = others
            .iter()
            .find(|other| other.name == raw.name || other.key == key)
        {
            return Err((place, format!("has the name or the key of `{}`", twin.name)));
        }
        let votes = raw.speaks.iter().any(|word| word == SPEAKS_VOTES);
        others.push(Other {
            name: raw.name,
            p2p,
            key,
            votes,
        });
    }
    Ok(others)
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
    key: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sample() -> Value {
        let key = |n: u8| hex::encode(crate::p2p::wire::public_key(&[n; 32]));
        let speaks = ["udp-session-2020", "nodestatus", "layer-votes"];
        json!({
            "format": 1, "netid": 116, "genesis_unix_ns": 5, "layer_ns": 250, "layers_per_epoch": 4,
            "seed": 9, "release": { "name": "x", "base": "fixed" },
            "self": { "name": "a", "role": "anything", "identity": hex::encode([1; 32]) },
            "nodes": [
                { "name": "a", "role": "miner", "speaks": speaks, "p2p": "127.1.2.3:7513", "api": "127.1.2.3:9090", "key": key(1) },
                { "name": "b", "role": "digger", "speaks": speaks, "p2p": "127.1.2.4:7513", "key": key(2) },
                { "name": "c", "role": "relay", "speaks": ["udp-session-2020"], "p2p": "127.1.2.5:7513", "key": key(3) },
                { "name": "d", "role": "poet", "speaks": ["poet-2020"], "from": "the future" },
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
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_with_its_place() {
        let table: [(&str, Value, &str); 11] = [
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
