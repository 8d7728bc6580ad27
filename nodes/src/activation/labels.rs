//! The file of labels that stands for a miner's space.
//!
//! It is written once per identity and then only read: whole, for every proof. A proof is checked here
//! as others will check it, so that a damaged file is noticed before anything is published.

use super::record::write_whole;
use crate::protocol::genesis::NodeId;
use crate::protocol::post::{self, POST_BYTES, Post};
use std::io::Read as _;
use std::path::{Path, PathBuf};

const FILE: &str = "labels.bin";

/// An identity's labels on disk.
#[derive(Debug)]
pub(crate) struct Labels {
    path: PathBuf,
    identity: NodeId,
}

/// Why there is no proof of them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LabelsError {
    #[error("the labels cannot be read: {0}; without them this miner is not activated")]
    Read(std::io::Error),
    #[error("{} does not hold this miner's labels any more; restore the file, or remove the directory it lies in to make them again", .0.display())]
    Damaged(PathBuf),
}

impl Labels {
    pub(crate) fn new(directory: &Path, identity: NodeId) -> Self {
        Self {
            path: directory.join(FILE),
            identity,
        }
    }

    /// Makes the labels: once, before anything else of the identity is written.
    pub(crate) fn init(&self) -> std::io::Result<()> {
        write_whole(&self.path, &post::labels(&self.identity), true)
    }

    /// A proof for `challenge` that holds for everybody.
    pub(crate) fn prove(&self, challenge: &[u8; 32]) -> Result<Post, LabelsError> {
        let mut stored = Vec::with_capacity(POST_BYTES);
        let limit = POST_BYTES as u64 + 1;
        fs_err::File::open(&self.path)
            .and_then(|file| file.take(limit).read_to_end(&mut stored))
            .map_err(LabelsError::Read)?;
        Post::prove(&stored, challenge)
            .filter(|post| post.verify(&self.identity, challenge))
            .ok_or_else(|| LabelsError::Damaged(self.path.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_prove_until_they_are_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let labels = Labels::new(dir.path(), [5; 32]);
        assert!(matches!(labels.prove(&[1; 32]), Err(LabelsError::Read(_))));
        labels.init().unwrap();
        let post = labels.prove(&[1; 32]).unwrap();
        assert!(post.verify(&[5; 32], &[1; 32]));

        let path = dir.path().join(FILE);
        let good = fs_err::read(&path).unwrap();
        let flipped = |byte: usize| {
            let mut bad = good.clone();
            bad[byte] ^= 1;
            bad
        };
        let cut = good[..good.len() - 1].to_vec();
        let longer = [good.as_slice(), &[0]].concat();
        for bad in [flipped(0), flipped(POST_BYTES - 1), cut, longer, Vec::new()] {
            fs_err::write(&path, bad).unwrap();
            let error = labels.prove(&[1; 32]).unwrap_err();
            assert!(matches!(error, LabelsError::Damaged(_)), "{error}");
        }
        fs_err::write(&path, good).unwrap();
        assert_eq!(labels.prove(&[1; 32]).unwrap(), post);
    }
}
