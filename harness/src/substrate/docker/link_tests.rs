//! Harness and agent over a pair of streams, without containers.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, DuplexStream};
use tokio::net::UdpSocket;

use super::super::inside::serve;
use super::super::wire::{FRAME_MAX, Sight};
use super::*;
use crate::agent::request::Read;
use crate::agent::testing::TextDialect;
use crate::agent::{DatagramKind, Dialect};
use crate::observe::testing::block;
use crate::observe::{Sample, Value};

const LONG: Duration = Duration::from_secs(10);

fn output(stream: DuplexStream) -> Output {
    Box::pin(futures_util::stream::unfold(stream, |mut stream| async {
        let mut chunk = vec![0; 100];
        match stream.read(&mut chunk).await {
            Ok(0) => None,
            Ok(length) => {
                chunk.truncate(length);
                Some((Ok(Piece::Out(chunk.into())), stream))
            }
            Err(error) => Some((Err(error), stream)),
        }
    }))
}

struct Pair {
    link: AgentLink,
    seen: mpsc::Receiver<Observation>,
    served: JoinSet<Result<(), String>>,
    _data: tempfile::TempDir,
}

/// A link to an agent that is served in this process.
fn pair() -> Pair {
    let (input, agent_input) = tokio::io::duplex(64 << 10);
    let (agent_output, from_agent) = tokio::io::duplex(64 << 10);
    let (saw, seen) = mpsc::channel(100);
    let link = AgentLink::open(&"miner-0".into(), Box::pin(input), output(from_agent), saw);
    let data = tempfile::tempdir().unwrap();
    let mut served = JoinSet::new();
    let dialects: Vec<Arc<dyn Dialect>> = vec![Arc::new(TextDialect)];
    served.spawn(serve(
        agent_input,
        agent_output,
        dialects,
        data.path().to_owned(),
    ));
    Pair {
        link,
        seen,
        served,
        _data: data,
    }
}

fn hello(ip: std::net::Ipv4Addr) -> Hello {
    Hello {
        node: "n".to_owned(),
        address: ip.into(),
        watcher: [1; 32],
        prober: [1; 32],
        netid: 116,
    }
}

fn flood(from: std::net::Ipv4Addr, target: std::net::SocketAddr) -> FloodSpec {
    FloodSpec {
        target,
        target_key: [2; 32],
        source_ip: from.into(),
        sources: 20,
        over: Duration::from_millis(20),
        last_after: None,
        late_max: Duration::from_millis(50),
        kind: DatagramKind::WellFormed,
        seed: [3; 32],
        netid: 116,
        due_unix_ns: 0,
    }
}

/// A node that answers pings.
async fn node(ip: std::net::Ipv4Addr) -> (PingAt, JoinSet<()>) {
    let socket = UdpSocket::bind((ip, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, source)) = socket.recv_from(&mut buffer).await {
            let text = String::from_utf8_lossy(&buffer[..length]).replace("ping", "pong");
            let _ = socket.send_to(text.as_bytes(), source).await;
        }
    });
    (
        PingAt {
            address,
            key: [2; 32],
            dialect: "text".to_owned(),
        },
        tasks,
    )
}

