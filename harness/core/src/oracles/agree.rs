//! `agree`: nodes never show different values of a signal for the same height.
//!
//! The signal's values must be texts `HEIGHT:VALUE`, as `12:9f3c…`: only what is said of one height can be compared
//! while the heights move. The first value seen of a height is what all must show, its own node included, in every life.
//! Other values (plain numbers, plain texts) are no data. That the heights advance is for `advance` to say: a network
//! that halted agrees perfectly.

use std::collections::{BTreeMap, BTreeSet};

use super::said::overheard_signal;
use super::world::World;
use super::{Asked, Gives, Never, Oracle, OracleKind, Output, Unasked};
use crate::findings;
use crate::history::{Body, Header, Record, SignalValue};
use crate::params::{Need, Param, Params, Shape, Value};
use crate::plan::model::{Expectation as Expected, Plan, Source};
use crate::time::Span;
use crate::verdict::{Data, Expectation, Finding};

#[derive(Debug)]
pub(super) struct Agree;

const PARAMS: &[Param] = &[Param {
    name: "about",
    shape: Shape::Signal,
    need: Need::Required,
    doc: "The signal all nodes must agree about.",
}];

impl OracleKind for Agree {
    fn name(&self) -> &'static str {
        "agree"
    }

    fn summary(&self) -> &'static str {
        "All nodes that expose the signal agree about it."
    }

    fn example(&self) -> &'static str {
        "{ about: state-root }"
    }

    fn params(&self) -> &'static [Param] {
        PARAMS
    }

    fn check(&self, _params: &Params, _plan: &Plan) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn gives(&self) -> &'static [Gives] {
        GIVES
    }

    fn bound(&self, _params: &Params) -> Option<Span> {
        None
    }

    fn build(&self, params: &Params, header: &Header) -> Box<dyn Oracle> {
        Box::new(Agrees::new(params.text("about"), false, header))
    }
}

/// The signal that nodes must agree about in every plan: the root of the applied state.
const STATE_ROOT: &str = "state-root";

/// What it gives, and how it is built.
pub(super) const UNASKED: Unasked = Unasked {
    gives: GIVES,
    build: unasked,
};

const GIVES: &[Gives] = &[Gives {
    kind: findings::DISAGREE,
    can: compared,
}];

fn compared(asked: &Asked<'_>) -> Result<(), Never> {
    let signal = asked.what;
    let sources = asked.roles();
    let mut sources = sources.filter_map(|role| Some(&role.signals.get(signal)?.source));
    if sources.all(|source| matches!(source, Source::Metric { .. })) {
        return Err(Never {
            why: format!("`{signal}` is a metric, and a number says nothing of a height"),
            hint: "name a signal whose values are texts `HEIGHT:VALUE`".to_owned(),
        });
    }
    let about = |it: &Expected| it.params.text("about") == signal;
    if signal == STATE_ROOT || asked.expected("agree").any(about) {
        return Ok(());
    }
    Err(Never {
        why: format!("no `agree` is about `{signal}`"),
        hint: format!("add `- agree: {{ about: {signal} }}` to `expect`"),
    })
}

/// The check that runs unasked, unless the plan asks for it or no node shows such a signal.
fn unasked(header: &Header) -> Option<Box<dyn Oracle>> {
    let asked = header.expect.iter().any(|it| {
        it.kind == "agree" && it.params.get("about") == Some(&Value::Text(STATE_ROOT.into()))
    });
    let agrees = Agrees::new(STATE_ROOT, true, header);
    (!asked && !agrees.nodes.is_empty()).then(|| Box::new(agrees) as Box<dyn Oracle>)
}

/// Heights kept: later ones push out the lowest. Nodes that are further apart than this are found by `advance`.
const HEIGHTS_MAX: usize = 4096;

/// What was first seen of a height.
#[derive(Debug, Clone)]
struct First {
    value: String,
    node: String,
    seq: u64,
    /// Another node has shown it as well.
    shared: bool,
}

