//! Lines of nodes' logs that were lost: never a pass, and never a finding that rests on what was not heard.

use serde_json::json;
use tweedledum_core::history::{Body, DROPPED, Event, Gap, LOG, Record, SignalValue};
use tweedledum_core::verdict::Held;

use crate::judged::*;
use crate::net::*;
use crate::planned::*;
use crate::reported::renumber;
use crate::rounds::*;

/// Three miners, two gateways, two PoETs, and a flood that hurts nobody.
fn quiet() -> Rounds {
    let expect = vec![advance("atx", every_of("miner"), 6)];
    Rounds::new([3, 2, 2], expect, vec![flood("gateway-0", 10, 20)])
}

fn gap(node: &str) -> Body {
    Body::Gap(Gap {
        node: node.to_owned(),
        source: LOG.to_owned(),
        signals: Vec::new(),
        why: "70000 bytes were thrown away unread".to_owned(),
        answered: true,
        excused: false,
    })
}

/// Plays to the end, then takes out what a node said and this is true of, and puts in that it lost something.
fn lost(rounds: &mut Rounds, node: &str, told_ns: u64, gone: impl Fn(&Record) -> bool) {
    rounds.until(30);
    rounds.net.end();
    let records = &mut rounds.net.records;
    let before = records.len();
    records.retain(|record| {
        let of = match &record.body {
            Body::Event(event) => &event.node,
            Body::Sample(sample) => &sample.node,
            _ => return true,
        };
        of != node || !gone(record)
    });
    assert!(records.len() < before, "nothing is gone");
    let place = records.partition_point(|record| record.t_ns <= told_ns);
    let told = Record {
        seq: 0,
        t_ns: told_ns,
        body: gap(node),
    };
    records.insert(place, told);
    renumber(records);
}

/// As if nobody had told that something was lost.
fn untold(rounds: &mut Rounds) {
    let records = &mut rounds.net.records;
    records.retain(|record| !matches!(&record.body, Body::Gap(gap) if gap.source == LOG));
    renumber(records);
}

fn event<'r>(record: &'r Record, name: &str) -> Option<&'r Event> {
    match &record.body {
        Body::Event(event) if event.event == name => Some(event),
        _ => None,
    }
}

fn of_round(record: &Record, name: &str, round: i64) -> bool {
    event(record, name).is_some_and(|event| event.fields["round"] == json!(round))
}

/// What was lost may have been a lie that somebody saw: whoever loses anything, it is no pass.
#[test]
fn a_loss_is_no_pass_even_if_all_else_is_well() {
    for node in ["miner-1", "gateway-1", "poet-0"] {
        let mut rounds = quiet();
        rounds.net.to_come.push((at(13) + LAYER / 3, gap(node)));
        rounds.until(30);
        unclear(rounds.net.end(), &["observer-gap"]);
        let verdict = rounds.net.verdict();
        assert_eq!(verdict.reasons.len(), 1, "{:#?}", verdict.reasons);
        let reason = &verdict.reasons[0];
        assert!(reason.text.contains(node), "{}", reason.text);
        assert_eq!(reason.measurement, "70000 bytes were thrown away unread");
        let doubted = |kind: &str| {
            let mut expectations = verdict.expectations.iter();
            let it = expectations.find(|it| it.kind == kind).unwrap();
            it.held == Held::Unknown
        };
        assert_eq!(doubted("identities"), node != "poet-0");
        assert_eq!(doubted("cited"), node != "gateway-1");
        assert!(doubted("delivered"));
        // It was heard in time all along.
        assert!(!doubted("advance"));
    }
}

/// A node that tells by itself that it could not print counts like one whose lines were thrown away, if its role has that
/// event; of any other role it is a line like any other.
#[test]
fn what_a_node_dropped_itself_is_lost_as_well() {
    let play = |declared: bool| {
        let mut rounds = quiet();
        if declared {
            rounds.net = rounds.net.with(|header| {
                let miner = header.roles.get_mut("miner").unwrap();
                miner.events.insert(DROPPED.to_owned());
            });
        }
        rounds.say(at(13), "miner-1", DROPPED, &json!({ "count": 3 }));
        rounds.until(30);
        rounds.net.end();
        rounds
    };
    let rounds = play(true);
    unclear(&rounds.net, &["observer-gap"]);
    let verdict = rounds.net.verdict();
    assert_eq!(
        verdict.reasons[0].measurement,
        "3 events that it dropped itself"
    );
    passes(&play(false).net);
}

/// A node that reports nothing and pushes nothing may print what it likes.
#[test]
fn who_reports_nothing_loses_nothing() {
    let mut net = Net::new(
        vec![advance("tx", every_of("miner"), 3)],
        vec![flood("gateway-0", 9, 11)],
    );
    net.to_come.push((at(12) + 1, gap("miner-0")));
    net.until(20);
    passes(net.end());
}

