//! A node: what all its tasks share.
//!
//! The file holds state and nothing else; what is done with it lies in `p2p`, `protocol` and
//! `roles`, and `run.rs` starts it. Locks are held for moments and never across an await.

use crate::mesh::{Mesh, PullBook};
use crate::p2p::discovery::AddressBook;
use crate::p2p::gossip::Seen;
use crate::p2p::peers::PeerSet;
use crate::p2p::wire::{PublicKey, SecretKey, SharedKey};
use crate::protocol::genesis::Genesis;
use crate::releases::Release;
use crate::runtime::clock::LayerClock;
use crate::runtime::draw;
use crate::runtime::events;
use crate::runtime::identity::{Identity, Nonces};
use crate::runtime::metrics::Metrics;
use crate::runtime::network::{Network, Other};
use crate::settings::Settings;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;
use tokio::sync::{Notify, watch};

/// Everything a node's tasks share.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) settings: Settings,
    pub(crate) network: Network,
    /// What all nodes are told alike.
    pub(crate) genesis: Genesis,
    pub(crate) release: Release,
    pub(crate) identity: Identity,
    pub(crate) nonces: Nonces,
    pub(crate) clock: LayerClock,
    pub(crate) metrics: Metrics,
    /// The others, in the order this node prefers them.
    pub(crate) contacts: Vec<Arc<Contact>>,
    pub(crate) addresses: Mutex<AddressBook>,
    pub(crate) peers: Mutex<PeerSet>,
    /// Told when a peer came, went, or could not be reached.
    pub(crate) peers_changed: Notify,
    /// How many swarm connections have a task.
    pub(crate) talking: watch::Sender<usize>,
    pub(crate) seen: Mutex<Seen>,
    /// What is known and agreed on.
    pub(crate) mesh: Mutex<Mesh>,
    /// Told after every change of the mesh; all who listen then are woken.
    pub(crate) mesh_changed: Notify,
    /// Questions to peers, and theirs.
    pub(crate) pulls: Mutex<PullBook>,
    ready: AtomicBool,
    started: Instant,
}

impl Node {
    pub(crate) fn new(
        settings: Settings,
        network: Network,
        genesis: Genesis,
        release: Release,
        nonces: Nonces,
        metrics: Metrics,
        mesh: Mesh,
    ) -> Self {
        let identity = Identity::new(network.secret);
        let contacts = ranked(&network, &settings);
        let mine = (identity.public, settings.p2p);
        let given = contacts
            .iter()
            .map(|contact| (contact.key, contact.p2p))
            .chain([mine]);
        Self {
            clock: LayerClock::new(network.genesis_unix_ns, network.layer_ns),
            addresses: Mutex::new(AddressBook::new(given)),
            peers: Mutex::new(PeerSet::new(
                identity.public,
                settings.wants(),
                contacts.clone(),
            )),
            peers_changed: Notify::new(),
            talking: watch::Sender::new(0),
            seen: Mutex::new(Seen::new(settings.gossip_cache)),
            mesh: Mutex::new(mesh),
            mesh_changed: Notify::new(),
            pulls: Mutex::new(PullBook::default()),
            ready: AtomicBool::new(false),
            started: Instant::now(),
            settings,
            network,
            metrics,
            genesis,
            release,
            identity,
            nonces,
            contacts,
        }
    }

    /// A number that depends on the seed, this node, and what it is for.
    pub(crate) fn draw(&self, purpose: &str, about: &[u8]) -> u64 {
        draw(
            self.network.seed,
            purpose,
            &[self.settings.process.name.as_bytes(), about],
        )
    }

    pub(crate) fn contact(&self, key: &PublicKey) -> Option<&Arc<Contact>> {
        self.contacts.iter().find(|contact| contact.key == *key)
    }

    /// A node's name, or the start of its key where the file does not name it.
    pub(crate) fn name_of(&self, key: &PublicKey) -> String {
        self.contact(key)
            .map_or_else(|| hex::encode(&key[..8]), |contact| contact.name.clone())
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// The node has all it needs to take part. Said once; a lost peer does not take it back.
    pub(crate) fn now_ready(&self) {
        if !self.ready.swap(true, Ordering::AcqRel) {
            let after = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            events::emit("ready", json!({ "after_ms": after }));
        }
    }
}

/// Another node of the network file.
#[derive(Debug)]
pub(crate) struct Contact {
    pub(crate) name: String,
    pub(crate) p2p: SocketAddr,
    pub(crate) key: PublicKey,
    /// A miner that votes, whatever its role is called.
    pub(crate) votes: bool,
    shared: OnceLock<SharedKey>,
}

impl Contact {
    pub(crate) fn new(name: String, p2p: SocketAddr, key: PublicKey, votes: bool) -> Self {
        Self {
            name,
            p2p,
            key,
            votes,
            shared: OnceLock::new(),
        }
    }

    /// The key between us, computed when it is first needed.
    pub(crate) fn shared(&self, mine: &SecretKey) -> &SharedKey {
        self.shared.get_or_init(|| SharedKey::new(mine, &self.key))
    }
}

fn ranked(network: &Network, settings: &Settings) -> Vec<Arc<Contact>> {
    let mine = settings.process.name.as_bytes();
    let rank = |other: &Other| draw(network.seed, "peers", &[mine, other.name.as_bytes()]);
    let mut others: Vec<&Other> = if settings.alone {
        Vec::new()
    } else {
        network.others.iter().collect()
    };
    others.sort_by_cached_key(|other| rank(other));
    others
        .into_iter()
        .map(|other| {
            Arc::new(Contact::new(
                other.name.clone(),
                other.p2p,
                other.key,
                other.votes,
            ))
        })
        .collect()
}
