//! Runs that are told to stop: they heal, tear down, report and say so; a second time, everything is killed at once.
//!
//! Also what a run that ended early writes in each format.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tweedledum_harness::substrate::process::identity::read_stat;

use crate::bad_support::{PATIENCE, RUN_BOUND, Scene, wait_until};
use crate::support::Machine;

/// A miner is frozen for much longer than anybody waits.
const PAUSED: &str = "\
format: 1
plan: paused
network: { layer: 100ms, layers-per-epoch: 4, nodes: { miner: 3 } }
timeline:
  - { at: epoch 2, for: 100 epochs, name: hang, pause: { target: miner-0 } }
expect:
  - { advance: { signal: tx, of: any miner, within: 4 layers } }
";

/// A node that takes a minute to stop.
const SLOW: &str = "\
format: 1
plan: slow
network: { layer: 100ms, layers-per-epoch: 4, nodes: { slow: 1 } }
roles:
  slow: { command: [./slow.sh], ready: { log: beat }, stop: { signal: TERM, grace: 60s }, signals: { beats: { log: beat, value: /n, period: 1 layer } } }
expect:
  - { advance: { signal: beats, of: every slow, within: 4 layers } }
";

fn is_applied(record: &Value) -> bool {
    record["kind"] == "evidence" && record["grade"] == "applied" && record["held"] == true
}

#[test]
fn the_first_signal_heals_tears_down_reports_and_says_so() {
    let _machine = Machine::alone();
    for (signal, number, code, format) in [
        (Signal::INT, 2, 130, "json"),
        (Signal::TERM, 15, 143, "junit"),
    ] {
        let scene = Scene::new();
        scene.file("plan.yaml", PAUSED);
        let going = scene.start(&["run", "plan.yaml", "--release", "fixed", "--format", format]);
        let known =
            scene.wait_for_known(&going, "the run's blocks", |known| !known.blocks.is_empty());
        scene.wait_for_record("fixed", "that the miner is frozen", is_applied);
        let frozen = read_stat(scene.pid("fixed", "miner-0")).unwrap();
        assert_eq!(frozen.state, 'T');
        going.signal(signal);
        let ended = going
            .end(RUN_BOUND)
            .gave(code)
            .says(&["interrupted", "hang on miner-0"]);
        assert_eq!(known.remains(), Vec::<String>::new());
        assert!(scene.intents().is_empty());
        let records = scene.records("fixed");
        let position = |what: &str, is_it: &dyn Fn(&Value) -> bool| {
            records
                .iter()
                .position(is_it)
                .unwrap_or_else(|| panic!("no record of {what}"))
        };
        let told = position("the interrupt", &|record| {
            record["kind"] == "interrupt" && record["signal"] == number
        });
        let healed = position("the heal", &|record| {
            record["kind"] == "evidence" && record["grade"] == "gone" && record["held"] == true
        });
        let exited = position("the miner's exit", &|record| {
            record["kind"] == "exit" && record["node"] == "miner-0"
        });
        let torn = position("the teardown", &|record| record["kind"] == "torn-down");
        assert!(
            told < healed && healed < exited && exited < torn,
            "{told} {healed} {exited} {torn}"
        );
        // It was asked to stop after it was thawed, and did.
        assert_eq!(
            records[exited]["death"]["harness"]["status"]["code"], 0,
            "{}",
            records[exited]
        );
        let verdict = scene.verdict("fixed");
        assert_eq!(verdict["interrupted"], number, "{verdict}");
        assert_eq!(verdict["verdict"], "inconclusive", "{verdict}");
        assert_eq!(verdict["cleanup"], "clean", "{verdict}");
        if format == "json" {
            let told: Value = serde_json::from_str(&ended.stdout).unwrap();
            assert_eq!(told, verdict);
        } else {
            assert_eq!(
                ended.stdout,
                std::fs::read_to_string(scene.release("fixed").join("junit.xml")).unwrap()
            );
            is_well_formed(&ended.stdout);
        }
        let judged = scene.release("fixed");
        scene.call(&["judge", judged.to_str().unwrap()]).gave(code);
    }
}

#[test]
fn a_second_signal_kills_at_once() {
    let _machine = Machine::alone();
    let scene = Scene::new();
    scene.file("plan.yaml", SLOW);
    scene.script(
        "slow.sh",
        "trap 'echo not yet' TERM\nwhile :; do echo '{\"event\":\"beat\",\"n\":1}'; sleep 0.05; done",
    );
    let going = scene.start(&["run", "plan.yaml", "--release", "fixed"]);
    let known = scene.wait_for_known(&going, "the run's blocks", |known| !known.blocks.is_empty());
    scene.wait_for_record("fixed", "that the node is ready", |record| {
        record["state"] == "ready"
    });
    going.signal(Signal::INT);
    let log = scene.release("fixed").join("nodes/slow-0/stdout.log");
    wait_until(PATIENCE, "that the node was asked to stop", || {
        std::fs::read_to_string(&log)
            .unwrap_or_default()
            .contains("not yet")
    });
    assert!(!known.remains().is_empty());
    let second = Instant::now();
    going.signal(Signal::INT);
    going
        .end(RUN_BOUND)
        .gave(130)
        .says(&["interrupted", "killed at once"]);
    assert!(
        second.elapsed() < Duration::from_secs(2),
        "it took {:?}",
        second.elapsed()
    );
    assert_eq!(known.remains(), Vec::<String>::new());
    // The history was cut, and says so for ever: never a pass.
    let run = scene.release("fixed");
    scene
        .call(&["judge", run.to_str().unwrap()])
        .says(&["history-unfinished"]);
}

#[test]
fn a_run_that_takes_too_long_is_given_up_in_order() {
    let _machine = Machine::alone();
    let scene = Scene::new();
    scene.file("plan.yaml", PAUSED);
    let going = scene.start(&["run", "plan.yaml", "--release", "fixed", "--timeout", "1s"]);
    let known = scene.wait_for_known(&going, "the run's blocks", |known| !known.blocks.is_empty());
    let ended = going
        .end(RUN_BOUND)
        .gave(4)
        .says(&["timed-out", "--timeout"]);
    assert!(
        ended.took < Duration::from_secs(6),
        "it took {:?}",
        ended.took
    );
    assert_eq!(known.remains(), Vec::<String>::new());
    let verdict = scene.verdict("fixed");
    assert_eq!(verdict["verdict"], "error", "{verdict}");
    assert_eq!(verdict["cleanup"], "clean", "{verdict}");
}

/// Every element that is opened is closed, in order; enough to tell a report from one with text mixed in.
fn is_well_formed(xml: &str) {
    assert!(xml.starts_with("<?xml version=\"1.0\""), "{xml}");
    let mut open = Vec::new();
    for tag in xml.split('<').skip(1) {
        let (tag, _) = tag
            .split_once('>')
            .unwrap_or_else(|| panic!("an open tag in {xml}"));
        let name = tag
            .trim_start_matches('/')
            .split([' ', '/', '\n'])
            .next()
            .unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "{xml}");
        } else if !tag.ends_with('/') && !tag.starts_with(['?', '!']) {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?} in {xml}");
}
