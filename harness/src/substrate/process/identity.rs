//! Who a process is: the nonce that it carries and the triple (boot id, pid, start time).
//!
//! A pid alone is reused by the kernel; with the boot id and the start time it names one process
//! for ever. Everything here only reads `/proc`. Parsers are pure, so that they can be tested on
//! text. Counters of the host and of sockets' queues are not here: they belong to the observers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use crate::observe::procfs::{self, InetSocket};
use fs_err as fs;
use serde::{Deserialize, Serialize};

/// The environment variable that carries a run's nonce in every process of the run.
pub const RUN_VARIABLE: &str = "TWEEDLEDUM_RUN";
/// The environment variable that carries a node's name.
pub const NODE_VARIABLE: &str = "TWEEDLEDUM_NODE";

/// 128 random bits that name a run, written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce([u8; 16]);

impl Nonce {
    /// Draws a nonce from the operating system.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)
            .map_err(|error| io::Error::other(format!("no random bytes for a nonce: {error}")))?;
        Ok(Self(bytes))
    }

    /// A nonce with given bits, for tests and for reading records back.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Reads 32 hexadecimal digits; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// The bits.
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonce({self})")
    }
}

impl Serialize for Nonce {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Nonce {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| serde::de::Error::custom("a nonce is 32 hexadecimal digits"))
    }
}

/// One process for ever: a pid is reused, this triple is not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId {
    /// `/proc/sys/kernel/random/boot_id` of the boot in which the process lived.
    pub boot_id: String,
    /// The pid in the harness's own pid namespace.
    pub pid: i32,
    /// Start time in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub start: u64,
}

impl ProcessId {
    /// The identity of the process that has this pid now.
    pub fn of(pid: i32) -> io::Result<Self> {
        Ok(Self {
            boot_id: boot_id()?,
            pid,
            start: read_stat(pid)?.start,
        })
    }

    /// The identity of the caller.
    pub fn own() -> io::Result<Self> {
        Self::of(own_pid())
    }

    /// What `/proc` says of the process now; `None` when it is gone or its pid has a new owner.
    pub fn stat(&self) -> Option<ProcStat> {
        if boot_id().ok()? != self.boot_id {
            return None;
        }
        read_stat(self.pid)
            .ok()
            .filter(|stat| stat.start == self.start)
    }

    /// Whether the process still runs. A zombie is dead.
    pub fn is_alive(&self) -> bool {
        self.stat().is_some_and(|stat| !stat.is_dead())
    }
}

/// The caller's pid.
pub fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_pid()
}

/// The inode of the pid namespace that the caller is in: only there a pid means the same process.
pub fn pid_namespace() -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(fs::metadata("/proc/self/ns/pid")?.ino())
}

/// The identifier of this boot of the kernel.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// The fields of `/proc/PID/stat` that the substrate needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcStat {
    /// The pid.
    pub pid: i32,
    /// The command name, cut to 15 bytes by the kernel.
    pub comm: String,
    /// One letter: R running, S sleeping, D uninterruptible, T stopped, Z zombie, …
    pub state: char,
    /// The parent's pid.
    pub parent: i32,
    /// The process group.
    pub group: i32,
    /// The session.
    pub session: i32,
    /// Start time in clock ticks since boot.
    pub start: u64,
    /// Resident memory in pages.
    pub rss_pages: u64,
}

impl ProcStat {
    /// Whether the process has ended, reaped or not.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// Resident memory in bytes.
    pub fn rss_bytes(&self) -> u64 {
        self.rss_pages
            .saturating_mul(rustix::param::page_size() as u64)
    }
}

/// Reads `/proc/PID/stat`.
pub fn read_stat(pid: i32) -> io::Result<ProcStat> {
    let text = fs::read(format!("/proc/{pid}/stat"))?;
    parse_stat(&String::from_utf8_lossy(&text)).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("/proc/{pid}/stat has an unknown form"),
        )
    })
}

