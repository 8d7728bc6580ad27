//! What a voter says, and the log that must hold it first.
//!
//! A voter that sends and then forgets can say two things about one question after a restart, so a
//! message leaves this module only through [`Unsent::save`] or [`save_all`], after the caller's log
//! has taken it. The log is the only memory of round and lock. This module writes no file: the
//! caller's closure appends and syncs.

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
    Sent(Signed),
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
            Self::Sent(signed) => Some(signed.message.layer),
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
            Self::Sent(signed) => [
                &[2, signed.voter.0][..],
                &signed.signature,
                &signed.message.encode(),
            ]
            .concat(),
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
            [2, voter, rest @ ..] => {
                let (signature, message) = rest
                    .split_first_chunk::<64>()
                    .ok_or(RecordError::Shape(bytes.len()))?;
                let message = Message::decode(message).map_err(RecordError::Message)?;
                Ok(Self::Sent(Signed {
                    voter: Voter(*voter),
                    message,
                    signature: *signature,
                }))
            }
            _ => Err(RecordError::Shape(bytes.len())),
        }
    }
}

/// A message that this voter has resolved to send and that nobody has seen. There is no way to the
/// message but through the log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a voter that drops its message stays silent in this round for ever: save it, then send what `save` returns"]
pub struct Unsent {
    voter: Voter,
    message: Message,
}

impl Unsent {
    pub(super) fn new(voter: Voter, message: Message) -> Self {
        Self { voter, message }
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
        let signed = self.sign(sign);
        match append_and_sync(&Record::Sent(signed.clone())) {
            Ok(()) => Ok(signed),
            Err(error) => Err((self, error)),
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
    let records: Vec<Record> = signed.iter().cloned().map(Record::Sent).collect();
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
        Unsent::new(
            Voter(2),
            Message {
                layer: 5,
                round: 1,
                epoch: 1,
                body,
            },
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
        assert_eq!(Record::decode(&log[0]), Ok(Record::Sent(sent.clone())));
        let mut both = Vec::new();
        let append = |records: &[Record]| {
            both.extend_from_slice(records);
            Ok::<_, Infallible>(())
        };
        let all = save_all(vec![unsent()], sign, append).unwrap();
        assert_eq!(all, std::slice::from_ref(&sent));
        assert_eq!(both, [Record::Sent(sent)]);
    }

    #[test]
    fn every_cut_of_a_record_is_refused() {
        let Ok(sent) = unsent().save(|_| [1; 64], |_| Ok::<_, ()>(())) else {
            unreachable!()
        };
        let begin = |abstain_through| Record::Begin { abstain_through };
        for record in [begin(None), begin(Some(9)), Record::Sent(sent)] {
            let bytes = record.encode();
            assert_eq!(Record::decode(&bytes), Ok(record));
            for cut in 0..bytes.len() {
                assert!(Record::decode(&bytes[..cut]).is_err(), "{cut} of {bytes:?}");
            }
        }
    }
}
