//! Whole runs on a real engine: every plan gives what it declares, and whoever of a run is killed, nothing of it stays.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bollard::query_parameters::{
    KillContainerOptionsBuilder, ListContainersOptions, ListNetworksOptions, ListVolumesOptions,
};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tweedledum_harness::substrate::docker::ledger::NONCE_LABEL;

use crate::{alone, ask, image};

/// Until a killed run is gone: its guards look for a while whether anything of it still appears.
const GONE_BOUND: Duration = Duration::from_mins(2);
/// Until a run has nodes.
const START_BOUND: Duration = Duration::from_mins(1);

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Everything on the engine that carries the nonce of any of these runs, as a label or in its name.
pub(crate) fn on_engine(nonces: &BTreeSet<String>) -> BTreeSet<String> {
    let ours = |name: &str, labels: Option<&HashMap<String, String>>| {
        let labelled = labels.and_then(|labels| labels.get(NONCE_LABEL));
        labelled.is_some_and(|nonce| nonces.contains(nonce))
            || nonces.iter().any(|nonce| name.contains(nonce))
    };
    ask(async |docker| {
        let all = ListContainersOptions {
            all: true,
            ..ListContainersOptions::default()
        };
        let mut found = BTreeSet::new();
        for container in docker.list_containers(Some(all)).await.unwrap() {
            let names = container.names.into_iter().flatten();
            found.extend(names.filter(|name| ours(name, container.labels.as_ref())));
        }
        let volumes = docker
            .list_volumes(None::<ListVolumesOptions>)
            .await
            .unwrap();
        for volume in volumes.volumes.into_iter().flatten() {
            found.extend(ours(&volume.name, Some(&volume.labels)).then_some(volume.name));
        }
        for network in docker
            .list_networks(None::<ListNetworksOptions>)
            .await
            .unwrap()
        {
            let name = network.name.unwrap();
            found.extend(ours(&name, network.labels.as_ref()).then_some(name));
        }
        found
    })
}

/// Nonces of the runs that are, or were, in this directory: of intents and of markers.
pub(crate) fn nonces(runs: &Path) -> BTreeSet<String> {
    let mut nonces = BTreeSet::new();
    for entry in std::fs::read_dir(runs.join(".intents"))
        .into_iter()
        .flatten()
    {
        let path = entry.unwrap().path();
        nonces.extend(
            path.file_stem()
                .map(|stem| stem.to_string_lossy().into_owned()),
        );
    }
    for entry in std::fs::read_dir(runs).into_iter().flatten() {
        let marker = entry.unwrap().path().join("run.json");
        if let Ok(text) = std::fs::read_to_string(marker) {
            let marker: serde_json::Value = serde_json::from_str(&text).unwrap();
            nonces.insert(marker["nonce"].as_str().unwrap().to_owned());
        }
    }
    nonces
}

pub(crate) fn tweedledum(words: &[&str], runs: &Path) -> Command {
    let mut command = plain(words);
    command.arg("--runs").arg(runs);
    command
}

#[expect(
    clippy::disallowed_methods,
    reason = "the shipped executable is what is tested"
)]
pub(crate) fn plain(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tweedledum"));
    command.args(words).current_dir(root()).stdin(Stdio::null());
    command
}

/// Runs a plan on the engine and holds that it exits so and leaves nothing.
#[track_caller]
fn gives(plan: &str, runs: &Path) {
    let _alone = alone();
    let words = ["run", plan, "--substrate", "docker"];
    let ended = tweedledum(&words, runs).output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(0), "{plan}\n{told}");
    let nonces = nonces(runs);
    assert!(!nonces.is_empty(), "{plan} made no run");
    assert_eq!(on_engine(&nonces), BTreeSet::new(), "left by {plan}");
}

#[test]
#[ignore = "needs a Docker engine, and minutes: scripts/with-engine"]
fn every_fault_gives_what_its_plan_declares() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut plans: Vec<PathBuf> = std::fs::read_dir(root().join("plans/faults"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    plans.sort();
    assert!(plans.len() >= 12, "{plans:?}");
    for plan in plans {
        let plan = plan.to_str().unwrap();
        gives(plan, dir.path());
    }
}

/// The capped node is killed for lack of memory, which its finding says; the other lives.
#[test]
#[ignore = "needs a Docker engine, and minutes: scripts/with-engine"]
fn who_has_too_little_memory_dies_of_that() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let plan = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/plans/hog.yaml");
    gives(plan, dir.path());
}

/// The plan of `throttle-cpu` with the gateways' image named, as a plan of a user's own names it.
fn with_image(image: &str, dir: &Path) -> PathBuf {
    let roles = tweedledum_words(&["list", "roles"]);
    let command = "command: [\"{release.bin}\", \"node\", \"gateway\"";
    assert!(roles.contains(command), "{roles}");
    let named = format!("image: \"{image}\"\n      {command}");
    let roles = roles.replacen(command, &named, 1);
    let plan = std::fs::read_to_string(root().join("plans/faults/throttle-cpu.yaml")).unwrap();
    let path = dir.join("with-image.yaml");
    std::fs::write(&path, format!("{plan}\n{roles}")).unwrap();
    path
}

