//! A tick at each layer's boundary that measures how late it was noticed.
//!
//! The lateness of the controller's own loop is part of a run's evidence: in a layer in which the
//! host kept the harness waiting, nobody may be blamed for missing progress. The ticker sleeps on
//! a kernel timer with absolute deadlines, because the runtime's timers are a millisecond coarse.
//! It also notices when the wall clock, by which nodes tick, moves against the monotonic one.
//!
//! It measures only the thread that waits for it.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use super::duration_ns;
use crate::clock::{monotonic_ns, unix_ns};

/// One layer began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerTick {
    /// Its number; layer 0 begins at genesis.
    pub layer: u64,
    /// When it was due, monotonic nanoseconds.
    pub due_ns: u64,
    /// How much later the tick was taken, microseconds.
    pub late_us: u64,
    /// How far the wall clock has moved against the monotonic clock since the last tick,
    /// microseconds; beyond a few hundred it was set or slewed.
    pub wall_step_us: i64,
}

/// Ticks at each layer's boundary. To be used inside a Tokio runtime.
#[derive(Debug)]
pub struct LayerTicker {
    timer: AsyncFd<OwnedFd>,
    genesis_ns: u64,
    layer_ns: u64,
    next: u64,
    /// Wall clock minus monotonic clock at the last tick.
    wall_offset_ns: i64,
}

impl LayerTicker {
    /// A ticker for layers of length `layer` from `genesis_ns` (monotonic nanoseconds) on. Its
    /// first tick is layer 0, or the first that is still to come.
    pub fn new(genesis_ns: u64, layer: Duration) -> io::Result<Self> {
        let layer_ns = duration_ns(layer);
        if layer_ns == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a layer of no length",
            ));
        }
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self {
            timer: register(timer)?,
            genesis_ns,
            layer_ns,
            next: monotonic_ns().saturating_sub(genesis_ns).div_ceil(layer_ns),
            wall_offset_ns: wall_offset_ns(),
        })
    }

    /// When a layer begins, monotonic nanoseconds.
    pub fn due_ns(&self, layer: u64) -> u64 {
        self.genesis_ns
            .saturating_add(layer.saturating_mul(self.layer_ns))
    }

    /// Waits for the next layer. Each layer is told, however late. Cancel-safe.
    pub async fn tick(&mut self) -> io::Result<LayerTick> {
        let due_ns = self.due_ns(self.next);
        while monotonic_ns() < due_ns {
            self.arm(due_ns)?;
            self.timer.readable().await?.clear_ready();
        }
        let late_us = monotonic_ns().saturating_sub(due_ns) / 1000;
        let offset = wall_offset_ns();
        let wall_step_us = offset.saturating_sub(self.wall_offset_ns) / 1000;
        self.wall_offset_ns = offset;
        let layer = self.next;
        self.next += 1;
        Ok(LayerTick {
            layer,
            due_ns,
            late_us,
            wall_step_us,
        })
    }

    /// Setting the timer also takes back an expiry that was not waited for.
    fn arm(&self, due_ns: u64) -> io::Result<()> {
        let time = |ns: u64| -> Timespec {
            let seconds = i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX);
            Timespec {
                tv_sec: seconds,
                tv_nsec: (ns % 1_000_000_000).cast_signed(),
            }
        };
        let once = Itimerspec {
            it_interval: time(0),
            it_value: time(due_ns),
        };
        rustix::time::timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::ABSTIME, &once)?;
        Ok(())
    }
}

/// Registers a descriptor that nobody else holds.
#[expect(
    deprecated,
    reason = "sound for an `OwnedFd`, which stays open as long as it is registered; its successor \
              is an unsafe function for the sake of other types"
)]
fn register(timer: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(timer)
}

/// Wall clock minus monotonic clock. Read twice around, so that being interrupted in between does
/// not look like a step.
fn wall_offset_ns() -> i64 {
    let read = || {
        let before = monotonic_ns();
        let wall = unix_ns();
        let after = monotonic_ns();
        let middle = before + (after - before) / 2;
        (after - before, wall.wrapping_sub(middle).cast_signed())
    };
    // The best of three readings.
    let best = [read(), read(), read()]
        .into_iter()
        .min_by_key(|(width, _)| *width);
    best.map_or(0, |(_, offset)| offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn layers_tick_in_order_and_on_time() {
        let layer = Duration::from_millis(20);
        let genesis = monotonic_ns() + 30_000_000;
        let mut ticker = LayerTicker::new(genesis, layer).unwrap();
        for expected in 0..10 {
            let tick = ticker.tick().await.unwrap();
            assert_eq!(
                (tick.layer, tick.due_ns),
                (expected, genesis + expected * 20_000_000)
            );
            assert!(monotonic_ns() >= tick.due_ns, "never early");
            assert!(tick.late_us < 500_000, "{tick:?}");
            assert!(tick.wall_step_us.abs() < 10_000, "{tick:?}");
        }
    }

    #[tokio::test]
    async fn a_loop_that_was_busy_is_told_of_every_layer_and_how_late() {
        let genesis = monotonic_ns() + 1_000_000;
        let mut ticker = LayerTicker::new(genesis, Duration::from_millis(10)).unwrap();
        assert_eq!(ticker.tick().await.unwrap().layer, 0);
        // The loop is busy for five layers.
        while monotonic_ns() < genesis + 55_000_000 {
            std::hint::spin_loop();
        }
        let mut late = Vec::new();
        for expected in 1..=5 {
            let tick = ticker.tick().await.unwrap();
            assert_eq!(tick.layer, expected);
            late.push(tick.late_us);
        }
        assert!(late[0] >= 45_000 && late[4] >= 5_000, "{late:?}");
        assert!(late.is_sorted_by(|a, b| a > b), "{late:?}");
    }

    #[tokio::test]
    async fn a_cancelled_tick_is_not_lost() {
        let mut ticker =
            LayerTicker::new(monotonic_ns() + 30_000_000, Duration::from_millis(30)).unwrap();
        let cancelled = tokio::time::timeout(Duration::from_millis(2), ticker.tick()).await;
        assert!(cancelled.is_err());
        assert_eq!(ticker.tick().await.unwrap().layer, 0);
        assert_eq!(ticker.tick().await.unwrap().layer, 1);
    }

    #[tokio::test]
    async fn a_genesis_in_the_past_starts_with_the_next_layer() {
        let genesis = monotonic_ns() - 95_000_000;
        let mut ticker = LayerTicker::new(genesis, Duration::from_millis(10)).unwrap();
        let tick = ticker.tick().await.unwrap();
        assert!(tick.layer >= 10 && tick.late_us < 500_000, "{tick:?}");
        assert!(LayerTicker::new(0, Duration::ZERO).is_err());
    }
}
