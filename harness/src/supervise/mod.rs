//! The chain that outlives any one of its members: stub, watchdog, controller.
//!
//! ```text
//! what the user started = stub ──┬── watchdog      holds every pidfd, waits for the stub's death
//!                                └── controller ── nodes
//! ```
//!
//! The stub and the controller are subreapers; all three hold every node's pidfd and the locks of
//! the run's address blocks. A node gets its go only after both guards have acknowledged it.
//!
//! | what dies | who removes everything | exit code |
//! |---|---|---|
//! | controller | stub | 4 |
//! | watchdog | stub | 4 |
//! | stub | watchdog, and the controller when it comes first | (the stub's own) |
//! | stub and watchdog at once | controller, when it notices, which then forgets the run; else `clean` | (the stub's own) |
//!
//! Stub and watchdog are single-threaded poll loops that allocate little and know nothing of plans.
//! They never decide a verdict: a controller's exit code is passed on as it is.
//!
//! To add a message, extend `wire::Message`; guards must answer everything that carries a `seq`.

mod alone;
mod guards;
mod roster;
mod stub;
mod watchdog;
mod wire;

pub use alone::end_alone;
pub use guards::{
    ControllerEntry, Guard, GuardError, GuardEvent, GuardEvents, Guards, RunContext,
    controller_enter,
};
pub use stub::{SuperviseConfig, SuperviseError, Supervised, supervise};
pub use watchdog::watchdog_main;

/// How long everything may take to be gone once a teardown has begun.
pub const TEARDOWN_BOUND: std::time::Duration = std::time::Duration::from_secs(2);
/// The exit code for "the substrate could not run it", which includes the death of a guard.
pub const EXIT_SUBSTRATE: u8 = 4;
/// The exit code for "something of the run is left".
pub const EXIT_LEFT: u8 = 5;
