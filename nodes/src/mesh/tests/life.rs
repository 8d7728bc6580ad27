//! Networks that live: layers are verified, roots agree, and what was lost comes back.

use super::world::World;

fn rewards(world: &mut World, n: usize) -> usize {
    let events = &world.nodes[n].events;
    let verified = events.iter().filter(|(name, _)| *name == "layer-verified");
    verified
        .map(|(_, fields)| usize::try_from(fields["blocks"].as_u64().unwrap()).unwrap())
        .sum()
}

#[test]
fn a_calm_network_verifies_every_layer_two_layers_later_and_coins_move() {
    let mut world = World::new(4, 1, 1);
    world.live_until(24);
    for n in 0..5 {
        assert_eq!(world.verified(n), 21, "node {n}");
        assert_eq!(world.count(n, "proof-held"), 6);
        assert_eq!(
            world.count(n, "equivocation") + world.count(n, "double-atx"),
            0
        );
    }
    assert!(rewards(&mut world, 4) >= 22);
    let balances: Vec<u64> = world
        .mesh(4)
        .state
        .accounts()
        .values()
        .map(|account| account.balance)
        .collect();
    assert!(
        balances.iter().any(|balance| balance % 50 != 0),
        "nothing but rewards: {balances:?}"
    );
}

#[test]
fn a_network_that_loses_much_goes_on_by_pull() {
    for (loss, seed) in [(20, 2), (50, 3)] {
        let mut world = World::new(4, 2, seed);
        world.loss = loss;
        world.live_until(40);
        world.loss = 0;
        world.live_until(48);
        world.assert_going();
    }
}

#[test]
fn restarts_at_any_point_never_contradict_and_roots_stay() {
    for seed in 10..16 {
        let mut world = World::new(4, 1, seed);
        world.loss = 15;
        while world.layer < 40 {
            let n = usize::try_from(world.roll(5)).unwrap();
            match world.roll(6) {
                // Killed at a layer's end, or in the middle of one: votes were saved and not sent.
                0 => world.kill(n),
                1 => {
                    if let Some(mesh) = &mut world.nodes[n].mesh {
                        mesh.tick(world.layer, true);
                        world.kill(n);
                    }
                }
                _ => {}
            }
            // One of four may be away; with more, nothing is decided until they are back.
            if world.roll(2) == 0 {
                for n in 0..5 {
                    if world.nodes[n].mesh.is_none() {
                        world.start(n);
                    }
                }
            }
            if world.nodes.iter().any(|node| node.mesh.is_some()) {
                world.live();
            } else {
                world.layer += 1;
            }
        }
        for n in 0..5 {
            if world.nodes[n].mesh.is_none() {
                world.start(n);
            }
        }
        world.loss = 0;
        world.live_until(70);
        world.assert_going();
    }
}

#[test]
fn a_node_that_lost_all_or_its_log_or_its_database_catches_up() {
    for (seed, lost) in [
        (20, &["mesh.redb", "voter.log"][..]),
        (21, &["voter.log"]),
        (22, &["mesh.redb"]),
    ] {
        let mut world = World::new(4, 1, seed);
        world.live_until(40);
        for n in [0, 4] {
            world.kill(n);
            for name in lost {
                // A node that does not vote has no log.
                let _ = fs_err::remove_file(world.nodes[n].dir.path().join(name));
            }
        }
        world.live_until(44);
        for n in [0, 4] {
            world.start(n);
        }
        world.live_until(52);
        world.assert_going();
    }
}

#[test]
fn files_that_were_damaged_are_set_aside_and_the_node_catches_up() {
    let mut world = World::new(4, 0, 25);
    world.live_until(16);
    for round in 0..24 {
        let name = ["mesh.redb", "voter.log"][round % 2];
        world.kill(0);
        let path = world.nodes[0].dir.path().join(name);
        let mut bytes = fs_err::read(&path).unwrap();
        if world.roll(3) == 0 {
            let len = world.roll(bytes.len() as u64);
            bytes.truncate(usize::try_from(len).unwrap());
        } else {
            let at = usize::try_from(world.roll(bytes.len() as u64)).unwrap();
            bytes[at] ^= 0x10;
        }
        fs_err::write(&path, &bytes).unwrap();
        // Without its head, or whole where nothing lay, it may well be as good as before; what must not
        // happen is that it says something else than before, or nothing any more.
        world.start(0);
        world.live_until(world.layer + 8);
        world.assert_going();
    }
    assert!(world.count(0, "mesh-set-aside") >= 8);
}

#[test]
fn an_empty_node_catches_up_with_a_long_past_in_one_chain_of_bounded_answers() {
    let mut world = World::new(4, 1, 30);
    world.kill(4);
    world.live_until(160);
    fs_err::remove_file(world.nodes[4].dir.path().join("mesh.redb")).unwrap();
    world.start(4);
    assert!(!world.mesh(4).is_synced(), "it has heard nobody");
    world.tick(4);
    let exchanges = world.pull_from(4, 0);
    assert!(
        exchanges > 5,
        "{exchanges} exchanges: answers are not bounded"
    );
    assert!(
        world.verified(4) + 4 >= world.layer,
        "{} after {exchanges} exchanges",
        world.verified(4)
    );
    assert!(world.mesh(4).is_synced());
    world.live_until(164);
    world.assert_going();
}

#[test]
fn without_a_quorum_verified_stands_and_current_goes_on_and_both_halves_blocks_count_later() {
    let mut world = World::new(4, 1, 40);
    world.live_until(20);
    world.groups = vec![0, 0, 1, 1, 1];
    world.live_until(30);
    for n in 0..5 {
        assert!(world.verified(n) < 20, "node {n}: {}", world.verified(n));
        assert!(
            world.mesh(n).is_synced(),
            "it has what its peers have, and goes on making blocks"
        );
    }
    world.groups = vec![0; 5];
    world.live_until(44);
    world.assert_going();
    assert!(rewards(&mut world, 4) >= 35);
}

#[test]
fn without_atxs_for_more_than_f_voters_verified_stands_until_they_are_back() {
    let mut world = World::new(4, 0, 50);
    world.live_until(12);
    world.proofs_stop = true;
    world.live_until(32);
    for n in 0..4 {
        // The last proof came in epoch 2 and serves epoch 3.
        assert!(
            (12..=16).contains(&world.verified(n)),
            "{}",
            world.verified(n)
        );
    }
    world.proofs_stop = false;
    world.live_until(50);
    world.assert_going();
}

#[test]
fn a_cloned_disk_is_an_equivocator_that_everybody_reports() {
    let mut world = World::new(4, 0, 60);
    world.live_until(10);
    // The state of now, before the node says more.
    world.kill(0);
    let copy = tempfile::tempdir().unwrap();
    for name in ["mesh.redb", "voter.log"] {
        fs_err::copy(world.nodes[0].dir.path().join(name), copy.path().join(name)).unwrap();
    }
    world.start(0);
    world.live_until(16);
    world.kill(0);
    // Rolled back, all of it: nothing on this disk knows better.
    world.nodes[0].dir = copy;
    world.expect_lies_of(0);
    world.start(0);
    world.live_until(24);
    world.assert_going();
}
