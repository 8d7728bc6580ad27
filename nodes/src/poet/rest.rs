//! The REST API of a PoET, as in 2020: start, updategateway, submit, info, and proofs.
//!
//! Nobody has to say who they are, as then; it listens on the run's own address only. Bodies are
//! bounded, and what is malformed is answered with 400 and the reason, in the form of 2020's gateway
//! (`{"error": ...}`). To add a call, add its bodies to `messages.rs` and a route in [`router`].

use super::messages::{
    self, Gateways, INFO, Info, PROOFS, ProofAnswer, START, SUBMIT, Submit, Submitted,
    UPDATE_GATEWAY,
};
use super::service::Service;
use crate::runtime::limited;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::net::TcpListener;

/// Miners that ask at the same moment; more wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 256;
/// The longest body is a list of gateways.
const BODY_MAX: usize = 64 << 10;

/// Serves until the task is dropped.
pub(crate) async fn serve(service: Arc<Service>, listener: TcpListener) -> std::io::Result<()> {
    limited::serve(listener, CONNECTIONS_MAX, router(service)).await
}

fn router(service: Arc<Service>) -> Router {
    Router::new()
        .route(START, post(start))
        .route(UPDATE_GATEWAY, post(update_gateway))
        .route(SUBMIT, post(submit))
        .route(INFO, get(info))
        .route(&format!("{PROOFS}{{round}}"), get(proof))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(service)
}

/// An answer that is none: a status, and why.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    why: String,
}

impl Refusal {
    /// What was asked makes no sense.
    pub(crate) fn bad(why: String) -> Self {
        let status = StatusCode::BAD_REQUEST;
        Self { status, why }
    }

    /// Not now.
    pub(crate) fn unavailable(why: String) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self { status, why }
    }

    /// The disk or the system refuses.
    pub(crate) fn internal(why: String) -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self { status, why }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.why }))).into_response()
    }
}

/// A body as JSON, whatever content type it claims, as 2020's gateway read it.
pub(crate) fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|error| Refusal::bad(format!("the body: {error}")))
}

async fn start(
    State(service): State<Arc<Service>>,
    request: Bytes,
) -> Result<Json<Value>, Refusal> {
    let gateways: Gateways = body(&request)?;
    service.start(&gateways).await?;
    Ok(Json(json!({})))
}

async fn update_gateway(
    State(service): State<Arc<Service>>,
    request: Bytes,
) -> Result<Json<Value>, Refusal> {
    let gateways: Gateways = body(&request)?;
    service.update_gateways(&gateways).await?;
    Ok(Json(json!({})))
}

async fn submit(
    State(service): State<Arc<Service>>,
    request: Bytes,
) -> Result<Json<Submitted>, Refusal> {
    let Submit { challenge } = body(&request)?;
    let challenge = messages::challenge(&challenge).ok_or_else(|| {
        Refusal::bad(format!(
            "challenge: is {} bytes and must be 32",
            challenge.len()
        ))
    })?;
    let round_id = service.submit(challenge).await?;
    Ok(Json(Submitted { round_id }))
}

async fn info(State(service): State<Arc<Service>>) -> Result<Json<Info>, Refusal> {
    service.info().map(Json)
}

async fn proof(
    State(service): State<Arc<Service>>,
    Path(round): Path<String>,
) -> Result<Json<ProofAnswer>, Refusal> {
    let number = round
        .parse()
        .map_err(|_| Refusal::bad(format!("`{round}` is not the number of a round")))?;
    match service.proof(number) {
        Some(proof) => Ok(Json(ProofAnswer {
            proof: proof.to_vec(),
        })),
        None => Err(Refusal {
            status: StatusCode::NOT_FOUND,
            why: format!("no proof of round {round} is held here"),
        }),
    }
}
