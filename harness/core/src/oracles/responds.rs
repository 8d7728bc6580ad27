//! `responds`: a living node answers, at its sources and by UDP. Runs in every plan.
//!
//! *Hang* is a process that lives, that the harness did not freeze, and whose sources give no answer. *Deaf* is one whose
//! sources answer and whose UDP side does not. Both take [`MISSES`] layers in a row in which the host was fit, and a
//! witness that the harness itself could still see: another node that was heard, or no other node to hear. Without a
//! witness it is an observer gap: then nobody knows whether the nodes or the harness fell silent. So is a silence for which
//! the node is not answerable: it is not found hanging, and not known to answer.

use std::collections::{BTreeMap, BTreeSet};

use super::world::World;
use super::{Asked, Gives, Never, Oracle, Output, Unasked};
use crate::findings;
use crate::history::{Body, Header, Record};
use crate::plan::model::{Role, Source, Transport};
use crate::verdict::{Code, Data, Expectation, Finding};

/// Layers in a row without an answer. One can be a burst that overflowed a socket buffer, two a burst at their border.
const MISSES: u32 = 3;

/// What it gives, and how it is built.
pub(super) const UNASKED: Unasked = Unasked {
    gives: &[
        Gives {
            kind: findings::HANG_API,
            can: polled,
        },
        Gives {
            kind: findings::DEAF_UDP,
            can: pinged,
        },
    ],
    build: |header| Some(Box::new(Responds::new(header))),
};

fn polled(asked: &Asked<'_>) -> Result<(), Never> {
    let polled = |role: &Role| {
        let mut signals = role.signals.values();
        signals.any(|signal| !matches!(signal.source, Source::Log { .. }))
    };
    let words = [
        "has a signal that is polled",
        "has no signal that is polled",
    ];
    let otherwise = "give the role a signal with `json` or `metric`";
    asked.has(polled, words, otherwise)
}

/// Who is pinged speaks a protocol that can be pinged, which only the harness knows, and listens for UDP.
fn pinged(asked: &Asked<'_>) -> Result<(), Never> {
    let listens = |role: &Role| {
        let mut ports = role.ports.values();
        !role.speaks.is_empty() && ports.any(|port| port.transport != Transport::Tcp)
    };
    let words = ["has a UDP port to ping", "has no UDP port to ping"];
    let otherwise = "declare the role's UDP port under `ports` and its protocol under `speaks`";
    asked.has(listens, words, otherwise)
}

/// What a node did in the layer that is just ending.
#[derive(Debug, Clone, Default)]
struct Layer {
    /// A signal was read.
    read: bool,
    /// A source gave no answer.
    unanswered: bool,
    /// A source gave none for which the node is not answerable.
    excused: bool,
    /// A ping was answered, or was not.
    ping: Option<bool>,
}

/// Layers in a row of the same kind.
#[derive(Debug, Clone, Default)]
struct Run {
    layers: u32,
    /// In one of them nothing witnessed that the harness could see.
    unwitnessed: bool,
    records: Vec<u64>,
    from_ns: u64,
    /// It was found and is not over; the finding's place, unless there were too many.
    open: bool,
    place: Option<usize>,
}

#[derive(Debug, Clone, Default)]
struct Watched {
    layer: Layer,
    hang: Run,
    deaf: Run,
    /// No ping was recorded at all.
    unpinged: u32,
    /// What its sources did not answer was excused, and nothing else was asked.
    excused: u32,
    answered: u64,
    pinged: bool,
    last_unanswered: Option<(u64, u64)>,
    last_unpinged: Option<(u64, u64)>,
}

#[derive(Debug, Clone)]
pub(super) struct Responds {
    nodes: BTreeMap<String, Watched>,
}

