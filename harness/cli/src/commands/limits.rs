//! What the machine lets a run do, asked before anything is started.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Failure;

/// What a history may grow to; a node's files are seldom as large.
const FILE_BYTES_MIN: u64 = 1 << 30;

/// Lets files of this process and of all that it starts grow as far as the machine allows. Whoever writes beyond the limit
/// is killed by SIGXFSZ, and a node that dies of that would be blamed for it.
pub(crate) fn let_files_grow() -> Result<(), Failure> {
    let hard = getrlimit(Resource::Fsize).maximum;
    if let Some(bytes) = hard.filter(|bytes| *bytes < FILE_BYTES_MIN) {
        return Err(Failure::Substrate(format!(
            "files may only grow to {bytes} bytes here (`ulimit -Hf`), which would kill nodes that write more and be taken for a \
             crash of theirs; nothing was started: raise the limit to {FILE_BYTES_MIN} bytes at least, or run where there is none"
        )));
    }
    let limit = Rlimit {
        current: hard,
        maximum: hard,
    };
    setrlimit(Resource::Fsize, limit).map_err(|error| {
        Failure::Substrate(format!(
            "the limit on the size of files cannot be raised to its hard limit: {error}"
        ))
    })
}
