//! Who holds the sockets of an address, and what ties a process to a run's directories.
//!
//! A daemon that cleared its environment and lost every ancestor of the run can be found by nothing but what it still
//! holds. A socket in the run's own block of addresses is evidence, not proof: since the run's lock is gone, anybody may
//! have bound there. Together with a working directory or an open file below a directory that this run made it is proof,
//! since no other program has a reason for both.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::identity::{BoundSocket, ProcStat, bound_in, own_pid, read_stat, snapshot};

/// A process that holds sockets of the addresses that were asked about.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    /// The process.
    pub(crate) stat: ProcStat,
    /// What it holds.
    pub(crate) sockets: Vec<BoundSocket>,
    /// Whether its working directory or an open file lies below one of the directories.
    pub(crate) inside: bool,
}

/// The holders of all sockets bound in `prefixes`, and the sockets whose holder cannot be seen: it belongs to another
/// user, or is gone by now.
pub(crate) fn holders(
    prefixes: &[[u8; 3]],
    directories: &[PathBuf],
) -> io::Result<(Vec<Holder>, Vec<BoundSocket>)> {
    let mut sockets = BTreeMap::new();
    for &prefix in prefixes {
        // Without an inode it is a connection that the kernel alone is still closing.
        let held = bound_in(prefix)?.into_iter().filter(|it| it.inode != 0);
        sockets.extend(held.map(|it| (it.inode, it)));
    }
    if sockets.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let mut unseen: BTreeSet<u64> = sockets.keys().copied().collect();
    let mut found = Vec::new();
    for stat in snapshot()?.into_values() {
        if stat.pid == own_pid() || stat.is_dead() {
            continue;
        }
        let open = open_files(stat.pid);
        let inodes = open.iter().filter_map(|path| socket_inode(path));
        let held: Vec<BoundSocket> = inodes
            .filter_map(|inode| sockets.get(&inode).cloned())
            .collect();
        // The same process still: a pid may have got a new owner while its files were read.
        if held.is_empty() || !read_stat(stat.pid).is_ok_and(|now| now.start == stat.start) {
            continue;
        }
        for socket in &held {
            unseen.remove(&socket.inode);
        }
        let cwd = fs::read_link(format!("/proc/{}/cwd", stat.pid)).ok();
        let mut places = open.iter().chain(cwd.iter());
        let inside = places.any(|path| directories.iter().any(|dir| path.starts_with(dir)));
        found.push(Holder {
            stat,
            sockets: held,
            inside,
        });
    }
    let unseen = unseen
        .into_iter()
        .filter_map(|inode| sockets.get(&inode).cloned())
        .collect();
    Ok((found, unseen))
}

/// Whether a process holds a socket that is bound to this address.
pub(crate) fn holds(pid: i32, address: Ipv4Addr) -> io::Result<bool> {
    let [a, b, c, _] = address.octets();
    let bound = bound_in([a, b, c])?;
    let inodes: BTreeSet<u64> = bound
        .iter()
        .filter(|socket| socket.address == address)
        .map(|socket| socket.inode)
        .collect();
    let open = open_files(pid);
    let mut held = open.iter().filter_map(|path| socket_inode(path));
    Ok(held.any(|inode| inodes.contains(&inode)))
}

/// What the descriptors of a process lead to; none of a process that is gone or not ours to look at.
fn open_files(pid: i32) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .collect()
}

/// The inode in `socket:[123]`.
fn socket_inode(path: &Path) -> Option<u64> {
    let text = path.to_str()?.strip_prefix("socket:[")?;
    text.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inodes_of_sockets() {
        for (path, inode) in [
            ("socket:[4711]", Some(4711)),
            ("socket:[]", None),
            ("socket:[1", None),
            ("pipe:[7]", None),
            ("/tmp/socket:[7]", None),
        ] {
            assert_eq!(socket_inode(Path::new(path)), inode, "{path}");
        }
    }

    #[test]
    fn a_process_that_holds_a_socket_is_found_by_its_address() {
        let address = Ipv4Addr::new(127, 203, 79, 9);
        let _listener = std::net::TcpListener::bind((address, 0)).unwrap();
        assert!(holds(own_pid(), address).unwrap());
        assert!(!holds(own_pid(), Ipv4Addr::new(127, 203, 79, 8)).unwrap());
        // The caller is never its own prey, so its sockets have no holder that is told.
        let (found, unseen) = holders(&[[127, 203, 79]], &[]).unwrap();
        assert!(found.is_empty(), "{found:?}");
        assert_eq!(unseen.len(), 1);
        assert_eq!(unseen[0].address, address);
    }
}
