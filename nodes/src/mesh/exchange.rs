//! What two nodes say to each other to repair what gossip lost: a request and its answer.
//!
//! A request says what is here of a few layers, epochs and rounds, in short, and what is wanted by
//! name; the answer brings what is wanted, then what was not named. Every list has a bound, and an
//! answer has one in bytes, so that what one exchange can cost either side is known. To add a field,
//! add it to both directions of the codec and to the tests' strategies. Pure; it never panics, whatever
//! the bytes are. What is asked for and what is done with it is in `pull.rs`.

use super::decision::Decision;
use crate::p2p::codec::{Reader, WireError, Writer};
use crate::protocol::agreement::{
    BlockId, Epoch, Holding, Layer, Message, Pull, SetDigest, Signed, Step, Voter, VoterSet,
};
use crate::protocol::atx::{AtxId, ProofRef};

/// Undecided layers that a request asks about.
pub(crate) const LAYERS_MAX: usize = 32;
/// Rounds, steps and values of one layer that a request names; more only liars cause.
const HOLDINGS_MAX: usize = 4096;
/// Lists of what is here: blocks of layers, ATXs of epochs, proofs of rounds.
const LISTS_MAX: usize = 2 * LAYERS_MAX;
/// Things in such a list.
const LIST_MAX: usize = 8192;
/// Proofs that are asked for by name; one takes some 2 ms to check.
pub(crate) const WANT_PROOFS_MAX: usize = 4;
/// ATXs that are asked for by name.
pub(crate) const WANT_ATXS_MAX: usize = 64;
/// Blocks that are asked for by name.
pub(crate) const WANT_BLOCKS_MAX: usize = 128;
/// Messages of open layers in an answer; each takes a signature check.
pub(crate) const MESSAGES_MAX: usize = 256;
/// Blocks in an answer; each takes two signature checks and some.
pub(crate) const BLOCKS_MAX: usize = 64;
/// Things of one kind that an answer can name at all.
const ANSWER_LIST_MAX: usize = 1024;
/// The longest message of agreement or thing of the mesh in an answer.
const THING_MAX: usize = 4 << 20;

/// The first 8 bytes of a hash: enough to say what is here, since a peer that makes two things with
/// the same beginning only keeps its own from spreading.
pub(crate) type Short = [u8; 8];

/// The beginning of an id.
pub(crate) fn short(id: &[u8; 32]) -> Short {
    let mut short = Short::default();
    short.copy_from_slice(&id[..8]);
    short
}

/// What a node has and what it wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// Layers that are applied at the sender: all below this one.
    pub(crate) applied_below: Layer,
    /// What agreement holds of undecided layers.
    pub(crate) layers: Pull,
    /// Blocks that are here, of some of those layers.
    pub(crate) blocks: Vec<(Layer, Vec<Short>)>,
    /// ATXs that are here, by target epoch.
    pub(crate) atxs: Vec<(Epoch, Vec<Short>)>,
    /// Proofs that are here, by round.
    pub(crate) proofs: Vec<(u32, Vec<Short>)>,
    pub(crate) want_proofs: Vec<ProofRef>,
    pub(crate) want_atxs: Vec<AtxId>,
    pub(crate) want_atxs_of: Vec<(Epoch, Voter)>,
    pub(crate) want_blocks: Vec<(Layer, BlockId)>,
}

/// What a node gives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Layers that are applied at the sender: all below this one.
    pub(crate) applied_below: Layer,
    /// There would be more if it fitted.
    pub(crate) more: bool,
    pub(crate) proofs: Vec<Vec<u8>>,
    pub(crate) atxs: Vec<Vec<u8>>,
    pub(crate) blocks: Vec<Vec<u8>>,
    pub(crate) decided: Vec<(Layer, Decision)>,
    pub(crate) messages: Vec<Signed>,
}

