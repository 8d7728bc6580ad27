//! What must be caught about progress.

use tweedledum_core::history::{Body, HealInfo, LayerRecord, Record};
use tweedledum_core::verdict::{Held, Outcome};

use crate::judged::*;
use crate::net::*;
use crate::planned::*;

fn miners(within: i64) -> Vec<tweedledum_core::history::ExpectInfo> {
    vec![advance("tx", every_of("miner"), within)]
}

fn flooded(expect: Vec<tweedledum_core::history::ExpectInfo>) -> Net {
    Net::new(expect, vec![flood("gateway-0", 10, 20)])
}

#[test]
fn one_success_then_stall() {
    let mut net = flooded(miners(3));
    net.until(11).node("miner-1").stuck = true;
    net.until(30).end();
    fails(&net, &["stalled/tx miner-1"]);
    let finding = &net.verdict().findings[0];
    // The last advance is in layer 10, three layers later the next was due. The first look after that is in layer 14,
    // and at its end it is known that the host was fit.
    assert_eq!(finding.due_ns, at(13) + LAYER * 4 / 20);
    assert_eq!(finding.proved_ns, at(15));
    assert_eq!(finding.recovered_ns, None);
    assert!(finding.text.contains("did not advance for 3 layers"));
}

/// It stands still, and what it says is a number in one layer and a word in the next.
#[test]
fn a_word_between_equal_numbers_is_no_advance() {
    let mut net = flooded(miners(3));
    net.until(11).node("miner-1").stuck = true;
    net.node("miner-1").wordy = true;
    net.until(30).end();
    fails(&net, &["stalled/tx miner-1"]);

    let mut net = flooded(miners(3));
    net.until(11).node("miner-1").wordy = true;
    passes(net.until(30).end());
}

#[test]
fn a_stall_that_ends_is_still_a_stall() {
    let mut net = flooded(miners(3));
    net.until(11).node("miner-1").stuck = true;
    net.until(16).node("miner-1").stuck = false;
    net.until(30).end();
    fails(&net, &["stalled/tx miner-1"]);
    let recovered = net.verdict().findings[0].recovered_ns;
    assert_eq!(recovered, Some(at(16) + LAYER * 4 / 20));
}

#[test]
fn halted_but_agreeing() {
    let mut net = flooded(vec![
        advance("verified", every_of("miner"), 3),
        agree("root"),
    ]);
    net.until(12).all("miner", |miner| miner.unverified = true);
    net.until(30).end();
    let stalls = ["miner-0", "miner-1", "miner-2"].map(|name| format!("stalled/verified {name}"));
    fails(&net, &stalls.each_ref().map(String::as_str));
    let verdict = net.verdict();
    let agrees = verdict.expectations.iter().find(|it| it.kind == "agree");
    assert_eq!(agrees.unwrap().held, Held::Yes);
}

/// Transactions go on and every source answers; only what is verified stands still.
#[test]
fn looks_synced_while_verified_is_frozen() {
    let mut net = flooded(vec![
        advance("tx", every_of("miner"), 3),
        advance("verified", every_of("miner"), 3),
    ]);
    net.until(12).node("miner-0").unverified = true;
    fails(net.until(30).end(), &["stalled/verified miner-0"]);
}

#[test]
fn any_needs_one_and_only_all_fail_it() {
    let mut net = flooded(vec![advance("tx", any_of("miner"), 3)]);
    net.until(12).node("miner-0").stuck = true;
    net.until(13).node("miner-1").stuck = true;
    passes(net.until(30).end());

    let mut net = flooded(vec![advance("tx", any_of("miner"), 3)]);
    net.until(12).all("miner", |miner| miner.stuck = true);
    net.until(30).end();
    fails(&net, &["stalled/tx miner"]);
}

#[test]
fn stressed_is_not_excused() {
    let mut net = Net::new(miners(3), vec![flood("miner-0", 10, 20)]);
    net.until(10).node("miner-0").stuck = true;
    net.until(20).node("miner-0").stuck = false;
    fails(net.until(30).end(), &["stalled/tx miner-0"]);
}

