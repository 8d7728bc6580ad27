//! Real servers that answer, refuse, hang, or are not there.

use super::*;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;

const SOON: Duration = Duration::from_millis(300);

/// What a gateway does with proofs.
#[derive(Debug, Clone, Copy)]
enum Does {
    Ok,
    /// "ok" from this try on, a failure before.
    OkFrom(usize),
    Fail,
    SayNo,
    Hang,
}

#[derive(Debug)]
struct Gateway {
    at: SocketAddr,
    asked: Arc<AtomicUsize>,
    tasks: JoinSet<()>,
}

impl Gateway {
    async fn start(does: Does) -> Self {
        Self::start_at(bound().await, does)
    }

    fn start_at(listener: TcpListener, does: Does) -> Self {
        let at = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let router = Router::new()
            .route(BROADCAST_POET, post(take))
            .with_state((does, Arc::clone(&asked)));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { at, asked, tasks }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn take(
    State((does, asked)): State<(Does, Arc<AtomicUsize>)>,
    Json(message): Json<Broadcast>,
) -> Response {
    assert_eq!(message.data, b"a proof");
    let now = asked.fetch_add(1, Ordering::Relaxed) + 1;
    let ok = || Json(json!({ "value": "ok" })).into_response();
    match does {
        Does::Ok => ok(),
        Does::OkFrom(first) if now >= first => ok(),
        Does::OkFrom(_) | Does::Fail => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Does::SayNo => Json(json!({ "value": "no" })).into_response(),
        Does::Hang => std::future::pending().await,
    }
}

async fn bound() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

fn client() -> Client {
    Client::new(Ipv4Addr::LOCALHOST.into(), SOON, 4096).unwrap()
}

async fn dial(
    gateways: &[SocketAddr],
    conn_acks: usize,
    broadcast_acks: usize,
) -> Result<Broadcaster, DialError> {
    let thresholds = Thresholds {
        conn_acks,
        broadcast_acks,
    };
    Broadcaster::dial(client(), gateways, thresholds, SOON).await
}

fn retries(count: u32) -> Retries {
    Retries {
        count,
        interval: Duration::from_millis(20),
    }
}

async fn deliver(broadcaster: &Broadcaster, count: u32) -> bool {
    broadcaster
        .deliver("poet", 3, b"a proof", retries(count))
        .await
}

#[tokio::test]
async fn a_proof_is_delivered_when_enough_gateways_say_ok() {
    use Does::{Fail, Hang, Ok, SayNo};
    let table: [(&[Does], usize, bool); 8] = [
        (&[Ok], 1, true),
        (&[Ok, Ok, Ok], 3, true),
        (&[Fail, SayNo, Hang, Ok], 1, true),
        (&[Fail, SayNo, Hang, Ok], 2, false),
        (&[Fail], 1, false),
        (&[SayNo], 1, false),
        (&[Hang], 1, false),
        (&[Ok, Ok], 3, false),
    ];
    for (does, acks, delivered) in table {
        let mut gateways = Vec::new();
        for does in does {
            gateways.push(Gateway::start(*does).await);
        }
        let at: Vec<_> = gateways.iter().map(|gateway| gateway.at).collect();
        let broadcaster = dial(&at, 1, acks).await.unwrap();
        let what = format!("{does:?}, {acks} acks");
        assert_eq!(deliver(&broadcaster, 0).await, delivered, "{what}");
        for gateway in gateways {
            assert_eq!(gateway.asked(), 1, "{what}");
            gateway.stop().await;
        }
    }
}

#[tokio::test]
async fn it_is_tried_again_on_real_time_and_given_up() {
    let gateway = Gateway::start(Does::OkFrom(3)).await;
    let broadcaster = dial(&[gateway.at], 1, 1).await.unwrap();
    assert!(!deliver(&broadcaster, 1).await, "2 tries are too few");
    assert!(gateway.asked() <= 2);
    // Enough time for the third try, however late each is.
    assert!(deliver(&broadcaster, 500).await);
    let before = Instant::now();
    assert_eq!(gateway.asked(), 3, "no try after the one that succeeded");
    gateway.stop().await;

    let gateway = Gateway::start(Does::Fail).await;
    let broadcaster = dial(&[gateway.at], 1, 1).await.unwrap();
    assert!(!deliver(&broadcaster, 4).await);
    assert!(gateway.asked() <= 5);
    assert!(before.elapsed() >= retries(4).interval * 4);
    gateway.stop().await;
}

#[test]
fn a_try_that_takes_long_uses_up_those_whose_time_goes_by() {
    let ms = Duration::from_millis;
    for (elapsed, slot, next) in [
        (ms(0), 0, 1),
        (ms(19), 0, 1),
        (ms(45), 1, 3),
        (ms(20), 1, 2),
        (ms(39), 2, 3),
        (Duration::MAX, 2, u32::MAX),
    ] {
        assert_eq!(
            next_slot(elapsed, slot, retries(9)),
            next,
            "{elapsed:?} {slot}"
        );
    }
}

#[tokio::test]
async fn who_does_not_answer_the_dial_is_forgotten_and_who_does_is_dialled_again() {
    let (late, listener) = (bound().await, bound().await);
    let late_at = late.local_addr().unwrap();
    drop(late);
    let gateway = Gateway::start_at(listener, Does::Ok);
    let broadcaster = dial(&[late_at, gateway.at], 1, 1).await.unwrap();
    assert_eq!(broadcaster.connected, [gateway.at]);

    // It comes, and is not known.
    let late = Gateway::start_at(TcpListener::bind(late_at).await.unwrap(), Does::Ok);
    assert!(deliver(&broadcaster, 0).await);
    assert_eq!((late.asked(), gateway.asked()), (0, 1));
    late.stop().await;

    // One that was connected and comes back is found again.
    let at = gateway.at;
    gateway.stop().await;
    assert!(!deliver(&broadcaster, 0).await);
    let again = Gateway::start_at(TcpListener::bind(at).await.unwrap(), Does::Ok);
    assert!(deliver(&broadcaster, 0).await);
    assert_eq!(again.asked(), 1);
    again.stop().await;
}

#[tokio::test]
async fn a_gateway_that_starts_while_it_is_dialled_is_connected() {
    let listener = bound().await;
    let at = listener.local_addr().unwrap();
    drop(listener);
    let mut starting = JoinSet::new();
    starting.spawn(async move {
        sleep(SOON / 4).await;
        Gateway::start_at(TcpListener::bind(at).await.unwrap(), Does::Ok)
    });
    let broadcaster = dial(&[at], 1, 1).await.unwrap();
    assert_eq!(broadcaster.connected, [at]);
    starting.join_all().await.remove(0).stop().await;
}

#[tokio::test]
async fn too_few_gateways_are_an_error_that_names_them() {
    let listener = bound().await;
    let at = listener.local_addr().unwrap();
    drop(listener);
    let gateway = Gateway::start(Does::Ok).await;
    let text = dial(&[at, gateway.at], 2, 1).await.unwrap_err().to_string();
    for part in ["1 of 2 gateways", "300ms", &at.to_string()] {
        assert!(text.contains(part), "{text}");
    }
    let text = dial(&[], 1, 1).await.unwrap_err().to_string();
    assert!(text.contains("name more gateways"), "{text}");
    let disabled = Broadcaster::disabled(client());
    assert!(deliver(&disabled, 0).await);
    gateway.stop().await;
}
