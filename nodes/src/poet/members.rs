//! Who is in a round: challenges in the order of their bytes, their merkle root, and membership.
//!
//! The root is the statement of the round's work. As in 2020 the tree is unbalanced: where a layer
//! has an odd number of nodes the last is paired with zeros, and nodes are hashed without domain
//! separation; so a membership is checked against the number of members too, which tells leaves from
//! inner nodes. This module does no I/O.

use super::hash::{self, Node};
use crate::p2p::codec::{Reader, WireError, Writer};

/// The members of a round: distinct challenges, ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members(Vec<Node>);

/// Why a list or a proof of membership is not what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MembersError {
    /// The order is not strictly ascending.
    #[error(
        "member {position} does not follow the one before it; members are distinct and ascend by their bytes"
    )]
    Order {
        /// Which member, counted from 0.
        position: usize,
    },
    /// Too many for one round.
    #[error(
        "{count} members are more than the {} that a round takes; register with another PoET",
        Members::MAX
    )]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// A proof of membership for a place that the tree does not have.
    #[error(
        "the membership is of member {index} with {siblings} siblings and the round has {members} members; it belongs to another round"
    )]
    Shape {
        /// The place the proof names.
        index: u32,
        /// Siblings that it brings.
        siblings: usize,
        /// Members of the round.
        members: usize,
    },
    /// The path ends elsewhere.
    #[error(
        "the membership does not lead to the statement; the challenge is not a member of this round"
    )]
    Root,
}

impl Members {
    /// The most members of a round: with them a proof takes 2 MiB.
    pub const MAX: usize = 1 << 16;

    /// Members out of challenges in any order; what comes twice counts once.
    ///
    /// # Errors
    /// More than [`Members::MAX`].
    pub fn new(challenges: impl IntoIterator<Item = Node>) -> Result<Self, MembersError> {
        let mut members: Vec<Node> = challenges.into_iter().collect();
        members.sort_unstable();
        members.dedup();
        Self::ascending(members)
    }

    /// Members that somebody else listed, which must be in order.
    ///
    /// # Errors
    /// A list out of order or with repetitions, or more than [`Members::MAX`].
    pub fn ascending(members: Vec<Node>) -> Result<Self, MembersError> {
        let count = members.len();
        if count > Self::MAX {
            return Err(MembersError::TooMany { count });
        }
        if let Some(before) = members.windows(2).position(|two| two[0] >= two[1]) {
            return Err(MembersError::Order {
                position: before + 1,
            });
        }
        Ok(Self(members))
    }

    /// The challenges, ascending.
    pub fn as_slice(&self) -> &[Node] {
        &self.0
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody registered: such rounds run too.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `challenge` is a member.
    pub fn contains(&self, challenge: &Node) -> bool {
        self.0.binary_search(challenge).is_ok()
    }

    /// The merkle root of the members; zeros without any, and the challenge itself with one.
    pub fn statement(&self) -> Node {
        let mut layer = self.0.clone();
        while layer.len() > 1 {
            layer = parents(&layer);
        }
        layer.first().copied().unwrap_or(hash::PADDING)
    }

    /// Proof that `challenge` is a member, or none if it is not.
    pub fn membership(&self, challenge: &Node) -> Option<Membership> {
        let mut place = self.0.binary_search(challenge).ok()?;
        let index = u32::try_from(place).ok()?;
        let mut siblings = Vec::new();
        let mut layer = self.0.clone();
        while layer.len() > 1 {
            siblings.push(layer.get(place ^ 1).copied().unwrap_or(hash::PADDING));
            layer = parents(&layer);
            place /= 2;
        }
        Some(Membership { index, siblings })
    }
}

/// The way from one challenge up to the statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    index: u32,
    siblings: Vec<Node>,
}

impl Membership {
    /// Checks that `challenge` is one of the `members` members whose merkle root is `statement`.
    ///
    /// # Errors
    /// It is not, or not at this place.
    pub fn check(
        &self,
        challenge: &Node,
        statement: &Node,
        members: usize,
    ) -> Result<(), MembersError> {
        let height = members.next_power_of_two().trailing_zeros() as usize;
        if self.index as usize >= members || self.siblings.len() != height {
            return Err(MembersError::Shape {
                index: self.index,
                siblings: self.siblings.len(),
                members,
            });
        }
        let mut node = *challenge;
        let mut place = self.index;
        for sibling in &self.siblings {
            node = match place % 2 {
                0 => hash::pair(&node, sibling),
                _ => hash::pair(sibling, &node),
            };
            place /= 2;
        }
        if node == *statement {
            Ok(())
        } else {
            Err(MembersError::Root)
        }
    }

