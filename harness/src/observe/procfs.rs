//! What the kernel says: socket tables, processes, pressure on the host.
//!
//! Each file has a pure parser over text, tested on samples, and a reader that opens the real
//! thing. Parsers skip what they cannot read and never panic: kernels add columns. To watch
//! something new, add a parser, a sample and a reader.
//!
//! Needs no privileges. Sees only the network namespace of the calling thread.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::{io, str};

use serde::{Deserialize, Serialize};

/// One row of `/proc/net/{udp,udp6,tcp,tcp6}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InetSocket {
    /// Where it is bound.
    pub local: SocketAddr,
    /// Whom it is connected to; unspecified address and port 0 if nobody.
    pub remote: SocketAddr,
    /// The kernel's state number: 7 is an unconnected UDP socket, 10 a TCP listener.
    pub state: u8,
    /// Bytes of kernel memory waiting to be read (for a TCP listener: connections not accepted).
    pub rx_queue: u64,
    /// Inode number of the socket, its identity until it is closed.
    pub inode: u64,
    /// Datagrams thrown away because the buffer was full; only UDP tables have it.
    pub drops: Option<u64>,
}

impl InetSocket {
    /// Whether it is a TCP connection that belongs to no process: one that was closed and that the kernel alone still ends,
    /// or one that nobody has accepted.
    pub fn is_nobodys(&self) -> bool {
        self.inode == 0 && self.drops.is_none()
    }
}

/// Parses a socket table; the header and rows that cannot be read are left out.
pub fn parse_inet_table(text: &str) -> Vec<InetSocket> {
    // Only the tables of UDP end in this column, and headers name it.
    let has_drops = text
        .lines()
        .next()
        .is_some_and(|header| header.contains("drops"));
    text.lines()
        .filter_map(|line| parse_inet_row(line, has_drops))
        .collect()
}

fn parse_inet_row(line: &str, has_drops: bool) -> Option<InetSocket> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (_, rx_queue) = fields.get(4)?.split_once(':')?;
    Some(InetSocket {
        local: parse_hex_addr(fields.get(1)?)?,
        remote: parse_hex_addr(fields.get(2)?)?,
        state: u8::from_str_radix(fields.get(3)?, 16).ok()?,
        rx_queue: u64::from_str_radix(rx_queue, 16).ok()?,
        inode: fields.get(9)?.parse().ok()?,
        drops: fields
            .get(12)
            .filter(|_| has_drops)
            .and_then(|text| text.parse().ok()),
    })
}

