//! Transactions: coins that go from one identity to another; miners make some in each layer.
//!
//! A transaction names its network, the layer it was made for and its number among those of its
//! signer, who gets how many coins, and is signed with ed25519. Layer and number are its nonce: an
//! account takes ascending ones, with gaps, so that a lost transaction holds up none behind it. Making
//! one is deterministic: a miner that restarts within a layer makes the same one again, which counts
//! once. What a transaction does to the state is in `mesh/state.rs`.

use super::genesis::{Genesis, NodeId};
use super::topics::Validity;
use crate::node::Node;
use crate::p2p::codec::{Reader, WireError, Writer};
use crate::runtime::lock;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};

/// Its gossip topic.
pub(crate) const TOPIC: u8 = 1;
/// Keeps signatures of transactions apart from all others.
const DOMAIN: &[u8] = b"tweedledum transaction 2";
/// What a miner gives away in each transaction of a layer.
const AMOUNT_OF_LAYER: u64 = 1;

/// When an account does something: the layer, then the number within it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Nonce {
    pub(crate) layer: u64,
    pub(crate) index: u32,
}

impl Nonce {
    /// The one behind it; the very last has none.
    pub(crate) fn next(self) -> Self {
        match (self.index.checked_add(1), self.layer.checked_add(1)) {
            (Some(index), _) => Self { index, ..self },
            (None, Some(layer)) => Self { layer, index: 0 },
            (None, None) => self,
        }
    }
}

/// A signed transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transaction {
    pub(crate) netid: u32,
    pub(crate) layer: u64,
    /// Tells apart those that one miner makes in one layer.
    pub(crate) index: u32,
    /// Who gives.
    pub(crate) signer: NodeId,
    /// Who gets.
    pub(crate) to: NodeId,
    pub(crate) amount: u64,
    signature: [u8; 64],
}

/// What a transaction is known by.
pub(crate) type TransactionId = [u8; 20];

impl Transaction {
    /// Bytes of every encoded transaction.
    pub(crate) const BYTES: usize = 4 + 8 + 4 + 32 + 32 + 8 + 64;

    pub(crate) fn sign(
        key: &SigningKey,
        netid: u32,
        nonce: Nonce,
        to: NodeId,
        amount: u64,
    ) -> Self {
        let mut made = Self {
            netid,
            layer: nonce.layer,
            index: nonce.index,
            signer: key.verifying_key().to_bytes(),
            to,
            amount,
            signature: [0; 64],
        };
        made.signature = key.sign(&made.signed_bytes()).to_bytes();
        made
    }

    /// What the holder of `key` makes as number `index` in a layer: a coin for one miner after the
    /// other.
    pub(crate) fn of_layer(genesis: &Genesis, key: &SigningKey, layer: u64, index: u32) -> Self {
        let miners = u64::try_from(genesis.miners.len()).unwrap_or(u64::MAX);
        let turn = layer.wrapping_add(index.into()).checked_rem(miners);
        let place = turn.and_then(|turn| usize::try_from(turn).ok());
        let to = place.and_then(|place| genesis.miners.iter().nth(place));
        // Without miners nobody could put it into a block either.
        let to = to.copied().unwrap_or_default();
        let nonce = Nonce { layer, index };
        Self::sign(key, genesis.netid, nonce, to, AMOUNT_OF_LAYER)
    }

    pub(crate) fn nonce(&self) -> Nonce {
        Nonce {
            layer: self.layer,
            index: self.index,
        }
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
            to: reader.array("the receiver")?,
            amount: reader.u64("the amount")?,
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
            .raw(&self.signer)
            .raw(&self.to)
            .u64(self.amount);
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
    if lock(&node.mesh).transaction(transaction) {
        node.metrics.mempool_txs.inc();
    }
    Validity::Valid
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn made_in(layer: u64) -> Transaction {
        let nonce = Nonce { layer, index: 0 };
        Transaction::sign(&SigningKey::from_bytes(&[7; 32]), 116, nonce, [8; 32], 3)
    }

    fn sample() -> Transaction {
        made_in(12)
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
        assert_ne!(made_in(13).id(), made.id());
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
