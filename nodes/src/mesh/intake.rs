//! Taking in proofs, ATXs, blocks and votes, whoever brings them.
//!
//! Everything goes the same way: known already? well formed? valid alone? valid with what it depends
//! on? Then it is kept, agreement hears of it, and what waited for it is looked at again. Whether
//! something is valid depends on its content only; what a liar can make us keep is bounded: two ATXs
//! of an identity for one epoch and two blocks for one slot, more only if somebody needs them by name.

use super::{Effect, Mesh, Origin, Validity};
use crate::poet::proof::Proof;
use crate::protocol::agreement::{BlockId, EARLY_LAYERS_MAX, Input, Refusal};
use crate::protocol::atx::{Atx, AtxId, ProofRef};
use crate::protocol::block::Block;
use crate::protocol::{atx_gossip, block_gossip, votes};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::time::Instant;

/// How far a proof's round or an ATX's epoch may be ahead of the clock, in epochs.
const EARLY_EPOCHS_MAX: u32 = 1;
/// Known things of this many epochs back are still passed on; older ones are replays.
const RELAY_EPOCHS: u32 = 2;
/// Messages and blocks of decided layers this far back are still passed on.
const RELAY_LAYERS: u32 = 8;
/// Values of a liar that are kept unasked.
const UNASKED_MAX: u8 = 2;

impl Mesh {
    /// A PoET's proof.
    pub(crate) fn proof(&mut self, bytes: &[u8], _origin: Origin) -> Validity {
        let reference: ProofRef = Sha256::digest(bytes).into();
        let known = self.store.has_proof(&reference);
        let Ok(proof) = Proof::decode(bytes) else {
            return Validity::Invalid("proof-malformed");
        };
        if known {
            return self.known(proof.round);
        }
        if proof.round > self.epoch_now() + 1 + EARLY_EPOCHS_MAX || self.store.is_full() {
            return Validity::OutOfTime;
        }
        let begin = Instant::now();
        let verdict = proof.verify(self.genesis.poet);
        self.metrics.proof_verified(begin.elapsed());
        if verdict.is_err() {
            return Validity::Invalid("proof-false");
        }
        let first = self.store.proof_of(&proof.service, proof.round).is_none();
        if !first && !self.waiting_atxs.wants(&reference) {
            // A PoET that proved a round twice; the second is of no use unless somebody cites it.
            return Validity::OutOfTime;
        }
        let proof = self.store.put_proof(reference, proof);
        self.metrics.proofs.inc();
        self.taken += 1;
        if first {
            let mut fields = json!({
                "poet": hex::encode(proof.service), "round": proof.round, "ref": hex::encode(reference),
            });
            if let Some(challenge) = self.registered.remove(&(proof.service, proof.round)) {
                let member = proof.members.as_slice().binary_search(&challenge).is_ok();
                fields["member"] = json!(member);
            }
            self.event("proof-held", fields);
        }
        for (atx, relay) in self.waiting_atxs.take(&reference) {
            let body = atx.encode();
            let verdict = self.atx_with(AtxId(Sha256::digest(&body).into()), &atx, &proof);
            self.relay_if(verdict == Validity::Valid && relay, atx_gossip::TOPIC, body);
        }
        Validity::Valid
    }

    /// An activation.
    pub(crate) fn atx(&mut self, bytes: &[u8], origin: Origin) -> Validity {
        let id = AtxId(Sha256::digest(bytes).into());
        let Ok(atx) = Atx::decode(bytes) else {
            return Validity::Invalid("atx-malformed");
        };
        if self.store.atx_bytes(&id).is_some() {
            return self.if_durable(&atx, self.known(atx.epoch));
        }
        if atx.epoch > self.epoch_now() + EARLY_EPOCHS_MAX || self.store.is_full() {
            return Validity::OutOfTime;
        }
        if self.waiting_atxs.contains(&id) {
            return Validity::Waits;
        }
        if let Err(reason) = atx.verify_alone(&self.genesis) {
            return Validity::Invalid(reason);
        }
        let Some(proof) = self.store.proof(&atx.proof) else {
            let (node, on) = (atx.node, atx.proof);
            let relay = origin == Origin::Gossip;
            self.taken += 1;
            self.waiting_atxs.add(id, atx, node, on, self.now, relay);
            return Validity::Waits;
        };
        self.atx_with(id, &atx, &proof)
    }

    fn atx_with(&mut self, id: AtxId, atx: &Atx, proof: &Proof) -> Validity {
        if let Err(reason) = atx.verify_with(proof, &self.genesis) {
            return Validity::Invalid(reason);
        }
        let target = atx.target_epoch();
        if let Some(first) = self.store.atx_of(target, &atx.node)
            && !self.keeps_double(id, atx, first)
        {
            return Validity::OutOfTime;
        }
        self.store.put_atx(id, atx);
        self.metrics.atxs.inc();
        self.taken += 1;
        if let Some(voter) = self.genesis.voter_of(&atx.node) {
            self.drive([Input::Atx(voter, target)]);
        }
        for (block, relay) in self.waiting_blocks.take(&id) {
            let body = block.encode();
            let verdict = self.block_with(BlockId(Sha256::digest(&body).into()), &block, Some(atx));
            self.relay_if(
                verdict == Validity::Valid && relay,
                block_gossip::TOPIC,
                body,
            );
        }
        self.if_durable(atx, Validity::Valid)
    }

