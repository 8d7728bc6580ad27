//! Seeing floods through: made ready before they are due, sent, judged, and closed by the step that ends them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::oneshot;
use tweedledum_core::history::Grade;
use tweedledum_core::oracles::LATE_PART;
use tweedledum_core::random;
use tweedledum_core::schedule::{Action, Datagrams, Step};
use tweedledum_core::time::Calendar;

use super::steps::{Reporter, Target};
use crate::agent::DatagramKind;
use crate::agent::evidence::FloodEvidence;
use crate::agent::flood::{FloodReport, FloodSpec};
use crate::substrate::{Detail, Vantage};

/// A flood between its intent and its end.
#[derive(Debug)]
pub(super) enum Flood {
    /// Being made ready, or ready to go.
    Prepared(oneshot::Receiver<Result<(), String>>),
    /// Going, or holding its ports open, until this is used.
    Going(oneshot::Sender<Step>),
}

/// Everything about a flood that can be done before it is due.
pub(super) async fn prepare(
    step: Step,
    target: Option<Target>,
    seed: u64,
    calendar: Calendar,
    due_unix_ns: u64,
) -> Result<(), String> {
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
    let target = target.ok_or("no such node")?;
    let session = target
        .session
        .ok_or_else(|| format!("{node} speaks no protocol with sessions"))?;
    let spec = FloodSpec {
        target: session.address,
        target_key: session.key,
        source_ip: target.vantage.address(),
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
    let dialect = session.dialect.name().to_owned();
    target.vantage.prepare_flood(step.id, dialect, spec).await
}

/// Sees a flood through: sends when it is due, judges, and once asked to, closes its sources.
pub(super) async fn see_through(
    step: Step,
    prepared: oneshot::Receiver<Result<(), String>>,
    vantage: Arc<dyn Vantage>,
    due_ns: u64,
    mut stop: oneshot::Receiver<Step>,
    report: Reporter,
) {
    let prepared = prepared.await;
    let prepared = prepared.unwrap_or_else(|_| Err("preparing it was cut short".to_owned()));
    if let Err(why) = prepared {
        return not_carried(&step, why, stop, &report).await;
    }
    let mut ended_by = None;
    let mut closed = None;
    let mut sending = vantage.start_flood(step.id, due_ns);
    let sent = tokio::select! {
        sent = &mut sending => sent,
        ended = &mut stop => {
            ended_by = ended.ok();
            // Whoever sends is told to stop, and says then what was sent.
            let (sent, stopped) = tokio::join!(sending, vantage.stop_flood(step.id));
            closed = Some(stopped);
            sent
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
        Err(why) => report.carried(&step, Err(why)).await,
    }
    if ended_by.is_none() && closed.is_none() {
        ended_by = stop.await.ok();
    }
    let closed = match closed {
        Some(closed) => closed,
        None => vantage.stop_flood(step.id).await,
    };
    let Some(end) = ended_by else { return };
    report.carried(&end, Ok(())).await;
    let left = closed.ok().flatten().and_then(|closed| closed.left_open);
    let held = left.as_ref().is_some_and(Vec::is_empty);
    let detail = Detail::from([("ports-left".to_owned(), json!(left))]);
    report.proved(step.id, Grade::Gone, held, detail).await;
}

/// A flood that never began: its end has nothing to close.
async fn not_carried(step: &Step, why: String, stop: oneshot::Receiver<Step>, report: &Reporter) {
    report.carried(step, Err(why)).await;
    if let Ok(end) = stop.await {
        report.carried(&end, Ok(())).await;
        let detail = Detail::from([("begun".to_owned(), json!(false))]);
        report.proved(step.id, Grade::Gone, true, detail).await;
    }
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
