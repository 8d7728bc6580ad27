//! Everything concurrent of a run: processes that live, observers that look, floods that go on.
//!
//! Its tasks report into one channel; [`Watch::take`] turns what they say into events for the state machine. To watch
//! something new, spawn its observer in [`Watch::attach`] and map what it sees in [`seen`].

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tweedledum_core::history::{ExitStatus, LayerRecord};
use tweedledum_core::launch::{self, Launch, Program as Asked};
use tweedledum_core::plan::model::{Ready, Source};
use tweedledum_core::run::{self, Event};
use tweedledum_core::schedule::{Action, Step};

use super::RunError;
use super::disks::{self, Disks};
use super::happened::Happened;
use super::network::Site;
use super::steps::{self, Reporter, Target};
use crate::agent::flood::PreparedFlood;
use crate::agent::operator::{Act, Order};
use crate::clock::{instant_at, monotonic_ns};
use crate::observe::lateness::LayerTicker;
use crate::observe::logs::{LogHub, LogLimits, LogSpec, NodeLogs};
use crate::observe::ping::{PingFrom, PingTarget, PingWatch, Pinger};
use crate::observe::poll::{Extract, Poller, SignalPoll, http_client};
use crate::observe::procfs::HostLoad;
use crate::observe::prometheus::MetricName;
use crate::observe::ready::{self, ExecEnd, ExecFn};
use crate::observe::{NodeName, Observation};
use crate::substrate::process::{
    ExitKind, NodePipes, NodeProcess, NodeSignal, NodeSpec, Program, Spawner, StoppedBy,
};

/// How long the output of a dead node is read on: its pipes close with it, unless a child of it still holds them.
const DRAIN_BOUND: Duration = Duration::from_millis(500);

/// The least time that a PoET gets for an operator's order, whatever the layer: dialling and a state on disk come first.
const OPERATOR_BOUND: Duration = Duration::from_secs(2);

/// Often enough that a change is seen within its layer, seldom enough that 100 nodes cost little.
const POLLS_PER_LAYER: u32 = 4;

/// Lines of a dead node's output that are kept in the history; its log files have more.
const TAIL_LINES: usize = 20;

/// A node whose process exists.
#[derive(Debug)]
struct Living {
    process: NodeProcess,
    forced: bool,
    /// What looks at it once it is ready; dropping it ends the looking.
    observers: Option<(Poller, Option<PingWatch>)>,
}

/// A flood between its intent and its end.
#[derive(Debug)]
enum Flood {
    /// Ready to go.
    Prepared(oneshot::Receiver<Result<PreparedFlood, String>>),
    /// Going, or holding its ports open, until this is used.
    Going(oneshot::Sender<Step>),
}

/// Everything concurrent of a run.
#[derive(Debug)]
pub(super) struct Watch {
    site: Site,
    spawner: Spawner,
    loop_: mpsc::Sender<Happened>,
    living: BTreeMap<String, Living>,
    floods: BTreeMap<u32, Flood>,
    disks: Disks,
    /// Faults that are on disks, by their step, until the step that ends them is sent here.
    disk_faults: BTreeMap<u32, oneshot::Sender<Step>>,
    logs: LogHub,
    client: reqwest::Client,
    /// One socket of the agent per protocol, so that pings take one session of each node.
    pingers: BTreeMap<&'static str, Pinger>,
    saw: mpsc::Sender<Observation>,
    tasks: JoinSet<()>,
    /// One task per living process, which ends once its death is told.
    exits: JoinSet<()>,
    tearing_down: bool,
}

impl Watch {
    /// A watch over a network that is about to be started.
    pub(super) async fn new(
        site: Site,
        spawner: Spawner,
        loop_: mpsc::Sender<Happened>,
        saw: mpsc::Sender<Observation>,
    ) -> Result<Self, RunError> {
        let mut wanted = BTreeSet::from(["panic".to_owned()]);
        let mut pingers = BTreeMap::new();
        for node in site.nodes.values() {
            for source in node.launch.signals.values() {
                if let Source::Log { event, .. } = source {
                    wanted.insert(event.clone());
                }
            }
            wanted.extend(node.launch.events.iter().cloned());
            if let Some(session) = &node.session
                && !pingers.contains_key(session.dialect.name())
            {
                let from = PingFrom {
                    ip: site.agent,
                    identity: launch::identity(site.seed, "the agent"),
                    netid: site.netid,
                };
                pingers.insert(
                    session.dialect.name(),
                    Pinger::bind(Arc::clone(&session.dialect), from).await?,
                );
            }
        }
        let mut tasks = JoinSet::new();
        let genesis_ns = site.began_ns.saturating_add(site.header.genesis_ns);
        let layer = Duration::from_nanos(site.header.calendar.layer_ns);
        tasks.spawn(tell_layers(
            LayerTicker::new(genesis_ns, layer)?,
            layer,
            loop_.clone(),
        ));
        let disks = Disks::hold(&site).await?;
        for (node, disk) in disks.iter() {
            let (spawner, loop_) = (spawner.clone(), loop_.clone());
            tasks.spawn(disks::watch(node.clone(), disk.clone(), spawner, loop_));
        }
        Ok(Self {
            disks,
            disk_faults: BTreeMap::new(),
            logs: LogHub::new(wanted, LogLimits::default(), saw.clone()),
            client: http_client(Some(site.agent))?,
            pingers,
            saw,
            site,
            spawner,
            loop_,
            living: BTreeMap::new(),
            floods: BTreeMap::new(),
            tasks,
            exits: JoinSet::new(),
            tearing_down: false,
        })
    }

