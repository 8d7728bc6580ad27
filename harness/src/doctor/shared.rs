//! Tries the shared tier of the process substrate: on children that are started as nodes are, in a directory that goes away.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tweedledum_core::capability::Resource;
use tweedledum_core::schedule::amount as amount_in_words;

use super::child::{Becomes, CHILD_BOUND, Nursery};
use super::report::{Tried, Trouble};
use super::scratch::Said;
use super::steps::Step;
use super::{Bench, Kit};
use crate::agent::DatagramKind;
use crate::agent::evidence::FloodEvidence;
use crate::agent::flood::{FloodSpec, PreparedFlood};
use crate::clock::unix_ns;
use crate::observe::procfs::{DropsWatch, udp_sockets};
use crate::substrate::process::disk::{DiskSupervisor, Means, Wanted, Whose, remedy};
use crate::substrate::process::group::{Group, Trial, of_process};
use crate::substrate::process::{AddressBlock, ExitKind, Nonce, OwnExecutable, let_files_grow};
use crate::undo::{self, RunState};

/// As many as the table of sessions of 2020 holds in the plans, and one more block of datagrams than a socket buffers.
const SOURCES: u32 = 320;
/// The time over which they are sent.
const OVER: Duration = Duration::from_millis(200);
/// How late it may begin.
const LATE_MAX: Duration = Duration::from_millis(500);
/// A cap of sixteen blocks.
const CAP: u64 = 64 * 1024;
/// Datagrams that no default buffer holds.
const TOO_MANY: usize = 2000;

/// What scratch directories are called, before the nonce.
const DIRECTORY: &str = "tweedledum-doctor-";

/// A directory that is removed with everything in it.
#[derive(Debug)]
pub(super) struct Directory(PathBuf);

impl Directory {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs_err::remove_dir_all(&self.0) {
            tracing::warn!(%error, "a scratch directory is left");
        }
    }
}

/// Makes a scratch directory.
pub(super) fn directory() -> Result<Directory, Trouble> {
    use std::os::unix::fs::DirBuilderExt as _;
    let system = |error: io::Error| Trouble {
        fix: Some("set TMPDIR to a directory that can be written".to_owned()),
        ..Trouble::system("a scratch directory could not be made", &error)
    };
    let nonce = Nonce::random().map_err(system)?;
    let path = std::env::temp_dir().join(format!("{DIRECTORY}{nonce}"));
    let mut builder = std::fs::DirBuilder::new();
    builder.mode(0o700).create(&path).map_err(system)?;
    Ok(Directory(path))
}

/// Removes the groups, and with them the directories, of examinations that were killed while they tried limits. In a
/// directory of everybody's, only those are believed that nobody but this user could have written to.
fn clean_dead(temporary: &Path) {
    use std::os::unix::fs::MetadataExt as _;
    for entry in std::fs::read_dir(temporary).into_iter().flatten().flatten() {
        let ours = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(DIRECTORY));
        // That of an entry is not that of what a link leads to.
        let own = entry.metadata().is_ok_and(|about| {
            about.is_dir()
                && about.uid() == rustix::process::geteuid().as_raw()
                && about.mode() & 0o777 == 0o700
        });
        let path = entry.path();
        if !ours || !own {
            continue;
        }
        match undo::clean(&path) {
            // One that recorded nothing may be of an examination that lives.
            Ok(report) if report.runs.is_empty() => {}
            Ok(report)
                if report
                    .runs
                    .iter()
                    .all(|run| matches!(run.state, RunState::Cleaned { .. })) =>
            {
                drop(Directory(path));
            }
            other => {
                tracing::debug!(path = %path.display(), ?other, "another examination's directory stays");
            }
        }
    }
}