#[expect(
    clippy::disallowed_methods,
    reason = "the shipped executable is what is tested"
)]
fn tweedledum_words(words: &[&str]) -> String {
    let said = Command::new(env!("CARGO_BIN_EXE_tweedledum"))
        .args(words)
        .output()
        .unwrap();
    String::from_utf8(said.stdout).unwrap()
}

/// Images of the user's own are looked up and not pulled; their nodes are limited and looked into as others are.
#[test]
#[ignore = "needs a Docker engine, and minutes: scripts/with-engine"]
fn a_role_may_name_an_image() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let plan = with_image(&image().name, dir.path());
    gives(plan.to_str().unwrap(), dir.path());

    let plan = with_image("tweedledum-no-such-image:1", dir.path());
    let words = ["run", plan.to_str().unwrap()];
    let ended = tweedledum(&words, dir.path()).output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(4), "{told}");
    for part in [
        "gateway-0 cannot be started: the image `tweedledum-no-such-image:1` is not on the engine",
        "`docker pull tweedledum-no-such-image:1`",
    ] {
        assert!(told.contains(part), "`{part}` is not said\n{told}");
    }
    assert_eq!(on_engine(&nonces(dir.path())), BTreeSet::new());
}

#[test]
#[ignore = "needs a Docker engine, and minutes: scripts/with-engine"]
fn the_flood_and_the_incident_give_what_they_declare() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    gives("plans/flood.yaml", dir.path());
    gives("plans/tweedledee/incident.yaml", dir.path());
}

/// The stub and the processes below it, by the word that says what they are.
pub(crate) fn parts(stub: u32) -> BTreeMap<&'static str, i32> {
    let mut parts = BTreeMap::from([("stub", stub.try_into().unwrap())]);
    for entry in std::fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        let (Ok(stat), Ok(words)) = (
            std::fs::read_to_string(path.join("stat")),
            std::fs::read_to_string(path.join("cmdline")),
        ) else {
            continue;
        };
        let after = stat.rsplit(") ").next().unwrap_or_default();
        let parent = after.split(' ').nth(1).and_then(|word| word.parse().ok());
        if parent != Some(stub) {
            continue;
        }
        let pid = path.file_name().unwrap().to_string_lossy().parse().unwrap();
        for part in ["watchdog", "controller"] {
            if words.split('\0').nth(2) == Some(part) {
                parts.insert(part, pid);
            }
        }
    }
    parts
}

/// Kills these parts of a run, and waits until none of them is at work any more.
pub(crate) fn kill_all(parts: &BTreeMap<&'static str, i32>, who: &[&str]) {
    for part in who {
        kill(parts[part]);
    }
    until(START_BOUND, "the deaths of all that were killed", || {
        let works = |part: &&str| {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", parts[*part]));
            stat.is_ok_and(|stat| !stat.contains(") Z "))
        };
        (!who.iter().any(works)).then_some(())
    });
}

pub(crate) fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Waits until a condition holds, with a bound that says what was missing.
pub(crate) fn until<T>(bound: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + bound;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "not within {bound:?}: {what}");
        // Engines tell nobody outside of a run what appears; so it is looked again.
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// A run of which nodes exist on the engine.
fn going(runs: &Path) -> (Child, BTreeMap<&'static str, i32>, BTreeSet<String>) {
    let words = ["run", "plans/faults/kill.yaml", "--substrate", "docker"];
    let mut child = tweedledum(&words, runs)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    // What nobody reads would hold the run up; what it says is of no interest here.
    std::thread::spawn(move || stderr.lines().map_while(Result::ok).for_each(drop));
    let stub = child.id();
    let nonces = until(START_BOUND, "a node on the engine", || {
        let nonces = nonces(runs);
        let there = on_engine(&nonces);
        there
            .iter()
            .any(|name| name.ends_with("-node"))
            .then_some(nonces)
    });
    (child, parts(stub), nonces)
}

#[test]
#[ignore = "needs a Docker engine, and minutes: scripts/with-engine"]
fn whoever_is_killed_nothing_stays() {
    let _alone = alone();
    for who in [
        &["controller"][..],
        &["stub"],
        &["watchdog", "stub", "controller"],
    ] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (mut child, parts, nonces) = going(dir.path());
        kill_all(&parts, who);
        child.wait().unwrap();
        if who.len() == 3 {
            let cleaned = tweedledum(&["clean"], dir.path()).output().unwrap();
            let told = String::from_utf8_lossy(&cleaned.stderr);
            assert_eq!(cleaned.status.code(), Some(0), "{told}");
            assert!(told.contains("removed from its container engine"), "{told}");
        }
        until(GONE_BOUND, "nothing on the engine", || {
            on_engine(&nonces).is_empty().then_some(())
        });
        until(GONE_BOUND, "no intents", || {
            let left = std::fs::read_dir(dir.path().join(".intents")).unwrap();
            (left.count() == 0).then_some(())
        });
    }
}

