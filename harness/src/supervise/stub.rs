//! The stub: what the user started. It starts the watchdog and the controller, waits, and leaves
//! nothing behind.
//!
//! One poll loop over two pidfds, two sockets and a signalfd; no threads. It passes the
//! controller's exit code on, turns the first interrupt into a message and the second into a kill.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal as NixSignal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::roster::Roster;
use super::wire::{ANSWER_BOUND, Message, sealed, send};
use super::{EXIT_LEFT, EXIT_SUBSTRATE, TEARDOWN_BOUND};
use crate::substrate::process::identity::{RUN_VARIABLE, own_pid, snapshot};
use crate::substrate::process::launch::{Launch, Launched, launch};
use crate::substrate::process::packet::{PacketSocket, Received, timespec, wait_readable};
use crate::substrate::process::remains::{Hunt, reap_children};
use crate::substrate::process::{
    ExitKind, KillReport, Leftover, Nonce, OwnExecutable, ProcessId, raise_nofile, sys,
};
use crate::undo::{self, Intent, IntentLog, Part};

/// How long the watchdog may take to go when it is told to.
const GOODBYE_BOUND: Duration = Duration::from_millis(500);

/// What to supervise.
#[derive(Clone, Debug)]
pub struct SuperviseConfig {
    /// The directory of runs, where intents are kept.
    pub runs: PathBuf,
    /// The words that make our own executable call [`watchdog_main`](super::watchdog_main).
    pub watchdog: Vec<OsString>,
    /// The words that make it call [`controller_enter`](super::controller_enter) and run the plan.
    pub controller: Vec<OsString>,
    /// How long an interrupted controller may take to heal, tear down and report, before the stub
    /// does to it what a second interrupt does.
    pub interrupt_grace: Duration,
    /// What the controller works on, read once: it gets these very bytes, in [`ControllerEntry`](super::ControllerEntry).
    pub input: Vec<u8>,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supervised {
    /// The exit code for the process.
    pub code: u8,
    /// What to tell the user, when the controller could not.
    pub reason: Option<String>,
    /// How many processes the stub had to kill: 0 after a controller that ended by itself.
    pub killed: usize,
    /// What could not be removed.
    pub left: Vec<Leftover>,
}

/// Why nothing was started.
#[derive(Debug, Error)]
#[error("cannot start the run: {what}: {source}")]
pub struct SuperviseError {
    what: &'static str,
    source: io::Error,
}

fn cannot<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> SuperviseError {
    move |source| SuperviseError {
        what,
        source: source.into(),
    }
}

/// Why the waiting ended.
enum Outcome {
    Controller(ExitKind),
    Lost(String),
    Interrupted(i32),
}

struct Stub<'a> {
    config: &'a SuperviseConfig,
    nonce: Nonce,
    exe: OwnExecutable,
    nofile: u64,
    id: ProcessId,
    intents: IntentLog,
    signals: SignalFd,
    /// Children that this process had before it became the stub: an `exec` in a shell keeps them.
    bystanders: Vec<i32>,
    roster: Roster,
    watchdog: Option<Child>,
    controller: Option<Child>,
    interrupted: Option<(i32, Instant)>,
}

struct Child {
    process: Launched,
    link: Option<PacketSocket>,
}

/// Runs the chain and waits for its end. Call it from a process with one thread that has nothing
/// else to do: it blocks SIGINT, SIGTERM and SIGHUP and becomes a subreaper.
///
/// The error means that nothing was started. Everything else is a [`Supervised`].
pub fn supervise(config: &SuperviseConfig) -> Result<Supervised, SuperviseError> {
    let signals = take_signals().map_err(cannot("cannot receive signals"))?;
    sys::keep_descriptors_private().map_err(cannot(
        "cannot keep inherited descriptors (Linux 5.11 or newer is needed)",
    ))?;
    let exe = OwnExecutable::open().map_err(cannot("cannot open our own executable"))?;
    let nonce = Nonce::random().map_err(cannot("no nonce"))?;
    let nofile = raise_nofile().map_err(cannot("cannot raise the limit of open files"))?;
    let id = ProcessId::own().map_err(cannot("cannot read our own identity from /proc"))?;
    let own = own_pid();
    let bystanders = snapshot()
        .map_err(cannot("cannot read /proc"))?
        .into_values()
        .filter(|stat| stat.parent == own)
        .map(|stat| stat.pid)
        .collect();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(cannot("cannot become a subreaper"))?;
    let intents = IntentLog::create(&config.runs, &nonce, &id)
        .map_err(cannot("cannot record that a run begins"))?;
    let mut stub = Stub {
        config,
        nonce,
        exe,
        nofile,
        id,
        intents,
        signals,
        bystanders,
        roster: Roster::default(),
        watchdog: None,
        controller: None,
        interrupted: None,
    };
    let outcome = match stub.start() {
        Ok(()) => stub.wait(),
        Err(error) => Outcome::Lost(error.to_string()),
    };
    Ok(stub.finish(&outcome))
}

