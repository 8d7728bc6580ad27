//! When rounds open, close and are due, and how fast their work goes, as pure functions of time.
//!
//! Round `e` is the one whose proof activations of epoch `e` cite. It opens when round `e - 1` closes,
//! closes a quarter into epoch `e - 1`, works for the other three quarters, and its proof is due when
//! epoch `e` begins. Round 0 closes before genesis. Times are Unix nanoseconds; nothing here reads a
//! clock.

use super::RoundId;
use crate::runtime::network::Network;
use std::time::Duration;

/// The part of an epoch in which its round still takes members, as a divisor.
const OPEN_PART: u64 = 4;

/// A network's epochs, as its PoETs see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Schedule {
    genesis: u64,
    layer: u64,
    epoch: u64,
}

impl Schedule {
    pub(crate) fn new(network: &Network) -> Self {
        Self::from_ns(
            network.genesis_unix_ns,
            network.layer_ns,
            network.layers_per_epoch,
        )
    }

    fn from_ns(genesis_ns: u64, layer_ns: u64, layers_per_epoch: u32) -> Self {
        Self {
            genesis: genesis_ns,
            layer: layer_ns,
            epoch: layer_ns.saturating_mul(layers_per_epoch.into()).max(1),
        }
    }

    pub(crate) fn layer(&self) -> Duration {
        Duration::from_nanos(self.layer)
    }

    pub(crate) fn epoch(&self) -> Duration {
        Duration::from_nanos(self.epoch)
    }

    /// When a round takes no more members and its work begins.
    pub(crate) fn closes_ns(&self, round: RoundId) -> u64 {
        let open = self.epoch / OPEN_PART;
        self.due_ns(round)
            .saturating_sub(self.epoch.saturating_sub(open))
    }

    /// When its proof is due: its epoch begins.
    pub(crate) fn due_ns(&self, round: RoundId) -> u64 {
        let epochs = self.epoch.saturating_mul(round.into());
        self.genesis.saturating_add(epochs)
    }

    /// The lowest round that still takes members.
    pub(crate) fn open_at(&self, now_ns: u64) -> RoundId {
        let first = self.closes_ns(0);
        match now_ns.checked_sub(first) {
            None => 0,
            Some(since) => RoundId::try_from(since / self.epoch + 1).unwrap_or(RoundId::MAX),
        }
    }
}

/// How work is spread over its time: evenly, in batches, so that it takes no more of the processor
/// than it needs and leaves the thread in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    begin_ns: u64,
    end_ns: u64,
    first: u64,
    leaves: u64,
    batch: u64,
}

/// A batch takes at most this long, for the thread serves the API too.
const BATCH_TIME: Duration = Duration::from_millis(2);
/// Work is done in at least this many batches, however little it is.
const BATCHES: u64 = 64;

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Compute so many labels.
    Labels(u64),
    /// Nothing before this much time has gone by.
    Wait(Duration),
}

impl Pace {
    /// Labels `first` to `leaves`, from `begin_ns` to `end_ns`, on a host that computes `rate` labels
    /// per second. With no time left, all of it is due at once.
    pub(crate) fn new(begin_ns: u64, end_ns: u64, first: u64, leaves: u64, rate: f64) -> Self {
        Self {
            begin_ns,
            end_ns: end_ns.max(begin_ns),
            first: first.min(leaves),
            leaves,
            batch: largest_batch(rate).min(leaves / BATCHES).max(1),
        }
    }

    /// With `next` as the next label, at `now_ns`.
    pub(crate) fn step(&self, next: u64, now_ns: u64) -> Step {
        let end = next.saturating_add(self.batch).min(self.leaves);
        match self.due_ns(end).checked_sub(now_ns) {
            None | Some(0) => Step::Labels(end.saturating_sub(next)),
            Some(left) => Step::Wait(Duration::from_nanos(left)),
        }
    }

