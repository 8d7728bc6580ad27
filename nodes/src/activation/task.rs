//! The loop that ties activation to a node: its clock, its mesh, its PoETs.
//!
//! Requests run beside it, one to each PoET at a time, so that one that accepts and never answers
//! holds up nothing but itself.

use super::activator::{Activator, Asking, Surroundings};
use super::builder::{Moment, PoetKey};
use super::client;
use crate::mesh;
use crate::node::Node;
use crate::poet::RoundId;
use crate::poet::proof::Proof;
use crate::poet::schedule::Schedule;
use crate::protocol::atx::{Atx, AtxId};
use crate::runtime::client::Client;
use crate::runtime::{clock, events, lock};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// PoETs are asked again, and the clock is looked at, four times a layer.
const STEPS_PER_LAYER: u64 = 4;
/// Activates a miner until the task is dropped.
///
/// # Errors
/// What is on disk is damaged or of another miner, or the disk does not take it.
pub(crate) async fn run(node: Arc<Node>) -> io::Result<()> {
    let settings = &node.settings;
    let poets: BTreeMap<String, SocketAddr> = node
        .network
        .poets
        .iter()
        .map(|poet| (poet.name.clone(), poet.api))
        .collect();
    let step =
        Duration::from_nanos(node.network.layer_ns / STEPS_PER_LAYER).max(Duration::from_millis(1));
    let mut activator = Activator::open(
        &settings.process.data_dir,
        &node.identity.signing,
        node.genesis.netid,
        poets.keys().cloned(),
        step,
    )
    .map_err(io::Error::other)?;
    let client = Client::new(
        settings.process.api.ip(),
        settings.poet_timeout,
        client::ANSWER_MAX,
    )
    .map_err(io::Error::other)?;
    let schedule = Schedule::new(&node.network);
    let mut asked = JoinSet::new();
    loop {
        // Before looking, so that what changes meanwhile is not missed.
        let changed = node.mesh_changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let asking = activator.step(moment(&node, &schedule), node.as_ref());
        for Asking {
            poet,
            round,
            challenge,
        } in asking
        {
            let Some(&api) = poets.get(&poet) else {
                continue;
            };
            let client = client.clone();
            asked.spawn(async move {
                let answer = client::register(&client, api, challenge, round).await;
                (poet, round, answer)
            });
        }
        tokio::select! {
            () = tokio::time::sleep(step) => {}
            () = changed => {}
            Some(Ok((poet, round, answer))) = asked.join_next() => {
                activator.asked(poet, round, &answer);
            }
        }
    }
}

fn moment(node: &Node, schedule: &Schedule) -> Moment {
    let unix_ns = clock::unix_ns();
    let layer = node.clock.layer_at(unix_ns);
    let epoch = layer.map(|layer| layer / u64::from(node.genesis.layers_per_epoch.max(1)));
    Moment {
        unix_ns,
        epoch: epoch.map(|epoch| u32::try_from(epoch).unwrap_or(u32::MAX)),
        open: schedule.open_at(unix_ns),
    }
}

impl Surroundings for Node {
    fn proof_of(&self, poet: &PoetKey, round: RoundId) -> Option<Arc<Proof>> {
        lock(&self.mesh).proof_of(poet, round)
    }

    fn own_latest(&self) -> Option<(AtxId, Atx)> {
        lock(&self.mesh).latest_atx_of(&self.identity.id())
    }

    fn is_synced(&self) -> bool {
        lock(&self.mesh).is_synced()
    }

    fn registered(&self, poet: &PoetKey, round: RoundId, challenge: [u8; 32]) {
        lock(&self.mesh).register(*poet, round, challenge);
    }

    fn publish(&self, atx: &Atx) -> Result<(), &'static str> {
        mesh::offer_atx(self, atx)
    }

    fn emit(&self, event: &'static str, fields: serde_json::Value) {
        events::emit(event, fields);
    }

    fn say(&self, text: &str) {
        events::say(text);
    }
}
