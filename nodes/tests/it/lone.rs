//! One node alone against N - 1, N and N + 1 sources: exactly the right floods kill exactly the right
//! releases, by the right defect.

use super::support::{Network, Node, SOON, Source, aborted, pause};
use serde_json::json;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

const CAP: usize = 8;
const MAX_AGE: Duration = Duration::from_millis(400);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Traffic {
    /// Pings of this network.
    Own,
    /// Pings of another network.
    Foreign,
    /// Bytes without meaning, long enough to hold a key.
    Garbage,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    base: &'static str,
    without: &'static [&'static str],
    sources: usize,
    /// Sessions are older than the maximum when the last source comes.
    old: bool,
    traffic: Traffic,
}

impl Case {
    /// What must kill the node, by the text of its panic.
    fn dies_of(&self) -> Option<&'static str> {
        let has_defect = self.base == "netid-116" || !self.without.is_empty();
        let message = if self.old {
            "just deleted"
        } else {
            "close of closed channel"
        };
        (has_defect && self.sources > CAP).then_some(message)
    }

    /// How many sessions there are at most before the last source.
    fn enters(&self) -> bool {
        let lets_anyone_in = self.base == "netid-116" || !self.without.is_empty();
        lets_anyone_in || self.traffic == Traffic::Own
    }
}

fn cases() -> Vec<Case> {
    let releases: [(&str, &'static [&'static str]); 3] = [
        ("fixed", &[]),
        ("netid-116", &[]),
        ("fixed", &["session-table"]),
    ];
    let mut cases = Vec::new();
    for (base, without) in releases {
        for sources in [CAP - 1, CAP, CAP + 1] {
            for old in [false, true] {
                for traffic in [Traffic::Own, Traffic::Foreign, Traffic::Garbage] {
                    cases.push(Case {
                        base,
                        without,
                        sources,
                        old,
                        traffic,
                    });
                }
            }
        }
    }
    cases
}

#[test]
fn a_defect_is_reached_by_its_traffic_and_by_nothing_else() {
    let all = cases();
    let names: Vec<String> = (0..all.len()).map(|n| format!("gateway-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let network = Network::new(&names);
    // A few at a time: all at once would make the host late, and each waits for an age to pass.
    for (chunk, cases) in all.chunks(9).enumerate() {
        std::thread::scope(|scope| {
            for (n, case) in cases.iter().enumerate() {
                let (network, name) = (&network, names[chunk * 9 + n]);
                scope.spawn(move || {
                    std::panic::catch_unwind(|| check(network, name, case))
                        .unwrap_or_else(|_| panic!("{case:?}"));
                });
            }
        });
    }
}

fn check(network: &Network, name: &str, case: &Case) {
    let (cap, age) = (CAP.to_string(), if case.old { "400ms" } else { "1h" });
    let mut flags = vec![
        "--alone",
        "--session-cap",
        &cap,
        "--session-max-age",
        age,
        "--release",
        case.base,
    ];
    flags.extend(case.without.iter().flat_map(|switch| ["--without", switch]));
    let mut node = network.start(name, &flags);
    let started = node.event("started");
    assert_eq!(
        started["missing"].as_array().unwrap().is_empty(),
        case.dies_of_defect().is_none()
    );
    node.event("ready");

    let ip = network.block.ip(200);
    let mut sources: Vec<Source> = (0..case.sources).map(|_| Source::new(ip)).collect();
    let (last, first) = sources.split_last_mut().unwrap();
    for source in &mut *first {
        send(case.traffic, source, &node);
    }
    // All are in the table, and as old as they must be, before the last one comes.
    node.until("datagrams_received_total", |received| {
        received == count(first.len())
    });
    if case.old {
        pause_for(MAX_AGE + Duration::from_millis(50));
    }
    assert!(node.is_running());
    assert_eq!(
        node.metric("sessions"),
        if case.enters() { count(first.len()) } else { 0 }
    );
    send(case.traffic, last, &node);

    match case.dies_of() {
        Some(message) => assert_died(&mut node, message),
        None => assert_lives(node, case, last, ip),
    }
}

impl Case {
    fn dies_of_defect(&self) -> Option<&'static str> {
        Case {
            sources: CAP + 1,
            ..*self
        }
        .dies_of()
    }
}

fn assert_died(node: &mut Node, message: &str) {
    let (status, events, text) = node.wait();
    assert!(aborted(status), "{status}");
    let panic = events.last().unwrap();
    assert_eq!(
        (&panic["event"], &panic["component"]),
        (&json!("panic"), &json!("session-table"))
    );
    assert!(
        panic["message"].as_str().unwrap().contains(message),
        "{panic}"
    );
    assert!(panic["line"].as_u64().unwrap() > 0 && panic["thread"].is_string());
    assert!(text.contains(message), "{text}");
}

fn assert_lives(mut node: Node, case: &Case, last: &mut Source, ip: Ipv4Addr) {
    node.until("datagrams_received_total", |received| {
        received == count(case.sources)
    });
    let evictions = usize::from(case.enters() && case.sources > CAP);
    assert_eq!(node.metric("session_evictions_total"), count(evictions));
    if case.traffic != Traffic::Garbage {
        // From the same port, since a new one would be one source more.
        while case.traffic == Traffic::Own && last.pong(&node).is_err() {}
        last.assert_answered(&node);
    } else if case.dies_of_defect().is_none() {
        Source::new(ip).assert_answered(&node);
    }
    assert!(node.is_running());
    node.stop();
}

fn send(traffic: Traffic, source: &mut Source, node: &Node) {
    match traffic {
        Traffic::Own => source.ping(node, super::support::NETID),
        Traffic::Foreign => source.ping(node, 117),
        Traffic::Garbage => source.send(node, &[0xa5; 33]),
    }
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap()
}

/// Here the passing of time is the input.
fn pause_for(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        pause(end.saturating_duration_since(Instant::now()));
    }
}

