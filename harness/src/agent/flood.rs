//! The flooder: one datagram from each of many sources, evenly paced, ports kept open.
//!
//! A flood has two steps. [`PreparedFlood::prepare`] opens every socket and builds every datagram,
//! which is where the time goes; [`PreparedFlood::start`] sends them on absolute deadlines from a
//! thread of its own, because a packet path must not wait for an event loop. A second, sleepy
//! thread looks at the target's drop counter meanwhile. Nothing is random here: what a datagram
//! contains follows from [`FloodSpec::seed`].
//!
//! It does not judge whether the flood arrived (see [`super::evidence`]), does not send a second
//! datagram from any source, and reads no answers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::drops::DropsCounter;
use super::stop::Stop;
use super::{DatagramKind, DatagramSpec, Dialect, source_seed};
use crate::clock::monotonic_ns;
use crate::observe::procfs::{DropsSeen, udp_sockets};

/// Most datagrams sent back to back when the flooder is late. A default socket buffer holds 256
/// small datagrams; an eighth of that leaves room for a reader that is late too.
pub const BURST_MAX: u32 = 32;

/// Priority of the sending thread where it may be raised: it sleeps nearly all the time and its bursts are bounded, so
/// that it cannot starve anyone.
const SENDER_NICE: i32 = -15;

/// Shortest pause between two full bursts, unless the asked rate itself is higher.
const BURST_PAUSE: Duration = Duration::from_millis(1);

/// What to send where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FloodSpec {
    /// The node's UDP address.
    pub target: SocketAddr,
    /// Public key of the node.
    pub target_key: [u8; 32],
    /// The agent's own address; every source is a port of it.
    pub source_ip: IpAddr,
    /// Number of sources, each with an ip:port of its own and one datagram.
    pub sources: u32,
    /// The time over which they are spread evenly.
    pub over: Duration,
    /// The last source is held back until this long after the first, so that what the others left
    /// behind has grown old. `None`: the last is a source like the others.
    pub last_after: Option<Duration>,
    /// How late it may begin and still be the flood that was planned.
    pub late_max: Duration,
    /// What the datagrams are made of.
    pub kind: DatagramKind,
    /// Names this flood and no other: derived from run seed, entry and target.
    pub seed: [u8; 32],
    /// Network id of the network under test.
    pub netid: u32,
    /// Wall clock at which the flood is due, for the timestamps inside the datagrams.
    pub due_unix_ns: u64,
}

impl FloodSpec {
    /// When source `ordinal` is due, counted from the first.
    fn offset(&self, ordinal: u32) -> Duration {
        let slot = self
            .over
            .mul_f64(f64::from(ordinal) / f64::from(self.sources));
        match self.last_after {
            Some(held) if ordinal + 1 == self.sources => held.max(slot),
            _ => slot,
        }
    }

    /// How many sources are paced, that is, not held back.
    fn paced(&self) -> u32 {
        self.sources - u32::from(self.last_after.is_some())
    }
}

/// What kept a flood from being sent.
#[derive(Debug, thiserror::Error)]
pub enum FloodError {
    /// The plan asks for nothing.
    #[error("a flood needs at least one source and a time above zero, not {sources} over {over:?}")]
    Empty {
        /// Sources asked for.
        sources: u32,
        /// Time asked for.
        over: Duration,
    },
    /// Not all sockets could be opened.
    #[error(
        "opened {opened} of {asked} source ports on {source_ip}; raise the limit of open files \
         (`ulimit -n`) above the number of sources, or plan fewer of them"
    )]
    Sockets {
        /// How many there were before the failure.
        opened: u32,
        /// How many were wanted.
        asked: u32,
        /// The address that they were to be ports of.
        source_ip: IpAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// No thread to send from.
    #[error("could not start the flood's thread; raise the limit of processes (`ulimit -u`)")]
    Thread(#[source] io::Error),
    /// The sending thread ended without a report.
    #[error("the flood's thread ended without a report; this is a bug of the harness")]
    Died,
}

/// What was sent. Times are of the monotonic clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FloodReport {
    /// The node's UDP address.
    pub target: SocketAddr,
    /// Sources asked for.
    pub asked: u32,
    /// The time over which they were to be spread.
    pub over: Duration,
    /// How long the last was to be held back, if it was.
    pub last_after: Option<Duration>,
    /// Distinct ip:port pairs that were open.
    pub bound: u32,
    /// Datagrams that the kernel took.
    pub sent: u32,
    /// Of those, how many came back as "no such port": the target was gone.
    pub refused: u32,
    /// The very first was among them: then nothing was there to be flooded.
    pub first_refused: bool,
    /// How far behind its deadline the first paced one was that came back: so far the pace had been held when the target
    /// went. What is late afterwards reaches nobody, and a host that buries the target has other things to do.
    pub late_at_refusal: Option<Duration>,
    /// Datagrams that the kernel did not take, by errno.
    pub errors: BTreeMap<i32, u32>,
    /// When the first was sent, nanoseconds.
    pub first_ns: Option<u64>,
    /// When the last of the paced ones was sent, nanoseconds.
    pub paced_last_ns: Option<u64>,
    /// When the last of all was sent, nanoseconds.
    pub last_ns: Option<u64>,
    /// Most that any datagram was behind its deadline.
    pub max_late: Duration,
    /// How much later than it was due the flood began, since it was not ready before.
    pub begun_late: Duration,
    /// How late it might begin.
    pub late_max: Duration,
    /// What became of datagrams at the target's socket, as the kernel counts it.
    pub drops: Option<DropsSeen>,
    /// Whether the flood was stopped before its last datagram.
    pub stopped_early: bool,
    /// Source addresses still open after the end. `None` while they are kept open, or when the
    /// kernel's table could not be read.
    pub left_open: Option<Vec<SocketAddr>>,
}

