//! Activations: the right to make blocks in the next epoch, bought with a PoET's proof.
//!
//! An activation of epoch `e` shows that its challenge for `e` was a member of round `e` of some PoET,
//! and that the miner's labels are there. What can be checked without the proof is in
//! [`Atx::verify_alone`], the rest in [`Atx::verify_with`]; both look at content only, never at when
//! it came. To add a field, add it to [`Content`] and to both directions of the codec.

use super::genesis::{Genesis, NodeId};
use super::post::Post;
use crate::p2p::codec::{Reader, WireError, Writer};
use crate::poet::members::Membership;
use crate::poet::proof::Proof;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

/// Keeps signatures of activations apart from all others.
const DOMAIN: &[u8] = b"tweedledum activation 1";
/// Keeps challenges apart from other hashes.
const CHALLENGE_DOMAIN: &[u8] = b"tweedledum challenge 1";
/// More than the longest membership takes.
const MEMBERSHIP_MAX: u16 = 1024;

/// What an activation is known by: the hash of all its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AtxId(pub(crate) [u8; 32]);

impl std::fmt::Debug for AtxId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "atx {}", hex::encode(&self.0[..4]))
    }
}

/// What a PoET's proof is known by: [`Proof::reference`].
pub(crate) type ProofRef = [u8; 32];

/// What a miner registers with a PoET for the round of an epoch.
///
/// It names nothing but who and when: with two rounds in flight the activation before is not there
/// yet when the next challenge is due.
pub(crate) fn challenge(netid: u32, node: &NodeId, epoch: u32) -> [u8; 32] {
    Sha256::new()
        .chain_update(CHALLENGE_DOMAIN)
        .chain_update(netid.to_be_bytes())
        .chain_update(node)
        .chain_update(epoch.to_be_bytes())
        .finalize()
        .into()
}

/// What an activation says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) netid: u32,
    /// Who is activated, and signs.
    pub(crate) node: NodeId,
    /// The epoch that it is published in; it is good for the next one.
    pub(crate) epoch: u32,
    /// How many activations of this node came before.
    pub(crate) sequence: u32,
    /// The latest of them.
    pub(crate) previous: Option<AtxId>,
    pub(crate) proof: ProofRef,
    /// The PoET's public key and its round, so that the proof can be asked for.
    pub(crate) poet: [u8; 32],
    pub(crate) round: u32,
    pub(crate) membership: Membership,
    pub(crate) post: Post,
}

/// A signed activation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Atx {
    pub(crate) content: Content,
    signature: [u8; 64],
}

impl std::ops::Deref for Atx {
    type Target = Content;

    fn deref(&self) -> &Content {
        &self.content
    }
}

impl Atx {
    /// Signs for the holder of `key`, who must be the one that the content names.
    pub(crate) fn sign(content: Content, key: &SigningKey) -> Self {
        let signature = key.sign(&content.signed_bytes()).to_bytes();
        Self { content, signature }
    }

    pub(crate) fn id(&self) -> AtxId {
        AtxId(Sha256::digest(self.encode()).into())
    }

    /// The epoch whose blocks it is good for.
    pub(crate) fn target_epoch(&self) -> u32 {
        self.epoch.saturating_add(1)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.content.write(&mut out);
        out.raw(&self.signature).done()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let content = Content::read(&mut reader)?;
        let signature = reader.array("the signature of an activation")?;
        reader.finish()?;
        Ok(Self { content, signature })
    }

    /// Everything that does not need the proof: network, miner, round, sequence, labels, signature.
    pub(crate) fn verify_alone(&self, genesis: &Genesis) -> Result<(), &'static str> {
        if self.netid != genesis.netid {
            return Err("atx-netid");
        }
        if !genesis.is_miner(&self.node) {
            return Err("atx-node");
        }
        // The proof of a round is for the epoch of the same number.
        if self.round != self.epoch {
            return Err("atx-round");
        }
        if (self.sequence == 0) != self.previous.is_none() {
            return Err("atx-sequence");
        }
        let signer = VerifyingKey::from_bytes(&self.node).map_err(|_| "atx-signer")?;
        signer
            .verify_strict(
                &self.content.signed_bytes(),
                &Signature::from_bytes(&self.signature),
            )
            .map_err(|_| "atx-signature")?;
        if !self.post.verify(&self.node, &self.proof) {
            return Err("atx-post");
        }
        Ok(())
    }

    /// What is left when the proof is there, which its holder has found to be good.
    pub(crate) fn verify_with(&self, proof: &Proof, genesis: &Genesis) -> Result<(), &'static str> {
        if proof.service != self.poet || proof.round != self.round {
            return Err("atx-poet");
        }
        if proof.reference() != self.proof {
            return Err("atx-proof");
        }
        let challenge = challenge(genesis.netid, &self.node, self.epoch);
        self.membership
            .check(&challenge, &proof.members.statement(), proof.members.len())
            .map_err(|_| "atx-membership")
    }
}

impl Content {
    fn signed_bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.write(out.raw(DOMAIN));
        out.done()
    }

    fn write(&self, out: &mut Writer) {
        out.u32(self.netid)
            .raw(&self.node)
            .u32(self.epoch)
            .u32(self.sequence);
        write_id(out, self.previous);
        out.raw(&self.proof).raw(&self.poet).u32(self.round);
        out.bytes(&self.membership.encode(), MEMBERSHIP_MAX);
        self.post.write(out);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            netid: reader.u32("the netid")?,
            node: reader.array("the node of an activation")?,
            epoch: reader.u32("the epoch of an activation")?,
            sequence: reader.u32("the sequence of an activation")?,
            previous: read_id(reader)?,
            proof: reader.array("the proof of an activation")?,
            poet: reader.array("the PoET of an activation")?,
            round: reader.u32("the round of an activation")?,
            membership: {
                let limit = MEMBERSHIP_MAX.into();
                Membership::decode(reader.bytes("the membership of an activation", limit)?)?
            },
            post: Post::read(reader)?,
        })
    }
}

/// An activation's id or none, in one way only.
pub(super) fn write_id(out: &mut Writer, id: Option<AtxId>) {
    out.u8(id.is_some().into());
    if let Some(AtxId(id)) = id {
        out.raw(&id);
    }
}

pub(super) fn read_id(reader: &mut Reader<'_>) -> Result<Option<AtxId>, WireError> {
    let there = reader.bool("whether an activation is named")?;
    there
        .then(|| reader.array("the id of an activation").map(AtxId))
        .transpose()
}

#[cfg(test)]
#[path = "atx_tests.rs"]
pub(crate) mod tests;
