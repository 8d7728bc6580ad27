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

/// What a history may grow to; a node's files are seldom as large.
const FILE_BYTES_MIN: u64 = 1 << 30;

/// Lets files of this process and of all that it starts grow as far as the machine allows; how far, unless for ever. Whoever
/// writes beyond the limit is killed by SIGXFSZ, and a node that dies of that would be blamed for it.
pub fn let_files_grow() -> Result<Option<u64>, String> {
    let hard = getrlimit(Resource::Fsize).maximum;
    if let Some(bytes) = hard.filter(|bytes| *bytes < FILE_BYTES_MIN) {
        return Err(format!(
            "files may only grow to {bytes} bytes here (`ulimit -Hf`), less than {FILE_BYTES_MIN}, which would kill nodes that \
             write more and be taken for a crash of theirs"
        ));
    }
    let limit = Rlimit {
        current: hard,
        maximum: hard,
    };
    let raised = setrlimit(Resource::Fsize, limit);
    raised.map(|()| hard).map_err(|error| {
        format!("the limit on the size of files cannot be raised to its hard limit: {error}")
    })
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
