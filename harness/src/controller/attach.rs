//! Watching one life of a node: its output, its readiness, its death, and while it is ready, what it says.
//!
//! To watch something new, begin it in [`Watch::attach`], or where it is asked over the network, in [`look`].

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tweedledum_core::launch::Launch;
use tweedledum_core::plan::model::{self, Source};
use tweedledum_core::run::Event;

use super::happened::Happened;
use super::network::NodeSite;
use super::watch::{Living, Watch};
use crate::agent::request::{Check, PingEvery, Poll, Read};
use crate::clock::monotonic_ns;
use crate::observe::NodeName;
use crate::observe::logs::{LogSpec, NodeLogs};
use crate::observe::ready::{ExecFn, Ready, until_ready};
use crate::substrate::{Life, NodePipes, Vantage};

/// How long the output of a dead node is read on: its pipes close with it, unless a child of it still holds them.
const DRAIN_BOUND: Duration = Duration::from_millis(500);

/// Lines of a dead node's output that are kept in the history; its log files have more.
const TAIL_LINES: usize = 20;

/// How readiness is found out: by what can be seen here, or from the node's vantage.
enum Readiness {
    Here(Ready),
    There(Arc<dyn Vantage>, Check),
}

impl Readiness {
    async fn wait(self, node: &NodeName, bound: Duration) -> Result<(), String> {
        let waited = match self {
            Self::Here(ready) => until_ready(node, ready, bound)
                .await
                .map_err(|error| error.to_string()),
            Self::There(vantage, check) => vantage.until_ready(check, bound).await,
        };
        waited.map(drop)
    }
}

impl Watch {
    /// Begins to watch a life: its output, its death, its readiness.
    pub(super) fn attach(
        &mut self,
        node: &str,
        incarnation: u32,
        ready_by_ns: u64,
        life: Arc<dyn Life>,
        pipes: NodePipes,
    ) -> Result<(), String> {
        let Some(place) = self.site.nodes.get(node) else {
            return Err("no such node".to_owned());
        };
        let ready_line = match &place.launch.ready {
            model::Ready::Log(pattern) => {
                Some(regex::Regex::new(pattern).map_err(|error| error.to_string())?)
            }
            _ => None,
        };
        let spec = LogSpec {
            node: Arc::from(node),
            dir: place.directory.path().to_owned(),
            stdout: pipes.stdout,
            stderr: pipes.stderr,
            former: pipes.former,
            cut: pipes.cut,
            lost: pipes.lost,
            ready_line,
        };
        let logs = self.logs.attach(spec).map_err(|error| error.to_string())?;
        let check = self.readiness(node, &place.launch.ready, &logs)?;
        let (bound, own) = self.ready_bound(ready_by_ns, incarnation, &place.launch);
        self.watch_exit(node, incarnation, &life, &logs);
        let (loop_, dead, name) = (self.loop_.clone(), Arc::clone(&life), NodeName::from(node));
        self.tasks.spawn(format!("wait until {node} is ready"), async move {
            let node = name.to_string();
            let happened = tokio::select! {
                // One that is dead will never be ready; its death is told elsewhere.
                _ = dead.died() => return,
                outcome = check.wait(&name, bound) => match outcome {
                    Ok(()) => Happened::Ready { node, incarnation },
                    Err(error) => Happened::Told(Event::NotReady { node, incarnation, last_seen: format!("{error}{own}") }),
                },
            };
            let _ = loop_.send(happened).await;
        });
        let living = Living {
            life,
            forced: false,
            ended_by: None,
        };
        self.living.insert(node.to_owned(), living);
        Ok(())
    }

    /// How long a node has to become ready from now on, and what to say when that ran out. At the start of a run it has
    /// what its role declares after everybody may have been started; later it has at least what its role declares.
    fn ready_bound(
        &self,
        ready_by_ns: u64,
        incarnation: u32,
        launch: &Launch,
    ) -> (Duration, String) {
        let now_ns = monotonic_ns().saturating_sub(self.site.began_ns);
        let within = launch.ready_within_ns;
        let bound = if incarnation == 0 {
            ready_by_ns.min(self.site.started_by_ns.saturating_add(within))
        } else {
            ready_by_ns.max(now_ns.saturating_add(within))
        };
        let bound = Duration::from_nanos(bound.saturating_sub(now_ns));
        let own = Duration::from_nanos(within);
        (
            bound,
            format!("; its role says `ready: {{ within: {own:?} }}`, more may help a slow starter"),
        )
    }

