//! The builder of activations, as a state machine without I/O.
//!
//! For every epoch there is an [`Attempt`]: its challenge goes to every PoET while the round of that
//! epoch is open, a proof that has it as a member activates the miner when the epoch has begun, and
//! when the epoch is over without one the challenge is dropped. Attempts do not wait for each other:
//! with one at a time, rounds that follow each other closely would give an activation every second
//! epoch. What lies on disk is [`Builder::encode`]; the rest is learnt again after a restart.
//!
//! Whoever drives it feeds [`Input`]s, keeps what [`Output::Save`] asks for before doing anything that
//! comes after it, and carries the others out. To add a phase, add it to [`Attempt`] and to the codec.

use crate::p2p::codec::{Reader, WireError, Writer};
use crate::poet::RoundId;
use crate::protocol::atx::{Atx, AtxId};
use crate::protocol::genesis::NodeId;
use std::collections::BTreeMap;

/// A PoET's public key.
pub(crate) type PoetKey = [u8; 32];

const NAME_MAX: u16 = 255;
const ATX_MAX: u16 = 4096;
/// Three are in flight at most, for an epoch and the two after it.
const ATTEMPTS_MAX: usize = 16;
const POETS_MAX: usize = 1024;

/// A point in time, in the rhythm of epochs and PoET rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) unix_ns: u64,
    /// The epoch it lies in; none before genesis.
    pub(crate) epoch: Option<u32>,
    /// The round that takes challenges.
    pub(crate) open: RoundId,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// Time went by. `may_publish` is false while what the network holds of this miner is not known,
    /// or what was decided here is not on disk.
    Clock { moment: Moment, may_publish: bool },
    /// A PoET was asked to take a challenge; how that ended, however it did.
    Asked {
        poet: String,
        round: RoundId,
        /// Who it says it is.
        key: Option<PoetKey>,
        acknowledged: bool,
    },
    /// A valid proof of a PoET that was asked; is this miner's challenge in it?
    Proof {
        poet: PoetKey,
        round: RoundId,
        member: bool,
    },
}

/// Something to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Output {
    /// Write [`Builder::encode`] to disk.
    Save,
    /// Say that a PoET has taken the challenge.
    Registered { poet: PoetKey, round: RoundId },
    /// Hand the challenge for `round` to a PoET, and report with [`Input::Asked`].
    Submit { poet: String, round: RoundId },
    /// Make the activation out of this PoET's proof and give it to [`Builder::record`].
    Make { epoch: u32, poet: PoetKey },
    /// Publish what was recorded.
    Publish { epoch: u32, atx: Vec<u8> },
    /// Say that the epoch ended without an activation.
    Drop { epoch: u32, why: &'static str },
}

/// The way to the activation that is published in one epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Attempt {
    /// By the PoETs' names in the network file.
    asked: BTreeMap<String, Registration>,
    /// The activation, once it is made. There is never a second one.
    atx: Option<Vec<u8>>,
    /// In this run of the process: it was handed out, which PoETs' proofs are there.
    published: bool,
    proofs: BTreeMap<PoetKey, bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Registration {
    key: PoetKey,
    /// It may have taken the challenge without our knowing.
    acknowledged: bool,
}

/// The latest activation that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Latest {
    pub(crate) id: AtxId,
    pub(crate) epoch: u32,
    pub(crate) sequence: u32,
}

/// When a PoET is asked again.
#[derive(Debug, Default)]
struct Pace {
    asking: bool,
    not_before_ns: u64,
}

/// The state machine of one miner.
#[derive(Debug)]
pub(crate) struct Builder {
    node: NodeId,
    latest: Option<Latest>,
    attempts: BTreeMap<u32, Attempt>,
    poets: BTreeMap<String, Pace>,
    retry_ns: u64,
}

/// What is on disk is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("{0}")]
    Bytes(#[from] WireError),
    #[error("it belongs to the miner {}", hex::encode(.0))]
    Node(NodeId),
}

impl Builder {
    /// A miner that has made no activation yet, and asks these PoETs, each again after `retry_ns`.
    pub(crate) fn new(
        node: NodeId,
        poets: impl IntoIterator<Item = String>,
        retry_ns: u64,
    ) -> Self {
        let poets = poets.into_iter().take(POETS_MAX);
        Self {
            node,
            latest: None,
            attempts: BTreeMap::new(),
            poets: poets.map(|name| (name, Pace::default())).collect(),
            retry_ns,
        }
    }

