//! Tests of both policies: N - 1, N and N + 1 sources, young and old sessions.

use super::*;
use crate::p2p::wire::{Message, Wrapped, public_key, seal};
use crate::releases::SessionTable as Release;
use std::panic::{AssertUnwindSafe, catch_unwind};

const CAP: usize = 4;
const MAX_AGE: Duration = Duration::from_secs(10);
const US: SecretKey = [9; 32];
const NETID: u32 = 116;

fn table(release: Release) -> SessionTable {
    let limits = Limits {
        cap: CAP,
        max_age: MAX_AGE,
        queue: 2,
    };
    SessionTable::new(limits, release, US, NETID)
}

fn remote(n: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1000 + n))
}

fn secret(n: u16) -> SecretKey {
    let mut secret = [5; 32];
    secret[..2].copy_from_slice(&n.to_be_bytes());
    secret
}

fn ping(n: u16, netid: u32) -> Bytes {
    wire::ping(&secret(n), &public_key(&US), &[1; 24], netid, 1, 1).into()
}

/// One datagram from each of `sources`, the last of them `age` after the others.
fn fill(table: &mut SessionTable, sources: usize, age: Duration) -> Vec<(Reader, Option<Evicted>)> {
    let start = Instant::now();
    (0..sources)
        .map(|n| {
            let now = if n + 1 == sources { start + age } else { start };
            let n = u16::try_from(n).unwrap();
            match table.receive(now, remote(n), ping(n, NETID)) {
                Received::Opened { reader, evicted } => (reader, evicted),
                other => panic!("source {n}: {other:?}"),
            }
        })
        .collect()
}

/// What all readers do once the table is as it is: the text of a panic, if one panics.
fn panic_of<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap()
    })
}

/// Polls each reader until it waits or is closed.
fn run_readers(readers: Vec<(Reader, Option<Evicted>)>) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut closed = 0;
        for (mut reader, _) in readers {
            loop {
                tokio::select! {
                    biased;
                    datagram = reader.next() => if datagram.is_none() {
                        closed += 1;
                        break;
                    },
                    () = std::future::ready(()) => break,
                }
            }
        }
        closed
    })
}

#[test]
fn the_table_of_116_dies_of_evictions_and_of_nothing_else() {
    let old = MAX_AGE + Duration::from_secs(1);
    for (age, message) in [
        (Duration::ZERO, "close of closed channel"),
        (old, "just deleted"),
    ] {
        for sources in [CAP - 1, CAP] {
            let mut table = table(Release::Netid116);
            let readers = fill(&mut table, sources, age);
            assert_eq!((run_readers(readers), table.len()), (0, sources));
        }
        let mut table = table(Release::Netid116);
        let panic = panic_of(|| run_readers(fill(&mut table, CAP + 1, age))).unwrap_err();
        assert!(panic.contains(message), "{panic}");
    }
}

#[test]
fn the_old_panic_is_in_the_listener_and_the_young_one_in_the_reader() {
    let mut old = table(Release::Netid116);
    panic_of(|| fill(&mut old, CAP + 1, MAX_AGE * 2)).unwrap_err();
    let mut young = table(Release::Netid116);
    let readers = panic_of(|| fill(&mut young, CAP + 1, MAX_AGE)).unwrap();
    assert_eq!(young.len(), CAP);
    assert!(
        readers.last().unwrap().1.is_some(),
        "the listener went on after the eviction"
    );
}

#[test]
fn the_fixed_table_evicts_the_stalest_and_closes_it_once() {
    for age in [Duration::ZERO, MAX_AGE * 2] {
        for (sources, evictions) in [(CAP - 1, 0), (CAP, 0), (CAP + 1, 1)] {
            let mut table = table(Release::Fixed);
            let readers = fill(&mut table, sources, age);
            assert_eq!(run_readers(readers), evictions);
            assert_eq!(table.len(), sources.min(CAP));
        }
    }
    let mut table = table(Release::Fixed);
    let mut readers = fill(&mut table, CAP, Duration::ZERO);
    let later = Instant::now() + Duration::from_secs(1);
    assert!(matches!(
        table.receive(later, remote(0), ping(0, NETID)),
        Received::Queued
    ));
    let Received::Opened { reader, evicted } = table.receive(later, remote(99), ping(99, NETID))
    else {
        panic!("a new source opens a session")
    };
    let evicted = evicted.unwrap();
    assert_eq!(evicted.remote, remote(1), "0 spoke later than 1");
    readers.push((reader, None));
    assert_eq!(run_readers(readers), 1);
}

/// What is wrong with a datagram, one such from a source, whether 116 makes a session of it.
type Stranger<'a> = (&'a str, &'a dyn Fn(u16) -> Bytes, bool);

#[test]
fn only_116_lets_strangers_in() {
    let foreign = |n| ping(n, 117);
    let garbage = |_| Bytes::from_static(&[0xa5; 33]);
    let short = |_| Bytes::from_static(&[0xa5; 32]);
    let stolen = |n: u16| {
        // Another key inside than the one that sealed: an honest key must not be borrowed.
        let wrapped = Wrapped {
            request: true,
            kind: 0,
            id: 1,
            body: Vec::new(),
        };
        let message = Message::discovery(public_key(&secret(77)), NETID, 1, wrapped).encode();
        Bytes::from(seal(&secret(n), &public_key(&US), &[1; 24], &message))
    };
    let table_of: [Stranger<'_>; 4] = [
        ("netid", &foreign, true),
        ("too-short or sealed", &garbage, true),
        ("too-short", &short, false),
        ("auth-key", &stolen, true),
    ];
    for (what, datagram, enters) in table_of {
        let mut old = table(Release::Netid116);
        let entered = matches!(
            old.receive(Instant::now(), remote(1), datagram(1)),
            Received::Opened { .. }
        );
        assert_eq!(
            (entered, old.len()),
            (enters, usize::from(enters)),
            "{what}"
        );

        let mut fixed = table(Release::Fixed);
        let Received::Rejected(error) = fixed.receive(Instant::now(), remote(1), datagram(1))
        else {
            panic!("{what} was let in")
        };
        assert!(what.contains(error.reason()), "{what}: {error}");
        assert_eq!(fixed.len(), 0);
    }
}

#[test]
fn a_session_is_reused_its_queue_is_bounded_and_age_and_key_end_it_in_fixed() {
    for release in [Release::Netid116, Release::Fixed] {
        let mut table = table(release);
        let now = Instant::now();
        let mut readers = fill(&mut table, 1, Duration::ZERO);
        assert!(matches!(
            table.receive(now, remote(0), ping(0, NETID)),
            Received::Queued
        ));
        assert!(matches!(
            table.receive(now, remote(0), ping(0, NETID)),
            Received::QueueFull
        ));

        let other_key = table.receive(now, remote(0), ping(1, NETID));
        let too_old = table.receive(now + MAX_AGE * 2, remote(0), ping(1, NETID));
        let renewed = usize::from(release == Release::Fixed);
        for received in [other_key, too_old] {
            match received {
                Received::Opened {
                    reader,
                    evicted: None,
                } if renewed == 1 => {
                    readers.push((reader, None));
                }
                Received::QueueFull if renewed == 0 => {}
                other => panic!("{release:?}: {other:?}"),
            }
        }
        assert_eq!(table.len(), 1);
        assert_eq!(run_readers(readers), 2 * renewed);
    }
}
