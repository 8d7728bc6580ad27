//! System calls without a safe wrapper that make a process independent of who started it.
//!
//! A disposition of "ignored" is inherited over exec, so a node would otherwise ignore whatever
//! the shell, `nohup` or the harness ignored. Descriptors are inherited too: a node that holds a
//! shell's lock file keeps it locked. Nothing else belongs here.
#![allow(
    unsafe_code,
    reason = "sigaction and close_range have no safe form; see each SAFETY"
)]

use std::io;

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

/// Gives every signal its default disposition and unblocks all of them. Call it in a process with
/// one thread that is about to exec.
pub(super) fn reset_signals() -> nix::Result<()> {
    for which in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL installs no handler, so no code of ours can run in a signal context.
        // SIGKILL, SIGSTOP and the two signals that the C library keeps for itself are refused.
        unsafe { libc::signal(which, libc::SIG_DFL) };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// Marks every descriptor but the standard streams close-on-exec.
pub(crate) fn keep_descriptors_private() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: with CLOSE_RANGE_CLOEXEC nothing is closed; only a flag is set on descriptors, which
    // no code in this process depends on. The arguments are plain integers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            FIRST,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::Signal;

    use super::*;

    #[test]
    fn inheritable_descriptors_become_private() {
        let file = std::fs::File::open("/dev/null").unwrap();
        rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
        keep_descriptors_private().unwrap();
        let flags = rustix::io::fcntl_getfd(&file).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }

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
