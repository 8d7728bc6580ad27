//! The stalls that plans assert: who is missing, what freezes, what goes on, and that it recovers
//! by itself.

use std::collections::BTreeSet;

use super::super::message::Layer;
use super::super::rules::Rules;
use super::super::voters::Voter;
use super::Dice;
use super::world::{EPOCH_LAYERS, Fault, LAYER, World};

/// The layers in which something is missing, in a network that is calm otherwise.
const FROM: Layer = 12;
const TO: Layer = 36;
/// Layers after `FROM` in which what was under way may still be decided.
const UNDER_WAY: Layer = 2;
/// Ticks that a decision takes in a calm network, at most, from the start of agreement.
const CALM_TICKS_MAX: Layer = 4;
/// Ticks that a frozen layer may take once everything is back.
const RECOVERY_TICKS_MAX: Layer = 20;

fn calm(purpose: &str) -> World {
    World::new(Rules::REAL, 12, &[], Dice::new(purpose, 1))
}

/// Runs to a layer with no reason to stop before.
fn run_to(world: &mut World, layer: Layer) {
    world.run_until(layer, |_| false);
    assert!(
        world.judge.violations.is_empty(),
        "{:?}",
        world.judge.violations
    );
}

/// Layers of a range that some node has decided by now.
fn decided(world: &World, layers: std::ops::Range<Layer>) -> Vec<Layer> {
    layers
        .filter(|layer| world.judge.decided(*layer).is_some())
        .collect()
}

/// Checks that each of these voters voted, as soon as it could, on every layer of a range.
fn assert_current_goes_on(world: &World, voters: &[u8], layers: std::ops::Range<Layer>) {
    for layer in layers {
        for voter in voters {
            let at = world.voted_at.get(&(Voter(*voter), layer));
            let due = u64::from(layer + 3) * LAYER;
            assert!(
                at.is_some_and(|at| *at < due),
                "voter {voter}, layer {layer}: voted {at:?}"
            );
        }
    }
}

/// Checks that nothing between `FROM` and `TO` was decided, then lets the network recover and
/// checks that everything was.
fn assert_frozen_then_recovers(world: &mut World) {
    run_to(world, TO);
    let open = FROM + UNDER_WAY..TO;
    assert!(
        decided(world, open.clone()).is_empty(),
        "decided without a quorum"
    );
    run_to(world, TO + RECOVERY_TICKS_MAX);
    for layer in 0..TO {
        assert!(world.all_decided(layer), "layer {layer} is still open");
    }
    assert_keeps_up(world);
}

fn assert_keeps_up(world: &World) {
    let last = world.layer() - 2 - CALM_TICKS_MAX;
    assert!(
        world.all_decided(last),
        "layer {last} is open at {}",
        world.layer()
    );
}

fn crash(world: &mut World, nodes: std::ops::Range<usize>) {
    for node in nodes {
        world.at(FROM, Fault::Crash(node));
        world.at(
            TO,
            Fault::Restart {
                node,
                log_lost: false,
                all_lost: false,
            },
        );
    }
}

#[test]
fn a_calm_network_decides_every_layer_at_once() {
    let mut world = calm("calm");
    run_to(&mut world, TO);
    for layer in 0..TO - 2 - CALM_TICKS_MAX {
        assert!(world.all_decided(layer), "layer {layer}");
    }
    let late = world
        .decided_at
        .iter()
        .filter(|((_, layer), at)| **at > u64::from(layer + 2 + CALM_TICKS_MAX) * LAYER);
    assert_eq!(late.count(), 0);
}

#[test]
fn nine_of_twelve_go_on() {
    let mut world = calm("nine");
    crash(&mut world, 9..12);
    run_to(&mut world, TO);
    assert_keeps_up(&world);
}

#[test]
fn eight_of_twelve_freeze_while_the_current_layer_goes_on() {
    let mut world = calm("eight");
    crash(&mut world, 8..12);
    run_to(&mut world, TO);
    assert_current_goes_on(&world, &[0, 3, 7], FROM..TO - 3);
    assert_frozen_then_recovers(&mut world);
}

