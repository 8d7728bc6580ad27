//! Whatever is killed, nothing stays.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tweedledum_harness::store::RunMarker;
use tweedledum_harness::substrate::process::block;
use tweedledum_harness::supervise::TEARDOWN_BOUND;
use tweedledum_harness::undo::{RunState, clean, unfinished};

use crate::chain::{Chain, Known, PATIENCE, kill, kill_marked, remains, wait_until};

const ROUNDS: u64 = 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Stub,
    Watchdog,
    Controller,
}

/// Splitmix64: the instants only need to differ and to be repeatable.
fn draw(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn wait_for_gone(known: &Known, bound: Duration, what: &str) {
    let nonce = known.nonce.unwrap();
    let deadline = Instant::now() + bound;
    loop {
        let left = remains(&nonce, &known.blocks);
        if left.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{what}: after {bound:?} there still is {left:#?}"
        );
    }
}

#[test]
fn kill_9_of_any_one_member_at_any_instant_leaves_nothing() {
    let mut worst = Duration::ZERO;
    for round in 0..ROUNDS {
        let victim = [Victim::Stub, Victim::Watchdog, Victim::Controller]
            [usize::try_from(round % 3).unwrap()];
        // From the victim's birth on, through the spawning, into the running of four nodes.
        let delay = Duration::from_micros(draw(round) % 60_000);
        let mut chain = Chain::start(&["hold", "4", "fork"]);
        let mut pid = None;
        wait_until(PATIENCE, "the victim's birth", || {
            let known = chain.known();
            pid = match victim {
                Victim::Stub => known.nonce.map(|_| chain.stub_pid()),
                Victim::Watchdog => known.watchdog,
                Victim::Controller => known.controller,
            };
            pid.is_some()
        });
        // The one wait by time: the instant is what the round is about.
        let pause = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: i64::from(delay.subsec_nanos()),
        };
        let _ = rustix::event::poll(&mut [], Some(&pause));
        let known = chain.known();
        kill(pid.unwrap(), Signal::KILL);
        let killed = Instant::now();
        let what = format!("round {round}, {victim:?} killed {delay:?} after its birth");
        wait_for_gone(&known, TEARDOWN_BOUND, &what);
        worst = worst.max(killed.elapsed());
        let code = chain.wait_for_end();
        // A stub that died before its watchdog knew of the run leaves its first intent and nothing else. A child that it was
        // about to spawn goes on to its exec, where it begins to carry the nonce, then finds its link closed and ends: until
        // then `clean` may find and kill that one, but none that was recorded, for these were awaited above.
        if !unfinished(chain.runs.path()).unwrap().is_empty() {
            assert!(
                victim == Victim::Stub && known.blocks.is_empty(),
                "{what}: intents are left"
            );
            let unborn = usize::from(chain.known().watchdog.is_none());
            let report = clean(chain.runs.path()).unwrap();
            assert!(
                matches!(report.runs[0].state, RunState::Cleaned { killed } if killed <= unborn),
                "{what}: {report:?}"
            );
            wait_for_gone(&known, TEARDOWN_BOUND, &what);
        }
        let expected = if victim == Victim::Stub { 137 } else { 4 };
        assert_eq!(code, expected, "{what}");
    }
    assert!(worst < TEARDOWN_BOUND);
    println!("{ROUNDS} rounds, the slowest was gone after {worst:?}");
}

#[test]
fn members_that_die_while_all_runs_are_named() {
    for (victim, text) in [
        (Victim::Watchdog, "watchdog"),
        (Victim::Controller, "controller"),
    ] {
        let mut chain = Chain::start(&["hold", "2", "fork"]);
        chain.wait_for("up");
        let known = chain.known();
        let pid = if victim == Victim::Watchdog {
            known.watchdog
        } else {
            known.controller
        };
        kill(pid.unwrap(), Signal::KILL);
        let ended = chain.wait_for("ended");
        let reason = ended["how"]["reason"].as_str().unwrap();
        assert!(
            reason.contains(text) && reason.contains("SIGKILL"),
            "{reason}"
        );
        assert_eq!(ended["how"]["left"].as_array().unwrap().len(), 0);
        assert_eq!(chain.wait_for_end(), 4);
        wait_for_gone(&known, Duration::ZERO, text);
    }
}