    /// An own ATX is published once it is on disk: forgotten, it could be made again, and differently.
    fn if_durable(&mut self, atx: &Atx, verdict: Validity) -> Validity {
        if atx.node == self.me && !self.commit() {
            return Validity::OutOfTime;
        }
        verdict
    }

    /// Another ATX of the same identity for the same epoch: reported once, and kept if it is the first
    /// of its kind, so that others can see the lie, or if a block that waits here names it.
    fn keeps_double(&mut self, id: AtxId, atx: &Atx, first: AtxId) -> bool {
        let target = atx.target_epoch();
        let doubles = self.doubles.entry((target, atx.node)).or_default();
        *doubles = doubles.saturating_add(1);
        if *doubles == 1 {
            let fields = json!({
                "node": hex::encode(atx.node), "epoch": target,
                "first": hex::encode(first.0), "second": hex::encode(id.0),
            });
            self.event("double-atx", fields);
            return true;
        }
        self.waiting_blocks.wants(&id)
    }

    /// A block.
    pub(crate) fn block(&mut self, bytes: &[u8], origin: Origin) -> Validity {
        let id = BlockId(Sha256::digest(bytes).into());
        let Ok(block) = Block::decode(bytes) else {
            return Validity::Invalid("block-malformed");
        };
        if self.store.block_bytes(block.layer, &id).is_some() {
            return self.known(self.genesis.epoch_of(block.layer));
        }
        // A block that came too late to be in its layer is of no use to anybody.
        let early = block.layer > self.now.saturating_add(EARLY_LAYERS_MAX);
        if early || self.decided.contains(block.layer) || self.store.is_full() {
            return Validity::OutOfTime;
        }
        if self.waiting_blocks.contains(&id) {
            return Validity::Waits;
        }
        let pool = &self.pool;
        if let Err(reason) = block.verify_alone_knowing(&self.genesis, |known| pool.holds(known)) {
            return Validity::Invalid(reason);
        }
        let Some(named) = block.atx else {
            return self.block_with(id, &block, None);
        };
        let Some(atx) = self.store.atx(&named) else {
            let node = block.miner;
            let relay = origin == Origin::Gossip;
            self.waiting_blocks
                .add(id, block, node, named, self.now, relay);
            return Validity::Waits;
        };
        self.block_with(id, &block, Some(&atx))
    }

    fn block_with(&mut self, id: BlockId, block: &Block, atx: Option<&Atx>) -> Validity {
        if let Some(Err(reason)) = atx.map(|atx| block.verify_with(atx, &self.genesis)) {
            return Validity::Invalid(reason);
        }
        let layer = block.layer;
        if self.decided.contains(layer) {
            return Validity::OutOfTime;
        }
        let here = self.slots.get(&(layer, block.miner, block.slot));
        if here.is_some_and(|here| *here >= UNASKED_MAX) && !self.names_block(layer, id) {
            return Validity::OutOfTime;
        }
        let here = self
            .slots
            .entry((layer, block.miner, block.slot))
            .or_default();
        *here = here.saturating_add(1);
        self.store.put_block(&id, block);
        self.metrics.blocks.inc();
        self.taken += 1;
        for transaction in &block.transactions {
            self.pool.is_in_block(&transaction.id(), layer);
        }
        self.drive([Input::Block(layer, id)]);
        Validity::Valid
    }

    fn names_block(&self, layer: u32, id: BlockId) -> bool {
        self.agreement.wanted().blocks.contains(&(layer, id))
    }

    /// A vote or commit.
    pub(crate) fn vote(&mut self, bytes: &[u8], _origin: Origin) -> Validity {
        let signed = match votes::decode(self.genesis.netid, bytes) {
            Ok(signed) => signed,
            Err(reason) => return Validity::Invalid(reason),
        };
        let layer = signed.message.layer;
        if self.decided.contains(layer) && layer.saturating_add(RELAY_LAYERS) < self.now {
            return Validity::OutOfTime;
        }
        if !self.keys.verify(&signed) {
            return Validity::Invalid("vote-signature");
        }
        match self.drive([Input::Message(signed)]).first() {
            None => Validity::Valid,
            Some(Refusal::Early | Refusal::Surplus) => Validity::OutOfTime,
            Some(_) => Validity::Invalid("vote-impossible"),
        }
    }

    /// Something that is here already, of this epoch.
    fn known(&self, epoch: u32) -> Validity {
        if epoch.saturating_add(RELAY_EPOCHS) >= self.epoch_now() {
            Validity::Valid
        } else {
            Validity::OutOfTime
        }
    }

    fn relay_if(&mut self, good: bool, topic: u8, body: Vec<u8>) {
        if good {
            self.effects.push(Effect::Gossip { topic, body });
        }
    }
}

/// How many of each kind wait, for tests.
#[cfg(test)]
impl Mesh {
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.waiting_atxs.len(), self.waiting_blocks.len())
    }
}
