//! The effects of Tweedledum: processes, sockets, files and clocks. Core says what to do; this does it.
//!
//! Start reading at [`controller`]: the one event loop. It knows no protocol of the network under test; what its agent
//! speaks is plugged in (see [`agent::Dialect`]).

pub mod agent;
pub mod clock;
pub mod controller;
pub mod doctor;
pub mod observe;
pub mod store;
pub mod substrate;
pub mod supervise;
pub mod undo;
