//! `doctor` on a real engine: what it finds, and that nothing it made stays, whatever happens in the middle.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tweedledum_core::faults;
use tweedledum_harness::doctor::report::{Outcome, Report, StepReport};
use tweedledum_harness::substrate::docker::address::{EngineAddress, EngineEnv};

use crate::alone;
use crate::runs::on_engine;

/// Several times what the slowest examination took.
const LONG: Duration = Duration::from_mins(2);

#[test]
#[ignore = "needs a Docker engine, and minutes: scripts/with-engine"]
fn every_step_works_on_this_engine_and_nothing_stays() {
    let _alone = alone();
    let scratch = tempfile::tempdir().unwrap();
    let report = report(&start(scratch.path(), None).wait_with_output().unwrap(), 0);
    for step in &report.tiers[0].steps {
        assert_eq!(step.outcome, Outcome::Works, "{step:?}");
    }
    for fault in &report.tiers[0].faults {
        assert!(fault.available, "{fault:?}");
    }
    nothing_stays(scratch.path(), &report.nonce.to_string());
}

#[test]
#[ignore = "needs a Docker engine, and minutes: scripts/with-engine"]
fn a_refusal_in_the_middle_is_told_and_what_was_made_before_is_removed() {
    let _alone = alone();
    let scratch = tempfile::tempdir().unwrap();
    // Before the network, before the node, and a live update.
    for (refused, step, code, taken) in [
        ("/networks/create", "pod", 4, faults::ALL.len()),
        ("-doctor-node", "node", 4, faults::ALL.len()),
        ("/update HTTP", "limit-cpu", 0, 1),
    ] {
        let socket = refusing(refused);
        let path = socket.path().join("engine.sock");
        let output = start(scratch.path(), Some(&path))
            .wait_with_output()
            .unwrap();
        let report = report(&output, code);
        let docker = &report.tiers[0];
        let failed = named(&docker.steps, step);
        assert_eq!(failed.outcome, Outcome::Fails, "{refused}: {docker:?}");
        assert!(failed.seen.contains("refused for a test"), "{failed:?}");
        assert!(failed.fix.is_some(), "{failed:?}");
        let missing = docker.faults.iter().filter(|fault| !fault.available);
        let by_it = missing.filter(|fault| fault.failing_step.as_deref() == Some(step));
        assert_eq!(by_it.count(), taken, "{refused}: {docker:?}");
        assert_eq!(named(&docker.steps, "removal").outcome, Outcome::Works);
        nothing_stays(scratch.path(), &report.nonce.to_string());
    }
}

#[test]
#[ignore = "needs a Docker engine, and minutes: scripts/with-engine"]
fn an_interruption_in_the_middle_leaves_nothing() {
    let _alone = alone();
    let scratch = tempfile::tempdir().unwrap();
    let child = start(scratch.path(), None);
    let nonce = until_made(scratch.path(), 4);
    signal(&child, rustix::process::Signal::INT);
    let report = report(&child.wait_with_output().unwrap(), 130);
    assert_eq!(report.nonce.to_string(), nonce);
    nothing_stays(scratch.path(), &nonce);
}

#[test]
#[ignore = "needs a Docker engine, and minutes: scripts/with-engine"]
fn what_a_killed_examination_leaves_the_next_one_removes() {
    let _alone = alone();
    let scratch = tempfile::tempdir().unwrap();
    let child = start(scratch.path(), None);
    let nonce = until_made(scratch.path(), 5);
    signal(&child, rustix::process::Signal::KILL);
    child.wait_with_output().unwrap();
    assert!(!carrying(&nonce).is_empty(), "there is something to remove");
    let next = report(&start(scratch.path(), None).wait_with_output().unwrap(), 0);
    let pod = named(&next.tiers[0].steps, "pod");
    assert!(pod.seen.contains("1 killed examination"), "{pod:?}");
    nothing_stays(scratch.path(), &nonce);
    nothing_stays(scratch.path(), &next.nonce.to_string());
}

/// `tweedledum doctor --substrate docker --format json` on the engine or on a socket before it.
#[expect(
    clippy::disallowed_methods,
    reason = "the test signals it in the middle, which `assert_cmd` cannot"
)]
fn start(scratch: &Path, socket: Option<&Path>) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tweedledum"));
    command
        .args(["doctor", "--substrate", "docker", "--format", "json"])
        .env("TMPDIR", scratch)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(socket) = socket {
        command.env("DOCKER_HOST", format!("unix://{}", socket.display()));
    }
    command.spawn().unwrap()
}

fn report(output: &Output, code: i32) -> Report {
    let text = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}\n{told}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{text}\n{told}"))
}

fn named<'a>(steps: &'a [StepReport], name: &str) -> &'a StepReport {
    let step = steps.iter().find(|step| step.step == name);
    step.unwrap_or_else(|| panic!("no step {name}: {steps:?}"))
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

/// Waits until so many lines of the record are written, and returns the nonce, which is in its name.
fn until_made(scratch: &Path, lines: usize) -> String {
    let deadline = Instant::now() + LONG;
    loop {
        for entry in fs::read_dir(scratch).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap_or_default();
            if text.lines().count() >= lines {
                let name = path.file_stem().unwrap().to_str().unwrap();
                return name.rsplit('-').next().unwrap().to_owned();
            }
        }
        assert!(
            Instant::now() < deadline,
            "nothing was made within {LONG:?}"
        );
        std::thread::yield_now();
    }
}

fn carrying(nonce: &str) -> BTreeSet<String> {
    on_engine(&BTreeSet::from([nonce.to_owned()]))
}

#[track_caller]
fn nothing_stays(scratch: &Path, nonce: &str) {
    assert_eq!(carrying(nonce), BTreeSet::new());
    let left: Vec<_> = fs::read_dir(scratch).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A socket before the engine's that passes everything on, but refuses requests whose first line has these words. Its
/// threads end with the connections.
fn refusing(words: &'static str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("engine.sock")).unwrap();
    let engine = engine_socket();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, engine) = (client.unwrap(), UnixStream::connect(&engine).unwrap());
            let (mut answers, mut to_client) =
                (engine.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut answers, &mut to_client);
                let _ = to_client.shutdown(Shutdown::Write);
            });
            std::thread::spawn(move || pass_on(client, engine, words));
        }
    });
    directory
}

/// A head comes in one piece, and a body never begins like one.
fn pass_on(mut client: UnixStream, mut engine: UnixStream, words: &str) {
    let mut piece = vec![0; 1 << 16];
    while let Ok(length @ 1..) = client.read(&mut piece) {
        let first = piece[..length].split(|byte| *byte == b'\n').next().unwrap();
        let first = String::from_utf8_lossy(first);
        if first.starts_with("POST ") && first.contains(words) {
            let body = r#"{"message":"refused for a test"}"#;
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
            let _ = client.write_all(answer.as_bytes());
            break;
        }
        if engine.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _ = engine.shutdown(Shutdown::Write);
}

fn engine_socket() -> PathBuf {
    let address = EngineAddress::find(&EngineEnv::read().unwrap()).unwrap();
    let path = address.url.strip_prefix("unix://");
    PathBuf::from(path.expect("these tests go through the engine's unix socket"))
}