impl FloodReport {
    fn new(spec: &FloodSpec, bound: u32) -> Self {
        Self {
            target: spec.target,
            asked: spec.sources,
            over: spec.over,
            last_after: spec.last_after,
            bound,
            sent: 0,
            refused: 0,
            first_refused: false,
            late_at_refusal: None,
            errors: BTreeMap::new(),
            first_ns: None,
            paced_last_ns: None,
            last_ns: None,
            max_late: Duration::ZERO,
            begun_late: Duration::ZERO,
            late_max: spec.late_max,
            drops: None,
            stopped_early: false,
            left_open: None,
        }
    }

    /// Datagrams per second that were asked for.
    pub fn asked_rate(&self) -> f64 {
        f64::from(self.asked) / self.over.as_secs_f64()
    }

    /// Datagrams per second that were achieved by the paced ones; `None` for fewer than two.
    pub fn achieved_rate(&self) -> Option<f64> {
        let paced = self
            .sent
            .min(self.asked - u32::from(self.last_after.is_some()));
        let span = self.paced_span()?;
        (paced > 1 && !span.is_zero()).then(|| f64::from(paced - 1) / span.as_secs_f64())
    }

    /// From the first datagram to the last of the paced ones.
    pub fn paced_span(&self) -> Option<Duration> {
        Some(Duration::from_nanos(
            self.paced_last_ns?.saturating_sub(self.first_ns?),
        ))
    }
}

/// One source: its socket, and the datagram that it will send.
#[derive(Debug)]
struct Source {
    socket: UdpSocket,
    datagram: Vec<u8>,
    refused: bool,
}

/// A flood that is ready to go: sockets open, datagrams built, nothing sent.
#[derive(Debug)]
pub struct PreparedFlood {
    spec: FloodSpec,
    sources: Vec<Source>,
    /// Inode and address of each socket, to verify later that it is closed.
    opened: BTreeMap<u64, SocketAddr>,
    /// It has taken its first look: with thousands of sockets a look takes longer than a flood may be late.
    counter: DropsCounter,
}

impl PreparedFlood {
    /// Opens the sockets and builds the datagrams; takes tens of microseconds per source.
    ///
    /// The sockets are connected, so that the kernel reports a target that is gone.
    pub fn prepare(dialect: &dyn Dialect, spec: FloodSpec) -> Result<Self, FloodError> {
        if spec.sources == 0 || spec.over.is_zero() {
            return Err(FloodError::Empty {
                sources: spec.sources,
                over: spec.over,
            });
        }
        let mut sources = Vec::new();
        let mut opened = BTreeMap::new();
        for ordinal in 0..spec.sources {
            let (socket, inode, local) = open_source(&spec).map_err(|source| {
                let (asked, source_ip) = (spec.sources, spec.source_ip);
                FloodError::Sockets {
                    opened: ordinal,
                    asked,
                    source_ip,
                    source,
                }
            })?;
            opened.insert(inode, local);
            let datagram = dialect.datagram(&DatagramSpec {
                kind: spec.kind,
                seed: &source_seed(&spec.seed, ordinal),
                target_key: &spec.target_key,
                netid: spec.netid,
                now_unix_ns: spec.due_unix_ns,
            });
            sources.push(Source {
                socket,
                datagram,
                refused: false,
            });
        }
        let counter = DropsCounter::new(spec.target);
        Ok(Self {
            spec,
            sources,
            opened,
            counter,
        })
    }

