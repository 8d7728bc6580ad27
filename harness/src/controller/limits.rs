//! Limits on what nodes have of their machine, and their evidence.
//!
//! Armed is the limit as it is read back where it was set; applied, and gone, is what the kernel holds the node's own
//! process to, found from that process; felt is that the node came up against it, as the kernel counts. A node that dies of
//! a limit has felt it too, which the state machine tells.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::oneshot;
use tweedledum_core::capability::Resource;
use tweedledum_core::history::Grade;
use tweedledum_core::schedule::{Action, Step};

use super::steps::Reporter;
use crate::substrate::cgroup::{Share, as_wanted};
use crate::substrate::{Detail, Life};

/// The step that ends a limit, and the life that its node has then.
pub(super) type End = (Step, Option<Arc<dyn Life>>);

/// Sees a limit through: sets it, shows that, and once asked to, tells whether it was felt and takes it back.
pub(super) async fn see_through(
    step: Step,
    life: Option<Arc<dyn Life>>,
    stop: oneshot::Receiver<End>,
    report: Reporter,
) {
    let (
        Action::Limit {
            resource, amount, ..
        },
        Some(life),
    ) = (&step.action, life)
    else {
        let why = "there is no process to limit".to_owned();
        return report.carried(&step, Err(why)).await;
    };
    let limit = Limit {
        step: &step,
        resource: *resource,
        amount: *amount,
        report: &report,
    };
    let before = limit.begin(life.as_ref()).await;
    // The run may end first.
    let Ok((end, now)) = stop.await else { return };
    let now = now.unwrap_or(life);
    limit.end(&end, now.as_ref(), before).await;
}

struct Limit<'a> {
    step: &'a Step,
    resource: Resource,
    amount: u64,
    report: &'a Reporter,
}

impl Limit<'_> {
    async fn proved(&self, grade: Grade, held: bool, detail: Detail) {
        self.report.proved(self.step.id, grade, held, detail).await;
    }

    /// Sets it; how often the node had come up against a limit before.
    async fn begin(&self, life: &dyn Life) -> Option<u64> {
        // Counted from here, since who waits longer and longer after each refusal may come up against it once, at once.
        let before = life.share(self.resource).await;
        let read = match life.limit(self.resource, Some(self.amount)).await {
            Ok(read) => read,
            Err(why) => {
                self.report.carried(self.step, Err(why)).await;
                return None;
            }
        };
        self.report.carried(self.step, Ok(())).await;
        let armed = as_wanted(self.resource, self.amount, read);
        self.proved(Grade::Armed, armed, of_limit(self.resource, read))
            .await;
        let share = life.share(self.resource).await;
        let held = share
            .as_ref()
            .is_ok_and(|share| as_wanted(self.resource, self.amount, share.limit));
        self.proved(Grade::Applied, held, of_share(self.resource, &share))
            .await;
        before.ok().map(|share| share.hits)
    }

    async fn end(&self, end: &Step, life: &dyn Life, before: Option<u64>) {
        if let (Some(before), Ok(share)) = (before, life.share(self.resource).await)
            && share.hits > before
        {
            let hits = Detail::from([("hits".to_owned(), json!(share.hits - before))]);
            self.proved(Grade::Felt, true, hits).await;
        }
        let read = match life.limit(self.resource, None).await {
            Ok(read) => read,
            Err(why) => return self.report.carried(end, Err(why)).await,
        };
        self.report.carried(end, Ok(())).await;
        if life.try_died().is_some() {
            // Nobody is held to anything; the next life will not be either.
            let mut detail = of_limit(self.resource, read);
            detail.insert("node".to_owned(), json!("dead"));
            return self.proved(Grade::Gone, read.is_none(), detail).await;
        }
        let share = life.share(self.resource).await;
        let gone = read.is_none() && share.as_ref().is_ok_and(|share| share.limit.is_none());
        self.proved(Grade::Gone, gone, of_share(self.resource, &share))
            .await;
    }
}

fn of_limit(resource: Resource, limit: Option<u64>) -> Detail {
    Detail::from([(resource.limit_key().to_owned(), json!(limit))])
}

fn of_share(resource: Resource, share: &Result<Share, String>) -> Detail {
    match share {
        Ok(share) => of_limit(resource, share.limit),
        Err(why) => Detail::from([("why".to_owned(), json!(why))]),
    }
}
