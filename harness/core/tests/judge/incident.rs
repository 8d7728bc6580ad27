//! The incident of 2020 as a history: what it gives, what led to what, how it reads.

use std::collections::BTreeSet;

use serde_json::json;
use tweedledum_core::control::{ControlResult, Gave};
use tweedledum_core::history::Ending;
use tweedledum_core::report::{junit, text};
use tweedledum_core::verdict::{Cause, Held, Outcome};

use crate::judged::*;
use crate::net::*;
use crate::planned::*;
use crate::rounds::*;

const STATED: &[(&str, Option<&str>)] = &[
    ("crash/session-table", Some("gateway")),
    ("role/all-dead", Some("gateway")),
    ("proof/undelivered", None),
    ("disk/full", None),
    ("crash/new-round", Some("poet")),
    ("stalled/atx", None),
    ("stalled/block", None),
    ("stalled/verified-layer", None),
    ("stalled/state-root", None),
];

/// Twelve miners, five gateways, two PoETs with room for one and a half rounds; the flood kills every gateway.
fn incident() -> Rounds {
    die_and_end(flooded())
}

/// Until the flood.
fn flooded() -> Rounds {
    let mut rounds = begun();
    rounds.until(12);
    rounds
}

fn begun() -> Rounds {
    let faults = names("gateway", 5).into_iter().map(|it| flood(&it, 11, 32));
    let mut rounds = Rounds::new([12, 5, 2], expectations(), faults.collect());
    rounds.narrow = true;
    let mut control = must_fail(STATED);
    control.also_allowed = must_fail(&[("role/all-dead", Some("poet"))]).findings;
    control.release = "netid-116".into();
    rounds.net = rounds.net.with(|header| {
        header.plan = "incident".into();
        header.release = "netid-116".into();
        header.control = Some(control);
    });
    rounds
}

fn die_and_end(mut rounds: Rounds) -> Rounds {
    for gateway in names("gateway", 5) {
        rounds.net.panics(&gateway, "session-table");
    }
    rounds.until(27);
    rounds.net.stop(Ending::Early);
    rounds
}

#[test]
fn the_incident_is_found_whole_and_linked() {
    let result = incident().net.control();
    let verdict = &result.verdict;
    assert_eq!(
        result.gave,
        Gave::Right,
        "{:?} {:?} {:?} {:#?}",
        result.missing,
        result.wrong_reasons,
        result.unlinked,
        verdict.reasons
    );
    // What leads to what, by kind: two branches after the proofs.
    let id = |place: usize| verdict.findings[place].id.as_str();
    let kinds: BTreeSet<(&str, &str)> = verdict
        .chain
        .iter()
        .map(|link| match &link.cause {
            Cause::Finding(cause) => (id(*cause), id(link.effect)),
            Cause::Fault { entry, .. } => (entry.as_str(), id(link.effect)),
        })
        .collect();
    let expected = [
        ("crash/new-round", "role/all-dead"),
        ("crash/session-table", "role/all-dead"),
        ("disk/full", "crash/new-round"),
        ("flood", "crash/session-table"),
        ("proof/undelivered", "disk/full"),
        ("proof/undelivered", "stalled/atx"),
        ("role/all-dead", "proof/undelivered"),
        ("stalled/atx", "stalled/block"),
        ("stalled/block", "stalled/verified-layer"),
        ("stalled/verified-layer", "stalled/state-root"),
    ];
    assert_eq!(kinds, BTreeSet::from(expected));
}

/// A PoET is only ever explained by its own rounds.
#[test]
fn branches_stay_with_their_poet() {
    let result = incident().net.control();
    let findings = &result.verdict.findings;
    let mut own = 0;
    for link in &result.verdict.chain {
        let effect = &findings[link.effect];
        if let (Cause::Finding(cause), "disk/full" | "crash/new-round") =
            (&link.cause, effect.id.as_str())
        {
            assert_eq!(findings[*cause].node, effect.node);
            own += 1;
        }
    }
    assert_eq!(own, 4);
}

#[test]
fn it_reads_like_the_postmortem() {
    let options = text::Options::default();
    let verdict = incident().net.verdict();
    insta::assert_snapshot!("text_incident", text::run(&verdict, &options));
}

