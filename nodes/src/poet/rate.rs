//! How fast this host works, and how close the work comes to bare hashing.
//!
//! Plans set work in labels per second that were measured once, before anything else ran
//! ([`calibrate`]); the bench command prints [`work_rate`]. Both compute real trees that go nowhere.
//! They take their time on the calling thread and read the clock; what they measure on a busy host
//! is the busy host.

use super::Params;
use super::hash::{self, Node};
use super::work::{Checkpoint, Worker};
use std::hint::black_box;
use std::io;
use std::time::{Duration, Instant};

/// Hashes that one calibration computes: 3 ms with hardware SHA-256, 30 ms without.
const CALIBRATION_HASHES: u64 = 51_200;
/// Calibrations, of which the fastest counts: what else ran can only have slowed them down.
const CALIBRATIONS: u32 = 5;

/// Labels per second that one thread of this host computes with these parameters, tree included.
pub fn calibrate(params: Params) -> f64 {
    let labels = (CALIBRATION_HASHES / u64::from(params.depth())).clamp(1, params.leaves());
    let fastest = (0..CALIBRATIONS)
        .map(|_| time(|| black_box(compute(params, labels))))
        .min()
        .unwrap_or(Duration::MAX);
    per_second(labels, fastest)
}

/// The speed of the work against hashing with nothing around it, in compressions per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WorkRate {
    /// Compressions of the whole work: labels, siblings and tree.
    pub work: f64,
    /// Compressions of `hash = Sha256::digest(hash)`, the raw sequential loop of the same crate.
    pub raw: f64,
    /// Compressions of that loop on the bare compression function: as fast as the crate can go.
    pub bare: f64,
    /// `work` over `raw`: the median of all pairs, and its least and greatest.
    pub over_raw: [f64; 3],
    /// `work` over `bare`: the same.
    pub over_bare: [f64; 3],
}

/// Measures `pairs` interleaved rounds (at least 1) of work, raw loop and bare loop, each of one
/// whole tree with these parameters.
pub fn work_rate(params: Params, pairs: usize) -> WorkRate {
    let compressions = params.compressions();
    let times: Vec<[Duration; 3]> = (0..pairs.max(1))
        .map(|_| {
            [
                time(|| black_box(compute(params, params.leaves()))),
                time(|| black_box(raw_loop(compressions))),
                time(|| black_box(bare_loop(compressions))),
            ]
        })
        .collect();
    let rate = |which: usize| {
        let rates = times
            .iter()
            .map(|time| per_second(compressions, time[which]));
        spread(rates.collect())[0]
    };
    let over = |which: usize| {
        let ratios = times
            .iter()
            .map(|time| time[which].as_secs_f64() / time[0].as_secs_f64());
        spread(ratios.collect())
    };
    WorkRate {
        work: rate(0),
        raw: rate(1),
        bare: rate(2),
        over_raw: over(1),
        over_bare: over(2),
    }
}

/// The first `labels` of a tree whose layers are all handed to a writer that forgets them.
fn compute(params: Params, labels: u64) -> u64 {
    let sinks = (0..params.log2_leaves()).map(|_| io::sink()).collect();
    let worker = Worker::new([7; 32], params, &Checkpoint::start(), sinks);
    worker.map_or(0, |mut worker| {
        let _infallible = worker.run(labels);
        worker.next_leaf()
    })
}

fn raw_loop(compressions: u64) -> Node {
    hash::nested_plainly(&[7; 32], compressions)
}

fn bare_loop(compressions: u64) -> Node {
    let mut node = [7; 32];
    let mut left = compressions;
    while left > 0 {
        let batch = u32::try_from(left).unwrap_or(u32::MAX);
        node = hash::nested(&node, batch);
        left -= u64::from(batch);
    }
    node
}

fn time<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    drop(work());
    start.elapsed()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rate needs three digits, not sixteen"
)]
fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(1e-9)
}

/// Median, least and greatest.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [
        values[values.len() / 2],
        values[0],
        values[values.len() - 1],
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_work_that_was_done() {
        let params = Params::new(6, 10, 5).unwrap();
        assert_eq!(compute(params, 40), 40);
        assert!(calibrate(params) > 0.0);
        let rate = work_rate(params, 3);
        assert!(
            rate.work > 0.0 && rate.raw > 0.0 && rate.bare > 0.0,
            "{rate:?}"
        );
        let [median, least, greatest] = rate.over_raw;
        assert!(least <= median && median <= greatest, "{rate:?}");
        assert_eq!(
            format!("{:?}", spread(vec![3.0, 1.0, 2.0])),
            "[2.0, 1.0, 3.0]"
        );
    }

    #[test]
    fn loops_hash_as_often_as_they_say() {
        assert_eq!(raw_loop(1000), bare_loop(1000));
        assert_ne!(raw_loop(1000), bare_loop(999));
    }

    #[test]
    #[ignore = "a measurement: run it alone, with --ignored --nocapture"]
    fn measure() {
        let rate = work_rate(Params::DEFAULT, 11);
        println!("{rate:#?}");
        println!("{:.0} labels per second", calibrate(Params::DEFAULT));
        assert!(rate.over_raw[0] >= 0.9, "{rate:?}");
    }
}
