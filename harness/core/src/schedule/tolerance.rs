//! Whether the impaired nodes are within what the plan tolerates.

use std::collections::BTreeSet;

use crate::plan::model::{Amount, Node, Tolerance};

/// Whether all conditions hold while exactly these nodes are impaired. Without conditions liveness is always demanded.
///
/// Relations (`reachable-from`, `connected`) hold between all unimpaired nodes, since no fault cuts links yet.
pub fn tolerated(conditions: &[Tolerance], nodes: &[Node], impaired: &BTreeSet<String>) -> bool {
    conditions.iter().all(|condition| {
        let members = condition.of.members(nodes);
        let sound = members
            .iter()
            .filter(|name| !impaired.contains(*name))
            .count() as u64;
        match condition.amount {
            Amount::AtLeast(count) => sound >= count,
            Amount::MoreThan {
                numerator,
                denominator,
            } => {
                // sound / members > numerator / denominator, in whole numbers.
                u128::from(sound) * u128::from(denominator)
                    > u128::from(numerator) * members.len() as u128
            }
        }
    })
}
