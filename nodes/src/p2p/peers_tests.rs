//! Tests of whom a node dials and refuses.

use super::*;
use proptest::prelude::*;

const WANTS: Wants = Wants {
    outbound: 4,
    miner_peers: 3,
    max_inbound: 2,
    backoff: Duration::from_millis(50),
    backoff_max: Duration::from_secs(2),
    settle: Duration::from_secs(1),
};
const ME: PublicKey = [100; 32];

fn contact(n: u8, votes: bool) -> Arc<Contact> {
    let at = std::net::SocketAddr::from(([127, 1, 1, n], 7513));
    Arc::new(Contact::new(format!("node-{n}"), at, [n; 32], votes))
}

/// Gateways 1 to 5 come first in the ranking, then miners 6 to 10.
fn set() -> PeerSet {
    PeerSet::new(ME, WANTS, (1..=10).map(|n| contact(n, n > 5)).collect())
}

fn queue() -> mpsc::Sender<Bytes> {
    // The receiver is dropped: what is sent is gone, which is not the same as a full queue.
    mpsc::channel(1).0
}

fn keys(batch: &[Arc<Contact>]) -> Vec<u8> {
    batch.iter().map(|contact| contact.key[0]).collect()
}

#[test]
fn miners_first_then_whoever_is_next() {
    let mut set = set();
    let now = Instant::now();
    assert_eq!(keys(&set.next_dials(now).0), [6, 7, 8, 1]);
    assert!(
        set.next_dials(now).0.is_empty(),
        "all that is wanted is being dialled"
    );
    for n in [6, 7, 8, 1] {
        set.admit(&[n; 32], Direction::Outbound, now, queue())
            .unwrap();
    }
    assert!(set.next_dials(now).0.is_empty());
}

#[test]
fn dead_gateways_do_not_cut_gossip() {
    let mut set = set();
    let now = Instant::now();
    // Outbound places all taken by gateways: miners are dialled beyond them.
    for n in 1..=4 {
        set.admit(&[n; 32], Direction::Outbound, now, queue())
            .unwrap();
    }
    assert_eq!(keys(&set.next_dials(now).0), [6, 7, 8]);
    // A miner that dialled us counts.
    set.admit(&[9; 32], Direction::Inbound, now, queue())
        .unwrap();
    set.dial_failed(&[6; 32], now);
    assert!(set.next_dials(now).0.is_empty());
}

#[test]
fn failed_dials_wait_twice_as_long_each_time_and_others_take_their_turn() {
    let mut set = PeerSet::new(ME, WANTS, vec![contact(6, true)]);
    let mut now = Instant::now();
    let mut waits = Vec::new();
    for _ in 0..8 {
        assert_eq!(keys(&set.next_dials(now).0), [6]);
        set.dial_failed(&[6; 32], now);
        let (none, again) = set.next_dials(now);
        assert!(none.is_empty());
        let again = again.unwrap();
        waits.push(u64::try_from((again - now).as_millis()).unwrap());
        now = again;
    }
    assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
    // A connection that lasted starts from the beginning.
    let id = set
        .admit(&[6; 32], Direction::Outbound, now, queue())
        .unwrap();
    now += WANTS.backoff_max;
    assert!(set.gone(&[6; 32], id, now));
    assert_eq!(set.next_dials(now).1, Some(now + WANTS.backoff));
}

#[test]
fn refusals() {
    let now = Instant::now();
    let mut set = set();
    assert_eq!(
        set.admit(&ME, Direction::Inbound, now, queue()),
        Err(Refusal::Myself)
    );
    let first = set
        .admit(&[1; 32], Direction::Inbound, now, queue())
        .unwrap();
    set.admit(&[2; 32], Direction::Inbound, now, queue())
        .unwrap();
    assert_eq!(
        set.admit(&[3; 32], Direction::Inbound, now, queue()),
        Err(Refusal::Full)
    );
    // A peer that dials again has lost the connection it had; the new one takes its place.
    let again = set
        .admit(&[1; 32], Direction::Inbound, now, queue())
        .unwrap();
    assert!(
        !set.gone(&[1; 32], first, now),
        "the old connection ends without a trace"
    );
    assert!(set.gone(&[1; 32], again, now));
    set.stop();
    assert_eq!(
        set.admit(&[1; 32], Direction::Inbound, now, queue()),
        Err(Refusal::Stopping)
    );
    assert!(set.next_dials(now + Duration::from_secs(9)).0.is_empty());
}

