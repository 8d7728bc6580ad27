//! Counters and gauges, and their text for `/metrics` (`OpenMetrics`, which Prometheus reads).
//!
//! To add one, add a field, and a line in [`Metrics::registry`]. Counters get `_total` when written.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Everything a node counts.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) sessions: Gauge,
    pub(crate) sessions_created: Counter,
    pub(crate) session_evictions: Counter,
    pub(crate) datagrams_received: Counter,
    pub(crate) datagrams_sent: Counter,
    datagrams_rejected: Family<Reason, Counter>,
    pub(crate) discovery_dials: Counter,
    pub(crate) discovery_answers: Counter,
    gossip_messages: Family<Outcome, Counter>,
    frames_rejected: Family<Reason, Counter>,
    handshakes_rejected: Family<Reason, Counter>,
    queue_drops: Family<Queue, Counter>,
    pub(crate) mempool_txs: Counter,
    pub(crate) peers: Gauge,
    pub(crate) layer: Gauge,
    pub(crate) mesh: MeshMetrics,
}

/// What the mesh counts; a handle that can be cloned.
#[derive(Debug, Clone, Default)]
pub(crate) struct MeshMetrics {
    pub(crate) proofs: Counter,
    pub(crate) atxs: Counter,
    pub(crate) blocks: Counter,
    pub(crate) equivocations: Counter,
    pub(crate) verified_layer: Gauge,
    pub(crate) pending: Gauge,
    pub(crate) open_layers: Gauge,
    pub(crate) messages_kept: Gauge,
    pub(crate) pull_requests: Counter,
    pub(crate) pull_answers: Counter,
    pub(crate) pull_timeouts: Counter,
    pub(crate) pulls_served: Counter,
    log_syncs: Timed,
    commits: Timed,
    proofs_verified: Timed,
}

/// How often something was done, and how long it took together.
#[derive(Debug, Clone, Default)]
struct Timed {
    count: Counter,
    seconds: Counter<f64, AtomicU64>,
}

impl Timed {
    fn add(&self, took: Duration) {
        self.count.inc();
        self.seconds.inc_by(took.as_secs_f64());
    }
}

impl MeshMetrics {
    /// The voter's log took some records.
    pub(crate) fn log_synced(&self, took: Duration) {
        self.log_syncs.add(took);
    }

    /// The database was written.
    pub(crate) fn committed(&self, took: Duration) {
        self.commits.add(took);
    }

    pub(crate) fn proof_verified(&self, took: Duration) {
        self.proofs_verified.add(took);
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Queue {
    queue: &'static str,
}

impl Metrics {
    pub(crate) fn datagram_rejected(&self, reason: &'static str) {
        self.datagrams_rejected
            .get_or_create(&Reason { reason })
            .inc();
    }

    pub(crate) fn frame_rejected(&self, reason: &'static str) {
        self.frames_rejected.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn handshake_rejected(&self, reason: &'static str) {
        self.handshakes_rejected
            .get_or_create(&Reason { reason })
            .inc();
    }

    pub(crate) fn gossip(&self, outcome: &'static str) {
        self.gossip_messages
            .get_or_create(&Outcome { outcome })
            .inc();
    }

    pub(crate) fn queue_drop(&self, queue: &'static str) {
        self.queue_drops.get_or_create(&Queue { queue }).inc();
    }

    /// The text of `/metrics`.
    pub(crate) fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry())?;
        Ok(text)
    }

    /// Made anew for each scrape: the metrics are shared handles, and a scrape is rare.
    #[rustfmt::skip] // One metric per line reads as a table.
    fn registry(&self) -> Registry {
        let mut r = Registry::default();
        r.register("sessions", "UDP sessions in the table", self.sessions.clone());
        r.register("sessions_created", "UDP sessions ever made", self.sessions_created.clone());
        r.register("session_evictions", "UDP sessions evicted from a full table", self.session_evictions.clone());
        r.register("datagrams_received", "UDP datagrams that arrived", self.datagrams_received.clone());
        r.register("datagrams_sent", "UDP answers sent", self.datagrams_sent.clone());
        r.register("datagrams_rejected", "UDP datagrams refused, by reason", self.datagrams_rejected.clone());
        r.register("discovery_dials", "own discovery requests, each from a fresh port", self.discovery_dials.clone());
        r.register("discovery_answers", "own discovery requests that were answered", self.discovery_answers.clone());
        r.register("gossip_messages", "gossip messages that arrived, by outcome", self.gossip_messages.clone());
        r.register("frames_rejected", "TCP frames refused, by reason", self.frames_rejected.clone());
        r.register("handshakes_rejected", "TCP handshakes refused, by reason", self.handshakes_rejected.clone());
        r.register("queue_drops", "messages dropped from full queues, by queue", self.queue_drops.clone());
        r.register("mempool_txs", "distinct valid transactions ever known", self.mempool_txs.clone());
        r.register("peers", "connected swarm peers", self.peers.clone());
        r.register("layer", "current layer, 0 before genesis", self.layer.clone());
        let m = &self.mesh;
        r.register("proofs", "distinct valid PoET proofs taken in", m.proofs.clone());
        r.register("atxs", "distinct valid activations taken in", m.atxs.clone());
        r.register("blocks", "distinct valid blocks taken in", m.blocks.clone());
        r.register("equivocations", "lies of voters that were proved", m.equivocations.clone());
        r.register("verified_layer", "last layer that is agreed on, applied and durable", m.verified_layer.clone());
        r.register("pending", "activations and blocks that wait for what they depend on", m.pending.clone());
        r.register("open_layers", "layers that something is known of and that are not decided", m.open_layers.clone());
        r.register("messages_kept", "votes and commits kept of open layers", m.messages_kept.clone());
        r.register("pull_requests", "questions put to peers", m.pull_requests.clone());
        r.register("pull_answers", "answers of peers taken in", m.pull_answers.clone());
        r.register("pull_timeouts", "questions that a peer did not answer in time", m.pull_timeouts.clone());
        r.register("pulls_served", "questions of peers answered", m.pulls_served.clone());
        r.register("log_syncs", "syncs of the voter's log", m.log_syncs.count.clone());
        r.register("log_sync_seconds", "time that they took together", m.log_syncs.seconds.clone());
        r.register("commits", "commits of the mesh's database", m.commits.count.clone());
        r.register("commit_seconds", "time that they took together", m.commits.seconds.clone());
        r.register("proofs_verified", "PoET proofs checked", m.proofs_verified.count.clone());
        r.register("proof_verify_seconds", "time that it took together", m.proofs_verified.seconds.clone());
        r.register("events_dropped", "event lines dropped because nobody read stdout", ConstCounter::new(super::events::dropped()));
        r
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_written_with_their_labels() {
        let metrics = Metrics::default();
        metrics.mempool_txs.inc_by(3);
        metrics.datagram_rejected("netid");
        metrics.peers.set(4);
        let text = metrics.text().unwrap();
        for line in [
            "mempool_txs_total 3",
            "datagrams_rejected_total{reason=\"netid\"} 1",
            "peers 4",
        ] {
            assert!(
                text.lines().any(|have| have == line),
                "{line} is not in\n{text}"
            );
        }
    }
}
