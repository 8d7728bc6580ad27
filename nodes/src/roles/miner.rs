//! The miner: follows the layers and makes transactions in each.

use crate::node::Node;
use crate::p2p::gossip;
use crate::protocol::transaction::{self, Transaction};
use crate::run;
use crate::runtime::{clock, events};
use crate::settings::{Settings, count_or_none};
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// The clock is asked again this often at least, since it may be set while we wait.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

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
            tasks.spawn(run::endless(follow_layers(Arc::clone(node), count)));
        })
    }
}

/// Does a layer's work once, when it begins. Layers that went by while the process was stopped or its
/// clock was set are not made up for.
async fn follow_layers(node: Arc<Node>, count: u32) {
    let mut done = None;
    loop {
        let now = clock::unix_ns();
        let layer = node.clock.layer_at(now);
        if let Some(layer) = layer.filter(|layer| done.is_none_or(|done| done < *layer)) {
            done = Some(layer);
            begin_layer(&node, layer, count);
        }
        let next = done.map_or(0, |done: u64| done.saturating_add(1));
        tokio::time::sleep(node.clock.until(next, now).min(LOOK_AGAIN)).await;
    }
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
