//! The state machine of a run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::nodes::NodeView;
use super::staging::stage_times;
use super::{Command, Event, Watch, lead_ns};
use crate::history::{
    Body, Death, Ending, Event as NodeEvent, Exit, ExitStatus, Gap, Grade, Header, Interrupt,
    LayerRecord, LimitEvidence, NodeChange, NodeState, Panic, Phase, Ping, Record, Sample,
    SignalValue,
};
use crate::plan::model::Source;
use crate::schedule::Step;

/// Readiness checks end with the start, and tell what they saw last within this time; without it nobody could say why.
const LAST_ANSWER_BOUND_NS: u64 = 250_000_000;

/// Which signals come from a node's log: per role, event name to signal and JSON pointer.
type LogSignals = BTreeMap<String, Vec<(String, String, String)>>;

/// Where the run is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nodes are being started; nothing is demanded yet.
    Starting,
    /// The schedule runs.
    Running,
    /// Outstanding faults are being taken back.
    Healing(Ending),
    /// Nodes are being stopped.
    TearingDown(Ending),
    /// Over.
    Over,
}

/// One run. Feed it events, carry out its commands.
#[derive(Debug)]
pub struct Machine<W> {
    pub(super) header: Header,
    log_signals: LogSignals,
    watch: W,
    pub(super) stage: Stage,
    pub(super) nodes: BTreeMap<String, NodeView>,
    /// Steps not begun yet, by due time.
    pub(super) due: VecDeque<Step>,
    /// How many of `due`, from its front, are staged.
    staged: usize,
    /// When each step is staged.
    stage_ns: BTreeMap<u32, u64>,
    /// Begun faults that must be taken back, by the step that began them: the undo step, if one is planned.
    pub(super) open: BTreeMap<u32, Step>,
    /// Faults whose effect may still be on a node: the step that began them.
    pub(super) on: BTreeMap<u32, String>,
    /// Begun faults that were never made, by their step: their undo has nothing to do.
    pub(super) moot: BTreeSet<u32>,
    /// Undo steps of the healing stage that have not reported yet.
    pub(super) healing: Vec<u32>,
    pub(super) heal_by_ns: u64,
    ready_by_ns: u64,
    /// How long the slowest node may take to stop.
    pub(super) slowest_stop_ns: u64,
    pub(super) teardown_by_ns: u64,
    /// When teardown began.
    pub(super) torn_down_ns: u64,
    pub(super) next_seq: u64,
    pub(super) out: Vec<Command>,
    pub(super) now_ns: u64,
}

impl<W: Watch> Machine<W> {
    /// A run that is described by its header; `sources` says per role where each signal's value comes from,
    /// `slowest_stop_ns` how long the slowest node may take to stop.
    pub fn new(
        header: Header,
        sources: &BTreeMap<String, BTreeMap<String, Source>>,
        slowest_stop_ns: u64,
        watch: W,
    ) -> Self {
        let mut log_signals = LogSignals::new();
        for (role, signals) in sources {
            for (signal, source) in signals {
                if let Source::Log { event, value } = source {
                    let row = (event.clone(), signal.clone(), value.clone());
                    log_signals.entry(role.clone()).or_default().push(row);
                }
            }
        }
        Self {
            log_signals,
            watch,
            stage: Stage::Starting,
            nodes: header
                .nodes
                .iter()
                .map(|node| (node.name.clone(), NodeView::default()))
                .collect(),
            due: header.schedule.steps.iter().cloned().collect(),
            staged: 0,
            stage_ns: stage_times(&header),
            open: BTreeMap::new(),
            on: BTreeMap::new(),
            moot: BTreeSet::new(),
            healing: Vec::new(),
            heal_by_ns: u64::MAX,
            ready_by_ns: header.genesis_ns.saturating_sub(lead_ns(header.calendar)),
            slowest_stop_ns,
            teardown_by_ns: u64::MAX,
            torn_down_ns: u64::MAX,
            next_seq: 0,
            out: Vec::new(),
            now_ns: 0,
            header,
        }
    }

    /// Takes an event that happened at `now_ns` (never earlier than the one before) and says what to do.
    pub fn on(&mut self, now_ns: u64, event: Event) -> Vec<Command> {
        self.now_ns = self.now_ns.max(now_ns);
        if self.stage == Stage::Over {
            return Vec::new();
        }
        self.take(event);
        self.advance();
        std::mem::take(&mut self.out)
    }

