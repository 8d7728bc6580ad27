//! The gossip topic of layer agreement: votes and commits, signed by their voters.
//!
//! A message travels as netid, voter, signature, message. The signature is ed25519 over a domain of
//! its own, the netid and the message's canonical bytes, so that nothing signed for another purpose or
//! network counts here. What a message means is in `agreement/`, what becomes of one in `mesh/`.

use super::agreement::{Message, Signature, Signed, Voter};
use super::genesis::Genesis;
use super::topics::Validity;
use crate::mesh::{self, Origin};
use crate::node::Node;
use crate::p2p::codec::{Reader, Writer};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};

/// Its gossip topic.
pub(crate) const TOPIC: u8 = 5;
/// Keeps signatures of votes apart from all others.
const DOMAIN: &[u8] = b"tweedledum layer vote 1";

/// The keys of all voters, ready to check signatures with.
#[derive(Debug, Clone)]
pub(crate) struct VoterKeys {
    netid: u32,
    /// By voter; none where the network file gives no key of the curve.
    keys: Vec<Option<VerifyingKey>>,
}

impl VoterKeys {
    pub(crate) fn new(genesis: &Genesis) -> Self {
        let key = |id| VerifyingKey::from_bytes(id).ok();
        Self {
            netid: genesis.netid,
            keys: genesis.voters.iter().map(key).collect(),
        }
    }

    /// Did the voter that it names sign this, in this network?
    pub(crate) fn verify(&self, signed: &Signed) -> bool {
        let key = self.keys.get(usize::from(signed.voter.0));
        let bytes = signed_bytes(self.netid, &signed.message.encode());
        let signature = ed25519_dalek::Signature::from_bytes(&signed.signature);
        key.and_then(Option::as_ref)
            .is_some_and(|key| key.verify_strict(&bytes, &signature).is_ok())
    }
}

/// Signs the canonical bytes of a message.
pub(crate) fn sign(key: &SigningKey, netid: u32, message: &[u8]) -> Signature {
    key.sign(&signed_bytes(netid, message)).to_bytes()
}

pub(crate) fn encode(netid: u32, signed: &Signed) -> Vec<u8> {
    let mut out = Writer::default();
    out.u32(netid).u8(signed.voter.0).raw(&signed.signature);
    out.raw(&signed.message.encode()).done()
}

/// Out of what [`encode`] gave, for this network. The signature is not checked.
pub(crate) fn decode(netid: u32, bytes: &[u8]) -> Result<Signed, &'static str> {
    let mut reader = Reader::new(bytes);
    let head = (|| {
        let netid = reader.u32("the netid")?;
        let voter = Voter(reader.u8("a voter")?);
        Ok((netid, voter, reader.array("a signature")?))
    })();
    let (found, voter, signature) =
        head.map_err(|_: crate::p2p::wire::WireError| "vote-malformed")?;
    if found != netid {
        return Err("vote-netid");
    }
    let message = Message::decode(reader.rest()).map_err(|_| "vote-malformed")?;
    Ok(Signed {
        voter,
        message,
        signature,
    })
}

/// A vote or commit came by gossip.
pub(crate) fn receive(node: &Node, bytes: &[u8]) -> Validity {
    mesh::take_in(node, |mesh| mesh.vote(bytes, Origin::Gossip))
}

fn signed_bytes(netid: u32, message: &[u8]) -> Vec<u8> {
    let mut out = Writer::default();
    out.raw(DOMAIN).u32(netid).raw(message).done()
}

#[cfg(test)]
mod tests {
    use super::super::agreement::{BlockId, BlockSet, Body};
    use super::super::genesis::tests::{key, sample};
    use super::*;
    use proptest::prelude::*;

    fn made() -> Signed {
        let message = Message {
            layer: 9,
            round: 1,
            epoch: 2,
            body: Body::Vote(BlockSet::new([BlockId([5; 32])])),
        };
        Signed {
            voter: Voter(2),
            signature: sign(&key(2), 116, &message.encode()),
            message,
        }
    }

    #[test]
    fn a_vote_is_good_from_its_voter_in_its_network_only() {
        let keys = VoterKeys::new(&sample(4));
        let bytes = encode(116, &made());
        assert_eq!(decode(116, &bytes), Ok(made()));
        assert!(keys.verify(&made()));
        assert_eq!(decode(117, &bytes), Err("vote-netid"));
        let elsewhere = VoterKeys::new(&Genesis {
            netid: 117,
            ..sample(4)
        });
        assert!(!elsewhere.verify(&made()));
        for voter in [1, 3, 4, 255] {
            let stolen = Signed {
                voter: Voter(voter),
                ..made()
            };
            assert!(!keys.verify(&stolen), "{voter}");
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (keys, bytes) = (VoterKeys::new(&sample(4)), encode(116, &made()));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(signed) = decode(116, &damaged) {
                assert!(!keys.verify(&signed), "bit {bit}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(signed) = decode(116, &bytes) {
                prop_assert_eq!(encode(116, &signed), bytes);
            }
        }
    }
}