impl Responds {
    pub(super) fn new(header: &Header) -> Self {
        let watched = |role: &str| {
            let info = header.roles.get(role);
            Watched {
                pinged: info.is_some_and(|info| info.pinged),
                ..Watched::default()
            }
        };
        Self {
            nodes: header
                .nodes
                .iter()
                .map(|node| (node.name.clone(), watched(&node.role)))
                .collect(),
        }
    }

    fn layer_ended(&mut self, world: &World, out: &mut Output) {
        let heard: BTreeSet<String> = self
            .nodes
            .iter()
            .filter(|(_, watched)| watched.layer.read || watched.layer.ping == Some(true))
            .map(|(name, _)| name.clone())
            .collect();
        // The result of a ping comes up to a layer after it was sent, so a node owes answers from its second layer on.
        let owes_since = world
            .now
            .t_ns
            .saturating_sub(world.layer_ns().saturating_mul(2));
        let owing: BTreeSet<String> = world
            .nodes
            .iter()
            .filter(|(_, view)| view.able.is_some_and(|able| able.t_ns <= owes_since))
            .filter(|_| !world.stopping && owes_since >= world.genesis_ns)
            .map(|(name, _)| name.clone())
            .collect();
        for (name, watched) in &mut self.nodes {
            let layer = std::mem::take(&mut watched.layer);
            if !owing.contains(name) {
                watched.forgive();
                continue;
            }
            // A void layer says nothing: it neither counts nor breaks a row.
            if world.last_layer_void {
                continue;
            }
            let others_owe = owing.iter().any(|other| other != name);
            let others_heard = heard.iter().any(|other| other != name);
            let witnessed = others_heard || !others_owe;
            watched.weigh_sources(name, &layer, witnessed, world, out);
            watched.weigh_pings(name, &layer, witnessed, world, out);
        }
    }
}

impl Watched {
    /// The node owes nothing now: rows begin anew.
    fn forgive(&mut self) {
        self.unpinged = 0;
        self.excused = 0;
        for run in [&mut self.hang, &mut self.deaf] {
            *run = Run {
                open: run.open,
                place: run.place,
                ..Run::default()
            };
        }
    }

    fn weigh_sources(
        &mut self,
        name: &str,
        layer: &Layer,
        witnessed: bool,
        world: &World,
        out: &mut Output,
    ) {
        if layer.excused && !layer.read && !layer.unanswered {
            self.excused += 1;
            if self.excused == MISSES {
                let text = format!(
                    "{name} gave no answer for {MISSES} layers for which it is not answerable"
                );
                let records = vec![world.now.seq];
                out.doubt(Code::ObserverGap, text, format!("{MISSES} layers"), records);
            }
            return;
        }
        self.excused = 0;
        if layer.read {
            self.hang.over(world, out);
        } else if layer.unanswered {
            let witnessed = witnessed || layer.ping == Some(true);
            let last = self.last_unanswered;
            if self.hang.missed(witnessed, last) {
                let text = format!(
                    "{name} hangs: its process lives, and its sources gave no answer for {MISSES} layers"
                );
                self.hang
                    .prove(name, findings::HANG_API.id, text, world, out);
            }
        }
    }

    fn weigh_pings(
        &mut self,
        name: &str,
        layer: &Layer,
        witnessed: bool,
        world: &World,
        out: &mut Output,
    ) {
        match layer.ping {
            None if self.pinged => {
                self.unpinged += 1;
                if self.unpinged == MISSES {
                    let text = format!("{name} was not pinged for {MISSES} layers");
                    let records = vec![world.now.seq];
                    out.doubt(Code::ObserverGap, text, format!("{MISSES} layers"), records);
                }
            }
            None => {}
            Some(true) => {
                self.unpinged = 0;
                self.deaf.over(world, out);
            }
            // What has never answered may never have been reached; a node that hangs is found by its sources.
            Some(false) => {
                self.unpinged = 0;
                // Nor is one answerable for its pings that is not for what it was asked besides.
                let silent = layer.unanswered || layer.excused;
                if self.answered == 0 || (silent && !layer.read) {
                    return;
                }
                let last = self.last_unpinged;
                if self.deaf.missed(witnessed || layer.read, last) {
                    let text = format!(
                        "{name} is deaf: its process lives, and {MISSES} UDP pings in a row got no answer"
                    );
                    self.deaf
                        .prove(name, findings::DEAF_UDP.id, text, world, out);
                }
            }
        }
    }
}

