//! A verifiable random function: ECVRF-EDWARDS25519-SHA512-TAI of RFC 9381, suite 0x03.
//!
//! [`prove`] gives 80 bytes that only the holder of the secret can make, and [`verify`] the 64 bytes
//! of randomness that they stand for, the same for everybody. The names are those of the RFC, section
//! 5. Secret scalars meet only constant-time operations of `curve25519-dalek`; the input is public, and
//! the number of tries that it takes on the curve shows in the time. What the randomness means is for
//! the caller, who also keeps inputs of different uses apart.

use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::{Scalar, clamp_integer};
use curve25519_dalek::traits::{IsIdentity as _, VartimeMultiscalarMul as _};
use sha2::{Digest as _, Sha512};

/// Bytes of a secret key: an ed25519 seed (RFC 8032).
pub const SECRET_LEN: usize = 32;
/// Bytes of a public key.
pub const PUBLIC_LEN: usize = 32;
/// Bytes of a proof: a point (32), a challenge (16), a scalar (32).
pub const PROOF_LEN: usize = 80;
/// Bytes of randomness.
pub const OUTPUT_LEN: usize = 64;

const SUITE: u8 = 0x03;
/// Which of the suite's hashes is taken (RFC 9381, sections 5.4.1.1, 5.4.3 and 5.2).
const ENCODE_TO_CURVE: u8 = 0x01;
const CHALLENGE: u8 = 0x02;
const PROOF_TO_HASH: u8 = 0x03;
/// What every hash of the suite ends with.
const BACK: u8 = 0x00;
const CHALLENGE_LEN: usize = 16;

/// Why a proof proves nothing, or none can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VrfError {
    /// The public key is no point, is not encoded as points are, or is of small order, so that other
    /// inputs could have the same output.
    #[error(
        "the public key is not a point of the curve that can be trusted; it was not made from a secret key"
    )]
    PublicKey,
    /// The proof does not begin with a point as points are encoded.
    #[error("the proof does not begin with a point of the curve; it is damaged")]
    Gamma,
    /// The last 32 bytes are not below the order of the group.
    #[error("the scalar of the proof is not below the group's order; it is damaged")]
    Scalar,
    /// All is well-formed, and of another key or input.
    #[error("the proof is of another key or another input")]
    Challenge,
    /// None of 256 tries gave a point: for a given key about one input in 2^256 does that.
    #[error("the input cannot be mapped to the curve; use another one")]
    EncodeToCurve,
}

/// The public key of a secret: that of ed25519.
pub fn public_key(secret: &[u8; SECRET_LEN]) -> [u8; PUBLIC_LEN] {
    Expanded::new(secret).public
}

/// The proof of what `secret` makes of `alpha`.
///
/// # Errors
/// [`VrfError::EncodeToCurve`], which nobody has met yet.
pub fn prove(secret: &[u8; SECRET_LEN], alpha: &[u8]) -> Result<[u8; PROOF_LEN], VrfError> {
    let key = Expanded::new(secret);
    let h = encode_to_curve(&key.public, alpha)?;
    let h_string = h.compress().to_bytes();
    let gamma = h * key.scalar;
    let k = key.nonce(&h_string);
    let points = [
        key.public,
        h_string,
        gamma.compress().to_bytes(),
        EdwardsPoint::mul_base(&k).compress().to_bytes(),
        (h * k).compress().to_bytes(),
    ];
    let c = challenge(&points);
    let s = k + scalar(&c) * key.scalar;
    let mut proof = [0; PROOF_LEN];
    proof[..32].copy_from_slice(&points[2]);
    proof[32..48].copy_from_slice(&c);
    proof[48..].copy_from_slice(s.as_bytes());
    Ok(proof)
}

/// The randomness that `proof` stands for, if it is what the holder of `public` makes of `alpha`.
///
/// The key is validated as the RFC's section 5.4.5 says, so that even who chooses the key cannot give
/// one input two outputs.
///
/// # Errors
/// Which part is not as it should be.
pub fn verify(
    public: &[u8; PUBLIC_LEN],
    alpha: &[u8],
    proof: &[u8; PROOF_LEN],
) -> Result<[u8; OUTPUT_LEN], VrfError> {
    let key = validate_key(public)?;
    let (gamma, c, s) = decode(proof)?;
    let h = encode_to_curve(public, alpha)?;
    let minus_c = -scalar(&c);
    let points = [
        *public,
        h.compress().to_bytes(),
        gamma.compress().to_bytes(),
        EdwardsPoint::vartime_double_scalar_mul_basepoint(&minus_c, &key, &s)
            .compress()
            .to_bytes(),
        EdwardsPoint::vartime_multiscalar_mul([s, minus_c], [h, gamma])
            .compress()
            .to_bytes(),
    ];
    // Everything compared here is public.
    if challenge(&points) != c {
        return Err(VrfError::Challenge);
    }
    Ok(output(&gamma))
}

