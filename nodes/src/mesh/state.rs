//! The applied state: who has how many coins, and the root that commits to it.
//!
//! Layers are applied strictly in order. A layer's blocks give their miners a reward each, in the
//! order of the blocks' ids; then the transactions of all of them move coins, in the order of signer
//! and nonce, each once, so that it does not matter which block carried which. What cannot be
//! applied is skipped and changes nothing: a block is not bad because somebody was poorer by then.
//!
//! Accounts are those of identities that mine: a transaction to anybody else is skipped, so that the
//! state is as small as the network. The root of a layer is a hash over the root before it, the
//! layer, and every account. Pure: storing is `store.rs`.

use crate::p2p::codec::{Reader, WireError, Writer};
use crate::protocol::genesis::NodeId;
use crate::protocol::transaction::{Nonce, Transaction};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Coins that a block gives its miner. The real network of 2020 gave 50 smidge times 10^12.
pub(crate) const BLOCK_REWARD: u64 = 50;

const GENESIS_DOMAIN: &[u8] = b"tweedledum genesis state 1";
const LAYER_DOMAIN: &[u8] = b"tweedledum layer state 1";

/// Commits to the state after a layer.
pub(crate) type Root = [u8; 32];

/// What one identity has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// The lowest nonce that it may still use.
    pub(crate) next: Nonce,
    pub(crate) balance: u64,
}

impl Account {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u64(self.next.layer)
            .u32(self.next.index)
            .u64(self.balance);
        out.done()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let decoded = Self {
            next: Nonce {
                layer: reader.u64("the layer of a nonce")?,
                index: reader.u32("the index of a nonce")?,
            },
            balance: reader.u64("a balance")?,
        };
        reader.finish()?;
        Ok(decoded)
    }
}

/// The state after some number of layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    accounts: BTreeMap<NodeId, Account>,
    /// The layer to be applied next.
    next: u32,
    root: Root,
}

impl State {
    /// Before any layer: the miners of genesis, with nothing.
    pub(crate) fn genesis(netid: u32, miners: impl IntoIterator<Item = NodeId>) -> Self {
        let accounts: BTreeMap<_, _> = miners
            .into_iter()
            .map(|miner| (miner, Account::default()))
            .collect();
        let mut hash = Sha256::new()
            .chain_update(GENESIS_DOMAIN)
            .chain_update(netid.to_be_bytes());
        hash_accounts(&accounts, &mut hash);
        Self {
            accounts,
            next: 0,
            root: hash.finalize().into(),
        }
    }

    /// The state that a disk holds after `layer`, if that layer's root says so too.
    pub(crate) fn restore(
        accounts: BTreeMap<NodeId, Account>,
        layer: u32,
        before: &Root,
        root: Root,
    ) -> Option<Self> {
        let restored = Self {
            accounts,
            next: layer.checked_add(1)?,
            root,
        };
        (restored.root_after(before, layer) == root).then_some(restored)
    }

    /// The layer to be applied next.
    pub(crate) fn next_layer(&self) -> u32 {
        self.next
    }

    /// The root after the last layer, or of genesis.
    pub(crate) fn root(&self) -> &Root {
        &self.root
    }

    pub(crate) fn accounts(&self) -> &BTreeMap<NodeId, Account> {
        &self.accounts
    }

    /// Whether a transaction would be applied if it came next.
    pub(crate) fn takes(&self, transaction: &Transaction) -> bool {
        self.accounts.get(&transaction.signer).is_some_and(|from| {
            transaction.nonce() >= from.next && transaction.amount <= from.balance
        }) && self.accounts.contains_key(&transaction.to)
    }

    /// Applies the next layer: one reward per entry of `rewarded`, then the transactions. Gives the
    /// accounts that changed.
    pub(crate) fn apply<'a>(
        &mut self,
        rewarded: impl IntoIterator<Item = NodeId>,
        transactions: impl IntoIterator<Item = &'a Transaction>,
    ) -> BTreeSet<NodeId> {
        let mut changed = BTreeSet::new();
        for miner in rewarded {
            let account = self.accounts.entry(miner).or_default();
            account.balance = account.balance.saturating_add(BLOCK_REWARD);
            changed.insert(miner);
        }
        let in_order: BTreeMap<_, _> = transactions
            .into_iter()
            .map(|t| ((t.signer, t.nonce(), t.id()), t))
            .collect();
        for transaction in in_order.into_values() {
            if self.takes(transaction) {
                self.move_coins(transaction);
                changed.extend([transaction.signer, transaction.to]);
            }
        }
        self.root = self.root_after(&self.root, self.next);
        self.next += 1;
        changed
    }

    /// A transaction that [`State::takes`] says can be applied.
    fn move_coins(&mut self, transaction: &Transaction) {
        let from = self.accounts.entry(transaction.signer).or_default();
        from.next = transaction.nonce().next();
        from.balance = from.balance.saturating_sub(transaction.amount);
        let to = self.accounts.entry(transaction.to).or_default();
        to.balance = to.balance.saturating_add(transaction.amount);
    }

    fn root_after(&self, before: &Root, layer: u32) -> Root {
        let mut hash = Sha256::new()
            .chain_update(LAYER_DOMAIN)
            .chain_update(before)
            .chain_update(layer.to_be_bytes());
        hash_accounts(&self.accounts, &mut hash);
        hash.finalize().into()
    }
}

