//! What every role needs from the outside world: events, metrics, clock, HTTP, panics, the network
//! file. Nothing here knows the protocol; it is the part that would be the same in another network.

pub(crate) mod api;
pub(crate) mod base64;
pub(crate) mod client;
pub(crate) mod clock;
pub(crate) mod events;
pub(crate) mod identity;
pub(crate) mod limited;
pub(crate) mod metrics;
pub(crate) mod network;
pub(crate) mod panics;
pub(crate) mod process;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex. A panic ends the process, so that a poisoned one is never seen.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
