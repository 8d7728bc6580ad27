//! What all oracles know in common: the state of every node, who is excused, whether liveness is demanded, the latest
//! values of every signal. Folded from each record before the oracles see it.
//!
//! It looks at recorded impacts, and at who was kept from processors, never at what kind of fault did that. What is not in
//! the history is not in here.

use std::collections::{BTreeMap, BTreeSet};

use super::course::{Course, Move};
use super::stretches::Stretches;
use super::too_much;
use crate::capability::Resource;
use crate::faults::Impact;
use crate::history::{
    Body, DROPPED, Death, Exit, Gap, Header, HealInfo, ImpactChange, LOG, LayerRecord, NodeChange,
    NodeState, Phase, Record, RoleInfo, Sample, SignalValue, StepChange,
};
use crate::plan::model::{Node, Tolerance};
use crate::schedule::{Action, Part, STEADY_EPOCHS, Schedule, tolerated};
use crate::time::{Calendar, ProtocolTime, Span};

/// A layer is void when the controller woke later than this part of it, or the wall clock was moved by more: one fifth.
pub const LATE_PART: u64 = 5;

/// A layer is void when the hypervisor took more than this share of all CPUs, in parts per million: a fifth. CPU pressure
/// is no measure of that: nodes that all begin a layer together make 50 to 80 % of it on a host that keeps up.
pub const STEAL_MAX_PPM: u64 = 200_000;

/// A moment of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mark {
    /// When, in monotonic nanoseconds.
    pub t_ns: u64,
    /// The record that shows it.
    pub seq: u64,
}

/// Who ended a node's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The harness, or a host that had no memory left.
    ByHarness,
    /// The node itself, or something the harness did not do.
    ByItself,
}

/// What is known of a node.
#[derive(Debug, Clone, Default)]
pub struct NodeView {
    /// Its role.
    pub role: String,
    /// Which of its lives this is.
    pub incarnation: u32,
    /// Where it is in its life; `None` before its first start.
    pub state: Option<NodeState>,
    /// How this life ended.
    pub ended: Option<Ended>,
    /// Since when it has been neither excused nor dead nor starting; `None` while it is.
    pub able: Option<Mark>,
    /// Entries that impair it now.
    pub impaired_by: BTreeSet<String>,
    /// Entries whose undo was carried out on it.
    pub undone: BTreeSet<String>,
    /// Whether it was ready at least once in this life.
    pub was_ready: bool,
    /// Until when the plan keeps processors from it, so that it waits for one is not the host's doing.
    pub throttled_until_ns: u64,
}

impl NodeView {
    /// Whether the harness keeps it from its duty. What ended or fell silent by itself is never excused.
    pub fn excused(&self) -> bool {
        match self.ended {
            Some(Ended::ByItself) => false,
            Some(Ended::ByHarness) => true,
            None => !self.impaired_by.is_empty(),
        }
    }

    /// Whether it is excused by something that no heal has taken back.
    pub fn excused_for_good(&self) -> bool {
        self.excused()
            && self
                .impaired_by
                .iter()
                .any(|entry| !self.undone.contains(entry))
    }
}

/// A signal on a node.
#[derive(Debug, Clone, Default)]
pub struct Track {
    /// Its latest value.
    pub value: Option<SignalValue>,
    /// When it last advanced; the first value of a life is where it starts from, not an advance.
    pub advanced: Option<Mark>,
    /// When it was last read.
    pub seen: Option<Mark>,
    /// How often it was read.
    pub samples: u64,
    /// What kept it from being read the last time that it was not.
    pub gap: Option<String>,
    /// What was read in this life.
    course: Course,
}