fn hash_accounts(accounts: &BTreeMap<NodeId, Account>, hash: &mut Sha256) {
    for (id, account) in accounts {
        hash.update(id);
        hash.update(account.encode());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;
    use proptest::prelude::*;

    /// From, layer of the nonce, to, amount.
    type Payment = (u8, u64, u8, u64);

    fn key(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32])
    }

    fn id(n: u8) -> NodeId {
        key(n).verifying_key().to_bytes()
    }

    fn pay(from: u8, layer: u64, to: u8, amount: u64) -> Transaction {
        Transaction::sign(&key(from), 116, Nonce { layer, index: 0 }, id(to), amount)
    }

    fn genesis() -> State {
        State::genesis(116, (0..4).map(id))
    }

    fn total(state: &State) -> u64 {
        state.accounts.values().map(|a| a.balance).sum()
    }

    #[test]
    fn what_is_applied_and_what_is_skipped() {
        // Balances of 0 and 1 after.
        let table: [(&[Payment], u64, u64); 8] = [
            (&[(0, 1, 1, 20)], 30, 20),
            (&[(0, 1, 1, 51)], 50, 0),
            (&[(0, 1, 0, 20)], 50, 0),
            (&[(0, 1, 9, 20)], 50, 0),
            (&[(9, 1, 1, 0)], 50, 0),
            (&[(0, 2, 1, 20), (0, 1, 1, 20)], 10, 40),
            (&[(0, 1, 1, 20), (0, 1, 1, 20)], 30, 20),
            (&[(0, 1, 1, 30), (0, 2, 1, 30), (0, 3, 1, 20)], 0, 50),
        ];
        for (payments, first, second) in table {
            let made: Vec<_> = payments
                .iter()
                .map(|&(f, l, t, a)| pay(f, l, t, a))
                .collect();
            let mut state = genesis();
            state.apply([id(0)], &made);
            let balance = |n| state.accounts[&id(n)].balance;
            assert_eq!((balance(0), balance(1)), (first, second), "{payments:?}");
            assert_eq!(total(&state), BLOCK_REWARD);
        }
    }

    #[test]
    fn a_nonce_is_used_once_and_a_lost_one_holds_nobody_up() {
        let mut state = genesis();
        state.apply([id(0)], &[pay(0, 5, 1, 1)]);
        for (layer, taken) in [(4, false), (5, false), (6, true), (900, true)] {
            assert_eq!(state.takes(&pay(0, layer, 1, 1)), taken, "{layer}");
        }
        let last = Nonce {
            layer: u64::MAX,
            index: u32::MAX,
        };
        assert_eq!(last.next(), last, "the very last nonce does not wrap");
    }

    #[test]
    fn a_state_is_restored_only_with_its_own_root() {
        let mut state = genesis();
        state.apply([id(0)], &[]);
        let before = *state.root();
        state.apply([id(1)], &[pay(0, 1, 1, 7)]);
        let restored = State::restore(state.accounts.clone(), 1, &before, *state.root());
        assert_eq!(restored, Some(state.clone()));
        let mut robbed = state.accounts.clone();
        robbed.get_mut(&id(0)).unwrap().balance += 1;
        assert_eq!(State::restore(robbed, 1, &before, *state.root()), None);
        assert_eq!(
            State::restore(state.accounts.clone(), 2, &before, *state.root()),
            None
        );
    }

    #[test]
    fn roots_tell_networks_layers_and_histories_apart() {
        let mut seen = BTreeSet::new();
        for netid in [116, 117] {
            let mut state = State::genesis(netid, (0..4).map(id));
            seen.insert(*state.root());
            for _ in 0..5 {
                state.apply([], &[]);
                seen.insert(*state.root());
            }
        }
        assert_eq!(seen.len(), 12, "empty layers have roots of their own");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn coins_come_from_rewards_only_and_the_order_of_transactions_does_not_matter(
            layers in prop::collection::vec(
                (prop::collection::vec(0_u8..6, 0..4), prop::collection::vec((0_u8..6, 0_u64..8, 0_u8..6, 0_u64..60), 0..6)),
                1..6,
            ),
        ) {
            let (mut one, mut other) = (genesis(), genesis());
            let mut blocks = 0;
            for (miners, payments) in &layers {
                let made: Vec<_> = payments.iter().map(|&(f, l, t, a)| pay(f, l, t, a)).collect();
                one.apply(miners.iter().map(|n| id(*n)), &made);
                other.apply(miners.iter().map(|n| id(*n)), made.iter().rev());
                blocks += miners.len() as u64;
                prop_assert_eq!(total(&one), blocks * BLOCK_REWARD);
                prop_assert_eq!(&one, &other);
            }
        }

        #[test]
        fn accounts_round_trip(layer: u64, index: u32, balance: u64, bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let account = Account { next: Nonce { layer, index }, balance };
            prop_assert_eq!(Account::decode(&account.encode()).unwrap(), account);
            if let Ok(decoded) = Account::decode(&bytes) {
                prop_assert_eq!(decoded.encode(), bytes);
            }
        }
    }
}