#[tokio::test]
async fn orders_are_answered_and_sights_come() {
    let at = block();
    let Pair {
        link,
        mut seen,
        mut served,
        _data,
    } = pair();
    let (target, _node) = node(at(5)).await;
    let refused = link.ping(target.clone(), LONG).await.unwrap_err();
    assert!(refused.to_string().contains("not greeted"), "{refused}");
    link.greet(hello(at(250)), LONG).await.unwrap();
    assert!(link.ping(target.clone(), LONG).await.unwrap().is_some());
    let odd = PingAt {
        dialect: "odd".to_owned(),
        ..target.clone()
    };
    let refused = link.ping(odd, LONG).await.unwrap_err();
    assert!(
        refused.to_string().contains("no protocol `odd`"),
        "{refused}"
    );

    let server = crate::observe::http::testing::Server::start(at(6)).await;
    let ready = Check::Http {
        url: server.url("/soon"),
        status: 200,
    };
    link.until_ready(ready, LONG).await.unwrap();
    let never = link
        .until_ready(Check::Tcp((at(7), 9).into()), Duration::from_millis(30))
        .await;
    assert!(
        never
            .unwrap_err()
            .to_string()
            .contains("was not ready within 30ms")
    );
    let poll = Poll {
        signal: "layer".to_owned(),
        url: server.url("/status"),
        read: Read::Json("/verifiedLayer".to_owned()),
        period: Duration::from_millis(20),
        within: LONG,
    };
    let ping = PingEvery {
        target,
        period: Duration::from_millis(20),
    };
    let began = monotonic_ns();
    link.watch(vec![poll], Some(ping)).await.unwrap();
    let (mut samples, mut pings) = (Vec::new(), 0);
    while samples.len() < 3 || pings < 3 {
        match seen.recv().await.unwrap() {
            Observation::Sample(Sample {
                node,
                signal,
                value: Value::Int(value),
                t_ns,
                ..
            }) => {
                assert_eq!((&*node, &*signal), ("miner-0", "layer"));
                assert!(t_ns >= began && t_ns <= monotonic_ns());
                samples.push(value);
            }
            Observation::Ping(ping) => pings += u32::from(ping.rtt.is_some()),
            other => panic!("{other:?}"),
        }
    }
    assert!(samples.is_sorted());
    link.watch(Vec::new(), None).await.unwrap();
    let metric = Poll {
        signal: "x".to_owned(),
        url: "http://x".to_owned(),
        read: Read::Metric("not a name".to_owned()),
        period: LONG,
        within: LONG,
    };
    assert!(link.watch(vec![metric], None).await.is_err());
    assert_eq!(link.ballast(5000).await.unwrap().ballast, 8192);
    assert_eq!(link.probe_disk(4096).await.unwrap(), None);
    drop(link);
    assert_eq!(served.join_next().await.unwrap().unwrap(), Ok(()));
}

#[tokio::test]
async fn floods_are_prepared_sent_held_and_closed() {
    let at = block();
    let Pair {
        link,
        served: _served,
        _data,
        ..
    } = pair();
    let socket = UdpSocket::bind((at(5), 0)).await.unwrap();
    link.greet(hello(at(250)), LONG).await.unwrap();
    let spec = flood(at(250), socket.local_addr().unwrap());
    assert!(link.prepare_flood(1, "odd", spec.clone()).await.is_err());
    link.prepare_flood(1, "text", spec.clone()).await.unwrap();
    let sent = link.start_flood(1, monotonic_ns(), LONG).await.unwrap();
    assert_eq!((sent.sent, sent.bound, sent.left_open), (20, 20, None));
    let closed = link.stop_flood(1).await.unwrap().unwrap();
    assert_eq!(closed.left_open, Some(Vec::new()));
    link.prepare_flood(2, "text", spec.clone()).await.unwrap();
    assert_eq!(link.stop_flood(2).await.unwrap(), None);
    assert!(link.start_flood(2, 0, LONG).await.is_err());
    // A long one is stopped in the middle, and who waits for its end is answered.
    let long = FloodSpec {
        over: Duration::from_hours(1),
        ..spec
    };
    link.prepare_flood(3, "text", long).await.unwrap();
    let (sent, closed) = tokio::join!(link.start_flood(3, monotonic_ns(), LONG), async {
        socket.recv(&mut [0; 2048]).await.unwrap();
        link.stop_flood(3).await
    });
    assert!(sent.unwrap().stopped_early && closed.unwrap().unwrap().stopped_early);
}

