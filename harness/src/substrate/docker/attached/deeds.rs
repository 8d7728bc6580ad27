//! What a run does to containers that are not its own. Each deed that stops one is recorded before it is done, so that
//! whoever is left can [bring it up](super::super::bring_up); and the end of the run waits for those that are being done.

use std::sync::Arc;

use tokio::sync::{OwnedRwLockReadGuard, RwLock};

use super::super::bring_up::down;
use super::super::container::record;
use super::super::ledger::{Entry, Ledger};
use super::project::Member;

/// A handle that can be cloned.
#[derive(Debug, Clone)]
pub(super) struct Deeds {
    ledger: Ledger,
    over: Arc<RwLock<bool>>,
}

/// A deed that is being done.
#[derive(Debug)]
pub(super) struct Deed {
    ledger: Ledger,
    /// Whether an earlier deed has stopped or paused the same life already.
    down_before: bool,
    _going: OwnedRwLockReadGuard<bool>,
}

impl Deeds {
    pub(super) fn new(ledger: Ledger) -> Self {
        Self {
            ledger,
            over: Arc::default(),
        }
    }

    /// Begins a deed that stops nothing.
    pub(super) async fn begin(&self) -> Result<Deed, String> {
        let going = Arc::clone(&self.over).read_owned().await;
        if *going {
            return Err("the run has ended, and what it had stopped is brought up".to_owned());
        }
        Ok(Deed {
            ledger: self.ledger.clone(),
            down_before: false,
            _going: going,
        })
    }

    /// Begins a deed that stops or pauses a container in its life that was started then.
    pub(super) async fn down(
        &self,
        member: &Member,
        started: Option<&str>,
    ) -> Result<Deed, String> {
        let mut deed = self.begin().await?;
        let started = started.ok_or("the engine did not tell when it was started")?;
        let down = down(&deed.ledger.entries());
        let before = down.get(&member.id);
        deed.down_before = before.is_some_and(|before| before.started == started);
        let entry = Entry::Down {
            id: member.id.clone(),
            name: member.container.clone(),
            started: started.to_owned(),
        };
        let recorded = record(&deed.ledger, entry).await;
        recorded.map_err(|error| error.to_string())?;
        Ok(deed)
    }

    /// Waits until no deed is being done; from then on none begins.
    pub(super) async fn end(&self) {
        *self.over.write().await = true;
    }
}

impl Deed {
    /// Records that this deed has stopped nothing. What one before it has stopped still is.
    pub(super) async fn not_done(&self, member: &Member) {
        if !self.down_before {
            self.up(member).await;
        }
    }

    /// Records that a container is up again. If that fails, it is looked at once more at the end.
    pub(super) async fn up(&self, member: &Member) {
        let id = member.id.clone();
        if let Err(error) = record(&self.ledger, Entry::Up { id }).await {
            tracing::warn!(container = member.container, %error, "it counts as down");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member() -> Member {
        Member {
            id: "i".to_owned(),
            container: "p_gateway-0_1".to_owned(),
            image: "sha256:1".to_owned(),
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            network: String::new(),
        }
    }

    #[tokio::test]
    async fn what_was_not_done_is_not_undone() {
        let (member, deeds) = (member(), Deeds::new(Ledger::new(|_| Ok(()))));
        let is_down = || down(&deeds.ledger.entries()).contains_key("i");
        // It had died by itself, and the engine refused to kill it.
        let deed = deeds.down(&member, Some("t")).await.unwrap();
        assert!(is_down());
        deed.not_done(&member).await;
        assert!(!is_down());
        // It is paused, and the engine refused to pause it again.
        deeds.down(&member, Some("t")).await.unwrap();
        let again = deeds.down(&member, Some("t")).await.unwrap();
        again.not_done(&member).await;
        assert!(is_down());
    }

    #[tokio::test]
    async fn the_intent_comes_first_and_the_end_waits_for_the_deed() {
        let member = member();
        let full = Ledger::new(|_| Err(std::io::Error::other("full")));
        let refused = Deeds::new(full).down(&member, Some("t")).await.unwrap_err();
        assert!(refused.contains("full"), "{refused}");
        let deeds = Deeds::new(Ledger::new(|_| Ok(())));
        let deed = deeds.down(&member, Some("t")).await.unwrap();
        let intent = Entry::Down {
            id: "i".to_owned(),
            name: "p_gateway-0_1".to_owned(),
            started: "t".to_owned(),
        };
        assert_eq!(deeds.ledger.entries(), [intent]);
        let ending = deeds.clone();
        let mut ended = std::pin::pin!(ending.end());
        assert_eq!(futures_util::poll!(&mut ended), std::task::Poll::Pending);
        deed.up(&member).await;
        drop(deed);
        ended.await;
        assert_eq!(deeds.ledger.entries().len(), 2);
        assert!(deeds.down(&member, Some("t")).await.is_err());
    }
}