/// The fold behind `agree`.
#[derive(Debug, Clone)]
struct Agrees {
    signal: String,
    /// Nobody asked: then a network that shows no heights is not for it to judge.
    always: bool,
    /// Nodes that expose the signal.
    nodes: BTreeSet<String>,
    heights: BTreeMap<u64, First>,
    /// Heights shown by more than one node.
    shared: u64,
    /// Highest height shown by more than one node.
    shared_seq: Option<u64>,
    /// Nodes that were found to differ: each is found once.
    found: BTreeSet<String>,
}

impl Agrees {
    fn new(signal: &str, always: bool, header: &Header) -> Self {
        let signal = signal.to_owned();
        let exposes = |role: &str| {
            let role = header.roles.get(role);
            role.is_some_and(|role| role.signals.contains_key(&signal))
        };
        Self {
            nodes: header
                .nodes
                .iter()
                .filter(|node| exposes(&node.role))
                .map(|node| node.name.clone())
                .collect(),
            heights: BTreeMap::new(),
            shared: 0,
            shared_seq: None,
            found: BTreeSet::new(),
            always,
            signal,
        }
    }

    fn sample(&mut self, record: &Record, node: &str, text: &str, world: &World, out: &mut Output) {
        let Some((height, value)) = text.split_once(':') else {
            return;
        };
        let Ok(height) = height.parse::<u64>() else {
            return;
        };
        let Some(first) = self.heights.get_mut(&height) else {
            if self.heights.len() == HEIGHTS_MAX {
                self.heights.pop_first();
            }
            let first = First {
                value: value.to_owned(),
                node: node.to_owned(),
                seq: record.seq,
                shared: false,
            };
            self.heights.insert(height, first);
            return;
        };
        if first.node != node {
            self.shared += u64::from(!first.shared);
            first.shared = true;
            self.shared_seq = Some(record.seq);
        }
        if first.value == value || !self.found.insert(node.to_owned()) {
            return;
        }
        let short = |value: &str| value.chars().take(16).collect::<String>();
        let whom = if first.node == node {
            "itself earlier".to_owned()
        } else {
            first.node.clone()
        };
        out.find(Finding {
            id: findings::DISAGREE.of(&self.signal),
            node: Some(node.to_owned()),
            role: world.nodes.get(node).map(|view| view.role.clone()),
            due_ns: record.t_ns,
            proved_ns: record.t_ns,
            records: vec![first.seq, record.seq],
            text: format!(
                "`{}` of {node} at height {height} is {}, but {} of {whom}",
                self.signal,
                short(value),
                short(&first.value)
            ),
            counts: true,
            ..Finding::default()
        });
    }
}

impl Oracle for Agrees {
    fn observe(&mut self, record: &Record, world: &World, out: &mut Output) {
        if let Body::Sample(sample) = &record.body
            && sample.signal == self.signal
            && let SignalValue::Text(text) = &sample.value
        {
            self.sample(record, &sample.node, text, world, out);
        }
        overheard_signal(record, &self.signal, world, out);
    }

    fn report(&self, _world: &World) -> Expectation {
        // One node agrees with itself: then one height is all there can be.
        let data = Data {
            what: "heights compared".to_owned(),
            least: u64::from(!self.always),
            had: if self.nodes.len() > 1 {
                self.shared
            } else {
                self.heights.len() as u64
            },
        };
        let what = format!("agree about {}", self.signal);
        Expectation::new(what, "agree", self.always, data)
    }

    /// Convergence: a height was shown by more than one node after the last undo.
    fn settled(&self, world: &World) -> bool {
        let since = world.undone.map_or(0, |mark| mark.seq);
        self.always || self.nodes.len() < 2 || self.shared_seq.is_some_and(|seq| seq > since)
    }

    fn owns(&self, finding: &Finding) -> bool {
        findings::DISAGREE.about(&finding.id) == Some(&self.signal)
    }
}
