//! Carrying steps out, each with evidence from a probe that does not depend on how the target behaves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::mpsc;
use tweedledum_core::history::Grade;
use tweedledum_core::plan::model::Stop;
use tweedledum_core::schedule::{Action, Part, Step};

use super::happened::Happened;
use super::network::Session;
use crate::agent::operator::Order;
use crate::substrate::{Detail, Life, Vantage};

/// How long a frozen node is listened to before its silence counts, and a thawed one until it must answer.
const SILENCE: Duration = Duration::from_millis(100);
const ANSWER_BOUND: Duration = Duration::from_secs(5);
/// How long a killed node may take until its death is told: engines were seen to take 2.5 s for fifty at once.
const DEATH_BOUND: Duration = Duration::from_secs(30);

/// One target of a step.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Its name.
    pub(super) node: String,
    /// Its life, while it has one.
    pub(super) life: Option<Arc<dyn Life>>,
    /// How it is asked to stop.
    pub(super) stop: Stop,
    /// Its UDP side.
    pub(super) session: Option<Session>,
    /// Where it is asked from.
    pub(super) vantage: Arc<dyn Vantage>,
    /// The network id.
    pub(super) netid: u32,
}

/// A life that stands still.
#[derive(Debug)]
pub(super) struct Frozen {
    /// The step that has frozen it.
    pub(super) begun: u32,
    /// The life itself: the node may have another before anybody looks.
    pub(super) life: Arc<dyn Life>,
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
        let _ = self.loop_.send(Happened::carried(step.id, result)).await;
    }

    pub(super) async fn proved(&self, begun: u32, grade: Grade, held: bool, detail: Detail) {
        let proved = Happened::proved(begun, grade, held, detail);
        let _ = self.loop_.send(proved).await;
    }
}

/// Carries out a step on a life of a node. What outlives its step is apart: floods, disks and limits.
pub(super) async fn carry(step: Step, target: Target, report: Reporter) {
    let Some(life) = target.life.clone() else {
        let why = format!("{} has no process", target.node);
        report.carried(&step, Err(why)).await;
        return;
    };
    match step.action {
        Action::Kill { .. } => kill(&step, life.as_ref(), &target.node, &report).await,
        Action::Terminate { .. } => {
            terminate(&step, life.as_ref(), &target.node, target.stop, &report).await;
        }
        Action::Freeze { .. } => {
            freeze(&step, life.as_ref(), &target, &report).await;
        }
        Action::Thaw { .. } => thaw(&step, life.as_ref(), &target, &report).await,
        Action::Start { .. }
        | Action::Flood { .. }
        | Action::EndFlood { .. }
        | Action::CapDisk { .. }
        | Action::FillDisk { .. }
        | Action::FreeDisk { .. }
        | Action::Limit { .. }
        | Action::Unlimit { .. }
        | Action::SetGateways { .. }
        | Action::StartPoet { .. } => {
            let why = "this action is not one on a process".to_owned();
            report.carried(&step, Err(why)).await;
        }
    }
}

/// Freezes or thaws a life, and keeps in mind which stands still for [`still_frozen`]: nobody else looks at one that its
/// plan does not heal. One that was not seen to stand still has nothing to be taken back.
pub(super) async fn carry_in_turn(
    step: Step,
    target: Target,
    report: Reporter,
    frozen: &mut Option<Frozen>,
) {
    // A thaw looks itself.
    *frozen = None;
    match (&step.action, target.life.clone()) {
        (Action::Freeze { .. }, Some(life)) => {
            let held = freeze(&step, life.as_ref(), &target, &report).await;
            let begun = step.id;
            *frozen = held.then_some(Frozen { begun, life });
        }
        _ => carry(step, target, report).await,
    }
}

