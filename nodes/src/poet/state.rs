//! What a PoET must remember, as bytes: its own identity, and where each round stands.
//!
//! Both files begin with four bytes that name them and end with the first eight of their SHA-256, so
//! that damage is an error and not another identity. The proof itself is not kept: its layers are, as
//! long as nobody acknowledged it, and it can be made from them again. To add a field, append it and
//! raise the number in the file's name bytes. This module reads and writes no files: `store.rs` does.

use super::hash::Node;
use super::members::{Members, MembersError};
use super::work::Checkpoint;
use super::{Params, ParamsError, RoundId};
use crate::p2p::codec::{Reader, WireError, Writer};
use ed25519_dalek::SigningKey;
use sha2::{Digest as _, Sha256};

const SERVICE: [u8; 4] = *b"TPS1";
const ROUND: [u8; 4] = *b"TPR1";
const CHECK_BYTES: usize = 8;
/// Bytes of the state of a round without its nodes: name, time, mark; time, parameters, three counts,
/// next label; check.
const FIXED_BYTES: u64 = (4 + 8 + 1) + (8 + 3 * 4 + 3 * 4 + 8) + CHECK_BYTES as u64;

/// The identity of a PoET and its count of rounds.
#[derive(Clone, PartialEq, Eq)]
pub struct ServiceState {
    /// The round that is opened next.
    pub next_round: RoundId,
    /// The secret ed25519 key. Who loses it is another PoET, for whose rounds nobody waits.
    pub secret: [u8; 32],
}

impl std::fmt::Debug for ServiceState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceState")
            .field("next_round", &self.next_round)
            .finish_non_exhaustive()
    }
}

/// Where a round stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoundState {
    /// When it was opened, in milliseconds of Unix time.
    pub opened_ms: u64,
    /// Its work, once it is closed to new members.
    pub execution: Option<Execution>,
}

/// The work of a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// When it began, in milliseconds of Unix time.
    pub started_ms: u64,
    /// What is to be computed.
    pub params: Params,
    /// For whom.
    pub members: Members,
    /// From where the work goes on after a restart.
    pub checkpoint: Checkpoint,
    /// The root, once all is computed: the round is then executed, and waits for its acknowledgement.
    pub root: Option<Node>,
}

/// Why bytes are not a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// No bytes at all: what is left of a file that is emptied before it is written anew.
    #[error("it is empty: it was cut off while it was being written anew")]
    Empty,
    /// Another file, or of another version.
    #[error("it does not begin as such a file does; it is another file, or of another version")]
    Kind,
    /// Some byte is not as it was written.
    #[error("its check bytes do not match; it is damaged, or was cut off while being written")]
    Check,
    /// The fields are not those of a state.
    #[error("its fields are not those of a state")]
    Fields(#[from] WireError),
    /// Parameters that no round can have.
    #[error("its parameters are out of range")]
    Params(#[from] ParamsError),
    /// Members that no round can have.
    #[error("its members are no list of members")]
    Members(#[from] MembersError),
}

impl ServiceState {
    /// The key that signs the proofs of this PoET.
    pub fn signing_key(&self) -> SigningKey {
        SigningKey::from_bytes(&self.secret)
    }

    /// The public key by which the network knows this PoET.
    pub fn public_key(&self) -> [u8; 32] {
        self.signing_key().verifying_key().to_bytes()
    }

    /// As the bytes of a file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        sealed(out.raw(&SERVICE).u32(self.next_round).raw(&self.secret))
    }

    /// Out of the bytes of a file.
    ///
    /// # Errors
    /// Bytes that are not what [`ServiceState::encode`] gave; they may be anything.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let mut reader = opened(bytes, SERVICE)?;
        let state = Self {
            next_round: reader.u32("number of the next round")?,
            secret: reader.array("secret key")?,
        };
        reader.finish()?;
        Ok(state)
    }
}

impl RoundState {
    /// The longest such a state gets with this many members: just before its last label.
    pub fn max_bytes(params: Params, members: usize) -> u64 {
        let nodes = members as u64 + u64::from(params.log2_leaves());
        FIXED_BYTES + 32 * nodes
    }

    /// As the bytes of a file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.raw(&ROUND).u64(self.opened_ms);
        out.u8(self.execution.is_some().into());
        if let Some(execution) = &self.execution {
            execution.encode(&mut out);
        }
        sealed(&mut out)
    }

    /// Out of the bytes of a file.
    ///
    /// # Errors
    /// Bytes that are not what [`RoundState::encode`] gave; they may be anything.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let mut reader = opened(bytes, ROUND)?;
        let opened_ms = reader.u64("time of opening")?;
        let execution = if reader.bool("mark of an execution")? {
            Some(Execution::decode(&mut reader)?)
        } else {
            None
        };
        reader.finish()?;
        Ok(Self {
            opened_ms,
            execution,
        })
    }
}

