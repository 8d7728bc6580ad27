//! Driving layer agreement: inputs in, and everything it answers done, in the order that is safe.
//!
//! A message of our own is saved in the voter's log, synced, before it is sent and counted; what it
//! rests on is durable before that. Decisions are applied in the order of layers, made durable, and
//! only then announced, so that nothing that was announced can be taken back by a restart.

use super::decision::Decision;
use super::{Effect, Mesh};
use crate::protocol::agreement::{
    BlockSet, Evidence, Input, Layer, Output, Refusal, Signed, Step, Unsent, save_all,
};
use crate::protocol::block::Block;
use crate::protocol::votes;
use serde_json::json;
use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

/// Layers applied at once: each takes some 100 µs, and the thread has peers to listen to.
const APPLIED_AT_ONCE: usize = 128;
/// Ticks after which what is unsaved is saved even though no layer was decided.
const COMMIT_EVERY: u32 = 4;
/// Epochs for which a second ATX is remembered as reported.
const DOUBLES_EPOCHS: u32 = 8;

impl Mesh {
    /// A layer begins. `peers` says whether there is anybody to talk to.
    pub(crate) fn tick(&mut self, layer: Layer, peers: bool) {
        self.now = self.now.max(layer);
        if peers {
            for signed in std::mem::take(&mut self.resend) {
                self.send(&signed);
            }
        }
        // Blocks that came since the last layer are what is voted about now.
        self.drive([Input::Tick(layer)]);
        let patience = self.genesis.layers_per_epoch.saturating_mul(2);
        let before = self.now.saturating_sub(patience);
        self.waiting_atxs.expire(before);
        self.waiting_blocks.expire(before);
        let oldest = self.epoch_now().saturating_sub(DOUBLES_EPOCHS);
        self.doubles.retain(|(epoch, _), _| *epoch >= oldest);
        self.ticks_since_commit += 1;
        if self.ticks_since_commit >= COMMIT_EVERY || !self.unannounced.is_empty() {
            self.commit();
        }
        self.shorten_log();
        self.gauge();
    }

    /// Gives agreement some inputs and does what it says. What it refused is returned.
    pub(super) fn drive(&mut self, inputs: impl IntoIterator<Item = Input>) -> Vec<Refusal> {
        let mut inputs: VecDeque<Input> = inputs.into_iter().collect();
        let mut refused = Vec::new();
        loop {
            while let Some(input) = inputs.pop_front() {
                for output in self.agreement.step(input) {
                    match output {
                        Output::Speak(unsent) => self.unsent.push(unsent),
                        Output::Decided { layer, set, proof } => {
                            self.decide(layer, &set, &proof);
                        }
                        Output::Equivocation(evidence) => self.accuse(&evidence),
                        // The next pull asks agreement for everything it wants.
                        Output::Want(_) => {}
                        Output::Refused(refusal) => refused.push(refusal),
                    }
                }
            }
            let said = self.speak();
            if said.is_empty() {
                break;
            }
            inputs.extend(said.into_iter().map(Input::Message));
        }
        self.apply();
        refused
    }

    /// Saves what is resolved and sends it; empty if there is nothing, or the disk does not take it.
    fn speak(&mut self) -> Vec<Signed> {
        let decided = &self.decided;
        self.unsent
            .retain(|unsent| !decided.contains(unsent.layer()));
        let Some(layer) = self.unsent.iter().map(Unsent::layer).max() else {
            return Vec::new();
        };
        let grounds = self.store.has_unsaved_grounds(layer, self.epoch_now());
        if self.disk_failed_at == Some(self.now) || (grounds && !self.commit()) {
            return Vec::new();
        }
        let Some(log) = &mut self.log else {
            return Vec::new();
        };
        let (key, netid) = (&self.key, self.genesis.netid);
        let begin = Instant::now();
        let saved = save_all(
            std::mem::take(&mut self.unsent),
            |message| votes::sign(key, netid, message),
            |records| log.append(records),
        );
        self.metrics.log_synced(begin.elapsed());
        match saved {
            Ok(said) => {
                self.trouble_is_over("voter-log");
                for signed in &said {
                    self.send(signed);
                }
                said
            }
            Err((unsent, error)) => {
                self.unsent = unsent;
                self.trouble("voter-log", &error);
                Vec::new()
            }
        }
    }

    fn send(&mut self, signed: &Signed) {
        self.effects.push(Effect::Gossip {
            topic: votes::TOPIC,
            body: votes::encode(self.genesis.netid, signed),
        });
    }

