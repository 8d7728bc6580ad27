//! A compose project that runs, and a plan against it: what is named is touched, the project goes on.

use std::collections::BTreeMap;
use std::process::{Command, Output};
use std::time::Duration;

use super::runs::{plain, root, tweedledum, until};
use super::{ONE_IMAGE, ask};

const UP_BOUND: Duration = Duration::from_mins(2);
const PROJECT: &str = "tweedledum-test";

/// A project that is taken down however the test ends.
struct Project;

impl Project {
    fn up() -> Self {
        let up = Self;
        compose(&["up", "-d"]);
        up
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let down = run(&["down", "-v", "-t", "1"]);
        if !down.status.success() && !std::thread::panicking() {
            panic!("{}", String::from_utf8_lossy(&down.stderr));
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "docker-compose is what has to be able to read the file"
)]
fn run(words: &[&str]) -> Output {
    let mut command = Command::new("docker-compose");
    command
        .args(["-p", PROJECT])
        .args(words)
        .current_dir(root());
    let ran = command.env("TWEEDLEDUM_NET", "10.119.7").output();
    ran.unwrap_or_else(|error| panic!("needs docker-compose: {error}"))
}

fn compose(words: &[&str]) -> String {
    let ran = run(words);
    let told = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "docker-compose {words:?}: {told}");
    String::from_utf8(ran.stdout).unwrap()
}

/// The last layer that a miner has verified.
fn verified(node: &str) -> u64 {
    let log = compose(&["logs", "--no-color", node]);
    let lines = log.lines().filter_map(|line| line.split_once("| "));
    let lines = lines.filter_map(|(_, json)| serde_json::from_str::<serde_json::Value>(json).ok());
    let layers = lines.filter(|line| line["event"] == "layer-verified");
    layers
        .filter_map(|line| line["layer"].as_u64())
        .max()
        .unwrap_or(0)
}

/// Every container of the project, and since when it runs.
fn containers() -> BTreeMap<String, String> {
    ask(async |docker| {
        let mut containers = BTreeMap::new();
        for id in compose(&["ps", "-q"]).split_whitespace() {
            let seen = docker.inspect_container(id, None).await.unwrap();
            let state = seen.state.unwrap();
            assert_eq!(state.running, Some(true), "{:?}", seen.name);
            containers.insert(seen.name.unwrap(), state.started_at.unwrap());
        }
        containers
    })
}

#[test]
#[ignore = "needs a Docker engine and docker-compose"]
fn a_project_is_attached_to_and_goes_on() {
    let _alone = ONE_IMAGE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let imported = plain(&["image"]).output().unwrap();
    assert!(imported.status.success());
    let _project = Project::up();
    until(UP_BOUND, "two epochs with activations", || {
        (verified("miner-0") >= 12).then_some(())
    });

    let refused = ["attach", PROJECT, "plans/faults/cap-disk.yaml"];
    let refused = tweedledum(&refused, dir.path()).output().unwrap();
    let told = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{told}");
    assert!(
        told.contains("cap what a node's data directory can take"),
        "{told}"
    );

    let before = containers();
    let dry = ["attach", PROJECT, "compose/gateways.yaml", "--dry-run"];
    let dry = tweedledum(&dry, dir.path()).output().unwrap();
    let names = String::from_utf8_lossy(&dry.stdout);
    assert_eq!(names.matches("touched (kill, start)").count(), 5, "{names}");
    assert_eq!(containers(), before, "only looked at");

    let words = [
        "attach",
        PROJECT,
        "compose/gateways.yaml",
        "--format",
        "json",
    ];
    let ended = tweedledum(&words, dir.path()).output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr);
    let verdict: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!(verdict["findings"], serde_json::json!([]), "{told}");
    assert!(!told.contains("history-gap"), "{told}");
    // A busy engine makes it inconclusive, and nothing else.
    let busy = told.contains("void-layers");
    assert!(
        ended.status.code() == Some(0) || (busy && ended.status.code() == Some(3)),
        "{told}"
    );

    let after = containers();
    for (name, since) in &before {
        let gateway = name.contains("gateway");
        assert_eq!(after[name] != *since, gateway, "{name}");
    }
    let then = verified("gateway-0").max(verified("miner-0"));
    until(UP_BOUND, "gateways that verify", || {
        (verified("gateway-0") > then + 4).then_some(())
    });
    let left = super::runs::on_engine(&super::runs::nonces(dir.path()));
    assert!(left.is_empty(), "{left:?}");
}
