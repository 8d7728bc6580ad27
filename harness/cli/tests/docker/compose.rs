//! A compose project that runs, and a plan against it: what is named is touched, the project goes on.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use super::runs::{kill_all, parts, plain, root, tweedledum, until};
use super::{alone, ask};

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
        let told = String::from_utf8_lossy(&down.stderr);
        assert!(down.status.success() || std::thread::panicking(), "{told}");
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

/// The project's containers that do not run or are paused, but for the one that only makes files.
fn down() -> Vec<String> {
    ask(async |docker| {
        let label = vec![format!("com.docker.compose.project={PROJECT}")];
        let status = ["exited", "paused"].map(str::to_owned).to_vec();
        let options = bollard::query_parameters::ListContainersOptions {
            all: true,
            filters: Some([("label".to_owned(), label), ("status".to_owned(), status)].into()),
            ..bollard::query_parameters::ListContainersOptions::default()
        };
        let listed = docker.list_containers(Some(options)).await.unwrap();
        let names = listed
            .into_iter()
            .flat_map(|it| it.names.unwrap_or_default());
        names.filter(|name| !name.contains("network")).collect()
    })
}

/// The plan with a heal that leaves time to interrupt it, and with one victim: without any gateway, disks of PoETs would
/// be full before that, and those dead.
fn healed_late(dir: &Path) -> PathBuf {
    let mut plan = std::fs::read_to_string(root().join("compose/gateways.yaml")).unwrap();
    for (early, late) in [
        ("target: every gateway", "target: gateway-0"),
        ("at: epoch 3, heal", "at: epoch 10, heal"),
        ("until: epoch 8", "until: epoch 15"),
    ] {
        assert!(plan.contains(early), "{plan}");
        plan = plan.replace(early, late);
    }
    let path = dir.join("healed-late.yaml");
    std::fs::write(&path, plan).unwrap();
    path
}

/// An attach that has killed a gateway and not started it again.
fn going(plan: &Path, runs: &Path) -> Child {
    let words = [
        "attach",
        PROJECT,
        plan.to_str().unwrap(),
        "--format",
        "json",
    ];
    let mut child = tweedledum(&words, runs)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    // What nobody reads would hold the run up.
    std::thread::spawn(move || stderr.lines().map_while(Result::ok).for_each(drop));
    until(UP_BOUND, "a killed gateway", || {
        (!down().is_empty()).then_some(())
    });
    child
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Whoever ends an attach between a fault and its heal, the project runs again, at the latest after `clean`.
#[test]
#[ignore = "needs a Docker engine, docker-compose, and minutes: scripts/with-engine"]
fn what_is_stopped_comes_back_however_the_run_ends() {
    let _alone = alone();
    let imported = plain(&["image"]).output().unwrap();
    assert!(imported.status.success());
    let _project = Project::up();
    until(UP_BOUND, "two epochs with activations", || {
        (verified("miner-0") >= 12).then_some(())
    });
    for who in [
        &["interrupt"][..],
        &["controller"],
        &["watchdog", "stub", "controller"],
    ] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let plan = healed_late(dir.path());
        let mut child = going(&plan, dir.path());
        let second = ["attach", PROJECT, plan.to_str().unwrap()];
        let second = tweedledum(&second, dir.path()).output().unwrap();
        let told = String::from_utf8_lossy(&second.stderr);
        assert_eq!(second.status.code(), Some(2), "{told}");
        let by = format!("attached to already, by process {} ", child.id());
        assert!(told.contains(&by), "{told}");
        let parts = parts(child.id());
        if *who == ["interrupt"] {
            signal(&child, rustix::process::Signal::INT);
        } else {
            kill_all(&parts, who);
        }
        let ended = child.wait().unwrap();
        if *who == ["interrupt"] {
            assert_eq!(ended.code(), Some(130));
        }
        if who.len() == 3 {
            let cleaned = tweedledum(&["clean"], dir.path()).output().unwrap();
            let told = String::from_utf8_lossy(&cleaned.stderr);
            assert_eq!(cleaned.status.code(), Some(0), "{told}");
            assert!(told.contains("that it had stopped run"), "{told}");
        }
        assert_eq!(down(), Vec::<String>::new(), "{who:?}");
        let left = super::runs::on_engine(&super::runs::nonces(dir.path()));
        assert!(left.is_empty(), "{left:?}");
    }
    // One that somebody else has started is theirs, and was not held down.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let child = going(&healed_late(dir.path()), dir.path());
    compose(&["start", "gateway-0"]);
    let theirs = containers();
    signal(&child, rustix::process::Signal::INT);
    child.wait_with_output().unwrap();
    assert_eq!(containers(), theirs);
    let [history] = histories(dir.path()).try_into().unwrap();
    let evidence = history.iter().filter(|record| {
        record["kind"] == "evidence"
            && record["grade"] == "applied"
            && record["node"] == "gateway-0"
    });
    let held: Vec<bool> = evidence.filter_map(|it| it["held"].as_bool()).collect();
    assert_eq!(held, [true, false], "{history:?}");
    // One that cannot start again is a finding, and no failure of the harness.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let child = going(&healed_late(dir.path()), dir.path());
    forget_network("gateway-0", dir.path());
    let ended = child.wait_with_output().unwrap();
    let verdict: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    let findings = verdict["findings"].as_array().unwrap();
    let dead = |finding: &serde_json::Value| finding["node"] == "gateway-0";
    assert!(findings.iter().any(dead), "{verdict}");
    assert_ne!(ended.status.code(), Some(4), "{verdict}");
    let [history] = histories(dir.path()).try_into().unwrap();
    let header = &history[0];
    let image = header["executables"]["gateway-0"].as_str().unwrap();
    assert!(image.starts_with("sha256:"), "{image}");
}

/// What was recorded of each run.
fn histories(runs: &Path) -> Vec<Vec<serde_json::Value>> {
    let runs = std::fs::read_dir(runs).unwrap();
    let texts = runs.filter_map(|run| {
        let path = run.unwrap().path().join("fixed/history.jsonl");
        std::fs::read_to_string(path).ok()
    });
    let records = |text: String| {
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    texts.map(records).collect()
}

/// Takes from a node what it needs to start.
#[expect(
    clippy::disallowed_methods,
    reason = "only this writes into a volume of somebody else's"
)]
fn forget_network(node: &str, dir: &Path) {
    let empty = dir.join("empty");
    std::fs::write(&empty, "").unwrap();
    let holder = compose(&["ps", "-q", "network"]);
    let to = format!("{}:/network/{node}.json", holder.trim());
    let mut copy = Command::new("docker");
    let copied = copy.arg("cp").arg(&empty).arg(to).output().unwrap();
    let told = String::from_utf8_lossy(&copied.stderr);
    assert!(copied.status.success(), "{told}");
}

#[test]
#[ignore = "needs a Docker engine, docker-compose, and minutes: scripts/with-engine"]
fn a_project_is_attached_to_and_goes_on() {
    let _alone = alone();
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
