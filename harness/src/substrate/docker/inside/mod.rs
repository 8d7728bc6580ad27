//! What runs inside a pod: the agent, and the keeper of a run. Both are our own executable as the
//! first process of their container.
//!
//! The agent does what it is told over its standard input and says what it sees on its standard
//! output. When its input closes, for whatever reason, everything it did is undone by its end: the
//! ports of floods close with it, and its ballast is a file without a name. It judges nothing.
//!
//! As process 1 it has two duties that an ordinary program has not: SIGTERM does nothing to it
//! unless it is handled, and processes that lost their parent are its to reap.

mod disk;
mod hunger;
mod keeper;
mod serve;

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};

use crate::agent::Dialect;
use crate::substrate::process::raise_nofile;

pub(crate) use keeper::AFTER;
pub use keeper::keeper_main;
pub(crate) use serve::serve;

/// Where the data volume is mounted in the agent's container.
pub const VOLUME: &str = "/pod";

/// The entry point of the agent's container. Returns when its input is closed or SIGTERM came. The
/// error is for a person who started it by hand, or for the engine's log.
pub fn agent_main(dialects: Vec<Arc<dyn Dialect>>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    // The flood's sockets are many.
    if let Err(error) = raise_nofile() {
        tracing::warn!(%error, "the limit of open files stays");
    }
    runtime.block_on(async {
        let by_hand = |error: io::Error| {
            format!("this is started by `tweedledum run` in containers, with pipes to it: {error}")
        };
        let (input, output) = streams().map_err(by_hand)?;
        let mut ends = Ends::new().map_err(|error| error.to_string())?;
        tokio::select! {
            served = serve(input, output, dialects, VOLUME.into()) => served,
            () = ends.asked_to_end() => Ok(()),
        }
    })
}

/// Standard input and output, which the engine made pipes.
fn streams() -> io::Result<(pipe::Receiver, pipe::Sender)> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    for end in [&input, &output] {
        let flags = rustix::fs::fcntl_getfl(end)?;
        rustix::fs::fcntl_setfl(end, flags | rustix::fs::OFlags::NONBLOCK)?;
    }
    Ok((
        pipe::Receiver::from_owned_fd(input)?,
        pipe::Sender::from_owned_fd(output)?,
    ))
}

/// The signals that the first process of a container has to mind.
struct Ends {
    term: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    child: tokio::signal::unix::Signal,
}

impl Ends {
    fn new() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            child: signal(SignalKind::child())?,
        })
    }

    /// Reaps orphans until SIGTERM or SIGINT comes.
    async fn asked_to_end(&mut self) {
        loop {
            tokio::select! {
                _ = self.term.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.child.recv() => {
                    // None of them was started here, so nobody here waits for any.
                    crate::substrate::process::remains::reap_children(|_| false);
                }
            }
        }
    }
}
