//! Plans as data: every file of `plans/good` is read, every file of `plans/bad` gives the messages in its snapshot.
//!
//! To add a case: add a file, run the tests with `INSTA_UPDATE=always`, read the snapshot. What one file cannot show
//! (sizes, mutations, round trips, speed) is below as properties.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests stop at what they cannot read, as tests do"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tweedledum_core::capability::Capability;
use tweedledum_core::faults;
use tweedledum_core::launch::{Network, Place};
use tweedledum_core::plan::model::{Deed, Node, Release, Role};
use tweedledum_core::plan::{
    Catalogue, Diagnostic, PLAN_BYTES_MAX, Plan, bundled_roles, parse, render, render_role,
};
use tweedledum_core::schedule::{Class, Part, describe, resolve};
use tweedledum_core::time::{Calendar, Span};

const ROLES: &str = include_str!("plans/roles.yaml");

fn catalogue() -> Catalogue {
    let release = |name: &str| Release {
        name: name.to_owned(),
        base: Some(name.to_owned()),
        without: BTreeSet::new(),
        bin: None,
    };
    Catalogue {
        roles: ROLES.to_owned(),
        releases: ["netid-116", "netid-117", "netid-118", "fixed"]
            .map(release)
            .to_vec(),
        switches: ["session-table", "pull"].map(str::to_owned).to_vec(),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the cases are files beside this test"
)]
fn cases(directory: &str) -> Vec<(String, PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/plans")
        .join(directory);
    let mut cases: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (
                path.file_stem().unwrap().to_str().unwrap().to_owned(),
                path.clone(),
                std::fs::read(path).unwrap(),
            )
        })
        .collect();
    cases.sort();
    cases
}

fn read(name: &str, source: &[u8]) -> Plan {
    parse(source, &catalogue())
        .unwrap_or_else(|wrong| panic!("{name}:\n{}", render(&wrong, name, source, false)))
}

#[test]
fn good_plans_are_read() {
    let cases = cases("good");
    assert!(cases.len() >= 3);
    for (name, _, source) in cases {
        read(&name, &source);
    }
}

#[test]
fn bad_plans_give_their_messages() {
    let cases = cases("bad");
    assert!(cases.len() >= 40, "{} cases", cases.len());
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_snapshot_path("plans/bad.messages");
    settings.bind(|| {
        for (name, _, source) in cases {
            match parse(&source, &catalogue()) {
                Ok(_) => panic!("{name} was read without complaint"),
                Err(wrong) => insta::assert_snapshot!(
                    name.clone(),
                    render(&wrong, &format!("{name}.yaml"), &source, false)
                ),
            }
        }
    });
}

#[test]
fn schedules_are_told() {
    let mut settings = insta::Settings::clone_current();
    settings.set_omit_expression(true);
    settings.bind(|| {
        for (name, _, source) in cases("good") {
            let plan = read(&name, &source);
            let schedule = resolve(&plan, plan.seed);
            let told = describe(&plan, &schedule, plan.substrate);
            insta::assert_snapshot!(format!("told-{name}"), told);
        }
    });
}

#[test]
fn placeholders_of_other_roles_are_filled_and_nobody_is_nothing() {
    let cases = cases("good");
    let (name, _, source) = cases.iter().find(|case| case.0 == "everything").unwrap();
    let mut plan = read(name, source);
    let place = |(n, node): (usize, &Node)| {
        let address = format!("127.1.1.{n}");
        let place = Place {
            address,
            data: "data".to_owned(),
            network: "network.json".to_owned(),
            key: String::new(),
            id: String::new(),
        };
        (node.name.clone(), place)
    };
    let places: BTreeMap<_, _> = plan.nodes.iter().enumerate().map(place).collect();
    let relay = plan.node("relay-0").unwrap().clone();
    let ends = |plan: &Plan| {
        let network = Network {
            plan,
            release: &catalogue().releases[0],
            seed: 1,
            netid: 116,
            genesis_unix_ns: 0,
            places: &places,
        };
        let args = network.launch(&relay, &plan.roles["relay"]).args;
        args[args.len() - 3..].to_vec()
    };
    let (miners, port) = (
        "127.1.1.4,127.1.1.5",
        &plan.roles["relay"].ports["status"].number,
    );
    let with_port = "127.1.1.4:7513,127.1.1.5:7513";
    assert_eq!(ends(&plan), [miners, with_port, &port.to_string()]);
    plan.nodes.retain(|node| node.role == "relay");
    assert_eq!(ends(&plan)[..2], ["", ""]);
}

