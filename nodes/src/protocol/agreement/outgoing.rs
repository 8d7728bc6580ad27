//! What a voter says, and the log that must hold it first.
//!
//! A voter that sends and then forgets can say two things about one question after a restart, so a
//! message leaves this module only through [`Unsent::save`] or [`save_all`], after the caller's log
//! has taken it. The log is the only memory of round and lock.
//!
//! With each message the log takes the messages of others that counted since the one before. What
//! a voter acted on must not be forgotten: a liar may have told it to a few and never again, and if
//! those restart, voters that went on and voters that stayed would wait for each other for ever.
//! This module writes no file: the caller's closure appends and syncs.

use super::message::{DecodeError, Layer, Message, Round, Signature, Signed};
use super::voters::Voter;

/// One entry of a voter's log, in the order in which entries were appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The first entry of every log.
    Begin {
        /// The last layer this voter must stay out of, because an earlier log may have been lost.
        abstain_through: Option<Layer>,
    },
    /// A message that was sent, or may have been: it must never be contradicted.
    Sent {
        /// The message.
        own: Signed,
        /// Messages of others in this layer that counted by then and are in no earlier record.
        heard: Vec<Signed>,
    },
}

/// Bytes that are not a record of a voter's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The entry ends early or has an unknown kind.
    #[error(
        "entry of the voter's log has {0} bytes and an unknown shape; a torn last entry was never sent and may be cut off, any other means that the log is damaged and must be treated as lost"
    )]
    Shape(usize),
    /// The message inside is damaged.
    #[error("message in the voter's log cannot be read; treat the log as lost")]
    Message(#[source] DecodeError),
}

impl Record {
    /// The layer that the entry is about. Entries of decided layers may be removed from the log,
    /// once the decision is durable; the first entry must stay.
    pub fn layer(&self) -> Option<Layer> {
        match self {
            Self::Begin { .. } => None,
            Self::Sent { own, .. } => Some(own.message.layer),
        }
    }

    /// The bytes for the log; framing and checksums are the caller's.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Begin {
                abstain_through: None,
            } => vec![0],
            Self::Begin {
                abstain_through: Some(layer),
            } => [&[1][..], &layer.to_le_bytes()].concat(),
            Self::Sent { own, heard } => {
                let mut bytes = vec![2];
                let count = u32::try_from(heard.len()).unwrap_or(u32::MAX);
                bytes.extend_from_slice(&count.to_le_bytes());
                for signed in std::iter::once(own).chain(heard) {
                    let message = signed.message.encode();
                    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
                    bytes.push(signed.voter.0);
                    bytes.extend_from_slice(&signed.signature);
                    bytes.extend_from_slice(&length.to_le_bytes());
                    bytes.extend_from_slice(&message);
                }
                bytes
            }
        }
    }

    /// Reads what [`Record::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        match bytes {
            [0] => Ok(Self::Begin {
                abstain_through: None,
            }),
            [1, a, b, c, d] => Ok(Self::Begin {
                abstain_through: Some(Layer::from_le_bytes([*a, *b, *c, *d])),
            }),
            [2, a, b, c, d, rest @ ..] => {
                let mut rest = rest;
                let own = take_signed(&mut rest, bytes.len())?;
                let mut heard = Vec::new();
                for _ in 0..u32::from_le_bytes([*a, *b, *c, *d]) {
                    heard.push(take_signed(&mut rest, bytes.len())?);
                }
                if rest.is_empty() {
                    Ok(Self::Sent { own, heard })
                } else {
                    Err(RecordError::Shape(bytes.len()))
                }
            }
            _ => Err(RecordError::Shape(bytes.len())),
        }
    }
}

/// Reads one message of a record and moves on behind it.
fn take_signed(rest: &mut &[u8], whole: usize) -> Result<Signed, RecordError> {
    let cut = || RecordError::Shape(whole);
    let (voter, after) = rest.split_first().ok_or_else(cut)?;
    let (signature, after) = after.split_first_chunk::<64>().ok_or_else(cut)?;
    let (length, after) = after.split_first_chunk::<4>().ok_or_else(cut)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| cut())?;
    let (message, after) = after.split_at_checked(length).ok_or_else(cut)?;
    let message = Message::decode(message).map_err(RecordError::Message)?;
    *rest = after;
    Ok(Signed {
        voter: Voter(*voter),
        message,
        signature: *signature,
    })
}

/// A message that this voter has resolved to send and that nobody has seen. There is no way to the
/// message but through the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a voter that drops its message stays silent in this round for ever: save it, then send what `save` returns"]
pub struct Unsent {
    voter: Voter,
    message: Message,
    heard: Vec<Signed>,
}

