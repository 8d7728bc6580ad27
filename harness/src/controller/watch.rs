//! Everything concurrent of a run: lives of nodes, observers that look, floods and disk faults that go on.
//!
//! Its tasks report into one channel; [`Watch::take`] turns what they say into events for the state machine. How a life
//! is watched from its start to its death is in `attach`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot, watch};
use tweedledum_core::plan::model::{Source, Stop};
use tweedledum_core::run::Event;
use tweedledum_core::schedule::{Action, Part, Step};

use super::RunError;
use super::attach::look;
use super::disks::{self, Disk};
use super::floods::{self, Flood};
use super::happened::Happened;
use super::layers;
use super::limits;
use super::network::Site;
use super::steps::{self, Frozen, Reporter, Target};
use super::tasks::Tasks;
use crate::agent::operator::{Act, Order};
use crate::observe::Observation;
use crate::observe::lateness::LayerTicker;
use crate::observe::logs::{LogHub, LogLimits};
use crate::substrate::{Life, Substrate, Vantage};

/// The least time that a PoET gets for an operator's order, whatever the layer: dialling and a state on disk come first.
const OPERATOR_BOUND: Duration = Duration::from_secs(2);

/// How long the deaths of nodes that were stopped or killed may take to be told; what lives on is listed as left.
const EXITS_BOUND: Duration = Duration::from_secs(5);

/// The name of the task that tears down.
const TEARDOWN: &str = "tear down";

/// A node that has a life.
#[derive(Debug, Clone)]
pub(super) struct Living {
    pub(super) life: Arc<dyn Life>,
    pub(super) forced: bool,
    /// The step that has killed it or asked it to end.
    pub(super) ended_by: Option<u32>,
}

/// Everything concurrent of a run.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) site: Site,
    pub(super) substrate: Arc<dyn Substrate>,
    pub(super) loop_: mpsc::Sender<Happened>,
    pub(super) living: BTreeMap<String, Living>,
    floods: BTreeMap<u32, Flood>,
    disks: BTreeMap<String, Disk>,
    /// Faults that are on disks, by their step, until the step that ends them is sent here.
    disk_faults: BTreeMap<u32, oneshot::Sender<Step>>,
    /// Limits that are on nodes, likewise.
    limits: BTreeMap<u32, oneshot::Sender<limits::End>>,
    /// Per node, whose turn it is to freeze or thaw it: a thaw waits until the freeze before it has seen what it wants to.
    /// Whoever has it knows what is frozen.
    turns: BTreeMap<String, Arc<tokio::sync::Mutex<Option<Frozen>>>>,
    pub(super) logs: LogHub,
    /// Whether each node shall be polled and pinged now.
    looks: BTreeMap<String, watch::Sender<bool>>,
    looking: Tasks,
    pub(super) tasks: Tasks,
    /// One task per life, which ends once its death is told.
    pub(super) exits: Tasks,
}

impl Watch {
    /// A watch over a network that is about to be started.
    pub(super) fn new(
        site: Site,
        substrate: Arc<dyn Substrate>,
        loop_: mpsc::Sender<Happened>,
        saw: &mpsc::Sender<Observation>,
    ) -> Result<Self, RunError> {
        let mut wanted = BTreeSet::from(["panic".to_owned()]);
        let (mut tasks, mut looking) = (Tasks::default(), Tasks::default());
        let (mut disks, mut wishes) = (BTreeMap::new(), BTreeMap::new());
        let mut vantages = Vec::new();
        let layer = Duration::from_nanos(site.header.calendar.layer_ns);
        for (name, node) in &site.nodes {
            for source in node.launch.signals.values() {
                if let Source::Log { event, .. } = source {
                    wanted.insert(event.clone());
                }
            }
            wanted.extend(node.launch.events.iter().cloned());
            if let Some(hold) = substrate.disk(name) {
                let disk = Disk::new(hold, node.disk_limit);
                let watching = disks::watch(name.clone(), disk.clone(), loop_.clone());
                tasks.spawn(format!("watch the disk of {name}"), watching);
                disks.insert(name.clone(), disk);
            }
            if let Some(vantage) = substrate.vantage(name) {
                vantages.push(Arc::clone(&vantage));
                let (wish, wished) = watch::channel(false);
                let polls = site.polls_per_layer;
                let looks = look(node, name, vantage, layer, polls, wished);
                looking.spawn(format!("look at {name}"), looks);
                wishes.insert(name.clone(), wish);
            }
        }
        let genesis_ns = site.began_ns.saturating_add(site.header.genesis_ns);
        let ticker = LayerTicker::new(genesis_ns, layer)?;
        let told = layers::tell(ticker, layer, vantages, loop_.clone());
        tasks.spawn("tell layers", told);
        let (failing, own) = (Arc::clone(&substrate), loop_.clone());
        tasks.spawn("watch the substrate", async move {
            let why = failing.failed().await;
            let _ = own.send(Happened::failed(why)).await;
        });
        Ok(Self {
            disks,
            disk_faults: BTreeMap::new(),
            limits: BTreeMap::new(),
            turns: BTreeMap::new(),
            logs: LogHub::new(wanted, LogLimits::default(), saw.clone()),
            site,
            substrate,
            loop_,
            living: BTreeMap::new(),
            floods: BTreeMap::new(),
            looks: wishes,
            looking,
            tasks,
            exits: Tasks::default(),
        })
    }

