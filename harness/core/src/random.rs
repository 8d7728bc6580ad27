//! Randomness by what it is about, never by call order.
//!
//! Every draw names its purpose; the same seed and purpose give the same bytes for ever within a [`SCHEDULE_VERSION`].
//! Choices among nodes use rendezvous hashing (Thaler and Ravishankar, 1998), so that adding a node or a fault changes
//! no other choice. The generator is `ChaCha8`, which its crate documents as portable, unlike `StdRng`.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;
use sha2::{Digest as _, Sha256};

/// Golden schedules change only together with this number.
pub const SCHEDULE_VERSION: u32 = 1;

/// 32 bytes that depend on the seed and on what they are for, and on nothing else.
pub fn key(seed: u64, purpose: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"tweedledum schedule\0");
    hash.update(SCHEDULE_VERSION.to_be_bytes());
    hash.update(seed.to_be_bytes());
    for part in purpose {
        // Lengths keep ["ab", "c"] and ["a", "bc"] apart.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().into()
}

/// A generator of its own for one purpose.
pub fn stream(seed: u64, purpose: &[&str]) -> ChaCha8Rng {
    ChaCha8Rng::from_seed(key(seed, purpose))
}

/// `count` of `names` by rendezvous hash, in the order of `names`.
pub fn pick<'a>(seed: u64, purpose: &str, names: &[&'a str], count: usize) -> Vec<&'a str> {
    let mut scored: Vec<([u8; 32], usize)> = names
        .iter()
        .enumerate()
        .map(|(i, name)| (key(seed, &["pick", purpose, name]), i))
        .collect();
    scored.sort_unstable();
    let mut chosen: Vec<usize> = scored.into_iter().take(count).map(|(_, i)| i).collect();
    chosen.sort_unstable();
    chosen.into_iter().map(|i| names[i]).collect()
}

/// SHA-256 of a text in hex: how plans and schedules are named in histories.
pub fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_node_changes_no_choice_but_its_own() {
        let five = ["g-0", "g-1", "g-2", "g-3", "g-4"];
        let six = ["g-0", "g-1", "g-2", "g-3", "g-4", "g-5"];
        for seed in 0..200 {
            let before = pick(seed, "flood", &five, 2);
            let after = pick(seed, "flood", &six, 2);
            assert!(
                after
                    .iter()
                    .filter(|name| !before.contains(name))
                    .all(|name| *name == "g-5")
            );
        }
    }

    #[test]
    fn purposes_are_kept_apart() {
        assert_ne!(key(1, &["ab", "c"]), key(1, &["a", "bc"]));
        assert_ne!(key(1, &["a"]), key(2, &["a"]));
    }
}
