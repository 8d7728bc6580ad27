//! The mesh: what a node knows of the network's past, and what it agrees on with the others.
//!
//! [`Mesh`] takes in what gossip and pull bring (`intake.rs`), drives layer agreement with it and
//! applies what is decided (`agree.rs`), and keeps all of it in a database (`store.rs`); a voter also
//! keeps a log of what it said (`voter_log.rs`). It opens no socket and reads no clock but for
//! metrics: layers come in by [`Mesh::tick`], and what is to be said to others comes out as
//! [`Effect`]s. `driver.rs` connects it with the node's clock, gossip and peers, `pull.rs` repairs what
//! gossip lost, with the messages of `exchange.rs`.
//!
//! For the rest of the node: [`offer_atx`] and [`offer_block`] publish what it made, [`Node`]'s
//! `mesh_changed` is told after every change, and the functions of [`Mesh`] answer what is known.
//! `mesh_changed` keeps no turn for who does not listen: make the future before looking.
//!
//! [`Node`]: crate::node::Node

mod agree;
mod decision;
mod driver;
mod exchange;
mod intake;
mod open;
mod pull;
mod state;
mod store;
mod tables;
mod voter_log;
mod waiting;

#[cfg(test)]
mod tests;

pub(crate) use driver::{
    PullBook, answered, asked, close, follow, offer_atx, offer_block, take_in,
};
pub(crate) use open::{MeshError, Setup};

use crate::poet::proof::Proof;
use crate::protocol::agreement::{Agreement, Epoch, Layer, LayerSet, Signed, Unsent, Voters};
use crate::protocol::atx::{Atx, AtxId};
use crate::protocol::block::TRANSACTIONS_MAX;
use crate::protocol::genesis::{Genesis, NodeId};
use crate::protocol::mempool::Mempool;
use crate::protocol::topics::Validity;
use crate::protocol::transaction::Transaction;
use crate::protocol::votes::VoterKeys;
use crate::runtime::metrics::MeshMetrics;
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use state::{Root, State};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use store::Store;
use voter_log::VoterLog;

/// How many layers behind the clock a node that has everything may be with applying them: two that
/// agreement takes by its rules, and two for messages that are late.
const SYNCED_LAG: Layer = 4;
/// Own challenges that are remembered until their proof comes: of a few PoETs for a few rounds.
const REGISTERED_MAX: usize = 64;

/// Where something came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A peer passed it on, or this node made it; if it is good it goes on to others.
    Gossip,
    /// A peer gave it on request. Others pull it themselves.
    Pull,
}

/// What the mesh wants done, outside of its lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// To all peers, on this topic.
    Gossip { topic: u8, body: Vec<u8> },
    /// A line on standard output.
    Event { name: &'static str, fields: Value },
}

/// What one node knows and has agreed on.
#[derive(Debug)]
pub(crate) struct Mesh {
    genesis: Genesis,
    me: NodeId,
    voters: Voters,
    key: SigningKey,
    keys: VoterKeys,
    metrics: MeshMetrics,
    /// The current layer; 0 before genesis.
    now: Layer,

    store: Store,
    state: State,
    pool: Mempool,

    agreement: Agreement,
    log: Option<VoterLog>,
    /// What is resolved and not saved, because the disk did not take it.
    unsent: Vec<Unsent>,
    /// Own messages of open layers from before the start, to be sent again once there are peers.
    resend: Vec<Signed>,
    decided: LayerSet,
    decided_newest: Option<Layer>,
    /// Applied and not yet durable: layer, blocks, root.
    unannounced: Vec<(Layer, usize, Root)>,
    /// The last layer that is applied, durable and announced.
    verified: Option<(Layer, Root)>,

    waiting_atxs: waiting::Atxs,
    waiting_blocks: waiting::Blocks,
    /// Blocks here by layer, miner and slot, of layers that are open.
    slots: BTreeMap<(Layer, NodeId, u32), u8>,
    /// Further ATXs of one identity for one epoch, which were reported.
    doubles: BTreeMap<(Epoch, NodeId), u8>,
    /// Challenges that a PoET took from this node, by PoET and round.
    registered: BTreeMap<([u8; 32], u32), [u8; 32]>,

