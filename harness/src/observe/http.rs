//! One bounded HTTP request, and words for what went wrong with it.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::{Client, RequestBuilder, StatusCode};

/// Largest answer that is read. A status page has hundreds of bytes, a page of metrics tens of
/// thousands; more than this is a node gone wrong.
pub(crate) const BODY_MAX: usize = 1 << 20;

/// The one client of a controller: no proxy, no redirects, one kept connection per node.
///
/// `source` is the agent's own address in the run's block, or `None` for any.
pub fn http_client(source: Option<IpAddr>) -> Result<Client, reqwest::Error> {
    Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(1)
        // Longer than any poll's period in practice; a node that closes first is dialled again.
        .pool_idle_timeout(Duration::from_mins(2))
        .tcp_nodelay(true)
        .local_address(source)
        .build()
}

/// What a node answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Vec<u8>,
}

/// Fetches a page within `bound`; the error is a lower-case fragment.
pub(crate) async fn fetch(client: &Client, url: &str, bound: Duration) -> Result<Answer, String> {
    ask(client.get(url), bound).await
}

/// Makes any request within `bound`; the error is a lower-case fragment.
pub(crate) async fn ask(request: RequestBuilder, bound: Duration) -> Result<Answer, String> {
    match tokio::time::timeout(bound, ask_unbounded(request)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no complete answer within {bound:?}")),
    }
}

async fn ask_unbounded(request: RequestBuilder) -> Result<Answer, String> {
    let mut response = request.send().await.map_err(describe)?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(describe)? {
        if body.len() + chunk.len() > BODY_MAX {
            return Err(format!("the answer is longer than {BODY_MAX} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, body })
}

/// The innermost cause, which is what tells the user something; the outer ones repeat the URL.
fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let text = cause.to_string();
    if error.is_connect() {
        format!("cannot connect: {text}")
    } else {
        text
    }
}

/// The reason that a page gives for itself, in one line: a JSON object's `reason`, `error` or
/// `message`, else the beginning of its text.
pub(crate) fn reason(body: &[u8]) -> String {
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let named = json.as_ref().and_then(|value| {
        ["reason", "error", "message"]
            .iter()
            .find_map(|key| value.get(key)?.as_str())
    });
    let text = String::from_utf8_lossy(body);
    super::excerpt(named.unwrap_or(&text), 160)
}

#[cfg(test)]
pub(crate) mod testing {
    //! A small HTTP server that answers well or badly, and counts connections.

    use std::net::{Ipv4Addr, SocketAddr};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinSet;

    /// Serves until dropped.
    #[derive(Debug)]
    pub(crate) struct Server {
        pub(crate) address: SocketAddr,
        pub(crate) connections: Arc<AtomicU32>,
        pub(crate) requests: Arc<AtomicU32>,
        _tasks: JoinSet<()>,
    }

    impl Server {
        pub(crate) async fn start(ip: Ipv4Addr) -> Self {
            let listener = TcpListener::bind((ip, 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            let connections = Arc::new(AtomicU32::new(0));
            let requests = Arc::new(AtomicU32::new(0));
            let counters = (Arc::clone(&connections), Arc::clone(&requests));
            let mut tasks = JoinSet::new();
            tasks.spawn(async move {
                let mut serving = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    counters.0.fetch_add(1, Ordering::Relaxed);
                    let requests = Arc::clone(&counters.1);
                    serving.spawn(async move {
                        let _ = serve(stream, &requests).await;
                    });
                }
            });
            Self {
                address,
                connections,
                requests,
                _tasks: tasks,
            }
        }

        pub(crate) fn url(&self, path: &str) -> String {
            format!("http://{}{path}", self.address)
        }
    }

    async fn serve(mut stream: TcpStream, requests: &AtomicU32) -> std::io::Result<()> {
        let mut head = Vec::new();
        loop {
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            let count = requests.fetch_add(1, Ordering::Relaxed) + 1;
            let text = String::from_utf8(std::mem::take(&mut head)).unwrap();
            let path = text.split(' ').nth(1).unwrap().to_owned();
            answer(&mut stream, &path, count).await?;
        }
    }

    async fn answer(stream: &mut TcpStream, path: &str, count: u32) -> std::io::Result<()> {
        let (status, body) = match path {
            "/status" => (
                200,
                format!("{{\"verifiedLayer\":{count},\"synced\":true,\"x\":{{}}}}"),
            ),
            "/metrics" => (
                200,
                "txs_total{kind=\"a\"} 3\ntxs_total{kind=\"b\"} 4\nbad\n".to_owned(),
            ),
            "/soon" if count > 3 => (200, String::new()),
            "/soon" | "/never" => (503, "{\"reason\":\"no swarm\\n peer yet\"}".to_owned()),
            "/garbage" => (200, "\u{1b}]garbage".to_owned()),
            "/late" => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                (200, format!("{{\"verifiedLayer\":{count}}}"))
            }
            "/slow" => {
                tokio::time::sleep(Duration::from_secs(5)).await;
                (200, "{}".to_owned())
            }
            "/nonsense" => return stream.write_all(b"\x00\x01 nonsense\r\n\r\n").await,
            "/huge" => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8000000000\r\n\r\n")
                    .await?;
                loop {
                    stream.write_all(&[b'x'; 8192]).await?;
                }
            }
            "/cut" => {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf")
                    .await?;
                return stream.shutdown().await;
            }
            _ => (404, String::new()),
        };
        let length = body.len();
        let text = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(text.as_bytes()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::testing::block;

    #[test]
    fn reasons_are_found_and_cleaned() {
        for (body, want) in [
            ("", ""),
            ("{\"reason\":\"no\\n peer\"}", "no peer"),
            ("{\"error\":\"x\"}", "x"),
            ("{\"reason\":7}", "{\"reason\":7}"),
            ("plain\u{1b}", "plain\u{fffd}"),
        ] {
            assert_eq!(reason(body.as_bytes()), want);
        }
    }

    #[tokio::test]
    async fn each_way_of_failing_has_its_words() {
        let at = block();
        let server = testing::Server::start(at(5)).await;
        let client = http_client(Some(at(250).into())).unwrap();
        let free = std::net::TcpListener::bind((at(6), 0))
            .unwrap()
            .local_addr()
            .unwrap();
        for (url, want) in [
            (server.url("/slow"), "no complete answer within 300ms"),
            (
                server.url("/huge"),
                "the answer is longer than 1048576 bytes",
            ),
            (server.url("/nonsense"), "invalid HTTP"),
            (
                server.url("/cut"),
                "end of file before message length reached",
            ),
            (
                format!("http://{free}/"),
                "cannot connect: Connection refused",
            ),
            ("http://".to_owned(), "empty host"),
        ] {
            let why = fetch(&client, &url, Duration::from_millis(300))
                .await
                .unwrap_err();
            assert!(why.contains(want), "{url}: {why}");
        }
        let answer = fetch(&client, &server.url("/never"), Duration::from_secs(5))
            .await
            .unwrap();
        assert_eq!(
            (answer.status.as_u16(), reason(&answer.body).as_str()),
            (503, "no swarm peer yet")
        );
    }
}
