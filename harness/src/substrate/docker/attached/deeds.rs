//! What a run does to containers that are not its own. Each deed that stops one is recorded before it is done, so that
//! whoever is left can [bring it up](super::super::bring_up); and the end of the run waits for those that are being done.

use std::sync::Arc;

use tokio::sync::{OwnedRwLockReadGuard, RwLock};

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
            _going: going,
        })
    }

    /// Begins a deed that stops or pauses a container.
    pub(super) async fn down(&self, member: &Member) -> Result<Deed, String> {
        let deed = self.begin().await?;
        let (id, name) = (member.id.clone(), member.container.clone());
        let recorded = record(&deed.ledger, Entry::Down { id, name }).await;
        recorded.map_err(|error| error.to_string())?;
        Ok(deed)
    }

    /// Waits until no deed is being done; from then on none begins.
    pub(super) async fn end(&self) {
        *self.over.write().await = true;
    }
}

impl Deed {
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

    #[tokio::test]
    async fn the_intent_comes_first_and_the_end_waits_for_the_deed() {
        let member = Member {
            id: "i".to_owned(),
            container: "p_gateway-0_1".to_owned(),
            image: "sha256:1".to_owned(),
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            network: String::new(),
        };
        let full = Ledger::new(|_| Err(std::io::Error::other("full")));
        let refused = Deeds::new(full).down(&member).await.unwrap_err();
        assert!(refused.contains("full"), "{refused}");
        let deeds = Deeds::new(Ledger::new(|_| Ok(())));
        let deed = deeds.down(&member).await.unwrap();
        let intent = Entry::Down {
            id: "i".to_owned(),
            name: "p_gateway-0_1".to_owned(),
        };
        assert_eq!(deeds.ledger.entries(), [intent]);
        let ending = deeds.clone();
        let mut ended = std::pin::pin!(ending.end());
        assert_eq!(futures_util::poll!(&mut ended), std::task::Poll::Pending);
        deed.up(&member).await;
        drop(deed);
        ended.await;
        assert_eq!(deeds.ledger.entries().len(), 2);
        assert!(deeds.down(&member).await.is_err());
    }
}
