//! What the database gives back: before and after a commit, after a restart, and when it is damaged.

use super::*;
use crate::protocol::agreement::{BlockSet, Voter};
use crate::protocol::atx::tests::{atx, proof};
use crate::protocol::eligibility::own_slots;
use crate::protocol::genesis::tests::{key, sample};
use fs_err as fs;
use proptest::prelude::*;

fn open(dir: &Path, genesis: &Genesis) -> Store {
    let opened = Store::open(dir, genesis).unwrap();
    assert!(opened.aside.is_none(), "{:?}", opened.aside);
    opened.store
}

fn decision(layer: Layer) -> Decision {
    let set = BlockSet::new([BlockId([1; 32]), BlockId([2; 32])]);
    Decision {
        round: 2,
        set,
        commits: vec![
            (Voter(0), layer / 4, [7; 64]),
            (Voter(3), layer / 4 + 1, [8; 64]),
        ],
    }
}

/// Everything that a store says about one of each.
fn seen(store: &mut Store, genesis: &Genesis) -> Vec<String> {
    let node = key(1).verifying_key().to_bytes();
    let proof_5 = proof(genesis, 77, 5);
    let reference = proof_5.reference();
    vec![
        format!("{:?}", store.proof(&reference).as_deref() == Some(&proof_5)),
        format!(
            "{:?}",
            store.proof_of(&proof_5.service, 5) == Some(reference)
        ),
        format!("{:?}", store.proofs_of_round(5).len()),
        format!("{:?}", store.proofs_of_round(4).len()),
        format!("{:?}", store.atx_of(6, &node)),
        format!("{:?}", store.latest_atx(&node)),
        format!("{:?}", store.atxs_of_epoch(6).len()),
        format!("{:?}", store.atxs_from(3).len()),
        format!(
            "{:?}",
            (store.block_ids(25).len(), store.blocks_from(3).len())
        ),
        format!("{:?}", store.decision(9) == Some(decision(9))),
        format!("{:?}", store.decided()),
        format!("{:?} {:?}", store.last_applied(), store.root(9)),
        format!("{:?}", store.accounts()),
        format!("{:?}", store.mark()),
    ]
}

fn fill(store: &mut Store, genesis: &Genesis) {
    let proof = proof(genesis, 77, 5);
    store.put_proof(proof.reference(), proof.clone());
    let atx = atx(genesis, &proof, &key(1));
    store.put_atx(atx.id(), &atx);
    let slot = own_slots(genesis, &key(1), 6).unwrap()[0];
    let slot = crate::protocol::eligibility::Slot { layer: 25, ..slot };
    let block = Block::sign(&key(1), genesis.netid, &slot, Some(atx.id()), []);
    store.put_block(&block.id(), &block);
    for layer in [4, 8, 9] {
        store.put_decision(layer, &decision(layer));
        store.put_root(layer, &[9; 32]);
    }
    let account = Account {
        balance: 5,
        ..Account::default()
    };
    store.put_account(&[4; 32], &account);
    store.put_mark(Mark {
        generation: 3,
        len: 400,
    });
}

#[test]
fn what_was_put_is_seen_at_once_and_after_a_commit_and_a_restart() {
    let (dir, genesis) = (tempfile::tempdir().unwrap(), sample(3));
    let mut store = open(dir.path(), &genesis);
    let nothing = seen(&mut store, &genesis);
    fill(&mut store, &genesis);
    let before = seen(&mut store, &genesis);
    assert_ne!(before, nothing);
    drop(store);

    let mut store = open(dir.path(), &genesis);
    assert_eq!(seen(&mut store, &genesis), nothing, "nothing was committed");
    fill(&mut store, &genesis);
    // An ATX for epoch 6 and a block of layer 25.
    for (layer, epoch, grounds) in [(24, 5, false), (25, 5, true), (24, 6, true)] {
        assert_eq!(store.has_unsaved_grounds(layer, epoch), grounds);
    }
    assert!(store.commit().unwrap());
    assert!(!store.commit().unwrap() && !store.has_unsaved_grounds(99, 99));
    assert_eq!(seen(&mut store, &genesis), before);
    drop(store);
    let mut store = open(dir.path(), &genesis);
    assert_eq!(seen(&mut store, &genesis), before);
    assert!(store.take_failure().is_none());
}

#[test]
fn the_first_of_two_stays_and_the_latest_is_the_latest() {
    let (dir, genesis) = (tempfile::tempdir().unwrap(), sample(3));
    let mut store = open(dir.path(), &genesis);
    let (early, late) = (proof(&genesis, 77, 5), proof(&genesis, 77, 6));
    let twin = proof(&genesis, 78, 5);
    let node = key(1).verifying_key().to_bytes();
    let first = atx(&genesis, &early, &key(1));
    let second = atx(&genesis, &twin, &key(1));
    let later = atx(&genesis, &late, &key(1));
    for atx in [&later, &first, &second] {
        store.put_atx(atx.id(), atx);
    }
    assert_eq!(store.atx_of(6, &node), Some(first.id()));
    assert_eq!(store.latest_atx(&node), Some((7, later.id())));
    assert_eq!(
        store.atx(&second.id()),
        Some(second),
        "it is kept, for who cites it"
    );
}

#[test]
fn a_database_of_another_network_or_a_damaged_one_is_set_aside() {
    let (dir, genesis) = (tempfile::tempdir().unwrap(), sample(3));
    let path = dir.path().join(NAME);
    let mut store = open(dir.path(), &genesis);
    fill(&mut store, &genesis);
    store.commit().unwrap();
    drop(store);
    let whole = fs::read(&path).unwrap();

    let mut opened = Store::open(dir.path(), &sample(4)).unwrap();
    let (why, aside) = opened.aside.unwrap();
    assert!(why.contains("another network"), "{why}");
    assert!(opened.store.decided().is_empty());
    assert!(fs::read(aside).unwrap().len() >= whole.len());
    drop(opened.store);

    for bad in [whole[..5000].to_vec(), vec![1; 8192], {
        let mut bad = whole.clone();
        // Wherever the data lies: every page behind the header gets a flipped bit.
        for at in (4096 + 100..bad.len()).step_by(4096) {
            bad[at] ^= 1;
        }
        bad
    }] {
        fs::write(&path, &bad).unwrap();
        let mut opened = Store::open(dir.path(), &genesis).unwrap();
        assert!(opened.aside.is_some());
        assert!(opened.store.decided().is_empty());
        fill(&mut opened.store, &genesis);
        opened.store.commit().unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_are_a_decision_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(decoded) = Decision::decode(&bytes) {
            prop_assert_eq!(decoded.encode(), bytes);
        }
    }

    #[test]
    fn decisions_round_trip(layer: u32, round in 1_u32.., ids in prop::collection::vec(any::<[u8; 32]>(), 0..5), voters in prop::collection::vec(any::<(u8, u32)>(), 1..9)) {
        let made = Decision {
            round,
            set: BlockSet::new(ids.into_iter().map(BlockId)),
            commits: voters.into_iter().map(|(voter, epoch)| (Voter(voter), epoch, [voter; 64])).collect(),
        };
        prop_assert_eq!(Decision::decode(&made.encode()).unwrap(), made.clone());
        prop_assert_eq!(Decision::of(&made.set, &made.messages(layer)), Some(made));
    }
}
