//! One voter's own part in one layer: its round, what it has said there, its lock.
//!
//! This is Tendermint (Buchman, Kwon, Milosevic: "The latest gossip on BFT consensus",
//! arXiv 1807.04938) with one instance per layer and a first round without a leader. The three
//! rules of a round are the three functions `vote`, `commit` and `leave`; the fourth, deciding, is
//! a count (`ballot.rs`). Everything here that a restart must not forget is rebuilt by
//! [`Stand::remember`] from the voter's own log.

use super::ballot::{Ballot, Key, Value};
use super::message::{BlockSet, Body, Layer, Round, Step};
use super::rules::Rules;
use super::voters::{Voter, Voters};

/// What a stand is told about its surroundings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings {
    pub(super) voters: Voters,
    pub(super) rules: Rules,
    pub(super) me: Voter,
    pub(super) layer: Layer,
    /// Ticks seen so far.
    pub(super) ticks: u64,
    /// The most blocks that a vote may name.
    pub(super) blocks_max: usize,
    /// Whether this voter holds an ATX for the current epoch.
    pub(super) may_speak: bool,
}

/// One voter's own part in one layer.
#[derive(Clone, Debug)]
pub(super) struct Stand {
    round: Round,
    /// The tick at which `round` was entered.
    entered: u64,
    /// The highest round voted in; 0 before the first vote.
    voted: Round,
    /// The highest round committed in; 0 before the first commit.
    committed: Round,
    /// The own latest commit to a set.
    lock: Option<(Round, usize)>,
}

/// Two records of one log that no honest voter can have made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Contradiction;

impl Stand {
    /// The start of round 1.
    pub(super) fn new(ticks: u64) -> Self {
        Self {
            round: 1,
            entered: ticks,
            voted: 0,
            committed: 0,
            lock: None,
        }
    }

    /// Learns from the own log that a message was sent. Records come in the order of the log.
    pub(super) fn remember(
        &mut self,
        round: Round,
        body: &Body,
        ballot: &mut Ballot,
        rules: Rules,
    ) -> Result<(), Contradiction> {
        let said = match body.step() {
            Step::Vote => &mut self.voted,
            Step::Commit => &mut self.committed,
        };
        if round <= *said && rules == Rules::REAL {
            return Err(Contradiction);
        }
        *said = round.max(*said);
        self.round = self.round.max(round);
        if let Body::Commit(Some(set)) = body
            && rules.lock_survives_restart
        {
            self.lock = Some((round, ballot.place(set)));
        }
        Ok(())
    }

    /// The round that the voter is in.
    pub(super) fn round(&self) -> Round {
        self.round
    }

    /// The next thing to say, if there is one. To be called again until there is none.
    pub(super) fn next(
        &mut self,
        ballot: &mut Ballot,
        around: &Surroundings,
    ) -> Option<(Round, Body)> {
        loop {
            if around.may_speak {
                let said = self
                    .vote(ballot, around)
                    .or_else(|| self.commit(ballot, around));
                if said.is_some() {
                    return said;
                }
            }
            if !self.leave(ballot, around) {
                return None;
            }
        }
    }

    /// Rule 1: one vote per round, for the leader's set where the lock allows it.
    fn vote(&mut self, ballot: &Ballot, around: &Surroundings) -> Option<(Round, Body)> {
        let round = self.round;
        if self.voted == round || self.committed == round {
            return None;
        }
        let leader = around.voters.leader(around.layer, round);
        let set = if round == 1 || leader == around.me {
            self.choice(ballot, around)
        } else {
            let allowed = ballot
                .votes_of(leader, round)
                .find(|set| self.lock_allows(*set, ballot, around));
            match allowed {
                Some(set) => Some(ballot.set(set).clone()),
                None if self.waited(around) => self.choice(ballot, around),
                None => None,
            }
        }?;
        self.voted = round;
        Some((round, Body::Vote(set)))
    }

    /// Rule 2: one commit per round, to a set with a certificate, or to none when a quorum has
    /// voted and had the time to agree.
    fn commit(&mut self, ballot: &mut Ballot, around: &Surroundings) -> Option<(Round, Body)> {
        let round = self.round;
        if !around.rules.none_is_final
            && let Some((at, set)) = self.second_thought(ballot, around)
        {
            self.lock = Some((at, set));
            return Some((at, Body::Commit(Some(ballot.set(set).clone()))));
        }
        if self.committed == round {
            return None;
        }
        let said = if let Some(set) = ballot.certificate_of(round) {
            self.lock = Some((round, set));
            Some(ballot.set(set).clone())
        } else if ballot.quorum_held(round, Step::Vote, around.ticks, round) {
            None
        } else {
            return None;
        };
        self.committed = round;
        Some((round, Body::Commit(said)))
    }

    /// Rule 3: a round that a quorum has ended is left. True if it was.
    fn leave(&mut self, ballot: &Ballot, around: &Surroundings) -> bool {
        match ballot.round_to_leave(self.round, around.ticks) {
            Some(ended) => {
                self.round = ended + 1;
                self.entered = around.ticks;
                true
            }
            None => false,
        }
    }

    /// The set of the highest round among lock and certificates; without any, all blocks here.
    /// After round 1 that needs the votes of round 1 from a quorum: who has them holds every block
    /// that a quorum held, and knows of any certificate that they make. They can always be had,
    /// because whoever committed in round 1 has them in its log.
    fn choice(&self, ballot: &Ballot, around: &Surroundings) -> Option<BlockSet> {
        let lock = self.lock.filter(|_| around.rules.lock);
        let certificate = ballot.certificate_highest();
        let highest = match (lock, certificate) {
            (Some(lock), Some(certificate)) if certificate.0 > lock.0 => Some(certificate),
            (lock, certificate) => lock.or(certificate),
        };
        match highest {
            Some((_, set)) => Some(ballot.set(set).clone()),
            None if self.round == 1 || ballot.quorum_held(1, Step::Vote, around.ticks, 0) => {
                Some(ballot.all_blocks(around.blocks_max))
            }
            None => None,
        }
    }

    /// Whether the round's time-out, as many ticks as its number, has passed.
    fn waited(&self, around: &Surroundings) -> bool {
        around.ticks - self.entered >= u64::from(self.round)
    }

    fn lock_allows(&self, set: usize, ballot: &Ballot, around: &Surroundings) -> bool {
        match self.lock.filter(|_| around.rules.lock) {
            None => true,
            Some((_, locked)) if locked == set => true,
            Some((round, _)) => ballot.certified_after(round, set),
        }
    }

    /// What the broken rule "a second commit after none" would say: a set that got its certificate
    /// in a round, this or an earlier one, in which this voter committed to none.
    fn second_thought(&self, ballot: &Ballot, around: &Surroundings) -> Option<(Round, usize)> {
        let commit = |round: Round, value: Value| {
            ballot.has(Key {
                round,
                step: Step::Commit,
                voter: around.me,
                value,
            })
        };
        (1..=self.round).find_map(|round| {
            let set = ballot.certificate_of(round)?;
            let said_none = commit(round, None) && !commit(round, Some(set));
            (said_none && self.lock != Some((round, set))).then_some((round, set))
        })
    }
}