    /// Distinct source addresses that are open.
    pub fn bound(&self) -> u32 {
        let distinct: BTreeSet<_> = self.opened.values().collect();
        u32::try_from(distinct.len()).unwrap_or(u32::MAX)
    }

    /// Starts sending at `at`, or at once if that is past.
    pub fn start(self, at: Instant) -> Result<FloodHandle, FloodError> {
        let stop = Arc::new(Stop::default());
        let (progress, seen) = watch::channel(Progress::Sending);
        let for_thread = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("flood".to_owned())
            .spawn(move || self.run(at, &for_thread, &progress))
            .map_err(FloodError::Thread)?;
        Ok(FloodHandle {
            stop,
            seen,
            thread: Some(thread),
        })
    }

    /// Body of the flood's thread: send, keep the ports open, close, verify.
    fn run(mut self, at: Instant, stop: &Stop, progress: &watch::Sender<Progress>) {
        let mut report = FloodReport::new(&self.spec, self.bound());
        let counter = &self.counter;
        std::thread::scope(|scope| {
            let sampler = std::thread::Builder::new()
                .name("flood-drops".to_owned())
                .spawn_scoped(scope, || counter.look_every(drops_period(self.spec.over)));
            if let Err(error) = &sampler {
                tracing::warn!(%error, "drops are only counted before and after the flood");
            }
            send_all(&self.spec, &mut self.sources, at, stop, &mut report);
            counter.stop.request();
        });
        counter.look();
        report.drops = counter.seen();
        if let Some(drops) = &mut report.drops {
            // The look was taken when the flood was made ready; the target may have gone until it began.
            drops.bound_at_first &= !report.first_refused;
        }
        for source in &mut self.sources {
            note_refusal(source, &mut report);
        }
        progress.send_replace(Progress::Held(report.clone()));
        stop.wait();
        self.sources.clear();
        report.left_open = still_open(&self.opened);
        progress.send_replace(Progress::Closed(report));
    }
}

fn open_source(spec: &FloodSpec) -> io::Result<(UdpSocket, u64, SocketAddr)> {
    let socket = UdpSocket::bind((spec.source_ip, 0))?;
    socket.connect(spec.target)?;
    // A full send buffer must show as an error, not as a flood that hangs.
    socket.set_nonblocking(true)?;
    let inode = rustix::fs::fstat(&socket)?.st_ino;
    let local = socket.local_addr()?;
    Ok((socket, inode, local))
}

/// Looks often enough to catch most drops of a target that dies on the way, seldom enough to cost
/// little: a look reads the whole table of sockets.
fn drops_period(over: Duration) -> Duration {
    (over / 8).clamp(Duration::from_millis(20), Duration::from_millis(500))
}

fn send_all(
    spec: &FloodSpec,
    sources: &mut [Source],
    at: Instant,
    stop: &Stop,
    report: &mut FloodReport,
) {
    // A sender that has to queue behind the nodes it floods is late, and a late flood does not count as applied. Only a
    // privileged process may rise; elsewhere the evidence says how late it was.
    if let Err(error) =
        rustix::process::setpriority_process(Some(rustix::thread::gettid()), SENDER_NICE)
    {
        tracing::debug!(%error, "the flood's thread stays at its priority");
    }
    // The default slack of 50 µs per sleep would be paid by every datagram.
    if let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(1)) {
        tracing::debug!(%error, "timer slack stays at its default");
    }
    let start = at.max(Instant::now());
    report.begun_late = start.saturating_duration_since(at);
    let mut pacer = Pacer::new(spec);
    for (ordinal, source) in (0..).zip(sources) {
        let due = start + spec.offset(ordinal);
        if stop.wait_until(pacer.send_at(due, Instant::now())) {
            report.stopped_early = true;
            return;
        }
        send_one(source, due, ordinal < spec.paced(), report);
    }
}

/// Keeps a flooder that is late from sending everything at once.
#[derive(Debug)]
struct Pacer {
    /// Datagrams sent back to back so far.
    in_burst: u32,
    /// Pause after a full burst; short enough to catch up at twice the asked rate.
    pause: Duration,
}

