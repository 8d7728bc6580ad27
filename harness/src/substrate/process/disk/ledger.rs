//! What the files of one data directory take: allocated blocks of 4 KiB per inode. Pure.
//!
//! It is kept here and not read from `st_blocks`, which on some file systems counts room that was set aside, or data after
//! compression. Holes take nothing. What is not here: where the numbers come from, see [`account`](super::account).

use std::collections::BTreeMap;

/// The unit of account.
pub(super) const BLOCK: u64 = 4096;

/// Blocks as disjoint ranges that do not touch, start to end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Extents {
    ranges: BTreeMap<u64, u64>,
    blocks: u64,
}

impl Extents {
    /// How many blocks these are.
    pub(super) const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Adds blocks; says how many are new.
    pub(super) fn insert(&mut self, from: u64, to: u64) -> u64 {
        if from >= to {
            return 0;
        }
        let (mut start, mut end, mut held) = (from, to, 0);
        let touching = self.ranges.range(..=to).rev();
        let touching = touching.take_while(|(_, end)| **end >= from);
        for (from, to) in touching
            .map(|(from, to)| (*from, *to))
            .collect::<Vec<(u64, u64)>>()
        {
            self.ranges.remove(&from);
            held += to - from;
            start = start.min(from);
            end = end.max(to);
        }
        self.ranges.insert(start, end);
        let new = end - start - held;
        self.blocks += new;
        new
    }

    /// Takes blocks away; says how many there were.
    pub(super) fn remove(&mut self, from: u64, to: u64) -> u64 {
        if from >= to {
            return 0;
        }
        let mut freed = 0;
        for (start, end) in self.overlapping(from, to) {
            self.ranges.remove(&start);
            if start < from {
                self.ranges.insert(start, from);
            }
            if end > to {
                self.ranges.insert(to, end);
            }
            freed += end.min(to) - start.max(from);
        }
        self.blocks -= freed;
        freed
    }

    /// Adds all blocks of another.
    pub(super) fn extend(&mut self, other: &Self) {
        for (from, to) in &other.ranges {
            self.insert(*from, *to);
        }
    }

    /// How far one gets from `from` towards `to` with this many new blocks: the first block that is too many, or `to`.
    fn reach(&self, from: u64, to: u64, mut room: u64) -> u64 {
        let mut at = from;
        for (start, end) in self.overlapping(from, to) {
            let gap = start.saturating_sub(at);
            if gap > room {
                return at + room;
            }
            room -= gap;
            at = at.max(end);
        }
        at.min(to) + to.saturating_sub(at).min(room)
    }

    /// In ascending order.
    fn overlapping(&self, from: u64, to: u64) -> Vec<(u64, u64)> {
        let before = self.ranges.range(..from).next_back();
        let before = before.filter(|(_, end)| **end > from);
        let all = before
            .into_iter()
            .chain(self.ranges.range(from..to.max(from)));
        all.map(|(start, end)| (*start, *end)).collect()
    }
}

/// An inode of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId {
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// A stretch of a file in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) offset: u64,
    pub(super) length: u64,
}

impl Span {
    /// The blocks it touches.
    pub(super) const fn blocks(self) -> (u64, u64) {
        if self.length == 0 {
            return (0, 0);
        }
        let end = self.offset.saturating_add(self.length);
        (self.offset / BLOCK, end.div_ceil(BLOCK))
    }
}

/// Whether blocks are free for certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freed {
    /// They are.
    Surely,
    /// The call that frees them may fail, or has not happened yet: [`Ledger::settle`] will know.
    Perhaps,
}

#[derive(Debug, Default)]
struct File {
    taken: Extents,
    /// What `fallocate` took: some file systems show it as a hole until it is written.
    allocated: Extents,
}

/// The files of a data directory.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    files: BTreeMap<FileId, File>,
    used: u64,
    cap: Option<u64>,
}

impl Ledger {
    /// Blocks taken.
    pub(super) const fn used(&self) -> u64 {
        self.used
    }

    /// The cap in blocks.
    pub(super) const fn cap(&self) -> Option<u64> {
        self.cap
    }

    /// Blocks that are left; `None` without a cap.
    pub(super) fn room(&self) -> Option<u64> {
        Some(self.cap?.saturating_sub(self.used))
    }

