//! Who a node is: one 32-byte secret, from which both its key pairs come, and nonces.

use crate::p2p::wire::{self, Nonce, PublicKey, SecretKey};
use ed25519_dalek::SigningKey;
use sha2::{Digest as _, Sha256};
use std::sync::atomic::{AtomicU64, Ordering};

/// Keeps the signing key apart from the x25519 key that the same secret is.
const SIGNING_DOMAIN: &[u8] = b"tweedledum signing key 1";

/// A node's keys. The secret itself is its x25519 key; the ed25519 seed is a hash of it.
pub(crate) struct Identity {
    pub(crate) secret: SecretKey,
    pub(crate) public: PublicKey,
    pub(crate) signing: SigningKey,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("public", &hex::encode(self.public))
            .finish_non_exhaustive()
    }
}

impl Identity {
    pub(crate) fn new(secret: SecretKey) -> Self {
        Self {
            secret,
            public: wire::public_key(&secret),
            signing: signing_key(&secret),
        }
    }

    /// Who this node is to the protocol.
    pub(crate) fn id(&self) -> [u8; 32] {
        self.signing.verifying_key().to_bytes()
    }
}

/// The ed25519 public key that the node with this secret signs with: `id` in network files.
pub fn node_id(secret: &SecretKey) -> [u8; 32] {
    signing_key(secret).verifying_key().to_bytes()
}

fn signing_key(secret: &SecretKey) -> SigningKey {
    let seed = Sha256::new()
        .chain_update(SIGNING_DOMAIN)
        .chain_update(secret)
        .finalize();
    SigningKey::from_bytes(&seed.into())
}

/// Nonces that no process ever gives twice: 16 random bytes of this process, then a counter.
#[derive(Debug)]
pub(crate) struct Nonces {
    prefix: [u8; 16],
    next: AtomicU64,
}

impl Nonces {
    /// Draws the prefix from the kernel.
    pub(crate) fn new() -> Result<Self, getrandom::Error> {
        let mut prefix = [0; 16];
        getrandom::fill(&mut prefix)?;
        Ok(Self {
            prefix,
            next: AtomicU64::new(0),
        })
    }

    pub(crate) fn next(&self) -> Nonce {
        let mut nonce = [0; wire::NONCE_LEN];
        nonce[..16].copy_from_slice(&self.prefix);
        nonce[16..].copy_from_slice(&self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        nonce
    }
}
