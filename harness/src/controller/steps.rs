//! Carrying steps out on the process substrate, each with evidence from a probe that does not depend on how the target behaves.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tweedledum_core::history::Grade;
use tweedledum_core::oracles::LATE_PART;
use tweedledum_core::plan::model::Stop;
use tweedledum_core::random;
use tweedledum_core::schedule::{Action, Datagrams, Part, Step};
use tweedledum_core::time::Calendar;

use super::happened::Happened;
use super::network::Session;
use crate::agent::DatagramKind;
use crate::agent::evidence::FloodEvidence;
use crate::agent::flood::{FloodHandle, FloodReport, FloodSpec, PreparedFlood};
use crate::agent::operator::Order;
use crate::clock::monotonic_ns;
use crate::observe::NodeName;
use crate::observe::ping::{PingFrom, PingTarget, Pinger};
use crate::substrate::process::family::at_work;
use crate::substrate::process::{ExitKind, NodeProcess, NodeSignal, StoppedBy};

/// A stopped process shows it within a scheduler tick; under load SIGSTOP was measured to take 36 ms.
const STATE_BOUND: Duration = Duration::from_secs(2);

/// How long a frozen node is listened to before its silence counts, and a thawed one until it must answer.
const SILENCE: Duration = Duration::from_millis(100);
const ANSWER_BOUND: Duration = Duration::from_secs(5);

/// What was measured, for the record.
pub(super) type Detail = BTreeMap<String, Value>;

/// One target of a step.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Its process, while it has one.
    pub(super) process: Option<NodeProcess>,
    /// How it is asked to stop.
    pub(super) stop: Stop,
    /// Its own address.
    pub(super) address: Option<Ipv4Addr>,
    /// Its UDP side.
    pub(super) session: Option<Session>,
    /// The agent's address, which probes come from.
    pub(super) agent: IpAddr,
    /// The network id.
    pub(super) netid: u32,
    /// The identity that probes are sent by.
    pub(super) identity: [u8; 32],
}

/// Reports a step's progress to the loop.
#[derive(Debug, Clone)]
pub(super) struct Reporter {
    /// The loop.
    pub(super) loop_: mpsc::Sender<Happened>,
}

impl Reporter {
    pub(super) async fn carried(&self, step: &Step, result: Result<(), String>) {
        // The loop ends only after its tasks, so there is always a receiver; at the very end nobody needs the message.
        let _ = self
            .loop_
            .send(Happened::Carried {
                step: step.id,
                result,
            })
            .await;
    }

    pub(super) async fn proved(&self, begun: u32, grade: Grade, held: bool, detail: Detail) {
        let _ = self
            .loop_
            .send(Happened::Proved {
                step: begun,
                grade,
                held,
                detail,
            })
            .await;
    }
}

/// Carries out a step on a process. Floods are apart, since they outlive their step.
pub(super) async fn carry(step: Step, target: Target, report: Reporter) {
    let Some(process) = target.process.clone() else {
        report
            .carried(&step, Err(format!("{} has no process", step.action.node())))
            .await;
        return;
    };
    match step.action {
        Action::Kill { .. } => kill(&step, &process, &report).await,
        Action::Terminate { .. } => terminate(&step, &process, target.stop, &report).await,
        Action::Freeze { .. } => freeze(&step, &process, &target, &report).await,
        Action::Thaw { .. } => thaw(&step, &process, &target, &report).await,
        Action::Start { .. }
        | Action::Flood { .. }
        | Action::EndFlood { .. }
        | Action::CapDisk { .. }
        | Action::FillDisk { .. }
        | Action::FreeDisk { .. }
        | Action::SetGateways { .. }
        | Action::StartPoet { .. } => {
            report
                .carried(&step, Err("this action is not one on a process".to_owned()))
                .await;
        }
    }
}

