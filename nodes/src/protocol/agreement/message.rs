//! The two messages of layer agreement, and their bytes.
//!
//! The encoding is canonical: one message has one encoding, so that a voter which signs again, or
//! resends from its log, produces the same bytes. A new message kind is a new tag in [`Body`] and
//! in both directions of the codec. Signatures are made and checked by the caller; here they are
//! 64 opaque bytes.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::voters::Voter;

/// A layer's number.
pub type Layer = u32;
/// A round within one layer's agreement, counted from 1.
pub type Round = u32;
/// An epoch's number.
pub type Epoch = u32;
/// The signature of a message, opaque here.
pub type Signature = [u8; 64];

/// The bytes of a message before its block ids: tag, layer, round, epoch.
const HEAD_BYTES: usize = 13;
/// The most ids a set may name, whatever the configuration says: its count has two bytes.
pub const SET_MAX: usize = u16::MAX as usize;

/// A block's id: the hash of its content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub [u8; 32]);

impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}", hex::encode(&self.0[..4]))
    }
}

/// The first 16 bytes of the SHA-256 of a set's ids: names the set in pull requests.
pub type SetDigest = [u8; 16];

/// A set of block ids, in order, shared between the messages that name it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockSet {
    digest: SetDigest,
    ids: Arc<[BlockId]>,
}

impl BlockSet {
    /// The set of some ids.
    pub fn new(ids: impl IntoIterator<Item = BlockId>) -> Self {
        Self::from_sorted(
            ids.into_iter()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
        )
    }

    /// The ids in ascending order, the order in which decided blocks are applied.
    pub fn ids(&self) -> &[BlockId] {
        &self.ids
    }

    /// The set's name in pull requests.
    pub fn digest(&self) -> SetDigest {
        self.digest
    }

    fn from_sorted(ids: Arc<[BlockId]>) -> Self {
        let mut hash = Sha256::new();
        for id in ids.iter() {
            hash.update(id.0);
        }
        let mut digest = SetDigest::default();
        digest.copy_from_slice(&hash.finalize()[..16]);
        Self { digest, ids }
    }
}

impl fmt::Debug for BlockSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.ids.iter()).finish()
    }
}

/// The two steps of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// The step of votes.
    Vote,
    /// The step of commits.
    Commit,
}

/// What a message says about its round.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Body {
    /// VOTE(r, S): these blocks should be the layer's.
    Vote(BlockSet),
    /// COMMIT(r, S), seen S voted for by a quorum; or COMMIT(r, none), seen no such S.
    /// None is not the empty set.
    Commit(Option<BlockSet>),
}

impl Body {
    /// The step that the message belongs to.
    pub fn step(&self) -> Step {
        match self {
            Self::Vote(_) => Step::Vote,
            Self::Commit(_) => Step::Commit,
        }
    }

    /// The set named, if it is not a commit to none.
    pub fn set(&self) -> Option<&BlockSet> {
        match self {
            Self::Vote(set) | Self::Commit(Some(set)) => Some(set),
            Self::Commit(None) => None,
        }
    }
}

/// One VOTE or COMMIT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The layer whose agreement it belongs to.
    pub layer: Layer,
    /// The round within that agreement, from 1.
    pub round: Round,
    /// The epoch in which it is sent: its sender needs an ATX for this epoch.
    pub epoch: Epoch,
    /// What it says.
    pub body: Body,
}

/// A message with its sender, whose signature the caller has checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The voter that signed it.
    pub voter: Voter,
    /// What was signed.
    pub message: Message,
    /// The signature over [`Message::encode`], with whatever the caller puts before it.
    pub signature: Signature,
}

/// Bytes that are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end before the message does, or go on after it.
    #[error(
        "agreement message has {got} bytes where {want} are needed; the sender speaks another version or the frame was cut"
    )]
    Length {
        /// Bytes received.
        got: usize,
        /// Bytes that the header asks for.
        want: usize,
    },
    /// No such kind of message.
    #[error("agreement message has the unknown kind {0}; the sender speaks another version")]
    Kind(u8),
    /// Rounds count from 1.
    #[error("agreement message is for round 0, but rounds count from 1")]
    RoundZero,
    /// The ids are not strictly ascending, so the encoding is not the canonical one.
    #[error("block ids of an agreement message are not strictly ascending")]
    Order,
}