/// Tries all rows.
pub(super) async fn examine(bench: &mut Bench<'_>, kit: &Kit, exe: &OwnExecutable, nonce: Nonce) {
    clean_dead(&std::env::temp_dir());
    let nursery = Nursery {
        kit,
        exe: exe.clone(),
        nonce,
    };
    while let Some(row) = bench.next() {
        let tried = attempt(row.step, &nursery);
        bench.attempt(row, tried).await;
    }
}

async fn attempt(step: Step, nursery: &Nursery<'_>) -> Tried {
    match step {
        Step::FileSize => file_size(),
        Step::Spawn => spawn(nursery).await,
        Step::Addresses => addresses(&nursery.nonce),
        Step::Freeze => freeze(nursery).await,
        Step::UdpSources => udp_sources(nursery).await,
        Step::UdpDrops => udp_drops(&nursery.nonce),
        Step::DiskFilter => disk_filter(nursery).await,
        Step::DiskShortWrite => short_write(nursery, Means::Own).await,
        Step::DiskDescriptor => short_write(nursery, Means::Reopen).await,
        Step::LimitMemory => limit(nursery, Resource::Memory, 64 << 20).await,
        Step::LimitCpu => limit(nursery, Resource::Cpu, 100).await,
        Step::LimitPids => limit(nursery, Resource::Pids, 20).await,
        Step::UserNamespace
        | Step::MountNamespace
        | Step::NetworkNamespace
        | Step::Tun
        | Step::EngineAddress
        | Step::EngineAnswers
        | Step::EngineApi
        | Step::Image
        | Step::Pod
        | Step::Node
        | Step::NetAdmin
        | Step::SizedVolume
        | Step::KillNode
        | Step::StartNode
        | Step::Removal => Err(Trouble::new(format!("{step:?} is no step of this tier"))),
    }
}

pub(super) fn file_size() -> Tried {
    match let_files_grow().map_err(Trouble::new)? {
        Some(bytes) => Ok(format!("files may grow to {bytes} bytes")),
        None => Ok("files may grow without a limit".to_owned()),
    }
}

async fn spawn(nursery: &Nursery<'_>) -> Tried {
    let directory = directory()?;
    let child = nursery.start(Becomes::Scratch(&[]), directory.path())?;
    let began = Instant::now();
    let exit = child.end().await?;
    let took = began.elapsed();
    match exit.kind {
        ExitKind::Signal(9) => Ok(format!("killed, and its death seen after {took:.1?}")),
        other => Err(Trouble::new(format!(
            "the child was killed and ended otherwise: {other:?}"
        ))),
    }
}

fn claim(nonce: &Nonce) -> Result<AddressBlock, Trouble> {
    AddressBlock::claim(nonce).map_err(|error| match error {
        crate::substrate::process::BlockError::System(error) => {
            Trouble::system("a block of addresses could not be locked", &error)
        }
        other => Trouble::new(other.to_string()),
    })
}

fn addresses(nonce: &Nonce) -> Tried {
    let block = claim(nonce)?;
    let [a, b, c] = block.prefix();
    let (node, other) = (block.address(1), block.address(2));
    let system = |what: &'static str| move |error: io::Error| Trouble::system(what, &error);
    let udp = UdpSocket::bind((node, 0)).map_err(system("binding UDP in 127.0.0.0/8"))?;
    let tcp = TcpListener::bind((node, 0)).map_err(system("binding TCP in 127.0.0.0/8"))?;
    let reached = tcp
        .local_addr()
        .map_err(system("reading a bound address"))?;
    TcpStream::connect_timeout(&reached, CHILD_BOUND)
        .map_err(system("connecting in 127.0.0.0/8"))?;
    let sender = UdpSocket::bind((other, 0)).map_err(system("binding UDP in 127.0.0.0/8"))?;
    let reached = udp
        .local_addr()
        .map_err(system("reading a bound address"))?;
    udp.set_read_timeout(Some(CHILD_BOUND))
        .map_err(system("setting a time-out"))?;
    sender
        .send_to(b"?", reached)
        .map_err(system("sending in 127.0.0.0/8"))?;
    let (_, from) = udp
        .recv_from(&mut [0; 8])
        .map_err(system("receiving in 127.0.0.0/8"))?;
    if from.ip() != other {
        let why = format!("a datagram from {other} came from {}", from.ip());
        return Err(Trouble::new(why));
    }
    Ok(format!("{a}.{b}.{c}.0/24"))
}

