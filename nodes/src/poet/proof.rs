//! The proof: leaves that the root picks, the part of the tree that ties them to it, and the check.
//!
//! Fiat-Shamir picks T distinct leaves from the root alone; the proof holds their labels and the
//! siblings that fold them up to the root. The check folds them again, and computes every opened
//! label anew from the left siblings on its path, which is what makes the work sequential. A proof
//! is signed by its PoET. To add a field, add it to [`Proof`], `body` and `decode`, and a flip of it to
//! the tests. This module reads through [`Tree`] and does no other I/O.
//!
//! Differences to 2020, both named where they are: the counter of the draw has 32 bits, and the
//! signature is made and checked.

use super::hash::{self, Node};
use super::members::{Members, MembersError};
use super::tree::{Tree, TreeError};
use super::{Params, RoundId};
use crate::p2p::codec::{Reader, WireError, Writer};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Keeps signatures of proofs apart from all other signatures of the same key.
const SIGNING_DOMAIN: &[u8] = b"tweedledum poet proof 1";

/// The most siblings a proof may bring: those of [`Params::MAX_OPENINGS`] leaves in the highest tree.
const MAX_SIBLINGS: usize = (Params::MAX_OPENINGS * Params::MAX_LOG2_LEAVES) as usize;

/// What a PoET publishes about a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The public key of the PoET.
    pub service: [u8; 32],
    /// The round, by the PoET's own count.
    pub round: RoundId,
    /// How many labels were computed.
    pub leaves: u64,
    /// The root of their tree.
    pub root: Node,
    /// The opened labels, in the order of their places.
    pub labels: Vec<Node>,
    /// The siblings that lead from them to the root: layer by layer from the leaves, in order.
    pub siblings: Vec<Node>,
    /// The members of the round.
    pub members: Members,
    /// The PoET's ed25519 signature over everything above. 2020 had the field, empty and unchecked,
    /// so that whoever passed a proof on could change round and PoET, or name an inner node of the
    /// members' tree a member.
    pub signature: [u8; 64],
}

/// Why a proof cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProveError {
    /// A layer cannot be read.
    #[error("the tree of round {round} cannot be read")]
    Tree {
        /// The round.
        round: RoundId,
        /// Which layer, and why.
        #[source]
        source: TreeError,
    },
    /// The statement of the tree is not that of the members.
    #[error("the tree of round {round} was made for other members; its state is damaged")]
    Members {
        /// The round.
        round: RoundId,
    },
    /// What is on disk does not hash up to the root.
    #[error(
        "the tree of round {round} does not fold to its root; a layer file is damaged, compute the round again"
    )]
    Damaged {
        /// The round.
        round: RoundId,
    },
    /// No leaves can be drawn.
    #[error("no leaves can be drawn for the proof of round {round}")]
    Draw {
        /// The round.
        round: RoundId,
        /// Why.
        #[source]
        source: ProofError,
    },
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// Bytes that are no proof.
    #[error("the bytes are no proof")]
    Bytes(#[source] WireError),
    /// A list of members that no round has.
    #[error("the members of the proof are no list of members")]
    Members(#[source] MembersError),
    /// Another amount of work than the network asks for.
    #[error(
        "the proof is over {have} labels and this network asks for {need}; compare the flags of the PoET"
    )]
    Leaves {
        /// Labels the proof is about.
        have: u64,
        /// Labels of this network.
        need: u64,
    },
    /// Another number of opened leaves.
    #[error(
        "the proof opens {have} leaves and this network asks for {need}; compare the flags of the PoET"
    )]
    Openings {
        /// Leaves that are opened.
        have: usize,
        /// Leaves that this network wants opened.
        need: u32,
    },
    /// The key or the signature is not one, or of somebody else.
    #[error(
        "the signature is not of the PoET {} that the proof names; it was changed on the way",
        hex::encode(service)
    )]
    Signature {
        /// The public key in the proof.
        service: [u8; 32],
    },
    /// The counter ran out.
    #[error("the root gives no {need} distinct leaves of {leaves}")]
    Draw {
        /// Leaves that were to be drawn.
        need: u32,
        /// Leaves of the tree.
        leaves: u64,
    },
    /// Too few or too many siblings.
    #[error("the proof brings {have} siblings, which is not what its leaves need")]
    Siblings {
        /// How many it brings.
        have: usize,
    },
    /// The leaves do not fold to the root.
    #[error("leaves and siblings do not fold to the root")]
    Root,
    /// A label that is not the hash of the tree to its left.
    #[error("label {leaf} is not what the statement and the labels before it give")]
    Label {
        /// Its place.
        leaf: u64,
    },
}