/// Gives a PoET its operator's order. It is applied when the PoET has said so and, where its API tells, shows so.
pub(super) async fn operate(
    step: Step,
    order: Result<Order, String>,
    client: reqwest::Client,
    bound: Duration,
    report: Reporter,
) {
    let obeyed = match order {
        Ok(order) => order.give(&client, bound).await,
        Err(why) => Err(why),
    };
    match obeyed {
        Ok(obeyed) => {
            report.carried(&step, Ok(())).await;
            if let Some(shown) = obeyed.shown {
                report
                    .proved(step.id, Grade::Armed, shown, obeyed.detail.clone())
                    .await;
            }
            let held = obeyed.shown != Some(false);
            report
                .proved(step.id, Grade::Applied, held, obeyed.detail.clone())
                .await;
            // The target itself has answered that it did so.
            report
                .proved(step.id, Grade::Felt, true, obeyed.detail)
                .await;
        }
        Err(why) => report.carried(&step, Err(why)).await,
    }
}

async fn kill(step: &Step, process: &NodeProcess, report: &Reporter) {
    let decided = monotonic_ns();
    if let Err(error) = process.signal(NodeSignal::Kill) {
        report
            .carried(
                step,
                Err(format!("cannot kill {}: {error}", process.name())),
            )
            .await;
        return;
    }
    report.carried(step, Ok(())).await;
    let exit = process.exited().await;
    let detail = Detail::from([
        (
            "dead-after-us".to_owned(),
            json!(exit.seen_ns.saturating_sub(decided) / 1000),
        ),
        ("ended".to_owned(), json!(exit.kind)),
    ]);
    let held = matches!(exit.kind, ExitKind::Signal(9));
    report
        .proved(step.id, Grade::Applied, held, detail.clone())
        .await;
    report.proved(step.id, Grade::Felt, held, detail).await;
}

async fn terminate(step: &Step, process: &NodeProcess, stop: Stop, report: &Reporter) {
    match process.terminate(Duration::from_nanos(stop.grace_ns)).await {
        Ok(stopped) => {
            if stopped.by == StoppedBy::Kill {
                let node = process.name().to_owned();
                let _ = report.loop_.send(Happened::Forced { node }).await;
            }
            report.carried(step, Ok(())).await;
            let detail = Detail::from([
                ("ended".to_owned(), json!(stopped.exit.kind)),
                (
                    "took-ms".to_owned(),
                    json!(u64::try_from(stopped.took.as_millis()).unwrap_or(u64::MAX)),
                ),
            ]);
            report
                .proved(step.id, Grade::Applied, true, detail.clone())
                .await;
            report.proved(step.id, Grade::Felt, true, detail).await;
        }
        Err(error) => {
            report
                .carried(
                    step,
                    Err(format!("cannot stop {}: {error}", process.name())),
                )
                .await;
        }
    }
}

async fn freeze(step: &Step, process: &NodeProcess, target: &Target, report: &Reporter) {
    if let Err(error) = process.signal(NodeSignal::Stop) {
        report
            .carried(
                step,
                Err(format!("cannot freeze {}: {error}", process.name())),
            )
            .await;
        return;
    }
    report.carried(step, Ok(())).await;
    // What left the process group did not get the signal.
    let address = target.address;
    let stopped = blocking(process, move |process| {
        process.stop_family(address, STATE_BOUND)
    })
    .await;
    let mut detail = Detail::new();
    let at_rest = match &stopped {
        Ok(members) => {
            detail.insert("processes".to_owned(), json!(members.len()));
            !members.is_empty() && members.iter().all(|member| member.stopped)
        }
        Err(why) => {
            detail.insert("unseen".to_owned(), json!(why));
            false
        }
    };
    report
        .proved(step.id, Grade::Armed, at_rest, detail.clone())
        .await;
    let began = Instant::now();
    let answer = answers(target, SILENCE).await;
    // A target that cannot be asked is looked at for as long.
    tokio::time::sleep_until((began + SILENCE).into()).await;
    let later = blocking(process, move |process| process.family(address)).await;
    let worked = match (&stopped, &later) {
        (Ok(before), Ok(after)) if !after.is_empty() => at_work(before, after),
        (_, Err(why)) => vec![why.clone()],
        _ => vec!["nobody was seen".to_owned()],
    };
    detail.insert("answered".to_owned(), json!(answer));
    if !worked.is_empty() {
        detail.insert("at-work".to_owned(), json!(worked));
    }
    let held = at_rest && worked.is_empty() && answer != Some(true);
    report
        .proved(step.id, Grade::Applied, held, detail.clone())
        .await;
    report.proved(step.id, Grade::Felt, held, detail).await;
}

