//! The floods of an agent: prepared, sent, held open, closed, each by an order of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::agent::Dialect;
use crate::agent::flood::{FloodHandle, FloodReport, FloodSpec, PreparedFlood};
use crate::clock::instant_at;

/// More at once on one node is no plan; each holds hundreds of sockets.
const FLOODS_MAX: usize = 32;
/// There is time to prepare a flood, and the nodes need the processors.
const PREPARER_NICE: i32 = 10;

#[derive(Debug)]
enum Flood {
    /// Being made ready by a thread of its own.
    Preparing,
    Prepared(Box<PreparedFlood>),
    /// Going, or holding its ports open. Locked by whoever waits for it.
    Going(Arc<tokio::sync::Mutex<FloodHandle>>, Arc<StopOf>),
}

/// A way to stop a flood while somebody waits for its end.
#[derive(Debug, Default)]
struct StopOf(tokio::sync::Notify);

/// All floods of an agent. Dropping them stops them.
#[derive(Debug, Default)]
pub(crate) struct Floods(Mutex<BTreeMap<u32, Flood>>);

impl Floods {
    pub(crate) async fn prepare(
        &self,
        flood: u32,
        dialect: Arc<dyn Dialect>,
        spec: FloodSpec,
    ) -> Result<(), String> {
        if self.all().len() >= FLOODS_MAX {
            return Err(format!("more than {FLOODS_MAX} floods at once on one node"));
        }
        self.all().insert(flood, Flood::Preparing);
        let prepared = prepared(dialect, spec).await;
        let mut all = self.all();
        // Who gave the order may have given it up meanwhile.
        if !matches!(all.get(&flood), Some(Flood::Preparing)) {
            return Err(format!("flood {flood} was stopped before it was ready"));
        }
        all.remove(&flood);
        all.insert(flood, Flood::Prepared(Box::new(prepared?)));
        Ok(())
    }

    /// Starts a prepared flood and waits until all is sent.
    pub(crate) async fn start(&self, flood: u32, at_ns: u64) -> Result<FloodReport, String> {
        let found = self.all().remove(&flood);
        let Some(Flood::Prepared(prepared)) = found else {
            return Err(format!("flood {flood} is not prepared"));
        };
        let handle = prepared
            .start(instant_at(at_ns))
            .map_err(|error| error.to_string())?;
        let handle = Arc::new(tokio::sync::Mutex::new(handle));
        let stop = Arc::new(StopOf::default());
        self.all()
            .insert(flood, Flood::Going(Arc::clone(&handle), Arc::clone(&stop)));
        let mut handle = handle.lock().await;
        let sent = tokio::select! {
            sent = handle.sent() => Some(sent),
            () = stop.0.notified() => None,
        };
        let sent = if let Some(sent) = sent {
            sent
        } else {
            handle.request_stop();
            handle.sent().await
        };
        sent.map_err(|error| error.to_string())
    }

    /// Stops a flood and waits until its ports are closed; `None` for one that was never started.
    pub(crate) async fn stop(&self, flood: u32) -> Result<Option<FloodReport>, String> {
        let found = self.all().remove(&flood);
        match found {
            None | Some(Flood::Preparing | Flood::Prepared(_)) => Ok(None),
            Some(Flood::Going(handle, stop)) => {
                stop.0.notify_one();
                let mut handle = handle.lock().await;
                handle.request_stop();
                handle
                    .closed()
                    .await
                    .map(Some)
                    .map_err(|error| error.to_string())
            }
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<u32, Flood>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a flood's sockets and builds its datagrams.
async fn prepared(dialect: Arc<dyn Dialect>, spec: FloodSpec) -> Result<PreparedFlood, String> {
    let (answer, prepared) = oneshot::channel();
    // A thread of its own, since without rights no thread gets back to the priority that it gave up.
    std::thread::Builder::new()
        .name("flood-prepare".to_owned())
        .spawn(move || {
            let thread = Some(rustix::thread::gettid());
            if let Err(error) = rustix::process::setpriority_process(thread, PREPARER_NICE) {
                tracing::debug!(%error, "a flood is prepared at the usual priority");
            }
            let _ = answer.send(PreparedFlood::prepare(dialect.as_ref(), spec));
        })
        .map_err(|error| error.to_string())?;
    prepared
        .await
        .map_err(|_| "its thread ended without an answer".to_owned())?
        .map_err(|error| error.to_string())
}
