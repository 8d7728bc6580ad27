//! A decision as it is kept and sent: what a quorum agreed on for a layer, said once for all of it.
//!
//! The commits of a proof name the same layer, round and set, so that only voter, epoch and signature
//! of each are written. Pure.

use crate::p2p::codec::{Reader, WireError, Writer};
use crate::protocol::agreement::{
    BlockId, BlockSet, Body, Epoch, Layer, Message, Round, Signature, Signed, Voter,
};

/// What a quorum agreed on for a layer, with its commits, which say all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) round: Round,
    pub(crate) set: BlockSet,
    pub(crate) commits: Vec<(Voter, Epoch, Signature)>,
}

impl Decision {
    /// What the commits of a decision have in common, and who signed them.
    pub(crate) fn of(set: &BlockSet, proof: &[Signed]) -> Option<Self> {
        let round = proof.first()?.message.round;
        let commits = proof
            .iter()
            .map(|signed| (signed.voter, signed.message.epoch, signed.signature))
            .collect();
        Some(Self {
            round,
            set: set.clone(),
            commits,
        })
    }

    /// The commits as they were sent.
    pub(crate) fn messages(&self, layer: Layer) -> Vec<Signed> {
        let signed = |(voter, epoch, signature): &(Voter, Epoch, Signature)| Signed {
            voter: *voter,
            message: Message {
                layer,
                round: self.round,
                epoch: *epoch,
                body: Body::Commit(Some(self.set.clone())),
            },
            signature: *signature,
        };
        self.commits.iter().map(signed).collect()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        let count = u16::try_from(self.set.ids().len()).unwrap_or(u16::MAX);
        out.u32(self.round).u16(count);
        for id in self.set.ids().iter().take(count.into()) {
            out.raw(&id.0);
        }
        let commits = u8::try_from(self.commits.len()).unwrap_or(u8::MAX);
        out.u8(commits);
        for (voter, epoch, signature) in self.commits.iter().take(commits.into()) {
            out.u8(voter.0).u32(*epoch).raw(signature);
        }
        out.done()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let decoded = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(decoded)
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let round = reader.u32("the round of a decision")?;
        let count = usize::from(reader.u16("the blocks of a decision")?);
        let ids = reader.take("the blocks of a decision", count * 32)?;
        let (ids, _) = ids.as_chunks::<32>();
        if !ids.is_sorted_by(|a, b| a < b) {
            let what = "the order of the blocks of a decision";
            return Err(WireError::BadValue { what, value: 0 });
        }
        let set = BlockSet::new(ids.iter().copied().map(BlockId));
        let commits = (0..reader.u8("the commits of a decision")?)
            .map(|_| {
                Ok((
                    Voter(reader.u8("the voter of a commit")?),
                    reader.u32("the epoch of a commit")?,
                    reader.array("the signature of a commit")?,
                ))
            })
            .collect::<Result<_, WireError>>()?;
        Ok(Self {
            round,
            set,
            commits,
        })
    }
}