    pub(crate) fn latest(&self) -> Option<Latest> {
        self.latest
    }

    /// Which PoETs have acknowledged the challenge for which round.
    pub(crate) fn registrations(&self) -> impl Iterator<Item = (PoetKey, RoundId)> {
        self.attempts.iter().flat_map(|(round, attempt)| {
            let acknowledged = attempt.asked.values().filter(|one| one.acknowledged);
            acknowledged.map(|one| (one.key, *round))
        })
    }

    /// The proofs that are waited for: by PoET and round.
    pub(crate) fn awaited(&self) -> Vec<(PoetKey, RoundId)> {
        self.attempts
            .iter()
            .filter(|(_, attempt)| attempt.atx.is_none())
            .flat_map(|(round, attempt)| {
                let keys = attempt.asked.values().map(|one| one.key);
                keys.filter(|key| !attempt.proofs.contains_key(key))
                    .map(|key| (key, *round))
            })
            .collect()
    }

    /// Keeps the activation of its epoch: the one that was made, or one that the network has already.
    /// What follows from it comes with the next [`Input::Clock`].
    pub(crate) fn record(&mut self, atx: &Atx) -> Vec<Output> {
        let attempt = self.attempts.entry(atx.epoch).or_default();
        if attempt.atx.is_some() {
            return Vec::new();
        }
        attempt.atx = Some(atx.encode());
        if self.latest.is_none_or(|latest| latest.epoch < atx.epoch) {
            self.latest = Some(Latest {
                id: atx.id(),
                epoch: atx.epoch,
                sequence: atx.sequence,
            });
        }
        vec![Output::Save]
    }

    /// What [`Output::Publish`] asked for was refused: it comes again while its epoch lasts.
    pub(crate) fn not_published(&mut self, epoch: u32) {
        if let Some(attempt) = self.attempts.get_mut(&epoch) {
            attempt.published = false;
        }
    }

    pub(crate) fn on(&mut self, input: Input) -> Vec<Output> {
        match input {
            Input::Clock {
                moment,
                may_publish,
            } => self.clock(moment, may_publish),
            Input::Asked {
                poet,
                round,
                key,
                acknowledged,
            } => self.asked(poet, round, key, acknowledged),
            Input::Proof {
                poet,
                round,
                member,
            } => {
                if let Some(attempt) = self.attempts.get_mut(&round) {
                    attempt.proofs.insert(poet, member);
                }
                Vec::new()
            }
        }
    }

    fn clock(&mut self, moment: Moment, may_publish: bool) -> Vec<Output> {
        let mut out = Vec::new();
        // A clock that was set back leads through an epoch again, and to no second activation for it.
        let done = self.latest.map(|latest| latest.epoch);
        for (&epoch, attempt) in &mut self.attempts {
            let begun = moment.epoch.is_some_and(|now| now >= epoch);
            let over = moment.epoch.is_some_and(|now| now > epoch);
            match &attempt.atx {
                // Also after its epoch: others may have had it before this process ended.
                Some(atx) if begun && may_publish && !attempt.published => {
                    attempt.published = true;
                    let atx = atx.clone();
                    out.push(Output::Publish { epoch, atx });
                }
                None if begun && !over => {
                    let may = may_publish && done.is_none_or(|done| done < epoch);
                    let member = attempt.proofs.iter().find(|(_, member)| may && **member);
                    out.extend(member.map(|(&poet, _)| Output::Make { epoch, poet }));
                }
                None if over => out.push(Output::Drop {
                    epoch,
                    why: attempt.why_not(),
                }),
                _ => {}
            }
        }
        let mut changed = false;
        self.attempts.retain(|epoch, attempt| {
            let over = moment.epoch.is_some_and(|now| now > *epoch);
            let keep = !over || (attempt.atx.is_some() && !attempt.published);
            changed |= !keep && !attempt.is_blank();
            keep
        });
        if changed {
            out.insert(0, Output::Save);
        }
        self.ask(moment, &mut out);
        out
    }

