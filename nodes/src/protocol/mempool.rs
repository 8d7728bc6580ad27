//! The mempool: which transactions are known, and which of them wait for a block. Both bounded.
//!
//! It remembers ids, oldest out first: a transaction replayed after its id was forgotten counts again;
//! the gossip cache stands before that. Whole transactions are kept until the state has used their
//! nonce or a later one, again oldest out first. Whoever makes a block takes those that are in no
//! block yet that could still become part of a layer.

use super::genesis::NodeId;
use super::transaction::{Nonce, Transaction, TransactionId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Twelve miners at four layers a second fill this in under six minutes, with some 2 MB.
pub(crate) const CAP: usize = 16_384;
/// Whole transactions, of which the same miners make 48 a second and a layer takes a second: a stall
/// of some 40 s, with some 1 MB.
const WHOLE_CAP: usize = 2_048;

/// Known transactions.
#[derive(Debug)]
pub(crate) struct Mempool {
    cap: usize,
    known: BTreeSet<TransactionId>,
    oldest_first: VecDeque<TransactionId>,
    whole_cap: usize,
    whole: BTreeMap<TransactionId, Whole>,
    whole_oldest_first: BTreeMap<u64, TransactionId>,
    next: u64,
}

#[derive(Debug)]
struct Whole {
    transaction: Transaction,
    number: u64,
    /// The latest layer that has a block with it.
    in_block_of: Option<u32>,
}

impl Mempool {
    pub(crate) fn new() -> Self {
        Self::with_caps(CAP, WHOLE_CAP)
    }

    fn with_caps(cap: usize, whole_cap: usize) -> Self {
        Self {
            cap,
            known: BTreeSet::new(),
            oldest_first: VecDeque::new(),
            whole_cap,
            whole: BTreeMap::new(),
            whole_oldest_first: BTreeMap::new(),
            next: 0,
        }
    }

    /// Takes a valid transaction in. True if it was not known.
    pub(crate) fn insert(&mut self, transaction: Transaction) -> bool {
        let id = transaction.id();
        if !self.known.insert(id) {
            return false;
        }
        self.oldest_first.push_back(id);
        if self.known.len() > self.cap
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.keep(id, transaction);
        true
    }

    /// Whether every byte of it was found valid before.
    pub(crate) fn holds(&self, transaction: &Transaction) -> bool {
        self.whole
            .get(&transaction.id())
            .is_some_and(|whole| whole.transaction == *transaction)
    }

    /// A block of this layer brings the transaction along.
    pub(crate) fn is_in_block(&mut self, id: &TransactionId, layer: u32) {
        if let Some(whole) = self.whole.get_mut(id) {
            whole.in_block_of = whole.in_block_of.max(Some(layer));
        }
    }

    /// Transactions for a block, oldest first, of those that `fits` and that no block of layer
    /// `open_from` or later has.
    pub(crate) fn choose(
        &self,
        most: usize,
        open_from: u32,
        fits: impl Fn(&Transaction) -> bool,
    ) -> Vec<Transaction> {
        self.whole_oldest_first
            .values()
            .filter_map(|id| self.whole.get(id))
            .filter(|whole| whole.in_block_of.is_none_or(|layer| layer < open_from))
            .map(|whole| &whole.transaction)
            .filter(|transaction| fits(transaction))
            .take(most)
            .cloned()
            .collect()
    }

    /// Drops what can never be applied any more, given the lowest nonce that an account still takes.
    pub(crate) fn drop_used(&mut self, next_of: impl Fn(&NodeId) -> Option<Nonce>) {
        let used: Vec<TransactionId> = self
            .whole
            .iter()
            .filter(|(_, whole)| {
                let transaction = &whole.transaction;
                next_of(&transaction.signer).is_some_and(|next| transaction.nonce() < next)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in used {
            self.remove(&id);
        }
    }

    fn keep(&mut self, id: TransactionId, transaction: Transaction) {
        let number = self.next;
        self.next += 1;
        self.whole_oldest_first.insert(number, id);
        let whole = Whole {
            transaction,
            number,
            in_block_of: None,
        };
        self.whole.insert(id, whole);
        if self.whole.len() > self.whole_cap
            && let Some((_, oldest)) = self.whole_oldest_first.pop_first()
        {
            self.whole.remove(&oldest);
        }
    }

    fn remove(&mut self, id: &TransactionId) {
        if let Some(whole) = self.whole.remove(id) {
            self.whole_oldest_first.remove(&whole.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::genesis::tests::{key, sample};
    use super::*;

    fn made(n: u64) -> Transaction {
        Transaction::of_layer(&sample(3), &key(0), n, 0)
    }

    fn layers(chosen: &[Transaction]) -> Vec<u64> {
        chosen.iter().map(|transaction| transaction.layer).collect()
    }

    #[test]
    fn it_counts_each_once_and_forgets_the_oldest_only() {
        let mut pool = Mempool::with_caps(3, 2);
        for n in 0..4 {
            assert!(pool.insert(made(n)));
            assert!(!pool.insert(made(n)));
        }
        assert_eq!((pool.known.len(), pool.whole.len()), (3, 2));
        assert!(!pool.insert(made(1)), "1 is among the last three");
        assert!(pool.insert(made(0)), "0 was the oldest");
        assert!(pool.holds(&made(3)) && !pool.holds(&made(1)));
    }

    #[test]
    fn a_block_takes_what_no_open_block_has_and_what_fits() {
        let mut pool = Mempool::with_caps(10, 10);
        for n in 0..5 {
            pool.insert(made(n));
        }
        pool.is_in_block(&made(1).id(), 7);
        pool.is_in_block(&made(1).id(), 6);
        let fits = |transaction: &Transaction| transaction.layer != 3;
        assert_eq!(layers(&pool.choose(9, 7, fits)), [0, 2, 4]);
        assert_eq!(layers(&pool.choose(2, 7, fits)), [0, 2]);
        assert_eq!(
            layers(&pool.choose(9, 8, fits)),
            [0, 1, 2, 4],
            "layer 7 was applied without it, so it is free again"
        );
    }

    #[test]
    fn what_the_state_has_used_is_dropped() {
        let mut pool = Mempool::with_caps(10, 10);
        for n in 0..5 {
            pool.insert(made(n));
        }
        pool.drop_used(|_| None);
        let next = made(2).nonce().next();
        pool.drop_used(|_| Some(next));
        assert_eq!(layers(&pool.choose(9, 0, |_| true)), [3, 4]);
        assert_eq!(pool.whole_oldest_first.len(), 2);
        assert!(!pool.insert(made(0)), "that it is known stays");
    }
}
