//! Tests of polling against a small server: values, gaps, kept connections, phases.

use std::sync::atomic::Ordering;

use super::super::http::testing::Server;
use super::*;
use crate::observe::testing::block;

fn signal(node: &str, signal: &str, url: &str, read: Extract, period_ms: u64) -> SignalPoll {
    SignalPoll {
        node: node.into(),
        signal: signal.into(),
        url: url.into(),
        read,
        period: Duration::from_millis(period_ms),
        within: Duration::from_millis(period_ms / 2),
    }
}

fn json(pointer: &str) -> Extract {
    Extract::Json(pointer.to_owned())
}

fn metric(selector: &str) -> Extract {
    Extract::Metric(MetricName::parse(selector).unwrap())
}

#[tokio::test]
async fn signals_of_one_page_share_requests_and_all_requests_one_connection() {
    let server = Server::start(block()(5)).await;
    let (out, mut seen) = mpsc::channel(100);
    let client = http_client(None).unwrap();
    let url = server.url("/status");
    let signals = vec![
        signal("a", "verified", &url, json("/verifiedLayer"), 20),
        signal("a", "synced", &url, json("/synced"), 40),
    ];
    let poller = Poller::start(&client, signals, &out);
    for round in 1..=10 {
        let Observation::Sample(verified) = seen.recv().await.unwrap() else {
            panic!()
        };
        let Observation::Sample(synced) = seen.recv().await.unwrap() else {
            panic!()
        };
        assert_eq!(
            (&*verified.signal, verified.value),
            ("verified", Value::Int(round))
        );
        assert_eq!(
            (&*synced.signal, synced.value),
            ("synced", Value::Bool(true))
        );
        assert_eq!(verified.t_ns, synced.t_ns);
    }
    drop(poller);
    assert!(server.requests.load(Ordering::Relaxed) <= 11);
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn metrics_are_summed_or_selected() {
    let server = Server::start(block()(5)).await;
    let (out, mut seen) = mpsc::channel(100);
    let client = http_client(None).unwrap();
    let url = server.url("/metrics");
    let signals = vec![
        signal("a", "all", &url, metric("txs_total"), 20),
        signal("a", "b", &url, metric("txs_total{kind=\"b\"}"), 20),
        signal("a", "none", &url, metric("nothing"), 20),
    ];
    let _poller = Poller::start(&client, signals, &out);
    let mut got = Vec::new();
    for _ in 0..3 {
        got.push(match seen.recv().await.unwrap() {
            Observation::Sample(sample) => format!("{} {:?}", sample.signal, sample.value),
            Observation::Gap(gap) => format!("{} {}", gap.signals[0], gap.why),
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(
        got,
        [
            "all Int(7)",
            "b Int(4)",
            "none no sample of nothing with such labels among 2 (1 lines unreadable)"
        ]
    );
}

#[tokio::test]
async fn whatever_goes_wrong_is_a_gap_with_its_reason() {
    let at = block();
    let server = Server::start(at(5)).await;
    let client = http_client(None).unwrap();
    let free = std::net::TcpListener::bind((at(6), 0))
        .unwrap()
        .local_addr()
        .unwrap();
    let free = format!("http://{free}/status");
    let cases = [
        (server.url("/slow"), "/x", "no complete answer within 50ms"),
        (server.url("/never"), "/x", "status 503 no swarm peer yet"),
        (server.url("/missing"), "/x", "status 404"),
        (
            server.url("/garbage"),
            "/x",
            "the answer is no JSON: expected value",
        ),
        (
            server.url("/huge"),
            "/x",
            "the answer is longer than 1048576 bytes",
        ),
        (
            server.url("/status"),
            "/nothing",
            "the answer has no /nothing",
        ),
        (
            server.url("/status"),
            "/x",
            "/x is an object, not a number, truth or string",
        ),
        (free, "/x", "cannot connect: Connection refused"),
    ];
    for (url, pointer, want) in cases {
        let (out, mut seen) = mpsc::channel(100);
        // The huge answer needs time to exceed its bound; the slow one must run into its own.
        let period_ms = if url.ends_with("/slow") { 100 } else { 2000 };
        let poll = signal("a", "s", &url, json(pointer), period_ms);
        let _poller = Poller::start(&client, vec![poll], &out);
        let Observation::Gap(gap) = seen.recv().await.unwrap() else {
            panic!("{url}")
        };
        assert!(gap.why.starts_with(want), "{url}: {}", gap.why);
        assert_eq!(
            (&*gap.node, &*gap.url, &*gap.signals[0]),
            ("a", url.as_str(), "s")
        );
    }
}

#[tokio::test]
async fn a_consumer_that_is_late_gets_a_gap_for_what_was_left_out() {
    let server = Server::start(block()(5)).await;
    let (out, mut seen) = mpsc::channel(1);
    let client = http_client(None).unwrap();
    let poll = signal("a", "s", &server.url("/status"), json("/synced"), 20);
    let _poller = Poller::start(&client, vec![poll], &out);
    // Room for one: the poller has to wait with the second, until the third and more are missed.
    while server.requests.load(Ordering::Relaxed) < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut kinds = Vec::new();
    for _ in 0..3 {
        kinds.push(match seen.recv().await.unwrap() {
            Observation::Sample(_) => "sample".to_owned(),
            Observation::Gap(gap) => gap.why,
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(kinds[..2], ["sample", "sample"]);
    assert!(
        kinds[2].ends_with("polls left out: the controller was too late"),
        "{kinds:?}"
    );
}

/// A busy host makes nodes slow, and who is slow does not hang.
#[tokio::test]
async fn an_answer_that_takes_many_periods_is_an_answer() {
    let server = Server::start(block()(5)).await;
    let (out, mut seen) = mpsc::channel(100);
    let client = http_client(None).unwrap();
    let mut poll = signal("a", "s", &server.url("/late"), json("/verifiedLayer"), 20);
    poll.within = Duration::from_mins(1);
    let _poller = Poller::start(&client, vec![poll], &out);
    for round in 1..=3 {
        let Observation::Sample(sample) = seen.recv().await.unwrap() else {
            panic!("no poll failed, and none was left out")
        };
        assert_eq!(sample.value, Value::Int(round));
        assert!(sample.took >= Duration::from_millis(100), "{sample:?}");
    }
}

#[test]
fn pages_are_merged_and_spread_over_their_period() {
    let signals = (0..100)
        .flat_map(|node| {
            let (name, url) = (format!("n{node:02}"), format!("http://n{node}/"));
            [
                signal(&name, "a", &url, json("/a"), 1000),
                signal(&name, "b", &url, json("/b"), 3000),
                signal(&name, "c", &format!("{url}c"), json("/c"), 500),
            ]
        })
        .collect();
    let pages = spread(merge(signals));
    assert_eq!(pages.len(), 200);
    for (period_ms, step_ms) in [(1000, 10), (500, 5)] {
        let phases: Vec<_> = pages
            .iter()
            .filter(|(_, page)| page.period == Duration::from_millis(period_ms))
            .map(|(phase, _)| *phase)
            .collect();
        let want: Vec<_> = (0..100)
            .map(|i| Duration::from_millis(step_ms * i))
            .collect();
        assert_eq!(phases, want);
    }
    assert!(
        pages
            .iter()
            .all(|(_, page)| page.signals.len() == if page.url.ends_with('c') { 1 } else { 2 })
    );
}

#[test]
fn numbers_are_whole_where_they_can_be() {
    let cases = [
        ("{\"a\":5}", Ok(Value::Int(5))),
        ("{\"a\":-5}", Ok(Value::Int(-5))),
        ("{\"a\":0.5}", Ok(Value::Float(0.5))),
        (
            "{\"a\":18446744073709551615}",
            Ok(Value::Float(18_446_744_073_709_551_615.0)),
        ),
        ("{\"a\":\"0xab\"}", Ok(Value::Text("0xab".to_owned()))),
        (
            "{\"a\":null}",
            Err("/a is null, not a number, truth or string".to_owned()),
        ),
    ];
    for (text, want) in cases {
        let json = serde_json::from_str(text).map_err(|error| error.to_string());
        assert_eq!(json_value(&json, "/a"), want, "{text}");
    }
    let page = Metrics::parse("whole 7\nhalf 0.5\nbig 1e300\nnan NaN\n");
    let value = |name: &str| metric_value(&page, &MetricName::parse(name).unwrap());
    assert_eq!(value("whole"), Ok(Value::Int(7)));
    assert_eq!(value("half"), Ok(Value::Float(0.5)));
    assert_eq!(value("big"), Ok(Value::Float(1e300)));
    assert_eq!(value("nan"), Err("nan is NaN".to_owned()));
}

/// Prints CPU per poll, client and server together and the client alone;
/// `cargo test --release -- --ignored --nocapture poll_cost`.
#[test]
#[ignore = "a measurement, not a check"]
fn measure_poll_cost() {
    let cpu = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::from_nanos(crate::clock::timespec_ns(time))
    };
    let address = {
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let server = Server::start(block()(5)).await;
                tell.send(server.address).unwrap();
                std::future::pending::<()>().await;
            });
        });
        told.recv().unwrap()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (out, mut seen) = mpsc::channel(1000);
        let client = http_client(None).unwrap();
        // 53 polls a second, as 100 nodes with 4 polls per layer of 7.5 s, and ten times that.
        for (nodes, period_ms) in [(100, 1875), (100, 188)] {
            let signals = (0..nodes)
                .map(|n| {
                    let url = format!("http://{address}/status");
                    signal(
                        &format!("n{n}"),
                        "v",
                        &url,
                        json("/verifiedLayer"),
                        period_ms,
                    )
                })
                .collect();
            let poller = Poller::start(&client, signals, &out);
            let (began, before) = (Instant::now(), cpu());
            let mut polls = 0;
            while began.elapsed() < Duration::from_secs(4) {
                seen.recv().await.unwrap();
                polls += 1;
            }
            let (spent, elapsed) = (cpu().saturating_sub(before), began.elapsed());
            println!(
                "{:.0} polls/s: {:?} CPU each, {:.2} % of a core",
                f64::from(polls) / elapsed.as_secs_f64(),
                spent / polls,
                100.0 * spent.as_secs_f64() / elapsed.as_secs_f64()
            );
            drop(poller);
        }
    });
}
