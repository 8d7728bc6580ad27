//! A finished tree, read back: written layers from their files, upper layers computed again.
//!
//! Layer k lies in `layercache_<k>.bin`, 32 bytes per node in order, as in 2020. Layers that were not
//! written are built from the highest one that was: that takes 64 bytes of memory for each of its
//! nodes, so a large `memory` costs what its name says. Files of a wrong length are refused; damage
//! inside them shows when the proof is made, by its root.

use super::Params;
use super::hash::{self, Node};
use fs_err as fs;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Bytes of a node in a layer file.
pub(super) const NODE_BYTES: u64 = 32;

/// A finished tree in a round's directory.
#[derive(Debug)]
pub struct Tree {
    params: Params,
    statement: Node,
    layers: Vec<fs::File>,
    /// The layers above the files; the last is the root alone.
    upper: Vec<Vec<Node>>,
}

/// A layer that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// The system does not give the file, or not all of it.
    #[error("merkle layer {layer} cannot be read from {}", path.display())]
    File {
        /// Which layer, counted from the leaves.
        layer: u32,
        /// Its file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is not as long as its layer.
    #[error("{} is {have} bytes long and merkle layer {layer} takes {need}; the round's work is not finished, or the file is damaged", path.display())]
    Length {
        /// Which layer, counted from the leaves.
        layer: u32,
        /// Its file.
        path: PathBuf,
        /// Bytes that are there.
        have: u64,
        /// Bytes that there must be.
        need: u64,
    },
    /// A node outside of the tree.
    #[error(
        "merkle layer {layer} has no node {index}; the tree has {height} layers above its leaves"
    )]
    Outside {
        /// The layer that was asked for.
        layer: u32,
        /// The node that was asked for.
        index: u64,
        /// Layers above the leaves.
        height: u32,
    },
}

/// Where layer `layer` of the round in `dir` lies.
pub fn layer_path(dir: &Path, layer: u32) -> PathBuf {
    dir.join(format!("layercache_{layer}.bin"))
}

impl Tree {
    /// Opens the tree of the round in `dir`, whose upper `memory` layers were not written.
    ///
    /// # Errors
    /// A file that is missing, unreadable or not of its length.
    pub fn open(
        dir: &Path,
        statement: Node,
        params: Params,
        memory: u32,
    ) -> Result<Self, TreeError> {
        let layers = (0..params.layers_on_disk(memory))
            .map(|layer| open_layer(dir, layer, params))
            .collect::<Result<Vec<_>, _>>()?;
        let mut tree = Self {
            params,
            statement,
            layers,
            upper: Vec::new(),
        };
        tree.build_upper()?;
        Ok(tree)
    }

    /// The root of the tree.
    pub fn root(&self) -> Node {
        self.upper
            .last()
            .and_then(|layer| layer.first())
            .copied()
            .unwrap_or(hash::PADDING)
    }

    /// The parameters it was opened with.
    pub fn params(&self) -> Params {
        self.params
    }

    /// The statement it was opened with.
    pub fn statement(&self) -> Node {
        self.statement
    }

    /// Node `index` of layer `layer`; layer 0 holds the labels.
    ///
    /// # Errors
    /// A node outside of the tree, or a file that cannot be read.
    pub fn node(&self, layer: u32, index: u64) -> Result<Node, TreeError> {
        let height = self.params.log2_leaves();
        let outside = TreeError::Outside {
            layer,
            index,
            height,
        };
        if layer > height || index >= self.params.leaves() >> layer {
            return Err(outside);
        }
        if let Some(file) = self.layers.get(layer as usize) {
            let mut node = [0; 32];
            file.file()
                .read_exact_at(&mut node, index * NODE_BYTES)
                .map_err(|source| file_error(layer, file.path(), source))?;
            return Ok(node);
        }
        let place = usize::try_from(index).ok();
        self.upper
            .get(layer as usize - self.layers.len())
            .and_then(|nodes| nodes.get(place?))
            .copied()
            .ok_or(outside)
    }

    fn build_upper(&mut self) -> Result<(), TreeError> {
        let top = u32::try_from(self.layers.len()).unwrap_or(u32::MAX) - 1;
        let path = self.layers[top as usize].path();
        let bytes = fs::read(path).map_err(|source| file_error(top, path, source))?;
        let (nodes, _) = bytes.as_chunks::<32>();
        let mut below = self.parents(nodes);
        for _ in top + 2..=self.params.log2_leaves() {
            let layer = self.parents(&below);
            self.upper.push(std::mem::replace(&mut below, layer));
        }
        self.upper.push(below);
        Ok(())
    }

    fn parents(&self, nodes: &[Node]) -> Vec<Node> {
        let (pairs, _) = nodes.as_chunks::<2>();
        pairs
            .iter()
            .map(|[left, right]| hash::inner(&self.statement, left, right))
            .collect()
    }
}

fn open_layer(dir: &Path, layer: u32, params: Params) -> Result<fs::File, TreeError> {
    let path = layer_path(dir, layer);
    let open = || {
        let file = fs::File::open(&path)?;
        let have = file.metadata()?.len();
        Ok((file, have))
    };
    let (file, have) = open().map_err(|source| file_error(layer, &path, source))?;
    let need = (params.leaves() >> layer) * NODE_BYTES;
    if have != need {
        return Err(TreeError::Length {
            layer,
            path,
            have,
            need,
        });
    }
    Ok(file)
}

fn file_error(layer: u32, path: &Path, source: io::Error) -> TreeError {
    TreeError::File {
        layer,
        path: path.to_owned(),
        source,
    }
}