impl Message {
    /// The canonical bytes: kind (0 vote, 1 commit, 2 commit none), layer, round, epoch (little
    /// endian, 4 bytes each), and for a set the count (2 bytes) and the ids ascending. Sets of
    /// more than [`SET_MAX`] ids cannot be made by the machine, which refuses them.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, set) = match &self.body {
            Body::Vote(set) => (0, Some(set)),
            Body::Commit(Some(set)) => (1, Some(set)),
            Body::Commit(None) => (2, None),
        };
        let mut bytes = vec![kind];
        for number in [self.layer, self.round, self.epoch] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        if let Some(set) = set {
            let ids = &set.ids[..set.ids.len().min(SET_MAX)];
            let count = u16::try_from(ids.len()).unwrap_or(u16::MAX);
            bytes.extend_from_slice(&count.to_le_bytes());
            for id in ids {
                bytes.extend_from_slice(&id.0);
            }
        }
        bytes
    }

    /// Reads what [`Message::encode`] wrote, and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let length = |want| DecodeError::Length {
            got: bytes.len(),
            want,
        };
        let (head, rest) = bytes
            .split_at_checked(HEAD_BYTES)
            .ok_or(length(HEAD_BYTES))?;
        let number = |at: usize| {
            head[at..at + 4]
                .iter()
                .rev()
                .fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte))
        };
        let set = |rest: &[u8]| -> Result<BlockSet, DecodeError> {
            let (count, ids) = rest
                .split_first_chunk::<2>()
                .ok_or(length(HEAD_BYTES + 2))?;
            let want = usize::from(u16::from_le_bytes(*count)) * 32;
            if ids.len() != want {
                return Err(length(HEAD_BYTES + 2 + want));
            }
            let (ids, _) = ids.as_chunks::<32>();
            if !ids.is_sorted_by(|a, b| a < b) {
                return Err(DecodeError::Order);
            }
            Ok(BlockSet::from_sorted(
                ids.iter().copied().map(BlockId).collect(),
            ))
        };
        let body = match head[0] {
            0 => Body::Vote(set(rest)?),
            1 => Body::Commit(Some(set(rest)?)),
            2 if rest.is_empty() => Body::Commit(None),
            2 => return Err(length(HEAD_BYTES)),
            kind => return Err(DecodeError::Kind(kind)),
        };
        let message = Self {
            layer: number(1),
            round: number(5),
            epoch: number(9),
            body,
        };
        if message.round == 0 {
            Err(DecodeError::RoundZero)
        } else {
            Ok(message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn body() -> impl Strategy<Value = Body> {
        let set = proptest::collection::vec(any::<[u8; 32]>(), 0..5)
            .prop_map(|ids| BlockSet::new(ids.into_iter().map(BlockId)));
        prop_oneof![
            set.clone().prop_map(Body::Vote),
            proptest::option::of(set).prop_map(Body::Commit)
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn what_is_written_is_read(layer: Layer, round in 1..=Round::MAX, epoch: Epoch, body in body()) {
            let message = Message { layer, round, epoch, body };
            prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
        }

        #[test]
        fn any_bytes_are_refused_or_canonical(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), kind in 0..4_u8) {
            if let Some(first) = bytes.first_mut() { *first = kind; }
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }
    }

    #[test]
    fn each_wrong_encoding_is_refused_for_its_reason() {
        let set = BlockSet::new([BlockId([1; 32]), BlockId([2; 32])]);
        let good = Message {
            layer: 7,
            round: 1,
            epoch: 2,
            body: Body::Vote(set),
        }
        .encode();
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            Message::decode(&bytes).unwrap_err()
        };
        assert_eq!(
            with(&|b| b.truncate(5)),
            DecodeError::Length { got: 5, want: 13 }
        );
        assert_eq!(
            with(&|b| b.push(0)),
            DecodeError::Length { got: 80, want: 79 }
        );
        assert_eq!(with(&|b| b[0] = 9), DecodeError::Kind(9));
        assert_eq!(with(&|b| b[5] = 0), DecodeError::RoundZero);
        assert_eq!(with(&|b| b[15] = 3), DecodeError::Order);
    }
}
