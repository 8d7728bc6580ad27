//! A PoET as a process: its rounds, its API, and how it dies of a full disk.

use super::poet_support::{Gateway, Place};
use super::support::{Network, SOON, aborted, poll, request};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tweedledum_nodes::poet::Params;

/// Little work, for tests that are about something else.
const SMALL: [&str; 6] = ["--n", "8", "--depth", "10", "--openings", "20"];

fn small() -> Params {
    Params::new(8, 10, 20).unwrap()
}

fn gateway_at(place: &Place, n: usize) -> SocketAddr {
    SocketAddr::from((place.block.ip(n), 9090))
}

#[test]
fn rounds_of_real_work_are_proven_on_time_and_removed_once_they_are_taken() {
    let place = Place::new(Duration::from_millis(100), Duration::from_secs(1));
    let gateway = Gateway::start(gateway_at(&place, 1), true);
    let mut poet = place.start(&["--gateway", &gateway.at.to_string()]);
    poet.0.event("ready");
    let challenges: Vec<[u8; 32]> = (0..12).map(|n| [n; 32]).collect();
    for challenge in &challenges {
        assert_eq!(poet.register(*challenge), 0);
        assert_eq!(poet.register(*challenge), 0, "twice is once");
    }
    let (status, info) = poet.get("/v1/info");
    assert_eq!(status, 200);
    let key = STANDARD
        .decode(info["servicePubKey"].as_str().unwrap())
        .unwrap();
    assert_eq!(
        (&info["openRoundId"], info["executingRoundsIds"].as_array()),
        (&json!("0"), Some(&vec![]))
    );

    assert_eq!(poet.event("round-opened", 1)["poet"], hex::encode(&key));
    assert_eq!(poet.event("round-executing", 0)["members"], 12);
    assert_eq!(poet.register([77; 32]), 1, "the round has closed");
    let made = poet.event("proof-made", 0);
    let late = made["t"].as_u64().unwrap();
    let due = place.genesis.duration_since(std::time::UNIX_EPOCH).unwrap();
    // Early only by what two clocks may differ; how late depends on what else the machine does.
    assert!(u128::from(late) + 1_000_000 > due.as_nanos(), "{late}");
    assert_eq!(poet.event("broadcast-acked", 0)["acks"], 1);
    poet.event("round-removed", 0);
    assert!(!place.data().join("0").exists());

    let proof = gateway.proof(0, Params::DEFAULT);
    assert_eq!(proof.members.as_slice(), challenges);
    assert_eq!(proof.service.as_slice(), key);
    assert_eq!(made["ref"], hex::encode(proof.reference()));
    let (status, held) = poet.get("/v1/proofs/0");
    assert_eq!(status, 200);
    assert_eq!(held["proof"], STANDARD.encode(proof.encode()));
    assert_eq!(poet.event("proof-made", 1)["members"], 1);
    poet.event("round-removed", 1);
    poet.stop();
}