impl Run {
    /// One more layer; whether that makes it long enough for the first time.
    fn missed(&mut self, witnessed: bool, record: Option<(u64, u64)>) -> bool {
        if self.layers == 0 {
            self.from_ns = record.map_or(0, |(_, t_ns)| t_ns);
        }
        self.layers = self.layers.saturating_add(1);
        self.unwitnessed |= !witnessed;
        if self.layers <= MISSES {
            self.records.extend(record.map(|(seq, _)| seq));
        }
        self.layers == MISSES && !self.open
    }

    fn prove(&mut self, name: &str, id: &str, text: String, world: &World, out: &mut Output) {
        let mut records = std::mem::take(&mut self.records);
        records.push(world.now.seq);
        if self.unwitnessed {
            let text =
                format!("{text}; but no other node was heard either, so it may be the harness");
            out.doubt(Code::ObserverGap, text, format!("{MISSES} layers"), records);
            return;
        }
        self.open = true;
        self.place = out.find(Finding {
            id: id.to_owned(),
            node: Some(name.to_owned()),
            role: world.nodes.get(name).map(|view| view.role.clone()),
            due_ns: self.from_ns,
            proved_ns: world.now.t_ns,
            records,
            text,
            counts: true,
            ..Finding::default()
        });
    }

    /// It answered.
    fn over(&mut self, world: &World, out: &mut Output) {
        out.recovered(self.place, world.now.t_ns);
        *self = Self::default();
    }
}

impl Oracle for Responds {
    fn observe(&mut self, record: &Record, world: &World, out: &mut Output) {
        match &record.body {
            Body::Sample(sample) if !world.pushed(&sample.node, &sample.signal) => {
                if let Some(watched) = self.nodes.get_mut(&sample.node) {
                    watched.layer.read = true;
                }
            }
            // One that is about no signal stands for a ping.
            Body::Gap(gap) if !gap.signals.is_empty() => {
                if let Some(watched) = self.nodes.get_mut(&gap.node) {
                    let excused = world.excuses(gap);
                    watched.layer.excused |= excused;
                    if !excused && (gap.excused || !gap.answered) {
                        watched.layer.unanswered = true;
                        watched.last_unanswered = Some((record.seq, record.t_ns));
                    }
                }
            }
            Body::Ping(ping) => {
                if let Some(watched) = self.nodes.get_mut(&ping.node) {
                    let answered = ping.rtt_us.is_some();
                    watched.answered += u64::from(answered);
                    watched.layer.ping = Some(answered || watched.layer.ping == Some(true));
                    if !answered {
                        watched.last_unpinged = Some((record.seq, record.t_ns));
                    }
                }
            }
            Body::Layer(_) => self.layer_ended(world, out),
            _ => {}
        }
    }

    fn report(&self, _world: &World) -> Expectation {
        // A node whose role is pinged and that never answered was never shown to be reachable at all.
        let pinged = self.nodes.values().filter(|watched| watched.pinged);
        let data = Data {
            what: "nodes that answered a ping".to_owned(),
            least: pinged.clone().count() as u64,
            had: pinged.filter(|watched| watched.answered > 0).count() as u64,
        };
        Expectation {
            bound_layers: Some(f64::from(MISSES)),
            ..Expectation::new("every living node answers", "responds", true, data)
        }
    }

    fn owns(&self, finding: &Finding) -> bool {
        finding.id.starts_with("hang/") || finding.id.starts_with("deaf/")
    }
}