async fn freeze(nursery: &Nursery<'_>) -> Tried {
    let directory = directory()?;
    let child = nursery.start(Becomes::Scratch(&[]), directory.path())?;
    let stood = child.stand_still();
    child.end().await?;
    stood.map(|members| format!("state T in all threads of {members} process, then running again"))
}

async fn udp_sources(nursery: &Nursery<'_>) -> Tried {
    let block = claim(&nursery.nonce)?;
    let system = |error: io::Error| Trouble::system("binding UDP in 127.0.0.0/8", &error);
    let target = UdpSocket::bind((block.address(1), 0)).map_err(system)?;
    let address = target.local_addr().map_err(system)?;
    let reading = Reading::start(target).map_err(system)?;
    let spec = flood(address, block.address(250).into(), OVER);
    let dialect = nursery.kit.dialect.as_ref();
    let refused = |error: crate::agent::flood::FloodError| {
        use std::error::Error as _;
        let source = error
            .source()
            .and_then(|source| source.downcast_ref::<io::Error>());
        Trouble {
            errno: source.and_then(io::Error::raw_os_error),
            why: error.to_string(),
            fix: None,
        }
    };
    let flood = PreparedFlood::prepare(dialect, spec).map_err(refused)?;
    let mut flood = flood.start(Instant::now()).map_err(refused)?;
    let sent = flood.sent().await.map_err(refused)?;
    flood.request_stop();
    let closed = flood.closed().await.map_err(refused)?;
    let received = reading.finish();
    arrived(
        &FloodEvidence::of(&sent),
        closed.left_open.as_deref().unwrap_or_default().len(),
    )?;
    if received < SOURCES as usize {
        return Err(Trouble::new(format!(
            "{received} of {SOURCES} datagrams were received"
        )));
    }
    Ok(format!(
        "{received} of {SOURCES} datagrams received, none dropped"
    ))
}

/// The flood that is tried.
pub(super) fn flood(target: SocketAddr, source_ip: std::net::IpAddr, over: Duration) -> FloodSpec {
    FloodSpec {
        target,
        target_key: [2; 32],
        source_ip,
        sources: SOURCES,
        over,
        last_after: None,
        late_max: LATE_MAX,
        kind: DatagramKind::Garbage,
        seed: [3; 32],
        netid: 1,
        due_unix_ns: unix_ns(),
    }
}

/// Whether a flood arrived and its ports are closed. A host that is busy right now may hold it up, which is no failing of
/// the machine, so the time it took does not count here, as it does in a run.
pub(super) fn arrived(evidence: &FloodEvidence, left_open: usize) -> Result<(), Trouble> {
    let reached = evidence.reached >= u64::from(evidence.planned);
    match &evidence.why_not {
        Some(why) if !reached => Err(Trouble::new(why.clone())),
        _ if left_open > 0 => Err(Trouble::new(format!(
            "{left_open} ports of the flood stayed open"
        ))),
        _ => Ok(()),
    }
}

/// A thread that counts what a socket receives.
struct Reading {
    socket: UdpSocket,
    thread: std::thread::JoinHandle<usize>,
}

impl Reading {
    fn start(socket: UdpSocket) -> io::Result<Self> {
        let own = socket.try_clone()?;
        let thread = std::thread::Builder::new().spawn(move || {
            let mut received = 0;
            let mut buffer = [0; 2048];
            // An empty datagram is the end.
            while own.recv(&mut buffer).is_ok_and(|length| length > 0) {
                received += 1;
            }
            received
        })?;
        Ok(Self { socket, thread })
    }