#[test]
fn too_short_datagrams_make_no_session_in_any_release() {
    let network = Network::new(&["gateway-0", "gateway-1"]);
    for (name, release) in [("gateway-0", "netid-116"), ("gateway-1", "fixed")] {
        let mut node = network.start(
            name,
            &["--alone", "--release", release, "--session-cap", "1"],
        );
        node.event("ready");
        for len in [0, 1, 31, 32, 32] {
            Source::new(network.block.ip(200)).send(&node, &vec![7; len]);
        }
        node.until("datagrams_received_total", |received| received == 5);
        assert_eq!(node.metric("sessions"), 0, "{release}");
        Source::new(network.block.ip(200)).assert_answered(&node);
        node.stop();
    }
}

#[test]
fn any_bytes_to_any_socket_of_fixed_leave_it_alive() {
    let network = Network::new(&["miner-0"]);
    let mut node = network.start("miner-0", &["--alone", "--session-cap", "8"]);
    node.event("ready");
    let ip = network.block.ip(200);
    let mut state = 1_u32;
    let mut noise = |len: usize| -> Vec<u8> {
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_be_bytes()[0]
            })
            .collect()
    };
    let source = Source::new(ip);
    for len in (0..2_000)
        .step_by(37)
        .chain([wire_max(), wire_max() + 1, 60_000])
    {
        let before = node.metric("datagrams_received_total");
        source.send(&node, &noise(len));
        node.until("datagrams_received_total", |received| {
            received == before + 1
        });
    }
    for (address, mut bytes) in [
        (node.p2p, noise(3_000)),
        (node.p2p, vec![0; 200]),
        (node.api, noise(3_000)),
    ] {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        // The node may close while we write.
        let _ = stream.write_all(&bytes);
        bytes.clear();
        let ended = stream.read_to_end(&mut bytes);
        let timed_out = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
        assert!(
            !ended.as_ref().is_err_and(timed_out),
            "{address} kept the connection open"
        );
    }
    assert!(node.is_running());
    Source::new(ip).assert_answered(&node);
    node.stop();
}

fn wire_max() -> usize {
    tweedledum_nodes::wire::MAX_DATAGRAM
}
