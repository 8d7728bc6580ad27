//! The end of a controller that lost both guards: it does what the stub would have done after it.

use std::time::Instant;

use super::{RunContext, TEARDOWN_BOUND};
use crate::substrate::process::Leftover;
use crate::substrate::process::identity::own_pid;
use crate::substrate::process::remains::Hunt;
use crate::undo;

/// The last thing that a controller does, outside of any runtime. While a guard lives, that guard looks after the
/// controller's end and nothing is done. Else everything of the run is looked for, and killed, once more; if that proves
/// that nothing is left, the run's intents are forgotten, since nobody else would. Returns what is left.
pub fn end_alone(context: &RunContext) -> Vec<Leftover> {
    if context.stub.is_alive() || context.watchdog.is_alive() {
        return Vec::new();
    }
    let own = [own_pid()];
    let hunt = Hunt {
        roots: &own,
        nonce: Some(&context.nonce),
        ..Hunt::default()
    };
    let mut left = hunt.run(Instant::now() + TEARDOWN_BOUND).left;
    left.extend(undo::remove_recorded(&context.intents));
    if left.is_empty() {
        // A file that stays only makes `clean` look once more.
        let _ = undo::forget(&context.intents);
    }
    left
}