    /// The watcher, for what it has learnt.
    pub fn watch(&self) -> &W {
        &self.watch
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Begun => self.begin(),
            Event::Tick => {}
            Event::Spawned { node, pid } => {
                self.node_is(&node, NodeState::Starting, Some(pid), None);
            }
            Event::SpawnFailed { node, why } => self.spawn_failed(&node, &why),
            Event::Ready { node, incarnation } => self.ready(&node, incarnation),
            Event::NotReady {
                node,
                incarnation,
                last_seen,
            } => {
                self.not_ready(&node, incarnation, &last_seen);
            }
            Event::Exited {
                node,
                incarnation,
                status,
                forced,
                tail,
            } => {
                self.exited(&node, incarnation, status, forced, tail);
            }
            Event::Logged {
                node,
                former,
                event,
                fields,
            } => self.logged(node, former, event, fields),
            Event::Sampled {
                node,
                signal,
                value,
            } => self.sampled(&node, &signal, value),
            Event::Unreadable {
                node,
                source,
                signals,
                why,
                answered,
                excused,
            } => {
                self.record(Body::Gap(Gap {
                    node,
                    source,
                    signals,
                    why,
                    answered,
                    excused,
                }));
            }
            Event::Pinged { node, rtt_us } => self.record(Body::Ping(Ping { node, rtt_us })),
            Event::LayerEnded(layer) => {
                let unwatched = !self.watched(layer.layer);
                self.record(Body::Layer(LayerRecord { unwatched, ..layer }));
            }
            Event::Carried { step, result } => self.carried(step, result),
            Event::Proved {
                step,
                grade,
                held,
                detail,
            } => self.proved(step, grade, held, detail),
            Event::Limited {
                node,
                grade,
                held,
                detail,
            } => self.record(Body::Limit(LimitEvidence {
                node,
                grade,
                held,
                detail,
            })),
            Event::Interrupted { signal } => {
                self.record(Body::Interrupt(Interrupt { signal }));
                self.end(Ending::Interrupted(signal));
            }
            Event::SubstrateFailed { why } => self.end(Ending::Substrate(why)),
            Event::TaskFailed { why } => self.task_failed(why),
            Event::TeardownFailed { why } => {
                self.task_failed(why.clone());
                self.left_by_teardown(&why);
            }
            Event::TimedOut => self.end(Ending::TimedOut),
            Event::TornDown { left } => self.torn_down(left),
        }
    }

    /// Whether nodes were watched for most of a layer. Layers go on while a run is torn down, as long as that takes.
    fn watched(&self, layer: i64) -> bool {
        let layer_ns = self.header.calendar.layer_ns;
        let began_ns = u64::try_from(layer).unwrap_or(0).saturating_mul(layer_ns);
        let middle_ns = began_ns.saturating_add(layer_ns / 2);
        self.header.genesis_ns.saturating_add(middle_ns) <= self.torn_down_ns
    }

    /// What is due by now, independent of what happened.
    fn advance(&mut self) {
        match &self.stage {
            Stage::Starting => self.check_start(),
            Stage::Running => self.run_steps(),
            Stage::Healing(_) => self.finish_healing(),
            Stage::TearingDown(_) => self.finish_teardown(),
            Stage::Over => {}
        }
    }

    fn begin(&mut self) {
        self.record(Body::Header(Box::new(self.header.clone())));
        // The header is the intent of all that follows: it is on disk before the first process exists.
        self.out.push(Command::Sync);
        for name in self.nodes.keys().cloned().collect::<Vec<_>>() {
            let ready_by_ns = self.ready_by_ns;
            self.out.push(Command::Spawn {
                node: name,
                incarnation: 0,
                ready_by_ns,
            });
        }
        self.out.push(Command::WakeAt(self.ready_by_ns));
    }

    fn check_start(&mut self) {
        let missing = || {
            let waiting = self
                .nodes
                .iter()
                .filter(|(_, view)| view.state != Some(NodeState::Ready));
            waiting.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        if self
            .nodes
            .values()
            .all(|view| view.state == Some(NodeState::Ready))
        {
            self.stage = Stage::Running;
            self.run_steps();
        } else if self.now_ns >= self.ready_by_ns {
            let missing = missing();
            let answers_by_ns = self.ready_by_ns.saturating_add(LAST_ANSWER_BOUND_NS);
            let awaited = self
                .nodes
                .values()
                .any(|view| view.state == Some(NodeState::Starting) && !view.unready);
            if awaited && self.now_ns < answers_by_ns {
                self.out.push(Command::WakeAt(answers_by_ns));
            } else {
                self.end(Ending::NotReady(missing));
            }
        } else {
            self.out.push(Command::WakeAt(self.ready_by_ns));
        }
    }

    fn run_steps(&mut self) {
        let (calendar, genesis_ns) = (self.header.calendar, self.header.genesis_ns);
        let at_ns = |at| calendar.at_ns(genesis_ns, at);
        let ends_ns = at_ns(self.header.schedule.ends_at);
        while let Some(step) = self.due.front() {
            if at_ns(step.at) > self.now_ns || at_ns(step.at) > ends_ns {
                break;
            }
            let Some(step) = self.due.pop_front() else {
                break;
            };
            if self.staged == 0 {
                // A late start: nothing is done before its intent is on disk.
                self.step_is(&step, Phase::Staged);
                self.out.push(Command::Sync);
                self.out.push(Command::Prepare(step.clone()));
            }
            self.staged = self.staged.saturating_sub(1);
            self.carry(step);
        }
        self.stage_ahead();
        if self.now_ns >= ends_ns {
            self.end(Ending::Scheduled);
            return;
        }
        if self.watch.may_end(self.now_ns) {
            self.end(Ending::Early);
            return;
        }
        let next = self.due.get(self.staged).map(|step| self.stage_ns(step));
        let due = self.due.front().map(|step| at_ns(step.at));
        let wake = next
            .into_iter()
            .chain(due)
            .chain([ends_ns])
            .min()
            .unwrap_or(ends_ns);
        self.out.push(Command::WakeAt(wake));
    }

    fn stage_ns(&self, step: &Step) -> u64 {
        self.stage_ns.get(&step.id).copied().unwrap_or_default()
    }

    /// Writes the intents of everything that is to be ready soon, on disk before it is prepared or carried out.
    fn stage_ahead(&mut self) {
        let mut staged = Vec::new();
        while let Some(step) = self.due.get(self.staged).cloned() {
            if self.stage_ns(&step) > self.now_ns {
                break;
            }
            self.step_is(&step, Phase::Staged);
            self.staged += 1;
            staged.push(step);
        }
        if !staged.is_empty() {
            self.out.push(Command::Sync);
            self.out.extend(staged.into_iter().map(Command::Prepare));
        }
    }

    fn ready(&mut self, node: &str, incarnation: u32) {
        let Some(view) = self.nodes.get_mut(node) else {
            return;
        };
        if view.incarnation != incarnation || view.state != Some(NodeState::Starting) {
            return;
        }
        let healed = std::mem::take(&mut view.healing);
        self.node_is(node, NodeState::Ready, None, None);
        for begun in healed {
            let detail = BTreeMap::from([("ready".to_owned(), incarnation.into())]);
            self.proved(begun, Grade::Gone, true, detail);
        }
    }

    fn not_ready(&mut self, node: &str, incarnation: u32, last_seen: &str) {
        let Some(view) = self.nodes.get_mut(node) else {
            return;
        };
        if view.incarnation != incarnation || view.state == Some(NodeState::Ready) {
            return;
        }
        view.unready = true;
        let healed = std::mem::take(&mut view.healing);
        if let Some(state) = view.state {
            self.node_is(node, state, None, Some(format!("not ready: {last_seen}")));
        }
        for begun in healed {
            let detail = BTreeMap::from([("not-ready".to_owned(), last_seen.into())]);
            self.proved(begun, Grade::Gone, false, detail);
        }
    }

    fn spawn_failed(&mut self, node: &str, why: &str) {
        self.node_is(node, NodeState::Dead, None, Some(why.to_owned()));
        self.end(Ending::Substrate(format!("{node}: {why}")));
    }

    fn exited(
        &mut self,
        node: &str,
        incarnation: u32,
        status: ExitStatus,
        forced: bool,
        tail: Vec<String>,
    ) {
        let Some(view) = self.nodes.get_mut(node) else {
            return;
        };
        if view.incarnation != incarnation || view.state == Some(NodeState::Dead) {
            return;
        }
        let death = view.death(status, forced);
        let panic = view.panic.take();
        view.state = Some(NodeState::Dead);
        let healing = std::mem::take(&mut view.healing);
        let awaits = view.awaits.take();
        // What the host did is no node's doing, and no fault's.
        let host = matches!(death, Death::Itself(status) if status.is_hosts());
        let own = matches!(death, Death::Itself(_)) && !host;
        let exit = Exit {
            node: node.to_owned(),
            incarnation,
            death,
            panic,
            tail,
        };
        self.record(Body::Exit(exit));
        if own {
            self.felt_by_death(node);
        }
        // A restart that the end of the run cut short was not refuted by it.
        let ends = matches!(self.stage, Stage::TearingDown(_));
        for begun in healing.into_iter().filter(|_| !ends) {
            let detail = BTreeMap::from([("exited".to_owned(), format!("{status:?}").into())]);
            self.proved(begun, Grade::Gone, false, detail);
        }
        if let Some(start) = awaits.filter(|_| self.stage == Stage::Running) {
            self.start_again(&start, node);
        }
        if host {
            self.task_failed(match status {
                ExitStatus::HostGone => format!(
                    "the kernel killed {node} because what the harness had put it into ended"
                ),
                ExitStatus::Foreign => format!("somebody else ended {node}"),
                _ => format!(
                    "the kernel killed {node} for lack of memory, and not within a limit of {node}'s own: free memory on the \
                     host, or run fewer nodes"
                ),
            });
        }
        if self.stage == Stage::Starting {
            self.end(Ending::NotReady(vec![format!(
                "{node} exited before genesis"
            )]));
        }
    }

    /// What an earlier life of the node said stays true, as that a PoET made a proof; but it is neither how the node is
    /// now, nor how this life ends.
    fn logged(
        &mut self,
        node: String,
        former: bool,
        event: String,
        fields: BTreeMap<String, serde_json::Value>,
    ) {
        if event == "panic" && former {
            return;
        }
        if event == "panic" {
            let text = |key: &str| {
                fields
                    .get(key)
                    .and_then(|value| value.as_str())
                    .map(str::to_owned)
            };
            let line = fields
                .get("line")
                .map_or_else(|| "?".to_owned(), ToString::to_string);
            let panic = Panic {
                component: text("component"),
                message: text("message").unwrap_or_default(),
                place: text("file").map(|file| format!("{file}:{line}")),
            };
            self.nodes.entry(node.clone()).or_default().panic = Some(panic);
        }
        let role = self
            .header
            .nodes
            .iter()
            .find(|info| info.name == node)
            .map(|info| &info.role);
        let rows = role
            .filter(|_| !former)
            .and_then(|role| self.log_signals.get(role))
            .cloned()
            .unwrap_or_default();
        for (_, signal, pointer) in rows.iter().filter(|(name, ..)| *name == event) {
            let all = serde_json::Value::Object(fields.clone().into_iter().collect());
            match all.pointer(pointer).map(signal_value) {
                Some(Some(value)) => self.sampled(&node, signal, value),
                other => {
                    let why = match other {
                        None => format!("the event has no {pointer}"),
                        Some(_) => format!(
                            "{pointer} of the event is neither a whole number from 0 nor a text"
                        ),
                    };
                    self.record(Body::Gap(Gap {
                        node: node.clone(),
                        source: format!("event {event}"),
                        signals: vec![signal.clone()],
                        why,
                        answered: true,
                        excused: false,
                    }));
                }
            }
        }
        self.record(Body::Event(NodeEvent {
            node,
            event,
            fields,
        }));
    }

    /// Records a value when it changed, and once per layer so that silence can be told from sameness.
    fn sampled(&mut self, node: &str, signal: &str, value: SignalValue) {
        let layer = self
            .header
            .calendar
            .instant(self.header.genesis_ns, self.now_ns)
            .layer();
        let view = self.nodes.entry(node.to_owned()).or_default();
        let last = view.signals.get(signal);
        if last.is_some_and(|(old, when)| *old == value && *when == layer) {
            return;
        }
        view.signals
            .insert(signal.to_owned(), (value.clone(), layer));
        self.record(Body::Sample(Sample {
            node: node.to_owned(),
            signal: signal.to_owned(),
            value,
        }));
    }

    fn node_is(&mut self, node: &str, state: NodeState, pid: Option<u32>, detail: Option<String>) {
        let view = self.nodes.entry(node.to_owned()).or_default();
        view.state = Some(state);
        let incarnation = view.incarnation;
        let change = NodeChange {
            node: node.to_owned(),
            incarnation,
            state,
            pid,
            detail,
        };
        self.record(Body::Node(change));
    }

    pub(super) fn record(&mut self, body: Body) {
        let record = Record {
            seq: self.next_seq,
            t_ns: self.now_ns,
            body,
        };
        self.next_seq += 1;
        self.watch.observe(&record);
        self.out.push(Command::Record(record));
    }
}

/// A JSON value as a signal's value: whole numbers (also spelled as strings, as grpc-gateway does), else text.
pub(crate) fn signal_value(value: &serde_json::Value) -> Option<SignalValue> {
    match value {
        serde_json::Value::Number(number) => number.as_u64().map(SignalValue::Number),
        serde_json::Value::String(text) => Some(match text.parse::<u64>() {
            Ok(number) => SignalValue::Number(number),
            Err(_) => SignalValue::Text(text.clone()),
        }),
        serde_json::Value::Bool(flag) => Some(SignalValue::Number(u64::from(*flag))),
        _ => None,
    }
}
