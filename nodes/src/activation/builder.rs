//! The builder of activations, as a state machine without I/O.
//!
//! For every epoch there is an [`Attempt`]: its challenge goes to every PoET while the round of that
//! epoch is open, a proof that has it as a member activates the miner when the epoch has begun, and
//! when the epoch is over without one the challenge is dropped. Attempts do not wait for each other:
//! with one at a time, rounds that follow each other closely would give an activation every second
//! epoch. On disk lie the latest activation, which must survive everything ([`Builder::encode`]), and
//! notes of who has taken which challenge, which can be asked again ([`Builder::encode_notes`]); the
//! rest is learnt again after a restart.
//!
//! Whoever drives it feeds [`Input`]s, has saved what [`Output::Save`] asks for before it lets anything
//! be published, and carries the others out. To add a phase, add it to [`Attempt`] and to the codec.

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
    /// Write [`Builder::encode`] to disk, for good.
    Save,
    /// Write [`Builder::encode_notes`] to disk.
    Note,
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
    /// In this run of the process: whether it was handed out, and which PoETs' proofs are there.
    published: bool,
    proofs: BTreeMap<PoetKey, bool>,
    /// It was to be made and was not.
    tried: bool,
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
    /// With its bytes.
    latest: Option<(Latest, Vec<u8>)>,
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
        self.latest.as_ref().map(|(latest, _)| *latest)
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
        if self
            .latest()
            .is_some_and(|latest| latest.epoch >= atx.epoch)
        {
            return Vec::new();
        }
        self.keep(atx);
        vec![Output::Save]
    }

    fn keep(&mut self, atx: &Atx) {
        let bytes = atx.encode();
        self.attempts.entry(atx.epoch).or_default().atx = Some(bytes.clone());
        let latest = Latest {
            id: atx.id(),
            epoch: atx.epoch,
            sequence: atx.sequence,
        };
        self.latest = Some((latest, bytes));
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
        let done = self.latest().map(|latest| latest.epoch);
        for (&epoch, attempt) in &mut self.attempts {
            let begun = moment.epoch.is_some_and(|now| now >= epoch);
            let over = moment.epoch.is_some_and(|now| now > epoch);
            let past = moment
                .epoch
                .is_some_and(|now| now > epoch.saturating_add(1));
            match &attempt.atx {
                // Also in the epoch that it is good for: others may have had it before this process
                // ended. What is older helps nobody.
                Some(atx) if begun && !past && may_publish && !attempt.published => {
                    attempt.published = true;
                    let atx = atx.clone();
                    out.push(Output::Publish { epoch, atx });
                }
                None if begun && !over => {
                    let may = may_publish && done.is_none_or(|done| done < epoch);
                    let member = attempt.proofs.iter().find(|(_, member)| may && **member);
                    if let Some((&poet, _)) = member {
                        attempt.tried = true;
                        out.push(Output::Make { epoch, poet });
                    }
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
            let over = |end: u32| moment.epoch.is_some_and(|now| now > end);
            let unpublished = attempt.atx.is_some() && !attempt.published;
            let keep = !over(*epoch) || (unpublished && !over(epoch.saturating_add(1)));
            changed |= !keep && !attempt.asked.is_empty();
            keep
        });
        if changed {
            out.push(Output::Note);
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
            vec![Output::Note, Output::Registered { poet: key, round }]
        } else {
            vec![Output::Note]
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        // An activation is never empty.
        let atx = self.latest.as_ref().map(|(_, bytes)| bytes.as_slice());
        let mut out = Writer::default();
        out.raw(&self.node);
        out.bytes(atx.unwrap_or_default(), ATX_MAX).done()
    }

    /// Goes on from what [`Builder::encode`] gave.
    pub(crate) fn restore(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let mut reader = Reader::new(bytes);
        self.is_mine(reader.array("the miner")?)?;
        let atx = reader.bytes("an activation", ATX_MAX.into())?;
        reader.finish()?;
        if !atx.is_empty() {
            let atx = Atx::decode(atx)?;
            self.is_mine(atx.node)?;
            self.keep(&atx);
        }
        Ok(())
    }

    pub(crate) fn encode_notes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(&self.node);
        let worth = self
            .attempts
            .iter()
            .filter(|(_, one)| !one.asked.is_empty());
        out.u16(count(worth.clone().count()));
        for (epoch, attempt) in worth {
            out.u32(*epoch).u16(count(attempt.asked.len()));
            for (name, one) in &attempt.asked {
                out.bytes(name.as_bytes(), NAME_MAX)
                    .raw(&one.key)
                    .u8(one.acknowledged.into());
            }
        }
        out.done()
    }

    /// Goes on from what [`Builder::encode_notes`] gave.
    pub(crate) fn restore_notes(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        let mut reader = Reader::new(bytes);
        self.is_mine(reader.array("the miner")?)?;
        let count = bounded(&mut reader, "the attempts", ATTEMPTS_MAX)?;
        let noted = (0..count)
            .map(|_| Ok((reader.u32("an epoch")?, read_asked(&mut reader)?)))
            .collect::<Result<Vec<_>, WireError>>()?;
        reader.finish()?;
        for (epoch, asked) in noted {
            self.attempts.entry(epoch).or_default().asked = asked;
        }
        Ok(())
    }

    fn is_mine(&self, node: NodeId) -> Result<(), StateError> {
        if node == self.node {
            Ok(())
        } else {
            Err(StateError::Node(node))
        }
    }
}

impl Attempt {
    fn why_not(&self) -> &'static str {
        if self.tried {
            "not-made"
        } else if self.proofs.values().any(|member| *member) {
            "late-proof"
        } else if !self.proofs.is_empty() {
            "not-a-member"
        } else if self.asked.values().any(|one| one.acknowledged) {
            "no-proof"
        } else {
            "not-registered"
        }
    }
}

fn read_asked(reader: &mut Reader<'_>) -> Result<BTreeMap<String, Registration>, WireError> {
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
    Ok(asked)
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
