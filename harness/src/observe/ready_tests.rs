//! Tests of readiness: each way becomes ready, and each way of not becoming ready says what was seen.

use std::sync::atomic::{AtomicI32, Ordering};

use super::super::http::http_client;
use super::super::http::testing::Server;
use super::*;
use crate::observe::testing::block;

fn http(server: &Server, path: &str) -> Ready {
    Ready::Http {
        client: http_client(None).unwrap(),
        url: server.url(path),
        status: 200,
    }
}

/// A program that fails with the code given until it was run `tries` times.
fn exec(code: Option<i32>, tries: i32) -> Ready {
    let runs = Arc::new(AtomicI32::new(0));
    let run = move |argv: Vec<String>, _bound| -> ExecFuture {
        assert_eq!(argv, ["probe", "--x y"], "arguments are passed as they are");
        let done = runs.fetch_add(1, Ordering::Relaxed) + 1 >= tries;
        Box::pin(async move {
            let code = if done { Some(0) } else { code };
            Ok(ExecEnd {
                code,
                output: "not\nyet".to_owned(),
            })
        })
    };
    Ready::Exec {
        argv: vec!["probe".into(), "--x y".into()],
        run: ExecFn(Arc::new(run)),
    }
}

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(120);

#[tokio::test]
async fn each_way_of_being_ready_is_seen() {
    let at = block();
    let node: NodeName = "gateway-0".into();
    let server = Server::start(at(5)).await;
    until_ready(&node, http(&server, "/soon"), LONG)
        .await
        .unwrap();
    assert_eq!(
        server.requests.load(Ordering::Relaxed),
        4,
        "three were refused"
    );
    until_ready(&node, Ready::Tcp(server.address), LONG)
        .await
        .unwrap();
    until_ready(&node, exec(Some(1), 3), LONG).await.unwrap();

    let (found, line) = watch::channel(None);
    let ready = Ready::Log {
        pattern: "up".to_owned(),
        line,
    };
    let waiting = until_ready(&node, ready, LONG);
    let telling = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        found.send_replace(Some("up".to_owned()));
    };
    let (took, ()) = tokio::join!(waiting, telling);
    assert!(took.unwrap() >= Duration::from_millis(20));
}

#[tokio::test]
async fn a_port_that_opens_later_is_ready_then() {
    let address = std::net::TcpListener::bind((block()(5), 0))
        .unwrap()
        .local_addr()
        .unwrap();
    let node: NodeName = "a".into();
    let waiting = until_ready(&node, Ready::Tcp(address), LONG);
    let opening = async {
        tokio::time::sleep(Duration::from_millis(60)).await;
        std::net::TcpListener::bind(address).unwrap()
    };
    let (took, _listener) = tokio::join!(waiting, opening);
    assert!((Duration::from_millis(60)..Duration::from_secs(2)).contains(&took.unwrap()));
}

#[tokio::test]
async fn running_out_of_time_says_what_was_seen_last() {
    let at = block();
    let node: NodeName = "gateway-0".into();
    let server = Server::start(at(5)).await;
    let free = std::net::TcpListener::bind((at(6), 0))
        .unwrap()
        .local_addr()
        .unwrap();
    let (_never, line) = watch::channel(None);
    let (ended, ended_line) = watch::channel(None);
    drop(ended);
    let never = server.url("/never");
    let no_start = ExecFn(Arc::new(|_, _| {
        Box::pin(async { Err("no such file".to_owned()) })
    }));
    let cases = [
        (
            http(&server, "/never"),
            format!("waited for status 200 from {never}; last answer: 503 no swarm peer yet"),
        ),
        (
            http(&server, "/nonsense"),
            "; last try: invalid HTTP version parsed".to_owned(),
        ),
        (http(&server, "/slow"), "; no answer".to_owned()),
        (
            Ready::Tcp(free),
            format!("a TCP connection to {free}; last try: cannot connect: Connection refused"),
        ),
        (
            Ready::Log {
                pattern: "^up$".to_owned(),
                line,
            },
            "a line of output that matches `^up$`; no line matched so far".to_owned(),
        ),
        (
            Ready::Log {
                pattern: "^up$".to_owned(),
                line: ended_line,
            },
            "its output ended without such a line".to_owned(),
        ),
        (
            exec(Some(3), 1000),
            "`probe --x y` to succeed; last try: exit code 3 not yet".to_owned(),
        ),
        (
            exec(None, 1000),
            "last try: ended by a signal not yet".to_owned(),
        ),
        (
            Ready::Exec {
                argv: vec!["p".into()],
                run: no_start,
            },
            "last try: cannot start it: no such file".to_owned(),
        ),
    ];
    for (ready, want) in cases {
        let began = Instant::now();
        let error = until_ready(&node, ready, SHORT).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("node gateway-0 was not ready within "),
            "{text}"
        );
        assert!(text.contains(&want), "{text}\n  lacks {want}");
        assert!(began.elapsed() < SHORT * 4, "{text}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn tries_grow_apart() {
    let server = Server::start(block()(5)).await;
    let bound = Duration::from_millis(500);
    let error = until_ready(&"a".into(), http(&server, "/never"), bound)
        .await
        .unwrap_err();
    // 5 + 10 + 20 + 40 ms, then every 50 ms: about 13 tries, fewer on a slow host.
    assert!((5..=14).contains(&error.tries), "{error}");
}
