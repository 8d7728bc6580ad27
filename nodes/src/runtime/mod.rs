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

use sha2::{Digest as _, Sha256};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A number that depends on the seed, what it is for, and what it is about.
pub(crate) fn draw(seed: u64, purpose: &str, about: &[&[u8]]) -> u64 {
    let mut hash = Sha256::new().chain_update(seed.to_be_bytes());
    for part in [purpose.as_bytes()].iter().chain(about) {
        // Lengths keep ("ab", "c") apart from ("a", "bc").
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part);
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hash.finalize()[..8]);
    u64::from_be_bytes(first)
}

/// Locks a mutex. A panic ends the process, so that a poisoned one is never seen.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
