//! Single things that come: early, late, twice, false, and before what they depend on.

use super::super::{Effect, Origin, Validity};
use super::world::World;
use crate::protocol::atx::tests::{atx, proof};
use crate::protocol::block::Block;
use crate::protocol::eligibility::own_slots;
use crate::protocol::genesis::tests::key;
use crate::protocol::{atx_gossip, block_gossip};

/// Effects by kind: topics of gossip, names of events.
fn seen(world: &mut World, n: usize) -> Vec<String> {
    let effects = world.mesh(n).take_effects();
    let name = |effect: &Effect| match effect {
        Effect::Gossip { topic, .. } => format!("topic {topic}"),
        Effect::Event { name, .. } => (*name).to_owned(),
    };
    effects.iter().map(name).collect()
}

#[test]
fn what_waits_is_passed_on_once_all_it_depends_on_is_here() {
    let mut world = World::new(4, 1, 1);
    world.live_until(8);
    let genesis = world.genesis.clone();
    let proof = proof(&genesis, 77, 2);
    let atx = atx(&genesis, &proof, &key(1));
    let slot = own_slots(&genesis, &key(1), 3).unwrap()[0];
    let block = Block::sign(&key(1), genesis.netid, &slot, Some(atx.id()), []);
    world.layer = slot.layer;
    world.tick(4);
    world.mesh(4).take_effects();

    let mesh = world.mesh(4);
    assert_eq!(mesh.block(&block.encode(), Origin::Gossip), Validity::Waits);
    assert_eq!(mesh.atx(&atx.encode(), Origin::Gossip), Validity::Waits);
    assert_eq!(mesh.waiting(), (1, 1));
    let request = mesh.request();
    assert_eq!(request.want_proofs, [proof.reference()]);
    assert!(request.want_atxs.is_empty(), "it is here, and waits itself");
    assert_eq!(mesh.proof(&proof.encode(), Origin::Pull), Validity::Valid);
    assert_eq!(mesh.waiting(), (0, 0));
    let (atxs, blocks) = (atx_gossip::TOPIC, block_gossip::TOPIC);
    assert_eq!(
        seen(&mut world, 4),
        [
            "proof-held".to_owned(),
            format!("topic {blocks}"),
            format!("topic {atxs}")
        ]
    );
    let mesh = world.mesh(4);
    assert_eq!(mesh.atx_targeting(&atx.node, 3), Some(atx.id()));
    assert_eq!(mesh.latest_atx_of(&atx.node).unwrap().1, atx);
    assert_eq!(mesh.proof_of(&proof.service, 2).as_deref(), Some(&proof));
}

#[test]
fn a_second_atx_of_an_identity_for_an_epoch_is_reported_once_and_the_first_stays() {
    let mut world = World::new(4, 1, 2);
    world.live_until(9);
    let genesis = world.genesis.clone();
    let first = world.mesh(4).atx_targeting(&genesis.voters[1], 3).unwrap();
    for (service, verdict) in [(77, Validity::Valid), (78, Validity::OutOfTime)] {
        let proof = proof(&genesis, service, 2);
        let second = atx(&genesis, &proof, &key(1));
        let mesh = world.mesh(4);
        mesh.proof(&proof.encode(), Origin::Gossip);
        assert_eq!(mesh.atx(&second.encode(), Origin::Gossip), verdict);
        assert_eq!(mesh.atx_targeting(&genesis.voters[1], 3), Some(first));
    }
    let doubles = seen(&mut world, 4);
    assert_eq!(
        doubles.iter().filter(|name| *name == "double-atx").count(),
        1
    );
}

