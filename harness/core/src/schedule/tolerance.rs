//! Whether the impaired nodes are within what the plan tolerates.

use std::collections::BTreeSet;

use crate::plan::model::{Amount, Node, Tolerance};

/// Whether all conditions hold while exactly these nodes are impaired. Without conditions liveness is always demanded.
///
/// Relations (`reachable-from`, `connected`) hold between all unimpaired nodes, since no fault cuts links yet.
pub fn tolerated(conditions: &[Tolerance], nodes: &[Node], impaired: &BTreeSet<String>) -> bool {
    Conditions::new(conditions, nodes).hold(&impaired.iter().map(String::as_str))
}

/// The first condition that does not hold while exactly these nodes are impaired, and how many nodes it has left.
pub(crate) fn broken<'t>(
    conditions: &'t [Tolerance],
    nodes: &[Node],
    impaired: &BTreeSet<String>,
) -> Option<(&'t Tolerance, u64)> {
    let impaired = impaired.iter().map(String::as_str);
    let (place, left) = Conditions::new(conditions, nodes).broken(&impaired)?;
    Some((&conditions[place], left))
}

/// Conditions with the nodes they are about, for asking many times.
#[derive(Debug)]
pub(super) struct Conditions(Vec<(Amount, BTreeSet<String>)>);

impl Conditions {
    pub(super) fn new(conditions: &[Tolerance], nodes: &[Node]) -> Self {
        let about = |condition: &Tolerance| {
            let members = condition.of.members(nodes).into_iter().collect();
            (condition.amount, members)
        };
        Self(conditions.iter().map(about).collect())
    }

    /// Whether all of them hold while exactly these nodes, each named once, are impaired.
    pub(super) fn hold<'a>(&self, impaired: &(impl Iterator<Item = &'a str> + Clone)) -> bool {
        self.broken(impaired).is_none()
    }

    /// The place of the first that does not, and how many of its nodes are left.
    fn broken<'a>(
        &self,
        impaired: &(impl Iterator<Item = &'a str> + Clone),
    ) -> Option<(usize, u64)> {
        let mut conditions = self.0.iter().enumerate();
        conditions.find_map(|(place, (amount, members))| {
            let down = impaired.clone().filter(|name| members.contains(*name));
            let all = members.len() as u64;
            let sound = all.saturating_sub(down.count() as u64);
            let holds = match amount {
                Amount::AtLeast(count) => sound >= *count,
                Amount::MoreThan {
                    numerator,
                    denominator,
                } => {
                    // sound / members > numerator / denominator, in whole numbers.
                    u128::from(sound) * u128::from(*denominator)
                        > u128::from(*numerator) * u128::from(all)
                }
            };
            (!holds).then_some((place, sound))
        })
    }
}
