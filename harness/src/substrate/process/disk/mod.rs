//! A cap on what a node's data directory can take, without privileges, file systems of our own, or help of the node.
//!
//! Reading order: `calls` (which system calls are told, and the filter program), `seccomp` (the kernel's side),
//! `ledger` (what the files take), `account`, `writes` and `transfers` (what is answered), `perform` and `carry` (short writes and transfers), `watches` (when files are
//! gone), `supervisor` (the thread), `probe` (evidence that does not depend on the node).
//!
//! ```text
//! shim ── installs filter, sends listener over its gate socket, execs ─► node: write(…) waits
//!                         │                                                        ▲
//!                  Spawner::go ── DiskAccount::attach ─► supervisor thread: decides, answers
//! ```
//!
//! The unit is the allocated block of 4 KiB of regular files that are under the data directory, or open from it after they
//! were unlinked. Sparse length is free; directories count nothing. A write that crosses the cap is made up to the last
//! byte of the last block that fits. Children of the node inherit its filter and are accounted to the same directory.
//!
//! Only nodes whose plan needs it get a filter. What escapes it makes itself known: a shared writable mapping, or a process
//! that does not let itself be looked at, is told by [`DiskStatus::broken`], and the run is inconclusive.

mod account;
mod caller;
mod calls;
mod carry;
mod ledger;
mod perform;
pub(crate) mod probe;
mod scan;
mod seccomp;
mod supervisor;
mod transfers;
mod watches;
mod writes;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use rustix::event::{EventfdFlags, eventfd};
use thiserror::Error;
use tokio::sync::{oneshot, watch};

use account::Account;
use supervisor::{Meter, Order, Supervisor};
use watches::Watches;

pub use crate::substrate::disk::{DiskStatus, Hit, Probed, Reading, Wanted};

/// How the supervisor writes in a node's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// Through the node's own descriptor, where the system allows to take it; else as [`Reopen`](Self::Reopen).
    Own,
    /// Through a descriptor of its own, which then replaces the node's.
    Reopen,
}

/// Whose calls a filter tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The node's and its children's.
    Node,
    /// A probe's of our own.
    Probe,
}

/// Why disks cannot be held.
#[derive(Debug, Error)]
pub enum DiskError {
    /// The kernel cannot do it.
    #[error(
        "disk limits need seccomp user notification with WAIT_KILLABLE_RECV, which this kernel refuses: {source}; {}",
        remedy(.source)
    )]
    Kernel {
        /// Its reason.
        source: io::Error,
    },
    /// The supervisor could not be started.
    #[error("cannot start the supervisor of disks: {0}")]
    Start(io::Error),
    /// A data directory cannot be used.
    #[error("cannot hold the disk of {}: {source}", .root.display())]
    Root {
        /// The directory.
        root: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The supervisor is gone.
    #[error("the supervisor of disks is gone, and calls of its nodes fail with ENOSYS")]
    Gone,
}

/// What to do about a kernel that refuses a filter.
pub(crate) fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EINVAL) => {
            "use a kernel of at least 5.19 with CONFIG_SECCOMP_FILTER (`uname -r`), or run the plan without disk limits and faults"
        }
        Some(libc::EBUSY) => {
            "a filter with a listener is in place already, from a container runtime or a node's own program: run outside of it, or without disk limits and faults"
        }
        Some(libc::ENOSYS | libc::EPERM | libc::EACCES) => {
            "the container's seccomp profile forbids it: allow seccomp(2), as with `docker run --security-opt seccomp=unconfined`"
        }
        _ => "run the plan without disk limits and faults, and please report this",
    }
}

/// Whether disks can be held here at all. Changes nothing.
pub fn supported() -> Result<(), DiskError> {
    if calls::program().is_none() {
        let source = io::Error::other("only x86-64 and aarch64 are known");
        return Err(DiskError::Kernel { source });
    }
    seccomp::knows_flags().map_err(|source| DiskError::Kernel { source })
}

