//! Waits until a node is ready, in the way its role declares.
//!
//! Polls with a small growing pause, never longer than its bound, and when the bound runs out says
//! what it saw last. Cancel it by dropping the future. To add a way of being ready, add a variant
//! to [`Ready`] and an arm to `try_once`.
//!
//! It does not watch whether the node still runs: wait for that beside it.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use reqwest::Client;
use tokio::sync::watch;
use tokio::time::Instant;

use super::http::{fetch, reason};
use super::{NodeName, excerpt};

/// First pause between two tries; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// Longest pause between two tries: a hundred nodes asked this often still cost little.
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// Longest that one try may take, so that one lost answer does not use up the whole bound.
const TRY_MAX: Duration = Duration::from_secs(1);

/// What it means for a node to be ready.
#[derive(Debug, Clone)]
pub enum Ready {
    /// A page answers with this status.
    Http {
        /// The client to ask with.
        client: Client,
        /// The page.
        url: String,
        /// The status.
        status: u16,
    },
    /// A TCP connection is accepted.
    Tcp(SocketAddr),
    /// A line of the node's output matched.
    Log {
        /// The pattern, for messages.
        pattern: String,
        /// Where the matching line appears: [`super::logs::NodeLogs::ready_line`].
        line: watch::Receiver<Option<String>>,
    },
    /// A program ends with success.
    Exec {
        /// The program and its arguments; no shell is involved.
        argv: Vec<String>,
        /// Starts it.
        run: ExecFn,
    },
}

/// Runs a program within a bound and kills it when that runs out; handed in by the substrate,
/// which alone starts processes. The error says why it could not be started.
#[derive(Clone)]
pub struct ExecFn(pub Arc<dyn Fn(Vec<String>, Duration) -> ExecFuture + Send + Sync>);

/// What an [`ExecFn`] returns.
pub type ExecFuture = Pin<Box<dyn Future<Output = Result<ExecEnd, String>> + Send>>;

impl fmt::Debug for ExecFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExecFn")
    }
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecEnd {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// The end of what it printed.
    pub output: String,
}

/// A node was not ready in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "node {node} was not ready within {bound:?}: waited for {waited_for}; {last} ({tries} tries)"
)]
pub struct NotReady {
    /// Who.
    pub node: NodeName,
    /// The bound that ran out, or the time until waiting became pointless.
    pub bound: Duration,
    /// What would have been ready.
    pub waited_for: String,
    /// What was seen last, such as `last answer: 503 no swarm peer yet`.
    pub last: String,
    /// How often it was tried.
    pub tries: u32,
}

/// Waits until `node` is ready; returns how long that took.
pub fn until_ready(
    node: &NodeName,
    ready: Ready,
    bound: Duration,
) -> BoxFuture<'_, Result<Duration, NotReady>> {
    async move {
        let began = Instant::now();
        let waited_for = describe(&ready);
        let not_ready = |bound, last, tries| NotReady {
            node: Arc::clone(node),
            bound,
            waited_for: waited_for.clone(),
            last,
            tries,
        };
        if let Ready::Log { line, .. } = ready {
            return match until_line(line, bound).await {
                Ok(()) => Ok(began.elapsed()),
                Err(last) => Err(not_ready(began.elapsed().min(bound), last, 1)),
            };
        }
        let deadline = began + bound;
        let mut pause = PAUSE_MIN;
        let mut last = "nothing was seen yet".to_owned();
        let mut tries = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(not_ready(bound, last, tries));
            }
            tries += 1;
            match try_once(&ready, left.min(TRY_MAX)).await {
                Ok(()) => return Ok(began.elapsed()),
                // A try that the deadline cut short says less than the one before it.
                Err(Failure::TooShort) if tries > 1 => {}
                Err(Failure::TooShort) => "no answer".clone_into(&mut last),
                Err(Failure::Seen(text)) => last = text,
            }
            tokio::time::sleep_until((Instant::now() + pause).min(deadline)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
    .boxed()
}

/// Why one try brought nothing.
enum Failure {
    /// Something was seen.
    Seen(String),
    /// The bound of the try ran out, and it was a short one.
    TooShort,
}

async fn try_once(ready: &Ready, bound: Duration) -> Result<(), Failure> {
    let attempt = async {
        match ready {
            Ready::Http {
                client,
                url,
                status,
            } => {
                let answer = fetch(client, url, TRY_MAX)
                    .await
                    .map_err(|e| format!("last try: {e}"))?;
                let (got, why) = (answer.status.as_u16(), reason(&answer.body));
                let last = format!("last answer: {got} {why}");
                if got == *status {
                    Ok(())
                } else {
                    Err(last.trim_end().to_owned())
                }
            }
            Ready::Tcp(address) => {
                let connected = tokio::net::TcpStream::connect(address).await;
                connected
                    .map(drop)
                    .map_err(|error| format!("last try: cannot connect: {error}"))
            }
            Ready::Exec { argv, run } => {
                let end = (run.0)(argv.clone(), TRY_MAX).await;
                let end = end.map_err(|error| format!("last try: cannot start it: {error}"))?;
                let how = match end.code {
                    Some(0) => return Ok(()),
                    Some(code) => format!("exit code {code}"),
                    None => "ended by a signal".to_owned(),
                };
                let last = format!("last try: {how} {}", excerpt(&end.output, 160));
                Err(last.trim_end().to_owned())
            }
            Ready::Log { .. } => unreachable!("lines are waited for, not tried"),
        }
    };
    match tokio::time::timeout(bound, attempt).await {
        Ok(result) => result.map_err(Failure::Seen),
        Err(_) if bound < TRY_MAX => Err(Failure::TooShort),
        Err(_) => Err(Failure::Seen(format!(
            "last try: no answer within {bound:?}"
        ))),
    }
}

async fn until_line(
    mut line: watch::Receiver<Option<String>>,
    bound: Duration,
) -> Result<(), String> {
    match tokio::time::timeout(bound, line.wait_for(Option::is_some)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err("its output ended without such a line".to_owned()),
        Err(_) => Err("no line matched so far".to_owned()),
    }
}

fn describe(ready: &Ready) -> String {
    match ready {
        Ready::Http { url, status, .. } => format!("status {status} from {url}"),
        Ready::Tcp(address) => format!("a TCP connection to {address}"),
        Ready::Log { pattern, .. } => format!("a line of output that matches `{pattern}`"),
        Ready::Exec { argv, .. } => format!("`{}` to succeed", argv.join(" ")),
    }
}

#[cfg(test)]
#[path = "ready_tests.rs"]
mod tests;