#[test]
fn an_interrupt_lets_the_controller_end_the_run() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 143)] {
        let mut chain = Chain::start(&["hold", "2", "fork"]);
        chain.wait_for("up");
        let known = chain.known();
        kill(chain.stub_pid(), signal);
        chain.wait_for("interrupt");
        let torn = chain.wait_for("torn-down");
        assert_eq!(
            torn["report"]["left"].as_array().unwrap().len(),
            0,
            "{torn}"
        );
        // Two nodes, each with three children: the controller needs nobody's help.
        assert_eq!(torn["report"]["killed"], 8, "{torn}");
        assert_eq!(chain.wait_for("ended")["how"]["killed"], 0);
        assert_eq!(chain.wait_for_end(), code);
        wait_for_gone(&known, Duration::ZERO, "after an interrupt");
    }
}

#[test]
fn a_second_interrupt_kills_at_once() {
    let mut chain = Chain::start(&["stubborn", "2", "fork"]);
    chain.wait_for("up");
    let known = chain.known();
    kill(chain.stub_pid(), Signal::INT);
    chain.wait_for("interrupt");
    let second = Instant::now();
    kill(chain.stub_pid(), Signal::INT);
    assert_eq!(chain.wait_for_end(), 130);
    assert!(second.elapsed() < TEARDOWN_BOUND);
    wait_for_gone(&known, Duration::ZERO, "after two interrupts");
}

#[test]
fn a_controller_that_just_ends_leaves_nothing_and_its_code_is_passed_on() {
    let mut chain = Chain::start(&["leave", "3", "fork"]);
    chain.wait_for("up");
    let ended = chain.wait_for("ended");
    // Three nodes, each with a child, one in its own session, and a daemon without environment.
    assert_eq!(ended["how"]["killed"], 12, "{ended}");
    assert_eq!(chain.wait_for_end(), 7);
    assert!(clean(chain.runs.path()).unwrap().runs.is_empty());
}

#[test]
fn runs_side_by_side_have_different_blocks_and_do_not_touch_each_other() {
    let mut one = Chain::start(&["hold", "2", "fork"]);
    let mut two = Chain::start(&["hold", "2", "fork"]);
    one.wait_for("up");
    two.wait_for("up");
    let (first, second) = (one.known(), two.known());
    assert_ne!(first.blocks, second.blocks);
    kill(one.stub_pid(), Signal::KILL);
    wait_for_gone(&first, TEARDOWN_BOUND, "the first run");
    one.wait_for_end();
    assert!(block::is_locked(second.blocks[0]).unwrap());
    // Two nodes with a child each that keep their environment, one without, controller, watchdog.
    let alive = remains(&second.nonce.unwrap(), &second.blocks);
    assert!(alive.len() > 10, "{alive:?}");
    let states: Vec<_> = clean(two.runs.path()).unwrap().runs;
    assert!(matches!(states[0].state, RunState::Live), "{states:?}");
    kill(two.stub_pid(), Signal::TERM);
    assert_eq!(two.wait_for_end(), 143);
}

/// Below a node somebody lives on by forking and exiting every 1.5 ms, each time in a new session: no look at all processes
/// finds the same twice, and most find none. Whoever removes it must not take a miss for the end.
#[test]
fn a_process_that_is_ever_another_one_does_not_outlive_the_run() {
    for (scenario, victim, code) in [
        ("leave", None, 7),
        ("hold", Some(Victim::Controller), 4),
        ("hold", Some(Victim::Watchdog), 4),
        ("hold", Some(Victim::Stub), 137),
    ] {
        let mut chain = Chain::start(&[scenario, "1", "relay"]);
        chain.wait_for("up");
        let lock = std::fs::File::open(chain.runs.path().join("relay.lock")).unwrap();
        let known = chain.known();
        match victim {
            Some(Victim::Controller) => kill(known.controller.unwrap(), Signal::KILL),
            Some(Victim::Watchdog) => kill(known.watchdog.unwrap(), Signal::KILL),
            Some(Victim::Stub) => kill(chain.stub_pid(), Signal::KILL),
            None => {}
        }
        if victim != Some(Victim::Stub) {
            let ended = chain.wait_for("ended");
            assert_eq!(ended["how"]["left"].as_array().unwrap().len(), 0, "{ended}");
            assert!(
                lock.try_lock().is_ok(),
                "{scenario} {victim:?}: it lives on: {ended}"
            );
        }
        assert_eq!(chain.wait_for_end(), code, "{scenario} {victim:?}");
        wait_until(PATIENCE, "the relay's end", || lock.try_lock().is_ok());
    }
}

