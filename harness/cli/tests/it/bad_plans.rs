//! Bad plans: the executable names the place and the next step, exits 2 at once, and starts and makes nothing.
//!
//! To add one: a row in [`ROWS`], which changes one text of a sound plan; files that are no text have tests of their
//! own below. The words of messages belong to the core, which has tests of every one.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use crate::bad_support::{Ended, Scene};

/// Longer than this, and a user thinks that something was started.
const BOUND: Duration = Duration::from_secs(2);

const SOUND: &str = "\
format: 1
plan: sound
network:
  layer: 250ms
  layers-per-epoch: 4
  nodes: { miner: 4 }
controls:
  fixed: { verdict: pass }
timeline:
  - { at: epoch 2, for: 2 layers, name: hang, pause: { target: miner-0 } }
expect:
  - { advance: { signal: tx, of: every miner, within: 3 layers } }
until: epoch 12
";

struct Row {
    what: &'static str,
    /// This text of the sound plan …
    instead_of: &'static str,
    /// … is replaced by this one.
    put: &'static str,
    /// The complaint points at the first of this in the bad plan.
    at: &'static str,
}

const fn row(
    what: &'static str,
    instead_of: &'static str,
    put: &'static str,
    at: &'static str,
) -> Row {
    Row {
        what,
        instead_of,
        put,
        at,
    }
}

const ROWS: &[Row] = &[
    row(
        "unknown key",
        "layer: 250ms",
        "layer: 250ms\n  leyer: 1s",
        "leyer",
    ),
    row("wrong unit", "250ms", "250KiB", "250KiB"),
    row("negative", "250ms", "-250ms", "-250ms"),
    row("not a number", "miner: 4", "miner: .nan", ".nan"),
    row(
        "overflow",
        "miner: 4",
        "miner: 99999999999999999999",
        "99999999999999999999",
    ),
    row("zero layer", "250ms", "0ms", "0ms"),
    row(
        "no layers in an epoch",
        "layers-per-epoch: 4",
        "layers-per-epoch: 0",
        "0\n  nodes",
    ),
    row(
        "duplicate key",
        "miner: 4",
        "miner: 4, miner: 5",
        "miner: 5",
    ),
    row(
        "duplicate name",
        "expect:",
        "  - { at: epoch 5, for: 2 layers, name: hang, pause: { target: miner-1 } }\nexpect:",
        "hang, pause: { target: miner-1",
    ),
    row(
        "target that matches nothing",
        "target: miner-0",
        "target: miner-9",
        "miner-9",
    ),
    row(
        "fault that outlives the run",
        "for: 2 layers",
        "for: 20 epochs",
        "{ at: epoch 2",
    ),
    row(
        "bound under 1.25 periods",
        "within: 3 layers",
        "within: 1 layer",
        "1 layer }",
    ),
    row(
        "expectation that is never demanded",
        "within: 3 layers",
        "within: 11 epochs",
        "11 epochs",
    ),
    row("unknown release", "fixed:", "fixt:", "fixt"),
    row("unknown role", "miner: 4", "minor: 4", "minor: 4"),
    row("format from the future", "format: 1", "format: 7", "7"),
    row(
        "plan name that leads outside",
        "plan: sound",
        "plan: ../../sound",
        "../../sound",
    ),
    row(
        "two faults in one entry",
        "pause:",
        "kill: { target: miner-1 }, pause:",
        "pause",
    ),
];

/// Checks and runs a plan that must be refused, and hands over what was said.
fn refused(scene: &Scene, plan: &str) -> Vec<Ended> {
    let before = traces(scene);
    let ended = [
        &["check", plan] as &[&str],
        &["run", plan],
        &["run", plan, "--release", "fixed"],
    ]
    .map(|words| {
        let ended = scene.call(words).gave(2).says(&["error: "]);
        assert!(ended.took < BOUND, "{words:?} took {:?}", ended.took);
        assert!(
            ended.stdout.is_empty(),
            "{words:?} wrote results: {}",
            ended.stdout
        );
        ended
    });
    assert_eq!(traces(scene), before, "something was made beside {plan}");
    ended.into()
}

/// What the directory holds and when that last changed. A run writes its intents below it before it starts anything, so
/// a directory that did not change, not even for a moment, shows that nothing was started.
fn traces(scene: &Scene) -> (Duration, Vec<String>) {
    let changed = std::fs::metadata(scene.path()).unwrap().modified().unwrap();
    let entries = std::fs::read_dir(scene.path()).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    (changed.duration_since(UNIX_EPOCH).unwrap(), names)
}

/// `LINE:COLUMN` of a text's first byte, from 1.
fn place(text: &str, of: &str) -> String {
    let before = &text[..text.find(of).unwrap()];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
    format!("{line}:{column}")
}

#[test]
fn the_plan_that_the_rows_spoil_is_sound() {
    let scene = Scene::new();
    scene.file("plan.yaml", SOUND);
    scene
        .call(&["check", "plan.yaml"])
        .gave(0)
        .says(&["plan.yaml: sound"]);
}

