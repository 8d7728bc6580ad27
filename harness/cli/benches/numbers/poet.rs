//! The proof of elapsed time: how close its work comes to bare hashing.
//!
//! Both sides count SHA-256 compressions and are measured in interleaved pairs, so that what else runs hits both.

use tweedledum_nodes::poet::{Params, rate::work_rate};

use crate::Failure;
use crate::table::Row;

/// Interleaved pairs, of which the median counts.
const PAIRS: usize = 11;
/// The least part of the raw loop's speed that the work may have.
const LEAST: f64 = 0.9;

/// The work of a whole round against the raw sequential loop of the same crate.
pub(crate) fn work() -> Result<(), Failure> {
    let rate = work_rate(Params::DEFAULT, PAIRS);
    let [median, least, most] = rate.over_raw;
    Row {
        what: "PoET work / raw SHA-256 loop, compressions",
        limit: ">= 0.9",
        measured: format!("{median:.3}"),
        within: Some(median >= LEAST),
        note: format!(
            "median of {PAIRS} pairs, {least:.3} to {most:.3}; {:.2} M/s against {:.2} M/s, bare function {:.2} M/s",
            rate.work / 1e6,
            rate.raw / 1e6,
            rate.bare / 1e6
        ),
    }
    .print()
}
