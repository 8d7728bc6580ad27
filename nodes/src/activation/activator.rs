//! Carries out what the builder decides: writes, proves labels, signs, publishes, and says so.
//!
//! Nothing is published before it is on disk, so that a miner which is killed at any moment publishes
//! the same activation again and never a second one for its epoch. What fails is said once and tried
//! again with the next step. What lies around a miner comes in through [`Surroundings`]; requests to
//! PoETs are handed out as [`Asking`] and come back through [`Activator::asked`].

use super::builder::{Builder, Input, Moment, Output, PoetKey, StateError};
use super::client::Asked;
use super::labels::{Labels, LabelsError};
use super::record::{Record, RecordError};
use crate::poet::RoundId;
use crate::poet::proof::Proof;
use crate::protocol::atx::{self, Atx, AtxId, Content};
use crate::protocol::genesis::NodeId;
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Where all of it lies in the data directory.
pub(crate) const DIRECTORY: &str = "activation";
/// The latest activation.
const STATE: &str = "state.bin";
/// Who has taken which challenge.
const NOTES: &str = "challenges.bin";

/// What a miner needs from the network around it.
pub(crate) trait Surroundings {
    fn proof_of(&self, poet: &PoetKey, round: RoundId) -> Option<Arc<Proof>>;
    /// The latest activation of this miner that the network has.
    fn own_latest(&self) -> Option<(AtxId, Atx)>;
    fn is_synced(&self) -> bool;
    /// A PoET has acknowledged the challenge of a round, now or before the process was started.
    fn registered(&self, poet: &PoetKey, round: RoundId, challenge: [u8; 32]);
    /// Why it is not published, if it is not.
    fn publish(&self, atx: &Atx) -> Result<(), &'static str>;
    fn emit(&self, event: &'static str, fields: Value);
    /// For people.
    fn say(&self, text: &str);
}

/// A request to a PoET.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asking {
    pub(crate) poet: String,
    pub(crate) round: RoundId,
    pub(crate) challenge: [u8; 32],
}