impl Proof {
    /// The proof of a finished tree.
    ///
    /// # Errors
    /// A tree that cannot be read, is damaged, or was made for other members.
    pub fn make(
        tree: &Tree,
        members: Members,
        round: RoundId,
        key: &SigningKey,
    ) -> Result<Self, ProveError> {
        if members.statement() != tree.statement() {
            return Err(ProveError::Members { round });
        }
        let params = tree.params();
        let drawn =
            draw(&tree.root(), params).map_err(|source| ProveError::Draw { round, source })?;
        let read = |layer, index| {
            tree.node(layer, index)
                .map_err(|source| ProveError::Tree { round, source })
        };
        let opened = drawn
            .into_iter()
            .map(|leaf| Ok((leaf, read(0, leaf)?)))
            .collect::<Result<BTreeMap<_, _>, _>>()?;
        let labels = opened.values().copied().collect();
        let mut siblings = Vec::new();
        let part = Part::fold(&tree.statement(), params, opened, |layer, index| {
            let sibling = read(layer, index)?;
            siblings.push(sibling);
            Ok(sibling)
        })?;
        if part.root() != Some(tree.root()) {
            return Err(ProveError::Damaged { round });
        }
        let mut proof = Self {
            service: key.verifying_key().to_bytes(),
            round,
            leaves: params.leaves(),
            root: tree.root(),
            labels,
            siblings,
            members,
            signature: [0; 64],
        };
        proof.signature = key.sign(&proof.signed()).to_bytes();
        Ok(proof)
    }

    /// Checks all of it: signature, picked leaves, tree, and every opened label.
    ///
    /// It takes [`Params::openings`] times [`Params::depth`] hashes and some. Whether this PoET and
    /// this round are the ones waited for, and who is a member, is for the caller.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn verify(&self, params: Params) -> Result<(), ProofError> {
        if self.leaves != params.leaves() {
            return Err(ProofError::Leaves {
                have: self.leaves,
                need: params.leaves(),
            });
        }
        if self.labels.len() != params.openings() as usize {
            return Err(ProofError::Openings {
                have: self.labels.len(),
                need: params.openings(),
            });
        }
        self.verify_signature()?;
        let statement = self.members.statement();
        let part = self.fold(&statement, params)?;
        if part.root() != Some(self.root) {
            return Err(ProofError::Root);
        }
        part.verify_labels(&statement, params)
    }

    /// What ATXs cite: the SHA-256 of the encoded proof.
    pub fn reference(&self) -> Node {
        Sha256::digest(self.encode()).into()
    }

    /// As bytes, for the wire and for disk.
    pub fn encode(&self) -> Vec<u8> {
        self.body().raw(&self.signature).done()
    }

    /// Out of what [`Proof::encode`] gave. A proof that decodes need not be true: see
    /// [`Proof::verify`].
    ///
    /// # Errors
    /// Bytes that are no proof; they may be anything. No list is made before its bytes are there.
    pub fn decode(bytes: &[u8]) -> Result<Self, ProofError> {
        let mut reader = Reader::new(bytes);
        let decoded = Self::read(&mut reader).map_err(ProofError::Bytes)?;
        reader.finish().map_err(ProofError::Bytes)?;
        let (proof, members) = decoded;
        let members = Members::ascending(members).map_err(ProofError::Members)?;
        Ok(Self { members, ..proof })
    }

    fn read(reader: &mut Reader<'_>) -> Result<(Self, Vec<Node>), WireError> {
        let service = reader.array("public key of the PoET")?;
        let round = reader.u32("round of a proof")?;
        let leaves = reader.u64("number of labels")?;
        let root = reader.array("root of a proof")?;
        let labels = nodes(reader, "list of labels", Params::MAX_OPENINGS as usize)?;
        let siblings = nodes(reader, "list of siblings", MAX_SIBLINGS)?;
        let members = nodes(reader, "list of members", Members::MAX)?;
        let proof = Self {
            service,
            round,
            leaves,
            root,
            labels,
            siblings,
            members: Members::default(),
            signature: reader.array("signature of a proof")?,
        };
        Ok((proof, members))
    }

    fn body(&self) -> Writer {
        let mut out = Writer::default();
        out.raw(&self.service).u32(self.round).u64(self.leaves);
        out.raw(&self.root);
        for list in [&self.labels, &self.siblings, self.members.as_slice()] {
            out.u32(u32::try_from(list.len()).unwrap_or(u32::MAX));
            out.raw(list.as_flattened());
        }
        out
    }

    fn signed(&self) -> Vec<u8> {
        [SIGNING_DOMAIN, &self.body().done()].concat()
    }

    fn verify_signature(&self) -> Result<(), ProofError> {
        let service = self.service;
        let signature = Signature::from_bytes(&self.signature);
        VerifyingKey::from_bytes(&service)
            .and_then(|key| key.verify_strict(&self.signed(), &signature))
            .map_err(|_| ProofError::Signature { service })
    }

    fn fold(&self, statement: &Node, params: Params) -> Result<Part, ProofError> {
        let have = self.siblings.len();
        let opened = draw(&self.root, params)?
            .into_iter()
            .zip(self.labels.iter().copied())
            .collect();
        let mut brought = self.siblings.iter();
        let part = Part::fold(statement, params, opened, |_, _| {
            brought.next().copied().ok_or(ProofError::Siblings { have })
        })?;
        match brought.next() {
            None => Ok(part),
            Some(_) => Err(ProofError::Siblings { have }),
        }
    }
}

