//! The disk of one node: what each of its calls does to the ledger, and what is answered.
//!
//! A call that fits is done by the kernel and booked before it is; one that crosses the cap is done up to the last block
//! that fits by `perform`; with no block left it fails with ENOSPC. Everything that is not about a file of
//! the directory goes on at once.
//!
//! **What is booked is the most that a call could take**, and reality is looked up (`reconcile`) before a call is refused or
//! shortened. So a call that was booked and then failed, and a source that was shorter than asked for, cost nothing. Blocks
//! of calls that may still be under way stay booked over a look: `under_way` has the last call of each thread, which is over
//! when the thread makes another one, or after a second.
//!
//! **Between the look at a call and its execution** another thread of the node may change what was looked at: the vector of
//! a `writev`, the file behind a descriptor, the position. A node is not an adversary of its harness, and what it gains is
//! found by the next look; a sandbox may not do this, a fault injector may. Writes of several threads at *one* position,
//! which they share, are booked wherever they may land; near the cap they are performed one after the other, where the
//! node's own descriptor can be had. Elsewhere such threads may pass the cap by what is under way at that moment.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::caller::{Buffer, Caller, descriptor, id_of, is_regular, size_of};
use super::calls::Call;
use super::ledger::{FileId, Ledger, Span};
use super::scan::{self, Knows};
use super::seccomp::{Answer, Listener, Notification};
use super::watches::Watches;
use super::writes::At;
use super::{DiskStatus, Hit, Means, Whose};

/// A node that hammers on a full disk is looked at no more often.
const LOOK_APART: Duration = Duration::from_millis(5);
/// A call that began so long ago is over, though its thread has made no other since.
const CALL_BOUND: Duration = Duration::from_secs(1);
/// Threads whose last call is remembered before those that are over are forgotten.
const THREADS: usize = 1024;

/// A call and who made it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told<'a> {
    pub(super) call: Call,
    pub(super) whose: Whose,
    pub(super) what: Notification,
    pub(super) listener: &'a Listener,
}

impl Told<'_> {
    pub(super) const fn caller(&self) -> Caller {
        Caller { tid: self.what.tid }
    }

    pub(super) const fn argument(&self, index: usize) -> u64 {
        self.what.arguments[index]
    }

    pub(super) fn fd(&self, index: usize) -> i32 {
        descriptor(self.argument(index))
    }

    /// What was read of the thread was its own.
    pub(super) fn waits(&self) -> bool {
        self.listener.waits(self.what.id)
    }
}

/// The disk of one node.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) key: u64,
    pub(super) root: PathBuf,
    pub(super) ledger: Ledger,
    /// The last call of each thread that was left to the kernel.
    under_way: BTreeMap<i32, UnderWay>,
    /// Something was booked since the last look.
    pub(super) unsettled: bool,
    /// Something was perhaps freed since the last look.
    pub(super) freed: bool,
    looked: Option<Instant>,
    pub(super) knows: Knows,
    pub(super) means: Means,
    status: watch::Sender<DiskStatus>,
    used: Arc<AtomicU64>,
}

/// A call that was left to the kernel, and what it may take.
#[derive(Debug, Clone, Copy)]
struct UnderWay {
    file: FileId,
    span: Span,
    /// Its own length, where it lands at a position that others may move before it does.
    shares: u64,
    since: Instant,
}

impl UnderWay {
    fn may_go_on(&self) -> bool {
        self.since.elapsed() < CALL_BOUND
    }
}

/// A regular file of the directory that a descriptor is open on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub(super) fd: i32,
    pub(super) file: FileId,
    pub(super) size: u64,
}

/// A call that needs no further thought: the kernel does it, or finds its mistake.
pub(super) const GO_ON: io::Result<Answer> = Ok(Answer::Continue);

impl Account {
    pub(super) fn new(
        key: u64,
        root: PathBuf,
        means: Means,
        status: watch::Sender<DiskStatus>,
        used: Arc<AtomicU64>,
    ) -> Self {
        Self {
            key,
            knows: Knows::at(&root),
            root,
            ledger: Ledger::default(),
            under_way: BTreeMap::new(),
            unsettled: false,
            freed: false,
            looked: None,
            means,
            status,
            used,
        }
    }

    /// A process begins under this account. What lies in the directory counts from now on.
    pub(super) fn begin(&mut self, watches: &mut Watches) {
        self.look(watches);
    }

    pub(super) const fn set_cap(&mut self, cap: Option<u64>) {
        self.ledger.set_cap(cap);
    }

    pub(super) const fn cap(&self) -> Option<u64> {
        self.ledger.cap()
    }

    /// Blocks taken, looked up.
    pub(super) fn used(&mut self, watches: &mut Watches) -> u64 {
        self.look(watches);
        self.ledger.used()
    }

