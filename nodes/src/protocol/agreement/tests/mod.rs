//! The tests of layer agreement: examples of each rule, and searches for schedules that break it.
//!
//! `rules.rs` states the rules one by one. `explore.rs` runs one layer under a scheduler that may
//! do anything, `exhaust.rs` walks all of what N = 4 can do in a few rounds, and `world.rs` runs
//! whole networks in protocol time for `campaign.rs` (random faults) and `stalls.rs` (the stalls
//! that plans assert). Everything is drawn from a seed, which every failure names. Set
//! `AGREEMENT_SCHEDULES` to a factor to run that many times as many schedules.

mod campaign;
mod exhaust;
mod explore;
mod node;
mod rules;
mod stalls;
mod world;

use std::collections::BTreeSet;

use super::message::{BlockId, Layer};

/// Draws from a seed: `SplitMix64`, whose sequence will never change under us.
#[derive(Clone, Debug)]
struct Dice(u64);

impl Dice {
    /// Dice for one purpose; schedules that differ in any part share nothing.
    fn new(purpose: &str, seed: u64) -> Self {
        let mut dice = Self(seed);
        for byte in purpose.bytes() {
            dice.0 = dice.next() ^ u64::from(byte);
        }
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is at least 1.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    /// A number in a range that includes both ends.
    fn within(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() {
            None
        } else {
            from.get(self.below(from.len()))
        }
    }

    fn some_of<T: Copy + Ord>(&mut self, from: &[T], chance: usize) -> BTreeSet<T> {
        from.iter()
            .filter(|_| self.percent(chance))
            .copied()
            .collect()
    }
}

/// The block that a producer makes in a layer.
fn block(layer: Layer, producer: u8) -> BlockId {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&layer.to_be_bytes());
    id[4] = producer;
    BlockId(id)
}

/// How many schedules to run where `usual` fit the time of an ordinary test run.
fn schedules(usual: u64) -> u64 {
    let factor = std::env::var("AGREEMENT_SCHEDULES")
        .ok()
        .and_then(|text| text.parse().ok());
    usual * factor.unwrap_or(1)
}