/// Gives a PoET its operator's order. It is applied when the PoET has said so and, where its API tells, shows so.
pub(super) async fn operate(
    step: Step,
    order: Result<(Order, Arc<dyn Vantage>), String>,
    bound: Duration,
    report: Reporter,
) {
    let obeyed = match order {
        Ok((order, vantage)) => vantage.operate(order, bound).await,
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

async fn kill(step: &Step, life: &dyn Life, node: &str, report: &Reporter) {
    let decided = match life.kill().await {
        Ok(decided) => decided,
        Err(why) => {
            let why = format!("cannot kill {node}: {why}");
            return report.carried(step, Err(why)).await;
        }
    };
    report.carried(step, Ok(())).await;
    let Ok(death) = tokio::time::timeout(DEATH_BOUND, life.died()).await else {
        let detail = Detail::from([("alive-after-s".to_owned(), json!(DEATH_BOUND.as_secs()))]);
        return report.proved(step.id, Grade::Applied, false, detail).await;
    };
    let mut detail = Detail::from([
        (
            "dead-after-us".to_owned(),
            json!(death.seen_ns.saturating_sub(decided) / 1000),
        ),
        ("ended".to_owned(), json!(death.status)),
    ]);
    // Only now: looking for the others must not delay the death of the node itself.
    let extinct = life.extinct().await;
    detail.extend(extinct.detail);
    let held = extinct.holds && death.status.is_kill();
    report
        .proved(step.id, Grade::Applied, held, detail.clone())
        .await;
    report.proved(step.id, Grade::Felt, held, detail).await;
}

async fn terminate(step: &Step, life: &dyn Life, node: &str, stop: Stop, report: &Reporter) {
    let grace = Duration::from_nanos(stop.grace_ns);
    let stopped = match life.terminate(stop.signal, grace).await {
        Ok(stopped) => stopped,
        Err(why) => {
            let why = format!("cannot stop {node}: {why}");
            return report.carried(step, Err(why)).await;
        }
    };
    if stopped.forced {
        let node = node.to_owned();
        let _ = report.loop_.send(Happened::Forced { node }).await;
    }
    report.carried(step, Ok(())).await;
    let extinct = life.extinct().await;
    let mut detail = Detail::from([
        ("ended".to_owned(), json!(stopped.death.status)),
        (
            "took-ms".to_owned(),
            json!(u64::try_from(stopped.took.as_millis()).unwrap_or(u64::MAX)),
        ),
    ]);
    detail.extend(extinct.detail);
    let held = extinct.holds;
    report
        .proved(step.id, Grade::Applied, held, detail.clone())
        .await;
    report.proved(step.id, Grade::Felt, held, detail).await;
}

/// True if it was seen to stand still.
async fn freeze(step: &Step, life: &dyn Life, target: &Target, report: &Reporter) -> bool {
    if let Err(why) = life.freeze().await {
        let why = format!("cannot freeze {}: {why}", target.node);
        report.carried(step, Err(why)).await;
        return false;
    }
    report.carried(step, Ok(())).await;
    let rest = life.at_rest().await;
    let mut detail = rest.detail;
    report
        .proved(step.id, Grade::Armed, rest.holds, detail.clone())
        .await;
    let began = Instant::now();
    let answer = answers(target, SILENCE).await;
    // A target that cannot be asked is looked at for as long.
    tokio::time::sleep_until((began + SILENCE).into()).await;
    let worked = life.at_work().await;
    detail.insert("answered".to_owned(), json!(answer));
    if !worked.is_empty() {
        detail.insert("at-work".to_owned(), json!(worked));
    }
    let held = rest.holds && worked.is_empty() && answer != Some(true);
    report
        .proved(step.id, Grade::Applied, held, detail.clone())
        .await;
    report.proved(step.id, Grade::Felt, held, detail).await;
    held
}

async fn thaw(step: &Step, life: &dyn Life, target: &Target, report: &Reporter) {
    let Part::Ends(begun) = step.part else { return };
    still_frozen(begun, life, report).await;
    if let Err(why) = life.thaw().await {
        let why = format!("cannot thaw {}: {why}", target.node);
        return report.carried(step, Err(why)).await;
    }
    report.carried(step, Ok(())).await;
    let awake = life.awake().await;
    let deadline = Instant::now() + ANSWER_BOUND;
    let mut answer = answers(target, SILENCE).await;
    while answer == Some(false) && Instant::now() < deadline && life.try_died().is_none() {
        answer = answers(target, SILENCE).await;
    }
    let held = awake.holds && answer != Some(false);
    let mut detail = awake.detail;
    detail.insert("answered".to_owned(), json!(answer));
    report.proved(begun, Grade::Gone, held, detail).await;
}

/// Looks once more before a node goes on, or the run ends: whatever of it was at work since it was frozen takes the
/// evidence back.
pub(super) async fn still_frozen(begun: u32, life: &dyn Life, report: &Reporter) {
    let worked = life.at_work().await;
    if !worked.is_empty() && life.try_died().is_none() {
        let detail = Detail::from([("at-work-meanwhile".to_owned(), json!(worked))]);
        report.proved(begun, Grade::Applied, false, detail).await;
    }
}

/// Looks once more before a node that was killed is started again, or the run ends: one that lived meanwhile takes the
/// evidence back.
pub(super) async fn still_dead(begun: u32, life: &dyn Life, report: &Reporter) {
    if life.try_died().is_none() {
        return;
    }
    let seen = life.still_dead().await;
    if !seen.holds {
        report
            .proved(begun, Grade::Applied, false, seen.detail)
            .await;
    }
}

/// Whether the node answers a UDP ping within the bound; `None` when it cannot be asked.
async fn answers(target: &Target, bound: Duration) -> Option<bool> {
    let at = target.session.as_ref()?.ping_at();
    let rtt = target.vantage.ping(at, bound).await.ok()?;
    Some(rtt.is_some())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures_util::future::{BoxFuture, FutureExt as _, ready};
    use tweedledum_core::faults::Impact;
    use tweedledum_core::history::ExitStatus;
    use tweedledum_core::plan::model::StopSignal;
    use tweedledum_core::run::Event;
    use tweedledum_core::schedule::Class;
    use tweedledum_core::time::ProtocolTime;

    use super::*;
    use crate::substrate::{Death, Doing, Seen, Stopped};

    /// A node whose server runs in a session of its own and outlives the process that is killed.
    #[derive(Debug)]
    struct Daemon {
        /// What was done to it, in order.
        done: Mutex<Vec<&'static str>>,
        /// Whether the server can be killed.
        mortal: bool,
        /// Whether somebody else has started it since, or thawed it.
        back: bool,
        /// Whether it has died.
        dead: bool,
    }

    const DEATH: Death = Death {
        status: ExitStatus::Signal(9),
        seen_ns: 2_000,
    };

    impl Life for Daemon {
        fn pid(&self) -> Option<u32> {
            None
        }

        fn died(&self) -> BoxFuture<'_, Death> {
            ready(DEATH).boxed()
        }

        fn try_died(&self) -> Option<Death> {
            self.dead.then_some(DEATH)
        }

        fn kill(&self) -> Doing<'_, u64> {
            self.done.lock().unwrap().push("kill");
            ready(Ok(1_000)).boxed()
        }

        fn terminate(&self, _: StopSignal, took: Duration) -> Doing<'_, Stopped> {
            self.done.lock().unwrap().push("terminate");
            ready(Ok(Stopped {
                death: DEATH,
                forced: false,
                took,
            }))
            .boxed()
        }

        fn extinct(&self) -> BoxFuture<'_, Seen> {
            async {
                // Evidence that is told before this is done would come first.
                tokio::task::yield_now().await;
                self.done.lock().unwrap().push("extinct");
                let left = Detail::from([("living-on".to_owned(), json!(["7 (server)"]))]);
                Seen {
                    holds: self.mortal,
                    detail: if self.mortal { Detail::new() } else { left },
                }
            }
            .boxed()
        }

        fn still_dead(&self) -> BoxFuture<'_, Seen> {
            let detail = Detail::from([("runs".to_owned(), json!(self.back))]);
            let holds = !self.back;
            ready(Seen { holds, detail }).boxed()
        }

        fn freeze(&self) -> Doing<'_, ()> {
            ready(Ok(())).boxed()
        }

        fn at_rest(&self) -> BoxFuture<'_, Seen> {
            ready(Seen::default()).boxed()
        }

        fn at_work(&self) -> BoxFuture<'_, Vec<String>> {
            let worked = self.back.then(|| "7 (server)".to_owned());
            ready(worked.into_iter().collect()).boxed()
        }

        fn thaw(&self) -> Doing<'_, ()> {
            ready(Ok(())).boxed()
        }

        fn awake(&self) -> BoxFuture<'_, Seen> {
            ready(Seen::default()).boxed()
        }
    }

    #[tokio::test]
    async fn a_kill_is_applied_once_nobody_of_the_node_lives_on() {
        for mortal in [true, false] {
            for by in ["kill", "terminate"] {
                let (loop_, mut told) = mpsc::channel(8);
                let life = Daemon {
                    done: Mutex::default(),
                    mortal,
                    back: false,
                    dead: true,
                };
                let node = "n-0".to_owned();
                let step = Step {
                    id: 3,
                    at: ProtocolTime(0),
                    entry: "e".to_owned(),
                    action: Action::Kill { node: node.clone() },
                    part: Part::Begins {
                        impact: Impact::Impaired,
                        class: Class::Permanent,
                    },
                };
                let report = Reporter { loop_ };
                let stop = Stop {
                    signal: StopSignal::Term,
                    grace_ns: 0,
                };
                match by {
                    "kill" => kill(&step, &life, &node, &report).await,
                    _ => terminate(&step, &life, &node, stop, &report).await,
                }
                drop(report);
                assert_eq!(*life.done.lock().unwrap(), [by, "extinct"]);
                let mut proved = Vec::new();
                while let Some(Happened::Told(event)) = told.recv().await {
                    if let Event::Proved {
                        grade,
                        held,
                        detail,
                        ..
                    } = event
                    {
                        assert_eq!(detail.contains_key("living-on"), !mortal, "{detail:?}");
                        proved.push((grade, held));
                    }
                }
                let wanted = [(Grade::Applied, mortal), (Grade::Felt, mortal)];
                assert_eq!(proved, wanted, "{by}");
            }
        }
    }

    /// What a look told of step 3.
    async fn refuted(mut told: mpsc::Receiver<Happened>) -> bool {
        let mut proved = Vec::new();
        while let Some(happened) = told.recv().await {
            if let Happened::Told(Event::Proved {
                step, grade, held, ..
            }) = happened
            {
                proved.push((step, grade, held));
            }
        }
        assert!(proved.is_empty() || proved == [(3, Grade::Applied, false)]);
        !proved.is_empty()
    }

    #[tokio::test]
    async fn a_node_that_somebody_else_has_started_or_thawed_takes_the_evidence_back() {
        for back in [false, true] {
            let life = |dead| Daemon {
                done: Mutex::default(),
                mortal: true,
                back,
                dead,
            };
            let (loop_, told) = mpsc::channel(8);
            still_dead(3, &life(true), &Reporter { loop_ }).await;
            assert_eq!(refuted(told).await, back);
            let (loop_, told) = mpsc::channel(8);
            still_frozen(3, &life(false), &Reporter { loop_ }).await;
            assert_eq!(refuted(told).await, back);
            // What has died while it was frozen is told by its death.
            let (loop_, told) = mpsc::channel(8);
            still_frozen(3, &life(true), &Reporter { loop_ }).await;
            assert!(!refuted(told).await);
        }
    }
}