/// The host lets all gateways wait for processors: PoETs hand nothing over, their disks run full, and they die of it. Nobody
/// is accused of that, whatever follows from it, and it is no pass.
#[test]
fn what_a_starving_host_may_have_made_accuses_nobody() {
    let starving = |faults| {
        let mut rounds = Rounds::new([12, 5, 2], expectations(), faults);
        rounds.narrow = true;
        rounds.until(12);
        for gateway in names("gateway", 5) {
            rounds.net.node(&gateway).starved = true;
        }
        rounds.until(18);
        for gateway in names("gateway", 5) {
            rounds.net.node(&gateway).starved = false;
        }
        rounds.until(46);
        rounds.net.end();
        rounds.net
    };
    let net = starving(vec![flood("gateway-0", 11, 32)]);
    unclear(&net, &["no-data", "void-layers"]);
    let verdict = net.verdict();
    let doubtful: BTreeSet<&str> = verdict.doubtful.iter().map(|it| it.id.as_str()).collect();
    for id in [
        "proof/undelivered",
        "disk/full",
        "crash/new-round",
        "role/all-dead",
        "stalled/atx",
    ] {
        assert!(doubtful.contains(id), "{id} is not among {doubtful:?}");
    }
    let xml = junit::run(&verdict).unwrap();
    let (_, told) = xml.split_once("not held against the release").unwrap();
    assert!(doubtful.iter().all(|id| told.contains(id)), "{xml}");
    for kind in ["delivered", "disk", "alive"] {
        let mut all = verdict.expectations.iter();
        let it = all.find(|it| it.kind == kind).unwrap();
        assert_eq!(it.held, Held::Unknown);
        let why = match kind {
            "delivered" => "let nodes wait for processors",
            _ => "may follow from what the host made",
        };
        assert!(
            it.doubts.iter().any(|it| it.contains(why)),
            "{kind}: {:?}",
            it.doubts
        );
    }
    // Who waits because the plan says so is no sign of the host.
    let throttled = names("gateway", 5)
        .into_iter()
        .map(|it| throttle(&it, 11, 32));
    let verdict = starving(throttled.collect()).verdict();
    let all = found(&verdict);
    for finding in [
        "proof/undelivered poet-0",
        "disk/full poet-0",
        "crash/new-round poet-0",
    ] {
        assert!(
            all.iter().any(|it| it == finding),
            "{finding} is not among {all:?}"
        );
    }
    assert_eq!(verdict.verdict, Outcome::Fail);
}

#[track_caller]
fn is_right(result: &ControlResult) {
    let reasons = &result.verdict.reasons;
    assert_eq!(
        result.gave,
        Gave::Right,
        "{:?} {reasons:#?}",
        result.missing
    );
}

/// A host that is unfit for too much of the time takes nothing from what a sure finding explains: who is dead takes no proofs on any host.
#[test]
fn the_incident_is_found_whole_on_an_unfit_host() {
    let mut rounds = begun();
    rounds.until(3).net.late_us = 900_000;
    rounds.until(8).net.late_us = 100;
    rounds.until(12);
    let result = die_and_end(rounds).net.control();
    let reasons = codes(&result.verdict);
    assert!(reasons.contains("void-layers"), "{reasons:?}");
    is_right(&result);
}

/// A death that the control does not list may be the release's although it may be the host's: nobody knows then what was right.
#[test]
fn a_doubtful_death_that_no_control_lists_leaves_it_undecided() {
    let dies_of = |allowed: bool| {
        let mut rounds = Rounds::new([3, 2, 2], expectations(), vec![flood("gateway-0", 11, 32)]);
        let mut control = must_fail(&[("crash/session-table", Some("gateway"))]);
        if allowed {
            let more = [("disk/full", None), ("crash/new-round", None)];
            control.also_allowed = must_fail(&more).findings;
        }
        rounds.net = rounds.net.with(|header| header.control = Some(control));
        rounds.until(12).net.panics("gateway-0", "session-table");
        rounds.until(17).net.late_us = 900_000;
        let failed =
            json!({ "poet": key("poet-0"), "round": 6, "cause": "disk-full", "error": "" });
        rounds.say(at(17) + LAYER / 2, "poet-0", "round-failed", &failed);
        rounds.until(18).net.late_us = 100;
        rounds.until(21).net.panics("poet-0", "new-round");
        rounds.until(46).net.end();
        rounds.net.control()
    };
    let allowed = dies_of(true);
    assert_eq!(allowed.gave, Gave::Right, "{:#?}", allowed.verdict.reasons);
    assert_eq!(dies_of(false).gave, Gave::Undecided);
}

/// A host that lets nodes wait takes nothing from what a sure finding explains.
#[test]
fn the_incident_is_found_whole_on_a_starving_host() {
    let mut rounds = flooded();
    for poet in names("poet", 2) {
        rounds.net.node(&poet).starved = true;
    }
    let result = die_and_end(rounds).net.control();
    is_right(&result);
}

/// The same flood on a release that shrugs it off.
#[test]
fn a_sound_release_is_left_alone() {
    let faults = names("gateway", 5).into_iter().map(|it| flood(&it, 11, 32));
    let mut rounds = Rounds::new([12, 5, 2], expectations(), faults.collect());
    rounds.narrow = true;
    rounds.until(46);
    passes_early(&rounds.net);
    rounds.net.end();
    passes(&rounds.net);
    let verdict = rounds.net.verdict();
    let had = |kind: &str| {
        let mut all = verdict.expectations.iter();
        all.find(|it| it.kind == kind).unwrap().data.had
    };
    assert_eq!(had("delivered"), 22);
    assert_eq!(had("challenges"), 11 * 12);
    assert_eq!(had("identities"), 11 * 12);
    assert_eq!(had("cited"), 11 * 12);
    assert_eq!(had("disk"), 22);
}

#[track_caller]
fn passes_early(net: &Net) {
    assert!(net.settled(), "what it waits for has held");
}