    /// Every PoET that has not taken the challenge for the open round is asked, again and again.
    fn ask(&mut self, moment: Moment, out: &mut Vec<Output>) {
        let round = moment.open;
        // A clock that jumped far away must not fill memory with attempts.
        if self.attempts.len() >= ATTEMPTS_MAX && !self.attempts.contains_key(&round) {
            self.attempts.pop_last();
        }
        let attempt = self.attempts.entry(round).or_default();
        for (name, pace) in &mut self.poets {
            let taken = attempt.asked.get(name).is_some_and(|one| one.acknowledged);
            if !taken && !pace.asking && pace.not_before_ns <= moment.unix_ns {
                pace.asking = true;
                pace.not_before_ns = moment.unix_ns.saturating_add(self.retry_ns);
                let poet = name.clone();
                out.push(Output::Submit { poet, round });
            }
        }
    }

    fn asked(
        &mut self,
        poet: String,
        round: RoundId,
        key: Option<PoetKey>,
        acknowledged: bool,
    ) -> Vec<Output> {
        if let Some(pace) = self.poets.get_mut(&poet) {
            pace.asking = false;
        }
        let (Some(key), Some(attempt)) = (key, self.attempts.get_mut(&round)) else {
            return Vec::new();
        };
        let new = Registration { key, acknowledged };
        match attempt.asked.get(&poet) {
            // An acknowledgement stands, whatever the PoET says later.
            Some(old) if *old == new || old.acknowledged => return Vec::new(),
            _ => attempt.asked.insert(poet, new),
        };
        if acknowledged {
            vec![Output::Save, Output::Registered { poet: key, round }]
        } else {
            vec![Output::Save]
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(&self.node).u8(self.latest.is_some().into());
        if let Some(latest) = self.latest {
            out.raw(&latest.id.0).u32(latest.epoch).u32(latest.sequence);
        }
        let worth = self.attempts.iter().filter(|(_, one)| !one.is_blank());
        out.u16(count(worth.clone().count()));
        for (epoch, attempt) in worth {
            out.u32(*epoch).u16(count(attempt.asked.len()));
            for (name, one) in &attempt.asked {
                out.bytes(name.as_bytes(), NAME_MAX)
                    .raw(&one.key)
                    .u8(one.acknowledged.into());
            }
            // An activation is never empty.
            out.bytes(attempt.atx.as_deref().unwrap_or_default(), ATX_MAX);
        }
        out.done()
    }

    /// Goes on from what [`Builder::encode`] gave.
    pub(crate) fn restore(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let mut reader = Reader::new(bytes);
        let node = reader.array("the miner")?;
        if node != self.node {
            return Err(StateError::Node(node));
        }
        let latest = if reader.bool("whether there was an activation")? {
            Some(Latest {
                id: AtxId(reader.array("the latest activation")?),
                epoch: reader.u32("its epoch")?,
                sequence: reader.u32("its sequence")?,
            })
        } else {
            None
        };
        let count = bounded(&mut reader, "the attempts", ATTEMPTS_MAX)?;
        let attempts = (0..count)
            .map(|_| Ok((reader.u32("an epoch")?, Attempt::read(&mut reader)?)))
            .collect::<Result<_, WireError>>()?;
        reader.finish()?;
        (self.latest, self.attempts) = (latest, attempts);
        Ok(())
    }
}

impl Attempt {
    /// There is nothing in it that a restart would miss.
    fn is_blank(&self) -> bool {
        self.asked.is_empty() && self.atx.is_none()
    }

    fn why_not(&self) -> &'static str {
        if self.proofs.values().any(|member| *member) {
            "not-made"
        } else if !self.proofs.is_empty() {
            "not-a-member"
        } else if self.asked.values().any(|one| one.acknowledged) {
            "no-proof"
        } else {
            "not-registered"
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let count = bounded(reader, "the PoETs", POETS_MAX)?;
        let mut asked = BTreeMap::new();
        for _ in 0..count {
            let name = reader.bytes("the name of a PoET", NAME_MAX.into())?;
            let one = Registration {
                key: reader.array("the key of a PoET")?,
                acknowledged: reader.bool("an acknowledgement")?,
            };
            asked.insert(String::from_utf8_lossy(name).into_owned(), one);
        }
        let atx = reader.bytes("an activation", ATX_MAX.into())?;
        Ok(Self {
            asked,
            atx: (!atx.is_empty()).then(|| atx.to_vec()),
            ..Self::default()
        })
    }
}

fn count(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

fn bounded(reader: &mut Reader<'_>, what: &'static str, limit: usize) -> Result<usize, WireError> {
    let len = usize::from(reader.u16(what)?);
    if len > limit {
        return Err(WireError::TooLong { what, len, limit });
    }
    Ok(len)
}

#[cfg(test)]
#[path = "builder_tests.rs"]
mod tests;
