//! Nothing bundled is special: roles that a plan declares itself, under other names and with another executable, and
//! releases of the plan's own are judged the same.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tweedledum_core::control::Gave;

use crate::plans::{OLD_ENTRY, as_declared, died_of, flooded, passed};
use crate::support::{Bench, call, findings, plan};

/// The bundled nodes as an executable of their own.
fn node_executable() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_tweedledum")).with_file_name("tweedledum-node");
    assert!(
        path.is_file(),
        "{} is missing: `cargo test --workspace` builds it, `cargo build --release -p tweedledum-nodes` too",
        path.display()
    );
    path
}

/// Replaces a text that must be there.
#[track_caller]
fn swap(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "`{from}` is not in\n{text}");
    text.replace(from, to)
}

#[test]
fn bundled_roles_under_other_names_give_the_same_verdict() {
    let bench = Bench::new();
    symlink(node_executable(), bench.path().join("my-node")).unwrap();

    let mut roles = call(&["list", "roles"]).gave(0).stdout;
    for role in ["miner", "gateway"] {
        // The separate executable is the node, without a subcommand that says so; its roles keep their names.
        roles = swap(
            &roles,
            &format!("\"{{release.bin}}\", \"node\", \"{role}\""),
            &format!("\"./my-node\", \"{role}\""),
        );
    }
    roles = swap(&roles, " miner:\n", " worker:\n");
    roles = swap(&roles, " gateway:\n", " relay:\n");
    let flood = fs::read_to_string(plan("flood")).unwrap();
    let flood = swap(&swap(&flood, "gateway", "relay"), "miner", "worker");
    let run = bench.decided(
        &bench.file("renamed.yaml", format!("{flood}\n{roles}")),
        &[],
    );

    as_declared(&run);
    died_of(OLD_ENTRY, "relay", &run.verdict("netid-116"), &run);
    passed(&run.verdict("fixed"), &run);
    for release in ["netid-116", "fixed"] {
        let history = String::from_utf8(run.bytes(&format!("{release}/history.jsonl"))).unwrap();
        let header = history.lines().next().unwrap();
        assert!(
            header.contains("\"./my-node\""),
            "the header does not say what was run: {header}\n{run}"
        );
        assert!(
            !header.contains("gateway") && !header.contains("miner"),
            "the bundled roles are in it: {header}\n{run}"
        );
    }
}

/// A path of the plan's own, relative to the plan, and a fix taken out of the fixed release.
#[test]
fn releases_of_the_plans_own() {
    let bench = Bench::new();
    symlink(
        env!("CARGO_BIN_EXE_tweedledum"),
        bench.path().join("candidate"),
    )
    .unwrap();
    let flood = fs::read_to_string(plan("flood")).unwrap();
    let flood = swap(
        &swap(&flood, "  netid-116:\n", "  bare:\n"),
        "  fixed: {",
        "  mine: {",
    );
    let releases = "
releases:
  mine: { bin: ./candidate, base: fixed }
  bare: { base: fixed, without: [session-table] }
";
    let run = bench.decided(&bench.file("own.yaml", format!("{flood}{releases}")), &[]);

    let comparison = as_declared(&run);
    assert!(
        comparison
            .controls
            .iter()
            .all(|control| control.gave == Gave::Right),
        "{run}"
    );
    died_of(OLD_ENTRY, "gateway", &run.verdict("bare"), &run);
    assert_eq!(findings(&run.verdict("bare")), flooded("gateway"), "{run}");
    passed(&run.verdict("mine"), &run);
    let history = String::from_utf8(run.bytes("mine/history.jsonl")).unwrap();
    assert!(
        history.lines().next().unwrap().contains("\"./candidate\""),
        "the header does not say what was run\n{run}"
    );
}
