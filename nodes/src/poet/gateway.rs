//! Where a node takes proofs from PoETs: `POST /v1/broadcastpoet`.
//!
//! As in 2020 the answer "ok" means that the proof went to the node's own gossip, and nothing about
//! peers, about anybody having got it, or about its being new. What is not a proof at all is refused;
//! whether a proof is true is for the gossip topic to find out. It keeps nothing.

use super::messages::{Ack, Broadcast, OK};
use super::proof::Proof;
use super::rest::{Refusal, body};
use crate::node::Node;
use crate::p2p::gossip;
use crate::protocol::poet_proof;
use crate::runtime::events;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use serde_json::json;
use std::sync::Arc;

/// Bytes of a request that can hold a proof of as many bytes: base64, and the JSON around it.
pub(crate) fn body_max(proof: usize) -> usize {
    proof.div_ceil(3) * 4 + 1024
}

pub(crate) async fn broadcast_poet(
    State(node): State<Arc<Node>>,
    request: Bytes,
) -> Result<Json<Ack>, Refusal> {
    let Broadcast { data } = body(&request)?;
    let proof = Proof::decode(&data)
        .map_err(|error| Refusal::bad(format!("data: {}", super::told(&error))))?;
    let fields = json!({
        "poet": hex::encode(proof.service), "round": proof.round,
        "ref": hex::encode(proof.reference()),
    });
    gossip::publish(&node, poet_proof::TOPIC, data.into());
    events::emit("proof-accepted", fields);
    let value = OK.to_owned();
    Ok(Json(Ack { value }))
}
