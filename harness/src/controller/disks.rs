//! Disks of nodes: limits from the start on, faults that cap or fill them, and their evidence.
//!
//! Armed is the cap as the supervisor reads it back; applied, and gone, is what a process of our own meets that asks the
//! same disk for room; felt is the node's own call that got no room, or less than it asked for. A node of which the
//! supervisor cannot know any more what it takes spoils all of it: that is told as not applied, whoever was hit before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};
use tweedledum_core::history::Grade;
use tweedledum_core::run::Event;
use tweedledum_core::schedule::{Action, Step};

use super::happened::Happened;
use super::steps::Reporter;
use crate::substrate::disk::{BLOCK, DiskStatus, Reading, Wanted};
use crate::substrate::{Detail, DiskHold};

/// How often the end of a fault is looked for: the node goes on writing, and may take what the probe asks for.
const LOOKS: u32 = 3;

/// The disk of one node. What a probe asks for beyond what there is, is a block.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    hold: Arc<dyn DiskHold>,
    limit: Option<u64>,
    /// Faults that are on it: while there are any, hits are theirs and not the limit's.
    faults: Arc<AtomicU32>,
}

impl Disk {
    /// A disk that is held, with the limit that it has from the start on.
    pub(super) fn new(hold: Arc<dyn DiskHold>, limit: Option<u64>) -> Self {
        Self {
            hold,
            limit,
            faults: Arc::default(),
        }
    }

    /// What it is without a fault.
    fn normal(&self) -> Wanted {
        self.limit.map_or(Wanted::None, Wanted::Bytes)
    }

    fn is_normal(&self, reading: Reading) -> bool {
        reading.cap == self.limit.map(whole_blocks)
    }
}

fn whole_blocks(bytes: u64) -> u64 {
    bytes / BLOCK * BLOCK
}

/// Shows that a limit holds, and goes on to watch the disk: what hits it, and what ends it.
pub(super) async fn watch(node: String, disk: Disk, loop_: mpsc::Sender<Happened>) {
    let mut status = disk.hold.status();
    let limit = Limit {
        node: &node,
        loop_: &loop_,
    };
    if disk.limit.is_some() {
        limit.show(&disk).await;
    }
    let (mut felt, mut broken) = (false, false);
    loop {
        let now = status.borrow_and_update().clone();
        if let Some(why) = now.refused {
            let why = format!(
                "the disk of {node} cannot be held: {why}; run the plan without disk limits and faults on it"
            );
            let _ = loop_.send(Happened::failed(why)).await;
            return;
        }
        if disk.limit.is_some() {
            if let Some(why) = now.broken.as_ref().filter(|_| !broken) {
                broken = true;
                let detail = Detail::from([("why".to_owned(), json!(why))]);
                limit.told(Grade::Applied, false, detail).await;
            }
            if now.hits > 0 && !felt && disk.faults.load(Ordering::Relaxed) == 0 {
                felt = true;
                limit.told(Grade::Felt, true, hit(&now)).await;
            }
        }
        if status.changed().await.is_err() {
            let why = format!("nobody holds the disk of {node} any more");
            let _ = loop_.send(Happened::failed(why)).await;
            return;
        }
    }
}

/// Reports on a limit.
struct Limit<'a> {
    node: &'a str,
    loop_: &'a mpsc::Sender<Happened>,
}

impl Limit<'_> {
    async fn told(&self, grade: Grade, held: bool, detail: Detail) {
        let happened = Happened::Told(Event::Limited {
            node: self.node.to_owned(),
            grade,
            held,
            detail,
        });
        // The loop ends only after its tasks; at the very end nobody needs the message.
        let _ = self.loop_.send(happened).await;
    }

    async fn show(&self, disk: &Disk) {
        let reading = match disk.hold.set(Wanted::Read).await {
            Ok(reading) => reading,
            Err(error) => {
                let detail = Detail::from([("why".to_owned(), json!(error))]);
                return self.told(Grade::Armed, false, detail).await;
            }
        };
        let held = disk.is_normal(reading);
        self.told(Grade::Armed, held, read(reading)).await;
        let asked = reading.cap.unwrap_or_default() + BLOCK;
        let (held, detail) = full(disk, asked, reading).await;
        self.told(Grade::Applied, held, detail).await;
    }
}

/// Whether a probe that asks for more than the cap meets a full disk.
async fn full(disk: &Disk, asked: u64, reading: Reading) -> (bool, Detail) {
    let mut detail = read(reading);
    detail.insert("probe-asked".to_owned(), json!(asked));
    let full = match disk.hold.probe(asked).await {
        Ok(probed) => {
            detail.insert("probe-errno".to_owned(), json!(probed.errno));
            probed.is_full()
        }
        Err(error) => {
            detail.insert("why".to_owned(), json!(error));
            false
        }
    };
    let broken = disk.hold.status().borrow().broken.clone();
    if let Some(why) = &broken {
        detail.insert("why".to_owned(), json!(why));
    }
    (full && broken.is_none(), detail)
}