/// Frozen and thawed, and then it does not go on: the excuse ends with the fault.
#[test]
fn an_excuse_ends_with_its_fault() {
    let mut net = Net::new(miners(3), vec![pause("miner-0", 10, 14)]);
    net.until(14).node("miner-0").stuck = true;
    fails(net.until(30).end(), &["stalled/tx miner-0"]);
}

#[test]
fn a_dead_node_excuses_nobody() {
    let mut net = flooded(vec![advance("tx", every_of("miner"), 3)])
        .with(|header| header.tolerates = vec![more_than_two_thirds("miner")]);
    net.until(12).panics("miner-0", "mesh");
    net.node("miner-1").stuck = true;
    net.until(30).end();
    fails(
        &net,
        &[
            "crash/mesh miner-0",
            "stalled/tx miner-0",
            "stalled/tx miner-1",
        ],
    );
}

/// It stalls before the fault, recovers, and then stalls for good: the first is no excuse for the second.
#[test]
fn an_unsteady_start_hides_no_later_stall() {
    let mut net = flooded(miners(3));
    net.until(3).node("miner-1").stuck = true;
    net.until(8).node("miner-1").stuck = false;
    net.until(12).node("miner-1").stuck = true;
    fails(net.until(30).end(), &["stalled/tx miner-1"]);
}

/// Everybody is killed and never comes back: that all went well before says nothing about it.
#[test]
fn what_is_only_demanded_before_the_fault_is_no_pass() {
    let killed = |nodes: &[&str]| {
        let kills = nodes.iter().map(|node| kill(node, 10, None)).collect();
        let mut net = Net::new(miners(3), kills);
        net.until(30).end();
        net
    };
    unclear(
        &killed(&["miner-0", "miner-1", "miner-2"]),
        &["not-demanded"],
    );
    passes(&killed(&["miner-0", "miner-1"]));
}

#[test]
fn a_stall_before_the_first_fault_says_nothing_about_it() {
    let mut net = flooded(miners(3));
    net.until(5).node("miner-1").stuck = true;
    unclear(net.until(30).end(), &["steady-state-not-reached"]);
}

#[test]
fn what_never_advanced_never_was_steady() {
    let mut net = flooded(miners(3));
    net.node("miner-1").stuck = true;
    let verdict = net.until(30).end().verdict();
    assert_eq!(found(&verdict), Vec::<String>::new());
    assert!(codes(&verdict).contains("steady-state-not-reached"));
    assert_eq!(verdict.verdict, Outcome::Inconclusive);
}

#[test]
fn in_a_run_without_faults_a_stall_is_a_finding() {
    let mut net = Net::new(miners(3), vec![]);
    net.until(12).node("miner-1").stuck = true;
    fails(net.until(24).end(), &["stalled/tx miner-1"]);
}

#[test]
fn a_hole_in_the_samples_is_no_pass() {
    let mut net = flooded(miners(3));
    // Pings go on; nobody reads the signals of one miner any more.
    net.until(30).end();
    let all = at(12)..at(22);
    drop_records(&mut net, |record| {
        matches!(&record.body, Body::Sample(sample) if sample.node == "miner-0")
            && all.contains(&record.t_ns)
    });
    unclear(&net, &["observer-gap"]);
}

/// A log says something only when something happened: there, silence of a living node is a stall and no hole.
#[test]
fn silence_of_a_pushed_signal_is_a_stall() {
    let mut net = flooded(miners(3)).with(|header| {
        let miner = header.roles.get_mut("miner").unwrap();
        miner.pushed.insert("tx".to_owned());
    });
    net.until(30).end();
    drop_records(&mut net, |record| {
        matches!(&record.body, Body::Sample(sample) if sample.node == "miner-0" && sample.signal == "tx")
            && record.t_ns >= at(12)
    });
    fails(&net, &["stalled/tx miner-0"]);
}