    fn finish(self) -> usize {
        if let Ok(address) = self.socket.local_addr()
            && self.socket.send_to(&[], address).is_ok()
        {
            return self.thread.join().unwrap_or(0);
        }
        0
    }
}

fn udp_drops(nonce: &Nonce) -> Tried {
    let block = claim(nonce)?;
    let system = |what: &'static str| move |error: io::Error| Trouble::system(what, &error);
    let bind = |last| {
        UdpSocket::bind((block.address(last), 0)).map_err(system("binding UDP in 127.0.0.0/8"))
    };
    let (target, sender) = (bind(1)?, bind(2)?);
    let address = target
        .local_addr()
        .map_err(system("reading a bound address"))?;
    let table = || udp_sockets().map_err(system("reading /proc/net/udp"));
    let mut watch = DropsWatch::new(address);
    watch.look(&table()?);
    for _ in 0..TOO_MANY {
        sender
            .send_to(&[0; 512], address)
            .map_err(system("sending in 127.0.0.0/8"))?;
    }
    watch.look(&table()?);
    let seen = watch.seen();
    if !seen.bound_at_first {
        return Err(Trouble::new("a bound socket is not in /proc/net/udp"));
    }
    if seen.rise == 0 {
        let why = format!(
            "{TOO_MANY} datagrams were sent to a socket that nobody reads, and no drop is told"
        );
        return Err(Trouble::new(why));
    }
    Ok(format!(
        "{} of {TOO_MANY} datagrams told as dropped",
        seen.rise
    ))
}

/// A supervisor, told as a trouble with its own remedy where there is none.
fn supervisor(means: Means) -> Result<DiskSupervisor, Trouble> {
    use crate::substrate::process::disk::DiskError;
    DiskSupervisor::start(means).map_err(|error| match &error {
        DiskError::Kernel { source } => Trouble {
            why: error.to_string(),
            errno: source.raw_os_error(),
            fix: Some(remedy(source).to_owned()),
        },
        _ => Trouble::new(error.to_string()),
    })
}

async fn disk_filter(nursery: &Nursery<'_>) -> Tried {
    let directory = directory()?;
    let supervisor = supervisor(Means::Own)?;
    let gone = |error: crate::substrate::process::DiskError| Trouble::new(error.to_string());
    let account = supervisor.open(directory.path()).map_err(gone)?;
    for (wanted, bytes, full) in [
        (Wanted::Bytes(CAP), CAP * 2, true),
        (Wanted::Bytes(CAP), CAP / 2, false),
        (Wanted::None, CAP * 2, false),
    ] {
        account.set(wanted).await.map_err(gone)?;
        let child = nursery.start(Becomes::Probe(bytes), directory.path())?;
        let probed = child.go(Some((&account, Whose::Probe))).await;
        child.end().await?;
        let probed = probed?.ok_or_else(|| Trouble::new("the child ended without an answer"))?;
        if probed.is_full() != full || (!full && !probed.got_it()) {
            let error = io::Error::from_raw_os_error(probed.errno);
            let why = format!("asked for {bytes} bytes under {wanted:?}, a child got: {error}");
            return Err(Trouble {
                errno: Some(probed.errno),
                ..Trouble::new(why)
            });
        }
    }
    let answered = supervisor.answered();
    Ok(format!(
        "ENOSPC over {} KiB, room below and without it; {answered} calls answered",
        CAP / 1024
    ))
}

