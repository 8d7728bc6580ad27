//! Random faults in protocol time: safety throughout, and healing once the faults stop.

use super::super::rules::Rules;
use super::super::voters::{Voter, Voters};
use super::world::{Fault, LAYER, Malice, Weather, World};
use super::{Dice, schedules};

/// Ticks that a decision may take after everything is healed. Round r takes up to 3 r ticks (a
/// vote after r without its leader, none after r more, the next round after r more), liars may
/// lead f rounds in a row, and schedules heal in any round up to about 6.
const HEALING_TICKS_MAX: u64 = 60;
/// Layers that faults last.
const FAULTY_LAYERS: (usize, usize) = (6, 24);

/// What one schedule showed.
struct Outcome {
    /// Ticks to decide, from healing or from the start of agreement if that is later, over all
    /// nodes and layers.
    ticks: Vec<u64>,
    steps: u64,
}

/// Draws a schedule and runs it to its end.
fn run(count: usize, seed: u64) -> Outcome {
    let mut dice = Dice::new("campaign", seed);
    let voters = Voters::new(count).unwrap();
    let faulty = usize::try_from(voters.faulty_max()).unwrap();
    let liars_count = dice.within(0, faulty);
    let mut all: Vec<Voter> = voters.iter().collect();
    let liars: Vec<Voter> = (0..liars_count)
        .map(|_| all.remove(dice.below(all.len())))
        .collect();
    let logs_lost_max = dice.within(0, faulty - liars_count);
    let heal = u32::try_from(dice.within(FAULTY_LAYERS.0, FAULTY_LAYERS.1)).unwrap();
    let mut world = World::new(Rules::REAL, count, &liars, Dice::new("world", seed));
    if dice.percent(30) {
        world.add_follower();
    }
    world.malice = Malice {
        echo: *dice.pick(&[0, 30, 70, 100]).unwrap(),
        invent: *dice.pick(&[0, 20, 80]).unwrap(),
        heard: *dice.pick(&[30, 50, 100]).unwrap(),
        late: dice.below(9),
    };
    draw_faults(&mut world, &mut dice, heal, logs_lost_max);
    let end = heal + 12;
    let bound = end + 2 + u32::try_from(HEALING_TICKS_MAX).unwrap();
    world.run_until(bound, |world| {
        world.layer() > end + 2 && (0..=end).rev().all(|layer| world.all_decided(layer))
    });
    assert!(
        world.judge.violations.is_empty(),
        "N = {count}, seed {seed}: {:?}",
        world.judge.violations
    );
    let open: Vec<u32> = (0..=end)
        .filter(|layer| !world.all_decided(*layer))
        .collect();
    assert!(
        open.is_empty(),
        "N = {count}, seed {seed}: healed at {heal}, layers {open:?} still open at {}",
        world.layer()
    );
    let ticks = world
        .decided_at
        .iter()
        .filter(|((_, layer), _)| *layer <= end)
        .map(|((_, layer), at)| {
            at.saturating_sub(u64::from(heal.max(layer + 2)) * LAYER)
                .div_ceil(LAYER)
        })
        .collect();
    Outcome {
        ticks,
        steps: world.steps,
    }
}

/// Fills the time until `heal` with faults, and then ends them all.
fn draw_faults(world: &mut World, dice: &mut Dice, heal: u32, logs_lost_max: usize) {
    let nodes = world.nodes.len();
    let voting = world
        .nodes
        .iter()
        .filter(|node| node.voter.0 != u8::MAX)
        .count();
    let mut logs_lost = 0;
    for layer in 1..heal {
        if dice.percent(25) {
            let loss = *dice.pick(&[0, 10, 40, 80]).unwrap();
            let delay = *dice.pick(&[200, 900, 3000, 8000]).unwrap();
            world.at(layer, Fault::Weather(Weather { loss, delay }));
        }
        if dice.percent(20) {
            let groups = dice.within(1, 3);
            world.at(
                layer,
                Fault::Split((0..nodes).map(|_| dice.below(groups)).collect()),
            );
        }
        if dice.percent(40) {
            let node = dice.below(nodes);
            world.at(layer, Fault::Crash(node));
            if node < voting && logs_lost < logs_lost_max && dice.percent(50) {
                logs_lost += 1;
                let all_lost = dice.percent(50);
                world.at(
                    layer,
                    Fault::Restart {
                        node,
                        log_lost: true,
                        all_lost,
                    },
                );
            } else if dice.percent(60) {
                let back = (layer + u32::try_from(dice.below(6)).unwrap()).min(heal);
                world.at(
                    back,
                    Fault::Restart {
                        node,
                        log_lost: false,
                        all_lost: false,
                    },
                );
            }
        }
    }
    world.at(
        heal,
        Fault::Weather(Weather {
            loss: 0,
            delay: 300,
        }),
    );
    world.at(heal, Fault::Split(Vec::new()));
    for node in 0..nodes {
        world.at(
            heal,
            Fault::Restart {
                node,
                log_lost: false,
                all_lost: false,
            },
        );
    }
}

/// In these schedules a liar's word made some voters go on, and then all who had heard it
/// restarted. Where a voter's log holds only its own words, the layer stays open for ever: those
/// that went on and those that did not wait for each other.
#[test]
fn a_word_that_all_have_forgotten_leaves_no_layer_open() {
    for seed in [1556, 3057] {
        run(4, seed);
    }
}

#[test]
fn random_faults_never_split_and_always_heal() {
    for (count, usual) in [(1, 20), (4, 400), (7, 120), (10, 50), (12, 30)] {
        let mut ticks: Vec<u64> = Vec::new();
        let mut steps = 0;
        for seed in 0..schedules(usual) {
            let outcome = run(count, seed);
            ticks.extend(outcome.ticks);
            steps += outcome.steps;
        }
        ticks.sort_unstable();
        let part = |percent: usize| ticks[(ticks.len() - 1) * percent / 100];
        println!(
            "N = {count}: {} schedules, {steps} steps, ticks to decide p50 {} p99 {} max {}",
            schedules(usual),
            part(50),
            part(99),
            part(100)
        );
    }
}
