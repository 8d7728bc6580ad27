//! The three hashes of the PoET: labels, inner nodes of the work's tree, nodes of the members' tree.
//!
//! Nested hashing of 32 bytes is one call of the bare compression function with constant padding,
//! which is what makes the work as fast as the crate can go; everything else is plain SHA-256. The
//! tests hold the short cuts against the ordinary interface. There is no domain separation between
//! the hashes, as there was none in 2020.

use sha2::digest::generic_array::{GenericArray, typenum::U64};
use sha2::{Digest as _, Sha256, compress256};

/// A hash: a label, a node of a tree, or a challenge.
pub type Node = [u8; 32];

/// What stands where a node has no sibling in an unbalanced tree.
pub const PADDING: Node = [0; 32];

/// Bytes that a label hashes before the siblings: the statement and the label's number.
const LABEL_PREFIX: u64 = 32 + 8;

type Block = GenericArray<u8, U64>;

/// The initial state of SHA-256 (FIPS 180-4, section 5.3.3).
const INITIAL: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// Label `index`: SHA-256 over the statement, the number as 8 big-endian bytes and the left siblings
/// on its path from the leaf upwards, hashed again until `depth` calls are made.
pub fn label(
    statement: &Node,
    index: u64,
    left_siblings: &mut dyn Iterator<Item = &Node>,
    depth: u32,
) -> Node {
    let mut hasher = Sha256::new();
    hasher.update(statement);
    hasher.update(index.to_be_bytes());
    for sibling in left_siblings {
        hasher.update(sibling);
    }
    nested(&hasher.finalize().into(), depth.saturating_sub(1))
}

/// SHA-256 of SHA-256 of ... of `start`, `times` deep.
pub fn nested(start: &Node, times: u32) -> Node {
    let mut block = Block::default();
    block[..32].copy_from_slice(start);
    pad(&mut block, 32, 32);
    for _ in 0..times {
        let mut state = INITIAL;
        compress256(&mut state, std::slice::from_ref(&block));
        put(&state, &mut block[..32]);
    }
    let mut end = [0; 32];
    end.copy_from_slice(&block[..32]);
    end
}

/// What [`nested`] is, through the ordinary interface: what the work's speed is measured against.
pub fn nested_plainly(start: &Node, times: u64) -> Node {
    let mut node = *start;
    for _ in 0..times {
        node = Sha256::digest(node).into();
    }
    node
}

/// An inner node of the work's tree: SHA-256 over the statement and both children.
pub fn inner(statement: &Node, left: &Node, right: &Node) -> Node {
    let mut blocks = [Block::default(); 2];
    blocks[0][..32].copy_from_slice(statement);
    blocks[0][32..].copy_from_slice(left);
    blocks[1][..32].copy_from_slice(right);
    pad(&mut blocks[1], 32, 96);
    let mut state = INITIAL;
    compress256(&mut state, &blocks);
    let mut node = [0; 32];
    put(&state, &mut node);
    node
}

/// A node of the members' tree: SHA-256 over both children, without domain separation as in 2020.
pub fn pair(left: &Node, right: &Node) -> Node {
    Sha256::new()
        .chain_update(left)
        .chain_update(right)
        .finalize()
        .into()
}

/// Compressions of a tree of 2^`log2_leaves` labels of this depth, tree included.
pub fn compressions(log2_leaves: u32, depth: u32) -> u64 {
    let leaves = 1_u64 << log2_leaves;
    // As many leaves have k left siblings as there are ways to choose k bits of n.
    let mut labels = 0;
    let mut ways = 1_u64;
    for siblings in 0..=u64::from(log2_leaves) {
        labels += ways * (LABEL_PREFIX + 32 * siblings + 9).div_ceil(64);
        ways = ways * (u64::from(log2_leaves) - siblings) / (siblings + 1);
    }
    labels + leaves * u64::from(depth - 1) + 2 * (leaves - 1)
}

/// Ends a message of `total` bytes, of which the last block holds `used`, as SHA-256 demands.
fn pad(block: &mut Block, used: usize, total: u64) {
    block[used] = 0x80;
    block[56..].copy_from_slice(&(total * 8).to_be_bytes());
}

fn put(state: &[u32; 8], bytes: &mut [u8]) {
    for (four, word) in bytes.chunks_exact_mut(4).zip(state) {
        four.copy_from_slice(&word.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sha(parts: &[&[u8]]) -> Node {
        Sha256::digest(parts.concat()).into()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn short_cuts_are_sha256(a: Node, b: Node, c: Node, index: u64, depth in 1_u32..5) {
            prop_assert_eq!(inner(&a, &b, &c), sha(&[&a, &b, &c]));
            prop_assert_eq!(pair(&a, &b), sha(&[&a, &b]));
            let mut slow = sha(&[&a, &index.to_be_bytes(), &b, &c]);
            for _ in 1..depth {
                slow = sha(&[&slow]);
            }
            prop_assert_eq!(label(&a, index, &mut [b, c].iter(), depth), slow);
            prop_assert_eq!(nested(&a, 0), a);
        }
    }

    #[test]
    fn compressions_are_those_of_every_single_hash() {
        for (log2_leaves, depth) in [(1, 1), (3, 7), (10, 100)] {
            let slow: u64 = (0..1_u64 << log2_leaves)
                .map(|leaf| {
                    let message = 40 + 32 * u64::from(leaf.count_ones());
                    let inner = 2 * u64::from(leaf.trailing_ones());
                    (message + 9).div_ceil(64) + u64::from(depth - 1) + inner
                })
                .sum();
            assert_eq!(compressions(log2_leaves, depth), slow);
        }
    }
}