/// Parses `0500007F:1D59`: the address in the machine's byte order by 32-bit words, then the port.
fn parse_hex_addr(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words = (0..address.len())
        .step_by(8)
        .map(|at| {
            u32::from_str_radix(address.get(at..at + 8)?, 16)
                .ok()
                .map(u32::to_ne_bytes)
        })
        .collect::<Option<Vec<_>>>()?;
    let ip = match words.as_slice() {
        [word] => IpAddr::V4(Ipv4Addr::from(*word)),
        [_, _, _, _] => {
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Reads the UDP sockets of this network namespace, both address families.
pub fn udp_sockets() -> io::Result<Vec<InetSocket>> {
    read_tables(&["/proc/net/udp", "/proc/net/udp6"])
}

/// Reads the TCP sockets of this network namespace, both address families.
pub fn tcp_sockets() -> io::Result<Vec<InetSocket>> {
    read_tables(&["/proc/net/tcp", "/proc/net/tcp6"])
}

fn read_tables(paths: &[&str]) -> io::Result<Vec<InetSocket>> {
    let mut sockets = Vec::new();
    for path in paths {
        match fs_err::read(path) {
            Ok(bytes) => sockets.extend(parse_inet_table(&String::from_utf8_lossy(&bytes))),
            // A kernel without IPv6 has no table for it.
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.ends_with('6') => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sockets)
}

/// Counts the datagrams that a UDP address had to throw away, over any number of looks.
///
/// Sockets are told apart by inode, so that a restarted node does not hide or repeat drops. Looked
/// at once before and once after, it misses the drops of a socket that was closed in between: look
/// in between as well.
#[derive(Debug, Clone)]
pub struct DropsWatch {
    target: SocketAddr,
    /// First and last count seen, by inode. The first of a socket that came later is zero.
    seen: BTreeMap<u64, (u64, u64)>,
    looks: u32,
    bound_first: bool,
    bound_last: bool,
}

impl DropsWatch {
    /// A watch over the sockets that receive what is sent to `target`: bound to it, or to its port
    /// on the unspecified address.
    pub fn new(target: SocketAddr) -> Self {
        Self {
            target,
            seen: BTreeMap::new(),
            looks: 0,
            bound_first: false,
            bound_last: false,
        }
    }

    /// Takes one look at a table of sockets.
    pub fn look(&mut self, sockets: &[InetSocket]) {
        let mut bound = false;
        for socket in sockets
            .iter()
            .filter(|socket| receives(socket, self.target))
        {
            bound = true;
            let drops = socket.drops.unwrap_or(0);
            let first = if self.looks == 0 { drops } else { 0 };
            let entry = self.seen.entry(socket.inode).or_insert((first, drops));
            entry.1 = entry.1.max(drops);
        }
        if self.looks == 0 {
            self.bound_first = bound;
        }
        self.bound_last = bound;
        self.looks = self.looks.saturating_add(1);
    }

    /// What was seen so far.
    pub fn seen(&self) -> DropsSeen {
        DropsSeen {
            looks: self.looks,
            bound_at_first: self.bound_first,
            bound_at_last: self.bound_last,
            rise: self
                .seen
                .values()
                .map(|(first, last)| last.saturating_sub(*first))
                .sum(),
        }
    }
}

fn receives(socket: &InetSocket, target: SocketAddr) -> bool {
    let connected_elsewhere = socket.remote.port() != 0;
    let here = socket.local.ip() == target.ip() || socket.local.ip().is_unspecified();
    socket.local.port() == target.port() && here && !connected_elsewhere
}

/// What a [`DropsWatch`] saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropsSeen {
    /// How often the table was looked at.
    pub looks: u32,
    /// Whether a socket received at the address at the first look.
    pub bound_at_first: bool,
    /// Whether a socket received at the address at the last look.
    pub bound_at_last: bool,
    /// Datagrams thrown away between the first look and the last.
    pub rise: u64,
}

/// CPU time of the whole host since boot, in ticks, from the first line of `/proc/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CpuTicks {
    /// All of it, idle included.
    pub total: u64,
    /// Idle, waiting for disks included.
    pub idle: u64,
    /// What the hypervisor gave to others while we wanted to run.
    pub steal: u64,
}

/// Parses `/proc/stat`.
pub fn parse_cpu_ticks(text: &str) -> Option<CpuTicks> {
    let line = text.lines().find(|line| line.starts_with("cpu "))?;
    let ticks: Vec<u64> = line
        .split_ascii_whitespace()
        .skip(1)
        .map_while(|field| field.parse().ok())
        .collect();
    if ticks.len() < 4 {
        return None;
    }
    // Columns: user nice system idle iowait irq softirq steal guest guest_nice; the guests are
    // already part of the first two.
    let total = ticks
        .iter()
        .take(8)
        .fold(0u64, |sum, tick| sum.saturating_add(*tick));
    let at = |index: usize| ticks.get(index).copied().unwrap_or(0);
    Some(CpuTicks {
        total,
        idle: at(3).saturating_add(at(4)),
        steal: at(7),
    })
}

/// Microseconds since boot in which tasks waited for a CPU, from `/proc/pressure/cpu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CpuPressure {
    /// At least one task waited.
    pub some_us: u64,
}

/// Parses `/proc/pressure/cpu`.
pub fn parse_cpu_pressure(text: &str) -> Option<CpuPressure> {
    let line = text.lines().find(|line| line.starts_with("some "))?;
    let total = line
        .split_ascii_whitespace()
        .find_map(|field| field.strip_prefix("total="))?;
    Some(CpuPressure {
        some_us: total.parse().ok()?,
    })
}

/// Parses the number of processes that the kernel killed for lack of memory out of `/proc/vmstat`.
pub fn parse_oom_kills(text: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// How many processes the kernel has killed for lack of memory since boot, in whatever group.
pub fn oom_kills() -> Option<u64> {
    let text = fs_err::read_to_string("/proc/vmstat").ok()?;
    parse_oom_kills(&text)
}

/// How the host was doing at one moment. Differences of two of these say how it did in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLoad {
    /// CPU time; `None` where the kernel does not say.
    pub cpu: Option<CpuTicks>,
    /// Time in which tasks waited for a CPU; `None` on kernels without pressure accounting.
    pub pressure: Option<CpuPressure>,
}

impl HostLoad {
    /// Reads all of it; what cannot be read is `None`.
    pub fn read() -> Self {
        let text = |path: &str| fs_err::read_to_string(path).ok();
        Self {
            cpu: text("/proc/stat").as_deref().and_then(parse_cpu_ticks),
            pressure: text("/proc/pressure/cpu")
                .as_deref()
                .and_then(parse_cpu_pressure),
        }
    }

    /// Share of CPU time taken by the hypervisor since `earlier`, 0 to 1.
    pub fn steal_since(&self, earlier: &Self) -> Option<f64> {
        let (now, then) = (self.cpu?, earlier.cpu?);
        ratio(
            now.steal.checked_sub(then.steal)?,
            now.total.checked_sub(then.total)?,
        )
    }

    /// Share of wall time in which some task waited for a CPU since `earlier`, 0 to 1.
    pub fn pressure_since(&self, earlier: &Self, elapsed: std::time::Duration) -> Option<f64> {
        let waited = self
            .pressure?
            .some_us
            .checked_sub(earlier.pressure?.some_us)?;
        ratio(waited, u64::try_from(elapsed.as_micros()).ok()?)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "tick counts stay far below 2^53"
)]
fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| (part as f64 / whole as f64).min(1.0))
}

#[cfg(test)]
#[path = "procfs_tests.rs"]
mod tests;