impl Unsent {
    pub(super) fn new(voter: Voter, message: Message, heard: Vec<Signed>) -> Self {
        Self {
            voter,
            message,
            heard,
        }
    }

    /// The layer that the message is about.
    pub fn layer(&self) -> Layer {
        self.message.layer
    }

    /// The round that the message is about.
    pub fn round(&self) -> Round {
        self.message.round
    }

    /// Signs the canonical bytes, hands the record to the log, and gives out the message only if
    /// the log took it. The caller then broadcasts the message and feeds it back to its own
    /// machine as an input. If the log fails, the message comes back and may be saved later.
    pub fn save<E>(
        self,
        sign: impl FnOnce(&[u8]) -> Signature,
        append_and_sync: impl FnOnce(&Record) -> Result<(), E>,
    ) -> Result<Signed, (Self, E)> {
        let own = self.sign(sign);
        match append_and_sync(&self.record(own.clone())) {
            Ok(()) => Ok(own),
            Err(error) => Err((self, error)),
        }
    }

    fn record(&self, own: Signed) -> Record {
        Record::Sent {
            own,
            heard: self.heard.clone(),
        }
    }

    fn sign(&self, sign: impl FnOnce(&[u8]) -> Signature) -> Signed {
        let signature = sign(&self.message.encode());
        Signed {
            voter: self.voter,
            message: self.message.clone(),
            signature,
        }
    }
}

/// [`Unsent::save`] for several messages under one sync of the log.
pub fn save_all<E>(
    unsent: Vec<Unsent>,
    sign: impl Fn(&[u8]) -> Signature,
    append_and_sync: impl FnOnce(&[Record]) -> Result<(), E>,
) -> Result<Vec<Signed>, (Vec<Unsent>, E)> {
    let signed: Vec<Signed> = unsent.iter().map(|one| one.sign(&sign)).collect();
    let records: Vec<Record> = unsent
        .iter()
        .zip(&signed)
        .map(|(one, own)| one.record(own.clone()))
        .collect();
    match append_and_sync(&records) {
        Ok(()) => Ok(signed),
        Err(error) => Err((unsent, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{BlockId, BlockSet, Body};
    use super::*;
    use std::convert::Infallible;

    fn unsent() -> Unsent {
        let body = Body::Vote(BlockSet::new([BlockId([3; 32])]));
        let message = Message {
            layer: 5,
            round: 1,
            epoch: 1,
            body,
        };
        let heard = |voter| Signed {
            voter,
            message: message.clone(),
            signature: [7; 64],
        };
        Unsent::new(
            Voter(2),
            message.clone(),
            vec![heard(Voter(0)), heard(Voter(1))],
        )
    }

    #[test]
    fn a_log_that_fails_keeps_the_message_back() {
        let (back, error) = unsent()
            .save(|_| [0; 64], |_| Err("disk full"))
            .unwrap_err();
        assert_eq!((back, error), (unsent(), "disk full"));
        let (back, _) =
            save_all(vec![unsent(), unsent()], |_| [0; 64], |_| Err("disk full")).unwrap_err();
        assert_eq!(back.len(), 2);
    }

    #[test]
    fn what_is_sent_is_what_the_log_holds() {
        let sign = |bytes: &[u8]| [u8::try_from(bytes.len()).unwrap(); 64];
        let mut log = Vec::new();
        let append = |record: &Record| {
            log.push(record.encode());
            Ok::<_, Infallible>(())
        };
        let sent = unsent().save(sign, append).unwrap();
        assert_eq!(
            Record::decode(&log[0]),
            Ok(Record::Sent {
                own: sent.clone(),
                heard: unsent().heard
            })
        );
        let mut both = Vec::new();
        let append = |records: &[Record]| {
            both.extend_from_slice(records);
            Ok::<_, Infallible>(())
        };
        let all = save_all(vec![unsent()], sign, append).unwrap();
        assert_eq!(all, std::slice::from_ref(&sent));
        assert_eq!(
            both,
            [Record::Sent {
                own: sent,
                heard: unsent().heard
            }]
        );
    }

    #[test]
    fn every_cut_of_a_record_is_refused() {
        let sent = unsent()
            .save(|_| [1; 64], |_| Ok::<_, Infallible>(()))
            .unwrap();
        let begin = |abstain_through| Record::Begin { abstain_through };
        for record in [
            begin(None),
            begin(Some(9)),
            Record::Sent {
                own: sent,
                heard: unsent().heard,
            },
        ] {
            let bytes = record.encode();
            assert_eq!(Record::decode(&bytes), Ok(record));
            for cut in 0..bytes.len() {
                assert!(Record::decode(&bytes[..cut]).is_err(), "{cut} of {bytes:?}");
            }
        }
    }
}