    fn readiness(
        &self,
        node: &str,
        ready: &model::Ready,
        logs: &NodeLogs,
    ) -> Result<Readiness, String> {
        let check = match ready {
            model::Ready::Http { url, status } => Check::Http {
                url: url.clone(),
                status: *status,
            },
            model::Ready::Tcp(address) => Check::Tcp(
                address
                    .parse()
                    .map_err(|error| format!("ready.tcp: `{address}` is no address: {error}"))?,
            ),
            model::Ready::Log(pattern) => {
                return Ok(Readiness::Here(Ready::Log {
                    pattern: pattern.clone(),
                    line: logs.ready_line(),
                }));
            }
            model::Ready::Exec(argv) => {
                return Ok(Readiness::Here(Ready::Exec {
                    argv: argv.clone(),
                    run: self.command_of(node),
                }));
            }
        };
        let vantage = self.substrate.vantage(node).ok_or("no such node")?;
        Ok(Readiness::There(vantage, check))
    }

    /// Runs readiness commands in the node's surroundings.
    fn command_of(&self, node: &str) -> ExecFn {
        let (substrate, node) = (Arc::clone(&self.substrate), node.to_owned());
        ExecFn(Arc::new(move |argv, bound| {
            let (substrate, node) = (Arc::clone(&substrate), node.clone());
            Box::pin(async move { substrate.run(&node, argv, bound).await })
        }))
    }

    fn watch_exit(&mut self, node: &str, incarnation: u32, life: &Arc<dyn Life>, logs: &NodeLogs) {
        let (life, mut logs) = (Arc::clone(life), logs.clone());
        let (loop_, node) = (self.loop_.clone(), node.to_owned());
        self.exits
            .spawn(format!("wait for the death of {node}"), async move {
                let death = life.died().await;
                // Its last words come before its death: a panic is told in them.
                if let Err(open) = logs.drained(DRAIN_BOUND).await {
                    tracing::debug!(node, ?open, "somebody else holds its output");
                }
                let [stdout, stderr] = logs.tails();
                let mut tail: Vec<String> = stdout.into_iter().chain(stderr).collect();
                tail.drain(..tail.len().saturating_sub(TAIL_LINES));
                let exited = Happened::Exited {
                    node,
                    incarnation,
                    status: death.status,
                    tail,
                };
                let _ = loop_.send(exited).await;
            });
    }
}

/// Polls and pings a node while that is wished, one wish after the other, and no more once nobody can wish.
pub(super) fn look(
    node: &NodeSite,
    name: &str,
    vantage: Arc<dyn Vantage>,
    layer: Duration,
    polls_per_layer: u32,
    mut wished: watch::Receiver<bool>,
) -> impl Future<Output = ()> + Send + use<> {
    let polls = node.launch.signals.iter().filter_map(|(signal, source)| {
        let (url, read) = match source {
            Source::Json { url, pointer } => (url, Read::Json(pointer.clone())),
            Source::Metric { url, name } => (url, Read::Metric(name.clone())),
            Source::Log { .. } => return None,
        };
        Some(Poll {
            signal: signal.clone(),
            url: url.clone(),
            read,
            period: layer / polls_per_layer.max(1),
            // Who hangs is told by layers without an answer: one that comes in time for its layer is slow, and no silence.
            within: layer,
        })
    });
    let polls: Vec<Poll> = polls.collect();
    let ping = node.session.as_ref().map(|session| PingEvery {
        target: session.ping_at(),
        period: layer,
    });
    let name = name.to_owned();
    async move {
        let mut looked_at = false;
        loop {
            let more = wished.changed().await.is_ok();
            let now = more && *wished.borrow_and_update();
            if now != looked_at {
                let (polls, ping) = if now {
                    (polls.clone(), ping.clone())
                } else {
                    (Vec::new(), None)
                };
                if let Err(error) = vantage.watch(polls, ping).await {
                    tracing::warn!(node = name, %error, "it is not looked at as it should be");
                }
                looked_at = now;
            }
            if !more {
                return;
            }
        }
    }
}
