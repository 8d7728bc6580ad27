//! Causes and controls: the incident in small, and everything that must not be taken for it.

use std::ops::Range;

use tweedledum_core::control::{Comparison, Gave, compare};
use tweedledum_core::history::{Ending, Grade};
use tweedledum_core::verdict::{Cause, Outcome};

use crate::judged::*;
use crate::net::*;
use crate::planned::*;

const STATED: &[(&str, Option<&str>)] = &[
    ("stalled/tx", Some("miner")),
    ("role/all-dead", Some("gateway")),
    ("crash/session-table", Some("gateway")),
];

fn flooded() -> Net {
    let faults = vec![flood("gateway-0", 10, 24), flood("gateway-1", 10, 24)];
    Net::new(
        vec![advance("tx", every_of("miner"), 3), recover(6)],
        faults,
    )
    .with(|header| header.control = Some(must_fail(STATED)))
}

/// Both gateways panic under the flood, then the miners stand still.
pub(crate) fn incident() -> Net {
    let mut net = flooded();
    net.until(10);
    // Within the layer in which the flood begins.
    net.until(11).panics("gateway-0", "session-table");
    net.panics("gateway-1", "session-table");
    net.until(12).all("miner", |miner| miner.stuck = true);
    net
}

#[test]
fn the_incident_gives_what_it_must_and_is_explained() {
    let mut net = incident();
    net.until(20).stop(Ending::Early);
    let result = net.control();
    assert_eq!(result.gave, Gave::Right, "{:#?}", result.verdict.reasons);
    let verdict = &result.verdict;
    assert_eq!(verdict.exit_code().code(), 1, "by itself it is a failure");
    assert_eq!(result.exit_code().code(), 0, "as a control it is right");
    assert_eq!(
        found(verdict),
        [
            "crash/session-table gateway-0",
            "crash/session-table gateway-1",
            "role/all-dead gateway",
            "stalled/tx miner-0",
            "stalled/tx miner-1",
            "stalled/tx miner-2",
        ]
    );
    let chain: Vec<(String, usize)> = verdict
        .chain
        .iter()
        .map(|link| match &link.cause {
            Cause::Fault { entry, node } => (format!("{entry} {node}"), link.effect),
            Cause::Finding(place) => (place.to_string(), link.effect),
        })
        .collect();
    let expected = [
        ("flood gateway-0", 0),
        ("flood gateway-1", 1),
        ("0", 2),
        ("1", 2),
        ("2", 3),
        ("2", 4),
        ("2", 5),
    ];
    assert_eq!(
        chain,
        expected.map(|(cause, effect)| (cause.to_owned(), effect))
    );
    for link in &verdict.chain {
        for seq in link.records {
            assert!(seq < verdict.run.records, "{link:?}");
        }
    }
    assert!(
        verdict.chain[0].text.starts_with(
            "gateway-0 was stressed by `flood` (applied: sent 320, sources 320); gateway-0 panicked"
        ),
        "{}",
        verdict.chain[0].text
    );
    assert!(verdict.timings.detected_after["flood"] < 2.0);
    let felt = verdict.faults.iter().all(|fault| fault.felt == Some(true));
    assert!(felt, "a crash that a fault led to is how it was felt");
}

#[test]
fn a_must_fail_run_may_end_an_epoch_after_its_last_finding() {
    let settles = |void: Range<i64>, fixed_end| {
        let mut net = incident().with(|header| header.fixed_end = fixed_end);
        (12..40).find(|layer| {
            if net.settled() {
                return true;
            }
            net.late_us = if void.contains(layer) { 300_000 } else { 0 };
            net.until(layer + 1);
            false
        })
    };
    // The last transactions are from layer 11; the stall is due in layer 14, seen in 15 and proved at its end.
    assert_eq!(settles(0..0, false), Some(16 + 4));
    // Three void layers put it in doubt until they are a tenth of all.
    assert_eq!(settles(17..20, false), Some(30));
    // The plan itself says when it ends.
    assert_eq!(settles(0..0, true), None);
}

#[test]
fn a_release_that_survives_is_not_what_a_must_fail_control_must_give() {
    let mut net = flooded();
    net.until(40).end();
    let result = net.control();
    assert_eq!(result.verdict.findings, []);
    assert_ne!(result.gave, Gave::Right);
    assert_eq!(result.missing.len(), 3);
    // The flood was seen and hit nobody: the control's release cannot be told from one that is sound.
    assert!(codes(&result.verdict).contains("fault-not-felt"));
}

#[test]
fn another_reason_is_a_wrong_reason() {
    let mut net = incident();
    net.until(14).panics("miner-0", "mesh");
    net.until(24).stop(Ending::Early);
    let result = net.control();
    assert_eq!(result.gave, Gave::Wrong);
    let wrong: Vec<&str> = result
        .wrong_reasons
        .iter()
        .map(|place| result.verdict.findings[*place].id.as_str())
        .collect();
    assert_eq!(wrong, ["crash/mesh"]);
    assert_eq!(result.exit_code().code(), 1);

    // Allowed, it is none.
    let mut control = must_fail(STATED);
    control.also_allowed = must_fail(&[("crash/mesh", None)]).findings;
    assert_eq!(compare(&control, net.verdict()).gave, Gave::Right);
}

