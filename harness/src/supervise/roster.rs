//! What a guard holds: the pidfds of nodes and the locks of address blocks.
//!
//! Stub and watchdog keep the same list by the same code. The list is bounded by the number of
//! living nodes, since dead ones are unregistered.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::process::{Signal, pidfd_send_signal};

use super::wire::{Message, exactly, send};
use crate::substrate::process::packet::{PacketSocket, Received};
use crate::substrate::process::remains::wait_for_deaths;
use crate::substrate::process::{ProcessId, block};

/// More than any run has: beyond it a controller has gone mad.
const MAX_ENTRIES: usize = 4 * block::MAX_NODES;

/// What a guard holds.
#[derive(Debug, Default)]
pub(super) struct Roster {
    nodes: BTreeMap<u64, Entry>,
    locks: Vec<OwnedFd>,
}

#[derive(Debug)]
struct Entry {
    #[expect(dead_code, reason = "shown by Debug when a guard is looked at")]
    name: String,
    #[expect(dead_code, reason = "shown by Debug when a guard is looked at")]
    id: ProcessId,
    pidfd: OwnedFd,
}

impl Roster {
    /// Reads everything that the controller has sent and answers it. False when the controller's
    /// end is closed.
    pub(super) fn serve(&mut self, controller: &PacketSocket) -> io::Result<bool> {
        loop {
            match controller.try_receive::<Message>()? {
                Received::Message(message, fds) => {
                    if let Some(answer) = self.apply(message, fds) {
                        send(controller, &answer, &[])?;
                    }
                }
                Received::Empty => return Ok(true),
                Received::Closed => return Ok(false),
            }
        }
    }

    fn apply(&mut self, message: Message, fds: Vec<OwnedFd>) -> Option<Message> {
        let (seq, refused) = match message {
            Message::Register {
                seq,
                node,
                name,
                id,
            } => (seq, self.register(node, name, id, fds).err()),
            Message::Unregister { seq, node } => {
                self.nodes.remove(&node);
                (seq, None)
            }
            Message::Hold { seq } => (seq, self.hold(fds).err()),
            // Nothing else is for a guard, and nobody waits for an answer to it.
            _ => return None,
        };
        Some(Message::Ack { seq, refused })
    }

    fn register(
        &mut self,
        node: u64,
        name: String,
        id: ProcessId,
        fds: Vec<OwnedFd>,
    ) -> Result<(), String> {
        if self.nodes.len() >= MAX_ENTRIES {
            return Err(format!("already holds {MAX_ENTRIES} processes"));
        }
        let [pidfd] = exactly(fds).map_err(|error| error.to_string())?;
        self.nodes.insert(node, Entry { name, id, pidfd });
        Ok(())
    }

    fn hold(&mut self, fds: Vec<OwnedFd>) -> Result<(), String> {
        if self.locks.len() >= MAX_ENTRIES {
            return Err(format!("already holds {MAX_ENTRIES} locks"));
        }
        let [lock] = exactly(fds).map_err(|error| error.to_string())?;
        self.locks.push(lock);
        Ok(())
    }

    /// Kills everything on the list and waits for the deaths until the deadline. Returns how many
    /// were still alive.
    pub(super) fn kill(&mut self, deadline: Instant) -> usize {
        let mut pidfds = Vec::new();
        for entry in std::mem::take(&mut self.nodes).into_values() {
            if pidfd_send_signal(&entry.pidfd, Signal::KILL).is_ok() {
                pidfds.push(entry.pidfd);
            }
        }
        wait_for_deaths(&pidfds, deadline);
        pidfds.len()
    }
}