    fn decide(&mut self, layer: Layer, set: &BlockSet, proof: &[Signed]) {
        if let Some(decision) = Decision::of(set, proof) {
            self.store.put_decision(layer, &decision);
        }
        self.decided.insert(layer);
        self.taken += 1;
        self.decided_newest = self.decided_newest.max(Some(layer));
        let of_layer = (layer, [0; 32], 0)..=(layer, [u8::MAX; 32], u32::MAX);
        let slots: Vec<_> = self.slots.range(of_layer).map(|(key, _)| *key).collect();
        for key in slots {
            self.slots.remove(&key);
        }
    }

    fn accuse(&mut self, evidence: &Evidence) {
        let message = &evidence.first.message;
        let node = self.genesis.voters.get(usize::from(evidence.first.voter.0));
        let step = match message.body.step() {
            Step::Vote => "vote",
            Step::Commit => "commit",
        };
        let fields = json!({
            "node": node.map(hex::encode), "layer": message.layer, "round": message.round, "step": step,
        });
        self.metrics.equivocations.inc();
        self.event("equivocation", fields);
    }

    /// Applies decided layers in order.
    fn apply(&mut self) {
        let mut applied = false;
        for _ in 0..APPLIED_AT_ONCE {
            let layer = self.state.next_layer();
            if !self.decided.contains(layer) {
                break;
            }
            let Some(blocks) = self.blocks_of_decision(layer) else {
                // Agreement counts only messages whose blocks are here, so this is a failed read.
                let error = "a decided layer or one of its blocks cannot be read";
                self.trouble("database", &error);
                break;
            };
            self.apply_layer(layer, &blocks);
            applied = true;
        }
        if applied {
            let state = &self.state;
            self.pool
                .drop_used(|node| state.accounts().get(node).map(|account| account.next));
            self.commit();
        }
    }

    fn blocks_of_decision(&mut self, layer: Layer) -> Option<Vec<Block>> {
        let decision = self.store.decision(layer)?;
        let ids = decision.set.ids();
        ids.iter().map(|id| self.store.block(layer, id)).collect()
    }

    fn apply_layer(&mut self, layer: Layer, blocks: &[Block]) {
        // A liar's second block for one slot is in the layer, and gives nothing.
        let mut slots = BTreeSet::new();
        let rewarded: Vec<_> = blocks
            .iter()
            .filter(|block| slots.insert((block.miner, block.slot)))
            .map(|block| block.miner)
            .collect();
        let transactions = blocks.iter().flat_map(|block| &block.transactions);
        let changed = self.state.apply(rewarded, transactions);
        for node in &changed {
            if let Some(account) = self.state.accounts().get(node) {
                self.store.put_account(node, account);
            }
        }
        let root = *self.state.root();
        self.store.put_root(layer, &root);
        self.unannounced.push((layer, blocks.len(), root));
    }

    /// Makes everything durable and announces what was applied. False if the disk does not take it.
    pub(super) fn commit(&mut self) -> bool {
        if self.store.has_unsaved() {
            if self.disk_failed_at == Some(self.now) {
                return false;
            }
            if let Some(log) = &self.log {
                self.store.put_mark(log.mark());
            }
            let begin = Instant::now();
            let committed = self.store.commit();
            self.metrics.committed(begin.elapsed());
            if let Err(error) = committed {
                self.trouble("database", &error);
                return false;
            }
            self.trouble_is_over("database");
        }
        self.ticks_since_commit = 0;
        for (layer, blocks, root) in std::mem::take(&mut self.unannounced) {
            let text = format!("{layer}:{}", hex::encode(root));
            let fields = json!({ "layer": layer, "blocks": blocks, "stateRoot": text });
            self.event("layer-verified", fields);
            self.verified = Some((layer, root));
            self.metrics.verified_layer.set(layer.into());
        }
        true
    }

    /// Drops from the log what is decided, once that is durable.
    fn shorten_log(&mut self) {
        let Some(log) = &mut self.log else { return };
        if !log.is_long() || !self.commit() {
            return;
        }
        let Some(log) = &mut self.log else { return };
        match log.rewrite(&self.decided) {
            Ok(()) => self.trouble_is_over("voter-log-rewrite"),
            Err(error) => self.trouble("voter-log-rewrite", &error),
        }
    }

    fn gauge(&self) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let waiting = self.waiting_atxs.len() + self.waiting_blocks.len();
        self.metrics.pending.set(number(waiting));
        self.metrics
            .open_layers
            .set(number(self.agreement.open_layers().count()));
        self.metrics
            .messages_kept
            .set(number(self.agreement.messages_kept()));
    }
}