async fn thaw(step: &Step, process: &NodeProcess, target: &Target, report: &Reporter) {
    let Part::Ends(begun) = step.part else { return };
    let address = target.address;
    still_frozen(begun, process, address, report).await;
    let continued = blocking(process, move |process| {
        process.continue_family(address, STATE_BOUND)
    })
    .await;
    if let Err(why) = continued {
        report
            .carried(step, Err(format!("cannot thaw {}: {why}", process.name())))
            .await;
        return;
    }
    report.carried(step, Ok(())).await;
    let state = state_within(process, |state| state != 'T').await;
    let deadline = Instant::now() + ANSWER_BOUND;
    let mut answer = answers(target, SILENCE).await;
    while answer == Some(false) && Instant::now() < deadline && process.try_exit().is_none() {
        answer = answers(target, SILENCE).await;
    }
    let held = state.is_some_and(|state| state != 'T') && answer != Some(false);
    let detail = Detail::from([
        ("state".to_owned(), json!(state.map(String::from))),
        ("answered".to_owned(), json!(answer)),
    ]);
    report.proved(begun, Grade::Gone, held, detail).await;
}

/// Looks once more before a node goes on: whatever of it was at work since it was frozen takes the evidence back.
async fn still_frozen(
    begun: u32,
    process: &NodeProcess,
    address: Option<Ipv4Addr>,
    report: &Reporter,
) {
    let before = process.family_when_stopped();
    let now = blocking(process, move |process| process.family(address)).await;
    let worked = match now {
        Ok(now) => at_work(&before, &now),
        Err(why) => vec![why],
    };
    if !worked.is_empty() && process.try_exit().is_none() {
        let detail = Detail::from([("at-work-meanwhile".to_owned(), json!(worked))]);
        report.proved(begun, Grade::Applied, false, detail).await;
    }
}

/// Does something that reads all of `/proc` beside the loop.
async fn blocking<T: Send + 'static>(
    process: &NodeProcess,
    act: impl FnOnce(&NodeProcess) -> std::io::Result<T> + Send + 'static,
) -> Result<T, String> {
    let process = process.clone();
    tokio::task::spawn_blocking(move || act(&process))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())
}

