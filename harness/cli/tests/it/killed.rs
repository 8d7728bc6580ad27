//! `kill -9` of any member of the chain, at any instant of a run of real nodes: within 2 s nothing is left.
//!
//! Victim and instant follow from a seed. A few rounds are part of the tests; `scripts/campaigns/killed` runs many by
//! setting [`ROUNDS`], and reads one word a round from the file that [`OUTCOMES`] names. What `clean` does when all
//! members die at once is tested in the harness, where that is quick.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tweedledum_harness::substrate::process::identity::carriers;

use crate::bad_support::{Going, Known, RUN_BOUND, Scene, decided, kill, layer, pause, wait_until};
use crate::support::Machine;

/// How many rounds; the default is what CI has time for.
const ROUNDS: &str = "TWEEDLEDUM_KILLED_ROUNDS";
/// From which round on, as every number is a seed.
const FROM: &str = "TWEEDLEDUM_KILLED_FROM";
/// Where the outcome of each round is written.
const OUTCOMES: &str = "TWEEDLEDUM_KILLED_OUTCOMES";

/// How long everything of a run may outlive the member that was killed.
const BOUND: Duration = Duration::from_secs(2);

/// Processes of a run of [`PLAN`] that carry its nonce: watchdog, controller and four nodes.
const MEMBERS: usize = 6;

/// Over in some 5 s.
const PLAN: &str = "
format: 1
plan: PLAN
network: { layer: LAYER, layers-per-epoch: 4, nodes: { miner: 3, gateway: 1 } }
timeline:
  - { at: epoch 2, for: 1 epoch, name: hang, pause: { target: miner-0 } }
  - { at: epoch 2, for: 1 epoch, name: flood, flood-sessions: { target: gateway-0, sources: 100, over: 1 layer } }
expect:
  - { advance: { signal: tx, of: every gateway, within: 12 layers } }
";

fn plan(scene: &Scene, name: &str, layer: &str) -> String {
    let file = format!("{name}.yaml");
    scene.file(
        &file,
        PLAN.trim_start()
            .replace("PLAN", name)
            .replace("LAYER", layer),
    );
    file
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Stub,
    Watchdog,
    Controller,
}

/// Splitmix64: instants only need to differ and to be repeatable.
fn draw(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// One round; the error is what was wrong.
fn round(scene: &Scene, number: u64, live: &Known) -> Result<String, String> {
    let victim =
        [Victim::Stub, Victim::Watchdog, Victim::Controller][usize::try_from(number % 3).unwrap()];
    // Half of the rounds hit the start, where much happens at once, the others anything up to the faults.
    let span = if (number / 3).is_multiple_of(2) {
        150_000
    } else {
        4_000_000
    };
    let delay = Duration::from_micros(draw(number) % span);
    let going = scene.start(&["run", "victim.yaml", "--release", "fixed", "--keep", "100"]);
    let born = |known: &Known| match victim {
        Victim::Stub => Some(known.stub),
        Victim::Watchdog => known.watchdog,
        Victim::Controller => known.controller,
    };
    let known = scene.wait_for_known(&going, "the victim's birth", |known| born(known).is_some());
    // The one wait by time: the instant is what the round is about.
    pause(delay);
    let pid = born(&known).unwrap();
    let known = scene.known(going.pid()).unwrap_or(known);
    kill(pid, Signal::KILL);
    let killed = Instant::now();
    let what = format!("round {number}, {victim:?} killed {delay:?} after its birth");
    let mut left = known.remains();
    while !left.is_empty() {
        if killed.elapsed() > BOUND {
            return Err(format!("{what}: after {BOUND:?} there still is {left:#?}"));
        }
        pause(Duration::from_millis(2));
        left = known.remains();
    }
    let gone = killed.elapsed();
    let ended = going.end(RUN_BOUND);
    let expected = if victim == Victim::Stub { 137 } else { 4 };
    if ended.code != expected {
        return Err(format!(
            "{what}: exit code {} instead of {expected}: {}",
            ended.code, ended.stderr
        ));
    }
    if victim != Victim::Stub
        && !ended
            .stderr
            .contains(&format!("the {victim:?} died").to_lowercase())
    {
        return Err(format!(
            "{what}: it does not say who died: {}",
            ended.stderr
        ));
    }
    let cleaned = scene.call(&["clean"]);
    if cleaned.code != 0 || scene.intents().len() != 1 {
        return Err(format!(
            "{what}: clean left something: {}, {:?}",
            cleaned.stderr,
            scene.intents()
        ));
    }
    if carriers(&live.nonce).unwrap().len() < MEMBERS {
        return Err(format!("{what}: the other run was hit"));
    }
    println!("{what}: gone after {gone:?}");
    Ok(format!("{victim:?} gone").to_lowercase())
}

#[test]
fn kill_9_of_any_one_member_at_any_instant_leaves_nothing() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().unwrap())
    };
    let (rounds, from) = (number(ROUNDS, 6), number(FROM, 0));
    let _machine = Machine::alone();
    let scene = Scene::new();
    plan(&scene, "victim", "100ms");
    // Clean-up must never touch a run that lives; this one lives beside all others.
    plan(&scene, "live", "60s");
    let live = scene.start(&["run", "live.yaml", "--release", "fixed"]);
    let known = ready(&scene, &live);
    let (mut outcomes, mut wrong) = (String::new(), Vec::new());
    for number in from..from + rounds {
        let outcome = round(&scene, number, &known).unwrap_or_else(|error| {
            wrong.push(error);
            "wrong".to_owned()
        });
        writeln!(outcomes, "{outcome}").unwrap();
    }
    live.signal(Signal::TERM);
    live.end(RUN_BOUND).gave(143);
    assert_eq!(known.remains(), Vec::<String>::new());
    if let Ok(path) = std::env::var(OUTCOMES) {
        std::fs::write(path, outcomes).unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A run all of whose processes are there.
fn ready(scene: &Scene, going: &Going) -> Known {
    let known = scene.wait_for_known(going, "the run's blocks", |known| !known.blocks.is_empty());
    wait_until(RUN_BOUND, "the nodes of the other run", || {
        carriers(&known.nonce).unwrap().len() >= MEMBERS
    });
    known
}

#[test]
fn after_a_normal_run_nothing_is_left_and_there_is_nothing_to_clean() {
    let _machine = Machine::alone();
    let (ended, (scene, known)) = decided(|| {
        let scene = Scene::new();
        let plan = plan(&scene, "normal", "100ms");
        let going = scene.start(&["run", &plan, "--release", "fixed"]);
        let blocks = |known: &Known| !known.blocks.is_empty();
        let known = scene.wait_for_known(&going, "the run's blocks", blocks);
        scene.wait_for_record("fixed", "the end of layer 0", layer(0));
        // What is looked for afterwards can be found while it is there.
        let during = known.remains();
        for part in ["process ", "udp", "tcp", "the lock of"] {
            assert!(
                during.iter().any(|it| it.to_lowercase().contains(part)),
                "no {part} in {during:?}"
            );
        }
        (going.end(RUN_BOUND), (scene, known))
    });
    ended.gave(0);
    assert_eq!(known.remains(), Vec::<String>::new());
    assert_eq!(scene.intents(), Vec::<std::path::PathBuf>::new());
    scene.call(&["clean"]).gave(0).says(&["nothing to clean"]);
}