impl Pacer {
    fn new(spec: &FloodSpec) -> Self {
        let twice = spec
            .over
            .mul_f64(f64::from(BURST_MAX) / f64::from(spec.sources) / 2.0);
        Self {
            in_burst: 0,
            pause: BURST_PAUSE.min(twice),
        }
    }

    /// When the next datagram may go that was due at `due`.
    fn send_at(&mut self, due: Instant, now: Instant) -> Instant {
        let at = if due > now {
            self.in_burst = 0;
            due
        } else if self.in_burst >= BURST_MAX {
            self.in_burst = 0;
            now + self.pause
        } else {
            now
        };
        self.in_burst += 1;
        at
    }
}

fn send_one(source: &mut Source, due: Instant, paced: bool, report: &mut FloodReport) {
    let (sent_at, sent_ns) = (Instant::now(), monotonic_ns());
    let late = sent_at.saturating_duration_since(due);
    match source.socket.send(&source.datagram) {
        Ok(_) => {
            report.sent += 1;
            report.first_ns.get_or_insert(sent_ns);
            report.last_ns = Some(sent_ns);
            if paced {
                report.paced_last_ns = Some(sent_ns);
            }
            report.max_late = report.max_late.max(late);
        }
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(0);
            *report.errors.entry(errno).or_default() += 1;
        }
    }
    let only = report.sent == 1;
    note_refusal(source, report);
    report.first_refused |= only && source.refused;
    if paced && source.refused {
        report.late_at_refusal.get_or_insert(late);
    }
}

/// The refusal of a datagram shows as the socket's pending error, mostly at once on loopback.
fn note_refusal(source: &mut Source, report: &mut FloodReport) {
    let Ok(Some(error)) = source.socket.take_error() else {
        return;
    };
    if error.kind() == io::ErrorKind::ConnectionRefused && !source.refused {
        source.refused = true;
        report.refused += 1;
    }
}

/// Which of these sockets the kernel still lists; `None` if it cannot be asked.
fn still_open(opened: &BTreeMap<u64, SocketAddr>) -> Option<Vec<SocketAddr>> {
    match udp_sockets() {
        Ok(sockets) => Some(
            sockets
                .iter()
                .filter_map(|s| opened.get(&s.inode))
                .copied()
                .collect(),
        ),
        Err(error) => {
            tracing::warn!(%error, "cannot verify that the flood's ports are closed");
            None
        }
    }
}

/// How far a flood is.
#[derive(Debug, Clone)]
enum Progress {
    Sending,
    /// All is sent, the ports are kept open.
    Held(FloodReport),
    /// The ports are closed.
    Closed(FloodReport),
}

/// A running flood. Dropping it stops it and closes its ports.
#[derive(Debug)]
#[must_use = "dropping a flood stops it"]
pub struct FloodHandle {
    stop: Arc<Stop>,
    seen: watch::Receiver<Progress>,
    thread: Option<JoinHandle<()>>,
}

impl FloodHandle {
    /// Waits until the last datagram is sent, or the flood was stopped; the ports stay open.
    /// Cancel-safe. Bounded by the flood's own length.
    pub async fn sent(&mut self) -> Result<FloodReport, FloodError> {
        let reached = self
            .seen
            .wait_for(|progress| !matches!(progress, Progress::Sending))
            .await;
        report_of(&*reached.map_err(|_| FloodError::Died)?)
    }

    /// Asks the flood to stop sending and to close its ports, and returns at once.
    pub fn request_stop(&self) {
        self.stop.request();
    }

    /// Waits until the ports are closed, which they are only after [`Self::request_stop`].
    /// Cancel-safe.
    pub async fn closed(&mut self) -> Result<FloodReport, FloodError> {
        let reached = self
            .seen
            .wait_for(|progress| matches!(progress, Progress::Closed(_)))
            .await;
        report_of(&*reached.map_err(|_| FloodError::Died)?)
    }

    /// Stops the flood, closes its ports and blocks for the few milliseconds that this takes.
    pub fn stop(mut self) -> Result<FloodReport, FloodError> {
        self.end();
        report_of(&self.seen.borrow())
    }

    fn end(&mut self) {
        self.stop.request();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the flood's thread panicked");
        }
    }
}

impl Drop for FloodHandle {
    fn drop(&mut self) {
        self.end();
    }
}

fn report_of(progress: &Progress) -> Result<FloodReport, FloodError> {
    match progress {
        Progress::Held(report) | Progress::Closed(report) => Ok(report.clone()),
        Progress::Sending => Err(FloodError::Died),
    }
}

#[cfg(test)]
#[path = "flood_tests.rs"]
mod tests;
