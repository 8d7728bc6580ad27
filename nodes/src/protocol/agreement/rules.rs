//! The numbers and switches of the rules that a test can break.
//!
//! Production code can only obtain [`Rules::REAL`]. The tests of this module build the four broken
//! variants that any search worth its time must convict; nothing else may read differently from
//! them, so a new field here needs a mutant that shows what it guards.

use super::voters::Voters;

/// Which rules a machine follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    /// How many voters fewer than q make a quorum.
    pub(super) quorum_short_by: u32,
    /// A voter that committed to a set stays with it until a later certificate.
    pub(super) lock: bool,
    /// The lock is found again in the log after a restart.
    pub(super) lock_survives_restart: bool,
    /// A voter that committed to none says no more in that round.
    pub(super) none_is_final: bool,
}

impl Rules {
    /// The rules that are safe.
    pub(super) const REAL: Self = Self {
        quorum_short_by: 0,
        lock: true,
        lock_survives_restart: true,
        none_is_final: true,
    };

    pub(super) fn quorum(self, voters: Voters) -> u32 {
        voters.quorum() - self.quorum_short_by
    }
}
