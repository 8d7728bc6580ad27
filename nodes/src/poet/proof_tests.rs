//! True proofs are taken, and nothing else: no changed byte, no tree that was not computed.

use super::*;
use crate::poet::store::{RoundDir, StateWrites};
use crate::poet::work::{Checkpoint, Progress, Worker};
use proptest::prelude::*;
use tempfile::TempDir;

fn key() -> SigningKey {
    SigningKey::from_bytes(&[4; 32])
}

fn members() -> Members {
    Members::new((0..12).map(|member| [member; 32])).unwrap()
}

/// A finished round in a directory of its own.
struct Round {
    dir: RoundDir,
    params: Params,
    memory: u32,
    _keep: TempDir,
}

impl Round {
    fn run(params: Params, memory: u32) -> Self {
        let keep = tempfile::tempdir().unwrap();
        let dir = RoundDir::new(keep.path(), 3, StateWrites::Atomic);
        dir.create().unwrap();
        let start = Checkpoint::start();
        let files = dir.layers(params, memory, &start).unwrap();
        let mut worker = Worker::new(members().statement(), params, &start, files).unwrap();
        let done = worker.run(u64::MAX).unwrap();
        assert!(matches!(done, Progress::Done { .. }));
        Self {
            dir,
            params,
            memory,
            _keep: keep,
        }
    }

    fn tree(&self) -> Tree {
        let statement = members().statement();
        self.dir.tree(statement, self.params, self.memory).unwrap()
    }

    fn prove(&self) -> Proof {
        Proof::make(&self.tree(), members(), 3, &key()).unwrap()
    }
}

/// The same proof, signed again after it was changed: what a lying PoET would publish.
fn lied(proof: &Proof, change: impl FnOnce(&mut Proof)) -> Proof {
    let mut lie = proof.clone();
    change(&mut lie);
    lie.signature = key().sign(&lie.signed()).to_bytes();
    lie
}

fn small() -> Params {
    Params::new(6, 3, 9).unwrap()
}

#[test]
fn a_round_of_2020s_numbers() {
    let round = Round::run(Params::DEFAULT, 0);
    let proof = round.prove();
    assert_eq!(proof.verify(Params::DEFAULT), Ok(()));
    let bytes = proof.encode();
    assert_eq!(Proof::decode(&bytes), Ok(proof.clone()));
    let fields = 32 + 4 + 8 + 32 + 3 * 4 + 64;
    assert_eq!(bytes.len(), fields + 32 * (150 + proof.siblings.len() + 12));
    // 742 on average over all roots, with a standard deviation of 13.
    assert!(
        (600..900).contains(&proof.siblings.len()),
        "{}",
        proof.siblings.len()
    );
    assert_ne!(
        proof.reference(),
        lied(&proof, |lie| lie.round = 4).reference()
    );
}

#[test]
fn what_lies_in_memory_changes_no_proof() {
    for log2_leaves in [1, 2, 5, 6] {
        let params = Params::new(log2_leaves, 2, 2).unwrap();
        let proof = Round::run(params, 0).prove();
        assert_eq!(proof.verify(params), Ok(()));
        for memory in [1, 2, 4, 26] {
            let round = Round::run(params, memory);
            let files = fs_err::read_dir(round.dir.path()).unwrap().count();
            assert_eq!(files, params.layers_on_disk(memory) as usize);
            assert_eq!(round.prove(), proof, "n {log2_leaves}, memory {memory}");
        }
    }
}

#[test]
fn all_leaves_of_a_small_tree_can_be_opened() {
    // With the 8-bit counter of 2020 this does not end.
    let params = Params::new(7, 2, 128).unwrap();
    let proof = Round::run(params, 0).prove();
    assert_eq!((proof.labels.len(), proof.siblings.len()), (128, 0));
    assert_eq!(proof.verify(params), Ok(()));
}

#[test]
fn drawn_leaves_are_distinct_and_the_roots_own() {
    let drawn = draw(&[1; 32], Params::DEFAULT).unwrap();
    assert_eq!(drawn.len(), 150);
    assert!(drawn.iter().all(|leaf| *leaf < 8192));
    assert_ne!(drawn, draw(&[2; 32], Params::DEFAULT).unwrap());
}

#[test]
fn no_flipped_bit_of_a_proof_is_accepted() {
    let proof = Round::run(small(), 0).prove();
    let mut bytes = proof.encode();
    for place in 0..bytes.len() {
        for bit in [1, 0x80] {
            bytes[place] ^= bit;
            let taken = Proof::decode(&bytes).and_then(|proof| proof.verify(small()));
            assert!(taken.is_err(), "byte {place}");
            bytes[place] ^= bit;
        }
        assert!(
            Proof::decode(&bytes[..place]).is_err(),
            "the first {place} bytes"
        );
    }
    assert_eq!(
        Proof::decode(&bytes).and_then(|proof| proof.verify(small())),
        Ok(())
    );
    bytes.push(0);
    assert!(Proof::decode(&bytes).is_err(), "a byte too many");
}