/// Parses one line of `/proc/PID/stat`; `None` when it has another form. The command name may hold
/// spaces and parentheses, so fields are counted from the last closing one.
pub fn parse_stat(text: &str) -> Option<ProcStat> {
    let (head, tail) = text.rsplit_once(')')?;
    let (pid, comm) = head.split_once('(')?;
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied();
    Some(ProcStat {
        pid: pid.trim().parse().ok()?,
        comm: comm.to_owned(),
        state: field(3)?.chars().next()?,
        parent: field(4)?.parse().ok()?,
        group: field(5)?.parse().ok()?,
        session: field(6)?.parse().ok()?,
        start: field(22)?.parse().ok()?,
        rss_pages: field(24)?.parse().unwrap_or(0),
    })
}

/// Every process that `/proc` shows, by pid. Those that vanish while it is read are left out.
pub fn snapshot() -> io::Result<BTreeMap<i32, ProcStat>> {
    Ok(pids()?
        .filter_map(|pid| Some((pid, read_stat(pid).ok()?)))
        .collect())
}

/// The pids of all processes, read while they are asked for.
pub(crate) fn pids() -> io::Result<impl Iterator<Item = i32>> {
    let entries = fs::read_dir("/proc")?.flatten();
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// The pids below `roots` in a snapshot, without the roots themselves.
pub fn descendants(all: &BTreeMap<i32, ProcStat>, roots: &[i32]) -> BTreeSet<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for stat in all.values() {
        children.entry(stat.parent).or_default().push(stat.pid);
    }
    let mut found = BTreeSet::new();
    let mut open: Vec<i32> = roots.to_vec();
    while let Some(pid) = open.pop() {
        for &child in children.get(&pid).into_iter().flatten() {
            if found.insert(child) {
                open.push(child);
            }
        }
    }
    for root in roots {
        found.remove(root);
    }
    found
}

/// The environment block with which a process was started; `None` when it may not be read, or the
/// process is gone.
pub fn environ(pid: i32) -> Option<Vec<u8>> {
    fs::read(format!("/proc/{pid}/environ")).ok()
}

/// Whether an environment block (entries separated by NUL) holds this variable with this value.
pub fn has_variable(environ: &[u8], key: &str, value: &str) -> bool {
    environ.split(|&byte| byte == 0).any(|entry| {
        entry
            .strip_prefix(key.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"="))
            .is_some_and(|rest| rest == value.as_bytes())
    })
}

/// The living processes that carry a run's nonce.
pub fn carriers(nonce: &Nonce) -> io::Result<Vec<ProcStat>> {
    let nonce = nonce.to_string();
    let carries = |stat: &ProcStat| {
        !stat.is_dead()
            && environ(stat.pid).is_some_and(|environ| has_variable(&environ, RUN_VARIABLE, &nonce))
    };
    Ok(snapshot()?.into_values().filter(carries).collect())
}

/// A socket bound to an address of a block, as `/proc/net/{tcp,udp}` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundSocket {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// The local address.
    pub address: Ipv4Addr,
    /// The local port.
    pub port: u16,
    /// The socket's inode, by which its holders are found.
    pub inode: u64,
}

impl fmt::Display for BoundSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}:{}", self.protocol, self.address, self.port)
    }
}

