//! The one system call that has no safe wrapper: resetting signal dispositions before an exec.
//!
//! A disposition of "ignored" is inherited over exec, so a node would otherwise ignore whatever
//! the shell, `nohup` or the harness ignored. Nothing else belongs here.
#![allow(unsafe_code, reason = "sigaction has no safe form; only SIG_DFL is ever installed")]

use nix::sys::signal::{SigHandler, SigSet, Signal, SigmaskHow, signal, sigprocmask};

/// Gives every signal its default disposition and unblocks all of them. Call it in a process with
/// one thread that is about to exec.
pub(super) fn reset_signals() -> nix::Result<()> {
    for which in Signal::iterator() {
        if matches!(which, Signal::SIGKILL | Signal::SIGSTOP) {
            continue;
        }
        // SAFETY: SIG_DFL installs no handler, so no code of ours can run in a signal context.
        unsafe { signal(which, SigHandler::SigDfl) }?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_unblocked() {
        // The mask belongs to the calling thread, so other tests are not touched.
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGUSR2);
        mask.thread_block().unwrap();
        reset_signals().unwrap();
        assert!(!SigSet::thread_get_mask().unwrap().contains(Signal::SIGUSR2));
    }
}
