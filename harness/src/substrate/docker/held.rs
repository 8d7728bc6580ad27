//! A node's disk that is held: a volume in memory of a fixed size, made smaller by the agent's ballast.
//!
//! The volume is as large as the node's limit; without one, as the largest cap of a fault and [`SPARE`] more, which is
//! then what a node has that no fault is on. A call that gets no room cannot be seen from outside, so what is told as a
//! hit is that the agent found the volume without a free block: whoever asked for one then got none.

use std::time::Duration;

use futures_util::future::FutureExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::link::AgentLink;
use super::pod::{Data, Pod};
use super::wire::Disk;
use crate::substrate::disk::{BLOCK, DiskStatus, Probed, Reading, Wanted};
use crate::substrate::{DiskHold, DiskNeed, Doing};

/// What a node has beyond the largest cap that a fault puts on it, while none does. All of it is memory while a fault is
/// on, since ballast is.
const SPARE: u64 = 64 << 20;

/// How often the agent is asked whether the volume was full meanwhile.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// How large the volume of a node is.
pub(super) fn size_of(need: DiskNeed) -> u64 {
    let size = need
        .limit
        .unwrap_or_else(|| need.largest_cap.saturating_add(SPARE));
    size / BLOCK * BLOCK
}

/// The disk of one node.
#[derive(Debug)]
pub(super) struct HeldDisk {
    link: AgentLink,
    size: u64,
    limited: bool,
    status: watch::Receiver<DiskStatus>,
    _asking: JoinSet<()>,
}

impl HeldDisk {
    /// Takes it up as it is without a fault.
    pub(super) async fn hold(pod: &Pod, need: DiskNeed) -> Result<Self, String> {
        let Data::Sized(size) = pod.data() else {
            return Err(format!("the volume of {} has no size", pod.name()));
        };
        let link = pod.agent().clone();
        // Ballast of nothing is what makes the agent look at the volume from now on.
        let disk = link.ballast(0).await.map_err(|error| error.to_string())?;
        if disk.size != size {
            return Err(format!(
                "the volume of {} has {} bytes where {size} were asked for; the engine's `local` driver does not hold sizes of tmpfs volumes",
                pod.name(),
                disk.size
            ));
        }
        let (tell, status) = watch::channel(DiskStatus::default());
        let mut asking = JoinSet::new();
        asking.spawn(ask(link.clone(), tell));
        Ok(Self {
            link,
            size,
            limited: need.limit.is_some(),
            status,
            _asking: asking,
        })
    }

    fn reading(&self, disk: Disk) -> Reading {
        let free = self.limited || disk.ballast_wanted > 0;
        Reading {
            cap: free.then(|| self.size.saturating_sub(disk.ballast_wanted)),
            used: used(disk),
        }
    }

    async fn make(&self, wanted: Wanted) -> Result<Reading, String> {
        let told = |error: super::link::LinkError| error.to_string();
        let cap = match wanted {
            Wanted::Read => {
                return Ok(self.reading(self.link.disk().await.map_err(told)?));
            }
            Wanted::None => self.size,
            Wanted::Bytes(bytes) => bytes / BLOCK * BLOCK,
            Wanted::Leave { bytes, most } => {
                let disk = self.link.disk().await.map_err(told)?;
                let cap = used(disk).saturating_add(bytes / BLOCK * BLOCK);
                most.map_or(cap, |most| cap.min(most / BLOCK * BLOCK))
            }
        };
        let ballast = self.size.saturating_sub(cap);
        let disk = self.link.ballast(ballast).await.map_err(told)?;
        Ok(self.reading(disk))
    }
}

/// What the node has taken.
fn used(disk: Disk) -> u64 {
    disk.size
        .saturating_sub(disk.free)
        .saturating_sub(disk.ballast)
}

/// Asks the agent, as long as it is there, how often it has found the volume full.
async fn ask(link: AgentLink, tell: watch::Sender<DiskStatus>) {
    while let Ok(disk) = link.disk().await {
        tell.send_if_modified(|status| {
            let more = disk.full > status.hits;
            status.hits = disk.full;
            more
        });
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

impl DiskHold for HeldDisk {
    fn set(&self, wanted: Wanted) -> Doing<'_, Reading> {
        self.make(wanted).boxed()
    }

    fn probe(&self, bytes: u64) -> Doing<'_, Probed> {
        async move {
            let errno = self.link.probe_disk(bytes).await;
            let errno = errno.map_err(|error| error.to_string())?;
            Ok(Probed {
                asked: bytes,
                errno: errno.unwrap_or(0),
            })
        }
        .boxed()
    }

    fn status(&self) -> watch::Receiver<DiskStatus> {
        self.status.clone()
    }
}