/// The sockets bound in `a.b.c.0/24`. Connections that belong to nobody are left out: those of a process that has just ended
/// take the kernel a moment.
pub fn bound_in(prefix: [u8; 3]) -> io::Result<Vec<BoundSocket>> {
    let in_block = |protocol, sockets: Vec<InetSocket>| {
        sockets.into_iter().filter_map(move |socket| {
            let IpAddr::V4(address) = socket.local.ip() else {
                return None;
            };
            let [a, b, c, _] = address.octets();
            let bound = [a, b, c] == prefix && !socket.is_nobodys();
            bound.then(|| BoundSocket {
                protocol,
                address,
                port: socket.local.port(),
                inode: socket.inode,
            })
        })
    };
    let tcp = in_block("tcp", procfs::tcp_sockets()?);
    Ok(tcp.chain(in_block("udp", procfs::udp_sockets()?)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines() {
        let tail = "S 7 8 9 0 -1 0 0 0 0 0 1 2 3 4 20 0 1 0 4242 1000 77 0";
        for comm in ["sh", "a b", "x) (y", ")", ""] {
            let stat = parse_stat(&format!("12 ({comm}) {tail}")).unwrap();
            assert_eq!((stat.pid, stat.comm.as_str(), stat.state), (12, comm, 'S'));
            assert_eq!((stat.parent, stat.group, stat.session), (7, 8, 9));
            assert_eq!((stat.start, stat.rss_pages), (4242, 77));
        }
        for bad in [
            "",
            ")",
            "12 (sh",
            "12 (sh) S 7",
            "x (sh) S 7 8 9",
            "((((",
            "1 () ",
        ] {
            assert_eq!(parse_stat(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn environments() {
        let environ = b"A=1\0TWEEDLEDUM_RUN=ab\0TWEEDLEDUM_NODE=miner-1\0";
        for (key, value, holds) in [
            ("TWEEDLEDUM_RUN", "ab", true),
            ("TWEEDLEDUM_NODE", "miner-1", true),
            ("TWEEDLEDUM_NODE", "miner-10", false),
            ("TWEEDLEDUM_NODE", "miner-", false),
            ("TWEEDLEDUM_RUN", "a", false),
            ("WEEDLEDUM_RUN", "ab", false),
        ] {
            assert_eq!(has_variable(environ, key, value), holds, "{key}={value}");
        }
        assert!(!has_variable(b"", "A", "1"));
    }

    #[test]
    fn what_is_bound_in_a_block() {
        let listener = std::net::TcpListener::bind("127.203.77.9:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = Ipv4Addr::new(127, 203, 77, 9);
        // Nobody accepts it, so the listener's end of it has no owner.
        let _connected = std::net::TcpStream::connect((address, port)).unwrap();
        let bound = bound_in([127, 203, 77]).unwrap();
        let told: Vec<String> = bound.iter().map(ToString::to_string).collect();
        assert_eq!(told, [format!("tcp {address}:{port}")]);
        assert!(bound_in([127, 203, 78]).unwrap().is_empty());
    }

    #[test]
    fn families() {
        let stat = |pid, parent| ProcStat {
            pid,
            comm: String::new(),
            state: 'S',
            parent,
            group: 0,
            session: 0,
            start: 0,
            rss_pages: 0,
        };
        let all = [(1, 0), (2, 1), (3, 2), (4, 3), (5, 1)];
        let all = all
            .into_iter()
            .map(|(pid, parent)| (pid, stat(pid, parent)))
            .collect();
        assert_eq!(descendants(&all, &[2]), BTreeSet::from([3, 4]));
        assert_eq!(descendants(&all, &[4]), BTreeSet::new());
        assert_eq!(descendants(&all, &[2, 3]), BTreeSet::from([4]));
    }

    #[test]
    fn nonces() {
        let nonce = Nonce::random().unwrap();
        assert_eq!(Nonce::parse(&nonce.to_string()), Some(nonce));
        assert_ne!(Nonce::random().unwrap(), nonce);
        for bad in ["", "ab", "zz", &"a".repeat(31), &"a".repeat(33)] {
            assert_eq!(Nonce::parse(bad), None);
        }
    }

    #[test]
    fn own_identity() {
        let own = ProcessId::own().unwrap();
        assert!(own.is_alive());
        assert!(
            !ProcessId {
                start: own.start + 1,
                ..own.clone()
            }
            .is_alive()
        );
        assert!(
            !ProcessId {
                boot_id: "other".into(),
                ..own
            }
            .is_alive()
        );
    }
}
