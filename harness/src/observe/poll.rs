//! Polls signals over HTTP: numbers out of JSON pages and out of Prometheus metrics.
//!
//! All signals of a node that come from one URL share one request, and all requests share one
//! client with kept connections. Polls of equal period are spread evenly over it, so that a
//! hundred nodes are not asked at once. Whatever keeps a value from being read is a [`Gap`] with
//! its reason. To read a new kind of page, add a variant to [`Extract`].
//!
//! It decides nothing about what a missing value means, and polls the dead like the living.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Client;
use serde_json::Value as Json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use super::http::http_client;
use super::http::{Answer, fetch, reason};
use super::prometheus::{MetricName, Metrics};
use super::{Gap, NodeName, Observation, Sample, Value};
use crate::clock::monotonic_ns;

/// Longest text that is a value; a state root has 64 characters.
const TEXT_MAX: usize = 1024;

/// Shortest period at which anything is polled, whatever is asked: the event loop's timers are no
/// finer than a few milliseconds.
const PERIOD_MIN: Duration = Duration::from_millis(10);

/// How a value is taken out of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extract {
    /// The number, truth or string at a JSON pointer (RFC 6901).
    Json(String),
    /// A metric, summed over the label sets that fit.
    Metric(MetricName),
}

/// One signal of one node.
#[derive(Debug, Clone)]
pub struct SignalPoll {
    /// Whose.
    pub node: NodeName,
    /// Name of the signal.
    pub signal: Arc<str>,
    /// The page that has it.
    pub url: Arc<str>,
    /// Where on the page.
    pub read: Extract,
    /// How often. Signals that share a request are polled at the shortest of their periods.
    pub period: Duration,
    /// How long an answer may take; those who share a request wait for the most patient. Nothing else is asked of the
    /// page meanwhile.
    pub within: Duration,
}

/// Polls until dropped. To be started inside a Tokio runtime.
#[derive(Debug)]
#[must_use = "dropping a poller stops it"]
pub struct Poller {
    _tasks: JoinSet<()>,
}

impl Poller {
    /// Starts polling all `signals` into `out`.
    pub fn start(
        client: &Client,
        signals: Vec<SignalPoll>,
        out: &mpsc::Sender<Observation>,
    ) -> Self {
        let mut tasks = JoinSet::new();
        let began = Instant::now();
        for (phase, page) in spread(merge(signals)) {
            tasks.spawn(page.poll(client.clone(), began + phase, out.clone()));
        }
        Self { _tasks: tasks }
    }
}

/// A page that is fetched periodically for all the signals on it.
#[derive(Debug)]
struct Page {
    node: NodeName,
    url: Arc<str>,
    period: Duration,
    within: Duration,
    signals: Vec<(Arc<str>, Extract)>,
}

/// Puts signals that share a page together, ordered by node and URL.
fn merge(signals: Vec<SignalPoll>) -> Vec<Page> {
    let mut pages: BTreeMap<(NodeName, Arc<str>), Page> = BTreeMap::new();
    for SignalPoll {
        node,
        signal,
        url,
        read,
        period,
        within,
    } in signals
    {
        let period = period.max(PERIOD_MIN);
        let page = pages
            .entry((Arc::clone(&node), Arc::clone(&url)))
            .or_insert_with(|| Page {
                node,
                url,
                period,
                within,
                signals: Vec::new(),
            });
        page.period = page.period.min(period);
        page.within = page.within.max(within);
        page.signals.push((signal, read));
    }
    pages.into_values().collect()
}

/// Gives each page its place within the period, evenly among those of the same period.
fn spread(pages: Vec<Page>) -> Vec<(Duration, Page)> {
    let mut of_period: BTreeMap<Duration, u32> = BTreeMap::new();
    for page in &pages {
        *of_period.entry(page.period).or_default() += 1;
    }
    let mut next: BTreeMap<Duration, u32> = BTreeMap::new();
    let place = |page: Page| {
        let index = next.entry(page.period).or_default();
        let phase = page.period * *index / of_period[&page.period];
        *index += 1;
        (phase, page)
    };
    pages.into_iter().map(place).collect()
}

impl Page {
    async fn poll(self, client: Client, first: Instant, out: mpsc::Sender<Observation>) {
        let mut due = first;
        loop {
            tokio::time::sleep_until(due).await;
            let seen = self.ask(&client).await;
            due += self.period;
            // Polls that came due while the page was awaited are that one.
            due += self.period * missed_polls(due, Instant::now(), self.period);
            for observation in seen {
                if out.send(observation).await.is_err() {
                    return;
                }
            }
            let missed = missed_polls(due, Instant::now(), self.period);
            if missed > 0 {
                due += self.period * missed;
                // Nobody asked, so nobody failed to answer.
                let gap = self.gap(
                    true,
                    format!("{missed} polls left out: the controller was too late"),
                );
                if out.send(gap).await.is_err() {
                    return;
                }
            }
        }
    }

