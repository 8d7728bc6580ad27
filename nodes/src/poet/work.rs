//! The work: labels one after the other, their merkle tree, and its layers, written as they grow.
//!
//! A [`Worker`] computes a bounded batch per call, so the caller paces it by sleeping between
//! batches. It holds one parked node per layer and a block of unwritten nodes per written layer,
//! nothing else, and can be rebuilt from a [`Checkpoint`] and the layers on disk. A write that fails
//! leaves it where it was: the next call first writes what is left over. It knows writers, not files
//! (`store.rs` opens those), and takes no time of its own.

use super::Params;
use super::hash::{self, Node};
use std::io::{self, Write};

/// Nodes that wait for a write, in bytes: a block, as the buffers of 2020.
const BUFFER_BYTES: usize = 4096;
const NODE_BYTES: usize = 32;
const MAX_LAYERS: usize = Params::MAX_LOG2_LEAVES as usize + 1;

/// A tree in the making, whose layers go to writers of type `W`.
#[derive(Debug)]
pub struct Worker<W> {
    statement: Node,
    params: Params,
    next_leaf: u64,
    /// The last node of layer k is parked, waiting for its right sibling, while bit k of `next_leaf`
    /// is set. At the end the only one parked is the root.
    parked: [Node; MAX_LAYERS],
    layers: Vec<Layer<W>>,
}

/// How far a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// There is more to do.
    Working {
        /// Labels that are still to be computed.
        labels_left: u64,
    },
    /// The tree is complete and all its layers are written.
    Done {
        /// The root of the tree.
        root: Node,
    },
}

/// Where a worker stood, for going on after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The label that comes next.
    pub next_leaf: u64,
    /// The parked nodes, from the leaves upwards: one per set bit of `next_leaf`.
    pub parked: Vec<Node>,
}

impl Checkpoint {
    /// The checkpoint before the first label.
    pub fn start() -> Self {
        Self {
            next_leaf: 0,
            parked: Vec::new(),
        }
    }
}

/// A layer that could not be written. The worker is as before and may go on.
#[derive(Debug, thiserror::Error)]
#[error(
    "merkle layer {layer} could not be written at label {leaf}; once there is room, the work can go on from here"
)]
pub struct WorkError {
    /// Which layer, counted from the leaves.
    pub layer: usize,
    /// The label that comes next.
    pub leaf: u64,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl WorkError {
    /// Whether the disk, or a quota on it, is full.
    pub fn is_disk_full(&self) -> bool {
        is_disk_full(&self.source)
    }
}

/// A checkpoint or writers that do not fit the parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResumeError {
    /// The checkpoint lies behind the end.
    #[error(
        "the checkpoint is at label {next_leaf} of {leaves}; it is of another round, or damaged"
    )]
    Leaf {
        /// The label the checkpoint names.
        next_leaf: u64,
        /// Labels of the tree.
        leaves: u64,
    },
    /// Parked nodes are missing, or too many.
    #[error("the checkpoint has {have} parked nodes and its label needs {need}; it is damaged")]
    Parked {
        /// Nodes that are there.
        have: usize,
        /// Nodes that the number of the label asks for.
        need: u32,
    },
    /// More layers than the tree has, or not even the leaves.
    #[error(
        "{layers} layers are to be written and the tree has {height}; write at least the leaves"
    )]
    Layers {
        /// Writers that were given.
        layers: usize,
        /// Layers of the tree below its root.
        height: u32,
    },
}

impl<W: Write> Worker<W> {
    /// A worker that goes on from `from`; writer k takes the nodes of layer k that follow those
    /// that the checkpoint counts (`next_leaf >> k`).
    ///
    /// # Errors
    /// A checkpoint or a number of writers that does not fit the parameters.
    pub fn new(
        statement: Node,
        params: Params,
        from: &Checkpoint,
        writers: Vec<W>,
    ) -> Result<Self, ResumeError> {
        let next_leaf = from.next_leaf;
        if next_leaf > params.leaves() {
            let leaves = params.leaves();
            return Err(ResumeError::Leaf { next_leaf, leaves });
        }
        let (have, need) = (from.parked.len(), next_leaf.count_ones());
        if have != need as usize {
            return Err(ResumeError::Parked { have, need });
        }
        let (layers, height) = (writers.len(), params.log2_leaves());
        if layers == 0 || layers > height as usize {
            return Err(ResumeError::Layers { layers, height });
        }
        let mut parked = [hash::PADDING; MAX_LAYERS];
        for (layer, node) in set_bits(next_leaf).zip(&from.parked) {
            parked[layer] = *node;
        }
        Ok(Self {
            statement,
            params,
            next_leaf,
            parked,
            layers: writers.into_iter().map(Layer::new).collect(),
        })
    }