/// Shared facts.
#[derive(Debug, Clone)]
pub struct World {
    /// Layer length and layers per epoch.
    pub calendar: Calendar,
    /// Genesis in monotonic nanoseconds.
    pub genesis_ns: u64,
    /// The latest record's time; never goes back.
    pub now: Mark,
    /// Every node.
    pub nodes: BTreeMap<String, NodeView>,
    /// What is watched of each role.
    pub roles: BTreeMap<String, RoleInfo>,
    /// The resolved schedule.
    pub schedule: Schedule,
    /// When the first fault began.
    pub first_fault: Option<Mark>,
    /// Since when liveness has been demanded without a break; `None` while it is not.
    pub demanded: Option<Mark>,
    /// When the last undo so far was carried out.
    pub undone: Option<Mark>,
    /// Undo carried out so far, per entry.
    pub undone_entries: BTreeMap<String, Mark>,
    /// The run is being stopped: nothing is demanded any more.
    pub stopping: bool,
    /// Void time so far.
    pub void: Stretches,
    /// Nodes that the host let wait in the layer that is running: for a processor, or since what asks them did.
    waiting: BTreeSet<String>,
    /// Layers in which it let most nodes of some role wait. One node or another waits in most runs on a busy host, which
    /// keeps no network from its work.
    starved: Stretches,
    /// The records of the first and the last of these layers, and how many there were.
    starving: Option<([u64; 2], u64)>,
    /// Layers recorded, and how many were void.
    pub layers: u64,
    /// Layers that were void.
    pub void_layers: u64,
    /// The last layer recorded.
    pub last_layer: Option<i64>,
    /// Whether the last layer recorded was void.
    pub last_layer_void: bool,
    tracks: BTreeMap<String, BTreeMap<String, Track>>,
    /// When lines of a node's log were last told to be lost.
    lost: BTreeMap<String, Mark>,
    tolerates: Vec<Tolerance>,
    tolerated: bool,
    plan_nodes: Vec<Node>,
}

impl World {
    /// The world before anything happened.
    pub fn new(header: &Header) -> Self {
        let view = |role: &str| NodeView {
            role: role.to_owned(),
            ..NodeView::default()
        };
        Self {
            calendar: header.calendar,
            genesis_ns: header.genesis_ns,
            now: Mark::default(),
            nodes: header
                .nodes
                .iter()
                .map(|node| (node.name.clone(), view(&node.role)))
                .collect(),
            roles: header.roles.clone(),
            schedule: header.schedule.clone(),
            first_fault: None,
            demanded: None,
            undone: None,
            undone_entries: BTreeMap::new(),
            stopping: false,
            void: Stretches::default(),
            waiting: BTreeSet::new(),
            starved: Stretches::default(),
            starving: None,
            layers: 0,
            void_layers: 0,
            last_layer: None,
            last_layer_void: false,
            tracks: BTreeMap::new(),
            lost: BTreeMap::new(),
            tolerates: header.tolerates.clone(),
            tolerated: true,
            plan_nodes: plan_nodes(header),
        }
    }

    /// Takes a record in.
    pub fn fold(&mut self, record: &Record) {
        self.now = Mark {
            t_ns: self.now.t_ns.max(record.t_ns),
            seq: record.seq,
        };
        match &record.body {
            Body::Node(change) => self.node(change),
            Body::Exit(exit) => self.exit(exit),
            Body::Sample(sample) => self.sample(sample),
            Body::Step(change) => self.step(change),
            Body::Impact(change) => self.impact(change),
            Body::Layer(layer) => self.layer(layer),
            Body::Interrupt(_) | Body::TornDown(_) | Body::End(_) => self.stopping = true,
            Body::Gap(gap) => self.gap(gap),
            Body::Header(_)
            | Body::Ping(_)
            | Body::Event(_)
            | Body::Evidence(_)
            | Body::Limit(_) => {}
        }
        if let Some(node) = self.loses_now(record) {
            self.loses(node);
        }
        if matches!(
            record.body,
            Body::Header(_) | Body::Node(_) | Body::Exit(_) | Body::Impact(_)
        ) {
            self.weigh();
        }
        self.demand();
    }

    /// What is known of a signal on a node.
    pub fn track(&self, node: &str, signal: &str) -> Option<&Track> {
        self.tracks.get(node)?.get(signal)
    }

    /// Whether a signal is pushed by the nodes of this node's role.
    pub fn pushed(&self, node: &str, signal: &str) -> bool {
        let role = self.nodes.get(node).map(|view| view.role.as_str());
        role.and_then(|role| self.roles.get(role))
            .is_some_and(|role| role.pushed.contains(signal))
    }

    /// Whether this node's role pushes any signal.
    pub fn pushes(&self, node: &str) -> bool {
        let role = self.nodes.get(node).map(|view| view.role.as_str());
        role.and_then(|role| self.roles.get(role))
            .is_some_and(|role| !role.pushed.is_empty())
    }

    /// Whether the role of this node declares an event.
    pub fn reports(&self, node: &str, event: &str) -> bool {
        let role = self.nodes.get(node).map(|view| view.role.as_str());
        role.and_then(|role| self.roles.get(role))
            .is_some_and(|role| role.events.contains(event))
    }