    /// Sets the cap in blocks.
    pub(super) const fn set_cap(&mut self, cap: Option<u64>) {
        self.cap = cap;
    }

    /// Whether this inode is one of the directory's.
    pub(super) fn knows(&self, file: FileId) -> bool {
        self.files.contains_key(&file)
    }

    /// How many bytes of a write fit, from its start: up to the last byte of the last block that does.
    pub(super) fn fit(&self, file: FileId, write: Span) -> u64 {
        let Some(room) = self.room() else {
            return write.length;
        };
        let (from, to) = write.blocks();
        let reach = match self.files.get(&file) {
            Some(file) => file.taken.reach(from, to, room),
            None => to.min(from.saturating_add(room)),
        };
        if reach >= to {
            write.length
        } else {
            (reach * BLOCK).saturating_sub(write.offset)
        }
    }

    /// A write was, or is about to be, made.
    pub(super) fn take(&mut self, file: FileId, write: Span) {
        let (from, to) = write.blocks();
        self.used += self.files.entry(file).or_default().taken.insert(from, to);
    }

    /// As [`take`](Self::take), for room without data.
    pub(super) fn allocate(&mut self, file: FileId, room: Span) {
        let (from, to) = room.blocks();
        self.take(file, room);
        if let Some(file) = self.files.get_mut(&file) {
            file.allocated.insert(from, to);
        }
    }

    /// The file ends at `size` now.
    pub(super) fn cut(&mut self, file: FileId, size: u64, freed: Freed) {
        self.free(file, size.div_ceil(BLOCK), u64::MAX, freed);
    }

    /// A hole was made: whole blocks of it are free.
    pub(super) fn punch(&mut self, file: FileId, hole: Span, freed: Freed) {
        let end = hole.offset.saturating_add(hole.length);
        self.free(file, hole.offset.div_ceil(BLOCK), end / BLOCK, freed);
    }

    fn free(&mut self, file: FileId, from: u64, to: u64, freed: Freed) {
        if let Some(file) = self.files.get_mut(&file) {
            file.allocated.remove(from, to);
            if freed == Freed::Surely {
                self.used -= file.taken.remove(from, to);
            }
        }
    }

    /// The file is gone, or no longer one of the directory's.
    pub(super) fn forget(&mut self, file: FileId) {
        if let Some(file) = self.files.remove(&file) {
            self.used -= file.taken.blocks();
        }
    }

    /// The file was looked at: these are its data. What was allocated without data stays.
    pub(super) fn settle(&mut self, file: FileId, mut found: Extents) {
        let file = self.files.entry(file).or_default();
        found.extend(&file.allocated);
        self.used = self.used - file.taken.blocks() + found.blocks();
        file.taken = found;
    }