async fn short_write(nursery: &Nursery<'_>, means: Means) -> Tried {
    let directory = directory()?;
    let supervisor = supervisor(means)?;
    let gone = |error: crate::substrate::process::DiskError| Trouble::new(error.to_string());
    let account = supervisor.open(directory.path()).map_err(gone)?;
    account.set(Wanted::Bytes(CAP)).await.map_err(gone)?;
    let bytes = (CAP + CAP / 2).to_string();
    let words = ["write", bytes.as_str()];
    let child = nursery.start(Becomes::Scratch(&words), directory.path())?;
    let went = child.go(Some((&account, Whose::Node))).await;
    let said = child.said().await;
    went?;
    let status = account.status().borrow().clone();
    if let Some(why) = status.broken.or(status.refused) {
        return Err(Trouble::new(why));
    }
    match said? {
        Said::Wrote { first, then } if first as u64 == CAP && then == libc::ENOSPC => Ok(format!(
            "a write of {bytes} bytes took {first}, the next one ENOSPC"
        )),
        Said::Wrote { first, then } => {
            let error = io::Error::from_raw_os_error(then);
            let why = format!(
                "a write of {bytes} bytes under a cap of {CAP} took {first}, the next one: {error}"
            );
            Err(Trouble::new(why))
        }
        other => Err(Trouble::new(format!("the child said {other:?}"))),
    }
}

async fn limit(nursery: &Nursery<'_>, resource: Resource, amount: u64) -> Tried {
    let directory = directory()?;
    let trial = Trial::make(directory.path(), &nursery.nonce, resource);
    let trial = trial.map_err(|error| Trouble::system(&error.doing, &error.source))?;
    let limited = match nursery.start(Becomes::Scratch(&[]), directory.path()) {
        Ok(child) => {
            let limited = limit_child(&trial.group, resource, amount, child.process.pid());
            // Nobody can be removed from under a process.
            child.end().await.and(limited)
        }
        Err(trouble) => Err(trouble),
    };
    if let Err(error) = trial.remove() {
        // The next examination finds there what is still to be removed.
        std::mem::forget(directory);
        return Err(Trouble::system("removing the group again", &error));
    }
    limited
}

fn limit_child(group: &Group, resource: Resource, amount: u64, pid: i32) -> Tried {
    let system = |what: &'static str| move |error: io::Error| Trouble::system(what, &error);
    group
        .join(pid)
        .map_err(system("putting the child into its group"))?;
    for wanted in [Some(amount), None] {
        group
            .set(resource, wanted)
            .map_err(system("setting the limit"))?;
        let share = of_process(pid, resource).map_err(system("finding the child's group"))?;
        if share.limit != wanted {
            let why = format!("set to {wanted:?}, the child is held to {:?}", share.limit);
            return Err(Trouble::new(why));
        }
    }
    Ok(format!(
        "{} limited to {} and no more limited, as found from the child",
        resource.word(),
        amount_in_words(resource, amount)
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::substrate::process::ProcessId;
    use crate::undo::{Intent, IntentLog};

    #[test]
    fn what_a_killed_examination_left_is_removed_by_the_next_of_the_same_user() {
        let (temporary, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let own = ProcessId::own().unwrap();
        let dead = ProcessId {
            start: own.start + 1,
            ..own.clone()
        };
        let examination = |byte, of: &ProcessId, mode| {
            let nonce = Nonce::from_bytes([byte; 16]);
            let path = temporary.path().join(format!("{DIRECTORY}{nonce}"));
            std::fs::create_dir(&path).unwrap();
            let mut log = IntentLog::create(&path, &nonce, of).unwrap();
            let places = vec![place.path().to_owned()];
            log.append(&Intent::Groups { places }).unwrap();
            let group = place.path().join(format!("tweedledum-{nonce}-try"));
            std::fs::create_dir(&group).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            (path, group)
        };
        let killed = examination(1, &dead, 0o700);
        let alive = examination(2, &own, 0o700);
        let anybodys = examination(3, &dead, 0o777);
        clean_dead(temporary.path());
        for ((path, group), there) in [(killed, false), (alive, true), (anybodys, true)] {
            assert_eq!((path.exists(), group.exists()), (there, there), "{path:?}");
        }
    }
}