/// Sees a fault on a disk through: caps it, shows that, tells what is hit, and once asked to, takes it back.
pub(super) async fn see_through(
    step: Step,
    disk: Disk,
    stop: oneshot::Receiver<Step>,
    report: Reporter,
) {
    disk.faults.fetch_add(1, Ordering::Relaxed);
    let fault = Fault {
        step: &step,
        disk: &disk,
        report: &report,
    };
    let mut status = disk.hold.status();
    let before = status.borrow_and_update().hits;
    let cap = match disk.hold.set(wanted(&step.action, disk.limit)).await {
        Ok(reading) => {
            fault.begun(reading).await;
            reading.cap
        }
        Err(error) => {
            report.carried(&step, Err(error)).await;
            None
        }
    };
    let ended = fault.watch(&mut status, before, stop).await;
    if let Some(end) = ended {
        fault.end(&end, cap).await;
    }
    disk.faults.fetch_sub(1, Ordering::Relaxed);
}

/// A fault never makes a disk larger than its limit.
fn wanted(action: &Action, limit: Option<u64>) -> Wanted {
    match action {
        Action::CapDisk { bytes, .. } => {
            Wanted::Bytes(limit.map_or(*bytes, |limit| limit.min(*bytes)))
        }
        Action::FillDisk { leave, .. } => Wanted::Leave {
            bytes: *leave,
            most: limit,
        },
        _ => Wanted::Read,
    }
}

struct Fault<'a> {
    step: &'a Step,
    disk: &'a Disk,
    report: &'a Reporter,
}

impl Fault<'_> {
    async fn proved(&self, grade: Grade, held: bool, detail: Detail) {
        self.report.proved(self.step.id, grade, held, detail).await;
    }

    async fn begun(&self, reading: Reading) {
        self.report.carried(self.step, Ok(())).await;
        let armed = match wanted(&self.step.action, self.disk.limit) {
            Wanted::Bytes(bytes) => reading.cap == Some(whole_blocks(bytes)),
            _ => reading.cap.is_some(),
        };
        self.proved(Grade::Armed, armed, read(reading)).await;
        let asked = reading.cap.unwrap_or_default() + BLOCK;
        let (held, detail) = full(self.disk, asked, reading).await;
        self.proved(Grade::Applied, held, detail).await;
    }

    /// Until the fault shall end. `None` when the run ends first.
    async fn watch(
        &self,
        status: &mut watch::Receiver<DiskStatus>,
        before: u64,
        mut stop: oneshot::Receiver<Step>,
    ) -> Option<Step> {
        let (mut felt, mut broken) = (false, false);
        loop {
            let now = status.borrow_and_update().clone();
            if let Some(why) = now.broken.as_ref().filter(|_| !broken) {
                broken = true;
                let detail = Detail::from([("why".to_owned(), json!(why))]);
                self.report.carried(self.step, Err(why.clone())).await;
                self.proved(Grade::Applied, false, detail.clone()).await;
                self.proved(Grade::Felt, false, detail).await;
            }
            if now.hits > before && !felt && !broken {
                felt = true;
                self.proved(Grade::Felt, true, hit(&now)).await;
            }
            tokio::select! {
                biased;
                end = &mut stop => return end.ok(),
                changed = status.changed() => if changed.is_err() {
                    return stop.await.ok();
                },
            }
        }
    }

    async fn end(&self, end: &Step, cap: Option<u64>) {
        let normal = match self.disk.hold.set(self.disk.normal()).await {
            Ok(reading) => reading,
            Err(error) => return self.report.carried(end, Err(error)).await,
        };
        self.report.carried(end, Ok(())).await;
        let mut shown = self.gone(normal, cap).await;
        for _ in 1..LOOKS {
            if shown.0 {
                break;
            }
            if let Ok(reading) = self.disk.hold.set(Wanted::Read).await {
                shown = self.gone(reading, cap).await;
            }
        }
        self.proved(Grade::Gone, shown.0, shown.1).await;
    }

    /// Whether a probe gets what the fault would not have given it. Where the limit does not give it either, it must not.
    async fn gone(&self, reading: Reading, cap: Option<u64>) -> (bool, Detail) {
        let denied = cap.map_or(0, |cap| cap.saturating_sub(reading.used)) + BLOCK;
        let allowed = reading.room().is_none_or(|room| room >= denied);
        let mut detail = read(reading);
        detail.insert("probe-asked".to_owned(), json!(denied));
        let answered = match self.disk.hold.probe(denied).await {
            Ok(probed) => {
                detail.insert("probe-errno".to_owned(), json!(probed.errno));
                if allowed {
                    probed.got_it()
                } else {
                    probed.is_full()
                }
            }
            Err(error) => {
                detail.insert("why".to_owned(), json!(error));
                false
            }
        };
        (answered && self.disk.is_normal(reading), detail)
    }
}

fn read(reading: Reading) -> Detail {
    Detail::from([
        ("cap".to_owned(), json!(reading.cap)),
        ("used".to_owned(), json!(reading.used)),
    ])
}

fn hit(status: &DiskStatus) -> Detail {
    let mut detail = Detail::from([("calls".to_owned(), json!(status.hits))]);
    if let Some(hit) = status.last_hit {
        detail.insert("call".to_owned(), json!(hit.call));
        detail.insert("asked".to_owned(), json!(hit.asked));
        detail.insert("given".to_owned(), json!(hit.given));
    }
    detail
}
