//! What is changed while a run goes on: its plan, what its nodes are started from, its history. The verdict speaks of what
//! was there when it began, or is none.
//!
//! The nodes are a script and a shell next to the plan; the test is the one who changes files, as a node could.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

use serde_json::Value;

use crate::bad_support::{RUN_BOUND, Scene, layer, wait_until};
use crate::support::Machine;

const BEAT: &str = "trap 'exit 0' TERM\nn=0\nwhile :; do n=$((n + 1)); echo \"{\\\"event\\\":\\\"beat\\\",\\\"n\\\":$n}\"; sleep 0.05; done";

/// A plan of a node that is a script and one that is a binary; `timeline` is what is done to them.
fn scene(timeline: &str) -> Scene {
    let scene = Scene::new();
    scene.script("beat.sh", BEAT);
    fs::copy("/bin/sh", scene.path().join("shell")).unwrap();
    let script = scene.path().join("beat.sh");
    let rest = "ready: { log: beat }, stop: { signal: TERM, grace: 300ms }, expect-exit: [0], \
                signals: { beats: { log: beat, value: /n, period: 1 layer } }";
    scene.file(
        "plan.yaml",
        format!(
            "format: 1
plan: tampered
network: {{ layer: 100ms, layers-per-epoch: 4, nodes: {{ script: 1, binary: 1 }} }}
roles:
  script: {{ command: [./beat.sh], {rest} }}
  binary: {{ command: [./shell, {}], {rest} }}
{timeline}
expect:
  - {{ advance: {{ signal: beats, of: every script, within: 4 layers }} }}
",
            script.display()
        ),
    );
    scene
}

const RUN: [&str; 4] = ["run", "plan.yaml", "--release", "fixed"];

/// A node dies in the middle of the run and is started again by the heal.
fn killed(node: &str) -> Scene {
    scene(&format!(
        "timeline:\n  - {{ at: epoch 2, name: cut, kill: {{ target: {node} }} }}\n  - {{ at: epoch 9, heal: all }}"
    ))
}

fn is_dead(node: &str) -> impl Fn(&Value) -> bool {
    move |record| record["kind"] == "exit" && record["node"] == node
}

fn sha256(path: &Path) -> String {
    tweedledum_harness::store::file_sha256(path).unwrap()
}

#[test]
fn a_script_that_is_overwritten_between_two_lives_ends_the_run() {
    let _machine = Machine::shared();
    let scene = killed("script-0");
    let script = scene.path().join("beat.sh");
    let was = sha256(&script);
    let going = scene.start(&RUN);
    scene.wait_for_record("fixed", "its death", is_dead("script-0"));
    // In place, and as good a node as it was.
    fs::write(&script, format!("#!/bin/sh\n# another\n{BEAT}\n")).unwrap();
    let now = sha256(&script);
    going.end(RUN_BOUND).gave(4).says(&[
        "the substrate failed: script-0: ",
        "beat.sh was replaced or overwritten during the run",
        &was,
        &now,
        "run again",
    ]);
}

#[test]
fn what_is_run_and_judged_is_what_was_there_at_the_start() {
    let _machine = Machine::alone();
    let scene = killed("binary-0");
    let plan = fs::read(scene.path().join("plan.yaml")).unwrap();
    let was = sha256(&scene.path().join("shell"));
    let going = scene.start(&RUN);
    // Another plan, as soon as the run has shown that it began.
    let other = scene.file("other.yaml", [&plan[..], b"# another\n"].concat());
    wait_until(RUN_BOUND, "the run's intents", || {
        !scene.intents().is_empty()
    });
    fs::rename(other, scene.path().join("plan.yaml")).unwrap();
    scene.wait_for_record("fixed", "its death", is_dead("binary-0"));
    // A new build puts another file in the old one's place.
    let new = scene.file("new", "#!/bin/sh\nexit 9\n");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(new, scene.path().join("shell")).unwrap();
    going.end(RUN_BOUND).gave(0);

    let release = scene.release("fixed");
    let header = scene.records("fixed").remove(0);
    assert_eq!(header["executables"]["./shell"], was);
    let told = release.parent().unwrap().join("plan.yaml");
    assert_eq!(fs::read(&told).unwrap(), plan, "plan.yaml of the run");
    assert_eq!(header["plan_digest"], sha256(&told));
    scene
        .call(&["judge", release.parent().unwrap().to_str().unwrap()])
        .gave(0);
}

#[test]
fn a_history_that_is_edited_during_its_run_is_not_believed() {
    let _machine = Machine::shared();
    let scene = scene("until: epoch 9");
    let going = scene.start(&RUN);
    scene.wait_for_record("fixed", "a layer", layer(1));
    // The boot id means nothing to any oracle, so but for the bytes nothing is wrong.
    let path = scene.release("fixed").join("history.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let place = text.find("\"boot\":\"").unwrap() + "\"boot\":\"".len();
    let other = if text[place..].starts_with('0') {
        b"1"
    } else {
        b"0"
    };
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(other, u64::try_from(place).unwrap())
        .unwrap();
    let told = [
        "history-damaged",
        "the history was changed while the run went on",
        "--substrate docker",
    ];
    going.end(RUN_BOUND).gave(3).says(&told);
    let release = scene.release("fixed");
    let live = fs::read_to_string(release.join("verdict.json")).unwrap();
    let again = scene.call(&["judge", release.to_str().unwrap(), "--format", "json"]);
    let again = again.gave(3).says(&told);
    assert_eq!(again.stdout, live);
}
