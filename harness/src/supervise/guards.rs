//! The controller's side of the chain: its hello, its registrations, and what the guards tell it.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::signal::{SigSet, Signal};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::wire::{ANSWER_BOUND, Message, exactly, unsealed};
use crate::substrate::process::packet::{PacketSocket, Received, receive_on, send_on};
use crate::substrate::process::watched::WatchedFd;
use crate::substrate::process::{
    AddressBlock, AddressBlocks, Nonce, OwnExecutable, ProcessId, raise_nofile,
};
use crate::undo::{Intent, IntentLog};

/// How many events wait for the controller at most: each guard dies once, and interrupts after
/// the second are of no use.
const EVENTS: usize = 16;

/// A member of the chain that guards the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guard {
    /// What the user started.
    Stub,
    /// The second guard.
    Watchdog,
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stub => "stub",
            Self::Watchdog => "watchdog",
        })
    }
}

/// Why a guard cannot be used.
#[derive(Debug, Error)]
pub enum GuardError {
    /// The process has no link to a stub.
    #[error("this is an internal command that `tweedledum run` starts: {0}")]
    NotSupervised(String),
    /// A guard did not answer in time.
    #[error("the {guard} did not acknowledge within {} s", ANSWER_BOUND.as_secs())]
    NoAnswer {
        /// Which.
        guard: Guard,
    },
    /// A guard is dead.
    #[error("the {guard} is dead")]
    Dead {
        /// Which.
        guard: Guard,
    },
    /// A guard answered no.
    #[error("the {guard} refused: {why}")]
    Refused {
        /// Which.
        guard: Guard,
        /// Its reason.
        why: String,
    },
    /// The system refused something.
    #[error("cannot talk to the guards: {0}")]
    System(#[from] io::Error),
}

/// What the guards tell the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardEvent {
    /// The user wants the run to end: heal, tear down, report, exit with 128 + the signal.
    Interrupt {
        /// SIGINT (2) or SIGTERM (15).
        signal: i32,
    },
    /// A guard is dead: tear down at once and exit with
    /// [`EXIT_SUBSTRATE`](super::EXIT_SUBSTRATE).
    GuardDied {
        /// Which.
        guard: Guard,
    },
}

/// What the stub told the controller about the run.
#[derive(Clone, Debug)]
pub struct RunContext {
    /// The run's nonce.
    pub nonce: Nonce,
    /// The directory of runs.
    pub runs: PathBuf,
    /// The run's intent file; open it with [`IntentLog::open`].
    pub intents: PathBuf,
    /// Our own executable.
    pub exe: OwnExecutable,
    /// The user's own soft limit of open files, which nodes get.
    pub nofile: u64,
    /// The stub.
    pub stub: ProcessId,
    /// The watchdog.
    pub watchdog: ProcessId,
}

/// The controller between its start and its runtime.
#[derive(Debug)]
pub struct ControllerEntry {
    /// What the stub told.
    pub context: RunContext,
    /// What the stub was told to hand over: [`SuperviseConfig::input`](super::SuperviseConfig::input).
    pub input: Vec<u8>,
    stub: PacketSocket,
    watchdog: PacketSocket,
}

/// The first thing a controller does, before it has threads: takes its standard input as the link
/// to the stub, waits for the hello, becomes a subreaper, and stops listening to the terminal's
/// signals, which come through the stub.
pub fn controller_enter() -> Result<ControllerEntry, GuardError> {
    let by_hand = |error: io::Error| GuardError::NotSupervised(error.to_string());
    let stub = PacketSocket::from_stdin().map_err(by_hand)?;
    let _ = rustix::thread::set_name(c"td-controller");
    let mut quiet = SigSet::empty();
    // Blocked and not ignored: children start with an empty mask, while "ignored" is inherited.
    // With SIGTTOU blocked a terminal with `tostop` does not stop our progress line.
    for signal in [
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGTTOU,
        Signal::SIGTTIN,
    ] {
        quiet.add(signal);
    }
    quiet.thread_block().map_err(io::Error::from)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(io::Error::from)?;
    raise_nofile()?;
    match stub.receive::<Message>(ANSWER_BOUND)? {
        Received::Message(hello, fds) => {
            let Message::HelloController {
                nonce,
                intents,
                runs,
                nofile,
                stub: id,
                watchdog,
            } = hello
            else {
                return Err(GuardError::NotSupervised(
                    "the first message is no hello".into(),
                ));
            };
            let [link, exe, input] = exactly(fds)?;
            let exe = OwnExecutable::from_fd(exe);
            let context = RunContext {
                nonce,
                runs,
                intents,
                exe,
                nofile,
                stub: id,
                watchdog,
            };
            Ok(ControllerEntry {
                context,
                input: unsealed(&input)?,
                stub,
                watchdog: PacketSocket::from_fd(link)?,
            })
        }
        Received::Closed => Err(GuardError::Dead { guard: Guard::Stub }),
        Received::Empty => Err(GuardError::NoAnswer { guard: Guard::Stub }),
    }
}

