//! How late an agent itself is: it wakes every so often and sees how much later that was than it should have been.
//!
//! An agent in a container can starve while the controller is punctual, and so can the node beside it. What such an
//! agent did not see says nothing about its node, and the layer says nothing about any. It decides neither: it
//! measures, and tells whoever asks whether it was late since some moment.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::{instant_at, monotonic_ns};
use crate::observe::duration_ns;

/// Wake-ups in a layer: enough to notice a stall of a fifth of one, and few enough for twenty agents on two processors.
const PER_LAYER: u32 = 10;
const STEP_MIN: Duration = Duration::from_millis(5);
const STEP_MAX: Duration = Duration::from_millis(100);

/// An agent's lateness.
#[expect(
    clippy::struct_field_names,
    reason = "the unit belongs to the name of every number"
)]
#[derive(Debug)]
pub(crate) struct Drift {
    step_ns: u64,
    limit_ns: u64,
    /// When it should wake next.
    due_ns: AtomicU64,
    /// The worst since somebody asked.
    worst_ns: AtomicU64,
    /// When it last woke later than the limit; 0 if it never did.
    over_ns: AtomicU64,
}

impl Drift {
    /// A measurement that begins now; `limit` is what makes an agent blind.
    pub(crate) fn new(layer: Duration, limit: Duration) -> Self {
        Self::at(monotonic_ns(), layer, limit)
    }

    fn at(now_ns: u64, layer: Duration, limit: Duration) -> Self {
        let step = (layer / PER_LAYER).clamp(STEP_MIN, STEP_MAX);
        let step_ns = duration_ns(step);
        Self {
            step_ns,
            limit_ns: duration_ns(limit),
            due_ns: AtomicU64::new(now_ns.saturating_add(step_ns)),
            worst_ns: AtomicU64::new(0),
            over_ns: AtomicU64::new(0),
        }
    }

    /// Measures until dropped.
    pub(crate) async fn measure(&self) {
        loop {
            let due_ns = self.due_ns.load(Ordering::Relaxed);
            tokio::time::sleep_until(instant_at(due_ns).into()).await;
            self.woke(monotonic_ns());
        }
    }

    /// How late it was at worst since this was asked last, the wake-up that is due now included.
    pub(crate) fn take(&self) -> Duration {
        self.take_at(monotonic_ns())
    }

    /// Whether it was later than the limit at any time since then, the wake-up that is due now included.
    pub(crate) fn blind_since(&self, since_ns: u64) -> bool {
        self.blind_at(monotonic_ns(), since_ns)
    }

    fn woke(&self, now_ns: u64) {
        let late_ns = self.overdue(now_ns);
        self.worst_ns.fetch_max(late_ns, Ordering::Relaxed);
        if late_ns > self.limit_ns {
            self.over_ns.store(now_ns, Ordering::Relaxed);
        }
        let next_ns = now_ns.saturating_add(self.step_ns);
        self.due_ns.store(next_ns, Ordering::Relaxed);
    }

    fn take_at(&self, now_ns: u64) -> Duration {
        // What is overdue is told here, and no more when it wakes.
        if self.overdue(now_ns) > 0 {
            self.woke(now_ns);
        }
        Duration::from_nanos(self.worst_ns.swap(0, Ordering::Relaxed))
    }

    fn blind_at(&self, now_ns: u64, since_ns: u64) -> bool {
        let over_ns = self.over_ns.load(Ordering::Relaxed);
        self.overdue(now_ns) > self.limit_ns || (over_ns > 0 && over_ns >= since_ns)
    }

    fn overdue(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.due_ns.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const LAYER: Duration = Duration::from_millis(250);
    const LIMIT: Duration = Duration::from_millis(50);

    #[test]
    fn an_agent_that_wakes_in_time_is_neither_late_nor_blind() {
        let drift = Drift::at(0, LAYER, LIMIT);
        for now in 1..40 {
            drift.woke(now * 25 * MS);
            assert_eq!(drift.take_at(now * 25 * MS), Duration::ZERO);
            assert!(!drift.blind_at(now * 25 * MS, 0));
        }
    }

    #[test]
    fn a_stall_is_told_once_and_makes_blind_for_what_it_touched() {
        let drift = Drift::at(0, LAYER, LIMIT);
        drift.woke(25 * MS);
        // Frozen from here to 200; what is done first on waking is not the measurement.
        assert!(drift.blind_at(200 * MS, 190 * MS), "before it was measured");
        drift.woke(200 * MS);
        let late = Duration::from_millis(150);
        assert_eq!(drift.take_at(200 * MS), late);
        assert_eq!(drift.take_at(210 * MS), Duration::ZERO, "it was told");
        assert!(drift.blind_at(210 * MS, 100 * MS), "a probe begun in it");
        assert!(
            !drift.blind_at(240 * MS, 201 * MS),
            "a probe begun after it"
        );
    }

    #[test]
    fn a_stall_that_is_told_before_it_was_measured_is_told_once() {
        let drift = Drift::at(0, LAYER, LIMIT);
        drift.woke(25 * MS);
        assert_eq!(drift.take_at(200 * MS), Duration::from_millis(150));
        drift.woke(201 * MS);
        assert_eq!(drift.take_at(210 * MS), Duration::ZERO);
        assert!(drift.blind_at(210 * MS, 100 * MS), "a probe begun in it");
        assert!(
            !drift.blind_at(210 * MS, 202 * MS),
            "a probe begun after it"
        );
    }

    #[test]
    fn a_little_lateness_is_told_and_does_not_make_blind() {
        let drift = Drift::at(0, LAYER, LIMIT);
        drift.woke(55 * MS);
        assert_eq!(drift.take_at(55 * MS), Duration::from_millis(30));
        assert!(!drift.blind_at(55 * MS, 0));
    }

    #[tokio::test]
    async fn a_busy_agent_sees_that_it_was_late() {
        let drift = Drift::new(Duration::from_millis(50), Duration::from_millis(10));
        let busy = async {
            let until_ns = monotonic_ns() + 100 * MS;
            while monotonic_ns() < until_ns {
                std::hint::spin_loop();
            }
        };
        tokio::select! {
            biased;
            () = drift.measure() => {}
            () = busy => {}
        }
        assert!(drift.blind_since(0));
        assert!(drift.take() >= Duration::from_millis(80));
    }
}