/// Puts the filter on the calling process; the listener has to reach the supervisor.
pub(crate) fn install() -> io::Result<OwnedFd> {
    let mut program =
        calls::program().ok_or_else(|| io::Error::other("only x86-64 and aarch64 are known"))?;
    rustix::thread::set_no_new_privs(true)?;
    seccomp::install(&mut program)
}

/// The way to the supervisor's thread. The thread ends with the last of these, and with it every listener closes.
#[derive(Debug, Clone)]
struct Line {
    orders: mpsc::Sender<Order>,
    wake: Arc<OwnedFd>,
}

impl Line {
    fn send(&self, order: Order) -> Result<(), DiskError> {
        self.orders.send(order).map_err(|_| DiskError::Gone)?;
        // A full counter is readable as well.
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        Ok(())
    }
}

/// Holds disks of nodes. Dropping it ends the thread, after which calls of nodes that still live fail.
#[derive(Debug)]
pub struct DiskSupervisor {
    line: Line,
    meter: Arc<Meter>,
    next: AtomicU64,
    means: Means,
}

impl DiskSupervisor {
    /// Starts the thread.
    pub fn start(means: Means) -> Result<Self, DiskError> {
        supported()?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| DiskError::Start(error.into()))?;
        let wake = Arc::new(wake);
        let (orders, inbox) = mpsc::channel();
        let meter = Arc::new(Meter::default());
        let supervisor = Supervisor {
            orders: inbox,
            wake: Arc::clone(&wake),
            watches: Watches::new().map_err(DiskError::Start)?,
            accounts: BTreeMap::new(),
            listeners: Vec::new(),
            meter: Arc::clone(&meter),
        };
        std::thread::Builder::new()
            .name("td-disks".to_owned())
            .spawn(move || supervisor.run())
            .map_err(DiskError::Start)?;
        Ok(Self {
            line: Line { orders, wake },
            meter,
            next: AtomicU64::new(0),
            means,
        })
    }

    /// Keeps account of a directory, without a cap yet.
    pub fn open(&self, root: &Path) -> Result<DiskAccount, DiskError> {
        let root = fs_err::canonicalize(root).map_err(|source| DiskError::Root {
            root: root.to_owned(),
            source,
        })?;
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let (status, seen) = watch::channel(DiskStatus::default());
        let used = Arc::new(AtomicU64::new(0));
        let account = Account::new(key, root.clone(), self.means, status, Arc::clone(&used));
        self.line.send(Order::Open(Box::new(account)))?;
        Ok(DiskAccount {
            key,
            root,
            line: self.line.clone(),
            status: seen,
        })
    }

    /// How many calls were answered.
    pub fn answered(&self) -> u64 {
        self.meter.answered.load(Ordering::Relaxed)
    }

    /// The longest that a node waited for a decision, in nanoseconds, without the way to the thread and back.
    pub fn slowest_ns(&self) -> u64 {
        self.meter.slowest_ns.load(Ordering::Relaxed)
    }
}

impl Drop for DiskSupervisor {
    fn drop(&mut self) {
        // A thread that is gone needs no telling.
        let _ = self.line.send(Order::Close);
    }
}

/// The disk of one node. A handle that can be cloned.
#[derive(Debug, Clone)]
pub struct DiskAccount {
    key: u64,
    root: PathBuf,
    line: Line,
    status: watch::Receiver<DiskStatus>,
}

impl DiskAccount {
    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A process begins under this account.
    pub(crate) fn attach(&self, listener: OwnedFd, whose: Whose) -> Result<(), DiskError> {
        self.line.send(Order::Attach {
            account: self.key,
            listener,
            whose,
        })
    }

    /// Makes the disk what it shall be, and reads it back.
    pub async fn set(&self, wanted: Wanted) -> Result<Reading, DiskError> {
        let (answer, reading) = oneshot::channel();
        self.line.send(Order::Set {
            account: self.key,
            wanted,
            answer,
        })?;
        reading.await.map_err(|_| DiskError::Gone)
    }

    /// What becomes of it. The channel closes with the supervisor.
    pub fn status(&self) -> watch::Receiver<DiskStatus> {
        self.status.clone()
    }
}
