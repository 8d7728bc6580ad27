//! Disks of nodes: limits from the start on, faults that cap or fill them, and their evidence.
//!
//! Armed is the cap as the supervisor reads it back; applied, and gone, is what a process of our own meets that asks the
//! same disk for room; felt is the node's own call that got no room, or less than it asked for. A node of which the
//! supervisor cannot know any more what it takes spoils all of it: that is told as not applied, whoever was hit before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};
use tweedledum_core::history::Grade;
use tweedledum_core::schedule::{Action, Step};

use super::happened::Happened;
use super::network::Site;
use super::steps::{Detail, Reporter};
use crate::substrate::process::disk::{Means, Reading, Wanted};
use crate::substrate::process::{DiskAccount, DiskError, DiskStatus, DiskSupervisor, Spawner};

/// What a probe asks for beyond what there is.
const BLOCK: u64 = 4096;

/// How often the end of a fault is looked for: the node goes on writing, and may take what the probe asks for.
const LOOKS: u32 = 3;

/// The disks that are held.
#[derive(Debug, Default)]
pub(super) struct Disks {
    /// Lives as long as the nodes do.
    _supervisor: Option<DiskSupervisor>,
    disks: BTreeMap<String, Disk>,
}

/// The disk of one node.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    account: DiskAccount,
    limit: Option<u64>,
    /// Faults that are on it: while there are any, hits are theirs and not the limit's.
    faults: Arc<AtomicU32>,
}

impl Disks {
    /// Holds the disks of those nodes whose plan needs it; their limits are in force when this returns.
    pub(super) async fn hold(site: &Site) -> Result<Self, DiskError> {
        let limited = site.header.nodes.iter();
        let limited = limited.filter_map(|node| Some((node.name.as_str(), node.disk?)));
        let limits: BTreeMap<&str, u64> = limited.collect();
        let steps = site.header.schedule.steps.iter();
        let faulted = steps.filter(|step| step.action.holds_disk());
        let faulted = faulted.map(|step| step.action.node());
        let names: BTreeSet<&str> = limits.keys().copied().chain(faulted).collect();
        if names.is_empty() {
            return Ok(Self::default());
        }
        let supervisor = DiskSupervisor::start(Means::Own)?;
        let mut disks = BTreeMap::new();
        for name in names {
            let Some(node) = site.nodes.get(name) else {
                continue;
            };
            let disk = Disk {
                account: supervisor.open(&node.directory.data())?,
                limit: limits.get(name).copied(),
                faults: Arc::default(),
            };
            disk.account.set(disk.normal()).await?;
            disks.insert(name.to_owned(), disk);
        }
        Ok(Self {
            _supervisor: Some(supervisor),
            disks,
        })
    }

    /// The account that a node takes disk on.
    pub(super) fn account(&self, node: &str) -> Option<DiskAccount> {
        self.get(node).map(|disk| disk.account.clone())
    }

    pub(super) fn get(&self, node: &str) -> Option<&Disk> {
        self.disks.get(node)
    }

    /// Every disk with its node.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Disk)> {
        self.disks.iter()
    }
}

impl Disk {
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
pub(super) async fn watch(
    node: String,
    disk: Disk,
    spawner: Spawner,
    loop_: mpsc::Sender<Happened>,
) {
    let mut status = disk.account.status();
    let limit = Limit {
        node: &node,
        loop_: &loop_,
    };
    if disk.limit.is_some() {
        limit.show(&disk, &spawner).await;
    }
    let (mut felt, mut broken) = (false, false);
    loop {
        let now = status.borrow_and_update().clone();
        if let Some(why) = now.refused {
            let why = format!(
                "the disk of {node} cannot be held: {why}; run the plan without disk limits and faults on it"
            );
            let _ = loop_.send(Happened::SubstrateFailed { why }).await;
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
            let why = DiskError::Gone.to_string();
            let _ = loop_.send(Happened::SubstrateFailed { why }).await;
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
        let happened = Happened::Limited {
            node: self.node.to_owned(),
            grade,
            held,
            detail,
        };
        // The loop ends only after its tasks; at the very end nobody needs the message.
        let _ = self.loop_.send(happened).await;
    }

    async fn show(&self, disk: &Disk, spawner: &Spawner) {
        let reading = match disk.account.set(Wanted::Read).await {
            Ok(reading) => reading,
            Err(error) => {
                let detail = Detail::from([("why".to_owned(), json!(error.to_string()))]);
                return self.told(Grade::Armed, false, detail).await;
            }
        };
        let held = disk.is_normal(reading);
        self.told(Grade::Armed, held, read(reading)).await;
        let asked = reading.cap.unwrap_or_default() + BLOCK;
        let (held, detail) = full(disk, spawner, asked, reading).await;
        self.told(Grade::Applied, held, detail).await;
    }
}

/// Whether a probe that asks for more than the cap meets a full disk.
async fn full(disk: &Disk, spawner: &Spawner, asked: u64, reading: Reading) -> (bool, Detail) {
    let mut detail = read(reading);
    detail.insert("probe-asked".to_owned(), json!(asked));
    let full = match spawner.probe_disk(&disk.account, asked).await {
        Ok(probed) => {
            detail.insert("probe-errno".to_owned(), json!(probed.errno));
            probed.is_full()
        }
        Err(error) => {
            detail.insert("why".to_owned(), json!(error.to_string()));
            false
        }
    };
    let broken = disk.account.status().borrow().broken.clone();
    if let Some(why) = &broken {
        detail.insert("why".to_owned(), json!(why));
    }
    (full && broken.is_none(), detail)
}

/// Sees a fault on a disk through: caps it, shows that, tells what is hit, and once asked to, takes it back.
pub(super) async fn see_through(
    step: Step,
    disk: Disk,
    spawner: Spawner,
    stop: oneshot::Receiver<Step>,
    report: Reporter,
) {
    disk.faults.fetch_add(1, Ordering::Relaxed);
    let fault = Fault {
        step: &step,
        disk: &disk,
        spawner: &spawner,
        report: &report,
    };
    let mut status = disk.account.status();
    let before = status.borrow_and_update().hits;
    let cap = match disk.account.set(wanted(&step.action, disk.limit)).await {
        Ok(reading) => {
            fault.begun(reading).await;
            reading.cap
        }
        Err(error) => {
            report.carried(&step, Err(error.to_string())).await;
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
    spawner: &'a Spawner,
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
        let (held, detail) = full(self.disk, self.spawner, asked, reading).await;
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
        let normal = match self.disk.account.set(self.disk.normal()).await {
            Ok(reading) => reading,
            Err(error) => return self.report.carried(end, Err(error.to_string())).await,
        };
        self.report.carried(end, Ok(())).await;
        let mut shown = self.gone(normal, cap).await;
        for _ in 1..LOOKS {
            if shown.0 {
                break;
            }
            if let Ok(reading) = self.disk.account.set(Wanted::Read).await {
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
        let answered = match self.spawner.probe_disk(&self.disk.account, denied).await {
            Ok(probed) => {
                detail.insert("probe-errno".to_owned(), json!(probed.errno));
                if allowed {
                    probed.got_it()
                } else {
                    probed.is_full()
                }
            }
            Err(error) => {
                detail.insert("why".to_owned(), json!(error.to_string()));
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