impl Request {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u32(self.applied_below);
        count(&mut out, self.layers.layers.len());
        for (layer, holdings) in &self.layers.layers {
            out.u32(*layer);
            count(&mut out, holdings.len());
            for holding in holdings {
                write_holding(&mut out, holding);
            }
        }
        for lists in [&self.blocks, &self.atxs, &self.proofs] {
            count(&mut out, lists.len());
            for (number, list) in lists {
                out.u32(*number);
                count(&mut out, list.len());
                out.raw(list.as_flattened());
            }
        }
        count(&mut out, self.want_proofs.len());
        out.raw(self.want_proofs.as_flattened());
        count(&mut out, self.want_atxs.len());
        for AtxId(id) in &self.want_atxs {
            out.raw(id);
        }
        count(&mut out, self.want_atxs_of.len());
        for (epoch, voter) in &self.want_atxs_of {
            out.u32(*epoch).u8(voter.0);
        }
        count(&mut out, self.want_blocks.len());
        for (layer, BlockId(id)) in &self.want_blocks {
            out.u32(*layer).raw(id);
        }
        out.done()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let decoded = Self {
            applied_below: reader.u32("the applied layers")?,
            layers: Pull {
                layers: list(&mut reader, "layers asked about", LAYERS_MAX, |reader| {
                    let layer = reader.u32("a layer")?;
                    let holdings = list(reader, "holdings", HOLDINGS_MAX, read_holding)?;
                    Ok((layer, holdings))
                })?,
            },
            blocks: read_lists(&mut reader)?,
            atxs: read_lists(&mut reader)?,
            proofs: read_lists(&mut reader)?,
            want_proofs: list(&mut reader, "wanted proofs", WANT_PROOFS_MAX, |reader| {
                reader.array("a proof's reference")
            })?,
            want_atxs: list(&mut reader, "wanted ATXs", WANT_ATXS_MAX, |reader| {
                reader.array("an ATX's id").map(AtxId)
            })?,
            want_atxs_of: list(&mut reader, "wanted ATXs", WANT_ATXS_MAX, |reader| {
                Ok((reader.u32("an epoch")?, Voter(reader.u8("a voter")?)))
            })?,
            want_blocks: list(&mut reader, "wanted blocks", WANT_BLOCKS_MAX, |reader| {
                Ok((
                    reader.u32("a layer")?,
                    BlockId(reader.array("a block's id")?),
                ))
            })?,
        };
        reader.finish()?;
        Ok(decoded)
    }
}

impl Answer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u32(self.applied_below).u8(self.more.into());
        for things in [&self.proofs, &self.atxs, &self.blocks] {
            count(&mut out, things.len());
            for thing in things {
                write_thing(&mut out, thing);
            }
        }
        count(&mut out, self.decided.len());
        for (layer, decision) in &self.decided {
            write_thing(out.u32(*layer), &decision.encode());
        }
        count(&mut out, self.messages.len());
        for signed in &self.messages {
            out.u8(signed.voter.0).raw(&signed.signature);
            write_thing(&mut out, &signed.message.encode());
        }
        out.done()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let applied_below = reader.u32("the applied layers")?;
        let more = reader.bool("whether there is more")?;
        let mut things = |what, most| {
            list(&mut reader, what, most, |reader| {
                read_thing(reader).map(<[u8]>::to_vec)
            })
        };
        let proofs = things("proofs of an answer", ANSWER_LIST_MAX)?;
        let atxs = things("ATXs of an answer", ANSWER_LIST_MAX)?;
        let blocks = things("blocks of an answer", ANSWER_LIST_MAX)?;
        let decided = list(&mut reader, "decided layers", LAYERS_MAX, |reader| {
            let layer = reader.u32("a layer")?;
            Ok((layer, Decision::decode(read_thing(reader)?)?))
        })?;
        let messages = list(&mut reader, "messages", MESSAGES_MAX, read_signed)?;
        reader.finish()?;
        Ok(Self {
            applied_below,
            more,
            proofs,
            atxs,
            blocks,
            decided,
            messages,
        })
    }
}

/// Writes a signed message as votes travel: voter, signature, message.
fn read_signed(reader: &mut Reader<'_>) -> Result<Signed, WireError> {
    Ok(Signed {
        voter: Voter(reader.u8("a voter")?),
        signature: reader.array("a signature")?,
        message: Message::decode(read_thing(reader)?).map_err(|_| WireError::BadValue {
            what: "a message of layer agreement",
            value: 0,
        })?,
    })
}

fn write_holding(out: &mut Writer, holding: &Holding) {
    out.u32(holding.round)
        .u8((holding.step == Step::Commit).into())
        .u8(holding.set.is_some().into());
    if let Some(digest) = &holding.set {
        out.raw(digest);
    }
    out.u32(holding.voters.bits());
}

fn read_holding(reader: &mut Reader<'_>) -> Result<Holding, WireError> {
    let round = reader.u32("a round")?;
    let step = if reader.bool("a step")? {
        Step::Commit
    } else {
        Step::Vote
    };
    let named = reader.bool("whether a set is named")?;
    let digest = |reader: &mut Reader<'_>| reader.array::<{ size_of::<SetDigest>() }>("a set");
    Ok(Holding {
        round,
        step,
        set: named.then(|| digest(reader)).transpose()?,
        voters: VoterSet::from_bits(reader.u32("voters")?),
    })
}

fn read_lists(reader: &mut Reader<'_>) -> Result<Vec<(u32, Vec<Short>)>, WireError> {
    list(reader, "lists of what is here", LISTS_MAX, |reader| {
        let number = reader.u32("a layer, epoch or round")?;
        let here = list(reader, "what is here", LIST_MAX, |reader| {
            reader.array("the beginning of an id")
        })?;
        Ok((number, here))
    })
}

fn write_thing(out: &mut Writer, bytes: &[u8]) {
    count(out, bytes.len());
    out.raw(bytes);
}

fn read_thing<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], WireError> {
    let (what, limit) = ("a thing of the mesh", THING_MAX);
    let len = usize::try_from(reader.u32(what)?).unwrap_or(usize::MAX);
    if len > limit {
        return Err(WireError::TooLong { what, len, limit });
    }
    reader.take(what, len)
}

