//! The supervisor: one thread that answers the calls of all nodes whose disk is held.
//!
//! It waits for all listeners, for deaths of files and for orders at once, and takes one call of each listener per turn, so
//! that no node can keep it from the others. It owns every listener: when it ends, also by a panic, they close, and the
//! kernel answers ENOSYS to every node that waits or calls. A node never hangs on a supervisor that is gone.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::oneshot;

use super::account::{Account, Told};
use super::calls;
use super::ledger::BLOCK;
use super::seccomp::{Answer, Listener};
use super::watches::Watches;
use super::{Reading, Wanted, Whose};

/// What the supervisor is told to do.
#[derive(Debug)]
pub(super) enum Order {
    /// A directory to keep account of.
    Open(Box<Account>),
    /// A process begins under an account.
    Attach {
        account: u64,
        listener: OwnedFd,
        whose: Whose,
    },
    /// Its cap changes.
    Set {
        account: u64,
        wanted: Wanted,
        answer: oneshot::Sender<Reading>,
    },
    /// End.
    Close,
}

/// What the supervisor tells of itself.
#[derive(Debug, Default)]
pub(super) struct Meter {
    pub(super) answered: AtomicU64,
    pub(super) slowest_ns: AtomicU64,
}

/// A process and its children under a filter.
#[derive(Debug)]
pub(super) struct Filtered {
    account: u64,
    listener: Listener,
    whose: Whose,
}

/// The thread's own things.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) orders: mpsc::Receiver<Order>,
    /// Becomes readable with every order.
    pub(super) wake: Arc<OwnedFd>,
    pub(super) watches: Watches,
    pub(super) accounts: BTreeMap<u64, Account>,
    pub(super) listeners: Vec<Filtered>,
    pub(super) meter: Arc<Meter>,
}

impl Supervisor {
    /// Runs until it is told to close, or until nobody is left who could tell it anything.
    pub(super) fn run(mut self) {
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(error) => {
                    tracing::error!(%error, "disks are not held any more");
                    return;
                }
            };
            if ready.deaths {
                self.take_deaths();
            }
            if ready.orders && !self.take_orders() {
                return;
            }
            let mut dead = Vec::new();
            for (index, calls) in ready.listeners {
                if !calls || !self.serve(index) {
                    dead.push(index);
                }
            }
            // From the back, since the last one takes the place of one that is removed.
            for index in dead.into_iter().rev() {
                self.listeners.swap_remove(index);
            }
        }
    }

    fn wait(&self) -> io::Result<Ready> {
        // Deaths come last: what happened before a call that is found here is found as well.
        let first = [self.wake.as_fd()];
        let listeners = self.listeners.iter().map(|of| of.listener.as_fd());
        let mut fds: Vec<PollFd<'_>> = first
            .into_iter()
            .chain(listeners)
            .chain([self.watches.as_fd()])
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = Ready::default();
        for (place, fd) in fds.iter().enumerate() {
            let events = fd.revents();
            match place.checked_sub(1) {
                _ if events.is_empty() => {}
                None => ready.orders = true,
                Some(index) if index == self.listeners.len() => ready.deaths = true,
                Some(index) => ready
                    .listeners
                    .push((index, events.contains(PollFlags::IN))),
            }
        }
        Ok(ready)
    }

    fn take_deaths(&mut self) {
        let gone = self.watches.gone();
        for (account, file) in gone.files {
            if let Some(account) = self.accounts.get_mut(&account) {
                account.gone(file);
            }
        }
        if gone.missed {
            for account in self.accounts.values_mut() {
                account.missed(&mut self.watches);
            }
        }
    }

    /// Carries orders out; false is the end.
    fn take_orders(&mut self) -> bool {
        // Emptied first: an order that comes in between wakes again.
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.wake, &mut count);
        loop {
            match self.orders.try_recv() {
                Ok(Order::Open(account)) => {
                    self.accounts.insert(account.key, *account);
                }
                Ok(Order::Attach {
                    account,
                    listener,
                    whose,
                }) => {
                    if let Some(of) = self.accounts.get_mut(&account) {
                        of.begin(&mut self.watches);
                        self.listeners.push(Filtered {
                            account,
                            listener: Listener::new(listener),
                            whose,
                        });
                    }
                }
                Ok(Order::Set {
                    account,
                    wanted,
                    answer,
                }) => {
                    if let Some(account) = self.accounts.get_mut(&account) {
                        // Whoever asked may have given up.
                        let _ = answer.send(set(account, wanted, &mut self.watches));
                    }
                }
                Ok(Order::Close) | Err(mpsc::TryRecvError::Disconnected) => return false,
                Err(mpsc::TryRecvError::Empty) => return true,
            }
        }
    }

    /// Answers one call; false when no process is left that could make another.
    fn serve(&mut self, index: usize) -> bool {
        let Some(of) = self.listeners.get(index) else {
            return true;
        };
        let listener = &of.listener;
        let Ok(what) = listener.receive() else {
            // Its thread died before it was received. Others may go on; the end of all is seen by the next wait.
            return true;
        };
        let began = Instant::now();
        let answer = match (self.accounts.get_mut(&of.account), calls::call(what.number)) {
            (Some(account), Some(call)) => {
                let told = Told {
                    call,
                    whose: of.whose,
                    what,
                    listener,
                };
                account.decide(told, &mut self.watches)
            }
            _ => Answer::Continue,
        };
        // An error means that the thread is dead.
        let _ = listener.answer(what.id, answer);
        let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.meter.answered.fetch_add(1, Ordering::Relaxed);
        self.meter.slowest_ns.fetch_max(took, Ordering::Relaxed);
        true
    }
}

fn set(account: &mut Account, wanted: Wanted, watches: &mut Watches) -> Reading {
    let used = account.used(watches);
    match wanted {
        Wanted::Read => {}
        Wanted::None => account.set_cap(None),
        Wanted::Bytes(bytes) => account.set_cap(Some(bytes / BLOCK)),
        Wanted::Leave { bytes, most } => {
            let cap = used.saturating_add(bytes / BLOCK);
            account.set_cap(Some(most.map_or(cap, |most| cap.min(most / BLOCK))));
        }
    }
    Reading {
        cap: account.cap().map(|cap| cap.saturating_mul(BLOCK)),
        used: used.saturating_mul(BLOCK),
    }
}

/// What a wait found.
#[derive(Debug, Default)]
struct Ready {
    orders: bool,
    deaths: bool,
    /// Places of listeners, and whether a call waits there; else all its processes are gone.
    listeners: Vec<(usize, bool)>,
}
