//! What is being done on the engine when its run ends is waited for, and from then on nothing is begun: what appears after
//! teardown has looked would be left.

use std::sync::Arc;

use tokio::sync::{OwnedRwLockReadGuard, RwLock};

/// A handle that can be cloned.
#[derive(Debug, Clone, Default)]
pub(super) struct Gate(Arc<RwLock<bool>>);

/// Something that is being done.
#[derive(Debug)]
pub(super) struct Inside(#[expect(dead_code, reason = "it is held")] OwnedRwLockReadGuard<bool>);

impl Gate {
    /// Begins to do something.
    ///
    /// # Errors
    /// The run has ended.
    pub(super) async fn enter(&self) -> Result<Inside, String> {
        let closed = Arc::clone(&self.0).read_owned().await;
        if *closed {
            return Err("the run has ended, and nothing more is done on its engine".to_owned());
        }
        Ok(Inside(closed))
    }

    /// Waits until nothing is being done; from then on nothing is begun.
    pub(super) async fn close(&self) {
        *self.0.write().await = true;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn the_end_waits_for_what_is_being_done_and_nothing_begins_after_it() {
        let gate = Gate::default();
        let (one, other) = (gate.enter().await.unwrap(), gate.enter().await.unwrap());
        let closing = gate.clone();
        let mut closed = std::pin::pin!(closing.close());
        assert!(poll!(&mut closed).is_pending());
        drop(one);
        assert!(poll!(&mut closed).is_pending());
        drop(other);
        closed.await;
        assert!(gate.enter().await.is_err());
    }
}