/// The leaves that a root picks: the first 8 bytes of SHA-256(root, counter) modulo the leaves, until
/// enough are distinct.
///
/// The counter has 32 bits. That of 2020 had 8, which gives 256 draws: for 150 leaves out of 128 that
/// is a loop without end, and out of 256 nearly always (poet#188).
///
/// # Errors
/// The counter ran out, which [`Params`] makes all but impossible.
pub fn draw(root: &Node, params: Params) -> Result<BTreeSet<u64>, ProofError> {
    let need = params.openings();
    let mut drawn = BTreeSet::new();
    for counter in 0..=u32::MAX {
        let hash = Sha256::new()
            .chain_update(root)
            .chain_update(counter.to_be_bytes())
            .finalize();
        let first = hash
            .first_chunk()
            .map_or(0, |bytes| u64::from_be_bytes(*bytes));
        drawn.insert(first % params.leaves());
        if drawn.len() == need as usize {
            return Ok(drawn);
        }
    }
    Err(ProofError::Draw {
        need,
        leaves: params.leaves(),
    })
}

/// The part of a tree that some opened leaves and their siblings make: all nodes on their paths and
/// beside them, by layer and place.
struct Part {
    height: u32,
    opened: Vec<u64>,
    nodes: BTreeMap<(u32, u64), Node>,
}

impl Part {
    /// Folds opened leaves up to the root, asking for each sibling that they do not give themselves,
    /// layer by layer and in order. Making and checking a proof both go this way, so they agree on it.
    fn fold<E>(
        statement: &Node,
        params: Params,
        opened: BTreeMap<u64, Node>,
        mut sibling: impl FnMut(u32, u64) -> Result<Node, E>,
    ) -> Result<Self, E> {
        let height = params.log2_leaves();
        let leaves = opened.keys().copied().collect();
        let mut nodes = BTreeMap::new();
        let mut layer_nodes = opened;
        for layer in 0..height {
            let mut parents = BTreeMap::new();
            for (&index, node) in &layer_nodes {
                nodes.insert((layer, index), *node);
                let beside = index ^ 1;
                let other = match layer_nodes.get(&beside) {
                    // The pair was folded when its left node was met.
                    Some(_) if index % 2 == 1 => continue,
                    Some(known) => *known,
                    None => sibling(layer, beside)?,
                };
                nodes.insert((layer, beside), other);
                let (left, right) = if index % 2 == 0 {
                    (node, &other)
                } else {
                    (&other, node)
                };
                parents.insert(index / 2, hash::inner(statement, left, right));
            }
            layer_nodes = parents;
        }
        nodes.extend(
            layer_nodes
                .into_iter()
                .map(|(index, node)| ((height, index), node)),
        );
        Ok(Self {
            height,
            opened: leaves,
            nodes,
        })
    }

    fn root(&self) -> Option<Node> {
        self.nodes.get(&(self.height, 0)).copied()
    }

    /// Computes every opened label again from the nodes that were parked when it was made: the left
    /// siblings on its path.
    fn verify_labels(&self, statement: &Node, params: Params) -> Result<(), ProofError> {
        for &leaf in &self.opened {
            let mut parked = (0..self.height)
                .filter(|layer| (leaf >> layer) & 1 == 1)
                .filter_map(|layer| self.nodes.get(&(layer, (leaf >> layer) - 1)));
            let label = hash::label(statement, leaf, &mut parked, params.depth());
            if self.nodes.get(&(0, leaf)) != Some(&label) {
                return Err(ProofError::Label { leaf });
            }
        }
        Ok(())
    }
}

/// A `u32` count, at most `limit`, and that many nodes, whose bytes are there before the list is made.
pub(super) fn nodes(
    reader: &mut Reader<'_>,
    what: &'static str,
    limit: usize,
) -> Result<Vec<Node>, WireError> {
    let len = reader.u32(what)? as usize;
    if len > limit {
        return Err(WireError::TooLong { what, len, limit });
    }
    let (nodes, _) = reader.take(what, len * 32)?.as_chunks::<32>();
    Ok(nodes.to_vec())
}

#[cfg(test)]
#[path = "proof_tests.rs"]
mod tests;
