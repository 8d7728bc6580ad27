//! Sleeping until a deadline or until somebody asks to stop, whichever is first.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

/// A request to stop that a sleeping thread notices at once.
#[derive(Debug, Default)]
pub(super) struct Stop {
    requested: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    pub(super) fn request(&self) {
        *self
            .requested
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Sleeps until `deadline`; true if a stop was requested before.
    pub(super) fn wait_until(&self, deadline: Instant) -> bool {
        let mut requested = self
            .requested
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if *requested || left.is_zero() {
                return *requested;
            }
            let waited = self.changed.wait_timeout(requested, left);
            requested = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Sleeps until a stop is requested.
    pub(super) fn wait(&self) {
        let requested = self
            .requested
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(requested, |requested| !*requested));
    }
}