#[test]
fn garbage_from_a_node_is_no_pass_and_no_stall() {
    let mut net = flooded(miners(3));
    net.until(12).node("miner-0").garbled = true;
    unclear(net.until(30).end(), &["observer-gap"]);
}

/// A look after the bound that still shows the old value proves the stall, hole or not.
#[test]
fn a_hole_hides_no_stall_that_a_later_look_shows() {
    let mut net = flooded(miners(3));
    net.until(12).node("miner-0").stuck = true;
    net.until(30).end();
    let all = at(12)..at(14);
    drop_records(&mut net, |record| {
        matches!(&record.body, Body::Sample(sample) if sample.node == "miner-0")
            && all.contains(&record.t_ns)
    });
    fails(&net, &["stalled/tx miner-0"]);
}

#[test]
fn missing_layers_are_a_hole() {
    let mut net = flooded(miners(3));
    net.until(30).end();
    drop_records(
        &mut net,
        |record| matches!(&record.body, Body::Layer(layer) if (14..17).contains(&layer.layer)),
    );
    unclear(&net, &["observer-gap"]);
}

#[test]
fn an_unfit_host_makes_stalls_doubtful_and_crashes_stay_facts() {
    let stall_on_a_slow_host = |crash: bool| {
        let mut net = flooded(miners(3));
        net.until(10);
        // Every second layer is void: the stall shows in the others.
        for layer in 10..30 {
            net.late_us = if layer % 2 == 0 { 400_000 } else { 100 };
            if layer == 12 {
                net.node("miner-0").stuck = true;
            }
            if layer == 13 && crash {
                net.panics("gateway-1", "session-table");
            }
            net.until(layer + 1);
        }
        net.end();
        net
    };
    let net = stall_on_a_slow_host(false);
    unclear(&net, &["void-layers"]);
    assert_eq!(net.verdict().doubtful[0].id, "stalled/tx");
    let net = stall_on_a_slow_host(true);
    fails(&net, &["crash/session-table gateway-1"]);
}

/// Time that the hypervisor took and steps of the wall clock, by which nodes tick, make a layer void as lateness does; up
/// to a fifth of a layer, and in histories that do not know of steps, they excuse nothing.
#[test]
fn steal_and_steps_of_the_wall_clock_make_layers_void() {
    let fifth = i64::try_from(LAYER / 5 / 1000).unwrap();
    for (steal_ppm, wall_step_us, void) in [
        (200_000, Some(0), false),
        (200_001, Some(0), true),
        (0, Some(fifth), false),
        (0, Some(-fifth), false),
        (0, Some(fifth + 1), true),
        (0, Some(-fifth - 1), true),
        (0, Some(i64::MIN), true),
        (0, None, false),
    ] {
        let mut net = flooded(miners(3));
        net.until(10);
        for layer in 10..30 {
            let unfit = layer % 2 == 0;
            net.steal_ppm = if unfit { steal_ppm } else { 0 };
            net.wall_step_us = if unfit { wall_step_us } else { Some(0) };
            if layer == 12 {
                net.node("miner-0").stuck = true;
            }
            net.until(layer + 1);
        }
        net.end();
        if void {
            unclear(&net, &["void-layers"]);
            assert_eq!(net.verdict().doubtful[0].id, "stalled/tx");
        } else {
            fails(&net, &["stalled/tx miner-0"]);
        }
        let voids = net.verdict().run.void_layers;
        assert_eq!(voids, if void { 10 } else { 0 });
    }
}

#[test]
fn a_history_without_steps_of_the_wall_clock_is_read() {
    let old = r#"{"layer":3,"late_us":7,"steal_ppm":0,"cpu_pressure_ppm":null}"#;
    let layer: tweedledum_core::history::LayerRecord = serde_json::from_str(old).unwrap();
    assert_eq!(layer.wall_step_us, None);
    assert_eq!(serde_json::to_string(&layer).unwrap(), old);
}