    /// How many new things were taken in or decided: what tells an answer that helps from one that
    /// repeats.
    taken: u64,
    pull: pull::PullState,
    effects: Vec<Effect>,
    /// Kinds of trouble with the disk that were reported and are not over.
    troubles: BTreeSet<&'static str>,
    /// The layer in which the disk refused something: it is tried again in the next one.
    disk_failed_at: Option<Layer>,
    ticks_since_commit: u32,
}

impl Mesh {
    /// The first valid proof of a PoET's round, if it is here.
    pub(crate) fn proof_of(&mut self, poet: &[u8; 32], round: u32) -> Option<Arc<Proof>> {
        let reference = self.store.proof_of(poet, round)?;
        self.store.proof(&reference)
    }

    /// A node's ATX of the latest epoch.
    pub(crate) fn latest_atx_of(&mut self, node: &NodeId) -> Option<(AtxId, Atx)> {
        let (_, id) = self.store.latest_atx(node)?;
        Some((id, self.store.atx(&id)?))
    }

    /// The first valid ATX of a node for blocks and votes of an epoch.
    pub(crate) fn atx_targeting(&mut self, node: &NodeId, epoch: Epoch) -> Option<AtxId> {
        self.store.atx_of(epoch, node)
    }

    /// Transactions for a block of `layer`: what the state would take and no open block has.
    pub(crate) fn transactions_for(&self, layer: Layer) -> Vec<Transaction> {
        let applied_below = self.state.next_layer().min(layer);
        self.pool
            .choose(TRANSACTIONS_MAX, applied_below, |transaction| {
                self.state.takes(transaction)
            })
    }

    /// The last layer whose blocks are agreed on, applied to the state and on disk; 0 before any is.
    pub(crate) fn verified_layer(&self) -> Layer {
        self.verified.map_or(0, |(layer, _)| layer)
    }

    /// That layer and the root of the state after it.
    pub(crate) fn verified(&self) -> Option<(Layer, Root)> {
        self.verified
    }

    /// Whether this node knows what there is to know: its state is within [`SYNCED_LAG`] layers of the
    /// clock, or it has heard from peers lately and they are no further. As in 2020 a node of a network
    /// that cannot decide is therefore synced while its verified layer stands: it has all there is, and
    /// goes on making blocks for when the others are back. A node that hears nobody, or that holds
    /// decisions it cannot apply, is not.
    pub(crate) fn is_synced(&self) -> bool {
        let applied = self.state.next_layer().saturating_add(SYNCED_LAG);
        if applied >= self.now {
            return true;
        }
        let known = self.decided_newest.max(self.pull.claimed(self.now));
        self.pull.has_heard(self.now) && known.is_none_or(|known| known <= applied)
    }

    /// The layer up to which this node has everything: the current one if it is synced, otherwise the
    /// last verified one.
    pub(crate) fn synced_layer(&self) -> Layer {
        if self.is_synced() {
            self.now
        } else {
            self.verified_layer()
        }
    }

    /// A PoET has taken this node's challenge for a round: the event of its proof will say whether it
    /// is a member.
    pub(crate) fn register(&mut self, poet: [u8; 32], round: u32, challenge: [u8; 32]) {
        self.registered.insert((poet, round), challenge);
        while self.registered.len() > REGISTERED_MAX {
            let oldest = self
                .registered
                .keys()
                .min_by_key(|(_, round)| *round)
                .copied();
            if let Some(oldest) = oldest {
                self.registered.remove(&oldest);
            }
        }
    }

    /// Takes a transaction in.
    pub(crate) fn transaction(&mut self, transaction: Transaction) -> bool {
        self.pool.insert(transaction)
    }

    /// What is to be done since the last call.
    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Why the database could not be read, if so: the node cannot go on.
    fn take_failure(&mut self) -> Option<store::StoreError> {
        self.store.take_failure()
    }

    fn event(&mut self, name: &'static str, fields: Value) {
        self.effects.push(Effect::Event { name, fields });
    }

    /// Reports trouble with the disk once, until it is over.
    fn trouble(&mut self, what: &'static str, error: &dyn std::fmt::Display) {
        self.disk_failed_at = Some(self.now);
        if self.troubles.insert(what) {
            self.event(
                "disk-trouble",
                json!({ "what": what, "error": error.to_string() }),
            );
        }
    }

    fn trouble_is_over(&mut self, what: &'static str) {
        if self.troubles.remove(what) {
            self.event("disk-trouble-over", json!({ "what": what }));
        }
    }

    fn epoch_now(&self) -> Epoch {
        self.genesis.epoch_of(self.now)
    }
}