#[test]
fn without_gateways_it_waits_to_be_started_and_says_what_it_cannot_read() {
    let place = Place::new(Duration::from_millis(250), Duration::from_millis(500));
    let gateway = Gateway::start(gateway_at(&place, 1), true);
    let mut poet = place.start(&[&SMALL[..], &["--gateway", ""]].concat());
    poll(&|| "an API".to_owned(), || {
        TcpStream::connect(place.api()).is_ok()
    });
    let (status, info) = poet.get("/v1/info");
    assert_eq!((status, &info["openRoundId"]), (200, &json!("")), "{info}");
    let challenge = json!({ "challenge": STANDARD.encode([1; 32]) });
    assert_eq!(poet.post("/v1/submit", &challenge).0, 503);
    let start = json!({ "gatewayAddresses": [gateway.at.to_string()] });
    assert_eq!(poet.post("/v1/updategateway", &start).0, 400);

    let too_many = vec!["127.0.0.1:1"; 257];
    let (nested, long) = (vec![b'['; 60_000], vec![b' '; 70_000]);
    let wrong: [(&str, &str, &[u8], u16, &str); 15] = [
        ("POST", "/v1/start", b"", 400, "body"),
        ("POST", "/v1/start", b"\xff\x00{", 400, "body"),
        (
            "POST",
            "/v1/start",
            br#"{"gatewayAddresses": 7}"#,
            400,
            "body",
        ),
        (
            "POST",
            "/v1/start",
            br#"{"connAcksThreshold": -1}"#,
            400,
            "body",
        ),
        (
            "POST",
            "/v1/start",
            br#"{"gatewayAddresses": ["here"]}"#,
            400,
            "`here`",
        ),
        ("POST", "/v1/start", b"{}", 503, "name more gateways"),
        (
            "POST",
            "/v1/start",
            br#"{"gatewayAddresses": ["127.0.0.1:1"]}"#,
            503,
            "127.0.0.1:1",
        ),
        ("POST", "/v1/submit", b"{}", 400, "challenge"),
        (
            "POST",
            "/v1/submit",
            br#"{"challenge": "~"}"#,
            400,
            "base64",
        ),
        ("POST", "/v1/submit", br#"{"challenge": "AAAA"}"#, 400, "32"),
        ("POST", "/v1/submit", &nested, 400, "body"),
        ("POST", "/v1/submit", &long, 413, ""),
        ("GET", "/v1/proofs/-1", b"", 400, "-1"),
        ("GET", "/v1/proofs/5", b"", 404, "round 5"),
        ("GET", "/v1/nodestatus", b"", 404, ""),
    ];
    for (method, path, body, status, word) in wrong {
        let (is, text) = request(place.api(), method, path, body);
        assert!(is == status && text.contains(word), "{path}: {is} {text}");
    }
    let many = json!({ "gatewayAddresses": too_many });
    assert_eq!(poet.post("/v1/start", &many).0, 400);

    assert_eq!(poet.post("/v1/start", &start), (200, json!({})));
    let (status, again) = poet.post("/v1/start", &start);
    assert!(status == 400 && again["error"].to_string().contains("updategateway"));
    poet.0.event("ready");
    let round = poet.register([1; 32]);
    poet.event("broadcast-acked", round);
    assert_eq!(gateway.proof(round, small()).members.len(), 1);
    poet.stop();
}

#[test]
fn other_gateways_are_for_later_rounds_only() {
    let place = Place::new(Duration::from_millis(200), Duration::from_millis(500));
    let (old, new) = (
        Gateway::start(gateway_at(&place, 1), false),
        Gateway::start(gateway_at(&place, 2), true),
    );
    let mut poet = place.start(&[&SMALL[..], &["--gateway", &old.at.to_string()]].concat());
    poet.event("broadcast-failed", 0);
    let gateways = json!({ "gatewayAddresses": [new.at.to_string()] });
    assert_eq!(poet.post("/v1/updategateway", &gateways), (200, json!({})));
    // On a busy machine some tries are late, and those whose time went by are left out.
    let tries = poet.event("broadcast-gave-up", 0)["attempts"].as_u64();
    assert!(
        tries.is_some_and(|tries| (2..=7).contains(&tries)),
        "{tries:?}"
    );
    poet.event("round-removed", 1);
    assert_eq!(new.rounds(small()), [1], "round 0 is not sent again");
    assert!(place.data().join("0").exists(), "and not removed");

    // One that does not answer is refused, and changes nothing.
    let nobody = json!({ "gatewayAddresses": [gateway_at(&place, 3).to_string()] });
    assert_eq!(poet.post("/v1/updategateway", &nobody).0, 503);
    poet.event("round-removed", 2);
    assert_eq!(new.rounds(small()), [1, 2]);
    poet.stop();
}

#[test]
fn too_few_gateways_at_the_start_end_it_and_late_ones_do_not() {
    let place = Place::new(Duration::from_millis(250), Duration::from_secs(2));
    let at = gateway_at(&place, 1);
    let flags = ["--gateway", &at.to_string(), "--dial-timeout", "300ms"];
    let mut poet = place.start(&[&SMALL[..], &flags].concat());
    let (status, _, text) = poet.0.wait();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(
        text.contains("0 of 1 gateways answered") && text.contains(&at.to_string()),
        "{text}"
    );

    let flags = ["--gateway", &at.to_string(), "--dial-timeout", "20s"];
    let mut poet = place.start(&[&SMALL[..], &flags].concat());
    poet.0.event("ready");
    let gateway = Gateway::start(at, true);
    assert_eq!(poet.0.event("gateways-dialled")["connected"], json!([at]));
    poet.event("round-removed", 0);
    assert_eq!(gateway.rounds(small()), [0]);
    poet.stop();
}

/// `/dev/full` gives the error of a full disk to whoever writes, on every machine.
fn full(file: &std::path::Path) {
    fs_err::create_dir_all(file.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", file).unwrap();
}

#[test]
fn a_full_disk_fails_the_round_quietly_and_kills_the_next_new_round() {
    let place = Place::new(Duration::from_millis(150), Duration::from_millis(500));
    full(&place.data().join("1/layercache_0.bin"));
    full(&place.data().join("4/state.bin"));
    let mut poet = place.start(&[&SMALL[..], &["--disable-broadcast"]].concat());
    let failed = poet.event("round-failed", 1);
    assert_eq!(failed["cause"], "disk-full");
    assert!(
        failed["error"].as_str().unwrap().contains("No space left"),
        "{failed}"
    );
    assert!(place.data().join("1").exists(), "its directory stays");
    poet.event("proof-made", 2);
    let (status, info) = poet.get("/v1/info");
    assert!(status == 200 && poet.0.is_running(), "{info}");

    let panic = poet.0.event("panic");
    assert_eq!(panic["component"], "new-round");
    let message = panic["message"].as_str().unwrap();
    assert!(
        message.contains("round 4") && message.contains("No space left on device"),
        "{message}"
    );
    let (status, ..) = poet.0.wait();
    assert!(aborted(status), "{status}");
}

#[test]
fn an_identity_that_was_cut_off_is_a_refusal_and_a_kept_one_comes_back() {
    let place = Place::new(Duration::from_secs(1), Duration::from_secs(5));
    let flags = [&SMALL[..], &["--disable-broadcast"]].concat();
    let key = |info: &Value| info["servicePubKey"].as_str().unwrap().to_owned();
    let mut poet = place.start(&flags);
    poet.0.event("ready");
    let first = key(&poet.get("/v1/info").1);
    poet.kill();
    let mut poet = place.start(&flags);
    poet.0.event("ready");
    assert_eq!(key(&poet.get("/v1/info").1), first);
    poet.stop();

    fs_err::write(place.data().join("state.bin"), b"").unwrap();
    let (status, events, text) = place.start(&flags).0.wait();
    assert_eq!(status.code(), Some(1));
    assert!(events.is_empty(), "{events:?}");
    for word in ["state.bin", "empty", "another PoET"] {
        assert!(text.contains(word), "{word} is not in: {text}");
    }
}

#[test]
fn any_bytes_by_http_leave_it_alive() {
    use std::io::{Read as _, Write as _};
    let place = Place::new(Duration::from_secs(1), Duration::from_secs(20));
    let mut poet = place.start(&[&SMALL[..], &["--disable-broadcast"]].concat());
    poet.0.event("ready");
    let mut state = 1_u32;
    let mut noise = |len: usize| -> Vec<u8> {
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_be_bytes()[0]
            })
            .collect()
    };
    for path in ["/v1/start", "/v1/updategateway", "/v1/submit"] {
        for len in [0, 1, 31, 500, 5_000, 100_000] {
            let (status, _) = request(place.api(), "POST", path, &noise(len));
            assert!(
                (400..500).contains(&status),
                "{path}, {len} bytes: {status}"
            );
        }
    }
    for mut bytes in [
        noise(3_000),
        vec![0; 200],
        b"POST /v1/submit HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n".to_vec(),
    ] {
        let mut stream = TcpStream::connect(place.api()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        // It may close while we write.
        let _ = stream.write_all(&bytes);
        bytes.clear();
        let ended = stream.read_to_end(&mut bytes);
        let timed_out = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
        assert!(
            !ended.as_ref().is_err_and(timed_out),
            "the connection stays open"
        );
    }
    assert_eq!(poet.register([1; 32]), 0);
    poet.stop();
}

#[test]
fn a_gateway_takes_proofs_and_refuses_what_is_none() {
    let network = Network::new(&["gateway-0"]);
    let mut gateway = network.start("gateway-0", &["--alone"]);
    gateway.event("ready");
    let place = Place::new(Duration::from_millis(100), Duration::from_millis(500));
    let at = gateway.api.to_string();
    let mut poet = place.start(&[&SMALL[..], &["--gateway", &at]].concat());
    let made = poet.event("proof-made", 0);
    let accepted = gateway.event("proof-accepted");
    for field in ["poet", "round", "ref"] {
        assert_eq!(accepted[field], made[field], "{field}");
    }
    poet.event("round-removed", 0);
    let (_, held) = poet.get("/v1/proofs/0");
    poet.stop();

    let send = |body: &Value| {
        let (status, text) = request(
            gateway.api,
            "POST",
            "/v1/broadcastpoet",
            body.to_string().as_bytes(),
        );
        (status, serde_json::from_str(&text).unwrap_or(json!(text)))
    };
    let again = send(&json!({ "data": held["proof"] }));
    assert_eq!(again, (200, json!({ "value": "ok" })), "seen before");
    for (data, word) in [
        (json!(STANDARD.encode([7; 40])), "proof"),
        (json!("~"), "base64"),
        (json!(1), "body"),
    ] {
        let (status, text) = send(&json!({ "data": data }));
        assert!(
            status == 400 && text.to_string().contains(word),
            "{data}: {status} {text}"
        );
    }
    assert_eq!(send(&json!({ "data": "A".repeat(2 << 20) })).0, 413);
    assert!(gateway.is_running());
    gateway.stop();
}
