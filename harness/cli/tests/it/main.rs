//! End-to-end tests of the shipped executable, and tests of the tree itself.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that panics says what it met, and numbers are told when asked for"
)]

mod bad_plans;
mod bad_support;
mod conformance;
mod disks;
mod doctor;
mod golden;
mod incident;
mod interrupted;
mod judge;
mod killed;
mod limits;
mod misbehaving;
mod output;
mod plans;
mod roles;
mod support;
mod tampered;
mod tidy;