    /// One request; a sample or a gap for each signal.
    async fn ask(&self, client: &Client) -> Vec<Observation> {
        let began = Instant::now();
        let answer = match fetch(client, &self.url, self.within).await {
            Ok(answer) => answer,
            Err(why) => return vec![self.gap(false, why)],
        };
        if !answer.status.is_success() {
            let why = format!("status {} {}", answer.status.as_u16(), reason(&answer.body));
            return vec![self.gap(true, why.trim_end().to_owned())];
        }
        self.read(&answer, began.elapsed())
    }

    fn read(&self, answer: &Answer, took: Duration) -> Vec<Observation> {
        let t_ns = monotonic_ns();
        let has = |metric: bool| {
            self.signals
                .iter()
                .any(|(_, read)| matches!(read, Extract::Metric(_)) == metric)
        };
        let json = has(false).then(|| {
            serde_json::from_slice::<Json>(&answer.body).map_err(|error| error.to_string())
        });
        let metrics = has(true).then(|| Metrics::parse(&String::from_utf8_lossy(&answer.body)));
        let mut observations = Vec::new();
        for (signal, read) in &self.signals {
            let value = match (read, &json, &metrics) {
                (Extract::Json(pointer), Some(json), _) => json_value(json, pointer),
                (Extract::Metric(name), _, Some(metrics)) => metric_value(metrics, name),
                _ => unreachable!("each kind that is asked for was parsed"),
            };
            let (node, signal) = (Arc::clone(&self.node), Arc::clone(signal));
            observations.push(match value {
                Ok(value) => Observation::Sample(Sample {
                    node,
                    signal,
                    value,
                    t_ns,
                    took,
                }),
                Err(why) => {
                    let url = Arc::clone(&self.url);
                    Observation::Gap(Gap {
                        node,
                        url,
                        signals: vec![signal],
                        t_ns,
                        answered: true,
                        excused: false,
                        why,
                    })
                }
            });
        }
        observations
    }

    fn gap(&self, answered: bool, why: String) -> Observation {
        Observation::Gap(Gap {
            node: Arc::clone(&self.node),
            url: Arc::clone(&self.url),
            signals: self
                .signals
                .iter()
                .map(|(signal, _)| Arc::clone(signal))
                .collect(),
            t_ns: monotonic_ns(),
            answered,
            excused: false,
            why,
        })
    }
}

/// How many whole periods `now` is past `due`.
fn missed_polls(due: Instant, now: Instant, period: Duration) -> u32 {
    let late = now.saturating_duration_since(due);
    u32::try_from(late.as_nanos() / period.as_nanos()).unwrap_or(u32::MAX)
}

fn json_value(json: &Result<Json, String>, pointer: &str) -> Result<Value, String> {
    let json = json
        .as_ref()
        .map_err(|error| format!("the answer is no JSON: {error}"))?;
    let is = |what| {
        Err(format!(
            "{pointer} is {what}, not a number, truth or string"
        ))
    };
    match json.pointer(pointer) {
        None => Err(format!("the answer has no {pointer}")),
        Some(Json::Bool(value)) => Ok(Value::Bool(*value)),
        Some(Json::Number(number)) => number
            .as_i64()
            .map(Value::Int)
            .or_else(|| number.as_f64().map(Value::Float))
            .ok_or_else(|| format!("{pointer} is a number that does not fit")),
        Some(Json::String(text)) if text.len() > TEXT_MAX => {
            Err(format!("{pointer} is longer than {TEXT_MAX} bytes"))
        }
        Some(Json::String(text)) => Ok(Value::Text(text.clone())),
        Some(Json::Null) => is("null"),
        Some(Json::Array(_)) => is("an array"),
        Some(Json::Object(_)) => is("an object"),
    }
}

fn metric_value(metrics: &Metrics, metric: &MetricName) -> Result<Value, String> {
    let name = &metric.name;
    let Some(value) = metrics.sum(name, &metric.labels) else {
        let (samples, unreadable) = (metrics.samples.len(), metrics.unreadable);
        return Err(format!(
            "no sample of {name} with such labels among {samples} ({unreadable} lines unreadable)"
        ));
    };
    if !value.is_finite() {
        return Err(format!("{name} is {value}"));
    }
    // Counters are whole numbers, and compare exactly as such.
    #[expect(clippy::cast_possible_truncation, reason = "whole and within 2^53")]
    let whole = (value.fract() == 0.0 && value.abs() < 9e15).then_some(value as i64);
    Ok(whole.map_or(Value::Float(value), Value::Int))
}

#[cfg(test)]
#[path = "poll_tests.rs"]
mod tests;
