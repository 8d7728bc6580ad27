//! A hundred nodes: how soon they are ready, and what watching them costs the controller.
//!
//! Both go through the controller's own event loop; its records say what happened when, and the run is left as soon as
//! they have said enough.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tweedledum_core::history::{Body, NodeState, Record};
use tweedledum_core::plan::model::Release;
use tweedledum_core::plan::{Catalogue, Plan, parse};
use tweedledum_core::time::Calendar;
use tweedledum_harness::controller::{self, Job};
use tweedledum_harness::store::RunDirectory;
use tweedledum_harness::substrate::Executables;
use tweedledum_harness::substrate::process::identity::{own_pid, read_stat};
use tweedledum_harness::undo::IntentLog;

use crate::dialect::UdpSession2020;
use crate::kill::megabytes;
use crate::stage::Stage;
use crate::table::{REPEATS, Row, best};
use crate::{Failure, TWEEDLEDUM};

/// Network id of the nodes; any would do.
pub(crate) const NETID: u32 = 116;
/// The bundled release that is started.
pub(crate) const RELEASE: &str = "fixed";
const NODES: usize = 100;
/// Layers over which the controller's CPU time is taken.
const LAYERS: i64 = 4;
/// A run that has not shown what is waited for by then never will.
const TIMEOUT: Duration = Duration::from_mins(3);

/// The release under test, as nodes of the real executable.
pub(crate) fn fixed() -> Release {
    Release {
        name: RELEASE.to_owned(),
        base: Some(RELEASE.to_owned()),
        without: BTreeSet::new(),
        bin: Some(TWEEDLEDUM.to_owned()),
    }
}

/// A plan without faults.
pub(crate) fn plan(nodes: &str, layer: &str, advance: &str, roles: &str) -> Result<Plan, Failure> {
    let text = format!(
        "format: 1\nplan: bench\nnetwork: {{ layer: {layer}, layers-per-epoch: 2, {nodes} }}\n{roles}\
        expect:\n  - {{ advance: {advance} }}\n"
    );
    let catalogue = Catalogue {
        roles: tweedledum_nodes::ROLES.to_owned(),
        releases: vec![fixed()],
        switches: Vec::new(),
    };
    parse(text.as_bytes(), &catalogue).map_err(|wrong| format!("{text}\n{wrong:?}").into())
}

/// A hundred nodes of the bundled network.
pub(crate) fn nodes(layer: &str) -> Result<Plan, Failure> {
    plan(
        "nodes: { miner: 90, gateway: 10 }",
        layer,
        "{ signal: tx, of: every miner, within: 3 layers }",
        "",
    )
}

/// A hundred processes that only say that they are up: what the harness alone needs.
pub(crate) fn stubs() -> Result<Plan, Failure> {
    let own = serde_json::to_string(&std::env::current_exe()?)?;
    let roles = format!(
        "roles:\n  stub: {{ command: [{own}, idle, \"0\"], ready: {{ log: up }}, \
        signals: {{ up: {{ log: up, value: /n, period: 1 layer }} }} }}\n"
    );
    plan(
        "nodes: { stub: 100 }",
        "250ms",
        "{ signal: up, of: every stub, within: 2 layers }",
        &roles,
    )
}

/// From the command to spawn to the last node that is ready.
///
/// The run's first record is made at that command. A node's `starting` record would be too late: it is written when the
/// event loop hears of the process, and by then all hundred of them may exist.
pub(crate) async fn start(stage: &mut Stage, plan: &Plan, what: &str) -> Result<(), Failure> {
    let mut times = Vec::new();
    for _ in 0..REPEATS {
        let mut began_ns = None;
        let mut ready = BTreeSet::new();
        let mut took = Duration::ZERO;
        let mut saw = |record: &Record| {
            let began_ns = *began_ns.get_or_insert(record.t_ns);
            if let Body::Node(change) = &record.body
                && change.state == NodeState::Ready
            {
                ready.insert(change.node.clone());
                took = Duration::from_nanos(record.t_ns.saturating_sub(began_ns));
            }
            ready.len() == NODES
        };
        run_until(stage, plan, &mut saw).await?;
        times.push(took);
    }
    best(what, "<= 3 s", Some(Duration::from_secs(3)), &times)?.print()
}

/// CPU and memory of the controller while a hundred nodes run.
pub(crate) async fn load(stage: &mut Stage, plan: &Plan) -> Result<(), Failure> {
    let mut began = None;
    let mut used = Duration::ZERO;
    let mut resident = 0;
    let mut saw = |record: &Record| {
        let Body::Layer(ended) = &record.body else {
            return false;
        };
        let (first, before) = *began.get_or_insert((ended.layer, cpu_time()));
        used = cpu_time().saturating_sub(before);
        resident = resident.max(read_stat(own_pid()).map_or(0, |stat| stat.rss_bytes()));
        ended.layer - first == LAYERS
    };
    run_until(stage, plan, &mut saw).await?;
    let Calendar { layer_ns, .. } = plan.calendar;
    let span = Duration::from_nanos(layer_ns) * u32::try_from(LAYERS)?;
    let share = used.as_secs_f64() / span.as_secs_f64() * 100.0;
    Row {
        what: "controller, 100 nodes, 7.5 s layers: CPU",
        limit: "<= 5 % of a core",
        measured: format!("{share:.2} %"),
        within: Some(share <= 5.0),
        note: format!("over {LAYERS} layers"),
    }
    .print()?;
    Row {
        what: "controller, 100 nodes, 7.5 s layers: RSS",
        limit: "<= 64 MB",
        measured: megabytes(resident),
        within: Some(resident <= 64_000_000),
        note: "at the ends of layers".to_owned(),
    }
    .print()
}

/// CPU time of this process: user and system.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Runs the plan until `enough` says of a record that it was the last one needed; then kills everything.
async fn run_until(
    stage: &mut Stage,
    plan: &Plan,
    enough: &mut dyn FnMut(&Record) -> bool,
) -> Result<(), Failure> {
    let context = stage.host.context.clone();
    let mut intents = IntentLog::open(&context.intents)?;
    let directory =
        RunDirectory::create(&context.runs, &plan.name, 0, &context.nonce, &mut intents)?;
    let release = fixed();
    let job = Job {
        plan,
        release: &release,
        control: None,
        seed: 0,
        netid: NETID,
        base: directory.path().to_owned(),
        dialects: &[Arc::new(UdpSession2020)],
        timeout: TIMEOUT,
        ground: &stage.ground,
        executables: Executables::default(),
    };
    let own = directory.release(RELEASE)?;
    let (tell, mut told) = watch::channel(false);
    let mut last = String::new();
    let mut on_record = |record: &Record| {
        if enough(record) {
            tell.send_replace(true);
        }
        last = format!("{:?}", record.body);
    };
    let ended = tokio::select! {
        biased;
        Ok(_) = told.wait_for(|enough| *enough) => None,
        ended = controller::run(&mut stage.host, &job, &own, &mut on_record) => Some(ended),
    };
    stage.clear().await?;
    match ended {
        None => Ok(()),
        Some(Err(error)) => Err(error.into()),
        Some(Ok(_)) => Err(format!("the run ended before it was measured: {last}").into()),
    }
}
