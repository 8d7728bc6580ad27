//! The miner: in each layer it makes transactions, and blocks where it has slots; it activates itself.
//!
//! Blocks are made when the node is in sync and, from the third epoch on, the mesh holds an activation
//! of this miner for the epoch; if that comes to be true within a layer, then within the layer.

use crate::activation;
use crate::blocks::{BlockError, BlockMaker};
use crate::mesh;
use crate::node::Node;
use crate::p2p::gossip;
use crate::protocol::genesis::Genesis;
use crate::protocol::transaction::{self, Transaction};
use crate::run;
use crate::runtime::{clock, events, lock};
use crate::settings::{Settings, count_or_none};
use serde_json::json;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// The clock is asked again this often at least, since it may be set while we wait.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How often in a layer a miner that may not make blocks yet looks again.
const LOOKS_PER_LAYER: u64 = 4;

/// Flags of a miner.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Miner {
    #[command(flatten)]
    settings: Settings,
    /// Transactions made in each layer, a count (real network: what users send)
    #[arg(long, default_value_t = 1, value_parser = count_or_none)]
    txs_per_layer: usize,
}

impl Miner {
    pub(crate) fn run(self) -> ExitCode {
        let count = u32::try_from(self.txs_per_layer).unwrap_or(u32::MAX);
        run::run(self.settings, "miner", |node, tasks| {
            tasks.spawn(follow_layers(Arc::clone(node), count));
            if node.genesis.is_miner(&node.identity.id()) {
                tasks.spawn(activation::task::run(Arc::clone(node)));
            }
        })
    }
}

/// Does a layer's work once, when it begins or as soon as it can be done. Layers that went by while the
/// process was stopped or its clock was set are not made up for.
async fn follow_layers(node: Arc<Node>, count: u32) -> io::Result<()> {
    let data_dir = &node.settings.process.data_dir;
    let (mut maker, damage) = BlockMaker::open(data_dir);
    if let Some(error) = damage {
        not_made(0, &error);
    }
    let (mut begun, mut mined, mut failed) = (None, None, None);
    let later = |done: Option<u64>, layer: u64| done.is_none_or(|done| done < layer);
    loop {
        let now = clock::unix_ns();
        let layer = node.clock.layer_at(now);
        if let Some(layer) = layer.filter(|layer| later(begun, *layer)) {
            begun = Some(layer);
            begin_layer(&node, layer, count);
        }
        if let Some(layer) = layer.filter(|layer| later(mined, *layer)) {
            match make_blocks(&node, &mut maker, layer) {
                Ok(true) => mined = Some(layer),
                Ok(false) => {}
                Err(error) if failed == Some(layer) => drop(error),
                Err(error) => {
                    failed = Some(layer);
                    not_made(layer, &error);
                }
            }
        }
        let next = begun.map_or(0, |done: u64| done.saturating_add(1));
        let wait = node.clock.until(next, now).min(LOOK_AGAIN);
        if mined == begun {
            tokio::time::sleep(wait).await;
        } else {
            let look = Duration::from_nanos(node.network.layer_ns / LOOKS_PER_LAYER);
            tokio::select! {
                () = tokio::time::sleep(wait.min(look)) => {}
                () = node.mesh_changed.notified() => {}
            }
        }
    }
}

fn not_made(layer: u64, error: &dyn std::fmt::Display) {
    let error = error.to_string();
    events::say(&format!("no block in layer {layer}: {error}"));
    events::emit("block-failed", json!({ "layer": layer, "error": error }));
}

/// False if the miner may not make its blocks of this layer yet.
fn make_blocks(node: &Node, maker: &mut BlockMaker, layer: u64) -> Result<bool, BlockError> {
    let (genesis, key) = (&node.genesis, &node.identity.signing);
    let id = node.identity.id();
    let Ok(layer) = u32::try_from(layer) else {
        return Ok(true);
    };
    let slots = maker.slots(genesis, key, layer)?;
    if slots.is_empty() || !genesis.is_miner(&id) {
        return Ok(true);
    }
    let epoch = genesis.epoch_of(layer);
    let (atx, transactions) = {
        let mut mesh = lock(&node.mesh);
        let atx = mesh.atx_targeting(&id, epoch);
        if !mesh.is_synced() || Genesis::needs_atx(epoch) && atx.is_none() {
            return Ok(false);
        }
        (
            atx.filter(|_| Genesis::needs_atx(epoch)),
            mesh.transactions_for(layer),
        )
    };
    for block in maker.make(genesis, key, &slots, atx, transactions)? {
        let made =
            json!({ "layer": layer, "block": hex::encode(block.id().0), "slot": block.slot });
        mesh::offer_block(node, &block).map_err(BlockError::Refused)?;
        events::emit("block-made", made);
    }
    Ok(true)
}

fn begin_layer(node: &Node, layer: u64, count: u32) {
    events::emit("layer", json!({ "layer": layer }));
    for index in 0..count {
        let made =
            Transaction::of_layer(&node.genesis, &node.identity.signing, layer, index).encode();
        gossip::publish(node, transaction::TOPIC, made.into());
    }
    events::emit("tx-made", json!({ "layer": layer, "count": count }));
}