#[test]
fn a_lie_is_found_even_when_the_poet_signs_it() {
    let true_one = Round::run(small(), 0).prove();
    assert_eq!(
        lied(&true_one, |_| ()).verify(small()),
        Ok(()),
        "signing again is no lie"
    );
    for label in 0..true_one.labels.len() {
        let lie = lied(&true_one, |lie| lie.labels[label][31] ^= 1);
        assert_eq!(lie.verify(small()), Err(ProofError::Root), "label {label}");
    }
    for sibling in 0..true_one.siblings.len() {
        let lie = lied(&true_one, |lie| lie.siblings[sibling][0] ^= 1);
        assert_eq!(
            lie.verify(small()),
            Err(ProofError::Root),
            "sibling {sibling}"
        );
    }
    let lie = lied(&true_one, |lie| {
        lie.members = Members::new([[77; 32]]).unwrap();
    });
    assert!(lie.verify(small()).is_err(), "other members");
    let lie = lied(&true_one, |lie| {
        let all = lie.members.as_slice().iter().copied().chain([[77; 32]]);
        lie.members = Members::new(all).unwrap();
    });
    assert!(lie.verify(small()).is_err(), "one member more");
    let lie = lied(&true_one, |lie| lie.root[0] ^= 1);
    assert!(lie.verify(small()).is_err(), "another root");
    let lie = lied(&true_one, |lie| lie.leaves = 128);
    assert_eq!(
        lie.verify(small()),
        Err(ProofError::Leaves {
            have: 128,
            need: 64
        })
    );
    let lie = lied(&true_one, |lie| {
        lie.siblings.truncate(lie.siblings.len() - 1);
    });
    assert!(
        matches!(lie.verify(small()), Err(ProofError::Siblings { .. })),
        "too few siblings"
    );
    let lie = lied(&true_one, |lie| lie.siblings.push([0; 32]));
    assert!(
        matches!(lie.verify(small()), Err(ProofError::Siblings { .. })),
        "too many siblings"
    );
    let lie = lied(&true_one, |lie| lie.labels.truncate(8));
    assert_eq!(
        lie.verify(small()),
        Err(ProofError::Openings { have: 8, need: 9 })
    );
}

#[test]
fn another_network_or_another_poet_is_refused() {
    let proof = Round::run(small(), 0).prove();
    for (n, depth, openings) in [(7, 3, 9), (6, 4, 9), (6, 2, 9), (6, 3, 8)] {
        let params = Params::new(n, depth, openings).unwrap();
        assert!(proof.verify(params).is_err(), "{params:?}");
    }
    let service = SigningKey::from_bytes(&[5; 32]).verifying_key().to_bytes();
    let stolen = Proof { service, ..proof };
    assert_eq!(
        stolen.verify(small()),
        Err(ProofError::Signature { service })
    );
}

/// A tree whose labels were not computed one after the other folds to its root all the same: only the
/// labels themselves tell.
#[test]
fn a_tree_without_the_work_is_refused() {
    let round = Round::run(small(), 0);
    let statement = members().statement();
    let mut nodes: Vec<Node> = (0..64_u8).map(|label| [label; 32]).collect();
    for layer in 0..6 {
        let path = crate::poet::tree::layer_path(round.dir.path(), layer);
        fs_err::write(path, nodes.as_flattened()).unwrap();
        let pairs = nodes
            .chunks(2)
            .map(|two| hash::inner(&statement, &two[0], &two[1]));
        nodes = pairs.collect();
    }
    let forged = round.prove();
    assert!(matches!(
        forged.verify(small()),
        Err(ProofError::Label { .. })
    ));
}

#[test]
fn damaged_layers_make_no_proof() {
    let round = Round::run(small(), 0);
    let layer = |layer| crate::poet::tree::layer_path(round.dir.path(), layer);
    for number in 0..6 {
        let whole = fs_err::read(layer(number)).unwrap();
        let open = || round.dir.tree(members().statement(), small(), 0);
        fs_err::write(layer(number), &whole[..whole.len() - 1]).unwrap();
        let error = open().unwrap_err().to_string();
        assert!(
            error.contains(&format!("layercache_{number}.bin")),
            "{error}"
        );
        fs_err::write(layer(number), [whole.as_slice(), &[0; 32]].concat()).unwrap();
        assert!(open().is_err());
        let mut damaged = whole.clone();
        for byte in &mut damaged {
            *byte ^= 1;
        }
        fs_err::write(layer(number), damaged).unwrap();
        // All nodes of the layer are wrong, so any that is read shows it; the proof may need none.
        if let Ok(proof) = Proof::make(&open().unwrap(), members(), 3, &key()) {
            assert_eq!(proof.verify(small()), Ok(()), "layer {number}");
            assert!((1..5).contains(&number), "layer {number}");
        }
        fs_err::write(layer(number), whole).unwrap();
    }
    assert_eq!(round.prove().verify(small()), Ok(()));
    let others = Members::new([[1; 32]]).unwrap();
    let made = Proof::make(&round.tree(), others, 3, &key());
    assert!(matches!(made, Err(ProveError::Members { round: 3 })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_bytes_decode_or_are_refused(
        head in prop::collection::vec(any::<u8>(), 76),
        tail in prop::collection::vec(any::<u8>(), 0..400),
        labels in 0_u32..4,
    ) {
        let bytes = [head.as_slice(), &labels.to_be_bytes(), &tail].concat();
        if let Ok(proof) = Proof::decode(&bytes) {
            prop_assert_eq!(proof.encode(), bytes);
            prop_assert!(proof.verify(small()).is_err());
        }
    }

    #[test]
    fn any_change_of_a_true_proof_is_refused(place in 0_usize..1500, flip in 1_u8..) {
        thread_local! {
            static BYTES: Vec<u8> = Round::run(small(), 0).prove().encode();
        }
        let mut bytes = BYTES.with(Clone::clone);
        let place = place % bytes.len();
        bytes[place] ^= flip;
        let taken = Proof::decode(&bytes).and_then(|proof| proof.verify(small()));
        prop_assert!(taken.is_err());
    }
}
