//! Looks at a target's drop counter while a flood is under way.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::stop::Stop;
use crate::observe::procfs::{DropsSeen, DropsWatch, udp_sockets};

/// The target's drop counter, looked at from two threads.
#[derive(Debug)]
pub(super) struct DropsCounter {
    watch: Mutex<Option<DropsWatch>>,
    pub(super) stop: Stop,
}

impl DropsCounter {
    /// A counter that has taken its first look, before anything is sent.
    pub(super) fn new(target: SocketAddr) -> Self {
        let counter = Self {
            watch: Mutex::new(Some(DropsWatch::new(target))),
            stop: Stop::default(),
        };
        counter.look();
        counter
    }

    /// One look. If the table cannot be read, nothing is known any more.
    pub(super) fn look(&self) {
        let table = udp_sockets();
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        match (table, watch.as_mut()) {
            (Ok(sockets), Some(watch)) => watch.look(&sockets),
            (Err(error), _) => {
                tracing::warn!(%error, "cannot read the table of UDP sockets");
                *watch = None;
            }
            (Ok(_), None) => {}
        }
    }

    /// Looks now and then until stopped, and never takes more than a tenth of a core for it: a long table of sockets costs
    /// tens of milliseconds each time, which the target would lack.
    pub(super) fn look_every(&self, period: Duration) {
        let mut pause = period;
        while !self.stop.wait_until(Instant::now() + pause) {
            let began = Instant::now();
            self.look();
            pause = period.max(began.elapsed() * 9);
        }
    }

    pub(super) fn seen(&self) -> Option<DropsSeen> {
        let watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        watch.as_ref().map(DropsWatch::seen)
    }
}
