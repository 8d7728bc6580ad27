//! Floods against real sockets on loopback: who sends, how evenly, and what the report says.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::agent::evidence::FloodEvidence;
use crate::agent::testing::TextDialect;
use crate::observe::testing::{block, many_files};

fn spec(target: SocketAddr, source_ip: impl Into<IpAddr>, sources: u32, over_ms: u64) -> FloodSpec {
    FloodSpec {
        target,
        target_key: [1; 32],
        source_ip: source_ip.into(),
        sources,
        over: Duration::from_millis(over_ms),
        last_after: None,
        late_max: Duration::from_mins(1),
        kind: DatagramKind::WellFormed,
        seed: [2; 32],
        netid: 116,
        due_unix_ns: 0,
    }
}

fn run(spec: FloodSpec) -> FloodHandle {
    PreparedFlood::prepare(&TextDialect, spec)
        .unwrap()
        .start(Instant::now())
        .unwrap()
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// A receiver that reads everything, until it is dropped, and tells from whom.
struct Receiver {
    address: SocketAddr,
    done: Arc<AtomicBool>,
    thread: JoinHandle<(BTreeSet<SocketAddr>, BTreeSet<Vec<u8>>)>,
}

impl Receiver {
    fn bind(ip: impl Into<IpAddr>) -> Self {
        let socket = UdpSocket::bind((ip.into(), 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let address = socket.local_addr().unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&done);
        let thread = std::thread::spawn(move || {
            let (mut from, mut texts, mut buffer) = (BTreeSet::new(), BTreeSet::new(), [0; 2048]);
            // Ends at the first silence after `done`.
            loop {
                match socket.recv_from(&mut buffer) {
                    Ok((length, source)) => {
                        from.insert(source);
                        texts.insert(buffer[..length].to_vec());
                    }
                    Err(_) if stop.load(Ordering::Relaxed) => return (from, texts),
                    Err(_) => {}
                }
            }
        });
        Self {
            address,
            done,
            thread,
        }
    }

    fn finish(self) -> (BTreeSet<SocketAddr>, BTreeSet<Vec<u8>>) {
        self.done.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

#[test]
fn every_source_arrives_once_and_the_ports_stay_open_until_the_end() {
    let at = block();
    let receiver = Receiver::bind(at(5));
    let mut flood = run(spec(receiver.address, at(250), 320, 125));
    let report = wait(flood.sent()).unwrap();
    assert_eq!((report.bound, report.sent, report.refused), (320, 320, 0));
    assert_eq!(report.errors, BTreeMap::new());
    assert_eq!(report.left_open, None);

    let evidence = FloodEvidence::of(&report);
    assert!(evidence.applied(), "{evidence:?}");

    let (from, texts) = receiver.finish();
    assert_eq!(
        (from.len(), texts.len()),
        (320, 320),
        "distinct ip:port, distinct datagrams"
    );
    assert!(from.iter().all(|source| source.ip() == at(250)));
    // A port that is kept open cannot be bound again.
    for source in from.iter().take(3) {
        UdpSocket::bind(source).unwrap_err();
    }

    let closed = flood.stop().unwrap();
    assert_eq!(closed.left_open, Some(vec![]));
    for source in from.iter().take(3) {
        UdpSocket::bind(source).unwrap();
    }
}

#[test]
fn the_asked_rate_is_held() {
    many_files();
    let at = block();
    for (sources, over_ms) in [(320, 125), (2000, 500)] {
        let receiver = Receiver::bind(at(5));
        let mut flood = run(spec(receiver.address, at(250), sources, over_ms));
        let report = wait(flood.sent()).unwrap();
        let ratio = report.achieved_rate().unwrap() / report.asked_rate();
        assert!(
            (ratio - 1.0).abs() < 0.05,
            "{sources}: rate x{ratio:.3}, {report:?}"
        );
        assert_eq!(receiver.finish().0.len(), sources as usize);
    }
}

#[test]
fn equal_seeds_send_equal_bytes_and_others_do_not() {
    let at = block();
    let texts = |seed: u8| {
        let receiver = Receiver::bind(at(5));
        let mut flood = run(FloodSpec {
            seed: [seed; 32],
            ..spec(receiver.address, at(250), 20, 5)
        });
        wait(flood.sent()).unwrap();
        receiver.finish().1
    };
    let (first, second, other) = (texts(1), texts(1), texts(2));
    assert_eq!(first, second);
    assert!(first.is_disjoint(&other));
}

#[test]
fn a_receiver_that_does_not_read_is_seen_to_drop_and_the_flood_is_not_applied() {
    let at = block();
    let deaf = UdpSocket::bind((at(5), 0)).unwrap();
    let mut flood = run(spec(deaf.local_addr().unwrap(), at(250), 1000, 100));
    let report = wait(flood.sent()).unwrap();
    assert_eq!((report.sent, report.refused), (1000, 0));
    let evidence = FloodEvidence::of(&report);
    assert!(
        evidence.dropped > 0 && evidence.dropped < 1000,
        "{evidence:?}"
    );
    assert!(!evidence.applied());
    assert!(evidence.why_not.unwrap().contains("socket buffer was full"));

    // What the kernel kept is what can still be read: the count is exact.
    deaf.set_nonblocking(true).unwrap();
    let mut kept = 0;
    while deaf.recv(&mut [0; 2048]).is_ok() {
        kept += 1;
    }
    assert_eq!(evidence.reached, kept);
}

#[test]
fn a_closed_port_refuses_every_datagram() {
    let at = block();
    let gone = UdpSocket::bind((at(5), 0)).unwrap().local_addr().unwrap();
    let mut flood = run(spec(gone, at(250), 200, 50));
    let report = wait(flood.sent()).unwrap();
    assert_eq!((report.sent, report.refused), (200, 200));
    let evidence = FloodEvidence::of(&report);
    assert!(!evidence.applied());
    assert!(
        evidence
            .why_not
            .unwrap()
            .contains("no UDP socket was bound")
    );
}

/// The table of sockets is looked at when a flood is made ready, which may be long before it begins.
#[test]
fn a_target_that_went_before_it_began_was_not_flooded() {
    let at = block();
    let socket = UdpSocket::bind((at(5), 0)).unwrap();
    let spec = spec(socket.local_addr().unwrap(), at(250), 50, 50);
    let prepared = PreparedFlood::prepare(&TextDialect, spec).unwrap();
    drop(socket);
    let mut flood = prepared.start(Instant::now()).unwrap();
    let report = wait(flood.sent()).unwrap();
    assert!(report.first_refused, "{report:?}");
    let why = FloodEvidence::of(&report).why_not.unwrap();
    assert!(why.contains("no UDP socket was bound"), "{why}");
}

#[test]
fn a_target_that_dies_on_the_way_is_told_from_one_that_was_never_there() {
    let at = block();
    let socket = UdpSocket::bind((at(5), 0)).unwrap();
    let target = socket.local_addr().unwrap();
    let mut flood = run(spec(target, at(250), 200, 200));
    let mut buffer = [0; 2048];
    for _ in 0..100 {
        socket.recv(&mut buffer).unwrap();
    }
    drop(socket);
    let report = wait(flood.sent()).unwrap();
    assert_eq!(report.sent, 200);
    assert!((90..=100).contains(&report.refused), "{report:?}");
    assert!(report.late_at_refusal.is_some(), "{report:?}");
    let evidence = FloodEvidence::of(&report);
    assert!(evidence.applied() && evidence.target_gone, "{evidence:?}");
}

#[test]
fn the_last_source_is_held_back() {
    let at = block();
    let receiver = Receiver::bind(at(5));
    let held = Duration::from_millis(300);
    let spec = FloodSpec {
        last_after: Some(held),
        ..spec(receiver.address, at(250), 21, 50)
    };
    let mut flood = run(spec);
    let report = wait(flood.sent()).unwrap();
    assert_eq!(report.sent, 21);
    let (first, paced, last) = (
        report.first_ns.unwrap(),
        report.paced_last_ns.unwrap(),
        report.last_ns.unwrap(),
    );
    assert!(paced - first < 60_000_000, "{report:?}");
    assert!(last - first >= 300_000_000, "{report:?}");
    assert!(FloodEvidence::of(&report).applied());
    assert_eq!(receiver.finish().0.len(), 21);
}

#[test]
fn a_flood_stops_at_once_in_every_phase() {
    let at = block();
    let target = UdpSocket::bind((at(5), 0)).unwrap();
    let spec = spec(target.local_addr().unwrap(), at(250), 100, 60_000);
    let began = Instant::now();

    // Before its first datagram.
    let prepared = PreparedFlood::prepare(&TextDialect, spec.clone()).unwrap();
    let flood = prepared
        .start(Instant::now() + Duration::from_mins(1))
        .unwrap();
    let report = flood.stop().unwrap();
    assert!(report.stopped_early && report.sent == 0, "{report:?}");
    assert_eq!(report.left_open, Some(vec![]));

    // In between.
    let flood = run(spec.clone());
    target.recv(&mut [0; 2048]).unwrap();
    let report = flood.stop().unwrap();
    assert!(
        report.stopped_early && (1..100).contains(&report.sent),
        "{report:?}"
    );
    assert!(!FloodEvidence::of(&report).applied());

    // By being asked, and waited for.
    let mut flood = run(spec.clone());
    flood.request_stop();
    assert_eq!(wait(flood.closed()).unwrap().left_open, Some(vec![]));

    // By being dropped.
    drop(run(spec));
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    let [_, a, b, _] = at(0).octets();
    let bound = crate::substrate::process::identity::bound_in([127, a, b]).unwrap();
    let port = target.local_addr().unwrap().port();
    // The kernel may list a socket twice while others come and go; it has one inode.
    let inodes: BTreeSet<u64> = bound.iter().map(|socket| socket.inode).collect();
    let targets = bound.iter().all(|socket| socket.port == port);
    assert!(targets && inodes.len() == 1, "{port}: {bound:?}");
}

#[test]
fn what_cannot_be_sent_is_an_error_with_numbers_in_it() {
    let at = block();
    let target: SocketAddr = (at(5), 9).into();
    for empty in [spec(target, at(250), 0, 10), spec(target, at(250), 10, 0)] {
        let error = PreparedFlood::prepare(&TextDialect, empty).unwrap_err();
        assert!(matches!(error, FloodError::Empty { .. }), "{error}");
    }
    let foreign: IpAddr = "192.0.2.1".parse().unwrap();
    let error = PreparedFlood::prepare(&TextDialect, spec(target, foreign, 3, 10)).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("opened 0 of 3 source ports on 192.0.2.1"),
        "{error}"
    );
}

#[test]
fn catching_up_is_done_in_bounded_bursts_at_twice_the_rate() {
    let target: SocketAddr = ([127, 0, 0, 1], 9).into();
    let ip: IpAddr = target.ip();
    for (sources, over_ms, pause_us) in [(320, 125, 1000), (100_000, 1000, 160)] {
        let pause = Duration::from_micros(pause_us);
        let mut pacer = Pacer::new(&spec(target, ip, sources, over_ms));
        let start = Instant::now();
        let mut now = start + Duration::from_secs(9);
        let mut pauses = Vec::new();
        for sent in 0..=4 * BURST_MAX {
            let at = pacer.send_at(start, now);
            if at > now {
                pauses.push((sent, at - now));
            }
            now = at;
        }
        let want: Vec<_> = (1..=4).map(|burst| (burst * BURST_MAX, pause)).collect();
        assert_eq!(pauses, want);
        // On time again: as planned, and a new burst may follow.
        let later = now + Duration::from_secs(1);
        assert_eq!(pacer.send_at(later, now), later);
        assert_eq!(pacer.send_at(start, later), later);
    }
}

/// Prints how well rates are held; `cargo test --release -- --ignored --nocapture rates`.
#[test]
#[ignore = "a measurement, not a check"]
fn measure_rates() {
    many_files();
    let at = block();
    for (sources, over_ms) in [
        (320, 125),
        (320, 125),
        (320, 125),
        (10_000, 1000),
        (10_000, 1000),
    ] {
        let receiver = Receiver::bind(at(5));
        let began = Instant::now();
        let prepared = PreparedFlood::prepare(
            &TextDialect,
            spec(receiver.address, at(250), sources, over_ms),
        );
        let prepared = prepared.unwrap();
        let prepare = began.elapsed();
        let mut flood = prepared.start(Instant::now()).unwrap();
        let report = wait(flood.sent()).unwrap();
        let ended = Instant::now();
        let closed = flood.stop().unwrap();
        println!(
            "{sources} over {over_ms} ms: rate x{:.4}, max late {:?}, prepare {prepare:?}, \
             close {:?}, drops {:?}, received {}",
            report.achieved_rate().unwrap() / report.asked_rate(),
            report.max_late,
            ended.elapsed(),
            closed.drops,
            receiver.finish().0.len(),
        );
    }
    let began = Instant::now();
    for _ in 0..100 {
        udp_sockets().unwrap();
    }
    println!("one look at the sockets: {:?}", began.elapsed() / 100);
}
