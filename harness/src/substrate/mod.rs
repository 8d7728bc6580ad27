//! Where nodes live. Each substrate implements the same closed set of primitive effects.
//!
//! To add a substrate, give it a directory here beside [`process`]. Nothing in this module decides
//! what to do to a node: that is the schedule's part.

pub mod docker;
pub mod process;
