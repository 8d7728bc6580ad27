//! What must be left alone.

use std::ops::Range;

use proptest::prelude::*;
use tweedledum_core::faults::Impact;
use tweedledum_core::history::{Body, ImpactChange};
use tweedledum_core::verdict::{Held, Outcome};

use crate::judged::*;
use crate::net::*;
use crate::planned::*;

fn all_expectations() -> Vec<tweedledum_core::history::ExpectInfo> {
    vec![
        advance("tx", every_of("miner"), 3),
        advance("verified", any_of("miner"), 3),
        recover(6),
        agree("root"),
    ]
}

#[test]
fn a_run_without_faults_passes() {
    let mut net = Net::new(vec![advance("tx", every_of("miner"), 3)], vec![]);
    passes(net.until(20).end());
}

#[test]
fn a_flood_that_is_shrugged_off_passes() {
    let faults = vec![flood("gateway-0", 10, 16), flood("gateway-1", 10, 16)];
    let mut net = Net::new(all_expectations(), faults);
    net.until(26).end();
    passes(&net);
    let verdict = net.verdict();
    assert!(verdict.expectations.iter().all(|it| it.held == Held::Yes));
    assert_eq!(verdict.exit_code().code(), 0);
    let tx = &verdict.expectations[3];
    assert_eq!(tx.kind, "advance");
    assert!(tx.worst_layers.unwrap() < 1.3, "{tx:?}");
    assert!(tx.demanded_layers.unwrap() >= 25, "{tx:?}");
    for fresh in &verdict.timings.fresh_after {
        assert!(fresh.layers.unwrap() < 1.0, "{fresh:?}");
    }
}

#[test]
fn killed_and_restarted_within_tolerance_passes() {
    let mut net = Net::new(all_expectations(), vec![kill("miner-0", 10, Some(14))]);
    passes(net.until(26).end());
}

#[test]
fn a_node_frozen_for_long_is_excused() {
    let mut net = Net::new(all_expectations(), vec![pause("miner-1", 9, 19)]);
    passes(net.until(30).end());
}

/// Two of three miners are away, the plan tolerates less than a third: nothing is demanded meanwhile.
#[test]
fn what_is_not_demanded_may_stand_still() {
    let faults = vec![pause("miner-0", 10, 18), pause("miner-1", 10, 18)];
    let mut net = Net::new(
        vec![advance("tx", every_of("miner"), 3), recover(6)],
        faults,
    )
    .with(|header| header.tolerates = vec![more_than_two_thirds("miner")]);
    net.until(10).node("miner-2").stuck = true;
    net.until(18).node("miner-2").stuck = false;
    passes(net.until(30).end());
}

/// The clock starts afresh when liveness is demanded again: time before does not count.
#[test]
fn a_window_begins_with_a_full_bound() {
    let faults = vec![pause("miner-0", 10, 18), pause("miner-1", 10, 18)];
    let mut net = Net::new(
        vec![advance("tx", every_of("miner"), 3), recover(6)],
        faults,
    )
    .with(|header| header.tolerates = vec![more_than_two_thirds("miner")]);
    net.until(10).all("miner", |miner| miner.stuck = true);
    net.until(20).all("miner", |miner| miner.stuck = false);
    passes(net.until(30).end());
}

#[test]
fn a_restarted_node_may_start_lower() {
    let mut net = Net::new(all_expectations(), vec![kill("miner-0", 10, Some(12))]);
    net.until(12);
    // A late answer of its former life arrives after the start of the new one.
    net.until(26).end();
    passes(&net);
}

#[test]
fn one_lost_ping_is_nothing() {
    let mut net = Net::new(vec![advance("tx", every_of("miner"), 3)], vec![]);
    for layer in [8, 12, 16] {
        net.until(layer).node("gateway-0").deaf = true;
        net.until(layer + 2).node("gateway-0").deaf = false;
    }
    passes(net.until(24).end());
}

#[test]
fn a_void_layer_now_and_then_is_nothing() {
    let mut net = Net::new(vec![advance("tx", every_of("miner"), 3)], vec![]);
    net.until(14);
    // Two transactions late, in layers in which the host was late too.
    net.late_us = 900_000;
    net.all("miner", |miner| miner.stuck = true);
    net.until(17);
    net.late_us = 100;
    net.until(19).all("miner", |miner| miner.stuck = false);
    passes(net.until(40).end());
}

#[test]
fn a_killed_node_ends_by_signal_and_that_is_fine() {
    let mut net = Net::new(
        vec![advance("tx", any_of("miner"), 3)],
        vec![kill("miner-0", 10, None)],
    );
    passes(net.until(24).end());
}

/// What is recorded as impaired excuses, whatever made it so: oracles know no fault kinds.
#[test]
fn impacts_count_not_kinds() {
    let mut net = Net::new(vec![advance("tx", every_of("miner"), 3)], vec![]);
    net.until(10);
    let impact = |on| {
        Body::Impact(ImpactChange {
            entry: "some future fault".into(),
            node: "miner-0".into(),
            impact: Impact::Impaired,
            on,
        })
    };
    net.push(at(10), impact(true));
    net.node("miner-0").stuck = true;
    net.until(18);
    net.push(at(18), impact(false));
    net.node("miner-0").stuck = false;
    passes(net.until(26).end());
}

#[test]
fn a_settled_run_may_end_early() {
    let settles = |void: Range<i64>| {
        let faults = vec![flood("gateway-0", 10, 16), flood("gateway-1", 10, 16)];
        let mut net = Net::new(all_expectations(), faults);
        (0..40).find(|layer| {
            if net.settled() {
                return true;
            }
            net.late_us = if void.contains(layer) { 300_000 } else { 0 };
            net.until(layer + 1);
            false
        })
    };
    assert_eq!(
        settles(0..0),
        Some(17),
        "one layer after the heal, not before"
    );
    // Two void layers are a tenth of twenty.
    assert_eq!(settles(3..5), Some(20));
    let mut net = Net::new(
        all_expectations(),
        vec![flood("gateway-0", 10, 16), flood("gateway-1", 10, 16)],
    );
    net.until(17).stop(tweedledum_core::history::Ending::Early);
    passes(&net);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Clean runs with jitter of up to most of a layer, lost pings, faults within what is tolerated: always a pass.
    #[test]
    fn jittered_clean_runs_pass(
        seed in 0..u64::MAX,
        victim in 0..3_usize,
        at in 9..14_i64,
        lasts in 1..8_i64,
        what in 0..3_u8,
    ) {
        let miner = format!("miner-{victim}");
        let fault = match what {
            0 => flood(&miner, at, at + lasts),
            1 => pause(&miner, at, at + lasts),
            _ => kill(&miner, at, Some(at + lasts)),
        };
        let mut net = Net::new(all_expectations(), vec![fault]);
        // Every node's samples move within their layer, differently in each; at most one ping in three is lost.
        net.jitter = |layer, node| {
            let mix = (layer.unsigned_abs() + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (node as u64);
            mix.wrapping_mul(0xff51_afd7_ed55_8ccd) % (LAYER * 6 / 10)
        };
        for layer in 0..28 {
            let deaf = (seed >> (layer % 60)).is_multiple_of(4) && layer % 3 == 0;
            net.node("gateway-1").deaf = deaf;
            net.until(layer + 1);
        }
        net.node("gateway-1").deaf = false;
        let verdict = net.until(30).end().verdict();
        prop_assert_eq!(verdict.verdict, Outcome::Pass, "{:#?} {:#?}", verdict.findings, verdict.reasons);
    }
}
