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
    let mut ended_by = None;
    let mut closed = None;
    let sent = if let Err(why) = prepared {
        Err(why)
    } else {
        let mut sending = vantage.start_flood(step.id, due_ns);
        tokio::select! {
            sent = &mut sending => sent,
            ended = &mut stop => {
                ended_by = Some(ended.ok());
                // Whoever sends is told to stop, and says then what was sent.
                let (sent, stopped) = tokio::join!(sending, vantage.stop_flood(step.id));
                closed = Some(stopped);
                sent
            }
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
        Err(why) => {
            report.carried(&step, Err(why)).await;
            // An order that is answered too late may be carried out all the same, and then nobody would see it.
            if closed.is_none() {
                closed = Some(vantage.stop_flood(step.id).await);
            }
        }
    }
    let ended_by = match ended_by {
        Some(ended_by) => ended_by,
        None => stop.await.ok(),
    };
    let closed = match closed {
        Some(closed) => closed,
        None => vantage.stop_flood(step.id).await,
    };
    let Some(end) = ended_by else { return };
    report.carried(&end, Ok(())).await;
    let (held, detail) = match closed {
        Ok(Some(closed)) => {
            let left = closed.left_open;
            let held = left.as_ref().is_some_and(Vec::is_empty);
            (held, ("ports-left".to_owned(), json!(left)))
        }
        // One that never began has nothing to close.
        Ok(None) => (true, ("begun".to_owned(), json!(false))),
        Err(why) => (false, ("why".to_owned(), json!(why))),
    };
    report
        .proved(step.id, Grade::Gone, held, Detail::from([detail]))
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

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Mutex;

    use futures_util::future::{FutureExt as _, pending, ready};
    use tokio::sync::mpsc;
    use tweedledum_core::faults::Impact;
    use tweedledum_core::run::Event;
    use tweedledum_core::schedule::{Class, Part};
    use tweedledum_core::time::{ProtocolTime, Span};

    use super::*;
    use crate::agent::operator::{Obeyed, Order};
    use crate::agent::request::{Check, PingAt, PingEvery, Poll};
    use crate::controller::happened::Happened;
    use crate::substrate::Doing;

    /// An agent that answers no order to start, and counts orders to stop.
    #[derive(Debug, Default)]
    struct Late(Mutex<Vec<u32>>);

    impl Vantage for Late {
        fn address(&self) -> IpAddr {
            [127, 0, 0, 1].into()
        }
        fn until_ready(&self, _: Check, _: Duration) -> Doing<'_, Duration> {
            pending().boxed()
        }
        fn watch(&self, _: Vec<Poll>, _: Option<PingEvery>) -> Doing<'_, ()> {
            pending().boxed()
        }
        fn ping(&self, _: PingAt, _: Duration) -> Doing<'_, Option<Duration>> {
            pending().boxed()
        }
        fn operate(&self, _: Order, _: Duration) -> Doing<'_, Obeyed> {
            pending().boxed()
        }
        fn prepare_flood(&self, _: u32, _: String, _: FloodSpec) -> Doing<'_, ()> {
            pending().boxed()
        }
        fn start_flood(&self, _: u32, _: u64) -> Doing<'_, FloodReport> {
            ready(Err("no answer".to_owned())).boxed()
        }
        fn stop_flood(&self, flood: u32) -> Doing<'_, Option<FloodReport>> {
            self.0.lock().unwrap().push(flood);
            ready(Ok(None)).boxed()
        }
    }

    /// Its end comes when the plan says; nothing may go on until then.
    #[tokio::test]
    async fn a_flood_whose_order_failed_is_stopped_at_once() {
        for made in [Ok(()), Err("no answer".to_owned())] {
            let step = |part| Step {
                id: 3,
                at: ProtocolTime(0),
                entry: "e".to_owned(),
                action: Action::Flood {
                    node: "n-0".to_owned(),
                    sources: 1,
                    over: Span::layers(1),
                    datagrams: Datagrams::Garbage,
                    last_after_ns: None,
                },
                part,
            };
            let begins = step(Part::Begins {
                impact: Impact::Stressed,
                class: Class::Permanent,
            });
            let (loop_, mut told) = mpsc::channel(8);
            let (answer, prepared) = oneshot::channel();
            answer.send(made).unwrap();
            let (end, stop) = oneshot::channel();
            let agent = Arc::new(Late::default());
            let seeing = see_through(
                begins,
                prepared,
                Arc::clone(&agent) as Arc<dyn Vantage>,
                0,
                stop,
                Reporter { loop_ },
            );
            let mut seeing = std::pin::pin!(seeing);
            assert!((&mut seeing).now_or_never().is_none(), "its end is to come");
            assert_eq!(*agent.0.lock().unwrap(), [3]);
            end.send(step(Part::Ends(3))).unwrap();
            seeing.await;
            assert_eq!(*agent.0.lock().unwrap(), [3]);
            let mut gone = Vec::new();
            while let Ok(happened) = told.try_recv() {
                if let Happened::Told(Event::Proved { grade, held, .. }) = happened {
                    gone.push((grade, held));
                }
            }
            assert_eq!(gone, [(Grade::Gone, true)]);
        }
    }
}
