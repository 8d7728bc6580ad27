//! What came before what it depends on: ATXs without their proof, blocks without their ATX.
//!
//! Each was checked as far as it can be alone, so that only identities of the network take room, each
//! its own share: its oldest goes when it brings one too many, and what waits too long goes too. What
//! is dropped here comes again by pull. Pure.

use crate::protocol::agreement::BlockId;
use crate::protocol::atx::{Atx, AtxId, ProofRef};
use crate::protocol::block::Block;
use crate::protocol::genesis::NodeId;
use std::collections::{BTreeMap, BTreeSet};

/// ATXs of one identity: this epoch's and the next one's, and what proves a lie about either.
const ATXS_EACH: usize = 4;
/// Blocks of one identity: a few epochs of slots. Blocks pulled for old layers come after their ATXs.
const BLOCKS_EACH: usize = 16;

/// Things that wait, of one kind.
#[derive(Debug)]
pub(crate) struct Waiting<Id, Thing, For> {
    each: usize,
    things: BTreeMap<Id, Entry<Thing, For>>,
    of: BTreeMap<NodeId, BTreeSet<(u64, Id)>>,
    on: BTreeMap<For, BTreeSet<Id>>,
    next: u64,
}

#[derive(Debug)]
struct Entry<Thing, For> {
    thing: Thing,
    node: NodeId,
    on: For,
    number: u64,
    since: u32,
    /// It came by gossip and is to be passed on once it is known to be good.
    relay: bool,
}

/// ATXs that wait for a proof.
pub(crate) type Atxs = Waiting<AtxId, Atx, ProofRef>;
/// Blocks that wait for an ATX.
pub(crate) type Blocks = Waiting<BlockId, Block, AtxId>;

impl Atxs {
    pub(crate) fn for_proofs() -> Self {
        Self::new(ATXS_EACH)
    }
}

impl Blocks {
    pub(crate) fn for_atxs() -> Self {
        Self::new(BLOCKS_EACH)
    }
}

impl<Id: Ord + Copy, Thing, For: Ord + Copy> Waiting<Id, Thing, For> {
    fn new(each: usize) -> Self {
        Self {
            each,
            things: BTreeMap::new(),
            of: BTreeMap::new(),
            on: BTreeMap::new(),
            next: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.things.len()
    }

    pub(crate) fn contains(&self, id: &Id) -> bool {
        self.things.contains_key(id)
    }

    /// Lets `thing` of `node` wait for `on`, from layer `now` on.
    pub(crate) fn add(
        &mut self,
        id: Id,
        thing: Thing,
        node: NodeId,
        on: For,
        now: u32,
        relay: bool,
    ) {
        if let Some(entry) = self.things.get_mut(&id) {
            entry.relay |= relay;
            return;
        }
        let number = self.next;
        self.next += 1;
        let mine = self.of.entry(node).or_default();
        mine.insert((number, id));
        let oldest = mine.first().filter(|_| mine.len() > self.each).copied();
        self.on.entry(on).or_default().insert(id);
        let entry = Entry {
            thing,
            node,
            on,
            number,
            since: now,
            relay,
        };
        self.things.insert(id, entry);
        if let Some((_, oldest)) = oldest {
            self.remove(&oldest);
        }
    }

    /// Everything that waits for `on`, and whether to pass it on; it waits no more.
    pub(crate) fn take(&mut self, on: &For) -> Vec<(Thing, bool)> {
        let ids = self.on.get(on).cloned().unwrap_or_default();
        ids.iter()
            .filter_map(|id| self.remove(id))
            .map(|entry| (entry.thing, entry.relay))
            .collect()
    }

    /// What is waited for.
    pub(crate) fn wanted(&self) -> impl Iterator<Item = &For> {
        self.on.keys()
    }

    /// Everything that waits.
    pub(crate) fn things(&self) -> impl Iterator<Item = &Thing> {
        self.things.values().map(|entry| &entry.thing)
    }

    /// Whether anything waits for it.
    pub(crate) fn wants(&self, on: &For) -> bool {
        self.on.contains_key(on)
    }

    /// Drops what has waited since before layer `before`.
    pub(crate) fn expire(&mut self, before: u32) {
        let old: Vec<Id> = self
            .things
            .iter()
            .filter(|(_, entry)| entry.since < before)
            .map(|(id, _)| *id)
            .collect();
        for id in old {
            self.remove(&id);
        }
    }

    fn remove(&mut self, id: &Id) -> Option<Entry<Thing, For>> {
        let entry = self.things.remove(id)?;
        if let Some(mine) = self.of.get_mut(&entry.node) {
            mine.remove(&(entry.number, *id));
            if mine.is_empty() {
                self.of.remove(&entry.node);
            }
        }
        if let Some(on) = self.on.get_mut(&entry.on) {
            on.remove(id);
            if on.is_empty() {
                self.on.remove(&entry.on);
            }
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: NodeId = [1; 32];
    const B: NodeId = [2; 32];

    fn waiting() -> Waiting<u32, u32, u8> {
        Waiting::new(2)
    }

    #[test]
    fn what_waits_is_taken_once_and_asked_for_until_then() {
        let mut waiting = waiting();
        waiting.add(10, 100, A, 7, 0, true);
        waiting.add(11, 110, B, 7, 0, false);
        waiting.add(12, 120, B, 8, 0, false);
        waiting.add(12, 120, B, 8, 0, true);
        assert_eq!(waiting.wanted().copied().collect::<Vec<_>>(), [7, 8]);
        assert_eq!(waiting.take(&7), [(100, true), (110, false)]);
        assert!(waiting.take(&7).is_empty() && !waiting.wants(&7));
        assert_eq!(waiting.take(&8), [(120, true)]);
        assert_eq!(waiting.len(), 0);
    }

    #[test]
    fn an_identity_takes_room_from_itself_only() {
        let mut waiting = waiting();
        waiting.add(1, 1, B, 0, 0, false);
        for id in 10..20 {
            waiting.add(id, id, A, 0, 0, false);
        }
        let left: Vec<u32> = waiting
            .take(&0)
            .into_iter()
            .map(|(thing, _)| thing)
            .collect();
        assert_eq!(left, [1, 18, 19]);
    }

    #[test]
    fn what_waits_too_long_goes() {
        let mut waiting = waiting();
        waiting.add(1, 1, A, 0, 5, false);
        waiting.add(2, 2, A, 0, 6, false);
        waiting.expire(6);
        assert!(!waiting.contains(&1) && waiting.contains(&2));
    }

    proptest! {
        #[test]
        fn the_three_indices_agree_whatever_happens(
            steps in prop::collection::vec((0_u8..3, 0_u32..20, 0_u8..4, 0_u8..4), 0..80),
        ) {
            let mut waiting = waiting();
            for (now, (kind, id, node, on)) in (0..).zip(steps) {
                match kind {
                    0 | 1 => waiting.add(id, id, [node; 32], on, now, false),
                    _ => drop(waiting.take(&on)),
                }
                waiting.expire(now.saturating_sub(30));
                let of: usize = waiting.of.values().map(BTreeSet::len).sum();
                let for_what: usize = waiting.on.values().map(BTreeSet::len).sum();
                prop_assert_eq!((of, for_what), (waiting.len(), waiting.len()));
                prop_assert!(waiting.of.values().all(|mine| (1..=2).contains(&mine.len())));
            }
        }
    }
}