#[test]
fn the_right_id_of_the_wrong_role_is_missing() {
    let mut net = incident();
    net.until(20).stop(Ending::Early);
    let control = must_fail(&[("crash/session-table", Some("miner"))]);
    let result = compare(&control, net.verdict());
    assert_eq!(result.missing.len(), 1);
    assert_eq!(result.gave, Gave::Wrong);
}

#[test]
fn a_finding_must_say_what_its_pattern_says() {
    let mut net = incident();
    net.until(20).stop(Ending::Early);
    for (says, gave) in [("just deleted", Gave::Right), ("closed twice", Gave::Wrong)] {
        let mut control = must_fail(STATED);
        control.findings[2].says = Some(says.into());
        assert_eq!(compare(&control, net.verdict()).gave, gave, "{says}");
    }
}

/// The gateways die, but before the flood: the findings are there and the reason is not.
#[test]
fn findings_that_nothing_links_do_not_count() {
    let mut net = flooded();
    net.until(8).panics("gateway-0", "session-table");
    net.panics("gateway-1", "session-table");
    net.until(12).all("miner", |miner| miner.stuck = true);
    net.until(20).stop(Ending::Early);
    let result = net.control();
    assert_eq!(result.missing, []);
    assert_eq!(result.unlinked.len(), 2, "{:?}", found(&result.verdict));
    assert_ne!(result.gave, Gave::Right);
}

/// A stall that was due before the gateways died did not come from their death.
#[test]
fn a_cause_is_never_later_than_its_effect() {
    let mut net = flooded();
    net.until(10).all("miner", |miner| miner.stuck = true);
    net.until(16).panics("gateway-0", "session-table");
    net.panics("gateway-1", "session-table");
    net.until(24).stop(Ending::Early);
    let verdict = net.verdict();
    let stalls = verdict
        .findings
        .iter()
        .filter(|it| it.id == "stalled/tx")
        .count();
    assert_eq!(stalls, 3);
    for link in &verdict.chain {
        if verdict.findings[link.effect].id == "stalled/tx" {
            assert!(matches!(link.cause, Cause::Fault { .. }), "{link:?}");
        }
    }
    assert_eq!(net.control().gave, Gave::Wrong);
}

#[test]
fn a_fault_that_was_not_applied_makes_no_control() {
    let mut net = flooded();
    net.until(10);
    net.until(12).all("miner", |miner| miner.stuck = true);
    for fault in net.faults.clone() {
        net.evidence(&fault, Grade::Applied, false);
    }
    net.until(20).stop(Ending::Early);
    let control = must_fail(&[("stalled/tx", Some("miner"))]);
    let net = net.with(|header| header.control = Some(control));
    let result = net.control();
    assert_eq!(result.verdict.verdict, Outcome::Fail);
    assert_eq!(result.gave, Gave::Undecided);
    assert_eq!(result.exit_code().code(), 3);
}

pub(crate) fn both() -> Comparison {
    let mut bad = incident();
    bad.until(20).stop(Ending::Early);
    let mut control = must_fail(&[]);
    control.must_pass = true;
    control.release = "fixed".into();
    let faults = vec![flood("gateway-0", 10, 24), flood("gateway-1", 10, 24)];
    let expect = vec![advance("tx", every_of("miner"), 3), recover(6)];
    let mut good = Net::new(expect, faults).with(|header| {
        header.control = Some(control);
        header.release = "fixed".into();
    });
    good.until(34).end();
    Comparison::new("plan", vec![bad.control(), good.control()])
}

#[test]
fn two_controls_that_give_what_they_must() {
    let mut both = both();
    assert_eq!(both.exit_code().code(), 0);
    both.controls[0].gave = Gave::Wrong;
    assert_eq!(both.exit_code().code(), 1);
    both.controls[1].gave = Gave::Undecided;
    assert_eq!(both.exit_code().code(), 1);
    both.controls[0].gave = Gave::Right;
    assert_eq!(both.exit_code().code(), 3);
}

/// Two nodes are killed and healed, and one of them stands still: it is not the other's fault that is blamed.
#[test]
fn what_was_done_to_the_node_itself_is_blamed_before_what_was_done_elsewhere() {
    let blamed = |stuck: &str| {
        let expect = vec![advance("tx", every_of("miner"), 9), recover(6)];
        let faults = vec![kill("miner-0", 10, Some(14)), kill("miner-1", 10, Some(14))];
        let mut net = Net::new(expect, faults);
        net.until(14).node(stuck).stuck = true;
        net.until(22).end();
        let verdict = net.verdict();
        assert_eq!(found(&verdict), [format!("unrecovered/tx {stuck}")]);
        let causes = verdict.chain.iter().map(|link| match &link.cause {
            Cause::Fault { node, .. } => node.clone(),
            Cause::Finding(place) => place.to_string(),
        });
        causes.collect::<Vec<_>>()
    };
    assert_eq!(blamed("miner-0"), ["miner-0"]);
    assert_eq!(blamed("miner-1"), ["miner-1"]);
    // Nothing was done to it, so whatever was done may be it.
    assert_eq!(blamed("miner-2"), ["miner-0", "miner-1"]);
}