#[test]
fn never_recovered() {
    let mut net = flooded(vec![advance("tx", every_of("miner"), 20), recover(6)]);
    net.until(19).node("miner-2").stuck = true;
    net.until(30).end();
    fails(&net, &["unrecovered/tx miner-2"]);
    assert_eq!(
        net.verdict().timings.fresh_after[2].layers,
        None,
        "never is not zero"
    );
}

/// Each heal stands for what it takes back, and for nothing that is taken back later.
#[test]
fn recovery_counts_from_the_heal_that_is_named() {
    let of_the_kill = Some(vec!["kill".to_owned()]);
    for (heal, of, found) in [
        (12, of_the_kill, &["unrecovered/tx miner-2"][..]),
        (12, None, &["unrecovered/tx miner-2"]),
        (24, None, &[]),
    ] {
        let faults = vec![kill("miner-0", 8, Some(12)), pause("gateway-0", 8, 24)];
        let expect = vec![advance("tx", every_of("miner"), 20), recover(4)];
        let mut net = Net::new(expect, faults).with(|header| {
            let at = layers(heal);
            header.heals = [("heal all".to_owned(), HealInfo { at, of })].into();
        });
        net.until(11).node("miner-2").stuck = true;
        net.until(20).node("miner-2").stuck = false;
        net.until(36).end();
        if found.is_empty() {
            passes(&net);
        } else {
            fails(&net, found);
        }
    }
}

#[test]
fn a_restarted_node_that_stands_still_is_not_excused_for_ever() {
    let expect = vec![advance("tx", every_of("miner"), 9), recover(6)];
    let mut net = Net::new(expect, vec![kill("miner-0", 10, Some(14))]);
    net.node("miner-0").stuck = false;
    net.until(14).node("miner-0").stuck = true;
    net.until(22).end();
    fails(&net, &["unrecovered/tx miner-0"]);
}

/// A typo in a pointer must not blame the software: what was never seen to advance before the fault cannot be missed after.
#[test]
fn a_signal_that_was_never_read_cannot_fail_to_recover() {
    let expect = || vec![advance("tx", every_of("miner"), 9), recover(6)];
    let doubt = |net: &Net| {
        let verdict = net.verdict();
        let recover = verdict.expectations.iter().find(|it| it.kind == "recover");
        assert_eq!(recover.unwrap().held, Held::Unknown);
        recover.unwrap().doubts.join("; ")
    };
    // Nothing but gaps, from the first day on.
    let mut net = Net::new(expect(), vec![kill("miner-1", 10, Some(14))]);
    net.node("miner-0").garbled = true;
    unclear(
        net.until(30).end(),
        &["observer-gap", "steady-state-not-reached", "no-data"],
    );
    let said = doubt(&net);
    assert!(
        said.contains("was never read") && said.ends_with("nothing useful"),
        "{said}"
    );
    // It was read and stood still all along.
    let mut net = Net::new(expect(), vec![kill("miner-1", 10, Some(14))]);
    net.node("miner-0").stuck = true;
    unclear(
        net.until(30).end(),
        &["steady-state-not-reached", "no-data"],
    );
    assert!(doubt(&net).contains("before the first fault either"));
}

/// It was started again and never became ready, so its impairment stays on record: the heal was to end it all the same.
#[test]
fn a_healed_node_that_never_gets_ready_has_not_recovered() {
    let expect = vec![advance("tx", every_of("miner"), 9), recover(6)];
    let mut net = Net::new(expect, vec![kill("miner-0", 10, Some(14))]);
    net.until(24).end();
    drop_records(&mut net, |record| match &record.body {
        Body::Node(change) => {
            change.incarnation == 1 && change.state == tweedledum_core::history::NodeState::Ready
        }
        Body::Impact(change) => !change.on,
        Body::Sample(sample) => sample.node == "miner-0" && record.t_ns > at(14),
        Body::Ping(ping) => ping.node == "miner-0" && record.t_ns > at(14),
        _ => false,
    });
    fails(&net, &["unrecovered/tx miner-0"]);
}