impl ControllerEntry {
    /// Connects to the guards. Call it inside the runtime.
    pub fn connect(self) -> Result<(RunContext, Guards, GuardEvents), GuardError> {
        let (sender, receiver) = mpsc::channel(EVENTS);
        let link = |guard, socket| -> io::Result<Arc<Link>> {
            let socket = WatchedFd::both(PacketSocket::into_fd(socket))?;
            Ok(Arc::new(Link {
                guard,
                socket,
                waiting: Mutex::new(Some(BTreeMap::new())),
            }))
        };
        let links = [
            link(Guard::Stub, self.stub)?,
            link(Guard::Watchdog, self.watchdog)?,
        ];
        let mut readers = JoinSet::new();
        for link in &links {
            readers.spawn(Arc::clone(link).read(sender.clone()));
        }
        let inner = Inner {
            links,
            next: AtomicU64::new(1),
            _readers: readers,
        };
        Ok((self.context, Guards(Arc::new(inner)), GuardEvents(receiver)))
    }
}

/// The events of both guards, in the order in which they came.
#[derive(Debug)]
pub struct GuardEvents(mpsc::Receiver<GuardEvent>);

impl GuardEvents {
    /// The next event; pending for ever when both guards are dead and all was told.
    pub async fn next(&mut self) -> GuardEvent {
        match self.0.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }
}

/// Both guards. A handle that can be cloned.
#[derive(Clone, Debug)]
pub struct Guards(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    links: [Arc<Link>; 2],
    next: AtomicU64,
    _readers: JoinSet<()>,
}

type Waiting = BTreeMap<u64, oneshot::Sender<Result<(), String>>>;

#[derive(Debug)]
struct Link {
    guard: Guard,
    socket: WatchedFd,
    /// Who waits for which answer; `None` once the guard is dead.
    waiting: Mutex<Option<Waiting>>,
}

impl Guards {
    /// Has both guards hold a process. Returns when both have acknowledged it.
    pub async fn register(
        &self,
        node: u64,
        name: &str,
        id: &ProcessId,
        pidfd: BorrowedFd<'_>,
    ) -> Result<(), GuardError> {
        let message = |seq| Message::Register {
            seq,
            node,
            name: name.to_owned(),
            id: id.clone(),
        };
        self.tell(message, &[pidfd]).await
    }

    /// Has both guards forget a process that is dead and reaped.
    pub async fn unregister(&self, node: u64) -> Result<(), GuardError> {
        self.tell(|seq| Message::Unregister { seq, node }, &[])
            .await
    }

    /// Locks addresses for this many nodes, has both guards hold the locks too, and records them
    /// in the run's intents.
    pub async fn claim_addresses(
        &self,
        context: &RunContext,
        nodes: usize,
    ) -> Result<AddressBlocks, ClaimError> {
        let blocks = AddressBlocks::claim(&context.nonce, nodes)?;
        let mut intents = IntentLog::open(&context.intents).map_err(GuardError::from)?;
        for block in &blocks {
            intents
                .append(&Intent::Block {
                    prefix: block.prefix(),
                })
                .map_err(GuardError::from)?;
            self.hold(block).await?;
        }
        Ok(blocks)
    }

    async fn hold(&self, block: &AddressBlock) -> Result<(), GuardError> {
        self.tell(|seq| Message::Hold { seq }, &[block.as_fd()])
            .await
    }

    async fn tell(
        &self,
        message: impl Fn(u64) -> Message,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), GuardError> {
        let seq = self.0.next.fetch_add(1, Ordering::Relaxed);
        let message = message(seq);
        let [stub, watchdog] = &self.0.links;
        let (stub, watchdog) = tokio::join!(
            stub.ask(seq, &message, fds),
            watchdog.ask(seq, &message, fds)
        );
        stub.and(watchdog)
    }
}

/// Why a run has no addresses.
#[derive(Debug, Error)]
pub enum ClaimError {
    /// There are none.
    #[error(transparent)]
    Block(#[from] crate::substrate::process::BlockError),
    /// The guards do not hold them.
    #[error(transparent)]
    Guard(#[from] GuardError),
}

impl Link {
    async fn ask(
        &self,
        seq: u64,
        message: &Message,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), GuardError> {
        let guard = self.guard;
        let (sender, answer) = oneshot::channel();
        match self.lock().as_mut() {
            Some(waiting) => waiting.insert(seq, sender),
            None => return Err(GuardError::Dead { guard }),
        };
        let asked = async {
            self.send(message, fds).await?;
            // Without a sender the guard died, or the answer was given up.
            match answer.await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(why)) => Err(GuardError::Refused { guard, why }),
                Err(_) => Err(GuardError::Dead { guard }),
            }
        };
        let result = tokio::time::timeout(ANSWER_BOUND, asked).await;
        if let Some(waiting) = self.lock().as_mut() {
            waiting.remove(&seq);
        }
        result.unwrap_or(Err(GuardError::NoAnswer { guard }))
    }

