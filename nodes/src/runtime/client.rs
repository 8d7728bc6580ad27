//! A client for the HTTP APIs of other nodes: JSON there, JSON back.
//!
//! Every connection comes from the node's own IP, so that a fault between two nodes meets it; every
//! request ends within its time, so that a peer which accepts and never answers costs that time and
//! no more; and no answer is read beyond its limit. It never retries: when to ask again is the
//! protocol's business.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// How much of a refusal's text an error quotes, in characters.
const QUOTED: usize = 200;

/// Asks other nodes, over a connection of its own each time. Cloning it is cheap.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    inner: reqwest::Client,
    within: Duration,
    answer_max: usize,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("no HTTP client can be made: {0}")]
    Make(String),
    #[error("{url} cannot be reached: {why}")]
    Unreachable { url: String, why: String },
    #[error("{url} did not answer within {}", humantime::format_duration(*within))]
    Slow { url: String, within: Duration },
    #[error("{url} answered {status}: {text}")]
    Refused {
        url: String,
        status: u16,
        text: String,
    },
    #[error("{url} answered with more than {limit} bytes")]
    TooLong { url: String, limit: usize },
    #[error("{url} did not answer with the JSON that belongs there: {error}")]
    Json {
        url: String,
        error: serde_json::Error,
    },
}

impl Client {
    /// A client whose connections come from `own`, whose requests take at most `within`, connecting
    /// included, and whose answers have at most `answer_max` bytes.
    pub(crate) fn new(
        own: IpAddr,
        within: Duration,
        answer_max: usize,
    ) -> Result<Self, ClientError> {
        let inner = reqwest::Client::builder()
            .local_address(own)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            // An idle connection would hold one of the few places that an API has.
            .pool_max_idle_per_host(0)
            .timeout(within)
            .tcp_nodelay(true)
            .build()
            .map_err(|error| ClientError::Make(chain(&error)))?;
        Ok(Self {
            inner,
            within,
            answer_max,
        })
    }

    /// `GET http://<to><path>`.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        to: SocketAddr,
        path: &str,
    ) -> Result<T, ClientError> {
        let url = format!("http://{to}{path}");
        let request = self.inner.get(&url);
        self.answer(url, request).await
    }

    /// `POST http://<to><path>` with `body` as JSON.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        to: SocketAddr,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T, ClientError> {
        let url = format!("http://{to}{path}");
        let request = self.inner.post(&url).json(body);
        self.answer(url, request).await
    }

    async fn answer<T: DeserializeOwned>(
        &self,
        url: String,
        request: reqwest::RequestBuilder,
    ) -> Result<T, ClientError> {
        let failed = |error: reqwest::Error| self.failed(&url, &error);
        let mut response = request.send().await.map_err(failed)?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if bytes.len() + chunk.len() > self.answer_max {
                let limit = self.answer_max;
                return Err(ClientError::TooLong { url, limit });
            }
            bytes.extend_from_slice(&chunk);
        }
        let status = response.status();
        if !status.is_success() {
            let text = String::from_utf8_lossy(&bytes);
            return Err(ClientError::Refused {
                url,
                status: status.as_u16(),
                text: text.chars().take(QUOTED).collect(),
            });
        }
        serde_json::from_slice(&bytes).map_err(|error| ClientError::Json { url, error })
    }

    fn failed(&self, url: &str, error: &reqwest::Error) -> ClientError {
        let url = url.to_owned();
        if error.is_timeout() {
            let within = self.within;
            return ClientError::Slow { url, within };
        }
        let why = chain(error);
        ClientError::Unreachable { url, why }
    }
}

/// What went wrong at the bottom: the errors above it only say that a request failed.
fn chain(error: &reqwest::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::extract::ConnectInfo;
    use axum::http::StatusCode;
    use axum::routing::{get, post};
    use axum::{Json, Router};
    use serde_json::{Value, json};
    use std::future::pending;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    const OWN: [u8; 4] = [127, 9, 8, 7];

    async fn server(tasks: &mut JoinSet<()>) -> SocketAddr {
        let echo = |from: ConnectInfo<SocketAddr>, body: Json<Value>| async move {
            Json(json!({ "from": from.0.ip().to_string(), "body": body.0 }))
        };
        let router = Router::new()
            .route("/echo", post(echo))
            .route("/hang", get(pending::<()>))
            .route(
                "/refuse",
                get(|| async { (StatusCode::NOT_FOUND, "no such round") }),
            )
            .route(
                "/long",
                get(|| async { format!("\"{}\"", "x".repeat(5_000)) }),
            )
            .route("/text", get(|| async { "ok" }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        tasks.spawn(async move { axum::serve(listener, service).await.unwrap() });
        address
    }

    #[tokio::test]
    async fn answers_are_bounded_in_time_and_size_and_come_to_our_own_address() {
        let mut tasks = JoinSet::new();
        let at = server(&mut tasks).await;
        let client = Client::new(OWN.into(), Duration::from_millis(500), 4_096).unwrap();
        let echo: Value = client.post(at, "/echo", &json!({ "a": 1 })).await.unwrap();
        assert_eq!(echo, json!({ "from": "127.9.8.7", "body": { "a": 1 } }));

        let ask = async |path: &str| client.get::<Value>(at, path).await.unwrap_err();
        let error = ask("/hang").await;
        assert!(matches!(error, ClientError::Slow { .. }), "{error}");
        let error = ask("/long").await;
        assert!(matches!(error, ClientError::TooLong { .. }), "{error}");
        let error = ask("/text").await;
        assert!(matches!(error, ClientError::Json { .. }), "{error}");
        let error = ask("/refuse").await.to_string();
        assert!(error.contains("404: no such round"), "{error}");

        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nobody = free.local_addr().unwrap();
        drop(free);
        let error = client.get::<Value>(nobody, "/").await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, ClientError::Unreachable { .. }), "{text}");
        assert!(text.contains("refused"), "{text}");
    }
}
