//! The HTTP API: `/v1/nodestatus` and `/metrics`, by GET and POST, and `/v1/broadcastpoet`.
//!
//! Names and numbers are those of go-spacemesh's JSON API of 2020 (all POST; GET for people). No
//! token guards it, as then. To add a page, add a route in [`router`]. It shares nothing with the UDP
//! side, so that a node that is deaf there still answers here.

use super::{clock, limited, lock};
use crate::node::Node;
use crate::poet::gateway;
use crate::poet::messages::BROADCAST_POET;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use serde_json::json;
use std::sync::Arc;
use tokio::net::TcpListener;

/// A harness and a few people; each connection takes a descriptor.
const CONNECTIONS_MAX: usize = 64;
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until the task is dropped.
pub(crate) async fn serve(node: Arc<Node>, listener: TcpListener) -> std::io::Result<()> {
    limited::serve(listener, CONNECTIONS_MAX, router(node)).await
}

fn router(node: Arc<Node>) -> Router {
    // A proof that is longer than a frame could not be passed on.
    let body_max = gateway::body_max(node.settings.max_frame);
    Router::new()
        .route("/v1/nodestatus", get(node_status).post(node_status))
        .route("/metrics", get(metrics).post(metrics))
        .route(BROADCAST_POET, post(gateway::broadcast_poet))
        .layer(DefaultBodyLimit::max(body_max))
        .with_state(node)
}

/// What `/v1/nodestatus` says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeStatus {
    peers: usize,
    min_peers: usize,
    max_peers: usize,
    /// Has all that its peers have, as far as it has heard: see `Mesh::is_synced`. A network that
    /// cannot decide is synced while its verified layer stands, as in 2020.
    synced: bool,
    /// The current layer if the node is synced, else the verified one.
    synced_layer: u32,
    current_layer: u64,
    /// The last layer whose blocks are agreed on, applied and on disk; 0 before any is.
    verified_layer: u32,
    /// That layer and the root of the state after it, as `LAYER:HEX`; none before any is.
    state_root: Option<String>,
}

async fn node_status(State(node): State<Arc<Node>>) -> Response {
    let peers = lock(&node.peers).len();
    if !node.is_ready() {
        let reason = format!("no swarm peer yet; {} nodes are known", node.contacts.len());
        let body = json!({ "ready": false, "reason": reason });
        return (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response();
    }
    let current_layer = node.clock.layer_at(clock::unix_ns()).unwrap_or(0);
    let in_touch = peers > 0 || node.settings.alone;
    let (synced, synced_layer, verified) = {
        let mesh = lock(&node.mesh);
        (mesh.is_synced(), mesh.synced_layer(), mesh.verified())
    };
    let verified_layer = verified.map_or(0, |(layer, _)| layer);
    let status = NodeStatus {
        peers,
        min_peers: node.settings.wants().outbound,
        max_peers: node.settings.wants().outbound + node.settings.wants().max_inbound,
        synced: synced && in_touch,
        synced_layer: if in_touch {
            synced_layer
        } else {
            verified_layer
        },
        current_layer,
        verified_layer,
        state_root: verified.map(|(layer, root)| format!("{layer}:{}", hex::encode(root))),
    };
    Json(status).into_response()
}

async fn metrics(State(node): State<Arc<Node>>) -> Response {
    let layer = node.clock.layer_at(clock::unix_ns()).unwrap_or(0);
    node.metrics
        .layer
        .set(i64::try_from(layer).unwrap_or(i64::MAX));
    match node.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
