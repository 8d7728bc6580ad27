//! Opening a round, and the round while it takes members.
//!
//! A round is opened in the middle of the PoET's work, when the one before it closes: directory,
//! database, state, and the PoET's own count of rounds. 2020's PoET panicked when any of these did not
//! come about, so a disk that was filled by rounds nobody took killed it here, one round after the
//! write that failed ([`new_round`]). To have a release do something else, give it a behaviour in
//! `releases.rs` and look at it there. This module does not know when rounds open or close.

use super::challenges::Challenges;
use super::hash::Node;
use super::members::Members;
use super::store::{RoundDir, StateWrites, StoreError, save_service};
use super::{RoundId, RoundState, ServiceState, told};
use crate::runtime::{clock, lock};
use std::path::Path;
use std::sync::Mutex;

/// A round that takes members.
#[derive(Debug)]
pub(crate) struct OpenRound {
    pub(crate) round: RoundId,
    pub(crate) dir: RoundDir,
    pub(crate) opened_ms: u64,
    /// None once the round is closed.
    registrations: Mutex<Option<Registrations>>,
}

#[derive(Debug)]
struct Registrations {
    challenges: Challenges,
    count: usize,
}

/// What became of a registration that met no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Registered {
    /// It is on disk.
    Durably,
    /// The round has closed meanwhile; there is another.
    Closed,
    /// The round has all the members it can take.
    Full,
}

/// Opens a round, or panics.
///
/// # Panics
/// Any refusal of the disk. History: "failed to open round" ended the process of 2020's PoET, and so
/// the incident's storage that filled up with unsent rounds became a dead PoET.
#[expect(clippy::panic, reason = "history: this is where the PoET of 2020 died")]
pub(crate) fn new_round(
    datadir: &Path,
    round: RoundId,
    secret: [u8; 32],
    writes: StateWrites,
) -> OpenRound {
    match open(datadir, round, secret, writes) {
        Ok(open) => open,
        Err(error) => panic!("round {round} cannot be opened: {}", told(&error)),
    }
}

/// All that opening takes. A directory that is there already, of a round that was open before a
/// restart, is taken up with the members it has.
fn open(
    datadir: &Path,
    round: RoundId,
    secret: [u8; 32],
    writes: StateWrites,
) -> Result<OpenRound, StoreError> {
    let dir = RoundDir::new(datadir, round, writes);
    dir.create()?;
    let mut challenges = dir.challenges()?;
    let count = challenges.members()?.len();
    let opened_ms = clock::unix_ns() / 1_000_000;
    dir.save(&RoundState {
        opened_ms,
        execution: None,
    })?;
    let next_round = round.saturating_add(1);
    save_service(datadir, &ServiceState { next_round, secret }, writes)?;
    Ok(OpenRound {
        round,
        dir,
        opened_ms,
        registrations: Mutex::new(Some(Registrations { challenges, count })),
    })
}

impl OpenRound {
    /// Registers a challenge. It waits for the disk, so call it where waiting is allowed.
    ///
    /// # Errors
    /// No room on the disk, or any other refusal; the challenge may be sent again.
    pub(crate) fn register(&self, challenge: &Node) -> Result<Registered, StoreError> {
        let mut registrations = lock(&self.registrations);
        let Some(open) = registrations.as_mut() else {
            return Ok(Registered::Closed);
        };
        if open.count >= Members::MAX {
            return Ok(Registered::Full);
        }
        open.count += usize::from(open.challenges.insert(challenge)?);
        Ok(Registered::Durably)
    }

    /// Takes no more members, and says who they are.
    ///
    /// # Errors
    /// A database that cannot be read.
    pub(crate) fn close(&self) -> Result<Members, StoreError> {
        match lock(&self.registrations).take() {
            Some(mut open) => Ok(open.challenges.members()?),
            None => Ok(Members::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poet::store::load_service;

    #[test]
    fn a_round_takes_members_until_it_is_closed_and_again_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let opened = || new_round(dir.path(), 3, [7; 32], StateWrites::InPlace);
        let open = opened();
        for (challenge, expected) in [(2, Registered::Durably), (1, Registered::Durably)] {
            assert_eq!(open.register(&[challenge; 32]).unwrap(), expected);
        }
        drop(open);
        let open = opened();
        assert_eq!(open.register(&[1; 32]).unwrap(), Registered::Durably);
        assert_eq!(open.close().unwrap().as_slice(), [[1; 32], [2; 32]]);
        assert_eq!(open.register(&[3; 32]).unwrap(), Registered::Closed);
        let state = load_service(dir.path()).unwrap().unwrap();
        assert_eq!((state.next_round, state.secret), (4, [7; 32]));
        let state = open.dir.load().unwrap().unwrap();
        assert_eq!(state.execution, None);
    }

    #[test]
    #[should_panic(expected = "Not a directory")]
    fn a_disk_that_refuses_is_the_end_and_the_system_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs_err::write(&file, b"").unwrap();
        new_round(&file, 3, [7; 32], StateWrites::InPlace);
    }
}
