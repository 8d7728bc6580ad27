//! What a miner says to a PoET: who are you, and take this challenge.
//!
//! The REST API of 2020. Whether the challenge lands in the round that it is for is known only from
//! the answer: a PoET whose clock differs, or whose round has closed between two requests, puts it
//! into another one, and then it is not registered.

use super::builder::PoetKey;
use crate::poet::RoundId;
use crate::poet::messages::{INFO, Info, SUBMIT, Submit, Submitted};
use crate::runtime::client::{Client, ClientError};
use std::net::SocketAddr;

/// An answer that names some rounds, not more.
pub(crate) const ANSWER_MAX: usize = 64 << 10;

/// What asking came to.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Who the PoET says it is, once it has said so.
    pub(crate) key: Option<PoetKey>,
    pub(crate) result: Result<(), RegisterError>,
}

/// Why a challenge is not registered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegisterError {
    #[error("{0}")]
    Client(#[from] ClientError),
    #[error("its key has {0} bytes and not 32; it is no PoET of this network")]
    Key(usize),
    #[error("it was not started yet and has no open round")]
    NotStarted,
    #[error("its open round is {open} and the challenge is for round {round}; compare the clocks")]
    NotOpen { open: RoundId, round: RoundId },
    #[error("it took the challenge for round {round} into round {into}, where it is of no use")]
    OtherRound { into: RoundId, round: RoundId },
}

/// Hands `challenge` to the PoET at `api` for `round`.
pub(crate) async fn register(
    client: &Client,
    api: SocketAddr,
    challenge: [u8; 32],
    round: RoundId,
) -> Asked {
    let mut key = None;
    let result = ask(client, api, challenge, round, &mut key).await;
    Asked { key, result }
}

async fn ask(
    client: &Client,
    api: SocketAddr,
    challenge: [u8; 32],
    round: RoundId,
    key: &mut Option<PoetKey>,
) -> Result<(), RegisterError> {
    let info: Info = client.get(api, INFO).await?;
    let open = info.open_round_id.ok_or(RegisterError::NotStarted)?;
    if open != round {
        return Err(RegisterError::NotOpen { open, round });
    }
    let bytes = info.service_pub_key;
    let service = bytes.as_slice().try_into();
    *key = Some(service.map_err(|_| RegisterError::Key(bytes.len()))?);
    let challenge = challenge.to_vec();
    let submitted: Submitted = client.post(api, SUBMIT, &Submit { challenge }).await?;
    match submitted.round_id {
        into if into == round => Ok(()),
        into => Err(RegisterError::OtherRound { into, round }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::extract::State;
    use axum::routing::{get, post};
    use axum::{Json, Router};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    /// A PoET that says whatever it is told to say.
    #[derive(Debug, Clone)]
    struct Says {
        open: Option<RoundId>,
        key: Vec<u8>,
        into: RoundId,
        took: Arc<Mutex<Vec<Vec<u8>>>>,
    }

    async fn poet(says: Says, tasks: &mut JoinSet<()>) -> SocketAddr {
        let info = async |State(says): State<Says>| {
            Json(Info {
                open_round_id: says.open,
                executing_rounds_ids: Vec::new(),
                service_pub_key: says.key,
                gateway_addresses: Vec::new(),
            })
        };
        let submit = async |State(says): State<Says>, Json(body): Json<Submit>| {
            says.took.lock().unwrap().push(body.challenge);
            let round_id = says.into;
            Json(Submitted { round_id })
        };
        let router = Router::new()
            .route(INFO, get(info))
            .route(SUBMIT, post(submit))
            .with_state(says);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        address
    }

    #[tokio::test]
    async fn only_an_answer_for_the_right_round_is_a_registration() {
        let mut tasks = JoinSet::new();
        let client =
            Client::new([127, 0, 0, 1].into(), Duration::from_secs(5), ANSWER_MAX).unwrap();
        // What the PoET says, whether it was handed the challenge, and what that comes to.
        for (open, key_bytes, into, handed, problem) in [
            (Some(4), 32, 4, true, None),
            (Some(4), 32, 5, true, Some("took the challenge")),
            (Some(5), 32, 4, false, Some("open round is 5")),
            (None, 32, 4, false, Some("not started")),
            (Some(4), 31, 4, false, Some("31 bytes")),
        ] {
            let says = Says {
                open,
                key: vec![7; key_bytes],
                into,
                took: Arc::default(),
            };
            let api = poet(says.clone(), &mut tasks).await;
            let asked = register(&client, api, [9; 32], 4).await;
            let text = asked.result.map_err(|error| error.to_string()).err();
            match (problem, &text) {
                (None, None) => {}
                (Some(part), Some(text)) => assert!(text.contains(part), "{text}"),
                _ => panic!("{problem:?} {text:?}"),
            }
            let took: Vec<Vec<u8>> = handed.then_some(vec![9; 32]).into_iter().collect();
            assert_eq!(*says.took.lock().unwrap(), took, "{problem:?}");
            assert_eq!(asked.key, handed.then_some([7; 32]));
        }
    }
}