/// Nobody is left to see that the controller ends in good order and leaves nothing, so it forgets the run itself.
#[test]
fn a_controller_that_lost_both_guards_ends_the_run_and_its_record() {
    let mut chain = Chain::start(&["hold", "2", "fork"]);
    chain.wait_for("up");
    let known = chain.known();
    let guards = [chain.stub_pid(), known.watchdog.unwrap()];
    for signal in [Signal::STOP, Signal::KILL] {
        for pid in guards {
            kill(pid, signal);
        }
    }
    assert_eq!(chain.wait_for_end(), 137);
    wait_until(PATIENCE, "the end of the run's record", || {
        unfinished(chain.runs.path()).unwrap().is_empty()
    });
    // The controller's own end is all that may still be under way.
    wait_for_gone(&known, TEARDOWN_BOUND, "after both guards");
}

/// Kills stub, watchdog and controller, frozen first, so that none of them can act on the death of another.
fn kill_all_guards(chain: &mut Chain, known: &Known) {
    let all = [
        chain.stub_pid(),
        known.watchdog.unwrap(),
        known.controller.unwrap(),
    ];
    for signal in [Signal::STOP, Signal::KILL] {
        for pid in all {
            kill(pid, signal);
        }
    }
    chain.wait_for_end();
}

#[test]
fn clean_removes_what_is_left_when_all_guards_die_at_once() {
    let mut chain = Chain::start(&["hold", "3", "fork"]);
    chain.wait_for("up");
    let known = chain.known();
    kill_all_guards(&mut chain, &known);
    let nonce = known.nonce.unwrap();
    let left = remains(&nonce, &known.blocks);
    assert!(
        left.iter().any(|text| text.contains("environment")),
        "{left:?}"
    );
    wait_until(PATIENCE, "the members' deaths", || {
        let report = clean(chain.runs.path()).unwrap();
        report.runs.is_empty() || matches!(report.runs[0].state, RunState::Cleaned { killed: 6.. })
    });
    // What cleared its environment and lost both subreapers cannot be found: see `remains`.
    let left = remains(&nonce, &known.blocks);
    assert!(
        left.iter().all(|text| text.contains("command line")),
        "{left:?}"
    );
    kill_marked(&nonce);
}

/// What lost its environment and all its ancestors still shows by its socket. It is told while nothing proves whose it is,
/// and removed once something does.
#[test]
fn clean_sees_a_daemon_by_the_addresses_of_the_run() {
    let mut chain = Chain::start(&["hold", "1", "scatter"]);
    chain.wait_for("up");
    let known = chain.known();
    kill_all_guards(&mut chain, &known);
    let mut last = None;
    wait_until(PATIENCE, "the members' deaths", || {
        let report = clean(chain.runs.path()).unwrap();
        last = report.runs.first().map(|run| run.state.clone());
        matches!(last, Some(RunState::Left { .. }))
    });
    let Some(RunState::Left { left, .. }) = last else {
        panic!("{last:?}");
    };
    let [daemon] = left.as_slice() else {
        panic!("{left:?}");
    };
    assert!(
        daemon.pid > 0 && daemon.why.contains(":7001 in the run's addresses"),
        "{daemon:?}"
    );
    // It works in the directory of the runs: once that is on record as the run's own, and bears its marker, it is proved.
    let nonce = known.nonce.unwrap();
    let intents = chain.runs.path().join(format!(".intents/{nonce}.jsonl"));
    let mut text = std::fs::read_to_string(&intents).unwrap();
    text.push_str(&serde_json::json!({"kind": "directory", "path": chain.runs.path()}).to_string());
    text.push('\n');
    std::fs::write(&intents, text).unwrap();
    let report = clean(chain.runs.path()).unwrap();
    assert!(matches!(report.runs[0].state, RunState::Left { .. }));
    let marker = RunMarker {
        tweedledum_run: 1,
        plan: "hold".into(),
        seed: 0,
        nonce,
        began_unix_ns: 0,
    };
    let marker = serde_json::to_string(&marker).unwrap();
    std::fs::write(chain.runs.path().join("run.json"), marker).unwrap();
    let report = clean(chain.runs.path()).unwrap();
    assert_eq!(report.runs[0].state, RunState::Cleaned { killed: 1 });
    assert!(remains(&nonce, &known.blocks).is_empty());
    assert!(unfinished(chain.runs.path()).unwrap().is_empty());
}
