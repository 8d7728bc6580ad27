//! `cap-disk`: the files of a node's data directory can take so much and no more, as on a small disk.
//!
//! What is counted are allocated blocks of 4 KiB, so sparse files are free, and a write over the end is shortened to the
//! last block that fits. A cap under what is taken already lets nothing grow; what is there stays. Healing brings back the
//! plan's own limit, or none.

use super::room::Room;
use crate::params::{Need, Param, Shape};
use crate::schedule::Action;

const PARAMS: &[Param] = &[
    Param {
        name: "target",
        shape: Shape::Nodes,
        need: Need::Required,
        doc: "Whose data directories are capped.",
    },
    Param {
        name: "size",
        shape: Shape::Capacity,
        need: Need::Required,
        doc: "What all files of a target's data directory together can take: a size, or rounds of its role's `round-bytes`.",
    },
];

pub(super) const CAP_DISK: Room = Room {
    name: "cap-disk",
    summary: "Caps what the data directories of its targets can take; writes over it fail with ENOSPC.",
    example: "{ target: gateway-0, size: 64KiB }",
    params: PARAMS,
    amount: "size",
    limit: |node, bytes| Action::CapDisk { node, bytes },
};