#[test]
fn every_bad_plan_is_refused_at_its_place() {
    let mut wrong = Vec::new();
    for row in ROWS {
        let scene = Scene::new();
        assert!(SOUND.contains(row.instead_of), "{}", row.what);
        let text = SOUND.replacen(row.instead_of, row.put, 1);
        scene.file("plan.yaml", &text);
        let place = format!("plan.yaml:{}\n", place(&text, row.at));
        for ended in refused(&scene, "plan.yaml") {
            for part in [place.as_str(), "nothing was started"] {
                if !ended.stderr.contains(part) {
                    wrong.push(format!(
                        "{}: no `{}` in\n{}",
                        row.what,
                        part.trim(),
                        ended.stderr
                    ));
                }
            }
            // A range that is named says what to write.
            if !ended.stderr.contains("hint: ") && !ended.stderr.contains("is not between") {
                wrong.push(format!(
                    "{}: nothing to do next in\n{}",
                    row.what, ended.stderr
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_plan_without_expectations_is_refused() {
    let scene = Scene::new();
    let text = SOUND.split("expect:").next().unwrap();
    scene.file("plan.yaml", text);
    for ended in refused(&scene, "plan.yaml") {
        ended.says(&["expect", "hint: "]);
    }
}

#[test]
fn names_on_the_command_line_are_checked_before_anything_starts() {
    let scene = Scene::new();
    scene.file("plan.yaml", SOUND);
    let before = traces(&scene);
    scene
        .call(&["run", "plan.yaml", "--release", "fixt"])
        .gave(2)
        .says(&["`fixt`", "hint: ", "fixed"]);
    scene
        .call(&["run", "plan.yaml", "--timeout", "5 bananas"])
        .gave(2);
    scene.call(&["run", "plan.yaml", "--seed", "-1"]).gave(2);
    scene.call(&["run"]).gave(2);
    assert_eq!(traces(&scene), before);
}

#[test]
fn executables_that_cannot_be_used_are_found_before_anything_starts() {
    for (what, bin, part) in [
        ("missing", "./not-built-yet", "not-built-yet"),
        ("not executable", "plan.yaml", "no executable file"),
        ("a directory", ".", "no executable file"),
    ] {
        let scene = Scene::new();
        let releases = format!(
            "releases: {{ mine: {{ bin: {bin} }} }}\ncontrols:\n  mine: {{ verdict: pass }}"
        );
        scene.file(
            "plan.yaml",
            SOUND.replace("controls:\n  fixed: { verdict: pass }", &releases),
        );
        let before = traces(&scene);
        for words in [["check", "plan.yaml"], ["run", "plan.yaml"]] {
            let ended = scene.call(&words).gave(2).says(&[part, "hint: "]);
            assert!(
                ended.took < BOUND,
                "{what}: {words:?} took {:?}",
                ended.took
            );
        }
        assert_eq!(traces(&scene), before, "{what}");
    }
}

#[test]
fn files_that_are_no_plans_are_refused() {
    let scene = Scene::new();
    let alias_bomb = |depth: usize| {
        let mut text = "format: 1\na0: &a0 [x]\n".to_owned();
        for n in 1..depth {
            let below = vec![format!("*a{}", n - 1); 9].join(", ");
            writeln!(text, "a{n}: &a{n} [{below}]").unwrap();
        }
        text
    };
    scene.file(
        "latin-1.yaml",
        SOUND
            .replace("plan: sound", "plan: caf\u{e9}")
            .chars()
            .map(|c| c as u8)
            .collect::<Vec<_>>(),
    );
    scene.file("bomb.yaml", alias_bomb(40));
    scene.file(
        "deep.yaml",
        format!(
            "format: 1\nplan: {}{}\n",
            "[".repeat(10_000),
            "]".repeat(10_000)
        ),
    );
    scene.file(
        "deep-block.yaml",
        format!(
            "format: 1\nplan:\n{}",
            (1..700)
                .map(|n| " ".repeat(n))
                .collect::<Vec<_>>()
                .join("a:\n")
        ),
    );
    scene.file("empty.yaml", "");
    scene.file("binary.yaml", (0..=255).collect::<Vec<u8>>());
    // 100 MB that take no room on the disk.
    let large = std::fs::File::create(scene.path().join("large.yaml")).unwrap();
    large.set_len(100_000_000).unwrap();
    std::fs::create_dir(scene.path().join("directory.yaml")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        scene.path().join("pipe.yaml"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    for (plan, part) in [
        ("latin-1.yaml", "latin-1.yaml:2:10\n"),
        ("bomb.yaml", "aliases"),
        ("deep.yaml", "deep.yaml:2:"),
        ("deep-block.yaml", "deep-block.yaml:"),
        ("empty.yaml", "empty.yaml"),
        ("binary.yaml", "binary.yaml:2:"),
        ("large.yaml", "larger than"),
        ("directory.yaml", "not a file"),
        ("pipe.yaml", "not a file"),
        ("/dev/zero", "not a file"),
        ("not-there.yaml", "there is no file not-there.yaml"),
        // It opens, and nobody may read its first page.
        ("/proc/self/mem", "Input/output error"),
    ] {
        for ended in refused(&scene, plan) {
            ended.says(&[part, "hint: "]);
        }
    }
}

#[test]
fn several_plans_are_checked_at_once_and_one_bad_one_is_enough() {
    let scene = Scene::new();
    scene.file("good.yaml", SOUND);
    scene.file("bad.yaml", SOUND.replace("250ms", "0ms"));
    let ended = scene
        .call(&["check", "good.yaml", "bad.yaml", "--format", "json"])
        .gave(2);
    let told: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(told[0]["sound"], true, "{told}");
    assert_eq!(told[1]["sound"], false, "{told}");
    assert!(
        told[1]["message"]
            .as_str()
            .unwrap()
            .contains("bad.yaml:4:10"),
        "{told}"
    );
}