/// Fifty thousand sources take some ten seconds on one busy processor, and four floods of other pods on the same one.
#[tokio::test(start_paused = true)]
async fn a_large_flood_may_take_long_to_make_ready() {
    let (input, mut agent_input) = tokio::io::duplex(4096);
    let (mut agent_output, from_agent) = tokio::io::duplex(4096);
    let (saw, _seen) = mpsc::channel(10);
    let link = AgentLink::open(&"x".into(), Box::pin(input), output(from_agent), saw);
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut frames = Frames::default();
        let mut chunk = [0; 1024];
        loop {
            if let Some(Ordered { id, .. }) = frames.next().unwrap() {
                tokio::time::sleep(Duration::from_secs(50)).await;
                let result = Ok(Answer::Done);
                let answer = encode(&Said::Answer { id, result }).unwrap();
                agent_output.write_all(&answer).await.unwrap();
            }
            let length = agent_input.read(&mut chunk).await.unwrap();
            frames.feed(&chunk[..length]);
        }
    });
    let mut spec = flood([127, 0, 0, 1].into(), ([127, 0, 0, 2], 1).into());
    assert!(link.prepare_flood(1, "text", spec.clone()).await.is_err());
    spec.sources = 50_000;
    link.prepare_flood(2, "text", spec).await.unwrap();
}

#[tokio::test]
async fn an_agent_that_reads_rubbish_says_so_and_ends() {
    let (mut input, agent_input) = tokio::io::duplex(1024);
    let (agent_output, from_agent) = tokio::io::duplex(1024);
    let mut served = JoinSet::new();
    served.spawn(serve(
        agent_input,
        agent_output,
        Vec::new(),
        "/nowhere".into(),
    ));
    input.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let error = served.join_next().await.unwrap().unwrap().unwrap_err();
    assert!(error.contains(&format!("at most {FRAME_MAX}")), "{error}");
    let (saw, _seen) = mpsc::channel(1);
    let link = AgentLink::open(&"x".into(), Box::pin(input), output(from_agent), saw);
    assert!(link.gone().await.contains("it could not read on"));
}

#[tokio::test]
async fn an_agent_without_words_is_silent_and_then_gone() {
    let (input, _kept) = tokio::io::duplex(1024);
    let (kept, from_agent) = tokio::io::duplex(1024);
    let (saw, _seen) = mpsc::channel(1);
    let link = AgentLink::open(&"x".into(), Box::pin(input), output(from_agent), saw);
    let short = Duration::from_millis(20);
    let silent = link
        .greet(hello([127, 0, 0, 1].into()), short)
        .await
        .unwrap_err();
    assert_eq!(
        silent,
        LinkError::Silent {
            node: "x".to_owned(),
            bound: short
        }
    );
    assert!(link.0.shared.waiting().is_empty());
    drop(kept);
    assert_eq!(link.gone().await, "its stream ended");
    assert!(matches!(link.disk().await, Err(LinkError::Gone { .. })));
}

/// A link to an agent that says this to every order.
fn scripted(
    mut says: impl FnMut(u64, Order) -> Vec<Said> + Send + 'static,
) -> (AgentLink, mpsc::Receiver<Observation>, JoinSet<()>) {
    let (input, mut agent_input) = tokio::io::duplex(4096);
    let (mut agent_output, from_agent) = tokio::io::duplex(4096);
    let (saw, seen) = mpsc::channel(10);
    let link = AgentLink::open(&"x".into(), Box::pin(input), output(from_agent), saw);
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut frames = Frames::default();
        let mut chunk = [0; 1024];
        while let Ok(length @ 1..) = agent_input.read(&mut chunk).await {
            frames.feed(&chunk[..length]);
            while let Some(Ordered { id, order }) = frames.next().unwrap() {
                for said in says(id, order) {
                    let said = encode(&said).unwrap();
                    agent_output.write_all(&said).await.unwrap();
                }
            }
        }
    });
    (link, seen, serving)
}

/// An agent on another kernel, whose clock is an hour ahead.
#[tokio::test]
async fn times_of_another_kernel_are_brought_to_this_clock() {
    const HOUR: u64 = 3_600_000_000_000;
    let (link, mut seen, _serving) = scripted(|id, order| {
        let result = Ok(match order {
            Order::StartFlood { at_ns, .. } => Answer::Ready(Duration::from_nanos(at_ns)),
            _ => Answer::Clock(Clocks {
                monotonic_ns: monotonic_ns() + HOUR,
                unix_ns: unix_ns(),
                boot: "other".to_owned(),
                oom_kills: None,
            }),
        });
        let sight = Sight::Ping {
            t_ns: monotonic_ns() + HOUR,
            rtt: None,
            send_error: None,
        };
        vec![Said::Answer { id, result }, Said::Saw(sight)]
    });
    let began = monotonic_ns();
    link.greet(hello([127, 0, 0, 1].into()), LONG)
        .await
        .unwrap();
    while seen.try_recv().is_ok() {}
    assert!(matches!(
        link.start_flood(1, 0, LONG).await,
        Err(LinkError::Other { .. })
    ));
    let Some(Observation::Ping(ping)) = seen.recv().await else {
        panic!()
    };
    let error = ping.t_ns.abs_diff(began);
    assert!(error < HOUR / 100, "off by {error} ns");
}

