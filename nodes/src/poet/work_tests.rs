//! The tree that a worker makes, wherever it is interrupted and whatever its disk does.

use super::*;
use proptest::prelude::*;
use std::cell::Cell;
use std::rc::Rc;

const STATEMENT: Node = [9; 32];

fn params(log2_leaves: u32) -> Params {
    Params::new(log2_leaves, 3, 2).unwrap()
}

/// The tree by its definition, layer by layer: slow, and without any parking.
fn by_definition(log2_leaves: u32) -> Vec<Vec<Node>> {
    let mut layers: Vec<Vec<Node>> = vec![Vec::new(); log2_leaves as usize + 1];
    for leaf in 0..1_u64 << log2_leaves {
        let left: Vec<Node> = (0..log2_leaves as usize)
            .filter(|layer| (leaf >> layer) & 1 == 1)
            .map(|layer| layers[layer][usize::try_from(leaf >> layer).unwrap() - 1])
            .collect();
        layers[0].push(hash::label(&STATEMENT, leaf, &mut left.iter(), 3));
        for layer in 0..log2_leaves as usize {
            if let (Some([left, right]), 0) = (layers[layer].last_chunk(), layers[layer].len() % 2)
                && layers[layer + 1].len() < layers[layer].len() / 2
            {
                let node = hash::inner(&STATEMENT, left, right);
                layers[layer + 1].push(node);
            }
        }
    }
    layers
}

fn memory(params: Params) -> Vec<Vec<u8>> {
    vec![Vec::new(); params.log2_leaves() as usize]
}

#[test]
fn the_tree_is_the_one_of_the_definition() {
    for log2_leaves in 1..=9 {
        let params = params(log2_leaves);
        let layers = by_definition(log2_leaves);
        let mut worker =
            Worker::new(STATEMENT, params, &Checkpoint::start(), memory(params)).unwrap();
        let root = layers[log2_leaves as usize][0];
        assert_eq!(worker.run(u64::MAX).unwrap(), Progress::Done { root });
        assert_eq!(worker.run(1).unwrap(), Progress::Done { root }, "again");
        for (written, expected) in worker.into_writers().iter().zip(&layers) {
            assert_eq!(written, expected.as_flattened());
        }
    }
}

#[test]
fn batches_are_bounded() {
    let params = params(4);
    let mut worker = Worker::new(STATEMENT, params, &Checkpoint::start(), memory(params)).unwrap();
    let labels_left = 11;
    assert_eq!(worker.run(5).unwrap(), Progress::Working { labels_left });
    assert_eq!(worker.next_leaf(), 5);
    assert_eq!(worker.run(0).unwrap(), Progress::Working { labels_left });
}

#[test]
fn resumed_at_any_point_it_ends_at_the_same_root() {
    let params = params(6);
    let layers = by_definition(6);
    let root = layers[6][0];
    for stop in 0..=params.leaves() {
        let mut first =
            Worker::new(STATEMENT, params, &Checkpoint::start(), memory(params)).unwrap();
        first.run(stop).unwrap();
        let checkpoint = first.checkpoint().unwrap();
        assert_eq!(checkpoint.next_leaf, stop);
        let mut second = Worker::new(STATEMENT, params, &checkpoint, first.into_writers()).unwrap();
        assert_eq!(
            second.run(u64::MAX).unwrap(),
            Progress::Done { root },
            "{stop}"
        );
        for (written, expected) in second.into_writers().iter().zip(&layers) {
            assert_eq!(written, expected.as_flattened(), "{stop}");
        }
        // A parked node that is not the one that was parked leads elsewhere.
        for parked in 0..checkpoint.parked.len() {
            let mut bad = checkpoint.clone();
            bad.parked[parked][0] ^= 1;
            let mut third = Worker::new(STATEMENT, params, &bad, memory(params)).unwrap();
            assert_ne!(
                third.run(u64::MAX).unwrap(),
                Progress::Done { root },
                "{stop}"
            );
        }
    }
}

#[test]
fn checkpoints_that_do_not_fit_are_refused() {
    let params = params(3);
    for (next_leaf, parked, writers, good) in [
        (0, 0, 3, true),
        (8, 1, 3, true),
        (5, 2, 1, true),
        (9, 2, 3, false),
        (5, 1, 3, false),
        (5, 3, 3, false),
        (0, 0, 0, false),
        (0, 0, 4, false),
    ] {
        let from = Checkpoint {
            next_leaf,
            parked: vec![[1; 32]; parked],
        };
        let made = Worker::new(STATEMENT, params, &from, vec![Vec::new(); writers]);
        assert_eq!(
            made.is_ok(),
            good,
            "{next_leaf} {parked} {writers}: {made:?}"
        );
    }
}

/// One layer on a disk that all share: a write that crosses the end is shortened to what fits, and the
/// next one is refused.
#[derive(Debug)]
struct Capped {
    bytes: Vec<u8>,
    room: Rc<Cell<usize>>,
}

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fits = bytes.len().min(self.room.get());
        if fits == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.room.set(self.room.get() - fits);
        self.bytes.extend_from_slice(&bytes[..fits]);
        Ok(fits)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_full_disk_stops_the_work_and_room_lets_it_go_on(
        first in 0_usize..35_000,
        more in 1_usize..9000,
        batch in 1_u64..700,
    ) {
        let params = params(9);
        let expected = by_definition(9);
        let room = Rc::new(Cell::new(first));
        let disks = (0..9).map(|_| Capped { bytes: Vec::new(), room: Rc::clone(&room) }).collect();
        let mut worker = Worker::new(STATEMENT, params, &Checkpoint::start(), disks).unwrap();
        let total: usize = expected[..9].iter().map(|layer| 32 * layer.len()).sum();
        let mut refusals = 0;
        let root = loop {
            let before = worker.next_leaf();
            match worker.run(batch) {
                Ok(Progress::Done { root }) => break root,
                Ok(Progress::Working { .. }) => prop_assert_eq!(worker.next_leaf(), before + batch),
                Err(error) => {
                    prop_assert!(error.is_disk_full());
                    prop_assert_eq!(room.get(), 0, "it wrote to the last byte");
                    prop_assert!(worker.checkpoint().is_err(), "no checkpoint without its nodes");
                    refusals += 1;
                    prop_assert!(refusals <= 1 + total / more, "it writes more than the tree");
                    room.set(more);
                }
            }
        };
        prop_assert_eq!(refusals > 0, first < total, "{} of {}", first, total);
        prop_assert_eq!(root, expected[9][0]);
        for (written, expected) in worker.into_writers().iter().zip(&expected) {
            prop_assert_eq!(&written.bytes, expected.as_flattened());
        }
    }
}

#[test]
fn other_errors_are_not_a_full_disk() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::PermissionDenied.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut worker = Worker::new(STATEMENT, params(1), &Checkpoint::start(), vec![Broken]).unwrap();
    let error = worker.run(2).unwrap_err();
    assert!(!error.is_disk_full());
    assert_eq!((error.layer, error.leaf), (0, 2));
}