#[test]
fn a_proof_whose_arrival_was_lost_is_not_undelivered() {
    let play = || {
        let mut rounds = quiet();
        lost(&mut rounds, "miner-1", at(16) + LAYER / 2, |record| {
            of_round(record, "proof-held", 4)
        });
        rounds
    };
    unclear(&play().net, &["observer-gap"]);
    let mut rounds = play();
    untold(&mut rounds);
    fails(
        &rounds.net,
        &["proof/undelivered poet-0", "proof/undelivered poet-1"],
    );
}

/// One node's loss excuses that node: what another lacks is still found.
#[test]
fn a_loss_elsewhere_excuses_nobody() {
    let mut rounds = quiet();
    let withheld = ("gateway-1".to_owned(), "poet-0".to_owned(), 4);
    rounds.withheld.insert(withheld);
    lost(&mut rounds, "miner-1", at(16) + LAYER / 2, |record| {
        of_round(record, "proof-held", 4)
    });
    fails(&rounds.net, &["proof/undelivered poet-0"]);
    assert!(rounds.net.verdict().findings[0].text.contains("3 of 4"));
}

#[test]
fn a_proof_whose_making_was_lost_is_not_forged() {
    let play = || {
        let mut rounds = quiet();
        lost(&mut rounds, "poet-0", at(16) + LAYER / 2, |record| {
            of_round(record, "proof-made", 4)
        });
        rounds
    };
    unclear(&play().net, &["observer-gap"]);
    let mut rounds = play();
    untold(&mut rounds);
    assert!(found(&rounds.net.verdict()).contains(&"invalid/atx-proof miner-0".to_owned()));
}

#[test]
fn a_challenge_whose_second_poet_was_lost_is_not_lost() {
    let play = || {
        let mut rounds = quiet();
        let forgotten = ("miner-1".to_owned(), "poet-0".to_owned(), 5);
        rounds.forgotten.insert(forgotten);
        lost(&mut rounds, "miner-1", at(16) + LAYER * 3 / 4, |record| {
            let registered = event(record, "challenge-registered");
            registered.is_some_and(|event| {
                event.fields["poet"] == json!(key("poet-1")) && event.fields["round"] == json!(5)
            })
        });
        rounds
    };
    unclear(&play().net, &["observer-gap"]);
    let mut rounds = play();
    untold(&mut rounds);
    fails(&rounds.net, &["lost/challenge miner-1"]);
}

/// Silence of a signal that is pushed means that nothing happened, unless lines were lost; after the loss it does again.
#[test]
fn an_advance_that_was_lost_is_no_stall() {
    let atx_after = |record: &Record, epoch: u64, to: u64| match &record.body {
        Body::Sample(sample) => {
            sample.signal == "atx"
                && matches!(sample.value, SignalValue::Number(at) if at > epoch && at < to)
        }
        _ => false,
    };
    let play = |to: u64| {
        let mut rounds = quiet();
        lost(&mut rounds, "miner-1", at(16) + LAYER / 2, |record| {
            atx_after(record, 3, to)
        });
        rounds
    };
    // The ATX of epoch 4 was lost, that of epoch 5 was heard.
    unclear(&play(5).net, &["observer-gap"]);
    let mut rounds = play(5);
    untold(&mut rounds);
    fails(&rounds.net, &["stalled/atx miner-1"]);

    // Nothing came any more, for longer than the bound after what was lost.
    let rounds = play(u64::MAX);
    fails(&rounds.net, &["stalled/atx miner-1"]);
    let finding = &rounds.net.verdict().findings[0];
    assert_eq!(finding.since_ns, Some(at(16) + LAYER / 2));
}

#[test]
fn what_was_lost_after_a_heal_may_have_been_the_recovery() {
    let play = || {
        let expect = vec![advance("block", any_of("miner"), 12), recover(4)];
        let mut rounds = Rounds::new([3, 2, 2], expect, vec![flood("gateway-0", 10, 20)]);
        rounds.net = rounds.net.with(|header| header.fixed_end = true);
        let block = |record: &Record, from: i64| {
            record.t_ns >= at(from)
                && matches!(&record.body, Body::Sample(sample) if sample.signal == "block")
        };
        for miner in ["miner-0", "miner-2"] {
            rounds.until(30);
            let records = &mut rounds.net.records;
            records.retain(|record| {
                !(block(record, 20)
                    && matches!(&record.body, Body::Sample(sample) if sample.node == miner))
            });
        }
        lost(&mut rounds, "miner-1", at(22), |record| block(record, 20));
        rounds
    };
    unclear(&play().net, &["observer-gap", "no-data"]);
    let mut rounds = play();
    untold(&mut rounds);
    fails(&rounds.net, &["unrecovered/block miner"]);
}