    /// Computes up to `labels` labels and their part of the tree; after the last one, writes what is
    /// still in memory. Calling it again when done is harmless.
    ///
    /// # Errors
    /// A layer that cannot be written. Nothing is lost: calling it again goes on where it stopped.
    pub fn run(&mut self, labels: u64) -> Result<Progress, WorkError> {
        let end = self
            .params
            .leaves()
            .min(self.next_leaf.saturating_add(labels));
        while self.next_leaf < end {
            self.make_room()?;
            self.add_label();
        }
        let labels_left = self.params.leaves() - self.next_leaf;
        if labels_left > 0 {
            return Ok(Progress::Working { labels_left });
        }
        self.write_all()?;
        Ok(Progress::Done {
            root: self.parked[self.params.log2_leaves() as usize],
        })
    }

    /// Writes what is in memory and says where the work stands.
    ///
    /// # Errors
    /// A layer that cannot be written; then there is no new checkpoint.
    pub fn checkpoint(&mut self) -> Result<Checkpoint, WorkError> {
        self.write_all()?;
        Ok(Checkpoint {
            next_leaf: self.next_leaf,
            parked: set_bits(self.next_leaf)
                .map(|layer| self.parked[layer])
                .collect(),
        })
    }

    /// The label that comes next; all before it are computed.
    pub fn next_leaf(&self) -> u64 {
        self.next_leaf
    }

    /// The writers, whatever is still in memory being dropped.
    pub fn into_writers(self) -> Vec<W> {
        self.layers.into_iter().map(|layer| layer.writer).collect()
    }

    /// Writes full buffers of the layers that the next label reaches, before the label is computed,
    /// so that adding it cannot fail halfway.
    fn make_room(&mut self) -> Result<(), WorkError> {
        let reached = self.next_leaf.trailing_ones() as usize + 1;
        for (number, layer) in self.layers.iter_mut().take(reached).enumerate() {
            if layer.is_full() {
                write(layer, number, self.next_leaf)?;
            }
        }
        Ok(())
    }

    fn write_all(&mut self) -> Result<(), WorkError> {
        for (number, layer) in self.layers.iter_mut().enumerate() {
            write(layer, number, self.next_leaf)?;
        }
        Ok(())
    }

    fn add_label(&mut self) {
        let leaf = self.next_leaf;
        let mut siblings = set_bits(leaf).map(|layer| &self.parked[layer]);
        let mut node = hash::label(&self.statement, leaf, &mut siblings, self.params.depth());
        let mut layer = 0;
        loop {
            if let Some(written) = self.layers.get_mut(layer) {
                written.push(&node);
            }
            let parked = &mut self.parked[layer];
            if (leaf >> layer) & 1 == 0 {
                *parked = node;
                break;
            }
            node = hash::inner(&self.statement, parked, &node);
            layer += 1;
        }
        self.next_leaf += 1;
    }
}

/// One layer's writer and the nodes that wait for it.
#[derive(Debug)]
struct Layer<W> {
    writer: W,
    waiting: Vec<u8>,
    /// How much of `waiting` is written: short writes happen when a disk fills up.
    written: usize,
}

impl<W: Write> Layer<W> {
    fn new(writer: W) -> Self {
        Self {
            writer,
            waiting: Vec::with_capacity(BUFFER_BYTES),
            written: 0,
        }
    }

    fn is_full(&self) -> bool {
        self.waiting.len() + NODE_BYTES > BUFFER_BYTES
    }

    fn push(&mut self, node: &Node) {
        self.waiting.extend_from_slice(node);
    }

    fn write(&mut self) -> io::Result<()> {
        while self.written < self.waiting.len() {
            match self.writer.write(&self.waiting[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.waiting.clear();
        self.written = 0;
        self.writer.flush()
    }
}

fn write<W: Write>(layer: &mut Layer<W>, number: usize, leaf: u64) -> Result<(), WorkError> {
    layer.write().map_err(|source| WorkError {
        layer: number,
        leaf,
        source,
    })
}

/// The numbers of the bits that are set, lowest first.
pub(super) fn set_bits(number: u64) -> impl Iterator<Item = usize> {
    let mut rest = number;
    std::iter::from_fn(move || {
        let bit = (rest != 0).then(|| rest.trailing_zeros() as usize)?;
        rest &= rest - 1;
        Some(bit)
    })
}

/// Whether an error says that the disk, or a quota on it, is full.
pub(super) fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

#[cfg(test)]
#[path = "work_tests.rs"]
mod tests;