#[test]
fn splits_freeze_and_then_decide_with_the_blocks_of_both_sides() {
    for (left, name) in [(6, "six-six"), (4, "four-eight")] {
        let mut world = calm(name);
        let side = |voter: usize| usize::from(voter >= left);
        world.at(FROM, Fault::Split((0..12).map(side).collect()));
        world.at(TO, Fault::Split(Vec::new()));
        run_to(&mut world, TO);
        assert_current_goes_on(&world, &[0, 3, 4, 11], FROM..TO - 3);
        assert_frozen_then_recovers(&mut world);
        let mut both = 0;
        for layer in FROM + UNDER_WAY..TO - 3 {
            let made = &world.judge.made[&layer];
            let set = world.judge.decided(layer).unwrap();
            assert_eq!(
                set.ids().iter().copied().collect::<BTreeSet<_>>(),
                *made,
                "{name} {layer}"
            );
            let sides: BTreeSet<_> = made.iter().map(|id| side(usize::from(id.0[4]))).collect();
            both += u32::from(sides.len() == 2);
        }
        assert!(
            both > 10,
            "{name}: only {both} layers had blocks of both sides"
        );
    }
}

#[test]
fn voters_without_atxs_freeze_the_network_until_they_have_them() {
    // ATXs of an epoch are made in the one before; without them from the start of an epoch on.
    let missing: BTreeSet<Voter> = (8..12).map(Voter).collect();
    let (from, to) = (2 * EPOCH_LAYERS, 4 * EPOCH_LAYERS);
    let mut world = calm("atxs");
    world.at(from - EPOCH_LAYERS, Fault::NoAtxs(missing));
    world.at(to - EPOCH_LAYERS, Fault::NoAtxs(BTreeSet::new()));
    run_to(&mut world, to);
    // Layers of which a quorum spoke before the epoch began are decided; those after are not.
    assert!(decided(&world, from..to).is_empty());
    assert_current_goes_on(&world, &[0, 7], from..to - 3);
    assert!(
        !world.voted_at.contains_key(&(Voter(11), from)),
        "spoke without an ATX"
    );
    run_to(&mut world, to + RECOVERY_TICKS_MAX);
    for layer in 0..to {
        assert!(world.all_decided(layer), "layer {layer} is still open");
    }
    assert_keeps_up(&world);
}

#[test]
fn more_lost_logs_than_f_leave_open_layers_open_and_no_others() {
    let mut world = calm("logs");
    let frozen = FROM..FROM + 6;
    for node in 8..12 {
        world.at(frozen.start, Fault::Crash(node));
        world.at(
            frozen.end,
            Fault::Restart {
                node,
                log_lost: true,
                all_lost: false,
            },
        );
    }
    run_to(&mut world, TO + RECOVERY_TICKS_MAX);
    let open: Vec<Layer> = (0..TO)
        .filter(|layer| world.judge.decided(*layer).is_none())
        .collect();
    assert!(open.contains(&(frozen.start + UNDER_WAY)), "{open:?}");
    assert!(
        open.iter()
            .all(|layer| (frozen.start - 4..=frozen.end + 1).contains(layer)),
        "{open:?}"
    );
    assert_keeps_up(&world);
}

#[test]
fn up_to_f_lost_logs_leave_nothing_open() {
    let mut world = calm("few logs");
    for node in 9..12 {
        world.at(FROM, Fault::Crash(node));
        world.at(
            FROM + 6,
            Fault::Restart {
                node,
                log_lost: true,
                all_lost: true,
            },
        );
    }
    run_to(&mut world, TO);
    assert!((0..TO - 6).all(|layer| world.all_decided(layer)));
}

#[test]
fn a_long_stall_keeps_little_per_layer_and_heals() {
    let mut world = calm("long");
    let to = FROM + 200;
    for node in 8..12 {
        world.at(FROM, Fault::Crash(node));
        world.at(
            to,
            Fault::Restart {
                node,
                log_lost: false,
                all_lost: false,
            },
        );
    }
    run_to(&mut world, to);
    let machine = &world.nodes[0].machine;
    let layers = machine.open_layers().count();
    // Eight voters, each with one vote in round 1 of every layer; none can end the round.
    assert!(
        machine.messages_kept() <= layers * 8 + 8 * 4,
        "{}",
        machine.messages_kept()
    );
    // 200 layers at 64 per pull, the four each busy with 64 starts per tick.
    run_to(&mut world, to + 2 * RECOVERY_TICKS_MAX);
    for layer in 0..to {
        assert!(world.all_decided(layer), "layer {layer} is still open");
    }
    assert_keeps_up(&world);
}
