//! What is said about disks of nodes, on any substrate.

use serde::{Deserialize, Serialize};

/// The unit that disks are held in, in bytes.
pub const BLOCK: u64 = 4096;

/// What a disk shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// As it is.
    Read,
    /// Without a cap.
    None,
    /// At most this many bytes.
    Bytes(u64),
    /// What is taken now, and this much more; never more than `most`.
    Leave {
        /// In bytes.
        bytes: u64,
        /// In bytes.
        most: Option<u64>,
    },
}

/// What a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// In bytes, whole blocks.
    pub cap: Option<u64>,
    /// In bytes, whole blocks.
    pub used: u64,
}

impl Reading {
    /// What may still be taken; `None` without a cap.
    pub fn room(&self) -> Option<u64> {
        Some(self.cap?.saturating_sub(self.used))
    }
}

/// A call that was refused or shortened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    /// Its name.
    pub call: &'static str,
    /// How many bytes it was about.
    pub asked: u64,
    /// How many of them there was room for; 0 is ENOSPC.
    pub given: u64,
}

/// What has become of a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskStatus {
    /// Calls that were refused or shortened.
    pub hits: u64,
    /// The last of them, where each can be seen.
    pub last_hit: Option<Hit>,
    /// Why what the node takes cannot be counted any more.
    pub broken: Option<String>,
    /// Why the node cannot run under a cap at all.
    pub refused: Option<String>,
}

/// What a probe met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// How much it asked for, in bytes.
    pub asked: u64,
    /// 0 when it got it, else the system's error number.
    pub errno: i32,
}

impl Probed {
    /// The disk was full.
    pub fn is_full(&self) -> bool {
        self.errno == libc::ENOSPC
    }

    /// It got what it asked for.
    pub fn got_it(&self) -> bool {
        self.errno == 0
    }
}
