//! What must be caught in what nodes report, and what must be left alone.

use serde_json::json;
use tweedledum_core::history::{Body, ExpectInfo, Record};
use tweedledum_core::verdict::Held;

use crate::judged::*;
use crate::net::*;
use crate::planned::*;
use crate::rounds::*;

fn atx() -> Vec<ExpectInfo> {
    vec![advance("atx", every_of("miner"), 6)]
}

/// Three miners, two gateways, two PoETs, and a flood that hurts nobody.
fn quiet() -> Rounds {
    Rounds::new([3, 2, 2], atx(), vec![flood("gateway-0", 10, 20)])
}

/// Nobody asks for any of it: these run in every plan.
#[track_caller]
fn gives(rounds: &mut Rounds, findings: &[&str]) {
    rounds.until(30);
    rounds.net.end();
    if findings.is_empty() {
        passes(&rounds.net);
    } else {
        fails(&rounds.net, findings);
    }
}

#[test]
fn a_sound_network_is_left_alone() {
    gives(&mut quiet(), &[]);
}

#[test]
fn a_proof_that_one_node_lacks() {
    let mut rounds = quiet();
    let withheld = ("miner-1".to_owned(), "poet-0".to_owned(), 4);
    rounds.withheld.insert(withheld);
    gives(&mut rounds, &["proof/undelivered poet-0"]);
    let finding = &rounds.net.verdict().findings[0];
    assert_eq!(finding.due_ns, at(16) + LAYER / 50);
    assert_eq!(finding.proved_ns, at(19));
    assert_eq!(
        finding.text,
        "the proof of round 4 by poet-0 reached 4 of 5 nodes within 2 layers; it was handed over to 1, which is no delivery"
    );
    assert_eq!(finding.round, Some(4));

    // A host that let nodes wait at another time has not made it.
    let mut rounds = quiet();
    let withheld = ("miner-1".to_owned(), "poet-0".to_owned(), 4);
    rounds.withheld.insert(withheld);
    for (layer, starved) in [(5, true), (7, false)] {
        rounds
            .until(layer)
            .net
            .all("poet", |poet| poet.starved = starved);
    }
    gives(&mut rounds, &["proof/undelivered poet-0"]);

    // Neither has a single node that waited; that most of a role did may have.
    let starving = |poets| {
        let mut rounds = quiet();
        let withheld = ("miner-1".to_owned(), "poet-0".to_owned(), 4);
        rounds.withheld.insert(withheld);
        rounds.until(16);
        for poet in names("poet", poets) {
            rounds.net.node(&poet).starved = true;
        }
        rounds.until(30).net.end();
        rounds.net
    };
    fails(&starving(1), &["proof/undelivered poet-0"]);
    let net = starving(2);
    unclear(&net, &["void-layers"]);
    let reason = &net.verdict().reasons[0];
    assert_eq!(
        reason.measurement,
        "most nodes of a role waited in 14 layers, 0 were void, of 30"
    );
    assert_eq!(reason.records.len(), 2);
    // Nor one that is alone in its role.
    let mut rounds = Rounds::new([3, 2, 1], atx(), vec![flood("gateway-0", 10, 20)]);
    let withheld = ("miner-1".to_owned(), "poet-0".to_owned(), 4);
    rounds.withheld.insert(withheld);
    rounds.until(16).net.node("poet-0").starved = true;
    gives(
        &mut rounds,
        &["proof/undelivered poet-0", "stalled/atx miner-1"],
    );
    // Two void layers of thirty are few, but PoETs hand over by the wall clock.
    let mut rounds = quiet();
    let withheld = ("miner-1".to_owned(), "poet-0".to_owned(), 4);
    rounds.withheld.insert(withheld);
    rounds.until(16).net.late_us = 900_000;
    rounds.until(18).net.late_us = 100;
    rounds.until(30).net.end();
    unclear(&rounds.net, &["void-layers"]);
}

