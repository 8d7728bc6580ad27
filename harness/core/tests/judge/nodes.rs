//! What must be caught about nodes: deaths, hangs, deafness, disorderly stops.

use tweedledum_core::history::{Death, ExitStatus, Panic};
use tweedledum_core::schedule::Action;
use tweedledum_core::verdict::{Held, Outcome};

use crate::judged::*;
use crate::net::*;
use crate::planned::*;

fn net() -> Net {
    Net::new(
        vec![advance("tx", any_of("miner"), 3)],
        vec![flood("gateway-0", 10, 20)],
    )
}

/// One death of gateway-1 at layer 12, and what it must be called.
#[track_caller]
fn death(death: Death, panic: Option<Panic>, findings: &[&str]) {
    let mut net = net();
    net.until(12);
    net.exits(at(12), "gateway-1", death, panic);
    net.until(24).end();
    if findings.is_empty() {
        passes(&net);
    } else {
        fails(&net, findings);
    }
}

fn panic(component: Option<&str>) -> Panic {
    Panic {
        component: component.map(str::to_owned),
        message: "went wrong".into(),
        place: None,
    }
}

/// A thread panics, the process lives on, and then the plan kills it: the kill takes nothing back.
#[test]
fn a_kill_hides_no_panic() {
    for (panic, findings) in [
        (None, &[][..]),
        (Some(panic(Some("mesh"))), &["crash/mesh gateway-1"]),
    ] {
        let mut net = net().with(|header| {
            let mut kill = header.schedule.steps[0].clone();
            kill.id = 9;
            kill.action = Action::Kill {
                node: "gateway-1".into(),
            };
            header.schedule.steps.push(kill);
        });
        net.until(12);
        let killed = by_harness(Some(9), ExitStatus::Signal(9));
        net.exits(at(12), "gateway-1", killed, panic);
        let verdict = net.until(24).end().verdict();
        assert_eq!(found(&verdict), findings);
    }
}

#[test]
fn deaths_are_classified() {
    let itself = |status| Death::Itself(status);
    let abort = || itself(ExitStatus::Signal(6));
    death(itself(ExitStatus::Code(0)), None, &["crash/exit gateway-1"]);
    death(itself(ExitStatus::Code(7)), None, &["crash/exit gateway-1"]);
    death(
        itself(ExitStatus::Signal(11)),
        None,
        &["crash/signal gateway-1"],
    );
    death(
        itself(ExitStatus::Signal(9)),
        None,
        &["crash/signal gateway-1"],
    );
    death(abort(), Some(panic(None)), &["crash/panic gateway-1"]);
    death(
        abort(),
        Some(panic(Some("session-table"))),
        &["crash/session-table gateway-1"],
    );
    // A component that is no plain word is not believed, nor one that is called as another kind of crash.
    for hostile in [
        "",
        "A b",
        "../x",
        "::error::",
        &"x".repeat(500),
        "exit",
        "out-of-memory",
    ] {
        death(
            abort(),
            Some(panic(Some(hostile))),
            &["crash/panic gateway-1"],
        );
    }
}

#[test]
fn a_kill_from_outside_names_the_likely_reason() {
    let mut net = net();
    net.until(12);
    let death = Death::Itself(ExitStatus::Signal(9));
    net.exits(at(12), "gateway-1", death, None);
    let text = &net.until(24).end().verdict().findings[0].text.clone();
    assert!(text.contains("out of memory"), "{text}");
}

/// Neither the node nor the ones that stood still with it, nor its role for having nobody left.
#[test]
fn what_the_host_did_accuses_nobody() {
    for status in [ExitStatus::HostOutOfMemory, ExitStatus::HostGone] {
        host_accuses_nobody(status);
    }
}

