//! The Docker substrate against a real engine.
//!
//! Run with `cargo test --release --workspace --test docker -- --ignored`. Ignored
//! otherwise, since not every machine has an engine; where they are asked for and none answers,
//! they fail and say why. They touch what they made and nothing else, and leave nothing.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod dead;
mod disk;
mod ground;
mod hurt;
mod many;
mod pods;