#[test]
fn a_plan_means_what_it_says() {
    let (name, _, source) = &cases("good")[1];
    assert_eq!(name, "incident");
    let plan = read(name, source);
    assert_eq!(plan.nodes.len(), 19);
    assert_eq!(plan.nodes[12].name, "gateway-0");
    let settings = |node: &str| plan.node(node).unwrap().settings.clone();
    let expected = [
        ("discovery-interval", "500ms"),
        ("session-cap", "256"),
        ("session-max-age", "2s"),
    ];
    assert_eq!(
        settings("miner-3"),
        expected
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    );
    assert_eq!(settings("gateway-1")["session-cap"], "512");
    assert_eq!(settings("gateway-2")["session-cap"], "256");
    assert!(settings("poet-0").is_empty());
    assert_eq!(
        plan.roles.keys().collect::<Vec<_>>(),
        ["gateway", "miner", "poet"]
    );
    assert_eq!(plan.roles["poet"].stop.grace_ns, 2_000_000_000);
    assert_eq!(plan.roles["miner"].ports["p2p"].number, 7513);
    assert_eq!(plan.timeline[0].at.0, 11_000_000);
    assert_eq!(plan.timeline[1].name, "heal all");
    assert_eq!(plan.expect[3].params.text("after"), "heal all");
    assert_eq!(plan.expect[0].params.span("within"), Span::layers(6));
    assert_eq!(plan.controls[0].findings.len(), 7);
    assert!(plan.controls[1].must_pass && !plan.controls[0].must_pass);
    insta::assert_debug_snapshot!(
        "incident",
        (
            &plan.tolerates,
            &plan.controls,
            &plan.timeline,
            &plan.expect
        )
    );
}

#[test]
fn releases_build_on_bundled_ones() {
    let (name, _, source) = &cases("good")[0];
    assert_eq!(name, "everything");
    let plan = read(name, source);
    let half = &plan.releases["half-fixed"];
    assert_eq!(
        (half.base.as_deref(), half.without.len()),
        (Some("fixed"), 1)
    );
    assert_eq!(
        plan.releases["candidate"].bin.as_deref(),
        Some("../build/node")
    );
    assert_eq!(
        plan.roles.keys().collect::<Vec<_>>(),
        ["miner", "poet", "relay"],
        "only roles with nodes"
    );
    assert_eq!(plan.timeline[0].name, "pause#0");
    assert_eq!(
        plan.timeline[5].lasts,
        Some(Span::layers(2)),
        "a restart lasts as long as its nodes are down"
    );
    assert_eq!(plan.expect[3].params.text("after"), "calm");
    assert_eq!(plan.expect[4].params.text("after"), "heal power-cut");
}

#[test]
fn the_start_waits_for_the_slowest_role() {
    let (name, _, source) = &cases("good")[0];
    assert_eq!(name, "everything");
    let source = String::from_utf8(source.clone()).unwrap();
    let ready = "ready: { http: \"http://{status.addr}/ready\", status: 204";
    assert!(source.contains(ready));
    // Seven nodes of 30 ms each, what the slowest role in use has (miners: 2 s), an epoch of 8 layers of 1.5 s.
    for (within, ms) in [
        ("", 2_000),
        (", within: 100ms", 2_000),
        (", within: 7s", 7_000),
    ] {
        let source = source.replace(ready, &format!("{ready}{within}"));
        let plan = read(name, source.as_bytes());
        let genesis =
            tweedledum_core::run::genesis_after_ns(&plan, tweedledum_core::run::Pace::PROCESS);
        assert_eq!(genesis, (7 * 30 + ms + 12_000) * 1_000_000, "{within}");
    }
}