#[test]
fn an_open_stall_is_not_found_twice() {
    let mut net = flooded(vec![advance("tx", every_of("miner"), 3), recover(6)]);
    net.until(12).node("miner-2").stuck = true;
    net.until(30).end();
    fails(&net, &["stalled/tx miner-2"]);
    let verdict = net.verdict();
    let notes = &verdict.findings[0].notes;
    assert_eq!(
        notes,
        &["`tx` did not recover within 6 layers after heal all"]
    );
    // That it is another's finding does not make the promise kept.
    let mut recover = verdict
        .expectations
        .iter()
        .filter(|it| it.kind == "recover");
    assert!(recover.all(|it| it.held == Held::No));
}

#[test]
fn disagreement_is_found_once_per_node() {
    let mut net = flooded(vec![advance("root", every_of("miner"), 3), agree("root")]);
    net.until(12).node("miner-2").forked = true;
    fails(net.until(30).end(), &["disagree/root miner-2"]);
}

#[test]
fn heights_that_go_back_are_found() {
    let mut net = flooded(miners(3));
    net.until(12).node("miner-0").verified = 3;
    // It goes back as a number and as the height of its root.
    fails(
        net.until(30).end(),
        &["safety/went-back miner-0", "safety/went-back miner-0"],
    );
}

#[test]
fn what_was_hardly_demanded_is_no_pass() {
    let faults = vec![pause("miner-0", 9, 28), pause("miner-1", 9, 28)];
    let mut net = Net::new(vec![advance("tx", every_of("miner"), 12)], faults)
        .with(|header| header.tolerates = vec![more_than_two_thirds("miner")]);
    unclear(net.until(29).end(), &["not-demanded"]);
}

/// Removes records as an observer that never made them would: numbers stay without gaps.
fn drop_records(net: &mut Net, drop: impl Fn(&Record) -> bool) {
    net.records.retain(|record| !drop(record));
    let count = net.records.len() as u64;
    for (seq, record) in (0..).zip(&mut net.records) {
        record.seq = seq;
        if let Body::End(end) = &mut record.body {
            end.count = count;
        }
    }
}

/// Layers in which a run is torn down say nothing, however late its end makes the controller; the last is no gap either.
#[test]
fn a_long_teardown_is_not_judged() {
    for (unwatched, void_layers) in [(true, 0), (false, 6)] {
        let mut net = flooded(miners(3));
        net.until(26);
        for layer in 26..32 {
            let late = LayerRecord {
                layer,
                late_us: 500_000,
                steal_ppm: 0,
                cpu_pressure_ppm: None,
                wall_step_us: Some(0),
                unwatched,
            };
            net.push(at(layer + 1), Body::Layer(late));
        }
        net.layer = 32;
        net.end();
        let verdict = net.verdict();
        assert_eq!(verdict.run.void_layers, void_layers);
        assert_eq!(verdict.verdict == Outcome::Pass, unwatched, "{verdict:#?}");
    }
}

/// What may have begun with a host that let nodes wait is the release's once it goes on without that; so it is with nodes that
/// the plan throttles, also just after.
#[test]
fn a_halt_that_outlasts_a_starving_host_is_no_doing_of_the_host() {
    let halted = |until, faults: Vec<Fault>, starved: [i64; 2]| {
        let mut net = Net::new(miners(3), faults);
        net.until(12).all("miner", |it| it.stuck = true);
        net.until(starved[0]).all("gateway", |it| it.starved = true);
        net.until(starved[1])
            .all("gateway", |it| it.starved = false);
        net.until(until).end();
        net
    };
    let all = [
        "stalled/tx miner-0",
        "stalled/tx miner-1",
        "stalled/tx miner-2",
    ];
    let calm = || vec![flood("gateway-0", 10, 14)];
    unclear(&halted(18, calm(), [13, 14]), &["void-layers"]);
    fails(&halted(40, calm(), [13, 14]), &all);
    let slow = || vec![throttle("gateway-0", 10, 14), throttle("gateway-1", 10, 14)];
    fails(&halted(18, slow(), [13, 14]), &all);
    fails(&halted(18, slow(), [14, 15]), &all);
}
