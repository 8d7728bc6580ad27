//! A network in virtual time that writes the history a controller would write of it.

use std::collections::BTreeMap;

use tweedledum_core::control::{ControlResult, compare};
use tweedledum_core::history::{
    Body, Death, End, Ending, Event, Evidence, Exit, ExitStatus, ExpectInfo, Gap, Grade, Header,
    ImpactChange, LayerRecord, NodeChange, NodeState, Panic, Phase, Ping, Record, Sample,
    SignalValue, StepChange, TornDown,
};
use tweedledum_core::judge::Judge;
use tweedledum_core::schedule::{Action, Part};
use tweedledum_core::verdict::Verdict;

use crate::judged::*;
use crate::planned::*;

/// How a node behaves.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a way to misbehave, and they combine freely"
)]
#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    pub(crate) role: String,
    pub(crate) dead: bool,
    pub(crate) frozen: bool,
    /// Answers nothing, while its process lives.
    pub(crate) hung: bool,
    /// Answers pings alone, and is not answerable for the rest.
    pub(crate) starved: bool,
    /// Answers something unreadable.
    pub(crate) garbled: bool,
    /// Nobody asks it anything.
    pub(crate) unwatched: bool,
    /// Answers no ping.
    pub(crate) deaf: bool,
    /// Says a word for its transactions in every second layer.
    pub(crate) wordy: bool,
    /// Its transactions stand still.
    pub(crate) stuck: bool,
    /// Its verified layer stands still.
    pub(crate) unverified: bool,
    /// Its state is another one.
    pub(crate) forked: bool,
    pub(crate) tx: u64,
    pub(crate) verified: u64,
    pub(crate) incarnation: u32,
}

pub(crate) struct Net {
    pub(crate) header: Header,
    pub(crate) records: Vec<Record>,
    pub(crate) nodes: BTreeMap<String, Node>,
    pub(crate) layer: i64,
    /// How late the controller wakes in the layers to come.
    pub(crate) late_us: u64,
    /// What the hypervisor takes in the layers to come.
    pub(crate) steal_ppm: u64,
    /// How far the wall clock is moved in each of the layers to come.
    pub(crate) wall_step_us: Option<i64>,
    /// What is added to the offset of a node's samples in a layer, in nanoseconds.
    pub(crate) jitter: fn(i64, usize) -> u64,
    pub(crate) faults: Vec<Fault>,
    /// What will happen besides, by time.
    pub(crate) to_come: Vec<(u64, Body)>,
    now: u64,
}

impl Net {
    /// Three miners with `tx`, `verified` and `root`, two gateways that are only pinged; all ready before genesis.
    pub(crate) fn new(expect: Vec<ExpectInfo>, faults: Vec<Fault>) -> Self {
        let names = ["gateway-0", "gateway-1", "miner-0", "miner-1", "miner-2"];
        Self::of(&names.map(str::to_owned), expect, faults)
    }

    /// These nodes, all ready before genesis; miners behave as in [`Net::new`], others are only pinged.
    pub(crate) fn of(names: &[String], expect: Vec<ExpectInfo>, faults: Vec<Fault>) -> Self {
        let role = |name: &str| name.split('-').next().unwrap().to_owned();
        let named: Vec<(String, String)> = names.iter().map(|it| (it.clone(), role(it))).collect();
        let header = header(&named, expect, &faults);
        let mut net = Self {
            nodes: header
                .nodes
                .iter()
                .map(|info| {
                    let node = Node {
                        role: info.role.clone(),
                        ..Node::default()
                    };
                    (info.name.clone(), node)
                })
                .collect(),
            header,
            records: Vec::new(),
            layer: 0,
            late_us: 100,
            steal_ppm: 0,
            wall_step_us: Some(0),
            jitter: |_, _| 0,
            faults,
            to_come: Vec::new(),
            now: 0,
        };
        net.push(0, Body::Header(Box::new(net.header.clone())));
        for name in names {
            net.state(1, name, NodeState::Starting);
            net.state(2, name, NodeState::Ready);
        }
        net
    }