    /// The last link and descriptor of a file are gone.
    pub(super) fn gone(&mut self, file: FileId) {
        self.ledger.forget(file);
        self.under_way.retain(|_, call| call.file != file);
        self.tell_used();
    }

    /// Deaths of files were missed: only what is found is there.
    pub(super) fn missed(&mut self, watches: &mut Watches) {
        for file in self.ledger.files().collect::<Vec<_>>() {
            self.ledger.forget(file);
        }
        self.look(watches);
    }

    /// What becomes of a call.
    pub(super) fn decide(&mut self, told: Told<'_>, watches: &mut Watches) -> Answer {
        // The thread's call before this one is over.
        self.under_way.remove(&told.what.tid);
        let answer = match self.answer(told, watches) {
            Ok(answer) => answer,
            Err(error) => {
                // A process that hides from us could write what it likes.
                if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) {
                    self.broken(&format!(
                        "process {} does not let itself be looked at ({error}), so its files cannot be counted",
                        told.what.tid
                    ));
                }
                // Else the thread is dead, or its call is one that the kernel refuses.
                Answer::Continue
            }
        };
        self.tell_used();
        answer
    }

    fn answer(&mut self, told: Told<'_>, watches: &mut Watches) -> io::Result<Answer> {
        let flat = || {
            vec![Buffer {
                address: told.argument(1),
                length: told.argument(2),
            }]
        };
        let vector = || told.caller().buffers(told.argument(1), told.argument(2));
        match told.call {
            Call::Write => self.write(told, watches, At::Position, 0, || Ok(flat())),
            Call::Pwrite => {
                self.write(
                    told,
                    watches,
                    At::Offset(told.argument(3)),
                    0,
                    || Ok(flat()),
                )
            }
            Call::Writev => self.write(told, watches, At::Position, 0, vector),
            Call::Pwritev => self.write(told, watches, At::Offset(told.argument(3)), 0, vector),
            Call::Pwritev2 => {
                let at = match told.argument(3) {
                    u64::MAX => At::Position,
                    offset => At::Offset(offset),
                };
                let flags = descriptor(told.argument(5));
                self.write(told, watches, at, flags, vector)
            }
            Call::Fallocate => self.fallocate(told, watches),
            Call::Ftruncate => {
                if let Some(target) = self.target(told, 0, watches)? {
                    self.cut(told, target.file, told.argument(1));
                }
                GO_ON
            }
            Call::Truncate => self.cut_path(told, libc::AT_FDCWD, 0, told.argument(1)),
            Call::Open | Call::Creat => self.cut_path(told, libc::AT_FDCWD, 0, 0),
            Call::Openat => self.cut_path(told, told.fd(0), 1, 0),
            Call::Openat2 => {
                let [flags] = told.caller().words(told.argument(2))?;
                if flags & u64::from(libc::O_TRUNC.unsigned_abs()) == 0 {
                    return GO_ON;
                }
                self.cut_path(told, told.fd(0), 1, 0)
            }
            Call::CopyFileRange | Call::Splice => {
                self.copy(told, watches, (0, Some(1)), (2, Some(3)), 4)
            }
            Call::Sendfile => self.copy(told, watches, (1, Some(2)), (0, None), 3),
            Call::Ioctl => self.clone(told, watches),
            Call::Rename => {
                self.renames(told, watches, (libc::AT_FDCWD, 0), (libc::AT_FDCWD, 1), 0)
            }
            Call::Renameat => self.renames(told, watches, (told.fd(0), 1), (told.fd(2), 3), 0),
            Call::Renameat2 => {
                let flags = told.argument(4);
                self.renames(told, watches, (told.fd(0), 1), (told.fd(2), 3), flags)
            }
            Call::Link => self.links(told, (libc::AT_FDCWD, 0), (libc::AT_FDCWD, 1), 0),
            Call::Linkat => {
                let flags = descriptor(told.argument(4));
                self.links(told, (told.fd(0), 1), (told.fd(2), 3), flags)
            }
            Call::Mmap => self.mmap(told, watches),
            Call::Seccomp => {
                self.status.send_modify(|status| {
                    status.refused.get_or_insert_with(|| {
                        "it installs a seccomp filter with a listener of its own, which the kernel allows once in a chain (EBUSY)".to_owned()
                    });
                });
                GO_ON
            }
        }
    }

    /// A regular file of the directory behind a descriptor; `None` for everything else.
    pub(super) fn target(
        &mut self,
        told: Told<'_>,
        argument: usize,
        watches: &mut Watches,
    ) -> io::Result<Option<Target>> {
        let (caller, fd) = (told.caller(), told.fd(argument));
        let name = caller.name_of(fd)?;
        // Sockets, pipes and their like have no path.
        if name.first() != Some(&b'/') {
            return Ok(None);
        }
        let inside = self.holds(&name);
        let stat = caller.stat(fd)?;
        let file = id_of(&stat);
        if !is_regular(&stat) || !inside && !self.ledger.knows(file) || !told.waits() {
            return Ok(None);
        }
        if !self.ledger.knows(file) {
            self.meet(file, Path::new(&caller.path_of(fd)), watches);
        }
        Ok(Some(Target {
            fd,
            file,
            size: size_of(&stat),
        }))
    }

    /// Whether a real path is under the directory.
    pub(super) fn holds(&self, path: &[u8]) -> bool {
        path.strip_prefix(self.root.as_os_str().as_bytes())
            .is_some_and(|rest| rest.first() == Some(&b'/'))
    }

    /// A file is one of the directory's from now on.
    fn meet(&mut self, file: FileId, path: &Path, watches: &mut Watches) {
        let data = rustix::fs::openat(
            rustix::fs::CWD,
            path,
            rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .map_err(io::Error::from)
        .and_then(scan::data);
        self.ledger.settle(file, data.unwrap_or_default());
        watches.watch(self.key, file, path);
    }

    /// How much of a write fits; before it is less than all, reality is looked up.
    pub(super) fn fit(&mut self, file: FileId, span: Span, watches: &mut Watches) -> u64 {
        let fits = self.ledger.fit(file, span);
        let rested = || self.looked.is_none_or(|at| at.elapsed() >= LOOK_APART);
        if fits >= span.length || !self.freed && (!self.unsettled || !rested()) {
            return fits;
        }
        self.look(watches);
        self.ledger.fit(file, span)
    }

    /// How far behind a position a write may land that others are under way to: all of them may come before it.
    pub(super) fn sharing(&self, file: FileId) -> u64 {
        let others = self.under_way.values();
        let others = others.filter(|call| call.file == file && call.may_go_on());
        others.map(|call| call.shares).sum()
    }

    /// Books a call that is left to the kernel, and how much of it lands at a position that is shared.
    pub(super) fn book(&mut self, told: Told<'_>, file: FileId, span: Span, shares: u64) {
        self.ledger.take(file, span);
        self.goes_on(told, file, span, shares);
    }

    /// The kernel makes a call, from now until the thread makes another one.
    pub(super) fn goes_on(&mut self, told: Told<'_>, file: FileId, span: Span, shares: u64) {
        self.unsettled = true;
        if self.under_way.len() >= THREADS {
            self.bury();
        }
        let call = UnderWay {
            file,
            span,
            shares,
            since: Instant::now(),
        };
        self.under_way.insert(told.what.tid, call);
    }

    /// Forgets calls that are over.
    fn bury(&mut self) {
        self.under_way
            .retain(|tid, call| call.may_go_on() && Path::new(&format!("/proc/{tid}")).exists());
    }

    /// Looks reality up. What threads may be doing right now stays booked.
    fn look(&mut self, watches: &mut Watches) {
        if self.knows.holes {
            self.bury();
            for found in scan::files(&self.root) {
                if !self.ledger.knows(found.file) {
                    watches.watch(self.key, found.file, &found.path);
                }
                self.ledger.settle(found.file, found.data);
                let (offset, length) = (found.size, self.sharing(found.file));
                self.book_perhaps(found.file, Span { offset, length });
            }
            for (file, span, shares) in self.calls() {
                if shares == 0 {
                    self.ledger.take(file, span);
                } else {
                    self.book_perhaps(file, span);
                }
            }
        }
        // A call that was still under way may free, or fail to take, what the look has found or kept.
        self.unsettled = !self.under_way.is_empty();
        self.freed = false;
        self.looked = Some(Instant::now());
        self.tell_used();
    }

    fn calls(&self) -> Vec<(FileId, Span, u64)> {
        let calls = self.under_way.values();
        calls
            .map(|call| (call.file, call.span, call.shares))
            .collect()
    }

    /// Books where a call may land, never over the cap: what is booked may be written to, and may then be too much.
    fn book_perhaps(&mut self, file: FileId, mut span: Span) {
        span.length = self.ledger.fit(file, span);
        self.ledger.take(file, span);
    }

    /// A call did not get what it asked for. Those of our own probes hit nobody.
    pub(super) fn hit(&self, told: Told<'_>, asked: u64, given: u64) {
        if told.whose == Whose::Probe {
            return;
        }
        self.status.send_modify(|status| {
            status.hits += 1;
            status.last_hit = Some(Hit {
                call: told.call.name(),
                asked,
                given,
            });
        });
    }

    pub(super) fn broken(&self, why: &str) {
        self.status.send_if_modified(|status| {
            let first = status.broken.is_none();
            status.broken.get_or_insert_with(|| why.to_owned());
            first
        });
    }

    fn tell_used(&self) {
        self.used.store(self.ledger.used(), Ordering::Relaxed);
    }
}
