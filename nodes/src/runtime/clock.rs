//! Wall clock and layers. Layers follow the wall clock, as in 2020, so that a skewed clock shows.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, in Unix nanoseconds; 0 if the clock is set before 1970.
pub(crate) fn unix_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Turns times into layers: layer `n` begins at genesis plus `n` layer durations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerClock {
    genesis_ns: u64,
    layer_ns: u64,
}

impl LayerClock {
    /// `layer_ns` is never 0; the network file is refused before.
    pub(crate) fn new(genesis_ns: u64, layer_ns: u64) -> Self {
        Self {
            genesis_ns,
            layer_ns: layer_ns.max(1),
        }
    }

    /// The layer that `now_ns` lies in; none before genesis.
    pub(crate) fn layer_at(&self, now_ns: u64) -> Option<u64> {
        now_ns
            .checked_sub(self.genesis_ns)
            .map(|since| since / self.layer_ns)
    }

    /// How long after `now_ns` the given layer begins; zero if it already has.
    pub(crate) fn until(&self, layer: u64, now_ns: u64) -> Duration {
        let begins = self
            .genesis_ns
            .saturating_add(layer.saturating_mul(self.layer_ns));
        Duration::from_nanos(begins.saturating_sub(now_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_begin_at_genesis_and_tick_by_their_length() {
        let clock = LayerClock::new(1_000, 250);
        let table = [
            (0, None),
            (999, None),
            (1_000, Some(0)),
            (1_249, Some(0)),
            (1_250, Some(1)),
        ];
        for (now, layer) in table {
            assert_eq!(clock.layer_at(now), layer, "at {now}");
        }
        assert_eq!(clock.until(0, 400), Duration::from_nanos(600));
        assert_eq!(clock.until(2, 1_400), Duration::from_nanos(100));
        assert_eq!(clock.until(2, 1_600), Duration::ZERO);
        assert_eq!(clock.until(u64::MAX, 0), Duration::from_nanos(u64::MAX));
    }
}
