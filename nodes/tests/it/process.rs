//! What a node is like as a process: bad input, full and closed pipes, signals, its name.

use super::support::{Network, Node, Owned, binary, http, poll};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

#[test]
fn bad_flags_and_files_end_with_2_and_say_what_is_possible() {
    let network = Network::new(&["miner-0", "gateway-0"]);
    let table: [(&[&str], &[&str]); 7] = [
        (
            &["--release", "netid-99"],
            &["`netid-99`", "`fixed`", "`netid-116`"],
        ),
        (&["--without", "gravity"], &["`gravity`", "`session-table`"]),
        (
            &["--session-cap", "0"],
            &["--session-cap", "whole number from 1"],
        ),
        (
            &["--session-max-age", "12"],
            &["--session-max-age", "250ms"],
        ),
        (&["--network", "/nonexistent.json"], &["/nonexistent.json"]),
        (&["--name", "miner-1"], &["self.name", "miner-0"]),
        (&["--p2p", "0.0.0.0:7513"], &["--p2p", "own address"]),
    ];
    for (flags, expected) in table {
        // The last of two equal flags would be an error of its own.
        let mut command = network.command("miner-0", &[]);
        let kept: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
        let overridden = kept.iter().position(|arg| arg == flags[0]);
        command = binary();
        for (n, arg) in kept.iter().enumerate() {
            if overridden.is_none_or(|at| n != at && n != at + 1) {
                command.arg(arg);
            }
        }
        let output = command.args(flags).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {text}");
        assert!(output.stdout.is_empty(), "{flags:?} started something");
        for word in expected {
            assert!(text.contains(word), "{flags:?}: {word} is not in: {text}");
        }
    }
}

#[test]
fn the_file_names_the_release_and_flags_override_it() {
    let mut network = Network::new(&["gateway-0"]);
    network.release = json!({ "name": "candidate", "base": "fixed", "without": ["session-table"] });
    let table: [(&[&str], &str, &str, usize); 3] = [
        (&[], "candidate", "fixed", 1),
        (&["--release", "netid-116"], "netid-116", "netid-116", 1),
        (&["--release", "fixed"], "fixed", "fixed", 0),
    ];
    for (flags, name, base, missing) in table {
        let mut node = network.start("gateway-0", &[&["--alone"], flags].concat());
        let started = node.event("started");
        assert_eq!(
            (&started["release"], &started["base"]),
            (&json!(name), &json!(base))
        );
        assert_eq!(started["missing"].as_array().unwrap().len(), missing);
        node.stop();
    }
}

#[test]
fn taken_addresses_and_directories_are_named() {
    let network = Network::new(&["gateway-0"]);
    let mut first = network.start("gateway-0", &["--alone"]);
    first.event("ready");
    let output = network.command("gateway-0", &["--alone"]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("data directory") && text.contains("in use"),
        "{text}"
    );
    first.stop();

    let held = std::net::TcpListener::bind(network.api("gateway-0")).unwrap();
    let output = network.command("gateway-0", &["--alone"]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains(&held.local_addr().unwrap().to_string()),
        "{text}"
    );
}

#[test]
fn a_reader_that_stops_or_goes_away_does_not_stop_the_node() {
    let mut network = Network::new(&["miner-0"]);
    network.layer = Duration::from_micros(200);
    for closed in [true, false] {
        let mut command = network.command("miner-0", &["--alone"]);
        let (reader, writer) = std::io::pipe().unwrap();
        command.stdout(writer).stderr(Stdio::null());
        let mut child = Owned(command.spawn().unwrap());
        drop(command);
        let held = if closed { None } else { Some(reader) };
        let api = network.api("miner-0");
        poll(&|| "the node's API".to_owned(), || {
            std::net::TcpStream::connect(api).is_ok()
        });
        poll(
            &|| "events to be dropped, and layers to go on".to_owned(),
            || {
                let (_, text) = http(api, "GET", "/metrics");
                !text.contains("events_dropped_total 0")
            },
        );
        assert_eq!(http(api, "GET", "/v1/nodestatus").0, 200);
        assert!(child.0.try_wait().unwrap().is_none());
        // Whoever reads again is told how many lines are missing, before anything that came after them.
        if let Some(reader) = held {
            let lines = BufReader::new(reader).lines().take(10_000);
            let events = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
            let mut dropped = events.filter(|event| event["event"] == "events-dropped");
            let told = dropped.next().map(|event| event["count"].as_u64());
            assert!(told.flatten().is_some_and(|count| count > 0), "{told:?}");
        }
    }
}

#[test]
fn both_signals_end_a_node_cleanly_and_it_carries_its_name() {
    let network = Network::new(&["gateway-with-a-long-name"]);
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let mut node: Node = network.start("gateway-with-a-long-name", &["--alone"]);
        node.event("ready");
        let comm = fs_err::read_to_string(format!("/proc/{}/comm", node.pid())).unwrap();
        assert_eq!(comm, "gateway-with-a-\n");
        node.signal(signal);
        let (status, events, text) = node.wait();
        assert!(status.success(), "{status} {text}");
        assert_eq!(events.last().unwrap()["event"], "stopping");
    }
}
