//! The watchdog: it waits for the stub's death, and then removes everything.
//!
//! Its standard input is its link to the stub and at the same time the death pipe: only the stub
//! has the other end, so the end of the stub, however it came, is seen as a closed link. It writes
//! nothing and holds none of the user's streams, so a pipe that the user reads ends with the run.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

use nix::sys::signal::{SigSet, Signal as NixSignal};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, pidfd_send_signal};

use super::TEARDOWN_BOUND;
use super::roster::Roster;
use super::wire::{ANSWER_BOUND, Message, exactly, send};
use crate::substrate::process::packet::{PacketSocket, Received};
use crate::substrate::process::remains::Hunt;
use crate::substrate::process::{KillReport, Nonce, ProcessId, raise_nofile};
use crate::undo;

struct Watchdog {
    nonce: Nonce,
    intents: PathBuf,
    stub: PacketSocket,
    controller: Option<PacketSocket>,
    process: Option<(ProcessId, OwnedFd)>,
    roster: Roster,
}

/// The entry point of the hidden subcommand. Returns when the run is over or removed.
///
/// The error text is for a person who started it by hand: in a run nobody reads it.
pub fn watchdog_main() -> Result<(), String> {
    let started_by_hand =
        |error| format!("this is an internal command that `tweedledum run` starts: {error}");
    let stub = PacketSocket::from_stdin().map_err(started_by_hand)?;
    let _ = rustix::thread::set_name(c"td-watchdog");
    let mut quiet = SigSet::empty();
    for signal in [NixSignal::SIGINT, NixSignal::SIGHUP, NixSignal::SIGPIPE] {
        quiet.add(signal);
    }
    let _ = quiet.thread_block();
    let _ = raise_nofile();
    let hello = stub
        .receive::<Message>(ANSWER_BOUND)
        .map_err(|error| error.to_string())?;
    let Received::Message(Message::HelloWatchdog { nonce, intents }, fds) = hello else {
        // Without a hello nothing of the run exists yet.
        return Ok(());
    };
    let [link] = exactly(fds).map_err(|error| error.to_string())?;
    let controller = Some(PacketSocket::from_fd(link).map_err(|error| error.to_string())?);
    let roster = Roster::default();
    let mut watchdog = Watchdog {
        nonce,
        intents,
        stub,
        controller,
        process: None,
        roster,
    };
    if watchdog.watch() {
        return Ok(());
    }
    watchdog.remove_everything();
    Ok(())
}

impl Watchdog {
    /// Serves both sides until the stub says goodbye (true) or is dead (false).
    fn watch(&mut self) -> bool {
        loop {
            match self.serve_stub() {
                Ok(None) => {}
                Ok(Some(goodbye)) => return goodbye,
                Err(_) => return false,
            }
            if let Some(controller) = &self.controller
                && !self.roster.serve(controller).unwrap_or(false)
            {
                // The stub sees the controller's death too and decides; only the link is gone.
                self.controller = None;
            }
            let mut fds = vec![PollFd::new(&self.stub, PollFlags::IN)];
            if let Some(controller) = &self.controller {
                fds.push(PollFd::new(controller, PollFlags::IN));
            }
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// Reads what the stub has sent. Some(true) for its goodbye, Some(false) for its death.
    fn serve_stub(&mut self) -> io::Result<Option<bool>> {
        loop {
            match self.stub.try_receive::<Message>()? {
                Received::Message(Message::Controller { seq, id }, fds) => {
                    let [pidfd] = exactly(fds)?;
                    self.process = Some((id, pidfd));
                    send(&self.stub, &Message::Ack { seq, refused: None }, &[])?;
                }
                Received::Message(Message::Bye, _) => return Ok(Some(true)),
                Received::Message(..) => {}
                Received::Empty => return Ok(None),
                Received::Closed => return Ok(Some(false)),
            }
        }
    }

    /// The controller is frozen first: it is the subreaper of all nodes, so what is below it can
    /// be found as long as it exists, and a frozen one starts nothing more.
    fn remove_everything(&mut self) {
        let deadline = Instant::now() + TEARDOWN_BOUND;
        // Registrations that the controller sent before it was frozen are on the list after this.
        if let Some((_, pidfd)) = &self.process {
            let _ = pidfd_send_signal(pidfd, Signal::STOP);
        }
        if let Some(controller) = &self.controller {
            let _ = self.roster.serve(controller);
        }
        let killed = self.roster.kill(deadline);
        let mut report = KillReport {
            killed,
            left: Vec::new(),
        };
        if let Some((id, pidfd)) = &self.process {
            let roots = [id.pid];
            let below = Hunt {
                roots: if id.is_alive() { &roots } else { &[] },
                nonce: Some(&self.nonce),
                spare: &roots,
                ..Hunt::default()
            };
            report.then(below.run(deadline));
            if pidfd_send_signal(pidfd, Signal::KILL).is_ok() {
                let pidfd = pidfd.as_fd();
                let _ = crate::substrate::process::packet::wait_readable(&[pidfd], deadline);
            }
        }
        report.then(
            Hunt {
                nonce: Some(&self.nonce),
                ..Hunt::default()
            }
            .run(deadline),
        );
        report.left.extend(undo::remove_recorded(&self.intents));
        if report.left.is_empty() {
            // An intent file that stays only makes `clean` look once more.
            let _ = undo::forget(&self.intents);
        }
    }
}
