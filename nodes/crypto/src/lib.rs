//! What takes the bundled nodes' processor time, in a package of its own because it is compiled for speed and the nodes for
//! size (`Cargo.toml` of the workspace). What is generic is compiled where it is called, so nothing here is.
//!
//! [`sealed`] are the boxes of datagrams and frames, [`hash`] is the PoET's work. Bytes in, bytes out: no clock, no
//! entropy, no I/O.

pub mod hash;
pub mod sealed;
