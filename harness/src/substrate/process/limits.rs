//! Limits of the harness's own processes, and their restoration for nodes.
//!
//! Caps that faults put on nodes are not here.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open descriptors to the hard one: a controller of many nodes holds
/// several descriptors for each. Returns the former soft limit, which nodes get back.
pub fn raise_nofile() -> io::Result<u64> {
    let now = getrlimit(Resource::Nofile);
    let former = now.current.unwrap_or(u64::MAX);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: now.maximum,
            maximum: now.maximum,
        },
    )?;
    Ok(former)
}

/// What a node gets: its user's own soft limit of descriptors, and no core dumps, since nodes are
/// made to abort and a core per death would fill the disk.
pub(super) fn apply_node_limits(nofile: u64) -> io::Result<()> {
    let core = getrlimit(Resource::Core);
    setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: core.maximum,
        },
    )?;
    let open = getrlimit(Resource::Nofile);
    let wanted = match open.maximum {
        Some(hard) => nofile.min(hard),
        None => nofile,
    };
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(wanted),
            maximum: open.maximum,
        },
    )?;
    Ok(())
}
