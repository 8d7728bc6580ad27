//! Plans as data: every file of `plans/good` is read, every file of `plans/bad` gives the messages in its snapshot.
//!
//! To add a case: add a file, run the tests with `INSTA_UPDATE=always`, read the snapshot. What one file cannot show
//! (sizes, mutations, round trips, speed) is below as properties.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tweedledum_core::plan::model::Release;
use tweedledum_core::plan::{
    Catalogue, Diagnostic, PLAN_BYTES_MAX, Plan, bundled_roles, parse, render, render_role,
};
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
