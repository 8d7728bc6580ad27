//! The process substrate from outside: real chains of stub, watchdog and controller, killed.
//!
//! Each test starts the fixture executable and judges only by what the kernel shows: processes,
//! sockets, locks, exit codes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod chain;
mod death;
mod disks;
mod nodes;
