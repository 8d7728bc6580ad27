//! The pure half of Tweedledum: plans become schedules, histories become verdicts, verdicts become reports.
//!
//! ```text
//! plan text ─► plan ─► schedule ─► (the controller, elsewhere) ─► history ─► oracles ─► verdict ─► report
//! ```
//!
//! Nothing here touches a socket, a file, a clock or entropy: times and texts are passed in. `clippy.toml` beside this
//! package bans the calls that would. To add a fault see [`faults`], to add an oracle see [`oracles`].

pub mod capability;
pub mod causes;
pub mod control;
pub mod faults;
pub mod findings;
pub mod history;
pub mod judge;
pub mod launch;
pub mod oracles;
pub mod params;
pub mod plan;
pub mod random;
pub mod report;
pub mod run;
pub mod schedule;
pub mod substrate;
pub mod time;
pub mod verdict;
