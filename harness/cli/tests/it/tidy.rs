//! What a reviewer would otherwise repeat, held by tests over the tree itself.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::call;

/// Files longer than this are more than one room.
const LINES_MAX: usize = 800;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the workspace exists")
}

fn files_under(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a readable directory") {
        let path = entry.expect("a readable entry").path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
            .to_owned();
        if path.is_dir() {
            if name != "target" && name != "runs" && !name.starts_with('.') {
                found.extend(files_under(&path, ending));
            }
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<(PathBuf, String)> {
    let root = root();
    ["harness", "nodes"]
        .iter()
        .flat_map(|part| files_under(&root.join(part), ".rs"))
        .map(|path| {
            let text = fs::read_to_string(&path).expect("sources are UTF-8");
            (
                path.strip_prefix(&root).expect("below the root").to_owned(),
                text,
            )
        })
        .collect()
}

#[test]
fn the_plan_in_the_readme_is_sound() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README is UTF-8");
    let plan = readme
        .split("```yaml\n")
        .find(|block| block.starts_with("format: 1"));
    let plan = plan
        .and_then(|block| block.split("```").next())
        .expect("README shows a plan");
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("plan.yaml");
    fs::write(&path, plan).expect("a writable file");
    call(&["check", path.to_str().expect("UTF-8")]).gave(0);
}

#[test]
fn every_file_says_what_it_is_and_is_one_room() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        if !text.starts_with("//!") {
            wrong.push(format!("{}: no `//!` header", path.display()));
        }
        let lines = text.lines().count();
        if lines > LINES_MAX {
            wrong.push(format!("{}: {lines} lines; split it", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_package_obeys_the_workspace_lints() {
    for manifest in files_under(&root(), "Cargo.toml") {
        let text = fs::read_to_string(&manifest).expect("manifests are UTF-8");
        if text.contains("[package]") {
            assert!(
                text.contains("[lints]\nworkspace = true"),
                "{} sets its own lints",
                manifest.display()
            );
        }
    }
}

#[test]
fn every_workspace_dependency_has_a_reason() {
    let text = fs::read_to_string(root().join("Cargo.toml")).expect("the manifest");
    let listed = text
        .split("[workspace.dependencies]")
        .nth(1)
        .expect("dependencies");
    let listed = listed.split("\n[workspace.lints").next().expect("a table");
    let manifests: String = files_under(&root(), "Cargo.toml")
        .iter()
        .filter(|path| path.parent() != Some(&root()))
        .map(|path| fs::read_to_string(path).expect("manifests are UTF-8"))
        .collect();
    for line in listed
        .lines()
        .filter(|line| line.contains('=') && !line.trim_start().starts_with('#'))
    {
        let name = line.split([' ', '=']).next().expect("a name");
        assert!(
            manifests.contains(&format!("{name}.workspace")),
            "{name} is declared and nobody uses it"
        );
    }
}

/// Kinds live one per file: a file that its registry does not name would be dead without anyone noticing.
#[test]
fn no_fault_is_unregistered() {
    let files: BTreeSet<String> = files_under(&root().join("harness/core/src/faults"), ".rs")
        .iter()
        .filter_map(|path| {
            let stem = path.file_stem()?.to_str()?.replace('_', "-");
            // What several kinds share names none.
            let text = fs::read_to_string(path).unwrap();
            text.contains(&format!("\"{stem}\"")).then_some(stem)
        })
        .filter(|stem| stem != "mod")
        .collect();
    let registered: BTreeSet<String> = tweedledum_core::faults::ALL
        .iter()
        .map(|kind| kind.name().to_owned())
        .collect();
    assert_eq!(files, registered);
}

/// A plan means the same wherever its nodes live, so what carries it out and what judges it knows no substrate by name.
#[test]
fn nobody_asks_where_nodes_live() {
    const ROOMS: [&str; 3] = [
        "harness/core/src/faults/",
        "harness/core/src/oracles/",
        "harness/src/controller/",
    ];
    const NAMES: [&str; 3] = ["docker", "attached", "substratekind"];
    let mut looked_at = BTreeSet::new();
    for (path, text) in sources() {
        let path = path.display().to_string();
        let Some(room) = ROOMS.iter().find(|room| path.starts_with(**room)) else {
            continue;
        };
        looked_at.insert(*room);
        let text = text.to_lowercase();
        for name in NAMES {
            assert!(!text.contains(name), "{path} names `{name}`");
        }
    }
    assert_eq!(looked_at, ROOMS.into(), "a room has moved");
}

#[test]
fn no_oracle_is_unregistered() {
    let kinds = files_under(&root().join("harness/core/src/oracles"), ".rs")
        .iter()
        .map(|path| fs::read_to_string(path).expect("sources are UTF-8"))
        .map(|text| text.matches("impl OracleKind for ").count())
        .sum::<usize>();
    assert_eq!(kinds, tweedledum_core::oracles::ALL.len());
}

#[test]
fn every_fault_has_its_smallest_plan() {
    for kind in tweedledum_core::faults::ALL {
        let path = root().join(format!("plans/faults/{}.yaml", kind.name()));
        let text =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(
            text.contains(&format!("{}:", kind.name())),
            "{} does not use {}",
            path.display(),
            kind.name()
        );
    }
}

/// Words that YAML 1.1 readers (most editors' and CI servers') take for booleans, and digits with colons, which they
/// take for base 60. None of our keys or bare values may be one.
#[test]
fn nothing_is_a_yaml_1_1_trap() {
    const TRAPS: &[&str] = &[
        "y", "n", "yes", "no", "on", "off", "true", "false", "null", "~",
    ];
    let trap = |word: &str| {
        let sexagesimal =
            word.contains(':') && word.chars().all(|c| c.is_ascii_digit() || c == ':');
        TRAPS.contains(&word.to_ascii_lowercase().as_str()) || sexagesimal
    };
    let faults = tweedledum_core::faults::ALL
        .iter()
        .map(|kind| (kind.name(), kind.params()));
    let oracles = tweedledum_core::oracles::ALL
        .iter()
        .map(|kind| (kind.name(), kind.params()));
    for (name, params) in faults.chain(oracles) {
        assert!(!trap(name), "{name}");
        for param in params {
            assert!(!trap(param.name), "{name}.{}", param.name);
            if let tweedledum_core::params::Shape::OneOf(words) = param.shape {
                assert!(
                    !words.iter().any(|word| trap(word)),
                    "{name}.{}",
                    param.name
                );
            }
        }
    }
}
