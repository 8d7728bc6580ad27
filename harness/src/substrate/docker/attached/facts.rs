//! What a network file says: of which network all its nodes are.
//!
//! Nothing is read here, and nothing is decided: what a file says is put into words, beside a plan or beside another file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;
use tweedledum_core::plan::Plan;

/// Epochs of a node's log that are read from before a run: an ATX cites a proof of a round that was registered for two
/// epochs earlier, and more would bring lines faster than they may come.
const EPOCHS_OF_LOG: u64 = 8;

/// What a network file says of all nodes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Facts {
    /// Network id.
    pub netid: u32,
    /// When layer 0 began, or will.
    pub genesis_unix_ns: u64,
    /// Length of a layer.
    pub layer_ns: u64,
    /// Layers in an epoch.
    pub layers_per_epoch: u32,
    /// What identities follow from.
    pub seed: u64,
    /// What the nodes are.
    pub release: ReleaseFact,
    nodes: Vec<NodeFact>,
}

/// What the nodes are.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ReleaseFact {
    /// The release's name.
    pub name: String,
    #[serde(default)]
    base: String,
    #[serde(default)]
    without: Vec<String>,
}

impl fmt::Display for ReleaseFact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            base,
            without,
        } = self;
        match without.as_slice() {
            [] => write!(f, "{name} ({base})"),
            without => write!(f, "{name} ({base} without {})", without.join(", ")),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct NodeFact {
    name: String,
    role: String,
    api: Option<SocketAddr>,
    p2p: Option<SocketAddr>,
}

impl Facts {
    /// The beginning of the first epoch that begins at this time or later.
    pub fn epoch_from(&self, unix_ns: u64) -> u64 {
        let epoch_ns = self.epoch_ns();
        let past = unix_ns
            .saturating_sub(self.genesis_unix_ns)
            .div_ceil(epoch_ns);
        self.genesis_unix_ns
            .saturating_add(past.saturating_mul(epoch_ns))
    }

    /// The epoch at this time.
    pub fn epoch_at(&self, unix_ns: u64) -> u64 {
        unix_ns.saturating_sub(self.genesis_unix_ns) / self.epoch_ns()
    }

    fn epoch_ns(&self) -> u64 {
        let epoch_ns = self.layer_ns.saturating_mul(self.layers_per_epoch.into());
        epoch_ns.max(1)
    }

    /// Since which second of 1970 logs are read by a run that begins at this time.
    pub(super) fn told_since(&self, unix_ns: u64) -> i32 {
        let before_ns = self.epoch_ns().saturating_mul(EPOCHS_OF_LOG);
        i32::try_from(unix_ns.saturating_sub(before_ns) / 1_000_000_000).unwrap_or(0)
    }

    /// What of this network is not as the plan has it, in words.
    pub(super) fn unlike(&self, plan: &Plan) -> Vec<String> {
        let mut unlike = Vec::new();
        let calendar = plan.calendar;
        if (self.layer_ns, self.layers_per_epoch) != (calendar.layer_ns, calendar.layers_per_epoch)
        {
            unlike.push(format!(
                "its layers are {:?} long and {} an epoch, the plan's {:?} and {}",
                std::time::Duration::from_nanos(self.layer_ns),
                self.layers_per_epoch,
                std::time::Duration::from_nanos(calendar.layer_ns),
                calendar.layers_per_epoch,
            ));
        }
        for fact in &self.nodes {
            let known = plan.nodes.iter().find(|node| node.name == fact.name);
            match known {
                None => unlike.push(format!("the plan has no {}", fact.name)),
                Some(node) if node.role != fact.role => unlike.push(format!(
                    "{} is a {}, and a {} in the plan",
                    fact.name, fact.role, node.role
                )),
                Some(node) => unlike.extend(self.ports_unlike(plan, &node.role, fact)),
            }
        }
        for node in &plan.nodes {
            if !self.nodes.iter().any(|fact| fact.name == node.name) {
                unlike.push(format!("it has no {}", node.name));
            }
        }
        unlike
    }

    /// What is said of all nodes, by its key in the file. Who a node itself is stands beside that, and differs.
    fn told(&self) -> BTreeMap<String, String> {
        let mut told = BTreeMap::from([
            ("netid".to_owned(), self.netid.to_string()),
            (
                "genesis_unix_ns".to_owned(),
                self.genesis_unix_ns.to_string(),
            ),
            ("layer_ns".to_owned(), self.layer_ns.to_string()),
            (
                "layers_per_epoch".to_owned(),
                self.layers_per_epoch.to_string(),
            ),
            ("seed".to_owned(), self.seed.to_string()),
            ("release".to_owned(), self.release.to_string()),
        ]);
        for NodeFact {
            name,
            role,
            api,
            p2p,
        } in &self.nodes
        {
            let at = [("api", api), ("p2p", p2p)];
            let at = at.map(|(port, at)| at.map(|at| format!(" with {port} at {at}")));
            let at: String = at.into_iter().flatten().collect();
            told.insert(format!("nodes: {name}"), format!("a {role}{at}"));
        }
        told
    }

    /// In what a node's file is not that of another, in words: what one file says is true of both only where they agree.
    pub(super) fn unlike_others(&self, node: &str, other: &str, theirs: &Self) -> Vec<String> {
        let (own, theirs) = (self.told(), theirs.told());
        let keys: BTreeSet<&String> = own.keys().chain(theirs.keys()).collect();
        let differ = keys
            .into_iter()
            .filter(|key| own.get(*key) != theirs.get(*key));
        let said = |of: &BTreeMap<String, String>, key| {
            let said = of.get(key);
            said.cloned().unwrap_or_else(|| "nothing".to_owned())
        };
        let differ = differ.map(|key| {
            format!(
                "{key} in the network file of {node} is {}, and {} in that of {other}",
                said(&own, key),
                said(&theirs, key)
            )
        });
        differ.collect()
    }

    fn ports_unlike(&self, plan: &Plan, role: &str, fact: &NodeFact) -> Vec<String> {
        let Some(role) = plan.roles.get(role) else {
            return Vec::new();
        };
        let mut unlike = Vec::new();
        for (name, at) in [("api", fact.api), ("p2p", fact.p2p)] {
            let planned = role.ports.get(name).map(|port| port.number);
            if let (Some(at), Some(planned)) = (at, planned)
                && at.port() != planned
            {
                unlike.push(format!(
                    "{} has {name} at port {}, and {planned} in the plan",
                    fact.name,
                    at.port()
                ));
            }
        }
        unlike
    }

    pub(super) fn address(&self, node: &str) -> Option<IpAddr> {
        let fact = self.nodes.iter().find(|fact| fact.name == node)?;
        fact.api.or(fact.p2p).map(|at| at.ip())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            netid: 116,
            genesis_unix_ns: 1000,
            layer_ns: 10,
            layers_per_epoch: 4,
            seed: 0,
            release: ReleaseFact {
                name: "fixed".to_owned(),
                base: "fixed".to_owned(),
                without: Vec::new(),
            },
            nodes: Vec::new(),
        }
    }

    #[test]
    fn a_run_begins_with_an_epoch_of_the_project() {
        for (now, want) in [
            (0, 1000),
            (1000, 1000),
            (1001, 1040),
            (1040, 1040),
            (1079, 1080),
        ] {
            assert_eq!(facts().epoch_from(now), want, "from {now}");
        }
        for (at, want) in [(1000, 0), (1039, 0), (1040, 1), (1085, 2)] {
            assert_eq!(facts().epoch_at(at), want, "at {at}");
        }
    }

    #[test]
    fn nodes_whose_files_say_something_else_are_named_with_both() {
        let mut own = facts();
        let unlike = |own: &Facts| own.unlike_others("miner-1", "gateway-0", &facts());
        assert_eq!(unlike(&own), Vec::<String>::new());
        own.seed = 7;
        own.release.without = vec!["cap".to_owned()];
        own.nodes.push(NodeFact {
            name: "poet-0".to_owned(),
            role: "poet".to_owned(),
            api: Some(([10, 0, 0, 1], 9090).into()),
            p2p: None,
        });
        let want = [
            "nodes: poet-0 in the network file of miner-1 is a poet with api at 10.0.0.1:9090, and nothing in that of gateway-0",
            "release in the network file of miner-1 is fixed (fixed without cap), and fixed (fixed) in that of gateway-0",
            "seed in the network file of miner-1 is 7, and 0 in that of gateway-0",
        ];
        assert_eq!(unlike(&own), want);
    }
}