#[test]
fn a_proof_that_comes_late_is_recovered() {
    let mut rounds = quiet();
    let withheld = ("miner-1".to_owned(), "poet-0".to_owned(), 4);
    rounds.withheld.insert(withheld);
    let held =
        json!({ "poet": key("poet-0"), "round": 4, "ref": proof("poet-0", 4), "member": true });
    rounds.say(at(19) + 5, "miner-1", "proof-held", &held);
    gives(&mut rounds, &["proof/undelivered poet-0"]);
    assert_eq!(
        rounds.net.verdict().findings[0].recovered_ns,
        Some(at(19) + 5)
    );
}

#[test]
fn another_proof_of_the_round_is_not_the_proof() {
    let mut rounds = quiet();
    let withheld = ("miner-1".to_owned(), "poet-0".to_owned(), 4);
    rounds.withheld.insert(withheld);
    let held = json!({ "poet": key("poet-0"), "round": 4, "ref": "forged", "member": true });
    rounds.say(at(16) + LAYER / 2, "miner-1", "proof-held", &held);
    gives(&mut rounds, &["proof/undelivered poet-0"]);
}

/// Who is dead or kept away by the harness owes nothing; who dies by itself is found for that.
#[test]
fn who_is_away_owes_no_proof() {
    let mut rounds = Rounds::new([3, 2, 2], atx(), vec![pause("gateway-1", 15, 18)]);
    gives(&mut rounds, &[]);

    let mut rounds = quiet();
    rounds.until(15);
    rounds.net.panics("gateway-1", "mesh");
    gives(&mut rounds, &["crash/mesh gateway-1"]);
}

/// All gateways are killed by the harness, and the plan says that liveness is then not demanded; they come back when
/// the proof is of no use any more.
#[test]
fn no_delivery_is_demanded_while_the_plan_tolerates_it() {
    let mut kill_all = Rounds::new(
        [3, 2, 2],
        atx(),
        vec![
            kill("gateway-0", 14, Some(19)),
            kill("gateway-1", 14, Some(19)),
        ],
    );
    kill_all.net = kill_all.net.with(|header| {
        let mut tolerance = more_than_two_thirds("gateway");
        tolerance.amount = tweedledum_core::plan::model::Amount::AtLeast(1);
        header.tolerates = vec![tolerance];
    });
    kill_all.until(30);
    kill_all.net.end();
    // Round 4 was never taken, so the ATX of epoch 4 is missing: nobody may demand it either.
    assert_eq!(found(&kill_all.net.verdict()), Vec::<String>::new());

    // Demanded, it is found.
    let mut rounds = Rounds::new(
        [3, 2, 2],
        vec![advance("atx", every_of("miner"), 9)],
        vec![
            kill("gateway-0", 14, Some(19)),
            kill("gateway-1", 14, Some(19)),
        ],
    );
    gives(
        &mut rounds,
        &["proof/undelivered poet-0", "proof/undelivered poet-1"],
    );
    let text = &rounds.net.verdict().findings[0].text;
    assert_eq!(
        text,
        "the proof of round 4 by poet-0 reached 0 of 3 nodes within 2 layers; 7 tries to hand it over failed, then it was given up: connection refused"
    );
}

/// A log may be read later than another: the proof is held and cited before anybody says it was made.
#[test]
fn the_order_of_logs_fools_nobody() {
    let mut rounds = quiet();
    rounds.until(30);
    let late = |body: &Body| matches!(body, Body::Event(event) if event.event == "proof-made" || event.event == "broadcast-acked");
    rounds.net.end();
    // Every line of a PoET is read almost a layer later.
    for record in &mut rounds.net.records {
        record.t_ns += if late(&record.body) {
            LAYER * 9 / 10
        } else {
            0
        };
    }
    rounds.net.records.sort_by_key(|record| record.t_ns);
    renumber(&mut rounds.net.records);
    passes(&rounds.net);
}

#[test]
fn a_forged_proof_is_no_base_for_an_atx() {
    let mut rounds = quiet();
    let atx = json!({
        "epoch": 5, "target": 6, "atx": "forged-atx", "node": "id-of-stranger", "proof": "forged", "poet": key("poet-0"), "round": 5,
    });
    rounds.say(at(20) + LAYER / 2, "miner-2", "atx-published", &atx);
    gives(&mut rounds, &["invalid/atx-proof miner-2"]);
    let finding = &rounds.net.verdict().findings[0];
    assert_eq!(
        finding.text,
        "ATX forged-atx of miner-2 cites proof forged of round 5 by PoET key-of-poet-, which never made it"
    );
    assert_eq!(finding.proved_ns, at(25), "an epoch later");
}

