//! The stand-in for a proof of space-time: a few labels, all of which every proof goes over.
//!
//! Labels are hashes of an identity and their number. A proof for a challenge is the SHA-256 over
//! challenge, nonce and all labels, with the nonce sought until the hash begins with enough zero bits.
//! The real thing made space expensive and the check cheap; this one keeps what the network can see of
//! it: a file that must be whole (one damaged byte and no proof of it holds for anybody) and a check
//! that needs nothing but the proof. The file itself is in `activation/labels.rs`.

use super::genesis::NodeId;
use crate::p2p::codec::{Reader, WireError, Writer};
use sha2::{Digest as _, Sha256};

/// Bytes of one label.
const LABEL_BYTES: usize = 32;
/// Labels of an identity.
const LABELS: u32 = 128;
/// Bytes of all labels: 4 KiB (real network: 2^20 bytes and more per commitment).
pub(crate) const POST_BYTES: usize = LABELS as usize * LABEL_BYTES;
/// Zero bits that a proof's hash begins with; the search takes 2^this hashes of all labels.
const ZERO_BITS: u32 = 5;
/// Tries after which the search is given up: for honest labels, once in e^(2^11) searches.
const TRIES_MAX: u64 = 1 << (ZERO_BITS + 11);

/// Keeps labels apart from other hashes; short, so that a label is one compression.
const LABEL_DOMAIN: &[u8] = b"tweedledum label 1";
const PROOF_DOMAIN: &[u8] = b"tweedledum post 1";

/// A proof that the labels are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Post {
    nonce: u64,
    hash: [u8; 32],
}

/// What an identity has to store.
pub(crate) fn labels(identity: &NodeId) -> Vec<u8> {
    (0..LABELS)
        .flat_map(|index| {
            let label: [u8; LABEL_BYTES] = Sha256::new()
                .chain_update(LABEL_DOMAIN)
                .chain_update(identity)
                .chain_update(index.to_be_bytes())
                .finalize()
                .into();
            label
        })
        .collect()
}

impl Post {
    /// What stored labels give for a challenge; none if no nonce does. Whether the labels are those of
    /// the identity shows in [`Post::verify`] only.
    pub(crate) fn prove(stored: &[u8], challenge: &[u8; 32]) -> Option<Self> {
        (0..TRIES_MAX)
            .map(|nonce| Self {
                nonce,
                hash: hash(challenge, nonce, stored),
            })
            .find(|post| zero_bits(&post.hash) >= ZERO_BITS)
    }

    /// Is it what the labels of `identity` give for `challenge`?
    pub(crate) fn verify(&self, identity: &NodeId, challenge: &[u8; 32]) -> bool {
        zero_bits(&self.hash) >= ZERO_BITS
            && self.hash == hash(challenge, self.nonce, &labels(identity))
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.u64(self.nonce).raw(&self.hash);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            nonce: reader.u64("the nonce of a PoST")?,
            hash: reader.array("the hash of a PoST")?,
        })
    }
}

fn hash(challenge: &[u8; 32], nonce: u64, labels: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(PROOF_DOMAIN)
        .chain_update(challenge)
        .chain_update(nonce.to_be_bytes())
        .chain_update(labels)
        .finalize()
        .into()
}

fn zero_bits(hash: &[u8; 32]) -> u32 {
    let first = hash
        .first_chunk()
        .map_or(0, |bytes| u64::from_be_bytes(*bytes));
    first.leading_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_proof_is_of_one_identity_and_one_challenge() {
        let stored = labels(&[1; 32]);
        assert_eq!(stored.len(), POST_BYTES);
        let post = Post::prove(&stored, &[9; 32]).unwrap();
        assert!(post.verify(&[1; 32], &[9; 32]));
        assert!(!post.verify(&[2; 32], &[9; 32]));
        assert!(!post.verify(&[1; 32], &[8; 32]));
        let another = Post {
            nonce: post.nonce + 1,
            ..post
        };
        assert!(!another.verify(&[1; 32], &[9; 32]));
    }

    #[test]
    fn a_hash_without_the_zero_bits_is_none_even_if_it_is_right() {
        let stored = labels(&[1; 32]);
        let easy = (0..99)
            .map(|nonce| Post {
                nonce,
                hash: hash(&[9; 32], nonce, &stored),
            })
            .find(|post| zero_bits(&post.hash) < ZERO_BITS)
            .unwrap();
        assert!(!easy.verify(&[1; 32], &[9; 32]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn damage_anywhere_fails_the_proof(byte in 0..POST_BYTES, bit in 0..8_u8, challenge: [u8; 32]) {
            let mut stored = labels(&[1; 32]);
            stored[byte] ^= 1 << bit;
            let post = Post::prove(&stored, &challenge);
            prop_assert!(post.is_none_or(|post| !post.verify(&[1; 32], &challenge)));
        }

        #[test]
        fn missing_bytes_fail_the_proof(len in 0..POST_BYTES, challenge: [u8; 32]) {
            let post = Post::prove(&labels(&[1; 32])[..len], &challenge);
            prop_assert!(post.is_none_or(|post| !post.verify(&[1; 32], &challenge)));
        }
    }
}
