//! What a reader of a log lost and has not told yet. Pure: the clock is given.

use std::time::{Duration, Instant};

use super::log_events::DEPTH_MAX;
use super::logs::LogLimits;

/// How long a loss waits that found the channel full.
const AGAIN: Duration = Duration::from_millis(20);

/// What was lost since the last time that it was told. The first loss is told at once, later ones together, once per
/// [`LogLimits::tell_loss_every`]: a node that prints too much for hours must not fill the history with that.
#[derive(Debug, Default)]
pub(super) struct Loss {
    bytes: u64,
    events: u64,
    too_deep: u64,
    unread: Option<String>,
    /// Not before this.
    not_before: Option<Instant>,
}

impl Loss {
    /// Bytes were thrown away unread.
    pub(super) fn bytes(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// An event found no room in the channel.
    pub(super) fn event(&mut self) {
        self.events += 1;
    }

    /// Events were nested too deep to be kept.
    pub(super) fn too_deep(&mut self, events: u64) {
        self.too_deep += events;
    }

    /// The stream cannot be read any more.
    pub(super) fn unread(&mut self, why: String) {
        self.unread = Some(why);
    }

    /// When it is to be told, if there is anything to tell; `now` for at once.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let open = self.bytes > 0 || self.events > 0 || self.too_deep > 0 || self.unread.is_some();
        open.then(|| self.not_before.map_or(now, |at| at.max(now)))
    }

    /// What was lost, in words.
    pub(super) fn why(&self, limits: &LogLimits) -> String {
        let mut parts = Vec::new();
        if self.bytes > 0 {
            parts.push(format!(
                "{} bytes were thrown away unread: more than {} a second",
                self.bytes, limits.bytes_per_s
            ));
        }
        if self.events > 0 {
            parts.push(format!(
                "{} events found no room: the harness did not take them in time",
                self.events
            ));
        }
        if self.too_deep > 0 {
            parts.push(format!(
                "{} events were left out: their objects and lists stand in one another more than {DEPTH_MAX} deep",
                self.too_deep
            ));
        }
        parts.extend(self.unread.clone());
        parts.join("; ")
    }

    /// It was told.
    pub(super) fn told(&mut self, now: Instant, limits: &LogLimits) {
        *self = Self {
            not_before: Some(now + limits.tell_loss_every),
            ..Self::default()
        };
    }

    /// It could not be told.
    pub(super) fn untold(&mut self, now: Instant) {
        self.not_before = Some(now + AGAIN);
    }
}
