//! `fill-disk`: somebody else's data takes the room that a node's disk has left.
//!
//! It is a cap at what the node's files take when the fault begins, plus what is left to them. Nothing is written, so it
//! does not hurt the machine's own disk. Healing brings back the plan's own limit, or none.

use super::room::Room;
use crate::params::{Need, Param, Shape};
use crate::schedule::Action;

const PARAMS: &[Param] = &[
    Param {
        name: "target",
        shape: Shape::Nodes,
        need: Need::Required,
        doc: "Whose disks are filled.",
    },
    Param {
        name: "leave",
        shape: Shape::Capacity,
        need: Need::Default("0B"),
        doc: "What is left to a target's files: a size, or rounds of its role's `round-bytes`.",
    },
];

pub(super) const FILL_DISK: Room = Room {
    name: "fill-disk",
    summary: "Takes the room that is left on the disks of its targets; writes that need more fail with ENOSPC.",
    example: "{ target: gateway-0, leave: 8KiB }",
    params: PARAMS,
    amount: "leave",
    limit: |node, leave| Action::FillDisk { node, leave },
};