fn host_accuses_nobody(status: ExitStatus) {
    let mut net = net();
    net.until(12);
    for gateway in ["gateway-0", "gateway-1"] {
        let death = Death::Itself(status);
        net.exits(at(12), gateway, death, None);
    }
    let ending = tweedledum_core::history::Ending::Substrate("no memory".into());
    let verdict = net.stop(ending).verdict();
    assert_eq!(found(&verdict), Vec::<String>::new());
    assert_eq!(verdict.verdict, Outcome::Error);
}

#[test]
fn disorderly_stops() {
    let stop = |status, ignored_stop| Death::Harness {
        step: None,
        ignored_stop,
        status,
    };
    for (death, expected) in [
        (stop(ExitStatus::Code(0), false), None),
        (stop(ExitStatus::Code(1), false), Some("stop/exit-code")),
        (stop(ExitStatus::Signal(15), false), Some("stop/exit-code")),
        (stop(ExitStatus::Signal(9), true), Some("stop/ignored")),
        (stop(ExitStatus::Signal(9), false), Some("stop/exit-code")),
        (stop(ExitStatus::Foreign, true), None),
        (stop(ExitStatus::HostGone, false), None),
    ] {
        for said in [true, false] {
            let mut net = net();
            net.until(24);
            let t_ns = at(24);
            if !said {
                net = net.with(|header| {
                    header.roles.get_mut("gateway").unwrap().expect_exit.clear();
                });
            }
            net.exits(t_ns, "gateway-1", death.clone(), None);
            let verdict = net.end().verdict();
            let ids: Vec<&str> = verdict.findings.iter().map(|it| it.id.as_str()).collect();
            // Without expected exit codes nothing is disorderly but ignoring the signal, and that is only told.
            let told = expected.filter(|id| said || *id == "stop/ignored");
            assert_eq!(ids, Vec::from_iter(told), "{death:?} {said}");
            let fails = told.is_some() && said;
            let outcome = if fails { Outcome::Fail } else { Outcome::Pass };
            assert_eq!(verdict.verdict, outcome, "{death:?} {said}");
        }
    }
}

#[test]
fn a_death_before_genesis_is_the_substrates() {
    let mut net = net();
    net.exits(5, "gateway-1", Death::Itself(ExitStatus::Code(1)), None);
    let verdict = net
        .stop(tweedledum_core::history::Ending::NotReady(vec![
            "gateway-1".into(),
        ]))
        .verdict();
    assert_eq!(verdict.verdict, Outcome::Error);
    assert_eq!(verdict.exit_code().code(), 4);
    assert_eq!(found(&verdict), Vec::<String>::new());
}

#[test]
fn a_crash_before_the_first_fault_is_a_fact() {
    let mut net = net();
    net.until(4).panics("gateway-1", "mesh");
    fails(net.until(24).end(), &["crash/mesh gateway-1"]);
}

#[test]
fn all_of_a_role_dead() {
    let mut net = net();
    net.until(11).panics("gateway-0", "session-table");
    net.until(12).panics("gateway-1", "session-table");
    net.until(24).end();
    fails(
        &net,
        &[
            "crash/session-table gateway-0",
            "crash/session-table gateway-1",
            "role/all-dead gateway",
        ],
    );
    // Of a role of one node its crash says everything.
    let mut net = crate::nodes::net().with(|header| {
        let relay = header.roles["gateway"].clone();
        header.roles.insert("relay".to_owned(), relay);
        header.nodes[1].role = "relay".to_owned();
    });
    net.until(12).panics("gateway-1", "session-table");
    fails(net.until(24).end(), &["crash/session-table gateway-1"]);
    // Killed by the harness is not dead by itself.
    let mut net = Net::new(
        vec![advance("tx", any_of("miner"), 3)],
        vec![kill("gateway-0", 10, None)],
    );
    net.until(12).panics("gateway-1", "session-table");
    fails(net.until(24).end(), &["crash/session-table gateway-1"]);
}

