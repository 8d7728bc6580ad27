//! What people and machines read.

use proptest::prelude::*;
use tweedledum_core::control::{Comparison, Gave, NotRun};
use tweedledum_core::history::{Death, ExitStatus};
use tweedledum_core::history::{Ending, Panic};
use tweedledum_core::report::{json, junit, text};
use tweedledum_core::verdict::Verdict;

use crate::causes::{both, incident};
use crate::net::*;
use crate::planned::*;

fn failing() -> Verdict {
    let mut net = incident();
    net.until(20).stop(Ending::Early);
    net.verdict()
}

fn unclear_run() -> Verdict {
    let mut net = Net::new(
        vec![advance("tx", every_of("miner"), 3)],
        vec![flood("gateway-0", 10, 16)],
    );
    net.until(12).node("miner-0").garbled = true;
    net.until(20).end();
    net.verdict()
}

#[test]
fn on_a_terminal() {
    let options = text::Options {
        directory: Some("runs/plan-x-7"),
        ..text::Options::default()
    };
    insta::assert_snapshot!("text_fail", text::run(&failing(), &options));
    insta::assert_snapshot!("text_unclear", text::run(&unclear_run(), &options));
    insta::assert_snapshot!(
        "text_comparison",
        text::comparison(&both(), &text::Options::default())
    );
    let verbose = text::Options {
        verbose: true,
        ..text::Options::default()
    };
    insta::assert_snapshot!("text_verbose", text::run(&failing(), &verbose));
}

#[test]
fn colours_only_when_asked_for() {
    let plain = text::run(&failing(), &text::Options::default());
    assert!(!plain.contains('\u{1b}'));
    let options = text::Options {
        colour: true,
        ..text::Options::default()
    };
    let coloured = text::run(&failing(), &options);
    assert!(coloured.starts_with("\u{1b}[1;31mfail\u{1b}[0m"));
}

#[test]
fn as_json() {
    let text = json::run(&failing()).unwrap();
    let back: Verdict = serde_json::from_str(&text).unwrap();
    assert_eq!(back, failing());
    insta::assert_snapshot!("verdict_json", text);
    let comparison = json::comparison(&both()).unwrap();
    assert!(comparison.starts_with("{\n  \"schema\": 1,\n  \"plan\": \"plan\""));
}

/// What machines read is documented by hand, so that nothing of it is forgotten is asked here.
#[test]
fn every_key_is_documented() {
    let page = include_str!("../../../../docs/results.md");
    let comparison = both().without(vec![NotRun {
        release: None,
        why: String::new(),
    }]);
    let document = serde_json::to_value(&comparison).unwrap();
    let control = &document["controls"][0];
    for object in [&document, control, &control["verdict"]] {
        for key in object.as_object().unwrap().keys() {
            assert!(page.contains(&format!("`{key}`")), "{key}");
        }
    }
}

#[test]
fn as_junit() {
    insta::assert_snapshot!("junit_fail", junit::run(&failing()).unwrap());
    insta::assert_snapshot!("junit_unclear", junit::run(&unclear_run()).unwrap());
    insta::assert_snapshot!("junit_comparison", junit::comparison(&both()).unwrap());
}

#[test]
fn controls_that_were_not_run_are_told_and_keep_the_others_from_passing() {
    let lacking = |release: Option<&str>| {
        both().without(vec![NotRun {
            release: release.map(str::to_owned),
            why: "nobody \u{1b}[31mknows".into(),
        }])
    };
    for (release, shown) in [
        (Some("netid-118"), "not run    netid-118"),
        (None, "not run    ?"),
    ] {
        let some = lacking(release);
        assert_eq!(some.exit_code().code(), 3);
        let told = text::comparison(&some, &text::Options::default());
        assert!(told.contains(shown) && told.contains("nobody"), "{told}");
        let xml = junit::comparison(&some).unwrap();
        assert!(xml.contains("<error") && xml.contains("is run\""), "{xml}");
        assert!(!format!("{told}{xml}").contains('\u{1b}'));
        let json = json::comparison(&some).unwrap();
        let again: Comparison = serde_json::from_str(&json).unwrap();
        assert_eq!(again, some);
    }
    let mut failed = lacking(Some("netid-118"));
    failed.controls[0].gave = Gave::Wrong;
    assert_eq!(failed.exit_code().code(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// A node may say what it likes: nothing of it reaches a terminal, a CI system or an XML reader as anything but text.
    #[test]
    fn hostile_words_are_only_words(words in "(::error::|##\\[x\\]|\u{1b}\\[31m|\r|\n|\u{0}|\u{ffff}|]]>|<a>|&|.){0,30}") {
        let mut net = Net::new(vec![advance("tx", any_of("miner"), 3)], vec![flood("gateway-0", 10, 16)]);
        net.until(11);
        let panic = Panic { component: Some(words.clone()), message: words.clone(), place: Some(words.clone()) };
        net.exits(at(11), "gateway-0", Death::Itself(ExitStatus::Signal(6)), Some(panic));
        let verdict = net.until(20).end().verdict();
        let options = text::Options { verbose: true, ..text::Options::default() };
        let shown = text::run(&verdict, &options);
        prop_assert!(shown.chars().all(|c| c == '\n' || !c.is_control()));
        prop_assert!(!shown.lines().any(|line| line.trim_start().starts_with("::")));
        prop_assert!(!shown.contains("##"));
        let xml = junit::run(&verdict).unwrap();
        let legal = |c: char| matches!(c, '\n' | '\t') || (!c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}'));
        prop_assert!(xml.chars().all(legal));
        prop_assert!(!xml.contains("##"));
        let json = json::run(&verdict).unwrap();
        prop_assert_eq!(serde_json::from_str::<Verdict>(&json).unwrap(), verdict);
    }
}
