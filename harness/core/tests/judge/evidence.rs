//! No green without evidence.

use std::collections::BTreeMap;

use tweedledum_core::control::Gave;
use tweedledum_core::history::{Body, Ending, Grade, Interrupt, LimitEvidence, Phase, StepChange};
use tweedledum_core::verdict::{Cleanup, ExitCode, Outcome};

use crate::judged::*;
use crate::net::*;
use crate::planned::*;

fn net() -> Net {
    Net::new(
        vec![advance("tx", every_of("miner"), 3), recover(6)],
        vec![flood("gateway-0", 10, 16)],
    )
}

/// The run with one more word about its fault at layer 15.
fn with_evidence(grade: Grade, held: bool) -> Net {
    let mut net = net();
    net.until(if grade == Grade::Gone { 18 } else { 15 });
    let fault = net.faults[0].clone();
    net.evidence(&fault, grade, held);
    net.until(26).end();
    net
}

#[test]
fn a_fault_must_be_seen_and_seen_gone() {
    passes(net().until(26).end());
    unclear(
        &with_evidence(Grade::Applied, false),
        &["fault-not-applied"],
    );
    unclear(&with_evidence(Grade::Gone, false), &["fault-not-gone"]);
}

/// Half a flood that overflowed its target's buffer hit something, and is not the flood that was planned.
#[test]
fn a_part_that_was_felt_is_no_fault_that_was_applied() {
    let mut net = net();
    net.until(12);
    let fault = net.faults[0].clone();
    net.evidence(&fault, Grade::Felt, true);
    net.evidence(&fault, Grade::Applied, false);
    unclear(net.until(26).end(), &["fault-not-applied"]);
}

#[test]
fn a_fault_that_was_not_even_begun() {
    let mut net = net();
    net.faults.clear();
    let verdict = net.until(26).end().verdict();
    assert!(codes(&verdict).contains("fault-not-applied"));
    assert_eq!(verdict.verdict, Outcome::Inconclusive);
}

#[test]
fn what_must_be_felt_must_be_felt() {
    let felt = |header: &mut tweedledum_core::history::Header| {
        header.faults.get_mut("flood").unwrap().must_be_felt = true;
    };
    unclear(net().with(felt).until(26).end(), &["fault-not-felt"]);
    passes(&with_evidence(Grade::Felt, true).with(felt));
    // A kill that ended its target was felt.
    let expect = vec![advance("tx", any_of("miner"), 3)];
    let mut net = Net::new(expect, vec![kill("miner-0", 10, Some(12))])
        .with(|header| header.faults.get_mut("kill").unwrap().must_be_felt = true);
    passes(net.until(26).end());
}

/// Somebody else has started a killed node, or removed it, before its time was over.
#[test]
fn a_kill_whose_evidence_is_taken_back_was_not_applied() {
    let expect = vec![advance("tx", any_of("miner"), 3)];
    for taken_back in [false, true] {
        let mut net = Net::new(expect.clone(), vec![kill("miner-0", 10, Some(16))]);
        net.until(12);
        let fault = net.faults[0].clone();
        net.evidence(&fault, Grade::Applied, true);
        net.until(15);
        if taken_back {
            net.evidence(&fault, Grade::Applied, false);
        }
        net.until(26).end();
        if taken_back {
            unclear(&net, &["fault-not-applied"]);
        } else {
            passes(&net);
        }
    }
    // A probe of a dead target that never saw it says nothing against its death.
    let mut net = Net::new(expect, vec![kill("miner-0", 10, Some(16))]);
    net.until(12);
    for record in &mut net.records {
        if let Body::Evidence(evidence) = &mut record.body
            && evidence.grade == Grade::Applied
        {
            evidence.held = false;
        }
    }
    passes(net.until(26).end());
}

