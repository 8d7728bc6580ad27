//! Nodes: how they start, what they get, how they end.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::chain::Chain;

fn play(scenario: &[&str], event: &str) -> Value {
    let mut chain = Chain::start(scenario);
    let value = chain.wait_for(event);
    let ended = chain.wait_for("ended");
    assert_eq!(ended["how"]["left"], json!([]), "{ended}");
    assert_eq!(chain.wait_for_end(), 0, "{ended}");
    value
}

#[test]
fn deaths_are_told_apart() {
    for (kind, exit) in [
        ("exit", json!({"code": 3})),
        ("abort", json!({"signal": 6})),
        ("fork-and-exit", json!({"code": 0})),
    ] {
        let mut chain = Chain::start(&["once", "3", kind]);
        assert_eq!(chain.wait_for("exit")["exit"]["kind"], exit, "{kind}");
        let retired = chain.wait_for("retired");
        assert_eq!(
            (&retired["known"], &retired["report"]["left"]),
            (&json!(0), &json!([]))
        );
        // The child in the group dies with its leader, the one with its own session is hunted.
        let remains = if kind == "fork-and-exit" { 3 } else { 0 };
        assert_eq!(retired["report"]["killed"], remains, "{kind}: {retired}");
        // Nothing was left for the stub.
        assert_eq!(chain.wait_for("ended")["how"]["killed"], 0);
        assert_eq!(chain.wait_for_end(), 0);
    }
}

#[test]
fn programs_that_cannot_start_are_errors_and_no_deaths() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str, mode| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let missing = directory
        .path()
        .join("missing")
        .to_str()
        .unwrap()
        .to_owned();
    let cases = [
        (missing, libc::ENOENT, "check the path"),
        (file("plain", "x", 0o644), libc::EACCES, "chmod"),
        (file("no-format", "x", 0o755), libc::ENOEXEC, "first line"),
        (
            file("lost", "#!/no/such/interpreter\n", 0o755),
            libc::ENOENT,
            "interpreter",
        ),
        (
            directory.path().to_str().unwrap().to_owned(),
            libc::EACCES,
            "chmod",
        ),
    ];
    for (path, errno, hint) in cases {
        let told = play(&["exec", &path], "exec");
        let error = &told["answer"]["error"];
        assert_eq!(
            (&error["errno"], &error["step"]),
            (&json!(errno), &json!("exec")),
            "{told}"
        );
        assert_eq!(error["path"], json!(path));
        assert!(
            told["answer"]["hint"].as_str().unwrap().contains(hint),
            "{told}"
        );
        assert_eq!(told["known"], 0);
    }
    let script = file("script", "#!/bin/sh\nexit 5\n", 0o755);
    let told = play(&["exec", &script], "exec");
    assert_eq!(told["answer"]["exit"]["kind"], json!({"code": 5}));
    let told = play(&["exec", "relative/path"], "exec");
    assert!(
        told["answer"]["other"]
            .as_str()
            .unwrap()
            .contains("not an absolute path"),
        "{told}"
    );
}

#[test]
fn a_node_that_ignores_sigterm_is_killed_and_said_so() {
    for (kind, by, signal) in [("up", "term", 15), ("deaf", "kill", 9)] {
        let mut chain = Chain::start(&["terminate", kind]);
        let first = chain.wait_for("terminated");
        assert_eq!(first["stopped"]["by"], by);
        assert_eq!(first["stopped"]["exit"]["kind"], json!({"signal": signal}));
        assert_eq!(
            chain.wait_for("terminated")["stopped"]["by"],
            "already-dead"
        );
        assert_eq!(chain.wait_for_end(), 0);
    }
}

#[test]
fn a_stopped_node_shows_it_and_can_be_terminated() {
    let told = play(&["pause"], "terminated");
    assert_eq!(told["stopped"]["by"], "term", "{told}");
    assert!(told["rss"].as_u64().unwrap() > 100_000);
}