/// The process's state once it is as wanted, else the last one seen within [`STATE_BOUND`]; `None` when it is gone.
async fn state_within(process: &NodeProcess, wanted: impl Fn(char) -> bool) -> Option<char> {
    let deadline = Instant::now() + STATE_BOUND;
    loop {
        let state = process.state()?.state;
        if wanted(state) || Instant::now() >= deadline {
            return Some(state);
        }
        // The kernel announces no change of this state to anyone but the parent's wait, which the exit watcher uses.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Whether the node answers a UDP ping within the bound; `None` when it speaks no protocol that could be asked.
async fn answers(target: &Target, bound: Duration) -> Option<bool> {
    let session = target.session.as_ref()?;
    let from = PingFrom {
        ip: target.agent,
        identity: target.identity,
        netid: target.netid,
    };
    // A socket of its own: an answer to an earlier ping, given after a thaw, must not count for this one.
    let pinger = Pinger::bind(Arc::clone(&session.dialect), from)
        .await
        .ok()?;
    let node = NodeName::from("the target");
    let ping = pinger
        .ping(
            &PingTarget {
                node,
                address: session.address,
                key: session.key,
            },
            bound,
        )
        .await;
    Some(ping.rtt.is_some())
}

/// A flood that never began: its end has nothing to close.
pub(super) async fn not_carried(
    step: &Step,
    why: String,
    stop: tokio::sync::oneshot::Receiver<Step>,
    report: &Reporter,
) {
    report.carried(step, Err(why)).await;
    if let Ok(end) = stop.await {
        report.carried(&end, Ok(())).await;
        report
            .proved(
                step.id,
                Grade::Gone,
                true,
                Detail::from([("begun".to_owned(), json!(false))]),
            )
            .await;
    }
}

/// Everything about a flood that can be done before it is due. Blocking: it opens sockets and seals datagrams.
pub(super) fn prepare_flood(
    step: &Step,
    target: &Target,
    seed: u64,
    calendar: Calendar,
    due_unix_ns: u64,
) -> Result<PreparedFlood, String> {
    let Action::Flood {
        node,
        sources,
        over,
        datagrams,
        last_after_ns,
    } = &step.action
    else {
        return Err("not a flood".to_owned());
    };
    let session = target
        .session
        .as_ref()
        .ok_or_else(|| format!("{node} speaks no protocol with sessions"))?;
    let spec = FloodSpec {
        target: session.address,
        target_key: session.key,
        source_ip: target.agent,
        sources: u32::try_from(*sources).map_err(|_| format!("{sources} sources are too many"))?,
        over: Duration::from_nanos(calendar.ns_of(*over)),
        last_after: last_after_ns.map(Duration::from_nanos),
        // As late as the whole host may be before a layer says nothing any more.
        late_max: Duration::from_nanos(calendar.layer_ns / LATE_PART),
        kind: match datagrams {
            Datagrams::WellFormed => DatagramKind::WellFormed,
            Datagrams::ForeignNetid => DatagramKind::ForeignNetid,
            Datagrams::Garbage => DatagramKind::Garbage,
        },
        seed: random::key(seed, &["flood", &step.entry, node]),
        netid: target.netid,
        due_unix_ns,
    };
    PreparedFlood::prepare(session.dialect.as_ref(), spec).map_err(|error| error.to_string())
}

/// Sees a flood through: sends, judges, and once asked to, closes its sources.
pub(super) async fn see_flood_through(
    step: Step,
    mut flood: FloodHandle,
    mut stop: tokio::sync::oneshot::Receiver<Step>,
    report: Reporter,
) {
    let mut ended_by = None;
    let sent = tokio::select! {
        sent = flood.sent() => sent,
        ended = &mut stop => {
            ended_by = ended.ok();
            flood.request_stop();
            flood.sent().await
        }
    };
    match sent {
        Ok(sent) => {
            report.carried(&step, Ok(())).await;
            let evidence = FloodEvidence::of(&sent);
            let detail = as_detail(&evidence, &sent);
            report
                .proved(step.id, Grade::Applied, evidence.applied(), detail.clone())
                .await;
            // A target whose buffer overflowed or whose port closed was hit, whatever it made of the rest.
            if evidence.dropped > 0 || evidence.target_gone {
                report.proved(step.id, Grade::Felt, true, detail).await;
            }
        }
        Err(error) => report.carried(&step, Err(error.to_string())).await,
    }
    if ended_by.is_none() {
        ended_by = stop.await.ok();
    }
    flood.request_stop();
    let closed = flood.closed().await;
    let Some(end) = ended_by else { return };
    report.carried(&end, Ok(())).await;
    let left = closed
        .as_ref()
        .ok()
        .and_then(|closed| closed.left_open.clone());
    let held = left.as_ref().is_some_and(Vec::is_empty);
    report
        .proved(
            step.id,
            Grade::Gone,
            held,
            Detail::from([("ports-left".to_owned(), json!(left))]),
        )
        .await;
}

/// What is worth telling of a flood's evidence.
fn as_detail(evidence: &FloodEvidence, sent: &FloodReport) -> Detail {
    let mut detail = Detail::from([
        ("sources".to_owned(), json!(evidence.planned)),
        ("sent".to_owned(), json!(evidence.sent)),
        ("dropped".to_owned(), json!(evidence.dropped)),
        (
            "took-ms".to_owned(),
            json!(u64::try_from(evidence.took.as_millis()).unwrap_or(u64::MAX)),
        ),
    ]);
    if evidence.refused > 0 {
        detail.insert("refused".to_owned(), json!(evidence.refused));
    }
    if evidence.target_gone {
        detail.insert("target".to_owned(), json!("gone by the end"));
    }
    if let Some(why) = &evidence.why_not {
        detail.insert("why-not".to_owned(), json!(why));
    }
    if sent.begun_late > sent.late_max {
        let late = u64::try_from(sent.begun_late.as_millis()).unwrap_or(u64::MAX);
        detail.insert("begun-late-ms".to_owned(), json!(late));
    }
    // Tenths are plenty: the rate is held within some per cent.
    let rate = sent
        .achieved_rate()
        .map(|rate| (rate * 10.0).round() / 10.0);
    detail.insert("rate-per-s".to_owned(), json!(rate));
    detail
}