    /// When all labels before `label` are to be done.
    fn due_ns(&self, label: u64) -> u64 {
        let (all, done) = (self.leaves - self.first, label.saturating_sub(self.first));
        let time =
            u128::from(self.end_ns - self.begin_ns) * u128::from(done) / u128::from(all.max(1));
        let time = u64::try_from(time).unwrap_or(u64::MAX);
        self.begin_ns.saturating_add(time)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float cast saturates, and a batch may be any size"
)]
fn largest_batch(rate: f64) -> u64 {
    (rate * BATCH_TIME.as_secs_f64()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GENESIS: u64 = 1_000_000;

    fn schedule() -> Schedule {
        Schedule::from_ns(GENESIS, 250, 4)
    }

    #[test]
    fn rounds_follow_the_table_of_the_protocol() {
        // In layers after genesis: the round, when it opens, closes, is due.
        for (round, opens, closes, due) in [
            (0, None, -3, 0),
            (1, Some(-3), 1, 4),
            (2, Some(1), 5, 8),
            (5, Some(13), 17, 20),
        ] {
            let at = |layers: i64| GENESIS.checked_add_signed(layers * 250).unwrap();
            let schedule = schedule();
            assert_eq!(schedule.closes_ns(round), at(closes), "{round}");
            assert_eq!(schedule.due_ns(round), at(due), "{round}");
            if let Some(opens) = opens {
                assert_eq!(schedule.open_at(at(opens) - 1), round - 1);
                assert_eq!(schedule.open_at(at(opens)), round);
            }
            assert_eq!(schedule.open_at(at(closes) - 1), round);
            assert_eq!(schedule.open_at(at(closes)), round + 1);
        }
        assert_eq!(schedule().open_at(0), 0);
        assert_eq!(schedule().epoch(), Duration::from_micros(1));
    }

    #[test]
    fn an_early_genesis_and_a_late_round_are_no_overflow() {
        let early = Schedule::from_ns(5, 250, 4);
        assert_eq!(early.closes_ns(0), 0);
        let late = Schedule::from_ns(u64::MAX - 5, u64::MAX, u32::MAX);
        assert_eq!(late.due_ns(RoundId::MAX), u64::MAX);
        assert_eq!(late.open_at(u64::MAX), late.open_at(u64::MAX));
    }

    #[test]
    fn a_batch_is_a_part_of_the_work_and_of_the_time_that_others_can_wait() {
        for (leaves, rate, batch) in [
            (8192, 180_000.0, 128),
            (8192, 20_000.0, 40),
            (1 << 21, 180_000.0, 360),
            (8, 180_000.0, 1),
            (8192, 0.0, 1),
        ] {
            let pace = Pace::new(0, 1_000, 0, leaves, rate);
            assert_eq!(pace.step(0, 1_000), Step::Labels(batch), "{leaves} {rate}");
        }
    }

    #[test]
    fn overdue_work_never_waits() {
        let pace = Pace::new(900, 100, 3, 512, 1e9);
        assert_eq!(pace.step(3, 900), Step::Labels(8));
        assert_eq!(pace.step(508, 900), Step::Labels(4));
        assert_eq!(pace.step(512, 900), Step::Labels(0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn work_ends_on_time_and_not_before(
            length in 1_u64..10_000_000,
            log2 in 1_u32..14,
            first in 0_u64..8_192,
            rate in 0.0_f64..1e7,
        ) {
            let leaves = 1_u64 << log2;
            let first = first.min(leaves);
            let pace = Pace::new(1_000, 1_000 + length, first, leaves, rate);
            let (mut now, mut next) = (1_000, first);
            while next < leaves {
                match pace.step(next, now) {
                    Step::Labels(labels) => {
                        prop_assert!(labels > 0);
                        next += labels;
                        // Never ahead of what an even pace has done by now.
                        let even = u128::from(leaves - first) * u128::from(now - 1_000);
                        prop_assert!(u128::from(next - first) * u128::from(length) <= even + u128::from(leaves));
                    }
                    Step::Wait(time) => {
                        prop_assert!(!time.is_zero());
                        now += u64::try_from(time.as_nanos()).unwrap();
                    }
                }
            }
            prop_assert!(next == leaves && (first == leaves || now == 1_000 + length));
        }
    }
}
