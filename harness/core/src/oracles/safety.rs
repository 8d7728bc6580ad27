//! `safety`: what no fault excuses. Runs in every plan.
//!
//! Heights never go back within one life of a node. A restarted node may start lower, since what it had not yet written
//! is gone and it catches up; that it comes to other values than the others is found by `agree`.

use std::collections::BTreeMap;

use super::course::height;
use super::said::doubt_lost;
use super::world::World;
use super::{Asked, Gives, Never, Oracle, Output, Unasked};
use crate::findings;
use crate::history::{Body, Header, NodeState, Record, Sample};
use crate::verdict::{Data, Expectation, Finding};

/// What it gives, and how it is built.
pub(super) const UNASKED: Unasked = Unasked {
    gives: &[Gives {
        kind: findings::WENT_BACK,
        can: shows,
    }],
    build: |header| Some(Box::new(Safety::new(header))),
};

fn shows(asked: &Asked<'_>) -> Result<(), Never> {
    let words = ["has a signal", "has no signals"];
    let otherwise = "declare under `signals` what must not go back";
    asked.has(|role| !role.signals.is_empty(), words, otherwise)
}

#[derive(Debug, Clone)]
pub(super) struct Safety {
    /// Highest value and its record, per node and signal, in this life and since it was ready.
    heights: BTreeMap<(String, String), (u64, u64)>,
    ready: BTreeMap<String, bool>,
    compared: u64,
}

impl Safety {
    pub(super) fn new(header: &Header) -> Self {
        Self {
            heights: BTreeMap::new(),
            ready: header
                .nodes
                .iter()
                .map(|node| (node.name.clone(), false))
                .collect(),
            compared: 0,
        }
    }

    fn sample(&mut self, record: &Record, sample: &Sample, world: &World, out: &mut Output) {
        let Some(new) = height(&sample.value) else {
            return;
        };
        if self.ready.get(&sample.node) != Some(&true) {
            return;
        }
        let key = (sample.node.clone(), sample.signal.clone());
        let Some((old, seq)) = self.heights.get(&key).copied() else {
            self.heights.insert(key, (new, record.seq));
            return;
        };
        self.compared += 1;
        if new < old {
            out.find(Finding {
                id: findings::WENT_BACK.id.to_owned(),
                node: Some(sample.node.clone()),
                role: world.nodes.get(&sample.node).map(|view| view.role.clone()),
                due_ns: record.t_ns,
                proved_ns: record.t_ns,
                records: vec![seq, record.seq],
                text: format!(
                    "`{}` of {} went back from {old} to {new} without a restart",
                    sample.signal, sample.node
                ),
                counts: true,
                ..Finding::default()
            });
        }
        self.heights.insert(key, (new, record.seq));
    }
}

impl Oracle for Safety {
    fn observe(&mut self, record: &Record, world: &World, out: &mut Output) {
        match &record.body {
            Body::Sample(sample) => self.sample(record, sample, world, out),
            Body::Node(change) => {
                let ready = change.state == NodeState::Ready;
                let was = self.ready.insert(change.node.clone(), ready);
                if was != Some(ready) && change.state != NodeState::Stopping {
                    self.heights.retain(|(node, _), _| *node != change.node);
                }
            }
            // A height that went back and came again may have been in them.
            _ => {
                if let Some(node) = world.loses_now(record)
                    && world.pushes(node)
                {
                    doubt_lost(record, node, out);
                }
            }
        }
    }

    fn report(&self, _world: &World) -> Expectation {
        // A network without heights has none that could go back.
        let data = Data {
            what: "values compared".to_owned(),
            least: 0,
            had: self.compared,
        };
        Expectation::new("heights never go back", "safety", true, data)
    }

    fn owns(&self, finding: &Finding) -> bool {
        finding.id == findings::WENT_BACK.id
    }
}