    /// Begins a life of a node.
    pub(super) fn spawn(&mut self, node: &str, incarnation: u32, ready_by_ns: u64) {
        let Some(place) = self.site.nodes.get(node) else {
            return;
        };
        let former = self.living.remove(node);
        let launch = place.launch.clone();
        let (substrate, loop_) = (Arc::clone(&self.substrate), self.loop_.clone());
        let node = node.to_owned();
        self.tasks.spawn(format!("start {node}"), async move {
            if let Some(former) = former {
                still_dead(&former, &loop_).await;
            }
            let happened = match substrate.start(launch).await {
                Ok((life, pipes)) => Happened::Started {
                    node,
                    incarnation,
                    ready_by_ns,
                    life,
                    pipes,
                },
                Err(why) => Happened::Told(Event::SpawnFailed { node, why }),
            };
            let _ = loop_.send(happened).await;
        });
    }

    /// Gets ready for a step: a flood's sockets and datagrams take tens of milliseconds, which must not pass when it is due.
    pub(super) fn prepare(&mut self, step: &Step) {
        if !matches!(step.action, Action::Flood { .. }) {
            return;
        }
        let (answer, prepared) = oneshot::channel();
        let target = self.target(step.action.node());
        let (seed, calendar) = (self.site.seed, self.site.header.calendar);
        let due_ns = calendar.at_ns(self.site.header.genesis_ns, step.at);
        let due_unix_ns = self.site.began_unix_ns.saturating_add(due_ns);
        let own = step.clone();
        let name = format!("prepare the flood on {}", step.action.node());
        self.tasks.spawn(name, async move {
            let made = floods::prepare(own, target, seed, calendar, due_unix_ns).await;
            // Nobody listens any more when the run ended meanwhile; the flood's sockets close with the substrate.
            let _ = answer.send(made);
        });
        self.floods.insert(step.id, Flood::Prepared(prepared));
    }

    /// Lets go of what was prepared for a step; a flood's sockets close with it.
    pub(super) fn drop_prepared(&mut self, step: u32) {
        self.floods.remove(&step);
    }

    /// Carries a step out; what comes of it is reported.
    pub(super) fn carry(&mut self, step: Step) {
        let name = format!("carry out {} on {}", step.entry, step.action.node());
        let report = Reporter {
            loop_: self.loop_.clone(),
        };
        match (&step.action, &step.part) {
            (Action::Flood { .. }, _) => self.flood(name, step, report),
            (Action::EndFlood { .. }, Part::Ends(begun)) => {
                if let Some(Flood::Going(stop)) = self.floods.remove(begun) {
                    // A flood whose task is gone has reported its failure already.
                    let _ = stop.send(step);
                }
            }
            (Action::CapDisk { node, .. } | Action::FillDisk { node, .. }, _) => {
                // Every node that such a step names is held from the start.
                if let Some(disk) = self.disks.get(node).cloned() {
                    let (stop, stopped) = oneshot::channel();
                    self.disk_faults.insert(step.id, stop);
                    let fault = disks::see_through(step, disk, stopped, report);
                    self.tasks.spawn(name, fault);
                }
            }
            (Action::FreeDisk { .. }, Part::Ends(begun)) => {
                if let Some(stop) = self.disk_faults.remove(begun) {
                    let _ = stop.send(step);
                }
            }
            (Action::Limit { node, .. }, _) => {
                let life = self.living.get(node).map(|living| Arc::clone(&living.life));
                let (stop, stopped) = oneshot::channel();
                self.limits.insert(step.id, stop);
                let limit = limits::see_through(step, life, stopped, report);
                self.tasks.spawn(name, limit);
            }
            (Action::Unlimit { node, .. }, Part::Ends(begun)) => {
                // It may be another life of the node by now.
                let life = self.living.get(node).map(|living| Arc::clone(&living.life));
                if let Some(stop) = self.limits.remove(begun) {
                    let _ = stop.send((step, life));
                }
            }
            (Action::SetGateways { .. } | Action::StartPoet { .. }, _) => {
                // A PoET dials its gateways for up to a layer before it answers.
                let layer = Duration::from_nanos(self.site.header.calendar.layer_ns);
                let bound = OPERATOR_BOUND.max(layer.saturating_mul(2));
                let order = self.order(&step.action);
                let operating = steps::operate(step, order, bound, report);
                self.tasks.spawn(name, operating);
            }
            // One of the last three that ends nothing is no action on a process, and is told so.
            (
                Action::Kill { .. }
                | Action::Terminate { .. }
                | Action::Start { .. }
                | Action::Freeze { .. }
                | Action::Thaw { .. }
                | Action::EndFlood { .. }
                | Action::FreeDisk { .. }
                | Action::Unlimit { .. },
                _,
            ) => {
                if let Action::Kill { node } | Action::Terminate { node } = &step.action
                    && let Some(living) = self.living.get_mut(node)
                {
                    living.ended_by = Some(step.id);
                }
                if let Some(target) = self.target(step.action.node()) {
                    let turn = self.turns.entry(target.node.clone()).or_default();
                    let turn = Arc::clone(turn);
                    self.tasks.spawn(name, async move {
                        if matches!(step.action, Action::Freeze { .. } | Action::Thaw { .. }) {
                            let mut frozen = turn.lock().await;
                            steps::carry_in_turn(step, target, report, &mut frozen).await;
                        } else {
                            steps::carry(step, target, report).await;
                        }
                    });
                }
            }
        }
    }