#[test]
fn what_is_false_is_refused_and_what_is_early_or_late_is_neither_kept_nor_refused() {
    let mut world = World::new(4, 1, 3);
    world.live_until(9);
    let genesis = world.genesis.clone();
    let good = proof(&genesis, 77, 2);
    let mut false_proof = good.clone();
    false_proof.root[0] ^= 1;
    let early_proof = proof(&genesis, 77, 9);
    let early_atx = atx(&genesis, &early_proof, &key(1));
    let early_slot = own_slots(&genesis, &key(1), 5).unwrap()[0];
    let early_block = Block::sign(
        &key(1),
        genesis.netid,
        &early_slot,
        Some(early_atx.id()),
        [],
    );
    let late_slot = own_slots(&genesis, &key(1), 0).unwrap()[0];
    let transactions = world.mesh(1).transactions_for(9);
    let late_block = Block::sign(&key(1), genesis.netid, &late_slot, None, transactions);
    let mesh = world.mesh(4);
    let table = [
        (
            mesh.proof(b"what", Origin::Gossip),
            Validity::Invalid("proof-malformed"),
        ),
        (
            mesh.proof(&false_proof.encode(), Origin::Gossip),
            Validity::Invalid("proof-false"),
        ),
        (
            mesh.proof(&early_proof.encode(), Origin::Gossip),
            Validity::OutOfTime,
        ),
        (
            mesh.atx(b"what", Origin::Gossip),
            Validity::Invalid("atx-malformed"),
        ),
        (
            mesh.atx(&early_atx.encode(), Origin::Gossip),
            Validity::OutOfTime,
        ),
        (
            mesh.block(b"what", Origin::Gossip),
            Validity::Invalid("block-malformed"),
        ),
        (
            mesh.block(&early_block.encode(), Origin::Gossip),
            Validity::OutOfTime,
        ),
        (
            mesh.block(&late_block.encode(), Origin::Gossip),
            Validity::OutOfTime,
        ),
        (
            mesh.vote(b"what", Origin::Gossip),
            Validity::Invalid("vote-malformed"),
        ),
    ];
    for (n, (verdict, expected)) in table.into_iter().enumerate() {
        assert_eq!(verdict, expected, "row {n}");
    }
    assert_eq!(mesh.waiting(), (0, 0));
}

#[test]
fn a_challenge_that_was_registered_is_looked_for_in_its_proof() {
    let mut world = World::new(4, 1, 4);
    world.live_until(5);
    let genesis = world.genesis.clone();
    let proof = proof(&genesis, 77, 1);
    let member = crate::protocol::atx::challenge(genesis.netid, &genesis.voters[0], 1);
    for (n, registered, told) in [
        (0, Some(member), serde_json::json!(true)),
        (1, Some([5; 32]), serde_json::json!(false)),
        (4, None, serde_json::Value::Null),
    ] {
        let mesh = world.mesh(n);
        if let Some(challenge) = registered {
            mesh.register(proof.service, 1, challenge);
        }
        mesh.proof(&proof.encode(), Origin::Gossip);
        let effects = mesh.take_effects();
        let Some(Effect::Event {
            name: "proof-held",
            fields,
        }) = effects.first()
        else {
            panic!("{effects:?}");
        };
        assert_eq!(fields["member"], told, "node {n}");
        assert_eq!(fields["ref"], hex::encode(proof.reference()));
    }
}

#[test]
fn the_blocks_of_a_slot_that_are_kept_unasked_are_two_and_give_one_reward() {
    let mut world = World::new(4, 1, 5);
    world.live_until(4);
    let genesis = world.genesis.clone();
    let slot = own_slots(&genesis, &key(1), 1).unwrap()[0];
    // The miner itself makes none.
    world.kill(1);
    let blocks: Vec<Block> = (0..3)
        .map(|index| {
            let transaction =
                crate::protocol::transaction::Transaction::of_layer(&genesis, &key(2), 900, index);
            Block::sign(&key(1), genesis.netid, &slot, None, [transaction])
        })
        .collect();
    let verdicts: Vec<Validity> = blocks
        .iter()
        .map(|block| world.mesh(4).block(&block.encode(), Origin::Gossip))
        .collect();
    assert_eq!(
        verdicts,
        [Validity::Valid, Validity::Valid, Validity::OutOfTime]
    );
    for block in &blocks[..2] {
        for n in [0, 2, 3] {
            world.mesh(n).block(&block.encode(), Origin::Gossip);
        }
    }
    world.live_until(10);
    world.assert_going();
    let balance: u64 = world
        .mesh(4)
        .state
        .accounts()
        .values()
        .map(|a| a.balance)
        .sum();
    let blocks: u64 = world.nodes[4]
        .events
        .iter()
        .filter(|(name, _)| *name == "layer-verified")
        .map(|(_, fields)| fields["blocks"].as_u64().unwrap())
        .sum();
    assert!(balance < blocks * 50, "{blocks} blocks gave {balance}");
}