    /// As bytes: the place (4), the number of siblings (1), the siblings (32 each).
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u32(self.index);
        out.u8(u8::try_from(self.siblings.len()).unwrap_or(u8::MAX));
        for sibling in &self.siblings {
            out.raw(sibling);
        }
        out.done()
    }

    /// Out of what [`Membership::encode`] gave.
    ///
    /// # Errors
    /// Bytes that are no membership; they may be anything.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let limit = Members::MAX.trailing_zeros() as usize;
        let mut reader = Reader::new(bytes);
        let index = reader.u32("place of the member")?;
        let len = usize::from(reader.u8("number of siblings")?);
        if len > limit {
            let what = "list of siblings";
            return Err(WireError::TooLong { what, len, limit });
        }
        let siblings = (0..len)
            .map(|_| reader.array("sibling of a member"))
            .collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Self { index, siblings })
    }
}

fn parents(layer: &[Node]) -> Vec<Node> {
    layer
        .chunks(2)
        .map(|two| hash::pair(&two[0], two.get(1).unwrap_or(&hash::PADDING)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn numbered(count: u8) -> Members {
        Members::new((0..count).map(|number| [number + 1; 32])).unwrap()
    }

    #[test]
    fn the_statement_is_padded_with_zeros() {
        let [a, b, c] = [[1; 32], [2; 32], [3; 32]];
        assert_eq!(numbered(0).statement(), [0; 32]);
        assert_eq!(numbered(1).statement(), a);
        assert_eq!(numbered(2).statement(), hash::pair(&a, &b));
        let three = hash::pair(&hash::pair(&a, &b), &hash::pair(&c, &[0; 32]));
        assert_eq!(numbered(3).statement(), three);
    }

    #[test]
    fn order_of_arrival_does_not_matter_and_order_on_the_wire_does() {
        let [a, b] = [[1; 32], [2; 32]];
        assert_eq!(Members::new([b, a, b]).unwrap().as_slice(), [a, b]);
        assert_eq!(
            Members::ascending(vec![b, a]),
            Err(MembersError::Order { position: 1 })
        );
        assert_eq!(
            Members::ascending(vec![a, b, b]),
            Err(MembersError::Order { position: 2 })
        );
    }

    #[test]
    fn every_member_is_one_and_no_other() {
        for count in 1..20 {
            let members = numbered(count);
            let statement = members.statement();
            for challenge in members.as_slice() {
                let proof = members.membership(challenge).unwrap();
                assert_eq!(proof.check(challenge, &statement, members.len()), Ok(()));
                assert_eq!(Membership::decode(&proof.encode()), Ok(proof.clone()));
                assert!(proof.check(&[99; 32], &statement, members.len()).is_err());
                let another = [0; 32];
                assert!(proof.check(challenge, &another, members.len()).is_err());
                assert!(
                    proof
                        .check(challenge, &statement, 2 * members.len())
                        .is_err()
                );
                for sibling in 0..proof.siblings.len() {
                    let mut bad = proof.clone();
                    bad.siblings[sibling][7] ^= 1;
                    assert!(bad.check(challenge, &statement, members.len()).is_err());
                }
            }
            assert_eq!(members.membership(&[99; 32]), None);
        }
    }

    #[test]
    fn an_inner_node_is_no_member() {
        let members = numbered(4);
        let inner = hash::pair(&members.as_slice()[0], &members.as_slice()[1]);
        let mut proof = members.membership(&members.as_slice()[0]).unwrap();
        proof.siblings.remove(0);
        let result = proof.check(&inner, &members.statement(), 4);
        assert!(
            matches!(result, Err(MembersError::Shape { .. })),
            "{result:?}"
        );
        assert_eq!(
            proof.check(&inner, &members.statement(), 2),
            Ok(()),
            "the count tells them apart"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(membership) = Membership::decode(&bytes) {
                prop_assert_eq!(membership.encode(), bytes);
            }
        }
    }
}