/// The logs of nodes that were there before are read from some time on: a proof that was made just before is cited just
/// after. What came later is told.
#[test]
fn a_proof_of_before_the_logs_are_read_is_not_missed() {
    let without = |untold: &dyn Fn(&str) -> bool| {
        let mut rounds = quiet();
        rounds.net = rounds.net.with(|header| header.first_epoch = 17);
        rounds.until(30);
        rounds.net.end();
        rounds.net.records.retain(|record| {
            let Body::Event(event) = &record.body else {
                return true;
            };
            event.event != "proof-made" || !untold(event.fields["ref"].as_str().unwrap())
        });
        renumber(&mut rounds.net.records);
        rounds.net.verdict()
    };
    let untold = |poet: &str, round: i64| {
        let untold = proof(poet, round);
        found(&without(&|reference| reference == untold))
    };
    assert_eq!(untold("poet-0", 1), Vec::<String>::new());
    // Who hears of no proof at all has seen nothing of what ATXs cite.
    let verdict = without(&|_| true);
    let cited = verdict.expectations.iter().find(|it| it.kind == "cited");
    assert_eq!(cited.map(|it| it.held), Some(Held::Unknown));
    let missed = untold("poet-0", 4);
    assert!(
        missed
            .iter()
            .any(|it| it.starts_with("invalid/atx-proof miner-")),
        "{missed:?}"
    );
}

/// At the end of a whole history every log has been read.
#[test]
fn a_forged_proof_just_before_the_end() {
    let mut rounds = quiet();
    let atx = json!({
        "epoch": 7, "target": 8, "atx": "forged-atx", "node": "id-of-stranger", "proof": "forged", "poet": key("poet-0"), "round": 7,
    });
    rounds.say(at(29) + LAYER / 2, "miner-2", "atx-published", &atx);
    gives(&mut rounds, &["invalid/atx-proof miner-2"]);
}

#[test]
fn two_atxs_of_one_identity() {
    let again = |identity: &str| {
        json!({
            "epoch": 4, "target": 5, "atx": "another", "node": identity, "proof": proof("poet-0", 4), "poet": key("poet-0"), "round": 4,
        })
    };
    let mut rounds = quiet();
    rounds.say(at(17), "miner-1", "atx-published", &again("id-of-miner-1"));
    // What others see of it is the same.
    let seen = json!({ "node": "id-of-miner-1", "epoch": 4, "first": "atx-4-of-miner-1", "second": "another" });
    rounds.say(at(18), "miner-0", "double-atx", &seen);
    rounds.say(at(18), "gateway-0", "double-atx", &seen);
    gives(&mut rounds, &["fork/two-atxs miner-1"]);
    assert_eq!(
        rounds.net.verdict().findings[0].text,
        "miner-1 (id-of-miner-) made two ATXs in epoch 4: atx-4-of-min and another, says miner-1"
    );

    // Only others say it.
    let mut rounds = quiet();
    rounds.say(at(18), "gateway-0", "double-atx", &seen);
    gives(&mut rounds, &["fork/two-atxs miner-1"]);

    // The same ATX again, as after a restart, is one.
    let mut rounds = quiet();
    let mut same = again("id-of-miner-1");
    same["atx"] = json!("atx-4-of-miner-1");
    rounds.say(at(17), "miner-1", "atx-published", &same);
    gives(&mut rounds, &[]);
}

#[test]
fn two_votes_for_one_question() {
    let mut rounds = quiet();
    for (layer, node) in [(13, "miner-0"), (14, "miner-2"), (15, "gateway-0")] {
        let seen = json!({ "node": "id-of-miner-1", "layer": layer, "round": 1, "step": "vote" });
        rounds.say(at(layer), node, "equivocation", &seen);
    }
    gives(&mut rounds, &["fork/two-votes miner-1"]);
    assert_eq!(
        rounds.net.verdict().findings[0].text,
        "miner-1 (id-of-miner-) voted twice in layer 13, round 1 (vote), says miner-0"
    );
}

