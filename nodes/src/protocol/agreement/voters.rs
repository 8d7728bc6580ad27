//! The fixed voters of a network: who they are, how many may fail, who leads a round.
//!
//! Genesis names the voters once and for ever, so there is nothing to update here. Sets of voters
//! are bit maps; a network of more than 32 voters needs a wider [`VoterSet`] and nothing else.

use super::message::Layer;

/// The most voters a network may have: a [`VoterSet`] is one machine word.
pub const VOTERS_MAX: usize = 32;

/// A voter's place in the list that genesis names, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Voter(pub u8);

/// How many voters there are, and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voters {
    count: u8,
}

/// A number of voters that no network can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a network of {count} voters is not possible; name 1 to {VOTERS_MAX} voters in genesis")]
pub struct VotersError {
    count: usize,
}

impl Voters {
    /// A network of `count` voters, 1 to [`VOTERS_MAX`].
    pub fn new(count: usize) -> Result<Self, VotersError> {
        match u8::try_from(count) {
            Ok(small) if (1..=VOTERS_MAX).contains(&count) => Ok(Self { count: small }),
            _ => Err(VotersError { count }),
        }
    }

    /// N, the number of voters.
    pub fn count(self) -> u32 {
        u32::from(self.count)
    }

    /// f = ⌈N/3⌉ − 1, the voters that may lie, be dead or have lost their log at the same time.
    pub fn faulty_max(self) -> u32 {
        self.count().div_ceil(3) - 1
    }

    /// q = N − f. Two quorums share more than f voters, so at least one that does not lie.
    pub fn quorum(self) -> u32 {
        self.count() - self.faulty_max()
    }

    /// The honest voters that any quorum must hold: q − f, at least f + 1.
    pub fn honest_in_quorum(self) -> u32 {
        self.quorum() - self.faulty_max()
    }

    /// Whether `voter` is one of the list.
    pub fn contains(self, voter: Voter) -> bool {
        voter.0 < self.count
    }

    /// The leader of a round: voter (layer + round) mod N.
    pub fn leader(self, layer: Layer, round: u32) -> Voter {
        let place = (u64::from(layer) + u64::from(round)) % u64::from(self.count);
        Voter(u8::try_from(place).unwrap_or(0))
    }

    /// All voters in order.
    pub fn iter(self) -> impl Iterator<Item = Voter> {
        (0..self.count).map(Voter)
    }
}

/// A set of voters as a bit map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VoterSet(u32);

impl VoterSet {
    /// Adds a voter; false if it was there.
    pub fn insert(&mut self, voter: Voter) -> bool {
        let bit = Self::bit(voter);
        let new = self.0 & bit == 0;
        self.0 |= bit;
        new
    }

    /// Whether the voter is in the set.
    pub fn contains(self, voter: Voter) -> bool {
        self.0 & Self::bit(voter) != 0
    }

    /// The same set without one voter.
    #[must_use]
    pub fn without(self, voter: Voter) -> Self {
        Self(self.0 & !Self::bit(voter))
    }

    /// How many voters are in the set.
    pub fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether nobody is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The bit map itself, voter 0 in the lowest bit, for encoders.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// The set that a bit map names.
    pub fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// A voter outside the word has no bit, so that a hostile index cannot overflow the shift.
    fn bit(voter: Voter) -> u32 {
        1_u32.checked_shl(u32::from(voter.0)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quorums_are_those_of_the_rules() {
        for (count, faulty, quorum) in [
            (1, 0, 1),
            (2, 0, 2),
            (3, 0, 3),
            (4, 1, 3),
            (7, 2, 5),
            (10, 3, 7),
            (12, 3, 9),
        ] {
            let voters = Voters::new(count).unwrap();
            assert_eq!(
                (voters.faulty_max(), voters.quorum()),
                (faulty, quorum),
                "N = {count}"
            );
        }
    }

    #[test]
    fn two_quorums_always_share_an_honest_voter() {
        for count in 1..=VOTERS_MAX {
            let voters = Voters::new(count).unwrap();
            assert!(
                2 * voters.quorum() > voters.count() + voters.faulty_max(),
                "N = {count}"
            );
            assert!(
                voters.honest_in_quorum() > voters.faulty_max(),
                "N = {count}"
            );
        }
    }

    #[test]
    fn impossible_networks_are_refused() {
        for count in [0, VOTERS_MAX + 1, 300] {
            assert!(Voters::new(count).is_err(), "N = {count}");
        }
    }

    #[test]
    fn every_voter_leads_in_turn_even_at_the_last_layer() {
        let voters = Voters::new(7).unwrap();
        assert_eq!(voters.leader(3, 2), Voter(5));
        let leaders: std::collections::BTreeSet<_> = (1..=7)
            .map(|round| voters.leader(u32::MAX, round))
            .collect();
        assert_eq!(leaders.len(), 7);
    }

    #[test]
    fn sets_ignore_indices_that_do_not_fit() {
        let mut set = VoterSet::default();
        set.insert(Voter(200));
        assert!(set.is_empty() && !set.contains(Voter(200)));
        assert!(set.insert(Voter(31)) && !set.insert(Voter(31)));
        assert_eq!((set.len(), set.without(Voter(31)).len()), (1, 0));
    }
}