/// The randomness of a proof that is known to be good, such as one's own.
///
/// # Errors
/// Bytes that are no proof. Whether it proves anything is not looked at: see [`verify`].
pub fn proof_to_hash(proof: &[u8; PROOF_LEN]) -> Result<[u8; OUTPUT_LEN], VrfError> {
    decode(proof).map(|(gamma, _, _)| output(&gamma))
}

/// A secret key as RFC 8032, section 5.1.5, expands it.
struct Expanded {
    scalar: Scalar,
    prefix: [u8; 32],
    public: [u8; PUBLIC_LEN],
}

impl Expanded {
    fn new(secret: &[u8; SECRET_LEN]) -> Self {
        let hash: [u8; 64] = Sha512::digest(secret).into();
        let (low, high) = halves(&hash);
        let scalar = Scalar::from_bytes_mod_order(clamp_integer(low));
        Self {
            scalar,
            prefix: high,
            public: EdwardsPoint::mul_base(&scalar).compress().to_bytes(),
        }
    }

    /// The nonce of RFC 9381, section 5.4.2.2: that of ed25519 signatures.
    fn nonce(&self, h_string: &[u8; 32]) -> Scalar {
        let hash = Sha512::new()
            .chain_update(self.prefix)
            .chain_update(h_string)
            .finalize();
        Scalar::from_bytes_mod_order_wide(&hash.into())
    }
}

/// Try and increment: RFC 9381, section 5.4.1.1, salted with the public key.
fn encode_to_curve(public: &[u8; PUBLIC_LEN], alpha: &[u8]) -> Result<EdwardsPoint, VrfError> {
    for counter in 0..=u8::MAX {
        let hash: [u8; 64] = Sha512::new()
            .chain_update([SUITE, ENCODE_TO_CURVE])
            .chain_update(public)
            .chain_update(alpha)
            .chain_update([counter, BACK])
            .finalize()
            .into();
        let h = string_to_point(&halves(&hash).0).map(|point| point.mul_by_cofactor());
        if let Some(h) = h.filter(|h| !h.is_identity()) {
            return Ok(h);
        }
    }
    Err(VrfError::EncodeToCurve)
}

/// RFC 9381, section 5.4.3.
fn challenge(points: &[[u8; 32]; 5]) -> [u8; CHALLENGE_LEN] {
    let hash = Sha512::new()
        .chain_update([SUITE, CHALLENGE])
        .chain_update(points.as_flattened())
        .chain_update([BACK])
        .finalize();
    let mut c = [0; CHALLENGE_LEN];
    c.copy_from_slice(&hash[..CHALLENGE_LEN]);
    c
}

/// RFC 9381, section 5.2.
fn output(gamma: &EdwardsPoint) -> [u8; OUTPUT_LEN] {
    Sha512::new()
        .chain_update([SUITE, PROOF_TO_HASH])
        .chain_update(gamma.mul_by_cofactor().compress().as_bytes())
        .chain_update([BACK])
        .finalize()
        .into()
}

/// RFC 9381, section 5.4.5.
fn validate_key(public: &[u8; PUBLIC_LEN]) -> Result<EdwardsPoint, VrfError> {
    string_to_point(public)
        .filter(|point| !point.is_small_order())
        .ok_or(VrfError::PublicKey)
}

/// RFC 9381, section 5.4.4.
fn decode(
    proof: &[u8; PROOF_LEN],
) -> Result<(EdwardsPoint, [u8; CHALLENGE_LEN], Scalar), VrfError> {
    let (mut gamma, mut c, mut s) = ([0; 32], [0; CHALLENGE_LEN], [0; 32]);
    gamma.copy_from_slice(&proof[..32]);
    c.copy_from_slice(&proof[32..48]);
    s.copy_from_slice(&proof[48..]);
    let gamma = string_to_point(&gamma).ok_or(VrfError::Gamma)?;
    let s = Scalar::from_canonical_bytes(s)
        .into_option()
        .ok_or(VrfError::Scalar)?;
    Ok((gamma, c, s))
}

/// A point by RFC 8032, section 5.1.3: only the encoding that the point itself has. Decompression
/// alone takes coordinates above the field's order and a negative zero too.
fn string_to_point(string: &[u8; 32]) -> Option<EdwardsPoint> {
    let compressed = CompressedEdwardsY(*string);
    compressed
        .decompress()
        .filter(|point| point.compress() == compressed)
}

fn scalar(c: &[u8; CHALLENGE_LEN]) -> Scalar {
    Scalar::from(u128::from_le_bytes(*c))
}

fn halves(hash: &[u8; 64]) -> ([u8; 32], [u8; 32]) {
    let (mut low, mut high) = ([0; 32], [0; 32]);
    low.copy_from_slice(&hash[..32]);
    high.copy_from_slice(&hash[32..]);
    (low, high)
}

#[cfg(test)]
#[path = "vrf_tests.rs"]
mod tests;