#[test]
fn a_role_is_listed_in_the_form_that_is_read() {
    let calendar = Calendar {
        layer_ns: 1_500_000_000,
        layers_per_epoch: 8,
    };
    let mut roles = bundled_roles(&catalogue(), &calendar).unwrap();
    let render = |role: &Role| render_role(role, &calendar);
    // An epoch stays one, whatever its layers.
    let other = Calendar {
        layers_per_epoch: 4,
        ..calendar
    };
    let bundled: String = roles.values().map(render).collect();
    let again = Catalogue {
        roles: format!("roles:\n{bundled}"),
        ..catalogue()
    };
    let expected = bundled_roles(&catalogue(), &other).unwrap();
    assert_eq!(bundled_roles(&again, &other).unwrap(), expected);
    let (_, _, source) = &cases("good")[0];
    roles.extend(read("everything", source).roles);
    assert!(roles.len() >= 4);
    let listed: String = roles.values().map(render).collect();
    let again = Catalogue {
        roles: format!("roles:\n{listed}"),
        ..catalogue()
    };
    assert_eq!(bundled_roles(&again, &calendar).unwrap(), roles);
    insta::assert_snapshot!("listed-roles", listed);
}

#[test]
fn a_mistake_in_the_catalogue_is_told_apart_from_the_plans() {
    let broken = Catalogue {
        roles: "miner: { command: [x] }".to_owned(),
        ..catalogue()
    };
    assert!(
        bundled_roles(
            &broken,
            &Calendar {
                layer_ns: 1,
                layers_per_epoch: 1
            }
        )
        .unwrap_err()
        .contains("ready")
    );
    let wrong = parse(&cases("good")[2].2, &broken).unwrap_err();
    assert!(wrong[0].message.contains("bundled roles"), "{wrong:?}");
}

#[test]
fn mistakes_come_in_the_order_of_the_text_and_bounded() {
    let mut source = String::from("format: 1\nplan: many\n");
    for at in 0..500 {
        writeln!(source, "banana-{at}: 1").unwrap();
    }
    let wrong = parse(source.as_bytes(), &catalogue()).unwrap_err();
    assert_eq!(wrong.len(), 101);
    assert!(wrong.is_sorted_by_key(|wrong| wrong.at.start));
    assert!(
        wrong[100].message.contains("more mistakes"),
        "{:?}",
        wrong[100]
    );
    let distinct: BTreeSet<_> = wrong
        .iter()
        .map(|wrong| (wrong.at.start, &wrong.path, &wrong.message))
        .collect();
    assert_eq!(distinct.len(), wrong.len());
}

#[test]
fn a_plan_over_the_limit_is_refused_unread() {
    let mut source = b"format: 1\n".to_vec();
    source.resize(PLAN_BYTES_MAX + 1, b'#');
    let wrong = parse(&source, &catalogue()).unwrap_err();
    assert_eq!(wrong.len(), 1);
    assert!(wrong[0].message.contains("larger than"));
}

/// A valid plan of this many lines: nearly all are faults, as in a recorded or generated schedule.
fn long_plan(lines: usize) -> String {
    let mut source = String::from(
        "format: 1\nplan: long\nnetwork:\n  layer: 250ms\n  layers-per-epoch: 4\n  nodes: { miner: 90, gateway: 9, poet: 1 }\ntimeline:\n",
    );
    for at in 0..lines - 11 {
        let (node, layer) = (at % 90, 8 + at);
        writeln!(source, "  - {{ at: layer {layer}.5, for: 0.25 layers, name: fault-{at}, pause: {{ target: miner-{node} }} }}").unwrap();
    }
    source.push_str("  - { at: epoch 5000, heal: all }\nexpect:\n  - { advance: { signal: tx, of: every miner, within: 3 layers } }\n");
    source.push_str("  - { recover: { after: heal all, within: 3 epochs } }\n");
    source
}

