//! The incident: what `verdict.json` says led to what, in both branches of the postmortem.
//!
//! It is run with all other plans in `plans.rs`; here are the links that its plan cannot name.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::judge::judge;
use crate::plans::passed;
use crate::support::Run;

/// What must be linked: an effect and what led to it. Both branches start at the proof that nobody took.
const LINKS: [(&str, &str); 9] = [
    ("crash/session-table", "flood"),
    ("role/all-dead", "crash/session-table"),
    ("proof/undelivered", "role/all-dead"),
    ("disk/full", "proof/undelivered"),
    ("crash/new-round", "disk/full"),
    ("stalled/atx", "proof/undelivered"),
    ("stalled/block", "stalled/atx"),
    ("stalled/verified-layer", "stalled/block"),
    ("stalled/state-root", "stalled/verified-layer"),
];

/// Holds that the old release fails in both branches and the fixed one passes, each judged by itself.
#[track_caller]
pub(crate) fn two_branches_and_a_pass(run: &Run) {
    judge(&run.directory.join("netid-116")).gave(1);
    judge(&run.directory.join("fixed")).gave(0);
    passed(&run.verdict("fixed"), run);
    let path = run.directory.join("netid-116/verdict.json");
    let verdict: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(verdict["verdict"], "fail", "{run}");
    let name = |place: &Value| {
        let place = usize::try_from(place.as_u64().unwrap()).unwrap();
        verdict["findings"][place]["id"].as_str().unwrap()
    };
    let links: BTreeSet<(&str, &str)> = verdict["chain"]
        .as_array()
        .unwrap()
        .iter()
        .map(|link| {
            let cause = match &link["cause"]["finding"] {
                Value::Null => link["cause"]["fault"]["entry"].as_str().unwrap(),
                place => name(place),
            };
            (name(&link["effect"]), cause)
        })
        .collect();
    for link in LINKS {
        assert!(links.contains(&link), "{link:?} is not in {links:?}\n{run}");
    }
    // The branches stay apart: a dead PoET is no reason for what a missing proof has done already.
    assert!(
        !links.contains(&("stalled/atx", "crash/new-round")),
        "{run}"
    );
}