    fn flood(&mut self, name: String, step: Step, report: Reporter) {
        let Some(Flood::Prepared(prepared)) = self.floods.remove(&step.id) else {
            return;
        };
        let Some(vantage) = self.substrate.vantage(step.action.node()) else {
            return;
        };
        let (stop, stopped) = oneshot::channel();
        self.floods.insert(step.id, Flood::Going(stop));
        let due_ns = self.site.monotonic_of(step.at);
        let flood = floods::see_through(step, prepared, vantage, due_ns, stopped, report);
        self.tasks.spawn(name, flood);
    }

    /// Stops every node in the orderly way, removes what is left, and reports that.
    pub(super) fn tear_down(&mut self) {
        self.floods.clear();
        self.disk_faults.clear();
        self.limits.clear();
        // Nobody is asked any more: silence of one that is stopped would mean nothing.
        self.looks.clear();
        let mut looking = std::mem::take(&mut self.looking);
        let mut stopping: Vec<(String, Arc<dyn Life>, Stop)> = Vec::new();
        let stays = self.substrate.outlives_runs();
        for (name, living) in self.living.iter().filter(|_| !stays) {
            if let Some(node) = self.site.nodes.get(name) {
                stopping.push((name.clone(), Arc::clone(&living.life), node.stop));
            }
        }
        let living: Vec<Living> = self.living.values().cloned().collect();
        let turns = std::mem::take(&mut self.turns);
        let mut exits = std::mem::take(&mut self.exits);
        let (substrate, loop_) = (Arc::clone(&self.substrate), self.loop_.clone());
        self.tasks.spawn(TEARDOWN, async move {
            tell_failed(&mut looking, &loop_).await;
            let dead = join_all(living.iter().map(|living| still_dead(living, &loop_)));
            let frozen = join_all(turns.values().map(|turn| still_frozen(turn, &loop_)));
            tokio::join!(dead, frozen);
            let mut all = Tasks::default();
            for (name, life, stop) in stopping {
                let loop_ = loop_.clone();
                all.spawn(format!("stop {name}"), async move {
                    stop_in_order(life.as_ref(), stop, &name, &loop_).await;
                });
            }
            tell_failed(&mut all, &loop_).await;
            // Every exit is told before the end is, except for those of lives that not even a kill ends.
            if stays {
                // Nobody waits for deaths that do not come.
                exits = Tasks::default();
            }
            let told = tell_failed(&mut exits, &loop_);
            let _ = tokio::time::timeout(EXITS_BOUND, told).await;
            let left = substrate.tear_down().await;
            let _ = loop_.send(Happened::Told(Event::TornDown { left })).await;
        });
    }

    /// Waits until a task dies, which none should: what it would have told will never be told. May be dropped at any time.
    pub(super) async fn failed(&mut self) -> Event {
        let failed = tokio::select! {
            failed = self.tasks.failed() => failed,
            failed = self.looking.failed() => failed,
            failed = self.exits.failed() => failed,
        };
        let why = failed.to_string();
        if failed.task == TEARDOWN {
            Event::TeardownFailed { why }
        } else {
            Event::TaskFailed { why }
        }
    }

