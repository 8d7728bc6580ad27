//! Transactions: what miners make once a layer and everybody counts.
//!
//! A transaction says which network and layer it was made for, who made it, and is signed with
//! ed25519. Making one is deterministic: a miner that restarts within a layer makes the same one
//! again, which nobody counts twice. It moves no coins yet.

use super::topics::Validity;
use crate::node::Node;
use crate::p2p::codec::{Reader, WireError, Writer};
use crate::runtime::lock;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

/// Its gossip topic.
pub(crate) const TOPIC: u8 = 1;
/// Keeps signatures of transactions apart from all others.
const DOMAIN: &[u8] = b"tweedledum transaction 1";

/// A signed transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transaction {
    pub(crate) netid: u32,
    pub(crate) layer: u64,
    /// Tells apart those that one miner makes in one layer.
    pub(crate) index: u32,
    signer: [u8; 32],
    signature: [u8; 64],
}

/// What a transaction is known by.
pub(crate) type TransactionId = [u8; 20];

impl Transaction {
    /// Bytes of every encoded transaction.
    pub(crate) const BYTES: usize = 4 + 8 + 4 + 32 + 64;

    pub(crate) fn sign(key: &SigningKey, netid: u32, layer: u64, index: u32) -> Self {
        let signer = key.verifying_key().to_bytes();
        let mut made = Self {
            netid,
            layer,
            index,
            signer,
            signature: [0; 64],
        };
        made.signature = key.sign(&made.signed_bytes()).to_bytes();
        made
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.write_content(&mut out);
        out.raw(&self.signature).done()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let decoded = Self {
            netid: reader.u32("the netid")?,
            layer: reader.u64("the layer")?,
            index: reader.u32("the index")?,
            signer: reader.array("the signer")?,
            signature: reader.array("the signature")?,
        };
        reader.finish()?;
        Ok(decoded)
    }

    /// Is it of this network, and signed by who it says?
    pub(crate) fn verify(&self, netid: u32) -> Result<(), &'static str> {
        if self.netid != netid {
            return Err("tx-netid");
        }
        let signer = VerifyingKey::from_bytes(&self.signer).map_err(|_| "tx-signer")?;
        signer
            .verify_strict(
                &self.signed_bytes(),
                &Signature::from_bytes(&self.signature),
            )
            .map_err(|_| "tx-signature")
    }

    /// A hash of the content without the signature.
    pub(crate) fn id(&self) -> TransactionId {
        let hash = Sha256::digest(self.signed_bytes());
        let mut id = TransactionId::default();
        id.copy_from_slice(&hash[..20]);
        id
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.write_content(out.raw(DOMAIN));
        out.done()
    }

    fn write_content(&self, out: &mut Writer) {
        out.u32(self.netid)
            .u64(self.layer)
            .u32(self.index)
            .raw(&self.signer);
    }
}

/// A transaction came by gossip.
pub(crate) fn receive(node: &Node, bytes: &[u8]) -> Validity {
    let Ok(transaction) = Transaction::decode(bytes) else {
        return Validity::Invalid("tx-malformed");
    };
    if let Err(reason) = transaction.verify(node.network.netid) {
        return Validity::Invalid(reason);
    }
    if lock(&node.mempool).insert(transaction.id()) {
        node.metrics.mempool_txs.inc();
    }
    Validity::Valid
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Transaction {
        Transaction::sign(&SigningKey::from_bytes(&[7; 32]), 116, 12, 0)
    }

    #[test]
    fn a_transaction_is_valid_in_its_network_only_and_its_id_is_its_content() {
        let made = sample();
        assert_eq!(Transaction::decode(&made.encode()).unwrap(), made);
        assert_eq!(made.encode().len(), Transaction::BYTES);
        assert_eq!(made.verify(116), Ok(()));
        assert_eq!(made.verify(117), Err("tx-netid"));
        assert_eq!(
            sample().encode(),
            made.encode(),
            "making one is deterministic"
        );
        let other = Transaction::sign(&SigningKey::from_bytes(&[7; 32]), 116, 13, 0);
        assert_ne!(other.id(), made.id());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = sample().encode();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let verdict = Transaction::decode(&damaged).unwrap().verify(116);
            assert!(verdict.is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(decoded) = Transaction::decode(&bytes) {
                prop_assert_eq!(decoded.encode(), bytes);
                prop_assert!(decoded.verify(116).is_err());
            }
        }
    }
}