    /// When lines of this node's log were last told to be lost: up to then its silence proves nothing, since any event and any
    /// pushed signal may have been in them.
    pub fn lost(&self, node: &str) -> Option<Mark> {
        self.lost.get(node).copied()
    }

    /// The node whose lines this record tells to be lost.
    pub(super) fn loses_now<'r>(&self, record: &'r Record) -> Option<&'r str> {
        match &record.body {
            Body::Gap(gap) if gap.source == LOG => Some(&gap.node),
            Body::Event(event) if event.event == DROPPED => {
                self.reports(&event.node, DROPPED).then_some(&event.node)
            }
            _ => None,
        }
    }

    /// The latest loss among nodes that report one of these events.
    pub fn lost_by_any(&self, events: &[&str]) -> Option<Mark> {
        let reports = |node: &str| events.iter().any(|event| self.reports(node, event));
        let lost = self.lost.iter().filter(|(node, _)| reports(node));
        lost.map(|(_, mark)| *mark).max()
    }

    /// Whether the node ended by itself and has not come back.
    pub fn dead_by_itself(&self, node: &str) -> bool {
        self.nodes
            .get(node)
            .is_some_and(|view| view.ended == Some(Ended::ByItself))
    }

    /// Whether the harness keeps the node from its duty.
    pub fn excused(&self, node: &str) -> bool {
        self.nodes.get(node).is_some_and(NodeView::excused)
    }

    /// The end of the steady state: the first fault, or, in a run without any, the end of the epochs that are given to
    /// start up. `None` while it has not come.
    pub fn steady_until_ns(&self) -> Option<u64> {
        if self
            .schedule
            .steps
            .iter()
            .any(crate::schedule::Step::begins)
        {
            return self.first_fault.map(|mark| mark.t_ns);
        }
        let epochs = Span(self.calendar.epoch().0.saturating_mul(STEADY_EPOCHS));
        let end = self
            .calendar
            .at_ns(self.genesis_ns, ProtocolTime::GENESIS.plus(epochs));
        (self.now.t_ns >= end).then_some(end)
    }

    /// When a heal was complete: it is due, and every undo of what it takes back is carried out. `None` while it is not, or
    /// when there was nothing to undo.
    pub fn healed(&self, heal: &HealInfo) -> Option<Mark> {
        let mut last = None;
        for step in &self.schedule.steps {
            let of = heal.of.as_ref();
            let meant = step.at <= heal.at && of.is_none_or(|of| of.contains(&step.entry));
            if !meant || !matches!(step.part, Part::Ends(_)) {
                continue;
            }
            let view = self.nodes.get(step.action.node())?;
            if !view.undone.contains(&step.entry) {
                return None;
            }
            last = last.max(self.undone_entries.get(&step.entry).copied());
        }
        let undone = last?;
        let due_ns = self.calendar.at_ns(self.genesis_ns, heal.at);
        if undone.t_ns < due_ns {
            // A heal that came to nothing, since all was undone before, counts from when it was due.
            return (self.now.t_ns >= due_ns).then_some(self.now);
        }
        Some(undone)
    }

    /// Whether the node is not answerable for this gap, since the host let it wait.
    pub fn excuses(&self, gap: &Gap) -> bool {
        let view = self.nodes.get(&gap.node);
        gap.excused && view.is_none_or(|view| self.now.t_ns >= view.throttled_until_ns)
    }

    /// Whether for too much of this time the host let most nodes of some role wait: as with void layers, what did not come in
    /// it says as much of the host as of the release.
    pub fn was_starved(&self, from_ns: u64, to_ns: u64) -> bool {
        let starved_ns = self.starved.within(from_ns, to_ns);
        too_much(starved_ns, to_ns.saturating_sub(from_ns))
    }

    /// The same, with void time.
    pub fn was_unfit(&self, from_ns: u64, to_ns: u64) -> bool {
        let void_ns = self.void.within(from_ns, to_ns);
        self.was_starved(from_ns, to_ns) || too_much(void_ns, to_ns.saturating_sub(from_ns))
    }

    /// Layers in which the host let most nodes of some role wait, and the records of the first and the last.
    pub fn starved_layers(&self) -> Option<([u64; 2], u64)> {
        self.starving
    }

    /// The length of a layer in nanoseconds.
    pub fn layer_ns(&self) -> u64 {
        self.calendar.layer_ns
    }

    /// Nanoseconds as layers, for people.
    pub fn in_layers(&self, ns: u64) -> f64 {
        self.calendar.span_of_ns(ns).in_layers()
    }

    /// Protocol time of a moment, for people: `epoch 2.75`.
    pub fn when(&self, t_ns: u64) -> String {
        let instant = self.calendar.instant(self.genesis_ns, t_ns);
        self.calendar.describe(instant)
    }

    fn node(&mut self, change: &NodeChange) {
        let Some(view) = self.nodes.get_mut(&change.node) else {
            return;
        };
        let reborn = change.incarnation != view.incarnation || view.ended.is_some();
        view.incarnation = change.incarnation;
        view.state = Some(change.state);
        if change.state != NodeState::Dead {
            view.ended = None;
        }
        if reborn {
            view.was_ready = false;
        }
        let fresh = change.state == NodeState::Starting
            || (change.state == NodeState::Ready && !view.was_ready);
        if change.state == NodeState::Ready {
            view.was_ready = true;
        }
        // A late answer of the life before may still arrive while the new one starts; values count from readiness on.
        if fresh && let Some(tracks) = self.tracks.get_mut(&change.node) {
            for track in tracks.values_mut() {
                track.value = None;
                track.course = Course::default();
            }
        }
    }

    fn exit(&mut self, exit: &Exit) {
        let ended = match exit.death {
            Death::Harness { step, .. } => {
                self.stopping |= step.is_none();
                Ended::ByHarness
            }
            // It is as little to blame for what the host did to it as for what the harness did.
            Death::Itself(status) if status.is_hosts() => Ended::ByHarness,
            Death::Itself(_) => Ended::ByItself,
        };
        if let Some(view) = self.nodes.get_mut(&exit.node) {
            view.state = Some(NodeState::Dead);
            view.ended = Some(ended);
        }
    }

    fn sample(&mut self, sample: &Sample) {
        let ready = self
            .nodes
            .get(&sample.node)
            .is_some_and(|view| view.was_ready);
        let track = self
            .tracks
            .entry(sample.node.clone())
            .or_default()
            .entry(sample.signal.clone())
            .or_default();
        match track.course.take(&sample.value) {
            Move::Unread => {
                track.gap = Some("a text was where numbers were before".to_owned());
                return;
            }
            Move::Further if ready => track.advanced = Some(self.now),
            Move::Further | Move::Stays => {}
        }
        track.samples += 1;
        track.seen = Some(self.now);
        track.value = Some(sample.value.clone());
    }

    fn gap(&mut self, gap: &Gap) {
        if !self.nodes.contains_key(&gap.node) {
            return;
        }
        for signal in &gap.signals {
            let tracks = self.tracks.entry(gap.node.clone()).or_default();
            tracks.entry(signal.clone()).or_default().gap = Some(gap.why.clone());
        }
        if self.excuses(gap) {
            self.waiting.insert(gap.node.clone());
        }
    }

    /// Lines of a node's log are lost, and with them perhaps values of what it pushes.
    fn loses(&mut self, node: &str) {
        let Some(view) = self.nodes.get(node) else {
            return;
        };
        self.lost.insert(node.to_owned(), self.now);
        let Some(role) = self.roles.get(&view.role) else {
            return;
        };
        for signal in &role.pushed {
            let tracks = self.tracks.entry(node.to_owned()).or_default();
            let why = "part of what it printed was lost".to_owned();
            tracks.entry(signal.clone()).or_default().gap = Some(why);
        }
    }

    fn step(&mut self, change: &StepChange) {
        let throttled_until_ns = match (&change.action, &change.phase) {
            (
                Action::Limit {
                    resource: Resource::Cpu,
                    ..
                },
                Phase::Begun,
            ) => Some(u64::MAX),
            (
                Action::Unlimit {
                    resource: Resource::Cpu,
                    ..
                },
                Phase::Done,
            ) => {
                // What was asked until then has a layer to be answered in.
                Some(self.now.t_ns.saturating_add(self.layer_ns()))
            }
            _ => None,
        };
        if let Some(until_ns) = throttled_until_ns
            && let Some(view) = self.nodes.get_mut(change.action.node())
        {
            view.throttled_until_ns = until_ns;
        }
        let Some(step) = self
            .schedule
            .steps
            .iter()
            .find(|step| step.id == change.step)
        else {
            return;
        };
        match (&step.part, &change.phase) {
            (Part::Begins { .. }, Phase::Begun) => {
                let node = change.action.node();
                if let Some(view) = self.nodes.get_mut(node) {
                    view.undone.remove(&change.entry);
                }
                self.first_fault.get_or_insert(self.now);
            }
            (Part::Ends(_), Phase::Done) => {
                let node = change.action.node();
                if let Some(view) = self.nodes.get_mut(node) {
                    view.undone.insert(change.entry.clone());
                }
                self.undone = Some(self.now);
                self.undone_entries.insert(change.entry.clone(), self.now);
            }
            _ => {}
        }
    }

    fn impact(&mut self, change: &ImpactChange) {
        let Some(view) = self.nodes.get_mut(&change.node) else {
            return;
        };
        if change.on {
            self.first_fault.get_or_insert(self.now);
        }
        match (change.impact, change.on) {
            (Impact::Impaired, true) => {
                view.impaired_by.insert(change.entry.clone());
            }
            (Impact::Impaired, false) => {
                view.impaired_by.remove(&change.entry);
            }
            (Impact::Stressed, _) => {}
        }
    }

    fn layer(&mut self, layer: &LayerRecord) {
        let waiting = std::mem::take(&mut self.waiting);
        if self.roles.keys().any(|role| self.most_of(role, &waiting)) {
            let next = self.layer_start_ns(layer.layer.saturating_add(1));
            self.starved.add(self.layer_start_ns(layer.layer), next);
            let ([_, last], count) = self.starving.get_or_insert(([self.now.seq; 2], 0));
            (*last, *count) = (self.now.seq, *count + 1);
        }
        self.last_layer = Some(layer.layer);
        if layer.unwatched {
            self.stopping = true;
            self.last_layer_void = false;
            return;
        }
        self.layers += 1;
        let end = self.layer_start_ns(layer.layer.saturating_add(1));
        // A record that comes late was made late, whatever it says itself.
        let late = layer
            .late_us
            .saturating_mul(1000)
            .max(self.now.t_ns.saturating_sub(end));
        let most = self.layer_ns() / LATE_PART;
        let step = layer.wall_step_us.unwrap_or(0).unsigned_abs();
        self.last_layer_void =
            late > most || step.saturating_mul(1000) > most || layer.steal_ppm > STEAL_MAX_PPM;
        if self.last_layer_void {
            self.void_layers += 1;
            // The lateness itself lies after the layer's end and is as void as the layer.
            let from = self.layer_start_ns(layer.layer);
            self.void.add(from, end.max(self.now.t_ns));
        }
    }

    /// Whether most of the nodes of a role that could do their work are among these. One alone tells nothing of the host.
    fn most_of(&self, role: &str, nodes: &BTreeSet<String>) -> bool {
        let able = self
            .nodes
            .iter()
            .filter(|(_, view)| view.role == role && view.able.is_some());
        let (all, among) = able.fold((0, 0), |(all, among), (name, _)| {
            (all + 1, among + usize::from(nodes.contains(name)))
        });
        all > 1 && among * 2 > all
    }

    /// When a layer begins, in monotonic nanoseconds.
    pub fn layer_start_ns(&self, layer: i64) -> u64 {
        let at = ProtocolTime(layer.saturating_mul(crate::time::MICRO));
        self.calendar.at_ns(self.genesis_ns, at)
    }

    /// Works out who is able and whether the excused ones are within what is tolerated.
    fn weigh(&mut self) {
        let now = self.now;
        let mut excused = BTreeSet::new();
        for (name, view) in &mut self.nodes {
            if view.excused() {
                excused.insert(name.clone());
            }
            let able = view.state == Some(NodeState::Ready) && !view.excused();
            match (able, view.able) {
                (true, None) => view.able = Some(now),
                (false, Some(_)) => view.able = None,
                _ => {}
            }
        }
        self.tolerated = tolerated(&self.tolerates, &self.plan_nodes, &excused);
    }

    /// Works out whether liveness is demanded now.
    fn demand(&mut self) {
        let now = self.now;
        let demanded = !self.stopping && now.t_ns >= self.genesis_ns && self.tolerated;
        match (demanded, self.demanded) {
            (true, None) => self.demanded = Some(now),
            (false, Some(_)) => self.demanded = None,
            _ => {}
        }
    }
}

pub(super) fn plan_nodes(header: &Header) -> Vec<Node> {
    let node = |info: &crate::history::NodeInfo| Node {
        name: info.name.clone(),
        role: info.role.clone(),
        settings: BTreeMap::new(),
        round_bytes: None,
        disk: info.disk,
    };
    header.nodes.iter().map(node).collect()
}