/// It is in no proof: lost. One of two PoETs has it: not lost. One of two proofs never came: nobody knows.
#[test]
fn an_acknowledged_challenge_must_be_in_a_proof() {
    let lose = |poets: &[&str], withheld: &[&str]| {
        let mut rounds = quiet();
        let of = |poet: &&str| ("miner-1".to_owned(), (*poet).to_owned(), 5);
        rounds.forgotten = poets.iter().map(of).collect();
        rounds.withheld = withheld.iter().map(of).collect();
        rounds
    };
    let mut lost = lose(&["poet-0", "poet-1"], &[]);
    gives(&mut lost, &["lost/challenge miner-1"]);
    assert_eq!(
        lost.net.verdict().findings[0].text,
        "the challenge of miner-1 for round 5 is lost: 2 PoETs acknowledged it and none of their proofs has it"
    );
    gives(&mut lose(&["poet-0"], &[]), &[]);
    gives(
        &mut lose(&["poet-0"], &["poet-1"]),
        &["proof/undelivered poet-1"],
    );
}

#[test]
fn a_state_root_that_changed() {
    let mut rounds = quiet();
    rounds.until(14);
    rounds.net.node("miner-2").forked = true;
    rounds.until(15);
    rounds.net.node("miner-2").forked = false;
    gives(&mut rounds, &["disagree/state-root miner-2"]);
}

/// An event that lacks what it must have is no data; one that no role declares is nothing at all.
#[test]
fn what_cannot_be_read_is_no_pass() {
    let mut rounds = quiet();
    rounds.say(
        at(12),
        "poet-0",
        "proof-made",
        &json!({ "poet": key("poet-0") }),
    );
    rounds.until(30);
    unclear(rounds.net.end(), &["no-data"]);

    let mut rounds = quiet();
    let failed = json!({ "poet": "k", "round": 3, "cause": "disk-full", "error": "" });
    rounds.say(at(12), "miner-0", "round-failed", &failed);
    gives(&mut rounds, &[]);
}

#[test]
fn poets_that_make_no_proof_are_no_pass() {
    let mut rounds = quiet();
    rounds.until(30);
    rounds.net.end();
    let records = &mut rounds.net.records;
    records.retain(|record| !matches!(record.body, Body::Event(_)));
    renumber(records);
    unclear(&rounds.net, &["no-data"]);
}

/// A history that was changed is whole again.
pub(crate) fn renumber(records: &mut [Record]) {
    let all = records.len() as u64;
    for (seq, record) in (0_u64..).zip(records) {
        record.seq = seq;
        if let Body::End(end) = &mut record.body {
            end.count = all;
        }
    }
}

/// What is wrong with the host while two rounds are worked on.
#[derive(Clone, Copy)]
enum Host {
    Fit,
    Void,
    Starving,
}

/// A PoET whose disk has room for one round and a half, and of which a round found it full in layer 17; round 4 is at work
/// until layer 16, and round 5 from this layer on.
fn rounds_that_met(round: u64, round_5_from: i64, host: Host) -> Net {
    let mut rounds = quiet();
    let begun = json!({ "poet": key("poet-0"), "round": 5, "members": 3 });
    rounds.say(
        at(round_5_from) + LAYER / 2,
        "poet-0",
        "round-executing",
        &begun,
    );
    rounds.until(16);
    match host {
        Host::Fit => {}
        Host::Void => rounds.net.late_us = 900_000,
        Host::Starving => rounds.net.all("poet", |it| it.starved = true),
    }
    let failed = json!({ "poet": key("poet-0"), "round": round, "cause": "disk-full", "error": "No space left on device" });
    rounds.say(at(17) + LAYER / 2, "poet-0", "round-failed", &failed);
    rounds.until(18);
    rounds.net.late_us = 100;
    rounds.net.all("poet", |it| it.starved = false);
    rounds.until(40).net.end();
    rounds.net
}