    /// The inodes known.
    pub(super) fn files(&self) -> impl Iterator<Item = FileId> {
        self.files.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Deed {
        Take(u64, u64, u64),
        Allocate(u64, u64, u64),
        Cut(u64, u64),
        Punch(u64, u64, u64),
        Forget(u64),
    }

    fn deeds() -> impl Strategy<Value = Vec<Deed>> {
        let (file, at, length) = (0_u64..3, 0_u64..60_000, 0_u64..30_000);
        let deed = prop_oneof![
            4 => (file.clone(), at.clone(), length.clone()).prop_map(|(f, a, l)| Deed::Take(f, a, l)),
            1 => (file.clone(), at.clone(), length.clone()).prop_map(|(f, a, l)| Deed::Allocate(f, a, l)),
            1 => (file.clone(), at.clone()).prop_map(|(f, a)| Deed::Cut(f, a)),
            1 => (file.clone(), at, length).prop_map(|(f, a, l)| Deed::Punch(f, a, l)),
            1 => file.prop_map(Deed::Forget),
        ];
        prop::collection::vec(deed, 0..40)
    }

    const fn id(file: u64) -> FileId {
        FileId {
            device: 1,
            inode: file,
        }
    }

    /// The same, block by block and byte by byte.
    #[derive(Default)]
    struct Plain(BTreeSet<(u64, u64)>);

    impl Plain {
        fn touched(write: Span) -> impl Iterator<Item = u64> {
            (0..write.length)
                .map(move |byte| (write.offset + byte) / BLOCK)
                .collect::<BTreeSet<u64>>()
                .into_iter()
        }

        fn apply(&mut self, deed: &Deed) {
            match *deed {
                Deed::Take(file, offset, length) | Deed::Allocate(file, offset, length) => {
                    self.0
                        .extend(Self::touched(Span { offset, length }).map(|block| (file, block)));
                }
                Deed::Cut(file, size) => self
                    .0
                    .retain(|(of, block)| *of != file || block * BLOCK < size),
                Deed::Punch(file, offset, length) => self.0.retain(|(of, block)| {
                    *of != file || block * BLOCK < offset || (block + 1) * BLOCK > offset + length
                }),
                Deed::Forget(file) => self.0.retain(|(of, _)| *of != file),
            }
        }

        fn fit(&self, cap: u64, file: u64, write: Span) -> u64 {
            let mut taken = self.0.clone();
            for byte in 0..write.length {
                taken.insert((file, (write.offset + byte) / BLOCK));
                if taken.len() as u64 > cap.max(self.0.len() as u64) {
                    return byte;
                }
            }
            write.length
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn it_counts_as_one_would_block_by_block(
            deeds in deeds(), cap in 0_u64..40, offset in 0_u64..60_000, length in 0_u64..30_000,
        ) {
            let (mut ledger, mut plain) = (Ledger::default(), Plain::default());
            for deed in &deeds {
                match *deed {
                    Deed::Take(file, offset, length) => ledger.take(id(file), Span { offset, length }),
                    Deed::Allocate(file, offset, length) => ledger.allocate(id(file), Span { offset, length }),
                    Deed::Cut(file, size) => ledger.cut(id(file), size, Freed::Surely),
                    Deed::Punch(file, offset, length) => ledger.punch(id(file), Span { offset, length }, Freed::Surely),
                    Deed::Forget(file) => ledger.forget(id(file)),
                }
                plain.apply(deed);
                prop_assert_eq!(ledger.used(), plain.0.len() as u64, "{:?}", deed);
            }
            let write = Span { offset, length };
            prop_assert_eq!(ledger.fit(id(0), write), length, "no cap");
            ledger.set_cap(Some(cap));
            let fits = ledger.fit(id(0), write);
            prop_assert_eq!(fits, plain.fit(cap, 0, write));
            ledger.take(id(0), Span { offset, length: fits });
            prop_assert!(ledger.used() <= cap.max(plain.0.len() as u64));
        }
    }

    #[test]
    fn what_was_allocated_without_data_survives_a_look() {
        let mut ledger = Ledger::default();
        ledger.allocate(
            id(0),
            Span {
                offset: 0,
                length: 3 * BLOCK,
            },
        );
        ledger.take(
            id(0),
            Span {
                offset: 9 * BLOCK,
                length: 1,
            },
        );
        assert_eq!(ledger.used(), 4);
        let mut found = Extents::default();
        found.insert(0, 1);
        ledger.settle(id(0), found);
        assert_eq!(ledger.used(), 3, "the write at block 9 never came to be");
        ledger.punch(
            id(0),
            Span {
                offset: 0,
                length: 2 * BLOCK,
            },
            Freed::Perhaps,
        );
        assert_eq!(ledger.used(), 3, "nobody knows yet");
        ledger.settle(id(0), Extents::default());
        assert_eq!(ledger.used(), 1);
        assert!(ledger.knows(id(0)) && ledger.files().count() == 1);
    }

    #[test]
    fn the_cap_bites_at_the_last_byte_of_the_last_block() {
        let mut ledger = Ledger::default();
        ledger.set_cap(Some(2));
        let write = |offset, length| Span { offset, length };
        for (offset, length, fits) in [
            (0, 8192, 8192),
            (0, 8193, 8192),
            (100, 20_000, 8092),
            (4096, 20_000, 8192),
            (8191, 8192, 4097),
            (0, 0, 0),
        ] {
            assert_eq!(
                ledger.fit(id(0), write(offset, length)),
                fits,
                "{offset} {length}"
            );
        }
        ledger.take(id(1), write(5000, 10));
        assert_eq!(ledger.fit(id(0), write(0, 8192)), 4096);
        // What is there can be written again, also when nothing is left.
        ledger.set_cap(Some(0));
        assert_eq!(ledger.fit(id(1), write(4096, 9000)), 4096);
        assert_eq!(ledger.fit(id(1), write(4000, 100)), 0);
    }
}