/// The histories of runs in this directory, as far as they are written.
fn records(runs: &Path) -> Vec<serde_json::Value> {
    let mut records = Vec::new();
    for run in std::fs::read_dir(runs).into_iter().flatten() {
        let path = run.unwrap().path().join("fixed/history.jsonl");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        records.extend(
            text.lines()
                .filter_map(|line| serde_json::from_str(line).ok()),
        );
    }
    records
}

/// A run of a plan that goes on for twelve epochs, when its layer 8 is over; and its nonce.
fn long_run(runs: &Path) -> (Child, String) {
    // As soon as all that is expected has held it would be over otherwise.
    let smoke = std::fs::read_to_string(root().join("plans/smoke.yaml")).unwrap();
    let plan = runs.join("long.yaml");
    std::fs::write(&plan, smoke + "until: epoch 12\n").unwrap();
    let words = [
        "run",
        plan.to_str().unwrap(),
        "--release",
        "fixed",
        "--substrate",
        "docker",
    ];
    let child = tweedledum(&words, runs)
        .args(["--format", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until(START_BOUND, "the end of layer 8", || {
        (layers(runs, false) >= 8).then_some(())
    });
    let nonce = nonces(runs).pop_first().unwrap();
    (child, nonce)
}

/// How many layers were recorded, or how many of those in which somebody was late.
fn layers(runs: &Path, late: bool) -> usize {
    let of_layers = records(runs).into_iter().filter(|it| it["kind"] == "layer");
    of_layers
        .filter(|it| !late || it["late_us"].as_u64() > Some(50_000))
        .count()
}

/// A node beside an agent that hardly gets a processor is accused of nothing: its layers are void.
#[test]
#[ignore = "needs a Docker engine, and minutes: scripts/with-engine"]
fn an_agent_that_starves_accuses_nobody() {
    let _alone = alone();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (child, nonce) = long_run(dir.path());
    let before = layers(dir.path(), true);
    let of_agent = format!("tweedledum-{nonce}-miner-0-agent");
    let seen = ask(async |docker| docker.inspect_container(&of_agent, None).await.unwrap());
    let pid = i32::try_from(seen.state.unwrap().pid.unwrap()).unwrap();
    let pid = Pid::from_raw(pid).unwrap();
    let agent = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let mut looks = 0;
    until(START_BOUND, "eight late layers", || {
        // It gets a tenth of the time, half a second apart.
        looks += 1;
        let signal = if looks % 10 == 0 {
            Signal::CONT
        } else {
            Signal::STOP
        };
        pidfd_send_signal(&agent, signal).unwrap();
        (layers(dir.path(), true) >= before + 8).then_some(())
    });
    // A run that is over by now has removed its agents.
    let _ = pidfd_send_signal(&agent, Signal::CONT);
    let ended = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr);
    let verdict: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!(verdict["findings"], serde_json::json!([]), "{told}");
    assert!(matches!(ended.status.code(), Some(0 | 3)), "{told}");
    assert_eq!(on_engine(&BTreeSet::from([nonce])), BTreeSet::new());
}

/// A network to which somebody else did something says nothing about its release, neither good nor bad.
#[test]
#[ignore = "needs a Docker engine, and minutes: scripts/with-engine"]
fn what_others_do_to_a_node_ends_the_run_and_accuses_nobody() {
    let _alone = alone();
    // A node that was stopped cannot end in order, either.
    for (signal, words) in [
        (Some("KILL"), "sent a signal to"),
        (Some("STOP"), "sent a signal to"),
        (None, "changed the limits of"),
    ] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (child, nonce) = long_run(dir.path());
        let node = format!("tweedledum-{nonce}-miner-0-node");
        let half = bollard::models::ContainerUpdateBody {
            nano_cpus: Some(500_000_000),
            ..Default::default()
        };
        let done = ask(async |docker| match signal {
            Some(signal) => {
                let options = KillContainerOptionsBuilder::default().signal(signal);
                docker.kill_container(&node, Some(options.build())).await
            }
            None => docker.update_container(&node, half).await,
        });
        done.unwrap();
        let ended = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&ended.stderr);
        let verdict: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
        assert_eq!(verdict["findings"], serde_json::json!([]), "{told}");
        assert_eq!(ended.status.code(), Some(4), "{told}");
        let why = format!("somebody else {words} {node} ");
        assert!(verdict["reasons"].to_string().contains(&why), "{verdict}");
        assert_eq!(on_engine(&BTreeSet::from([nonce])), BTreeSet::new());
    }
}