/// On a fit host that is the release's failure; on one that stood still meanwhile it may be the host's.
#[test]
fn rounds_that_an_unfit_host_drove_into_each_other() {
    // Round 6 with round 5 still at work, or round 5 that began so.
    for (round, round_5_from) in [(6, 16), (5, 15)] {
        let net = rounds_that_met(round, round_5_from, Host::Fit);
        fails(&net, &["disk/full poet-0"]);
        for host in [Host::Void, Host::Starving] {
            let net = rounds_that_met(round, round_5_from, host);
            unclear(&net, &["void-layers"]);
            let verdict = net.verdict();
            assert_eq!(verdict.doubtful.len(), 1, "{:?}", verdict.doubtful);
            assert_eq!(verdict.doubtful[0].id, "disk/full");
        }
    }
    // One that had the disk for itself is no matter of the host.
    for host in [Host::Void, Host::Starving] {
        let net = rounds_that_met(5, 16, host);
        fails(&net, &["disk/full poet-0"]);
    }
}

/// What a doubtful round has left may fill the disk later, and kill its PoET whenever that is; not another one.
#[test]
fn what_follows_from_what_is_doubtful_alone_is_doubtful() {
    let follows = |poet: &str| {
        let mut rounds = quiet();
        rounds.until(17);
        rounds.net.late_us = 900_000;
        for (layer, round) in [(17, 6), (26, 7)] {
            let failed = json!({ "poet": key("poet-0"), "round": round, "cause": "disk-full", "error": "No space left on device" });
            rounds.say(at(layer) + LAYER / 2, "poet-0", "round-failed", &failed);
        }
        rounds.until(18).net.late_us = 100;
        rounds.until(33).net.panics(poet, "new-round");
        rounds.until(36).net.end();
        rounds.net
    };
    let net = follows("poet-0");
    unclear(&net, &["void-layers"]);
    let verdict = net.verdict();
    let doubtful: Vec<&str> = verdict.doubtful.iter().map(|it| it.id.as_str()).collect();
    assert_eq!(doubtful, ["disk/full", "disk/full", "crash/new-round"]);
    let mut all = verdict.expectations.iter();
    let alive = all.find(|it| it.kind == "alive").unwrap();
    assert_eq!(alive.held, Held::Unknown);
    assert!(
        alive.doubts[0].contains("may follow from what the host made"),
        "{:?}",
        alive.doubts
    );
    fails(&follows("poet-1"), &["crash/new-round poet-1"]);
}

/// A round whose proof nobody was free to take is kept, and the next one finds no room.
#[test]
fn a_round_that_is_kept_while_the_host_starves() {
    let kept = |starved: bool| {
        let mut rounds = quiet();
        rounds.net = rounds.net.with(|header| {
            let poet = header.roles.get_mut("poet").unwrap();
            poet.events.insert("round-removed".to_owned());
        });
        for round in 1..4 {
            let removed = json!({ "poet": key("poet-0"), "round": round });
            rounds.say(
                at(round * 4) + LAYER / 2,
                "poet-0",
                "round-removed",
                &removed,
            );
        }
        let failed = json!({ "poet": key("poet-0"), "round": 5, "cause": "disk-full", "error": "No space left on device" });
        rounds.say(at(18) + LAYER / 2, "poet-0", "round-failed", &failed);
        rounds.until(17);
        rounds.net.all("poet", |it| it.starved = starved);
        rounds.until(18);
        rounds.net.all("poet", |it| it.starved = false);
        rounds.until(30).net.end();
        rounds.net
    };
    unclear(&kept(true), &["void-layers"]);
    fails(&kept(false), &["disk/full poet-0"]);
}

#[test]
fn the_last_number_of_a_round_is_one_like_any_other() {
    let mut rounds = quiet();
    let made = json!({ "poet": key("poet-0"), "round": u64::MAX, "ref": "r", "members": 0 });
    let failed =
        json!({ "poet": key("poet-0"), "round": u64::MAX, "cause": "disk-full", "error": "" });
    rounds.say(at(20), "poet-0", "proof-made", &made);
    rounds.say(at(20) + 1, "poet-0", "round-failed", &failed);
    rounds.until(30).net.end();
    assert!(found(&rounds.net.verdict()).contains(&"disk/full poet-0".to_owned()));
}