/// Genesis is this machine's time of day, and nodes count layers by the engine's.
#[tokio::test]
async fn an_engine_with_another_time_of_day_is_refused() {
    const HOUR: u64 = 3_600_000_000_000;
    for (boot, ahead_ns, refused) in [
        ("other", 0, None),
        ("other", 1_900_000_000_i64, None),
        ("other", 7_100_000_000, Some("ahead of")),
        ("other", -7_100_000_000, Some("behind")),
        // The same kernel has one clock, whatever stands in an answer.
        ("own", 7_100_000_000, None),
    ] {
        let boot = match boot {
            "own" => boot_id().unwrap(),
            other => other.to_owned(),
        };
        let (link, _seen, _serving) = scripted(move |id, order| {
            let result = Ok(match order {
                Order::KeepTime { .. } => Answer::Done,
                _ => Answer::Clock(Clocks {
                    monotonic_ns: monotonic_ns() + HOUR,
                    unix_ns: unix_ns().saturating_add_signed(ahead_ns),
                    boot: boot.clone(),
                    oom_kills: None,
                }),
            });
            vec![Said::Answer { id, result }]
        });
        let hello = hello([127, 0, 0, 1].into());
        link.greet(hello, LONG).await.unwrap();
        let kept = link.keep_time(Duration::from_secs(20)).await;
        match refused {
            None => kept.unwrap(),
            Some(way) => {
                let why = kept.unwrap_err().to_string();
                let says = [way, "7.", "give or take", "synchronise", "20s"];
                assert!(says.iter().all(|said| why.contains(said)), "{why}");
            }
        }
    }
}

/// An agent that answers orders, says once that it was late, and then nothing more.
#[tokio::test]
async fn an_agent_that_says_nothing_is_as_late_as_one_that_says_so() {
    let (link, _seen, _serving) = scripted(|id, _| {
        let late = Said::Late(Duration::from_secs(70));
        let result = Ok(Answer::Done);
        vec![late, Said::Answer { id, result }]
    });
    let layer = Duration::from_secs(20);
    link.keep_time(layer).await.unwrap();
    assert_eq!(link.lateness(), Duration::from_secs(70), "what it said");
    assert_eq!(
        link.lateness(),
        Duration::ZERO,
        "it was told, and it may be silent yet"
    );
    let later_ns = monotonic_ns() + crate::observe::duration_ns(layer);
    let late = link.0.shared.lateness(later_ns);
    assert!(
        (9..=10).contains(&late.as_secs()),
        "it owes a word each half layer: {late:?}"
    );
}

#[test]
fn what_a_late_agent_did_not_see_is_no_silence_of_its_node() {
    let gap = |answered| Sight::Gap {
        url: "http://n/".to_owned(),
        signals: vec!["layer".to_owned()],
        t_ns: 900,
        answered,
        excused: false,
        why: "no answer".to_owned(),
    };
    let ping = |rtt| Sight::Ping {
        t_ns: 900,
        rtt,
        send_error: None,
    };
    let layer = Duration::from_nanos(100);
    assert_eq!(gap(false).unanswered_since(layer), Some(800));
    assert_eq!(ping(None).unanswered_since(layer), Some(900));
    for heard in [gap(true), ping(Some(layer))] {
        assert_eq!(heard.unanswered_since(layer), None);
    }
    for unheard in [gap(false), ping(None)] {
        let Sight::Gap { excused, why, .. } = unheard.excused("the agent was too late") else {
            panic!("it is a gap")
        };
        assert!(excused && why.contains("too late"), "{why}");
    }
}
