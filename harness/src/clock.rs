//! The clocks of this machine, as whole nanoseconds. Core gets times passed in; everything else reads them here.

use std::time::Duration;

/// Nanoseconds of the machine's monotonic clock: the time base of a run's history.
pub fn monotonic_ns() -> u64 {
    timespec_ns(rustix::time::clock_gettime(
        rustix::time::ClockId::Monotonic,
    ))
}

/// Nanoseconds since the Unix epoch: the clock by which nodes tick their layers.
pub fn unix_ns() -> u64 {
    timespec_ns(rustix::time::clock_gettime(rustix::time::ClockId::Realtime))
}

/// The same moment for the standard library's and the runtime's timers; now, if it is past.
pub fn instant_at(t_ns: u64) -> std::time::Instant {
    std::time::Instant::now() + Duration::from_nanos(t_ns.saturating_sub(monotonic_ns()))
}

/// A clock reading as nanoseconds; a reading before zero counts as zero.
pub(crate) fn timespec_ns(time: rustix::time::Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}
