//! Activations: each part of one is looked at, and any change to one is noticed.

use super::super::genesis::tests::{key, sample};
use super::super::post;
use super::*;
use crate::poet::members::Members;
use crate::poet::store::{RoundDir, StateWrites};
use crate::poet::work::{Checkpoint, Worker};
use proptest::prelude::*;
use std::sync::OnceLock;

/// A true proof of round `round` whose members are all miners of `genesis`.
pub(crate) fn proof(genesis: &Genesis, service: u8, round: u32) -> Proof {
    let members = genesis
        .miners
        .iter()
        .map(|miner| challenge(genesis.netid, miner, round));
    let members = Members::new(members).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let dir = RoundDir::new(directory.path(), round, StateWrites::Atomic);
    dir.create().unwrap();
    let (statement, start) = (members.statement(), Checkpoint::start());
    let files = dir.layers(genesis.poet, 0, &start).unwrap();
    let mut worker = Worker::new(statement, genesis.poet, &start, files).unwrap();
    worker.run(u64::MAX).unwrap();
    let tree = dir.tree(statement, genesis.poet, 0).unwrap();
    Proof::make(
        &tree,
        members,
        round,
        &SigningKey::from_bytes(&[service; 32]),
    )
    .unwrap()
}

/// The activation that `proof` gives to the holder of `key`.
pub(crate) fn atx(genesis: &Genesis, proof: &Proof, key: &SigningKey) -> Atx {
    let node = key.verifying_key().to_bytes();
    let challenge = challenge(genesis.netid, &node, proof.round);
    let content = Content {
        netid: genesis.netid,
        node,
        epoch: proof.round,
        sequence: 0,
        previous: None,
        proof: proof.reference(),
        poet: proof.service,
        round: proof.round,
        membership: proof.members.membership(&challenge).unwrap(),
        post: Post::prove(&post::labels(&node), &proof.reference()).unwrap(),
    };
    Atx::sign(content, key)
}

fn example() -> &'static (Genesis, Proof, Atx) {
    static EXAMPLE: OnceLock<(Genesis, Proof, Atx)> = OnceLock::new();
    EXAMPLE.get_or_init(|| {
        let genesis = sample(3);
        let proof = proof(&genesis, 77, 5);
        proof.verify(genesis.poet).unwrap();
        let atx = atx(&genesis, &proof, &key(1));
        (genesis, proof, atx)
    })
}

fn verdict(atx: &Atx) -> Result<(), &'static str> {
    let (genesis, proof, _) = example();
    atx.verify_alone(genesis)?;
    atx.verify_with(proof, genesis)
}

#[test]
fn an_activation_is_good_and_targets_the_next_epoch() {
    let (_, _, atx) = example();
    assert_eq!(verdict(atx), Ok(()));
    assert_eq!((atx.epoch, atx.target_epoch()), (5, 6));
    let again = Atx::decode(&atx.encode()).unwrap();
    assert_eq!((&again, again.id()), (atx, atx.id()));
}

type Change<'a> = &'a dyn Fn(&mut Content);

#[test]
fn every_wrong_part_is_named() {
    let (genesis, proof_5, good) = example();
    let proof_6 = proof(genesis, 77, 6);
    let other_poet = proof(genesis, 78, 5);
    let table: [(&str, Change<'_>, &str); 10] = [
        ("netid", &|c| c.netid += 1, "atx-netid"),
        ("node", &|c| c.node = [9; 32], "atx-node"),
        (
            "another miner",
            &|c| c.node = key(2).verifying_key().to_bytes(),
            "atx-signature",
        ),
        ("epoch", &|c| c.epoch += 1, "atx-round"),
        ("sequence", &|c| c.sequence = 1, "atx-sequence"),
        (
            "previous",
            &|c| c.previous = Some(AtxId([0; 32])),
            "atx-sequence",
        ),
        ("proof", &|c| c.proof = proof_6.reference(), "atx-post"),
        (
            "poet",
            &|c| {
                c.poet = other_poet.service;
            },
            "atx-poet",
        ),
        (
            "membership",
            &|c| {
                let another = challenge(116, &key(2).verifying_key().to_bytes(), 5);
                c.membership = proof_5.members.membership(&another).unwrap();
            },
            "atx-membership",
        ),
        (
            "labels of another",
            &|c| {
                let labels = post::labels(&key(2).verifying_key().to_bytes());
                c.post = Post::prove(&labels, &c.proof).unwrap();
            },
            "atx-post",
        ),
    ];
    for (what, change, reason) in table {
        let mut content = good.content.clone();
        change(&mut content);
        assert_eq!(verdict(&Atx::sign(content, &key(1))), Err(reason), "{what}");
    }
    assert_eq!(good.verify_with(&proof_6, genesis), Err("atx-poet"));
    let twin = Proof {
        signature: [1; 64],
        ..proof_5.clone()
    };
    assert_eq!(good.verify_with(&twin, genesis), Err("atx-proof"));
}

#[test]
fn every_flipped_bit_is_noticed() {
    let (genesis, _, good) = example();
    let bytes = good.encode();
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        if let Ok(atx) = Atx::decode(&damaged) {
            assert!(atx.verify_alone(genesis).is_err(), "bit {bit}");
            assert_ne!(atx.id(), good.id());
        }
    }
}

#[test]
fn challenges_differ_by_network_node_and_epoch() {
    let all = [
        challenge(1, &[1; 32], 1),
        challenge(2, &[1; 32], 1),
        challenge(1, &[2; 32], 1),
        challenge(1, &[1; 32], 2),
    ];
    let distinct: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!(distinct.len(), all.len());
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(decoded) = Atx::decode(&bytes) {
            prop_assert_eq!(decoded.encode(), bytes);
        }
    }

    #[test]
    fn cut_and_lengthened_ones_are_refused(cut in 0..200_usize, tail in prop::collection::vec(any::<u8>(), 1..9)) {
        let bytes = example().2.encode();
        let cut = cut.min(bytes.len() - 1);
        prop_assert!(Atx::decode(&bytes[..cut]).is_err());
        prop_assert!(Atx::decode(&[bytes, tail].concat()).is_err());
    }
}