fn take_signals() -> nix::Result<SignalFd> {
    let mut mask = SigSet::empty();
    for signal in [NixSignal::SIGINT, NixSignal::SIGTERM, NixSignal::SIGHUP] {
        mask.add(signal);
    }
    mask.thread_block()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

impl Stub<'_> {
    /// Starts the watchdog, then the controller, which waits for its hello until the watchdog has
    /// acknowledged to hold it.
    fn start(&mut self) -> Result<(), SuperviseError> {
        let pair = || PacketSocket::pair().map_err(cannot("no socket pair"));
        let (watchdog_link, theirs) = pair()?;
        let words = &self.config.watchdog;
        let process = self
            .launch(words, theirs, true)
            .map_err(cannot("the watchdog does not start"))?;
        let watchdog = process.id.clone();
        self.watchdog = Some(Child {
            process,
            link: None,
        });
        self.record(Part::Watchdog, &watchdog)?;
        let (controller_end, watchdog_end) = pair()?;
        let intents = self.intents.path().to_owned();
        let hello = Message::HelloWatchdog {
            nonce: self.nonce,
            intents: intents.clone(),
        };
        send(&watchdog_link, &hello, &[watchdog_end.as_fd()])
            .map_err(cannot("the watchdog does not listen"))?;

        let (controller_link, theirs) = pair()?;
        let words = &self.config.controller;
        let process = self
            .launch(words, theirs, false)
            .map_err(cannot("the controller does not start"))?;
        let controller = process.id.clone();
        let held = Message::Controller {
            seq: 0,
            id: controller.clone(),
        };
        let sent = send(&watchdog_link, &held, &[process.pidfd.as_fd()]);
        self.controller = Some(Child {
            process,
            link: None,
        });
        sent.map_err(cannot("the watchdog does not listen"))?;
        self.record(Part::Controller, &controller)?;
        let answer = watchdog_link.receive::<Message>(ANSWER_BOUND);
        if !matches!(
            answer,
            Ok(Received::Message(Message::Ack { refused: None, .. }, _))
        ) {
            let error = io::Error::other("it did not acknowledge the controller");
            return Err(cannot("the watchdog failed")(error));
        }
        let input =
            sealed(&self.config.input).map_err(cannot("cannot hand the plan to the controller"))?;
        let hello = Message::HelloController {
            nonce: self.nonce,
            intents,
            runs: self.config.runs.clone(),
            nofile: self.nofile,
            stub: self.id.clone(),
            watchdog,
        };
        send(
            &controller_link,
            &hello,
            &[controller_end.as_fd(), self.exe.as_fd(), input.as_fd()],
        )
        .map_err(cannot("the controller does not listen"))?;
        for (child, link) in [
            (&mut self.watchdog, watchdog_link),
            (&mut self.controller, controller_link),
        ] {
            if let Some(child) = child {
                child.link = Some(link);
            }
        }
        Ok(())
    }

    fn record(&mut self, part: Part, id: &ProcessId) -> Result<(), SuperviseError> {
        let intent = Intent::Member {
            part,
            id: id.clone(),
        };
        self.intents
            .append(&intent)
            .map_err(cannot("cannot record a process"))
    }

    fn launch(
        &self,
        words: &[OsString],
        stdin: PacketSocket,
        hidden: bool,
    ) -> io::Result<Launched> {
        let env = BTreeMap::from([(RUN_VARIABLE.into(), self.nonce.to_string().into())]);
        // A watchdog that held the user's streams would keep a pipe open after the run.
        let stream = || {
            if hidden {
                Stdio::null()
            } else {
                Stdio::inherit()
            }
        };
        launch(Launch {
            exe: &self.exe,
            arg0: "tweedledum".as_ref(),
            args: words,
            env: &env,
            clear: hidden,
            cwd: None,
            own_group: true,
            stdin,
            stdout: stream(),
            stderr: stream(),
        })
    }

    fn wait(&mut self) -> Outcome {
        loop {
            if let Some(outcome) = self.look() {
                return outcome;
            }
            if let Some(error) = self.sleep().err() {
                return Outcome::Lost(format!("the stub cannot wait: {error}"));
            }
        }
    }

    /// Handles whatever has happened. The controller's end counts before the watchdog's.
    fn look(&mut self) -> Option<Outcome> {
        if let Some(link) = self
            .controller
            .as_ref()
            .and_then(|child| child.link.as_ref())
            && !self.roster.serve(link).unwrap_or(false)
            && let Some(child) = &mut self.controller
        {
            child.link = None;
        }
        match self
            .controller
            .as_ref()
            .map(|child| ended(&child.process.pidfd))
        {
            Some(Some(kind)) => {
                self.controller = None;
                return Some(Outcome::Controller(kind));
            }
            Some(None) => {}
            None => return Some(Outcome::Lost("there is no controller".to_owned())),
        }
        if let Some(kind) = self
            .watchdog
            .as_ref()
            .and_then(|child| ended(&child.process.pidfd))
        {
            self.watchdog = None;
            return Some(Outcome::Lost(watchdog_died(kind)));
        }
        while let Ok(Some(info)) = self.signals.read_signal() {
            let signal = i32::try_from(info.ssi_signo).unwrap_or(libc::SIGTERM);
            if let Some(outcome) = self.interrupt(signal) {
                return Some(outcome);
            }
        }
        match self.interrupted {
            Some((signal, deadline)) if Instant::now() >= deadline => {
                Some(Outcome::Interrupted(signal))
            }
            _ => None,
        }
    }

    fn interrupt(&mut self, signal: i32) -> Option<Outcome> {
        // A closed terminal ends a run as a request to terminate does.
        let signal = if signal == libc::SIGHUP {
            libc::SIGTERM
        } else {
            signal
        };
        if self.interrupted.is_some() {
            return Some(Outcome::Interrupted(signal));
        }
        self.interrupted = Some((signal, Instant::now() + self.config.interrupt_grace));
        let link = self
            .controller
            .as_ref()
            .and_then(|child| child.link.as_ref());
        let told = link.is_some_and(|link| send(link, &Message::Interrupt { signal }, &[]).is_ok());
        (!told).then_some(Outcome::Interrupted(signal))
    }

    fn sleep(&self) -> io::Result<()> {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        for child in [&self.controller, &self.watchdog].into_iter().flatten() {
            fds.push(PollFd::new(&child.process.pidfd, PollFlags::IN));
        }
        // The watchdog says nothing after its first answer; its end is seen through its pidfd.
        if let Some(link) = self
            .controller
            .as_ref()
            .and_then(|child| child.link.as_ref())
        {
            fds.push(PollFd::new(link, PollFlags::IN));
        }
        let timeout = self
            .interrupted
            .map(|(_, deadline)| timespec(deadline.saturating_duration_since(Instant::now())));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn finish(mut self, outcome: &Outcome) -> Supervised {
        let mut report = self.remove_everything();
        report
            .left
            .extend(undo::remove_recorded(self.intents.path()));
        let watchdog = self.dismiss_watchdog();
        reap_children(|pid| self.bystanders.contains(&pid));
        if report.left.is_empty() {
            // A file that stays only makes `clean` look once more.
            let _ = undo::forget(self.intents.path());
        }
        let interrupted = matches!(outcome, Outcome::Controller(ExitKind::Code(130 | 143)));
        let (mut code, reason) = match outcome {
            Outcome::Controller(_) if watchdog.is_some() && !interrupted => {
                (EXIT_SUBSTRATE, watchdog.map(watchdog_died))
            }
            Outcome::Controller(ExitKind::Code(code)) => {
                (u8::try_from(*code).unwrap_or(EXIT_SUBSTRATE), None)
            }
            Outcome::Controller(kind) => (
                EXIT_SUBSTRATE,
                Some(format!(
                    "the controller died unexpectedly ({}); everything of the run was removed",
                    words_for(*kind)
                )),
            ),
            Outcome::Lost(reason) => (EXIT_SUBSTRATE, Some(reason.clone())),
            Outcome::Interrupted(signal) => (
                u8::try_from(128 + signal).unwrap_or(EXIT_SUBSTRATE),
                Some("interrupted; everything of the run was killed at once".to_owned()),
            ),
        };
        if !report.left.is_empty() && !matches!(code, 130 | 143) {
            code = EXIT_LEFT;
        }
        Supervised {
            code,
            reason,
            killed: report.killed,
            left: report.left,
        }
    }

    /// Kills and reaps all that this run started. The controller is frozen first, so that it
    /// starts nothing more, and killed last, so that what is below it can be found.
    fn remove_everything(&mut self) -> KillReport {
        let deadline = Instant::now() + TEARDOWN_BOUND;
        if let Some(controller) = &self.controller {
            let _ = pidfd_send_signal(&controller.process.pidfd, Signal::STOP);
            if let Some(link) = &controller.link {
                let _ = self.roster.serve(link);
            }
        }
        let mut report = KillReport {
            killed: self.roster.kill(deadline),
            left: Vec::new(),
        };
        if let Some(controller) = self.controller.take() {
            report.then(self.hunt(&[controller.process.id.pid], deadline));
            if pidfd_send_signal(&controller.process.pidfd, Signal::KILL).is_ok() {
                let _ = wait_readable(&[controller.process.pidfd.as_fd()], deadline);
                report.killed += 1;
            }
        }
        report.then(self.hunt(&[], deadline));
        report
    }

    fn hunt(&self, spare: &[i32], deadline: Instant) -> KillReport {
        // With children of somebody else around, an orphan without the nonce may be theirs; what
        // is below the controller is ours for certain.
        let own = [own_pid()];
        let roots: &[i32] = if self.bystanders.is_empty() {
            &own
        } else {
            spare
        };
        let watchdog = self.watchdog.iter().map(|child| child.process.id.pid);
        let spare: Vec<i32> = spare.iter().copied().chain(watchdog).collect();
        let nonce = Some(&self.nonce);
        Hunt {
            roots,
            nonce,
            spare: &spare,
            leave: &self.bystanders,
            ..Hunt::default()
        }
        .run(deadline)
    }

    /// The watchdog goes last: until here it was the one to finish the job, had the stub died.
    /// Says how it ended when it did not just go: a controller may have noticed its death, and
    /// ended because of it, before this process did.
    fn dismiss_watchdog(&mut self) -> Option<ExitKind> {
        let watchdog = self.watchdog.take()?;
        if let Some(link) = &watchdog.link {
            let _ = link.send(&Message::Bye, &[]);
        }
        let pidfd = watchdog.process.pidfd.as_fd();
        let bound = Instant::now() + GOODBYE_BOUND;
        if watchdog.link.is_some() && wait_readable(&[pidfd], bound).unwrap_or(false) {
            return ended(&watchdog.process.pidfd).filter(|kind| *kind != ExitKind::Code(0));
        }
        let _ = pidfd_send_signal(pidfd, Signal::KILL);
        let _ = wait_readable(&[pidfd], bound + GOODBYE_BOUND);
        None
    }
}

/// How a child ended, reaped; `None` while it lives.
fn ended(pidfd: &OwnedFd) -> Option<ExitKind> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    match rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd.as_fd()), options)) {
        Ok(None) => None,
        Ok(Some(status)) => Some(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => ExitKind::Code(code),
            (None, Some(signal)) => ExitKind::Signal(signal),
            (None, None) => ExitKind::Lost,
        }),
        Err(_) => Some(ExitKind::Lost),
    }
}

fn watchdog_died(kind: ExitKind) -> String {
    format!(
        "the watchdog died unexpectedly ({}), so the run was ended: without it a crash could \
         leave processes",
        words_for(kind)
    )
}

fn words_for(kind: ExitKind) -> String {
    match kind {
        ExitKind::Code(code) => format!("exit code {code}"),
        ExitKind::Signal(signal) => match NixSignal::try_from(signal) {
            Ok(name) => format!("killed by {name}"),
            Err(_) => format!("killed by signal {signal}"),
        },
        ExitKind::Lost => "its exit status was lost".to_owned(),
    }
}