#[test]
fn a_crash_that_a_restart_ends_says_so() {
    let mut net = net();
    net.until(11).panics("gateway-0", "session-table");
    net.until(12).panics("gateway-1", "session-table");
    net.until(14).restarts("gateway-1");
    let verdict = net.until(24).end().verdict();
    let recovered: Vec<bool> = verdict
        .findings
        .iter()
        .map(|it| it.recovered_ns.is_some())
        .collect();
    assert_eq!(recovered, [false, true, true], "{:?}", found(&verdict));
}

#[test]
fn alive_but_deaf() {
    let mut net = net();
    net.until(12).node("gateway-1").deaf = true;
    net.until(24).end();
    fails(&net, &["deaf/udp gateway-1"]);
    let finding = &net.verdict().findings[0];
    assert_eq!(finding.proved_ns, at(15), "three layers");
    let mut net = crate::nodes::net();
    net.until(12).node("miner-0").deaf = true;
    fails(net.until(24).end(), &["deaf/udp miner-0"]);
}

#[test]
fn a_frozen_node_is_neither_deaf_nor_hung() {
    let expect = vec![advance("tx", any_of("miner"), 3)];
    let faults = vec![pause("miner-0", 10, 20), pause("gateway-0", 10, 20)];
    passes(Net::new(expect, faults).until(30).end());
}

#[test]
fn a_hang_is_a_finding_and_hides_behind_no_gap() {
    let mut net = Net::new(
        vec![advance("tx", every_of("miner"), 3)],
        vec![flood("gateway-0", 10, 20)],
    );
    net.until(12).node("miner-0").hung = true;
    net.until(24).end();
    fails(&net, &["hang/api miner-0"]);
}

#[test]
fn a_silence_that_is_excused_is_neither_a_hang_nor_an_answer() {
    let starved = |faults| {
        let mut net = Net::new(vec![advance("tx", any_of("miner"), 3)], faults);
        net.until(12).node("miner-0").starved = true;
        net.until(18).node("miner-0").starved = false;
        net.until(24).end();
        net
    };
    unclear(&starved(Vec::new()), &["observer-gap"]);
    // Nor is it deaf if its pings go the same way.
    let mut net = Net::new(vec![advance("tx", any_of("miner"), 3)], Vec::new());
    net.until(12)
        .all("miner", |it| it.starved = it.role == "miner");
    net.node("miner-1").starved = false;
    net.node("miner-2").starved = false;
    net.node("miner-0").deaf = true;
    net.until(18).node("miner-0").starved = false;
    net.node("miner-0").deaf = false;
    unclear(net.until(24).end(), &["observer-gap"]);
    // Who is throttled by the plan waits for that, which excuses nothing.
    fails(
        &starved(vec![throttle("miner-0", 10, 20)]),
        &["hang/api miner-0"],
    );
}

/// If nobody at all is heard, it may as well be the harness.
#[test]
fn when_all_fall_silent_nobody_knows() {
    let mut net = net();
    net.until(12);
    for name in ["gateway-0", "gateway-1", "miner-0", "miner-1", "miner-2"] {
        net.node(name).hung = true;
    }
    let verdict = net.until(24).end().verdict();
    assert_eq!(found(&verdict), Vec::<String>::new());
    assert!(codes(&verdict).contains("observer-gap"));
    assert_eq!(verdict.verdict, Outcome::Inconclusive);
}

#[test]
fn nobody_pinging_is_no_pass() {
    let mut net = net();
    net.until(12).node("gateway-1").unwatched = true;
    unclear(net.until(24).end(), &["observer-gap"]);
}

#[test]
fn a_node_that_never_answered_a_ping_was_never_shown_to_hear() {
    let mut net = net();
    net.node("gateway-1").deaf = true;
    net.until(24).end();
    unclear(&net, &["no-data"]);
    let responds = net.verdict().expectations[1].clone();
    assert_eq!(
        (responds.kind.as_str(), responds.held),
        ("responds", Held::Unknown)
    );
}
