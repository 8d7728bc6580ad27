//! Blocks of loopback addresses: `127.A.B.0/24`, each locked by an abstract Unix socket, so that
//! two runs on one machine never share an address.
//!
//! The lock is per network namespace, as the addresses are, and vanishes when its last holder
//! dies; stub, watchdog and controller each hold it. It says nothing about programs that do not
//! take it, so the kernel's socket tables are looked at too.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use fs_err as fs;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};
use thiserror::Error;

use super::identity::{Nonce, bound_in};

/// Nodes per block: the addresses above are for the agent and for the future.
pub const NODES_PER_BLOCK: usize = 240;
/// The most nodes of one run.
pub const MAX_NODES: usize = 1000;
/// Addresses of the agent: `.250` to `.254` of the first block.
const AGENT_ADDRESSES: u8 = 5;

/// Why a run has no addresses.
#[derive(Debug, Error)]
pub enum BlockError {
    /// Every block that may be used is locked by a run or in use by another program.
    #[error(
        "no free block of loopback addresses: {locked} are locked by runs, {used} are in use by \
         other programs; end some of them, or run `tweedledum clean`"
    )]
    AllTaken {
        /// How many were locked.
        locked: usize,
        /// How many had sockets bound in them.
        used: usize,
    },
    /// More nodes than this tier can address.
    #[error("{wanted} nodes do not fit: at most {MAX_NODES} nodes have addresses")]
    TooMany {
        /// How many were asked for.
        wanted: usize,
    },
    /// The system refused something that the lock needs.
    #[error("cannot lock a block of loopback addresses: {0}")]
    System(#[from] io::Error),
}

/// One locked block. Dropping it gives up this process's share of the lock.
#[derive(Debug)]
pub struct AddressBlock {
    prefix: [u8; 3],
    lock: OwnedFd,
}

impl AddressBlock {
    /// Locks a free block. Where the search starts follows from the nonce, so runs that start
    /// together rarely meet.
    pub fn claim(nonce: &Nonce) -> Result<Self, BlockError> {
        // 127.0.x.y is where a system's own services live.
        let all: Vec<[u8; 2]> = (1..=254)
            .flat_map(|a| (0..=255).map(move |b| [a, b]))
            .collect();
        let [first, second, ..] = nonce.bytes();
        let start = usize::from(u16::from_be_bytes([*first, *second])) % all.len();
        let order = all.iter().cycle().skip(start).take(all.len()).copied();
        Self::claim_among(order)
    }

    /// Locks the first free block of the given ones (the second and third octet each).
    pub fn claim_among(order: impl IntoIterator<Item = [u8; 2]>) -> Result<Self, BlockError> {
        let (mut locked, mut used) = (0, 0);
        for [a, b] in order {
            let prefix = [127, a, b];
            let Some(lock) = try_lock(prefix)? else {
                locked += 1;
                continue;
            };
            if bound_in(prefix)?.is_empty() {
                return Ok(Self { prefix, lock });
            }
            used += 1;
        }
        Err(BlockError::AllTaken { locked, used })
    }

    /// The first three octets.
    pub fn prefix(&self) -> [u8; 3] {
        self.prefix
    }

    /// An address of the block.
    pub fn address(&self, last: u8) -> Ipv4Addr {
        let [a, b, c] = self.prefix;
        Ipv4Addr::new(a, b, c, last)
    }
}

impl AsFd for AddressBlock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }
}

/// Whether a run can be given this block: 127.0.x.y is where a system's own services live, and is nobody's.
pub(crate) const fn can_be([first, second, _]: [u8; 3]) -> bool {
    first == 127 && second >= 1 && second <= 254
}

/// The blocks of one run.
#[derive(Debug)]
pub struct AddressBlocks(Vec<AddressBlock>);

impl AddressBlocks {
    /// Locks as many blocks as this many nodes need, at least one.
    pub fn claim(nonce: &Nonce, nodes: usize) -> Result<Self, BlockError> {
        if nodes > MAX_NODES {
            return Err(BlockError::TooMany { wanted: nodes });
        }
        let wanted = nodes.div_ceil(NODES_PER_BLOCK).max(1);
        let blocks = (0..wanted)
            .map(|_| AddressBlock::claim(nonce))
            .collect::<Result<_, _>>()?;
        Ok(Self(blocks))
    }