    async fn send(&self, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<(), GuardError> {
        loop {
            let mut ready = self.socket.writable().await?;
            // A full queue makes this wait until the guard has read.
            match ready.try_io(|socket| send_on(socket.as_fd(), message, fds)) {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Err(GuardError::Dead { guard: self.guard });
                }
                Ok(Err(error)) => return Err(error.into()),
                Err(_full) => {}
            }
        }
    }

    async fn read(self: Arc<Self>, events: mpsc::Sender<GuardEvent>) {
        while let Ok(mut ready) = self.socket.readable().await {
            match receive_on::<Message>(self.socket.as_fd()) {
                Ok(Received::Message(Message::Ack { seq, refused }, _)) => {
                    let waiting = self
                        .lock()
                        .as_mut()
                        .and_then(|waiting| waiting.remove(&seq));
                    if let Some(waiting) = waiting {
                        // Whoever asked may have given up.
                        let _ = waiting.send(refused.map_or(Ok(()), Err));
                    }
                }
                Ok(Received::Message(Message::Interrupt { signal }, _)) => {
                    // A full channel holds an interrupt already.
                    let _ = events.try_send(GuardEvent::Interrupt { signal });
                }
                Ok(Received::Message(..)) => {}
                Ok(Received::Empty) => ready.clear_ready(),
                Ok(Received::Closed) | Err(_) => break,
            }
        }
        *self.lock() = None;
        let _ = events.try_send(GuardEvent::GuardDied { guard: self.guard });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::supervise::roster::Roster;

    /// Two guards in this process, answering from a thread each, or silent.
    fn guards(serving: [bool; 2]) -> (ControllerEntry, Vec<PacketSocket>) {
        let (stub, stub_end) = PacketSocket::pair().unwrap();
        let (watchdog, watchdog_end) = PacketSocket::pair().unwrap();
        let own = ProcessId::own().unwrap();
        let context = RunContext {
            nonce: Nonce::random().unwrap(),
            runs: PathBuf::new(),
            intents: PathBuf::new(),
            exe: OwnExecutable::open().unwrap(),
            nofile: 1024,
            stub: own.clone(),
            watchdog: own,
        };
        let mut silent = Vec::new();
        for (socket, serve) in [stub_end, watchdog_end].into_iter().zip(serving) {
            if serve {
                std::thread::spawn(move || {
                    let mut roster = Roster::default();
                    while roster.serve(&socket).unwrap_or(false) {
                        let deadline = std::time::Instant::now() + Duration::from_secs(1);
                        let _ = crate::substrate::process::packet::wait_readable(
                            &[socket.as_fd()],
                            deadline,
                        );
                    }
                });
            } else {
                silent.push(socket);
            }
        }
        (
            ControllerEntry {
                context,
                input: Vec::new(),
                stub,
                watchdog,
            },
            silent,
        )
    }

    #[tokio::test]
    async fn many_registrations_at_once_are_all_answered() {
        let (entry, _) = guards([true, true]);
        let (context, guards, _events) = entry.connect().unwrap();
        let mut all = JoinSet::new();
        for node in 0..500 {
            let (guards, context) = (guards.clone(), context.clone());
            all.spawn(async move {
                guards
                    .register(node, "n", &context.stub, context.exe.as_fd())
                    .await
            });
        }
        while let Some(done) = all.join_next().await {
            done.unwrap().unwrap();
        }
        guards.unregister(7).await.unwrap();
    }

    #[tokio::test]
    async fn a_dead_guard_is_named_and_an_event() {
        let (entry, silent) = guards([true, false]);
        let (context, guards, mut events) = entry.connect().unwrap();
        drop(silent);
        assert_eq!(
            events.next().await,
            GuardEvent::GuardDied {
                guard: Guard::Watchdog
            }
        );
        let refused = guards
            .register(1, "n", &context.stub, context.exe.as_fd())
            .await;
        assert!(matches!(
            refused,
            Err(GuardError::Dead {
                guard: Guard::Watchdog
            })
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_guard_is_named() {
        let (entry, silent) = guards([false, false]);
        let (_, guards, _events) = entry.connect().unwrap();
        let unanswered = guards.unregister(1).await;
        assert!(matches!(
            unanswered,
            Err(GuardError::NoAnswer { guard: Guard::Stub })
        ));
        drop(silent);
    }
}