#[test]
fn a_failed_step_is_told() {
    let mut net = net();
    net.until(26).end();
    for record in &mut net.records {
        match &mut record.body {
            Body::Step(change) if change.step == 1 && change.phase == Phase::Done => {
                change.phase = Phase::Failed("no such socket".into());
            }
            Body::Evidence(evidence) if evidence.grade == Grade::Gone => evidence.held = false,
            _ => {}
        }
    }
    let verdict = net.verdict();
    let gone = verdict
        .reasons
        .iter()
        .find(|it| it.code.name() == "fault-not-gone");
    assert!(gone.unwrap().text.contains("no such socket"), "{gone:?}");
    assert_eq!(verdict.verdict, Outcome::Inconclusive);
}

/// What was there and felt for a while, and then broke down, is no fault that was applied.
#[test]
fn a_fault_that_broke_down_was_not_applied() {
    let mut net = net();
    net.until(13);
    let fault = net.faults[0].clone();
    net.evidence(&fault, Grade::Felt, true);
    let change = StepChange {
        step: 0,
        entry: fault.entry.into(),
        action: fault.action.clone(),
        phase: Phase::Failed("it maps `state` shared and writable".into()),
    };
    net.push(at(13), Body::Step(change));
    net.evidence(&fault, Grade::Applied, false);
    net.until(26).end();
    unclear(&net, &["fault-not-applied"]);
    let verdict = net.verdict();
    assert!(verdict.reasons[0].text.contains("shared and writable"));
}

/// Limits belong to the steady state: seen to hold before genesis, and never seen not to.
#[test]
fn a_limit_must_hold_from_before_genesis_on() {
    let run = |seen: &[(i64, Grade, bool)]| {
        let limited = |header: &mut tweedledum_core::history::Header| {
            header.nodes[0].disk = Some(600 * 1024);
        };
        let mut net = net().with(limited);
        let node = match &net.records[0].body {
            Body::Header(header) => header.nodes[0].name.clone(),
            _ => String::new(),
        };
        for (layer, grade, held) in seen {
            if *layer >= 0 {
                net.until(*layer);
            }
            let limit = LimitEvidence {
                node: node.clone(),
                grade: *grade,
                held: *held,
                detail: BTreeMap::new(),
            };
            let when = if *layer < 0 { at(0) - 1 } else { at(*layer) };
            net.push(when, Body::Limit(limit));
        }
        net.until(26).end();
        net
    };
    let (armed, applied) = ((-1, Grade::Armed, true), (-1, Grade::Applied, true));
    passes(&run(&[armed, applied]));
    passes(&run(&[armed, applied, (9, Grade::Felt, true)]));
    for bad in [
        &[][..],
        &[armed],
        &[applied],
        &[armed, (-1, Grade::Applied, false)],
        &[armed, (3, Grade::Applied, true)],
        &[armed, applied, (9, Grade::Applied, false)],
    ] {
        unclear(&run(bad), &["steady-state-not-reached"]);
    }
}

#[test]
fn what_is_left_behind_outranks_the_verdict() {
    let mut net = net();
    net.until(26).end();
    for record in &mut net.records {
        if let Body::TornDown(torn_down) = &mut record.body {
            torn_down.left.push("process 77".into());
        }
    }
    let verdict = net.verdict();
    assert_eq!(verdict.verdict, Outcome::Pass);
    assert_eq!(verdict.cleanup, Cleanup::Left(vec!["process 77".into()]));
    assert_eq!(verdict.exit_code().code(), 5);
}

#[test]
fn an_interrupted_run_is_no_pass() {
    for (signal, code) in [(2, 130), (15, 143), (1, 130)] {
        let mut net = net();
        net.until(12);
        net.push(at(12), Body::Interrupt(Interrupt { signal }));
        let verdict = net.stop(Ending::Interrupted(signal)).verdict();
        assert_eq!(verdict.verdict, Outcome::Inconclusive);
        assert_eq!(verdict.exit_code().code(), code);
    }
}

