//! What an operator does to a PoET of 2020: naming its gateways and starting it, through its own REST API.
//!
//! The bodies are those of 2020: JSON in camelCase, `{}` for an answer. That API does not tell which gateways are set; a PoET
//! that tells it all the same, as `gatewayAddresses` of `/v1/info`, is believed. Whether a PoET was started it does tell: there is an
//! open round. To add an act, add it to [`Act`].
//!
//! It does not decide when: that is the schedule's.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use reqwest::Client;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::observe::http::{ask, fetch, reason};

/// A PoET that was started opens its first round soon after; it is asked this often whether it has.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// What is asked of a PoET.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// `POST /v1/updategateway`.
    SetGateways,
    /// `POST /v1/start`.
    Start,
}

/// An act, and on whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// What.
    pub act: Act,
    /// The PoET's API.
    pub poet: SocketAddr,
    /// The API of each gateway.
    pub gateways: Vec<SocketAddr>,
}

/// An order that was carried out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Obeyed {
    /// Whether the PoET shows it; `None` where its API tells nothing about it.
    pub shown: Option<bool>,
    /// What was asked and seen.
    pub detail: BTreeMap<String, Value>,
}

/// `GET /v1/info`, as far as it says anything about an order. Other fields are not looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Info {
    open_round_id: String,
    gateway_addresses: Option<Vec<String>>,
}

impl Info {
    /// Reads an object and nothing else: a list would pass for the fields in their order.
    fn read(body: &[u8]) -> serde_json::Result<Self> {
        let object: serde_json::Map<String, Value> = serde_json::from_slice(body)?;
        serde_json::from_value(Value::Object(object))
    }
}

