//! The incident of 2020 as a history: what it gives, what led to what, how it reads.

use std::collections::BTreeSet;

use tweedledum_core::control::Gave;
use tweedledum_core::history::Ending;
use tweedledum_core::report::text;
use tweedledum_core::verdict::Cause;

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
    rounds.until(12);
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
