//! HTTP over a bounded number of connections.
//!
//! More wait in the kernel's backlog until one ends, so that whoever opens connections to the API
//! cannot use up the descriptors that the swarm needs. One that does not send the whole header of a
//! request gives its place up after a while, so that who connects and is silent keeps nobody out.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// After a failed accept, usually for lack of descriptors, wait this long for some to come back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a connection may have a place before its first request is there, and between two. No
/// period of layers is likely to be the same, so that no poll meets the end of its connection.
const REQUEST_BOUND: Duration = Duration::from_millis(7300);

/// Serves until the task is dropped, at most so many connections at once.
pub(crate) async fn serve(
    listener: TcpListener,
    limit: usize,
    router: Router,
) -> std::io::Result<()> {
    serve_within(listener, limit, router, REQUEST_BOUND).await
}

async fn serve_within(
    listener: TcpListener,
    limit: usize,
    router: Router,
    bound: Duration,
) -> std::io::Result<()> {
    let places = Arc::new(Semaphore::new(limit));
    let service = TowerToHyperService::new(router);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(bound);
    let mut connections = JoinSet::new();
    loop {
        // The semaphore is never closed, so that this waits for a place and nothing else.
        let place = Arc::clone(&places).acquire_owned().await.ok();
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Slower without, wrong never.
        let _ = stream.set_nodelay(true);
        let connection = http.serve_connection(TokioIo::new(stream), service.clone());
        connections.spawn(async move {
            // A client that does not speak HTTP, or says nothing, is its own affair.
            let _ = connection.await;
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    const LONG: Duration = Duration::from_secs(10);

    async fn served(bound: Duration) -> (SocketAddr, JoinSet<std::io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        let router = Router::new().route("/", get(async || "here"));
        tasks.spawn(serve_within(listener, 2, router, bound));
        (address, tasks)
    }

    async fn answer(stream: &mut TcpStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn a_third_connection_waits_until_one_of_two_ends() {
        let (address, _tasks) = served(LONG * 6).await;
        let first = TcpStream::connect(address).await.unwrap();
        let _second = TcpStream::connect(address).await.unwrap();
        let mut third = TcpStream::connect(address).await.unwrap();
        third.write_all(REQUEST).await.unwrap();
        let waiting = tokio::time::timeout(Duration::from_millis(50), third.readable()).await;
        assert!(waiting.is_err(), "a third place was given");
        drop(first);
        let text = tokio::time::timeout(LONG, answer(&mut third)).await;
        assert!(text.unwrap().ends_with("here"));
    }

    /// Whether they say nothing at all, or begin a request and do not go on.
    #[tokio::test]
    async fn silent_connections_keep_nobody_out() {
        let (address, _tasks) = served(Duration::from_millis(50)).await;
        let _silent = TcpStream::connect(address).await.unwrap();
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HT").await.unwrap();
        let mut honest = TcpStream::connect(address).await.unwrap();
        honest.write_all(REQUEST).await.unwrap();
        let text = tokio::time::timeout(LONG, answer(&mut honest)).await;
        assert!(text.unwrap().ends_with("here"));
    }
}