/// A child that left the group, one that left the session, and a daemon without environment or parents that holds a
/// socket of the node's address: all stand still with their node, and none of another node's.
#[test]
fn whatever_left_the_group_of_a_node_stops_with_it() {
    let mut chain = Chain::start(&["pause-family"]);
    let told = chain.wait_for("paused");
    assert_eq!(told["stopped"], 4, "{told}");
    assert_eq!(told["still"], json!([]), "{told}");
    assert_eq!(told["running"], 4, "the other node goes on: {told}");
    assert_eq!(told["woken"], 1, "{told}");
    assert_eq!(told["going"], 4, "{told}");
    assert_eq!(chain.wait_for("terminated")["by"], "term");
    assert_eq!(chain.wait_for("ended")["how"]["left"], json!([]));
    assert_eq!(chain.wait_for_end(), 0);
}

/// What left the session of a killed node lives on after its leader, and is killed after it; another node's is not.
#[test]
fn whatever_left_the_session_of_a_node_dies_with_it() {
    let mut chain = Chain::start(&["kill-family"]);
    let told = chain.wait_for("killed");
    // One that left the session and one that only its socket betrays; the third, in the group, may still be dying.
    assert!(
        (2..=3).contains(&told["before"].as_u64().unwrap()),
        "{told}"
    );
    assert_eq!(told["left"], 0, "{told}");
    assert_eq!(told["after"], 0, "{told}");
    assert_eq!(told["others"], 4, "{told}");
    assert_eq!(
        (&told["again"], &told["new"]),
        (&json!(0), &json!(4)),
        "{told}"
    );
    assert_eq!(told["squatters"], 1, "{told}");
    let late = told["late"].as_str().unwrap();
    assert!(late.contains("`n-1` was retired before"), "{told}");
    assert_eq!(chain.wait_for("ended")["how"]["left"], json!([]));
    assert_eq!(chain.wait_for_end(), 0);
}

#[test]
fn a_node_gets_a_clean_process() {
    let mut chain = Chain::start(&["once", "1", "environment"]);
    let nonce = chain.wait_for("controller")["nonce"].clone();
    chain.wait_for("exit");
    assert_eq!(chain.wait_for_end(), 0);
    let text = std::fs::read(chain.runs.path().join("environment.json")).unwrap();
    let told: Value = serde_json::from_slice(&text).unwrap();
    let environment = [
        ["ROLE", "test"],
        ["TWEEDLEDUM_NODE", "n-0"],
        ["TWEEDLEDUM_RUN", "?"],
    ];
    let mut environment = json!(environment);
    environment[2][1] = nonce;
    assert_eq!(told["environment"], environment);
    assert_eq!(told["core"], 0);
    let soft = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    assert_eq!(told["nofile"], json!(soft));
    // Standard streams and the descriptor that reads the directory.
    assert_eq!(told["fds"], json!(["0", "1", "2", "3"]));
    // Rust's runtime ignores SIGPIPE (13) by itself; 32 and 33 belong to the C library.
    let ignored = told["ignored"]
        .as_str()
        .unwrap()
        .trim_start_matches("SigIgn:")
        .trim();
    let ignored = u64::from_str_radix(ignored, 16).unwrap() & !(0b11 << 31);
    assert_eq!(ignored, 1 << 12);
    assert_eq!(told["session"], told["pid"]);
}

#[test]
fn commands_run_to_their_end_with_bounds() {
    for (bound, kind, exit, least, most) in [
        ("20000", "exit", json!({"code": 3}), 0, 0),
        ("20000", "garbage", json!({"code": 0}), 16 * 1024, 16 * 1024),
        ("20000", "fork-and-exit", json!({"code": 0}), 0, 0),
    ] {
        let told = play(&["probe", bound, kind], "probe");
        assert_eq!(
            (&told["answer"]["exit"], &told["known"]),
            (&exit, &json!(0)),
            "{told}"
        );
        let kept = told["answer"]["stdout"].as_u64().unwrap();
        assert!((least..=most).contains(&kept), "{told}");
    }
    for kind in ["sleep", "firehose", "deaf"] {
        let told = play(&["probe", "200", kind], "probe");
        let error = told["answer"]["error"].as_str().unwrap();
        assert!(error.contains("did not end within 200 ms"), "{told}");
        assert_eq!(told["known"], 0);
    }
}

#[test]
fn a_firehose_and_garbage_hurt_nobody() {
    let mut chain = Chain::start(&["hold", "2", "firehose"]);
    chain.wait_for("up");
    crate::chain::kill(chain.stub_pid(), rustix::process::Signal::INT);
    assert_eq!(chain.wait_for_end(), 130);
    play(&["once", "1", "exit"], "retired");
}
