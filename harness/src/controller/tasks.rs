//! Tasks of a run, each with a name: one that panics tells nothing of what it was to tell, so its end must be told.

use std::collections::HashMap;
use std::future::Future;

use tokio::task::{Id, JoinSet};

/// Named tasks, which end with it.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    set: JoinSet<()>,
    names: HashMap<Id, String>,
}

/// A task that panicked.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the harness's task `{task}` panicked: {why}; when that is no limit of this machine (`ulimit -a`, free memory), it is \
     a bug of Tweedledum"
)]
pub(super) struct Failed {
    /// Its name.
    pub(super) task: String,
    /// The message of its panic.
    pub(super) why: String,
}

impl Tasks {
    /// Starts a task.
    pub(super) fn spawn(
        &mut self,
        name: impl Into<String>,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let handle = self.set.spawn(task);
        self.names.insert(handle.id(), name.into());
    }

    /// Waits for the next task to end; `None` when there is none. May be dropped at any time.
    pub(super) async fn next(&mut self) -> Option<Result<(), Failed>> {
        let (id, ended) = match self.set.join_next_with_id().await? {
            Ok((id, ())) => (id, Ok(())),
            Err(error) => (error.id(), Err(error)),
        };
        let task = self.names.remove(&id).unwrap_or_default();
        Some(ended.or_else(|error| match error.try_into_panic() {
            Ok(panic) => Err(Failed {
                task,
                why: said(panic.as_ref()),
            }),
            // It was aborted, which is no failure.
            Err(_) => Ok(()),
        }))
    }

    /// Waits until one of them panics, for ever if none does. May be dropped at any time.
    pub(super) async fn failed(&mut self) -> Failed {
        loop {
            match self.next().await {
                Some(Err(failed)) => return failed,
                Some(Ok(())) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Ends all of them, and waits until they have ended.
    pub(super) async fn shutdown(&mut self) {
        self.set.shutdown().await;
        self.names.clear();
    }
}

/// The message of a panic.
fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "it left no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_with_the_name_of_its_task() {
        let mut tasks = Tasks::default();
        tasks.spawn("ends", async {});
        tasks.spawn("breaks", async { panic!("no {}", "thread") });
        let failed = tasks.failed().await;
        let (task, why) = ("breaks".to_owned(), "no thread".to_owned());
        assert_eq!(failed, Failed { task, why });
    }

    #[tokio::test]
    async fn ends_and_aborts_are_no_failures() {
        let mut tasks = Tasks::default();
        tasks.spawn("ends", async {});
        tasks.spawn("goes on", std::future::pending());
        assert_eq!(tasks.next().await, Some(Ok(())));
        tasks.shutdown().await;
        assert_eq!(tasks.next().await, None);
    }
}