#[test]
fn runs_that_could_not_be_run() {
    for ending in [
        Ending::Substrate("the watchdog died".into()),
        Ending::TimedOut,
        Ending::NotReady(vec!["miner-0".into()]),
    ] {
        let verdict = net().until(12).stop(ending.clone()).verdict();
        assert_eq!(verdict.verdict, Outcome::Error, "{ending:?}");
        assert_eq!(verdict.exit_code().code(), 4);
    }
}

#[test]
fn an_early_end_before_everything_was_seen_is_no_pass() {
    let verdict = net().until(12).stop(Ending::Early).verdict();
    assert_eq!(verdict.verdict, Outcome::Inconclusive);
}

/// A control that the old release must fail by its session table, whose only gateway panics while it is flooded.
fn panicking() -> Net {
    let stated = must_fail(&[("crash/session-table", Some("gateway"))]);
    let mut net = net().with(|header| header.control = Some(stated));
    net.until(12).panics("gateway-0", "session-table");
    net.until(20).stop(Ending::Early);
    net
}

/// Wrong reasons may come last, so a run that was not let end says nothing of a control, whatever was found before.
#[test]
fn a_run_that_was_broken_off_is_no_demanded_failure() {
    assert_eq!(panicking().control().gave, Gave::Right);
    for ending in [
        Ending::TimedOut,
        Ending::Substrate("the engine is gone".into()),
    ] {
        let stated = must_fail(&[("crash/session-table", Some("gateway"))]);
        let mut net = net().with(|header| header.control = Some(stated));
        net.until(12).panics("gateway-0", "session-table");
        net.until(20).stop(ending);
        let result = net.control();
        assert_eq!(result.gave, Gave::Undecided);
        assert_eq!(result.exit_code(), ExitCode::Substrate);
    }
}

/// The same history in which nobody looked for a grade.
fn unseen(mut net: Net, grade: Grade) -> Net {
    for record in &mut net.records {
        if let Body::Evidence(evidence) = &mut record.body
            && evidence.grade == grade
        {
            evidence.grade = Grade::Armed;
        }
    }
    net
}

/// A node that panics while a fault should have been on, which could not be made: that is no demanded failure.
#[test]
fn a_fault_that_was_never_made_hits_nobody() {
    assert_eq!(panicking().control().gave, Gave::Right);
    let mut net = unseen(panicking(), Grade::Applied);
    for record in &mut net.records {
        match &mut record.body {
            Body::Step(change) if change.step == 0 && change.phase == Phase::Done => {
                change.phase = Phase::Failed("too many open files".into());
            }
            _ => {}
        }
    }
    let result = net.control();
    assert_ne!(result.gave, Gave::Right);
    assert!(codes(&result.verdict).contains("fault-not-applied"));
    assert!(
        result.verdict.chain.is_empty(),
        "{:?}",
        result.verdict.chain
    );
}

/// A run that ends early is excused from undoing what it did not begin to undo, and from nothing else.
#[test]
fn an_undo_that_was_begun_is_owed_its_proof() {
    let net = unseen(panicking(), Grade::Gone);
    let result = net.control();
    assert_ne!(result.gave, Gave::Right);
    assert!(codes(&result.verdict).contains("fault-not-gone"));
}

/// Nodes that were there before the run and stay owe no end; all others do.
#[test]
fn only_nodes_that_stay_need_not_end() {
    for stay in [false, true] {
        let mut net = net().with(|header| header.nodes_stay = stay);
        net.until(26).end();
        net.records
            .retain(|record| !matches!(record.body, Body::Exit(_)));
        let count = net.records.len() as u64;
        for (record, seq) in net.records.iter_mut().zip(0..) {
            record.seq = seq;
            if let Body::End(end) = &mut record.body {
                end.count = count;
            }
        }
        if stay {
            passes(&net);
        } else {
            unclear(&net, &["history-gap"]);
        }
    }
}