    /// Starts a node; what is left of its former life is removed first.
    pub(super) fn spawn(&mut self, node: &str, incarnation: u32, ready_by_ns: u64) {
        let Some(place) = self.site.nodes.get(node) else {
            return;
        };
        let launch = &place.launch;
        let spec = NodeSpec {
            name: node.to_owned(),
            program: match &launch.program {
                Asked::Own => Program::Own,
                Asked::Path(path) => Program::Path(self.site.base.join(path)),
            },
            args: launch.args.iter().map(OsString::from).collect(),
            env: launch
                .env
                .iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
            cwd: place.directory.data(),
            disk: self.disks.account(node),
        };
        let former = self.living.remove(node).map(|living| living.process);
        let (spawner, loop_, node) = (self.spawner.clone(), self.loop_.clone(), node.to_owned());
        self.tasks.spawn(async move {
            if let Some(former) = former
                && let Err(error) = spawner.retire(&[&former]).await
            {
                tracing::warn!(node, %error, "a former life is not retired");
            }
            let happened = match spawner.start(&spec).await {
                Ok((process, pipes)) => Happened::Started {
                    node,
                    incarnation,
                    ready_by_ns,
                    process,
                    pipes,
                },
                Err(error) => Happened::NotStarted { node, error },
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
        self.tasks.spawn_blocking(move || {
            let made = target
                .ok_or_else(|| "no such node".to_owned())
                .and_then(|target| {
                    steps::prepare_flood(&own, &target, seed, calendar, due_unix_ns)
                });
            // Nobody listens any more when the run ended meanwhile; dropping the flood closes its sockets.
            let _ = answer.send(made);
        });
        self.floods.insert(step.id, Flood::Prepared(prepared));
    }

    /// Carries a step out; what comes of it is reported.
    pub(super) fn carry(&mut self, step: Step) {
        let report = Reporter {
            loop_: self.loop_.clone(),
        };
        match (&step.action, &step.part) {
            (Action::Flood { .. }, _) => self.flood(step, report),
            (Action::EndFlood { .. }, tweedledum_core::schedule::Part::Ends(begun)) => {
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
                    let spawner = self.spawner.clone();
                    self.tasks
                        .spawn(disks::see_through(step, disk, spawner, stopped, report));
                }
            }
            (Action::FreeDisk { .. }, tweedledum_core::schedule::Part::Ends(begun)) => {
                if let Some(stop) = self.disk_faults.remove(begun) {
                    let _ = stop.send(step);
                }
            }
            (Action::SetGateways { .. } | Action::StartPoet { .. }, _) => {
                // A PoET dials its gateways for up to a layer before it answers.
                let layer = Duration::from_nanos(self.site.header.calendar.layer_ns);
                let bound = OPERATOR_BOUND.max(layer.saturating_mul(2));
                let order = self.order(&step.action);
                let client = self.client.clone();
                self.tasks
                    .spawn(steps::operate(step, order, client, bound, report));
            }
            _ => {
                if let Some(target) = self.target(step.action.node()) {
                    self.tasks.spawn(steps::carry(step, target, report));
                }
            }
        }
    }

    fn flood(&mut self, step: Step, report: Reporter) {
        let Some(Flood::Prepared(prepared)) = self.floods.remove(&step.id) else {
            return;
        };
        let (stop, stopped) = oneshot::channel();
        self.floods.insert(step.id, Flood::Going(stop));
        let due_ns = self.site.monotonic_of(step.at);
        self.tasks.spawn(async move {
            let going = match prepared.await {
                Ok(Ok(prepared)) => prepared
                    .start(instant_at(due_ns))
                    .map_err(|error| error.to_string()),
                Ok(Err(why)) => Err(why),
                Err(_) => Err("preparing it was cut short".to_owned()),
            };
            match going {
                Ok(flood) => steps::see_flood_through(step, flood, stopped, report).await,
                Err(why) => steps::not_carried(&step, why, stopped, &report).await,
            }
        });
    }

    /// Stops every node in the orderly way, removes what is left, and reports that.
    pub(super) fn tear_down(&mut self, bound: Duration) {
        self.floods.clear();
        self.disk_faults.clear();
        for living in self.living.values_mut() {
            living.observers = None;
        }
        let mut stopping = JoinSet::new();
        for (name, living) in &self.living {
            let (process, loop_, name) = (living.process.clone(), self.loop_.clone(), name.clone());
            let grace = self.site.nodes.get(&name).map_or(Duration::ZERO, |node| {
                Duration::from_nanos(node.stop.grace_ns)
            });
            stopping.spawn(async move { stop_in_order(&process, grace, &name, &loop_).await });
        }
        let mut exits = std::mem::take(&mut self.exits);
        self.tearing_down = true;
        let (spawner, loop_) = (self.spawner.clone(), self.loop_.clone());
        self.tasks.spawn(async move {
            while stopping.join_next().await.is_some() {}
            // Every exit is told before the end is.
            while exits.join_next().await.is_some() {}
            let left = tokio::task::spawn_blocking(move || spawner.teardown(bound)).await;
            let left = match left {
                Ok(report) => report
                    .left
                    .iter()
                    .map(|left| format!("process {} ({}): {}", left.pid, left.comm, left.why))
                    .collect(),
                Err(error) => vec![format!("teardown itself failed: {error}")],
            };
            let _ = loop_.send(Happened::TornDown { left }).await;
        });
    }

    /// What a task told, as an event for the state machine; bookkeeping of processes happens on the way.
    pub(super) fn take(&mut self, happened: Happened) -> Event {
        match happened {
            Happened::Started {
                node,
                incarnation,
                ready_by_ns,
                process,
                pipes,
            } => {
                let pid = u32::try_from(process.pid()).unwrap_or_default();
                match self.attach(&node, incarnation, ready_by_ns, process, pipes) {
                    Ok(()) => Event::Spawned { node, pid },
                    Err(why) => Event::SpawnFailed { node, why },
                }
            }
            Happened::NotStarted { node, error } => Event::SpawnFailed {
                node,
                why: error.to_string(),
            },
            Happened::Ready { node, incarnation } => {
                self.observe(&node);
                Event::Ready { node, incarnation }
            }
            Happened::NotReady {
                node,
                incarnation,
                last_seen,
            } => Event::NotReady {
                node,
                incarnation,
                last_seen,
            },
            Happened::Exited {
                node,
                incarnation,
                status,
                tail,
            } => {
                let forced = self.living.get_mut(&node).is_some_and(|living| {
                    living.observers = None;
                    living.forced
                });
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
            Happened::LayerEnded(layer) => Event::LayerEnded(layer),
            Happened::Carried { step, result } => Event::Carried { step, result },
            Happened::Proved {
                step,
                grade,
                held,
                detail,
            } => Event::Proved {
                step,
                grade,
                held,
                detail,
            },
            Happened::Limited {
                node,
                grade,
                held,
                detail,
            } => Event::Limited {
                node,
                grade,
                held,
                detail,
            },
            Happened::SubstrateFailed { why } => Event::SubstrateFailed { why },
            Happened::TornDown { left } => Event::TornDown { left },
        }
    }

    /// Ends every task; their sockets and pipes close with them.
    pub(super) async fn close(mut self) {
        self.floods.clear();
        self.tasks.shutdown().await;
        self.exits.shutdown().await;
    }

    /// Begins to watch a process: its output, its death, its readiness.
    fn attach(
        &mut self,
        node: &str,
        incarnation: u32,
        ready_by_ns: u64,
        process: NodeProcess,
        pipes: NodePipes,
    ) -> Result<(), String> {
        let Some(place) = self.site.nodes.get(node) else {
            return Err("no such node".to_owned());
        };
        let ready_line = match &place.launch.ready {
            Ready::Log(pattern) => {
                Some(regex::Regex::new(pattern).map_err(|error| error.to_string())?)
            }
            _ => None,
        };
        let spec = LogSpec {
            node: Arc::from(node),
            dir: place.directory.path().to_owned(),
            stdout: pipes.stdout,
            stderr: pipes.stderr,
            ready_line,
        };
        let logs = self.logs.attach(spec).map_err(|error| error.to_string())?;
        let check = self.readiness(&place.launch.ready, &logs)?;
        let (bound, own) = self.ready_bound(ready_by_ns, incarnation, &place.launch);
        self.watch_exit(node, incarnation, &process, &logs);
        let (loop_, dead, name) = (self.loop_.clone(), process.clone(), NodeName::from(node));
        self.tasks.spawn(async move {
            let happened = tokio::select! {
                // A process that is dead will never be ready; its death is told elsewhere.
                _ = dead.exited() => return,
                outcome = ready::until_ready(&name, check, bound) => match outcome {
                    Ok(_) => Happened::Ready { node: name.to_string(), incarnation },
                    Err(error) => Happened::NotReady { node: name.to_string(), incarnation, last_seen: format!("{error}{own}") },
                },
            };
            let _ = loop_.send(happened).await;
        });
        self.living.insert(
            node.to_owned(),
            Living {
                process,
                forced: false,
                observers: None,
            },
        );
        Ok(())
    }

    /// How long a node has to become ready from now on, and what to say when that ran out. At the start of a run it has
    /// what its role declares after everybody may have been started; later it has at least what its role declares.
    fn ready_bound(
        &self,
        ready_by_ns: u64,
        incarnation: u32,
        launch: &Launch,
    ) -> (Duration, String) {
        let now_ns = monotonic_ns().saturating_sub(self.site.began_ns);
        let within = launch.ready_within_ns;
        let bound = if incarnation == 0 {
            let nodes = self.site.nodes.len();
            ready_by_ns.min(run::spawn_budget_ns(nodes).saturating_add(within))
        } else {
            ready_by_ns.max(now_ns.saturating_add(within))
        };
        let bound = Duration::from_nanos(bound.saturating_sub(now_ns));
        let own = Duration::from_nanos(within);
        (
            bound,
            format!("; its role says `ready: {{ within: {own:?} }}`, more may help a slow starter"),
        )
    }

    fn readiness(&self, ready: &Ready, logs: &NodeLogs) -> Result<ready::Ready, String> {
        Ok(match ready {
            Ready::Http { url, status } => ready::Ready::Http {
                client: self.client.clone(),
                url: url.clone(),
                status: *status,
            },
            Ready::Tcp(address) => ready::Ready::Tcp(
                address
                    .parse()
                    .map_err(|error| format!("ready.tcp: `{address}` is no address: {error}"))?,
            ),
            Ready::Log(pattern) => ready::Ready::Log {
                pattern: pattern.clone(),
                line: logs.ready_line(),
            },
            Ready::Exec(argv) => ready::Ready::Exec {
                argv: argv.clone(),
                run: self.probe(),
            },
        })
    }

    /// Runs readiness commands as nodes are run: held by the guards, with nothing of our environment.
    fn probe(&self) -> ExecFn {
        let (spawner, base) = (self.spawner.clone(), self.site.base.clone());
        let number = Arc::new(std::sync::atomic::AtomicU64::new(0));
        ExecFn(Arc::new(move |argv, bound| {
            let (spawner, base) = (spawner.clone(), base.clone());
            let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Box::pin(async move {
                let (program, args) = argv.split_first().ok_or("an empty command")?;
                let spec = NodeSpec {
                    name: format!("ready-check-{number}"),
                    program: Program::Path(base.join(program)),
                    args: args.iter().map(OsString::from).collect(),
                    env: BTreeMap::new(),
                    cwd: base,
                    disk: None,
                };
                let finished = spawner
                    .run(&spec, bound)
                    .await
                    .map_err(|error| error.to_string())?;
                let code = match finished.exit.kind {
                    ExitKind::Code(code) => Some(code),
                    ExitKind::Signal(_) | ExitKind::Lost => None,
                };
                let output = [finished.stdout, finished.stderr].concat();
                Ok(ExecEnd {
                    code,
                    output: String::from_utf8_lossy(&output).into_owned(),
                })
            })
        }))
    }

    /// Begins to poll and ping a node that is ready: before that, silence would mean nothing.
    fn observe(&mut self, node: &str) {
        let (Some(place), Some(living)) = (self.site.nodes.get(node), self.living.get_mut(node))
        else {
            return;
        };
        if self.tearing_down {
            return;
        }
        let layer = Duration::from_nanos(self.site.header.calendar.layer_ns);
        let name = NodeName::from(node);
        let polls = place.launch.signals.iter().filter_map(|(signal, source)| {
            let (url, read) = match source {
                Source::Json { url, pointer } => (url, Extract::Json(pointer.clone())),
                Source::Metric { url, name } => (url, Extract::Metric(MetricName::parse(name)?)),
                Source::Log { .. } => return None,
            };
            Some(SignalPoll {
                node: NodeName::clone(&name),
                signal: Arc::from(signal.as_str()),
                url: Arc::from(url.as_str()),
                read,
                period: layer / POLLS_PER_LAYER,
            })
        });
        let poller = Poller::start(&self.client, polls.collect(), &self.saw);
        let pings = place.session.as_ref().and_then(|session| {
            let target = PingTarget {
                node: name.clone(),
                address: session.address,
                key: session.key,
            };
            Some(self.pingers.get(session.dialect.name())?.watch(
                vec![target],
                layer,
                layer,
                &self.saw,
            ))
        });
        living.observers = Some((poller, pings));
    }

    fn watch_exit(&mut self, node: &str, incarnation: u32, process: &NodeProcess, logs: &NodeLogs) {
        let (process, mut logs) = (process.clone(), logs.clone());
        let (loop_, node) = (self.loop_.clone(), node.to_owned());
        self.exits.spawn(async move {
            let exit = process.exited().await;
            // Its last words come before its death: a panic is told in them.
            if let Err(open) = logs.drained(DRAIN_BOUND).await {
                tracing::debug!(node, ?open, "somebody else holds its output");
            }
            let [stdout, stderr] = logs.tails();
            let mut tail: Vec<String> = stdout.into_iter().chain(stderr).collect();
            tail.drain(..tail.len().saturating_sub(TAIL_LINES));
            let status = match exit.kind {
                ExitKind::Code(code) => ExitStatus::Code(code),
                ExitKind::Signal(signal) => ExitStatus::Signal(signal),
                ExitKind::Lost => ExitStatus::Lost,
            };
            let _ = loop_
                .send(Happened::Exited {
                    node,
                    incarnation,
                    status,
                    tail,
                })
                .await;
        });
    }

    /// What an operator would ask of a PoET.
    fn order(&self, action: &Action) -> Result<Order, String> {
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
        Ok(Order {
            act,
            poet: api(action.node())?,
            gateways: gateways.collect::<Result<_, _>>()?,
        })
    }

    fn target(&self, node: &str) -> Option<Target> {
        let place = self.site.nodes.get(node)?;
        Some(Target {
            process: self.living.get(node).map(|living| living.process.clone()),
            stop: place.stop,
            address: place.address,
            session: place.session.clone(),
            agent: self.site.agent,
            netid: self.site.netid,
            identity: launch::identity(self.site.seed, "the prober"),
        })
    }
}

/// Tells the end of every layer from genesis on, and how fit the host was during it.
async fn tell_layers(mut ticker: LayerTicker, layer: Duration, loop_: mpsc::Sender<Happened>) {
    let mut before = HostLoad::read();
    loop {
        let tick = match ticker.tick().await {
            Ok(tick) => tick,
            Err(error) => {
                tracing::error!(%error, "layers are not told any more");
                return;
            }
        };
        let now = HostLoad::read();
        // Tick n is the start of layer n, and so the end of the one before it.
        if let Some(ended) = tick.layer.checked_sub(1) {
            let record = LayerRecord {
                layer: i64::try_from(ended).unwrap_or(i64::MAX),
                late_us: tick.late_us,
                steal_ppm: ppm(now.steal_since(&before)).unwrap_or(0),
                cpu_pressure_ppm: ppm(now.pressure_since(&before, layer)),
                wall_step_us: Some(tick.wall_step_us),
            };
            if loop_.send(Happened::LayerEnded(record)).await.is_err() {
                return;
            }
        }
        before = now;
    }
}

/// A share from 0 to 1 in parts per million.
fn ppm(share: Option<f64>) -> Option<u64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share is clamped to 0 to 1"
    )]
    share.map(|share| (share.clamp(0.0, 1.0) * 1e6) as u64)
}

/// Asks a node to stop, frozen or not, and kills it after its grace.
async fn stop_in_order(
    process: &NodeProcess,
    grace: Duration,
    node: &str,
    loop_: &mpsc::Sender<Happened>,
) {
    if process.try_exit().is_some() {
        return;
    }
    // A frozen process takes its signal only once it may go on.
    let thawed = process.signal(NodeSignal::Cont);
    match process.terminate(grace).await {
        Ok(stopped) if stopped.by == StoppedBy::Kill => {
            let _ = loop_
                .send(Happened::Forced {
                    node: node.to_owned(),
                })
                .await;
        }
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(node, %error, ?thawed, "cannot be stopped; teardown looks again");
        }
    }
}