/// A miner's builder, and its files.
#[derive(Debug)]
pub(crate) struct Activator {
    builder: Builder,
    record: Record,
    notes: Record,
    labels: Labels,
    key: SigningKey,
    netid: u32,
    /// There was nothing on disk: what this miner did before, if anything, only the network knows.
    fresh: bool,
    /// What the builder says must be on disk is not yet.
    unsaved: bool,
    /// Troubles that were said already, by epoch or round.
    said: BTreeSet<(u32, String)>,
    troubles: Vec<(u32, &'static str, String)>,
    /// Registrations to be told of with the next step, and whether they are news.
    registered: BTreeMap<(RoundId, PoetKey), bool>,
}

/// Why activation cannot begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("{0}")]
    Record(#[from] RecordError),
    #[error("the labels cannot be made: {0}")]
    Labels(io::Error),
    #[error("the directory of activations cannot be made: {0}")]
    Directory(io::Error),
}

/// Why there is no activation yet.
#[derive(Debug, thiserror::Error)]
enum MakeError {
    #[error("{0}")]
    Labels(#[from] LabelsError),
    #[error("the proof of this round is not held any more")]
    NoProof,
    #[error("this miner is not a member of the round")]
    NotMember,
}

impl Activator {
    /// Goes on from what is in `data_dir`, or begins: with labels first.
    pub(crate) fn open(
        data_dir: &Path,
        key: &SigningKey,
        netid: u32,
        poets: impl IntoIterator<Item = String>,
        retry: Duration,
    ) -> Result<Self, OpenError> {
        let directory = data_dir.join(DIRECTORY);
        fs_err::create_dir_all(&directory).map_err(OpenError::Directory)?;
        let node = key.verifying_key().to_bytes();
        let retry_ns = u64::try_from(retry.as_nanos()).unwrap_or(u64::MAX);
        let mut builder = Builder::new(node, poets, retry_ns);
        let record = Record::new(directory.join(STATE), "tweedledum activation state 1");
        let notes = Record::new(directory.join(NOTES), "tweedledum challenges 1");
        let labels = Labels::new(&directory, node);
        let stored = record.load()?;
        let fresh = stored.is_none();
        if let Some(bytes) = stored {
            builder
                .restore(&bytes)
                .map_err(|error: StateError| record.damaged(&error))?;
        } else {
            labels.init().map_err(OpenError::Labels)?;
            record.save(&builder.encode())?;
        }
        let noted = match notes.load() {
            Ok(Some(bytes)) => builder
                .restore_notes(&bytes)
                .map_err(|error| notes.damaged(&error)),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        // Challenges can be registered again, where they are the same ones.
        let troubles = noted
            .err()
            .map(|error| (0, "activation-failed", error.to_string()));
        let registered = builder.registrations();
        let registered = registered.map(|(poet, round)| ((round, poet), false));
        Ok(Self {
            registered: registered.collect(),
            builder,
            record,
            notes,
            labels,
            key: key.clone(),
            netid,
            fresh,
            unsaved: false,
            said: BTreeSet::new(),
            troubles: troubles.into_iter().collect(),
        })
    }

    /// Does what is due at `moment`; the answer is whom to ask.
    pub(crate) fn step(&mut self, moment: Moment, around: &dyn Surroundings) -> Vec<Asking> {
        if self.unsaved {
            self.save(moment.epoch.unwrap_or(0));
        }
        for (poet, round) in self.builder.awaited() {
            if let Some(proof) = around.proof_of(&poet, round) {
                let member = proof.members.contains(&self.challenge(round));
                self.builder.on(Input::Proof {
                    poet,
                    round,
                    member,
                });
            }
        }
        let mut asking = Vec::new();
        // An activation that was made now is published now.
        while self.clock(moment, around, &mut asking) {}
        self.speak(around);
        asking
    }

    /// How asking a PoET ended.
    pub(crate) fn asked(&mut self, poet: String, round: RoundId, asked: &Asked) {
        if let Err(error) = &asked.result {
            let text = format!("{poet}: {error}");
            self.trouble(round, "registration-failed", &text);
        }
        let outputs = self.builder.on(Input::Asked {
            poet,
            round,
            key: asked.key,
            acknowledged: asked.result.is_ok(),
        });
        for output in outputs {
            match output {
                Output::Note => self.note(round),
                Output::Registered { poet, round } => {
                    self.registered.insert((round, poet), true);
                }
                _ => {}
            }
        }
    }

    /// True if an activation was made and kept.
    fn clock(
        &mut self,
        moment: Moment,
        around: &dyn Surroundings,
        asking: &mut Vec<Asking>,
    ) -> bool {
        let may_publish = !self.unsaved && (!self.fresh || around.is_synced());
        let clock = Input::Clock {
            moment,
            may_publish,
        };
        let mut made = false;
        for output in self.builder.on(clock) {
            match output {
                Output::Note => self.note(moment.epoch.unwrap_or(0)),
                Output::Submit { poet, round } => asking.push(Asking {
                    challenge: self.challenge(round),
                    poet,
                    round,
                }),
                Output::Make { epoch, poet } => made |= self.make(epoch, &poet, around),
                Output::Publish { epoch, atx } => self.publish(epoch, &atx, around),
                Output::Drop { epoch, why } => {
                    let fields = json!({ "epoch": epoch, "reason": why });
                    around.emit("challenge-dropped", fields);
                }
                Output::Save | Output::Registered { .. } => {}
            }
        }
        made
    }

    fn make(&mut self, epoch: u32, poet: &PoetKey, around: &dyn Surroundings) -> bool {
        let known = around.own_latest();
        let atx = match &known {
            // Made by this miner before it lost its disk.
            Some((_, latest)) if latest.epoch >= epoch => Ok(latest.clone()),
            _ => self.sign(epoch, poet, known, around),
        };
        match atx {
            Ok(atx) => {
                let outputs = self.builder.record(&atx);
                if outputs.contains(&Output::Save) {
                    self.save(epoch);
                }
                !outputs.is_empty() && !self.unsaved
            }
            Err(error) => {
                self.trouble(epoch, "activation-failed", &error.to_string());
                false
            }
        }
    }

    fn sign(
        &self,
        epoch: u32,
        poet: &PoetKey,
        known: Option<(AtxId, Atx)>,
        around: &dyn Surroundings,
    ) -> Result<Atx, MakeError> {
        let proof = around.proof_of(poet, epoch).ok_or(MakeError::NoProof)?;
        let challenge = self.challenge(epoch);
        let membership = proof.members.membership(&challenge);
        let reference = proof.reference();
        let own = self
            .builder
            .latest()
            .map(|own| (own.epoch, own.id, own.sequence));
        let known = known.map(|(id, atx)| (atx.epoch, id, atx.sequence));
        let previous = own.max(known);
        let content = Content {
            netid: self.netid,
            node: self.node(),
            epoch,
            sequence: previous.map_or(0, |(_, _, sequence)| sequence.saturating_add(1)),
            previous: previous.map(|(_, id, _)| id),
            proof: reference,
            poet: *poet,
            round: epoch,
            membership: membership.ok_or(MakeError::NotMember)?,
            post: self.labels.prove(&reference)?,
        };
        Ok(Atx::sign(content, &self.key))
    }

    fn publish(&mut self, epoch: u32, bytes: &[u8], around: &dyn Surroundings) {
        let Ok(atx) = Atx::decode(bytes) else {
            self.trouble(epoch, "activation-failed", "what was kept is no activation");
            return;
        };
        if let Err(reason) = around.publish(&atx) {
            self.builder.not_published(epoch);
            self.trouble(epoch, "activation-failed", reason);
            return;
        }
        let fields = json!({
            "epoch": atx.epoch, "target": atx.target_epoch(), "atx": hex::encode(atx.id().0),
            "node": hex::encode(atx.node), "proof": hex::encode(atx.proof),
            "poet": hex::encode(atx.poet), "round": atx.round,
        });
        around.emit("atx-published", fields);
    }

    fn save(&mut self, about: u32) {
        let saved = self.record.save(&self.builder.encode());
        self.unsaved = saved.is_err();
        if let Err(error) = saved {
            self.trouble(about, "activation-failed", &error.to_string());
        }
    }

    fn note(&mut self, about: u32) {
        if let Err(error) = self.notes.note(&self.builder.encode_notes()) {
            self.trouble(about, "activation-failed", &error.to_string());
        }
    }

    /// Something to be said, once for its epoch or round.
    fn trouble(&mut self, about: u32, event: &'static str, text: &str) {
        if self.said.insert((about, text.to_owned())) {
            self.troubles.push((about, event, text.to_owned()));
        }
        // The ones before the last few epochs will not come again.
        self.said
            .retain(|(before, _)| *before >= about.saturating_sub(2));
    }

    fn speak(&mut self, around: &dyn Surroundings) {
        for ((round, poet), new) in std::mem::take(&mut self.registered) {
            let challenge = self.challenge(round);
            around.registered(&poet, round, challenge);
            if new {
                let fields = json!({
                    "poet": hex::encode(poet), "round": round,
                    "challenge": hex::encode(challenge),
                });
                around.emit("challenge-registered", fields);
            }
        }
        for (about, event, text) in std::mem::take(&mut self.troubles) {
            around.say(&format!("{event}, epoch {about}: {text}"));
            around.emit(event, json!({ "epoch": about, "error": text }));
        }
    }

    fn challenge(&self, round: RoundId) -> [u8; 32] {
        atx::challenge(self.netid, &self.node(), round)
    }

    fn node(&self) -> NodeId {
        self.key.verifying_key().to_bytes()
    }
}

#[cfg(test)]
#[path = "activator_tests.rs"]
mod tests;