    /// The address of node `index`, counted from 0 over all roles; `None` beyond what was claimed.
    pub fn node(&self, index: usize) -> Option<Ipv4Addr> {
        let block = self.0.get(index / NODES_PER_BLOCK)?;
        let last = u8::try_from(1 + index % NODES_PER_BLOCK).ok()?;
        Some(block.address(last))
    }

    /// An address of the agent, `index` from 0 to 4.
    pub fn agent(&self, index: u8) -> Option<Ipv4Addr> {
        (index < AGENT_ADDRESSES).then(|| self.0.first().map(|block| block.address(250 + index)))?
    }

    /// The blocks.
    pub fn iter(&self) -> std::slice::Iter<'_, AddressBlock> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a AddressBlocks {
    type Item = &'a AddressBlock;
    type IntoIter = std::slice::Iter<'a, AddressBlock>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

fn lock_name([a, b, c]: [u8; 3]) -> String {
    format!("tweedledum-{a}.{b}.{c}")
}

fn try_lock(prefix: [u8; 3]) -> io::Result<Option<OwnedFd>> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let name = SocketAddrUnix::new_abstract_name(lock_name(prefix).as_bytes())?;
    match bind(&socket, &name) {
        Ok(()) => Ok(Some(socket)),
        Err(rustix::io::Errno::ADDRINUSE) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether some process holds the lock of a block. Only looks; never takes the lock.
pub fn is_locked(prefix: [u8; 3]) -> io::Result<bool> {
    let name = format!("@{}", lock_name(prefix));
    let table = fs::read("/proc/self/net/unix")?;
    let table = String::from_utf8_lossy(&table);
    Ok(table
        .lines()
        .any(|line| line.rsplit(' ').next() == Some(name.as_str())))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_locked_block_is_passed_over_and_free_again() {
        let nonce = Nonce::random().unwrap();
        let first = AddressBlock::claim(&nonce).unwrap();
        let second = AddressBlock::claim(&nonce).unwrap();
        assert_ne!(first.prefix(), second.prefix());
        assert!(is_locked(first.prefix()).unwrap());
        let [_, a, b] = first.prefix();
        let refused = AddressBlock::claim_among([[a, b]]);
        assert!(matches!(
            refused,
            Err(BlockError::AllTaken { locked: 1, used: 0 })
        ));
        let prefix = first.prefix();
        drop(first);
        assert!(!is_locked(prefix).unwrap());
        AddressBlock::claim_among([[a, b]]).unwrap();
    }

    #[test]
    fn a_block_in_use_is_passed_over() {
        let block = AddressBlock::claim(&Nonce::random().unwrap()).unwrap();
        let [_, a, b] = block.prefix();
        let socket = UdpSocket::bind((block.address(9), 0)).unwrap();
        drop(block);
        let refused = AddressBlock::claim_among([[a, b]]);
        assert!(matches!(
            refused,
            Err(BlockError::AllTaken { locked: 0, used: 1 })
        ));
        drop(socket);
        AddressBlock::claim_among([[a, b]]).unwrap();
    }

    #[test]
    fn addresses_of_nodes() {
        let nonce = Nonce::random().unwrap();
        let blocks = AddressBlocks::claim(&nonce, 241).unwrap();
        assert_eq!(blocks.iter().count(), 2);
        let octets = |index| blocks.node(index).unwrap().octets()[3];
        assert_eq!((octets(0), octets(239), octets(240)), (1, 240, 1));
        assert_ne!(blocks.node(0), blocks.node(240));
        assert_eq!(blocks.node(480), None);
        assert_eq!(blocks.agent(0).unwrap().octets()[3], 250);
        assert_eq!(blocks.agent(5), None);
        let refused = AddressBlocks::claim(&nonce, 1001);
        assert!(matches!(refused, Err(BlockError::TooMany { wanted: 1001 })));
    }
}