/// Two nodes dial each other at the same time; messages arrive in any order.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Node 0 or 1 takes the handshake of the other's dial.
    Accept(usize),
    /// Node 0 or 1 learns how its own dial ended.
    Learn(usize),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn of_two_dials_that_cross_exactly_one_stays(order in Just(vec![
        Step::Accept(0), Step::Accept(1), Step::Learn(0), Step::Learn(1),
    ]).prop_shuffle()) {
        let now = Instant::now();
        let keys = [[1; 32], [2; 32]];
        let mut sets: Vec<_> = (0..2).map(|n: usize| {
            let other = u8::try_from(2 - n).unwrap();
            PeerSet::new(keys[n], WANTS, vec![contact(other, true)])
        }).collect();
        for set in &mut sets {
            prop_assert_eq!(set.next_dials(now).0.len(), 1);
        }
        // accepted[n]: the connection id node n gave to the dial of the other.
        let mut accepted: [Option<Result<u64, Refusal>>; 2] = [None; 2];
        let mut pending = order;
        while !pending.is_empty() {
            let mut later = Vec::new();
            for step in pending {
                match step {
                    Step::Accept(n) => {
                        let result = sets[n].admit(&keys[1 - n], Direction::Inbound, now, queue());
                        accepted[n] = Some(result);
                    }
                    // The answer comes after the other side accepted or refused.
                    Step::Learn(n) => match accepted[1 - n] {
                        None => later.push(step),
                        Some(Err(_)) => sets[n].dial_failed(&keys[1 - n], now),
                        Some(Ok(id)) => {
                            let mine = sets[n].admit(&keys[1 - n], Direction::Outbound, now, queue());
                            if mine.is_err() {
                                sets[n].dial_failed(&keys[1 - n], now);
                                sets[1 - n].gone(&keys[n], id, now);
                            }
                        }
                    },
                }
            }
            pending = later;
        }
        prop_assert_eq!((sets[0].len(), sets[1].len()), (1, 1));
        let direction = |n: usize| sets[n].connected[&keys[1 - n]].direction;
        prop_assert_ne!(direction(0), direction(1), "both ends hold the same connection");
    }
}

#[test]
fn broadcast_reaches_at_most_fan_out_peers_in_turns_and_counts_full_queues() {
    let now = Instant::now();
    let wants = Wants {
        max_inbound: 10,
        ..WANTS
    };
    let mut set = PeerSet::new(ME, wants, Vec::new());
    let mut receivers: Vec<_> = (1..=5)
        .map(|n| {
            let (queue, queued) = mpsc::channel(100);
            set.admit(&[n; 32], Direction::Inbound, now, queue).unwrap();
            queued
        })
        .collect();
    let frame = Bytes::from_static(b"x");
    for _ in 0..10 {
        assert_eq!(set.broadcast(Some(&[1; 32]), 2, &frame), 0);
    }
    let got: Vec<_> = receivers.iter_mut().map(|queued| queued.len()).collect();
    assert_eq!(
        (got[0], got.iter().sum::<usize>()),
        (0, 20),
        "never back to who it came from"
    );
    assert!(
        got[1..].iter().all(|n| *n > 0),
        "everybody has a turn: {got:?}"
    );

    let (queue, _full) = mpsc::channel(1);
    set.admit(&[9; 32], Direction::Inbound, now, queue).unwrap();
    assert_eq!(set.broadcast(None, 6, &frame), 0);
    assert_eq!(set.broadcast(None, 6, &frame), 1);
}