    /// What a task told, as an event for the state machine; bookkeeping of lives happens on the way.
    pub(super) fn take(&mut self, happened: Happened) -> Event {
        match happened {
            Happened::Started {
                node,
                incarnation,
                ready_by_ns,
                life,
                pipes,
            } => {
                let pid = life.pid().unwrap_or_default();
                match self.attach(&node, incarnation, ready_by_ns, life, pipes) {
                    Ok(()) => Event::Spawned { node, pid },
                    Err(why) => Event::SpawnFailed { node, why },
                }
            }
            Happened::Ready { node, incarnation } => {
                self.wish(&node, true);
                Event::Ready { node, incarnation }
            }
            Happened::Exited {
                node,
                incarnation,
                status,
                tail,
            } => {
                self.wish(&node, false);
                let living = self.living.get(&node);
                let forced = living.is_some_and(|living| living.forced);
                Event::Exited {
                    node,
                    incarnation,
                    status,
                    forced,
                    tail,
                }
            }
            Happened::Forced { node } => {
                if let Some(living) = self.living.get_mut(&node) {
                    living.forced = true;
                }
                Event::Tick
            }
            Happened::Told(event) => event,
        }
    }

    /// Whether a node shall be looked at: before it is ready and after its death, silence would mean nothing.
    fn wish(&self, node: &str, looked_at: bool) {
        if let Some(wish) = self.looks.get(node) {
            wish.send_replace(looked_at);
        }
    }

    /// Ends every task; their sockets and pipes close with them.
    pub(super) async fn close(mut self) {
        self.floods.clear();
        self.looking.shutdown().await;
        self.tasks.shutdown().await;
        self.exits.shutdown().await;
    }

    /// What an operator would ask of a PoET, and where from.
    fn order(&self, action: &Action) -> Result<(Order, Arc<dyn Vantage>), String> {
        let (act, gateways) = match action {
            Action::SetGateways { gateways, .. } => (Act::SetGateways, gateways),
            Action::StartPoet { gateways, .. } => (Act::Start, gateways),
            _ => return Err("this action is not an operator's".to_owned()),
        };
        let api = |node: &str| {
            let api = self.site.nodes.get(node).and_then(|node| node.api);
            api.ok_or_else(|| format!("{node} has no port `api`"))
        };
        let gateways = gateways.iter().map(|gateway| api(gateway));
        let order = Order {
            act,
            poet: api(action.node())?,
            gateways: gateways.collect::<Result<_, _>>()?,
        };
        let vantage = self.substrate.vantage(action.node());
        Ok((order, vantage.ok_or("no such node")?))
    }

    fn target(&self, node: &str) -> Option<Target> {
        let place = self.site.nodes.get(node)?;
        Some(Target {
            node: node.to_owned(),
            life: self.living.get(node).map(|living| Arc::clone(&living.life)),
            stop: place.stop,
            session: place.session.clone(),
            vantage: self.substrate.vantage(node)?,
            netid: self.site.netid,
        })
    }
}

/// Tells if a node that a step has killed was started by somebody else.
async fn still_dead(living: &Living, loop_: &mpsc::Sender<Happened>) {
    if let Some(begun) = living.ended_by {
        let loop_ = loop_.clone();
        steps::still_dead(begun, living.life.as_ref(), &Reporter { loop_ }).await;
    }
}

/// Tells if a node that a step has frozen, and none has thawed, was at work meanwhile. Where it is somebody's turn, that
/// looks itself, and a teardown does not wait for it.
async fn still_frozen(turn: &tokio::sync::Mutex<Option<Frozen>>, loop_: &mpsc::Sender<Happened>) {
    let frozen = turn.try_lock().ok().and_then(|mut frozen| frozen.take());
    if let Some(frozen) = frozen {
        let loop_ = loop_.clone();
        steps::still_frozen(frozen.begun, frozen.life.as_ref(), &Reporter { loop_ }).await;
    }
}

/// Waits until all of these have ended, and tells of those that died.
async fn tell_failed(tasks: &mut Tasks, loop_: &mpsc::Sender<Happened>) {
    while let Some(ended) = tasks.next().await {
        if let Err(failed) = ended {
            let why = failed.to_string();
            let _ = loop_.send(Happened::Told(Event::TaskFailed { why })).await;
        }
    }
}

/// Asks a node to stop, frozen or not, and kills it after its grace.
async fn stop_in_order(life: &dyn Life, stop: Stop, node: &str, loop_: &mpsc::Sender<Happened>) {
    if life.try_died().is_some() {
        return;
    }
    let grace = Duration::from_nanos(stop.grace_ns);
    match life.terminate(stop.signal, grace).await {
        Ok(stopped) if stopped.forced => {
            let node = node.to_owned();
            let _ = loop_.send(Happened::Forced { node }).await;
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(node, %error, "cannot be stopped; teardown looks again"),
    }
}