fn count(out: &mut Writer, count: usize) {
    out.u32(u32::try_from(count).unwrap_or(u32::MAX));
}

/// A list of at most `limit` things. It grows with what is read, not with what is announced.
fn list<'a, T>(
    reader: &mut Reader<'a>,
    what: &'static str,
    limit: usize,
    mut read: impl FnMut(&mut Reader<'a>) -> Result<T, WireError>,
) -> Result<Vec<T>, WireError> {
    let len = usize::try_from(reader.u32(what)?).unwrap_or(usize::MAX);
    if len > limit {
        return Err(WireError::TooLong { what, len, limit });
    }
    let mut list = Vec::new();
    for _ in 0..len {
        list.push(read(reader)?);
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::agreement::{BlockSet, Body};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn lists() -> impl Strategy<Value = Vec<(u32, Vec<Short>)>> {
        vec((any::<u32>(), vec(any::<Short>(), 0..4)), 0..4)
    }

    fn holding() -> impl Strategy<Value = Holding> {
        (any::<(u32, bool, u32)>(), any::<Option<SetDigest>>()).prop_map(
            |((round, commit, voters), set)| Holding {
                round,
                step: if commit { Step::Commit } else { Step::Vote },
                set,
                voters: VoterSet::from_bits(voters),
            },
        )
    }

    fn request() -> impl Strategy<Value = Request> {
        let layers = vec((any::<u32>(), vec(holding(), 0..4)), 0..4);
        let wants = (
            vec(any::<[u8; 32]>(), 0..=WANT_PROOFS_MAX),
            vec(any::<[u8; 32]>(), 0..4),
            vec(any::<(u32, u8)>(), 0..4),
            vec(any::<(u32, [u8; 32])>(), 0..4),
        );
        (any::<u32>(), layers, lists(), lists(), lists(), wants).prop_map(
            |(applied_below, layers, blocks, atxs, proofs, wants)| Request {
                applied_below,
                layers: Pull { layers },
                blocks,
                atxs,
                proofs,
                want_proofs: wants.0,
                want_atxs: wants.1.into_iter().map(AtxId).collect(),
                want_atxs_of: wants.2.into_iter().map(|(e, v)| (e, Voter(v))).collect(),
                want_blocks: wants
                    .3
                    .into_iter()
                    .map(|(l, id)| (l, BlockId(id)))
                    .collect(),
            },
        )
    }

    fn set() -> impl Strategy<Value = BlockSet> {
        vec(any::<[u8; 32]>(), 0..4).prop_map(|ids| BlockSet::new(ids.into_iter().map(BlockId)))
    }

    fn answer() -> impl Strategy<Value = Answer> {
        let things = || vec(vec(any::<u8>(), 0..20), 0..4);
        let decision = (any::<u32>(), set(), vec(any::<(u8, u32)>(), 0..4)).prop_map(
            |(round, set, commits)| Decision {
                round,
                set,
                commits: commits
                    .into_iter()
                    .map(|(voter, epoch)| (Voter(voter), epoch, [voter; 64]))
                    .collect(),
            },
        );
        let message = (
            any::<(u8, u32, u32)>(),
            1_u32..,
            proptest::option::of(set()),
        )
            .prop_map(|((voter, layer, epoch), round, set)| Signed {
                voter: Voter(voter),
                signature: [voter; 64],
                message: Message {
                    layer,
                    round,
                    epoch,
                    body: Body::Commit(set),
                },
            });
        (
            any::<(u32, bool)>(),
            (things(), things(), things()),
            vec((any::<u32>(), decision), 0..4),
            vec(message, 0..4),
        )
            .prop_map(
                |((applied_below, more), things, decided, messages)| Answer {
                    applied_below,
                    more,
                    proofs: things.0,
                    atxs: things.1,
                    blocks: things.2,
                    decided,
                    messages,
                },
            )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn requests_round_trip(made in request()) {
            prop_assert_eq!(Request::decode(&made.encode()).unwrap(), made);
        }

        #[test]
        fn answers_round_trip(made in answer()) {
            prop_assert_eq!(Answer::decode(&made.encode()).unwrap(), made);
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in vec(any::<u8>(), 0..300)) {
            if let Ok(decoded) = Request::decode(&bytes) {
                prop_assert_eq!(&decoded.encode(), &bytes);
            }
            if let Ok(decoded) = Answer::decode(&bytes) {
                prop_assert_eq!(&decoded.encode(), &bytes);
            }
        }

        #[test]
        fn what_was_damaged_is_decoded_or_refused(made in request(), given in answer(), at: usize, bit in 0..8, cut: usize) {
            for mut bytes in [made.encode(), given.encode()] {
                let at = at % bytes.len();
                bytes[at] ^= 1_u8 << bit;
                bytes.truncate(bytes.len() - cut % 8);
                let _ = Request::decode(&bytes);
                let _ = Answer::decode(&bytes);
            }
        }
    }
}
