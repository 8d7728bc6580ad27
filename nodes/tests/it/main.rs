//! Real processes of the bundled network: alone against floods, and together.
//!
//! Each test takes an address block of its own, so that they run side by side.

#![expect(clippy::unwrap_used, reason = "in a test, what fails must stop it")]

mod lone;
mod mesh;
mod network;
mod poet;
mod poet_recovery;
mod poet_support;
mod process;
mod support;
