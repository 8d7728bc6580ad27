//! Histories that the judge must catch, and histories it must leave alone.
//!
//! [`net`] plays a small network in virtual time through what is [`planned`], and writes the history of it; the tests make
//! it misbehave, and look at what is [`judged`]. It is a test of oracles, judge, causes, controls and reports together,
//! through the public interface only.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, and says where"
)]

mod causes;
mod clean;
mod evidence;
mod history;
mod incident;
mod judged;
mod liveness;
mod lost;
mod net;
mod nodes;
mod planned;
mod reported;
mod reports;
mod rounds;
