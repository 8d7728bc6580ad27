//! How long the threads of a node have waited for a processor: who was given none cannot answer.
//!
//! Agent and node are in control groups of their own, so an agent that hardly does anything is punctual while the node
//! beside it starves. The kernel counts for each thread how long it was ready to run and did not (`schedstat`). Who is
//! stopped, or waits for something else, is not ready: a node that hangs does not starve.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use crate::clock::monotonic_ns;
use crate::substrate::process::family::waits;
use crate::substrate::process::identity::{own_pid, snapshot};

/// Looks kept. They are taken each half layer, and what is asked reaches back a layer.
const LOOKS: usize = 8;

/// A thread that waits for more than this part of the time has lost its turn to others. On hosts that keep up, nodes were
/// seen to wait for a hundredth to a fifth of it, and on one that does not for 0.55 to 0.98.
const PART: u64 = 2;

/// What was seen of a node.
#[derive(Debug, Default)]
pub(super) struct Hunger(Mutex<VecDeque<Look>>);

/// How long each thread has waited by then, in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Look {
    t_ns: u64,
    waited_ns: BTreeMap<i32, u64>,
}

impl Hunger {
    /// Looks now, for later.
    pub(super) fn look(&self) {
        let Some(look) = Look::now() else {
            return;
        };
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.len() == LOOKS {
            looks.pop_front();
        }
        looks.push_back(look);
    }

    /// Whether a thread of the node has mostly waited for a processor since then.
    pub(super) fn starved_since(&self, since_ns: u64) -> bool {
        let looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = looks.iter().rev().find(|look| look.t_ns <= since_ns);
        before.is_some_and(|before| Look::now().is_some_and(|now| now.starved(before)))
    }
}

impl Look {
    /// `None` where the kernel did not say: who is missing in a look would have waited for all its life since.
    fn now() -> Option<Self> {
        let own = own_pid();
        let others = snapshot().ok()?.into_keys();
        let waits = others.filter(|pid| *pid != own).flat_map(waits);
        Some(Self {
            t_ns: monotonic_ns(),
            waited_ns: waits.collect(),
        })
    }

    fn starved(&self, before: &Self) -> bool {
        let elapsed_ns = self.t_ns.saturating_sub(before.t_ns);
        self.waited_ns.iter().any(|(thread, waited_ns)| {
            let earlier_ns = before.waited_ns.get(thread).copied().unwrap_or(0);
            waited_ns.saturating_sub(earlier_ns) > elapsed_ns / PART
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(t_ns: u64, waited_ns: &[(i32, u64)]) -> Look {
        Look {
            t_ns,
            waited_ns: waited_ns.iter().copied().collect(),
        }
    }

    #[test]
    fn who_mostly_waited_for_a_processor_starved() {
        let before = look(1000, &[(7, 5000), (8, 100)]);
        for (now, starved) in [
            (look(2000, &[(7, 5500), (8, 600)]), false),
            (look(2000, &[(7, 5501), (8, 100)]), true),
            // Each waits for less than half of the time: they share what there is.
            (look(2000, &[(7, 5400), (8, 500)]), false),
            // A thread of its own that came in between, and one that is gone.
            (look(2000, &[(9, 501)]), true),
            (look(2000, &[(9, 500)]), false),
            // Another has its number.
            (look(2000, &[(7, 3)]), false),
            (look(2000, &[]), false),
        ] {
            assert_eq!(now.starved(&before), starved, "{now:?}");
        }
    }

    #[test]
    fn what_was_before_every_look_is_not_known() {
        let hunger = Hunger::default();
        assert!(!hunger.starved_since(u64::MAX));
        for _ in 0..=LOOKS {
            hunger.look();
        }
        assert!(!hunger.starved_since(0));
        assert_eq!(hunger.0.lock().unwrap().len(), LOOKS);
    }
}