impl Order {
    /// Gives the order and looks at what came of it, each within `bound`.
    ///
    /// # Errors
    /// No answer in time, or one that refuses; a lower-case fragment.
    pub(crate) async fn give(&self, client: &Client, bound: Duration) -> Result<Obeyed, String> {
        let path = match self.act {
            Act::SetGateways => "/v1/updategateway",
            Act::Start => "/v1/start",
        };
        // Thresholds of 0 are those the PoET has.
        let body = json!({
            "gatewayAddresses": self.gateways,
            "disableBroadcast": false,
            "connAcksThreshold": 0,
            "broadcastAcksThreshold": 0,
        });
        let began = Instant::now();
        let request = client
            .post(format!("http://{}{path}", self.poet))
            .json(&body);
        let answer = ask(request, bound)
            .await
            .map_err(|why| format!("{path}: {why}"))?;
        if !answer.status.is_success() {
            let why = reason(&answer.body);
            return Err(format!(
                "{path}: answered {}: {why}",
                answer.status.as_u16()
            ));
        }
        let took = began.elapsed();
        let (shown, told) = self.read_back(client, bound).await;
        let mut detail = BTreeMap::from([
            ("gateways".to_owned(), json!(self.gateways.len())),
            (
                "answered-ms".to_owned(),
                json!(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
            ),
        ]);
        detail.insert("shown".to_owned(), told);
        Ok(Obeyed { shown, detail })
    }

    /// Whether the PoET shows that it obeyed, and what it shows.
    async fn read_back(&self, client: &Client, bound: Duration) -> (Option<bool>, Value) {
        let url = format!("http://{}/v1/info", self.poet);
        let deadline = Instant::now() + bound;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let seen = match fetch(client, &url, left).await {
                Ok(answer) if answer.status.is_success() => {
                    Info::read(&answer.body).map_err(|error| format!("/v1/info: {error}"))
                }
                Ok(answer) => Err(format!("/v1/info: answered {}", answer.status.as_u16())),
                Err(why) => Err(format!("/v1/info: {why}")),
            };
            let (shown, told) = match seen {
                Ok(info) => self.shows(&info),
                Err(why) => (Some(false), json!(why)),
            };
            if shown != Some(false) || Instant::now() + ASK_AGAIN >= deadline {
                return (shown, told);
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    fn shows(&self, info: &Info) -> (Option<bool>, Value) {
        match self.act {
            Act::Start => {
                let open = &info.open_round_id;
                (Some(!open.is_empty()), json!(format!("open round {open}")))
            }
            Act::SetGateways => match &info.gateway_addresses {
                None => (None, json!("nothing")),
                // Those that did not answer the PoET are not among them.
                Some(set) => {
                    let asked = |it: &String| {
                        let parsed: Option<SocketAddr> = it.parse().ok();
                        parsed.is_some_and(|it| self.gateways.contains(&it))
                    };
                    let all = !set.is_empty() && set.iter().all(asked);
                    (
                        Some(all),
                        json!(format!("{} of {}", set.len(), self.gateways.len())),
                    )
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinSet;

    use super::*;
    use crate::observe::poll::http_client;

    /// What a PoET answers to a request line.
    type Answers = Arc<dyn Fn(&str) -> (u16, String) + Send + Sync>;

    async fn serve(stream: TcpStream, answers: Answers, heard: Arc<Mutex<Vec<String>>>) {
        let mut stream = BufReader::new(stream);
        loop {
            let (mut request, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                    return;
                }
                let lower = line.to_lowercase();
                if let Some(number) = lower.strip_prefix("content-length:") {
                    length = number.trim().parse().unwrap();
                }
                if request.is_empty() {
                    request = line.trim_end_matches(" HTTP/1.1\r\n").to_owned();
                } else if line == "\r\n" {
                    break;
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.unwrap();
            let body = String::from_utf8(body).unwrap();
            let (status, text) = answers(&request);
            heard.lock().unwrap().push(format!("{request} {body}"));
            let answer = format!(
                "HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{text}",
                text.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    /// Gives an order to a PoET that answers so; what it heard comes back as well.
    async fn give(
        act: Act,
        answers: impl Fn(&str) -> (u16, String) + Send + Sync + 'static,
    ) -> (Result<Obeyed, String>, Vec<String>) {
        let answers: Answers = Arc::new(answers);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let order = Order {
            act,
            poet: listener.local_addr().unwrap(),
            gateways: vec![
                "127.9.9.1:9090".parse().unwrap(),
                "127.9.9.2:9090".parse().unwrap(),
            ],
        };
        let heard = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        let own = Arc::clone(&heard);
        tasks.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                serving.spawn(serve(stream, Arc::clone(&answers), Arc::clone(&own)));
            }
        });
        let client = http_client(None).unwrap();
        let obeyed = order.give(&client, Duration::from_millis(300)).await;
        let heard = heard.lock().unwrap().clone();
        (obeyed, heard)
    }

    #[tokio::test]
    async fn the_wire_is_that_of_2020() {
        let (obeyed, heard) = give(Act::SetGateways, |_| (200, "{}".to_owned())).await;
        let obeyed = obeyed.unwrap();
        assert_eq!(obeyed.shown, None, "the API of 2020 does not tell");
        assert_eq!(obeyed.detail["gateways"], 2);
        let (request, body) = heard[0].split_once(" {").unwrap();
        assert_eq!(request, "POST /v1/updategateway");
        let body: Value = serde_json::from_str(&format!("{{{body}")).unwrap();
        let expected = json!({
            "gatewayAddresses": ["127.9.9.1:9090", "127.9.9.2:9090"],
            "disableBroadcast": false,
            "connAcksThreshold": 0,
            "broadcastAcksThreshold": 0,
        });
        assert_eq!(body, expected);
    }

    #[tokio::test]
    async fn what_a_poet_shows_is_compared() {
        use Act::{SetGateways, Start};
        for (act, info, shown) in [
            (
                SetGateways,
                json!({ "gatewayAddresses": ["127.9.9.2:9090"] }),
                Some(true),
            ),
            (
                SetGateways,
                json!({ "gatewayAddresses": ["127.9.9.3:9090"] }),
                Some(false),
            ),
            (
                SetGateways,
                json!({ "gatewayAddresses": ["gateway"] }),
                Some(false),
            ),
            (SetGateways, json!({ "gatewayAddresses": [] }), Some(false)),
            (
                SetGateways,
                json!({ "openRoundId": "3", "later": {} }),
                None,
            ),
            (Start, json!({ "openRoundId": "3" }), Some(true)),
            (Start, json!({ "openRoundId": "" }), Some(false)),
            (Start, json!(["garbage"]), Some(false)),
        ] {
            let text = info.to_string();
            let (obeyed, _) = give(act, move |_| (200, text.clone())).await;
            assert_eq!(obeyed.unwrap().shown, shown, "{act:?} {info}");
        }
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_the_words_of_the_poet() {
        let (refused, heard) = give(Act::Start, |_| {
            (
                400,
                "{\"error\":\"this PoET was started before\"}".to_owned(),
            )
        })
        .await;
        assert_eq!(
            refused.unwrap_err(),
            "/v1/start: answered 400: this PoET was started before"
        );
        assert_eq!(heard.len(), 1, "nothing more is asked of it");
    }

    #[tokio::test]
    async fn nobody_there_is_told() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let poet = listener.local_addr().unwrap();
        drop(listener);
        let order = Order {
            act: Act::Start,
            poet,
            gateways: Vec::new(),
        };
        let client = http_client(None).unwrap();
        let refused = order.give(&client, Duration::from_millis(300)).await;
        let why = refused.unwrap_err();
        assert!(why.starts_with("/v1/start: cannot connect"), "{why}");
    }
}