#[test]
fn ten_thousand_lines_are_read() {
    let source = long_plan(10_000);
    assert_eq!(source.lines().count(), 10_000);
    let plan = read("long", source.as_bytes());
    assert_eq!(plan.timeline.len(), 9_990);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_bytes_give_a_plan_or_messages(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        never_silent(&bytes)?;
    }

    #[test]
    fn any_yaml_like_text_gives_a_plan_or_messages(text in "(format: 1\n)?([a-z]{1,6}|[ \\-:\\[\\]{}#&*!|>'\"%@`,?~\n\t0-9.e+]){0,60}") {
        never_silent(text.as_bytes())?;
    }

    #[test]
    fn mutated_plans_give_a_plan_or_messages(
        which in 0_usize..3,
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0_usize..12, "[ \\-:\\[\\]{}#&*!'\",?~\nae0-9.é\u{7}]{0,4}"), 1..6),
    ) {
        let mut source: Vec<char> = String::from_utf8(cases("good").swap_remove(which).2).unwrap().chars().collect();
        for (at, length, text) in edits {
            let start = at.index(source.len().max(1)).min(source.len());
            let end = (start + length).min(source.len());
            source.splice(start..end, text.chars());
        }
        never_silent(source.into_iter().collect::<String>().as_bytes())?;
    }

    #[test]
    fn replaced_words_give_a_plan_or_messages(which in 0_usize..3, at in any::<prop::sample::Index>(), word in "nan|-1|1e400|99999999999999999999|''|~|yes|\\[\\]|\\{\\}|0|epoch 2|any 3 of miner|every x|\"\\\\u0000\"|é") {
        let source = String::from_utf8(cases("good").swap_remove(which).2).unwrap();
        let mut words: Vec<&str> = source.split_inclusive([' ', '\n']).collect();
        let at = at.index(words.len());
        let replaced = format!("{word}{}", &words[at][words[at].trim_end().len()..]);
        words[at] = &replaced;
        never_silent(words.concat().as_bytes())?;
    }
}

/// Whatever comes in: no panic, and a refusal says something with a place inside the text, and renders.
fn never_silent(bytes: &[u8]) -> Result<(), TestCaseError> {
    if let Err(wrong) = parse(bytes, &catalogue()) {
        prop_assert!(!wrong.is_empty());
        for Diagnostic { at, message, .. } in &wrong {
            prop_assert!(
                at.start <= at.end && at.end <= bytes.len() && at.line >= 1 && at.column >= 1,
                "{:?}",
                at
            );
            prop_assert!(
                !message.is_empty() && !message.contains('\n'),
                "{}",
                message
            );
        }
        let text = render(&wrong, "fuzz", bytes, false);
        prop_assert!(text.contains("error"));
    }
    Ok(())
}

/// A kind's own line says what its actions and their undo need, no more and no less: `doctor` and the conformance table
/// believe it.
#[test]
fn every_kind_needs_what_its_actions_need() {
    let cases = cases("good");
    let (name, _, source) = cases.iter().find(|case| case.0 == "everything").unwrap();
    let plan = read(name, source);
    let schedule = tweedledum_core::schedule::resolve(&plan, plan.seed);
    let mut needed: BTreeMap<&str, BTreeSet<Capability>> = BTreeMap::new();
    for entry in &plan.timeline {
        let Deed::Fault(kind, _) = &entry.what else {
            continue;
        };
        for step in schedule
            .steps
            .iter()
            .filter(|step| step.entry == entry.name)
        {
            let needs = needed.entry(kind).or_default();
            needs.insert(step.action.needs());
            if let Part::Begins {
                class: Class::Restores(undo),
                ..
            } = &step.part
            {
                needs.insert(undo.needs());
            }
        }
    }
    for kind in faults::ALL {
        let declared: BTreeSet<Capability> = kind.needs().iter().copied().collect();
        assert_eq!(needed.get(kind.name()), Some(&declared), "{}", kind.name());
    }
}
