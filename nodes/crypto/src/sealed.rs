//! Boxes of `NaCl`: curve25519 + xsalsa20-poly1305 (Bernstein, Lange, Schwabe: "The security impact of a new cryptographic
//! library", 2012), as the datagrams of 2020 have them.

use crypto_box::aead::AeadInPlace as _;
use crypto_box::{Nonce as BoxNonce, SalsaBox, Tag as BoxTag};

/// An x25519 secret key.
pub type SecretKey = [u8; 32];
/// An x25519 public key.
pub type PublicKey = [u8; 32];
/// 24 bytes that are never used twice with one pair of keys.
pub type Nonce = [u8; 24];
/// What proves that a box is its sender's and whole.
pub type Tag = [u8; 16];

/// The x25519 public key of a secret one.
pub fn public_key(secret: &SecretKey) -> PublicKey {
    *crypto_box::SecretKey::from(*secret).public_key().as_bytes()
}

/// The precomputed key between two owners of keys, the same from either side.
pub struct PairKey(SalsaBox);

impl std::fmt::Debug for PairKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PairKey(..)")
    }
}

impl PairKey {
    /// One Diffie-Hellman exchange, some 40 µs.
    pub fn new(mine: &SecretKey, theirs: &PublicKey) -> Self {
        Self(SalsaBox::new(&(*theirs).into(), &(*mine).into()))
    }

    /// Turns a text into its box, and gives the tag that belongs to it. Nothing above 2^38 bytes can be sealed.
    pub fn seal(&self, nonce: &Nonce, text: &mut [u8]) -> Option<Tag> {
        let nonce = BoxNonce::from(*nonce);
        let tag = self.0.encrypt_in_place_detached(&nonce, b"", text).ok()?;
        Some(tag.into())
    }

    /// Turns a box back into its text; false, and the bytes as they were, if it is not what this key sealed.
    pub fn open(&self, nonce: &Nonce, tag: &Tag, sealed: &mut [u8]) -> bool {
        let (nonce, tag) = (BoxNonce::from(*nonce), BoxTag::from(*tag));
        let opened = self.0.decrypt_in_place_detached(&nonce, b"", sealed, &tag);
        opened.is_ok()
    }
}