impl Execution {
    fn encode(&self, out: &mut Writer) {
        let Params {
            log2_leaves,
            depth,
            openings,
        } = self.params;
        out.u64(self.started_ms);
        out.u32(log2_leaves).u32(depth).u32(openings);
        put(out, self.members.as_slice());
        out.u64(self.checkpoint.next_leaf);
        put(out, &self.checkpoint.parked);
        put(out, self.root.as_slice());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, StateError> {
        let started_ms = reader.u64("time of the start")?;
        let params = Params::new(
            reader.u32("log2 of the labels")?,
            reader.u32("depth")?,
            reader.u32("number of openings")?,
        )?;
        let members = Members::ascending(get(reader, "list of members", Members::MAX)?)?;
        let next_leaf = reader.u64("next label")?;
        let parked = get(reader, "list of parked nodes", 64)?;
        let root = get(reader, "root", 1)?.first().copied();
        Ok(Self {
            started_ms,
            params,
            members,
            checkpoint: Checkpoint { next_leaf, parked },
            root,
        })
    }
}

fn put(out: &mut Writer, nodes: &[Node]) {
    out.u32(u32::try_from(nodes.len()).unwrap_or(u32::MAX));
    out.raw(nodes.as_flattened());
}

fn get(reader: &mut Reader<'_>, what: &'static str, limit: usize) -> Result<Vec<Node>, WireError> {
    super::proof::nodes(reader, what, limit)
}

fn sealed(out: &mut Writer) -> Vec<u8> {
    let mut bytes = out.done();
    let check = Sha256::digest(&bytes);
    bytes.extend_from_slice(&check[..CHECK_BYTES]);
    bytes
}

fn opened(bytes: &[u8], kind: [u8; 4]) -> Result<Reader<'_>, StateError> {
    if bytes.is_empty() {
        return Err(StateError::Empty);
    }
    let Some((body, check)) = bytes.split_last_chunk::<CHECK_BYTES>() else {
        return Err(StateError::Check);
    };
    let Some(fields) = body.strip_prefix(kind.as_slice()) else {
        return Err(StateError::Kind);
    };
    if Sha256::digest(body)[..CHECK_BYTES] != check[..] {
        return Err(StateError::Check);
    }
    Ok(Reader::new(fields))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round(members: u8, next_leaf: u64, root: Option<Node>) -> RoundState {
        let parked = (0..next_leaf.count_ones()).map(|_| [7; 32]).collect();
        RoundState {
            opened_ms: 1_600_000_000_000,
            execution: Some(Execution {
                started_ms: 1_600_000_000_250,
                params: Params::DEFAULT,
                members: Members::new((0..members).map(|member| [member; 32])).unwrap(),
                checkpoint: Checkpoint { next_leaf, parked },
                root,
            }),
        }
    }

    #[test]
    fn states_survive_bytes_and_no_flipped_byte_does() {
        let open = RoundState {
            opened_ms: 5,
            execution: None,
        };
        for state in [
            open,
            round(0, 0, None),
            round(12, 4097, None),
            round(3, 8192, Some([9; 32])),
        ] {
            let mut bytes = state.encode();
            if let Some(execution) = &state.execution {
                let Execution {
                    params, members, ..
                } = execution;
                assert!(bytes.len() as u64 <= RoundState::max_bytes(*params, members.len()));
            }
            assert_eq!(RoundState::decode(&bytes), Ok(state));
            for place in 0..bytes.len() {
                bytes[place] ^= 0x10;
                assert!(RoundState::decode(&bytes).is_err(), "byte {place}");
                bytes[place] ^= 0x10;
                assert!(
                    RoundState::decode(&bytes[..place]).is_err(),
                    "first {place} bytes"
                );
            }
        }
    }

    #[test]
    fn the_longest_state_is_as_long_as_is_said() {
        let bytes = round(12, 8191, None).encode().len() as u64;
        assert_eq!(bytes, RoundState::max_bytes(Params::DEFAULT, 12));
    }

    #[test]
    fn an_identity_is_itself_or_an_error() {
        let state = ServiceState {
            next_round: 4,
            secret: [3; 32],
        };
        let mut bytes = state.encode();
        assert_eq!(ServiceState::decode(&bytes), Ok(state));
        assert_eq!(ServiceState::decode(&[]), Err(StateError::Empty));
        assert_eq!(RoundState::decode(&bytes), Err(StateError::Kind));
        bytes[20] ^= 1;
        assert_eq!(ServiceState::decode(&bytes), Err(StateError::Check));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn any_fields_decode_or_are_refused(fields in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = sealed(Writer::default().raw(&ROUND).raw(&fields));
            if let Ok(state) = RoundState::decode(&bytes) {
                prop_assert_eq!(state.encode(), bytes);
            }
        }
    }
}
