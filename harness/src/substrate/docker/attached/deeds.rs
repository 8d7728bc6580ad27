//! What a run does to containers that are not its own. Each deed that stops one is recorded before it is done, so that
//! whoever is left can [bring it up](super::super::bring_up); and the end of the run waits for those that are being done.
//! Only what is recorded is undone: what the engine refused is struck out again.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::super::bring_up::down;
use super::super::container::{DockerError, record};
use super::super::gate::{Gate, Inside};
use super::super::ledger::{Entry, Halt, Ledger};
use super::project::Member;

/// A handle that can be cloned.
#[derive(Debug, Clone)]
pub(super) struct Deeds {
    ledger: Ledger,
    gate: Gate,
    /// An entry holds all that was done to a life, so nobody may write one between another's look and its entry.
    writing: Arc<Mutex<()>>,
}

/// A deed that is being done.
#[derive(Debug)]
pub(super) struct Deed {
    deeds: Deeds,
    /// What it has added to what is recorded, and to which life of the container.
    added: Option<(String, Halt)>,
    _inside: Inside,
}

impl Deeds {
    pub(super) fn new(ledger: Ledger) -> Self {
        Self {
            ledger,
            gate: Gate::default(),
            writing: Arc::default(),
        }
    }

    /// Begins a deed that stops nothing.
    pub(super) async fn begin(&self) -> Result<Deed, String> {
        Ok(Deed {
            deeds: self.clone(),
            added: None,
            _inside: self.gate.enter().await?,
        })
    }

    /// Begins a deed that stops or pauses a container in its life that was started then.
    pub(super) async fn down(
        &self,
        member: &Member,
        started: Option<&str>,
        halt: Halt,
    ) -> Result<Deed, String> {
        let mut deed = self.begin().await?;
        let started = started.ok_or("the engine did not tell when it was started")?;
        let _writing = self.writing.lock().await;
        let mut halts = self.done_to(member, started);
        if halts.insert(halt) {
            deed.added = Some((started.to_owned(), halt));
        }
        let recorded = self.record(member, started, halts).await;
        recorded.map_err(|error| error.to_string())?;
        Ok(deed)
    }

    /// Whether the run did this to the life of a container that was started then, and has not taken it back.
    pub(super) fn has_done(&self, member: &Member, started: Option<&str>, halt: Halt) -> bool {
        started.is_some_and(|started| self.done_to(member, started).contains(&halt))
    }

    fn done_to(&self, member: &Member, started: &str) -> BTreeSet<Halt> {
        let downed = down(&self.ledger.entries()).remove(&member.id);
        let downed = downed.filter(|downed| downed.started == started);
        downed.map(|downed| downed.halts).unwrap_or_default()
    }

    async fn record(
        &self,
        member: &Member,
        started: &str,
        halts: BTreeSet<Halt>,
    ) -> Result<(), DockerError> {
        let entry = Entry::Down {
            id: member.id.clone(),
            name: member.container.clone(),
            started: started.to_owned(),
            halts,
        };
        record(&self.ledger, entry).await
    }

    /// Waits until no deed is being done; from then on none begins.
    pub(super) async fn end(&self) {
        self.gate.close().await;
    }
}

impl Deed {
    /// Records that this deed has stopped nothing. What one before it has stopped still is.
    pub(super) async fn not_done(&self, member: &Member) {
        if let Some((started, halt)) = &self.added {
            self.strike(member, started, *halt).await;
        }
    }

    /// Records that nothing of this is left of what was done to a life. The rest of it is.
    pub(super) async fn strike(&self, member: &Member, started: &str, halt: Halt) {
        let _writing = self.deeds.writing.lock().await;
        let mut halts = self.deeds.done_to(member, started);
        if !halts.remove(&halt) {
            return;
        }
        if halts.is_empty() {
            return self.up(member).await;
        }
        if let Err(error) = self.deeds.record(member, started, halts).await {
            tracing::warn!(container = member.container, %error, "it counts as down");
        }
    }

    /// Records that a container is up again. If that fails, it is looked at once more at the end.
    pub(super) async fn up(&self, member: &Member) {
        let id = member.id.clone();
        if let Err(error) = record(&self.deeds.ledger, Entry::Up { id }).await {
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
            on: std::collections::BTreeMap::new(),
        }
    }

    #[tokio::test]
    async fn what_was_not_done_is_not_undone() {
        let (member, deeds) = (member(), Deeds::new(Ledger::new(|_| Ok(()))));
        let is_down = || down(&deeds.ledger.entries()).contains_key("i");
        // It had died by itself, and the engine refused to kill it.
        let deed = deeds.down(&member, Some("t"), Halt::Stop).await.unwrap();
        assert!(is_down());
        deed.not_done(&member).await;
        assert!(!is_down());
        // It is paused, and the engine refused to pause it again.
        deeds.down(&member, Some("t"), Halt::Pause).await.unwrap();
        let again = deeds.down(&member, Some("t"), Halt::Pause).await.unwrap();
        again.not_done(&member).await;
        assert!(is_down());
        // The engine refused to kill it: it is paused, and that is all.
        let kill = deeds.down(&member, Some("t"), Halt::Stop).await.unwrap();
        let did = |halt| deeds.has_done(&member, Some("t"), halt);
        assert!(did(Halt::Pause) && did(Halt::Stop));
        kill.not_done(&member).await;
        assert!(did(Halt::Pause) && !did(Halt::Stop));
        // In another life nothing was done.
        assert!(!deeds.has_done(&member, Some("u"), Halt::Pause));
        kill.strike(&member, "u", Halt::Pause).await;
        assert!(is_down());
        kill.strike(&member, "t", Halt::Pause).await;
        assert!(!is_down());
    }

    #[tokio::test]
    async fn the_intent_comes_first_and_the_end_waits_for_the_deed() {
        let member = member();
        let full = Ledger::new(|_| Err(std::io::Error::other("full")));
        let refused = Deeds::new(full)
            .down(&member, Some("t"), Halt::Pause)
            .await
            .unwrap_err();
        assert!(refused.contains("full"), "{refused}");
        let deeds = Deeds::new(Ledger::new(|_| Ok(())));
        let deed = deeds.down(&member, Some("t"), Halt::Pause).await.unwrap();
        let intent = Entry::Down {
            id: "i".to_owned(),
            name: "p_gateway-0_1".to_owned(),
            started: "t".to_owned(),
            halts: [Halt::Pause].into(),
        };
        assert_eq!(deeds.ledger.entries(), [intent]);
        let ending = deeds.clone();
        let mut ended = std::pin::pin!(ending.end());
        assert_eq!(futures_util::poll!(&mut ended), std::task::Poll::Pending);
        deed.up(&member).await;
        drop(deed);
        ended.await;
        assert_eq!(deeds.ledger.entries().len(), 2);
        assert!(deeds.down(&member, Some("t"), Halt::Pause).await.is_err());
    }
}