    /// The same with one tolerance, control or other change of the header.
    #[must_use]
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Header)) -> Self {
        change(&mut self.header);
        self.records[0].body = Body::Header(Box::new(self.header.clone()));
        self
    }

    pub(crate) fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.get_mut(name).unwrap()
    }

    /// Changes the behaviour of every node of a role.
    pub(crate) fn all(&mut self, role: &str, change: impl Fn(&mut Node)) {
        let nodes = self.nodes.values_mut();
        nodes.filter(|node| node.role == role).for_each(change);
    }

    pub(crate) fn push(&mut self, t_ns: u64, body: Body) -> u64 {
        self.now = self.now.max(t_ns);
        let seq = self.records.len() as u64;
        self.records.push(Record {
            seq,
            t_ns: self.now,
            body,
        });
        seq
    }

    pub(crate) fn state(&mut self, t_ns: u64, node: &str, state: NodeState) {
        let incarnation = self.nodes[node].incarnation;
        self.push(
            t_ns,
            Body::Node(NodeChange {
                node: node.into(),
                incarnation,
                state,
                pid: None,
                detail: None,
            }),
        );
    }

    /// Plays until the beginning of this layer, carrying out the schedule on the way.
    pub(crate) fn until(&mut self, layer: i64) -> &mut Self {
        while self.layer < layer {
            self.carry();
            self.one_layer();
            self.layer += 1;
        }
        self
    }

    /// Ends the run as it was scheduled, at the present layer.
    pub(crate) fn end(&mut self) -> &mut Self {
        self.carry();
        self.stop(Ending::Scheduled)
    }

    pub(crate) fn stop(&mut self, why: Ending) -> &mut Self {
        let t_ns = at(self.layer) + LAYER / 10;
        for name in self.nodes.keys().cloned().collect::<Vec<_>>() {
            if !self.nodes[&name].dead {
                self.exits(t_ns, &name, by_harness(None, ExitStatus::Code(0)), None);
            }
        }
        self.push(t_ns, Body::TornDown(TornDown { left: Vec::new() }));
        let count = self.records.len() as u64 + 1;
        self.push(
            t_ns,
            Body::End(End {
                count,
                why,
                digest: None,
            }),
        );
        self
    }

    pub(crate) fn exits(
        &mut self,
        t_ns: u64,
        node: &str,
        death: Death,
        panic: Option<Panic>,
    ) -> u64 {
        self.node(node).dead = true;
        let incarnation = self.nodes[node].incarnation;
        self.push(
            t_ns,
            Body::Exit(Exit {
                node: node.into(),
                incarnation,
                death,
                panic,
                tail: vec!["last words".into()],
            }),
        )
    }

    /// The node panics in this component in the middle of the present layer.
    pub(crate) fn panics(&mut self, node: &str, component: &str) {
        self.panics_with(node, component, "entry was just deleted");
    }

    pub(crate) fn panics_with(&mut self, node: &str, component: &str, message: &str) {
        let t_ns = at(self.layer) + 1;
        let panic = Panic {
            component: Some(component.into()),
            message: message.into(),
            place: Some("src/table.rs:7".into()),
        };
        self.exits(
            t_ns,
            node,
            Death::Itself(ExitStatus::Signal(6)),
            Some(panic),
        );
    }

    /// The node is started again and ready.
    pub(crate) fn restarts(&mut self, node: &str) {
        let t_ns = at(self.layer) + 1;
        let it = self.node(node);
        it.dead = false;
        it.incarnation += 1;
        it.tx = 0;
        self.state(t_ns, node, NodeState::Starting);
        self.state(t_ns, node, NodeState::Ready);
    }

    pub(crate) fn evidence(&mut self, fault: &Fault, grade: Grade, held: bool) {
        let step = self.step_of(fault);
        let body = Body::Evidence(Evidence {
            entry: fault.entry.into(),
            step,
            node: fault.node.clone(),
            grade,
            held,
            detail: BTreeMap::from([
                ("sent".to_owned(), 320.into()),
                ("sources".to_owned(), 320.into()),
            ]),
        });
        self.push(self.now, body);
    }

    fn step_of(&self, fault: &Fault) -> u32 {
        let steps = &self.header.schedule.steps;
        let step = steps
            .iter()
            .find(|step| step.entry == fault.entry && step.action == fault.action);
        step.unwrap().id
    }

    fn carry(&mut self) {
        for fault in self.faults.clone() {
            if fault.at == self.layer {
                self.begin(&fault);
            }
            if fault.to == self.layer {
                self.heal(&fault);
            }
        }
    }

    fn phase(&mut self, id: u32, phase: Phase) {
        let step = self.header.schedule.steps.iter().find(|it| it.id == id);
        let step = step.unwrap().clone();
        let body = Body::Step(StepChange {
            step: id,
            entry: step.entry,
            action: step.action,
            phase,
        });
        self.push(at(self.layer), body);
    }

    fn impact(&mut self, fault: &Fault, on: bool) {
        let body = Body::Impact(ImpactChange {
            entry: fault.entry.into(),
            node: fault.node.clone(),
            impact: impact(&fault.action),
            on,
        });
        self.push(self.now, body);
    }

    fn begin(&mut self, fault: &Fault) {
        let id = self.step_of(fault);
        self.phase(id, Phase::Begun);
        self.impact(fault, true);
        match &fault.action {
            Action::Kill { node } => {
                let death = by_harness(Some(id), ExitStatus::Signal(9));
                self.exits(at(self.layer), node, death, None);
            }
            Action::Freeze { node } => self.node(node).frozen = true,
            _ => {}
        }
        self.phase(id, Phase::Done);
        self.evidence(fault, Grade::Armed, true);
        self.evidence(fault, Grade::Applied, true);
    }

    fn heal(&mut self, fault: &Fault) {
        let begun = self.step_of(fault);
        let steps = self.header.schedule.steps.iter();
        let id = steps.clone().find(|it| it.part == Part::Ends(begun));
        let id = id.unwrap().id;
        self.phase(id, Phase::Begun);
        self.phase(id, Phase::Done);
        match &fault.action {
            Action::Kill { node } => self.restarts(node),
            Action::Freeze { node } => self.node(node).frozen = false,
            _ => {}
        }
        self.evidence(fault, Grade::Gone, true);
        self.impact(fault, false);
    }

    fn one_layer(&mut self) {
        let (layer, start) = (self.layer, at(self.layer));
        let mut happened: Vec<(u64, Body)> = Vec::new();
        for (index, (name, node)) in (0_u64..).zip(&mut self.nodes) {
            if node.dead || node.unwatched {
                continue;
            }
            let jitter = (self.jitter)(layer, usize::try_from(index).unwrap());
            let t_ns = start + (index + 1) * LAYER / 20 + jitter;
            let silent = node.frozen || node.hung || node.starved;
            if node.role == "miner" {
                if !silent {
                    node.tx += u64::from(!node.stuck);
                    node.verified += u64::from(!node.unverified);
                }
                if silent || node.garbled {
                    let gap = Gap {
                        node: name.clone(),
                        source: "/metrics".into(),
                        signals: ["tx", "verified", "root"].map(str::to_owned).to_vec(),
                        why: "nothing useful".into(),
                        answered: !silent || node.starved,
                        excused: node.starved,
                    };
                    happened.push((t_ns, Body::Gap(gap)));
                } else {
                    let fork = if node.forked { "other" } else { "state" };
                    let root = format!("{}:{fork}-{}", node.verified, node.verified);
                    let tx = if node.wordy && layer % 2 == 0 {
                        SignalValue::Text("unknown".into())
                    } else {
                        SignalValue::Number(node.tx)
                    };
                    for (signal, value) in [
                        ("tx", tx),
                        ("verified", SignalValue::Number(node.verified)),
                        ("root", SignalValue::Text(root)),
                    ] {
                        let sample = Sample {
                            node: name.clone(),
                            signal: signal.into(),
                            value,
                        };
                        happened.push((t_ns, Body::Sample(sample)));
                    }
                }
            }
            if node.starved && node.role != "miner" {
                let gap = Gap {
                    node: name.clone(),
                    source: "agent".into(),
                    signals: Vec::new(),
                    why: "it waited for a processor".into(),
                    answered: true,
                    excused: true,
                };
                happened.push((t_ns, Body::Gap(gap)));
            }
            let rtt_us = ((!silent || node.starved) && !node.deaf).then_some(80);
            let ping = Ping {
                node: name.clone(),
                rtt_us,
            };
            happened.push((t_ns, Body::Ping(ping)));
        }
        let (due, later) = std::mem::take(&mut self.to_come)
            .into_iter()
            .partition(|(t_ns, _)| *t_ns < start + LAYER);
        self.to_come = later;
        let due: Vec<(u64, Body)> = due;
        let dead = |body: &Body| {
            let (Body::Event(Event { node, .. }) | Body::Sample(Sample { node, .. })) = body else {
                return false;
            };
            self.nodes[node].dead
        };
        happened.extend(due.into_iter().filter(|(_, body)| !dead(body)));
        happened.sort_by_key(|(t_ns, _)| *t_ns);
        for (t_ns, body) in happened {
            self.push(t_ns, body);
        }
        let body = Body::Layer(LayerRecord {
            layer,
            late_us: self.late_us,
            steal_ppm: self.steal_ppm,
            cpu_pressure_ppm: Some(800_000),
            wall_step_us: self.wall_step_us,
            unwatched: false,
        });
        self.push(start + LAYER, body);
    }

    pub(crate) fn verdict(&self) -> Verdict {
        judge(&self.records)
    }

    pub(crate) fn control(&self) -> ControlResult {
        compare(self.header.control.as_ref().unwrap(), self.verdict())
    }

    /// Whether a live judge would have let the run end now.
    pub(crate) fn settled(&self) -> bool {
        let mut judge = Judge::new(&self.header).unwrap();
        self.records.iter().for_each(|record| judge.observe(record));
        judge.settled(at(self.layer))
    }
}

pub(crate) fn by_harness(step: Option<u32>, status: ExitStatus) -> Death {
    Death::Harness {
        step,
        ignored_stop: false,
        status,
    }
}
