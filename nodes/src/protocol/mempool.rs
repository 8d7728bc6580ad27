//! The mempool: which transactions are known, bounded.
//!
//! It keeps ids, oldest out first. A transaction replayed after its id was forgotten counts again;
//! the gossip cache stands before that.

use super::transaction::TransactionId;
use std::collections::{BTreeSet, VecDeque};

/// Twelve miners at four layers a second fill this in under six minutes, with some 2 MB.
pub(crate) const CAP: usize = 16_384;

/// Known transactions.
#[derive(Debug)]
pub(crate) struct Mempool {
    cap: usize,
    known: BTreeSet<TransactionId>,
    oldest_first: VecDeque<TransactionId>,
}

impl Mempool {
    pub(crate) fn new(cap: usize) -> Self {
        Self {
            cap,
            known: BTreeSet::new(),
            oldest_first: VecDeque::new(),
        }
    }

    /// True if it was not known.
    pub(crate) fn insert(&mut self, id: TransactionId) -> bool {
        if !self.known.insert(id) {
            return false;
        }
        self.oldest_first.push_back(id);
        if self.known.len() > self.cap
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_each_once_and_forgets_the_oldest_only() {
        let id = |n: u8| [n; 20];
        let mut pool = Mempool::new(3);
        for n in 0..4 {
            assert!(pool.insert(id(n)));
            assert!(!pool.insert(id(n)));
        }
        assert_eq!(pool.known.len(), 3);
        assert!(!pool.insert(id(1)), "1 is among the last three");
        assert!(pool.insert(id(0)), "0 was the oldest");
    }
}
