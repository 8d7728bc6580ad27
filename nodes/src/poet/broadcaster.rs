//! Handing proofs to gateways, as 2020 did: dialled once, tried again, given up.
//!
//! A broadcaster knows the gateways that answered when it was made; those that did not are forgotten
//! for as long as it lives. A proof is sent to all of them at once, and is delivered when enough have
//! said "ok", which says that it is in their gossip and nothing about anybody having got it. To
//! change what a release does when it has failed, look at who calls [`Broadcaster::deliver`]. This
//! module keeps no rounds and touches no disk.

use super::RoundId;
use super::messages::{Ack, BROADCAST_POET, Broadcast, OK};
use crate::runtime::client::{Client, ClientError};
use crate::runtime::events;
use serde::de::IgnoredAny;
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// What a dial asks for: any answer at all shows that somebody is there.
const GREETING: &str = "/v1/nodestatus";
/// All processes of a network start at once, so that a gateway may take a while to listen.
const DIAL_AGAIN: Duration = Duration::from_millis(25);
/// What an event quotes of the gateways' errors, in characters.
const TOLD: usize = 1000;

/// When a proof is tried again, and when no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retries {
    /// Tries after the first.
    pub(crate) count: u32,
    /// From the beginning of one try to that of the next, in real time.
    pub(crate) interval: Duration,
}

/// How many gateways it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Thresholds {
    /// Gateways that must answer at the dial.
    pub(crate) conn_acks: usize,
    /// Gateways that must say "ok" to a proof.
    pub(crate) broadcast_acks: usize,
}

/// Who is handed the proofs.
#[derive(Debug)]
pub(crate) struct Broadcaster {
    client: Client,
    /// Those that answered at the dial.
    connected: Vec<SocketAddr>,
    acks: usize,
    disabled: bool,
}

/// Too few gateways to be of use.
#[derive(Debug, thiserror::Error)]
#[error(
    "{connected} of {given} gateways answered within {} and {need} must; {why}",
    humantime::format_duration(*within)
)]
pub(crate) struct DialError {
    connected: usize,
    given: usize,
    need: usize,
    within: Duration,
    why: String,
}

impl Broadcaster {
    /// Proofs are made and not sent.
    pub(crate) fn disabled(client: Client) -> Self {
        Self {
            client,
            connected: Vec::new(),
            acks: 0,
            disabled: true,
        }
    }

    /// The gateways that answered.
    pub(crate) fn connected(&self) -> &[SocketAddr] {
        &self.connected
    }

    /// Dials all gateways at the same time, again and again until they answer or time is up.
    pub(crate) async fn dial(
        client: Client,
        gateways: &[SocketAddr],
        thresholds: Thresholds,
        within: Duration,
    ) -> Result<Self, DialError> {
        let mut dials = JoinSet::new();
        for (place, gateway) in gateways.iter().copied().enumerate() {
            let client = client.clone();
            dials.spawn(async move {
                let answered = timeout(within, answers(&client, gateway)).await.is_ok();
                (place, gateway, answered)
            });
        }
        let mut dialled = dials.join_all().await;
        dialled.sort_unstable();
        let (connected, forgotten): (Vec<_>, Vec<_>) =
            dialled.into_iter().partition(|(.., answered)| *answered);
        let only = |of: Vec<(usize, SocketAddr, bool)>| -> Vec<SocketAddr> {
            of.into_iter().map(|(_, gateway, _)| gateway).collect()
        };
        let (connected, forgotten) = (only(connected), only(forgotten));
        let fields = json!({ "connected": connected, "forgotten": forgotten });
        events::emit("gateways-dialled", fields);
        if connected.len() < thresholds.conn_acks {
            let why = if gateways.len() < thresholds.conn_acks {
                "name more gateways, or lower the conn-acks threshold".to_owned()
            } else {
                format!("no answer from {}", listed(&forgotten))
            };
            return Err(DialError {
                connected: connected.len(),
                given: gateways.len(),
                need: thresholds.conn_acks,
                within,
                why,
            });
        }
        Ok(Self {
            client,
            connected,
            acks: thresholds.broadcast_acks,
            disabled: false,
        })
    }

    /// Sends a proof until enough gateways took it (true), or the tries are used up (false).
    pub(crate) async fn deliver(
        &self,
        poet: &str,
        round: RoundId,
        proof: &[u8],
        retries: Retries,
    ) -> bool {
        if self.disabled {
            events::emit(
                "broadcast-disabled",
                json!({ "poet": poet, "round": round }),
            );
            return true;
        }
        let message = Broadcast {
            data: proof.to_vec(),
        };
        let begin = Instant::now();
        let mut attempt = 0;
        let mut slot = 0;
        loop {
            attempt += 1;
            let (acks, error) = self.attempt(&message).await;
            let fields = |key: &str, value: serde_json::Value| json!({ "poet": poet, "round": round, "attempt": attempt, "acks": acks, key: value });
            if acks >= self.acks {
                let of = self.connected.len().into();
                events::emit("broadcast-acked", fields("gateways", of));
                return true;
            }
            events::emit("broadcast-failed", fields("error", error.into()));
            slot = next_slot(begin.elapsed(), slot, retries);
            if slot > retries.count {
                let fields = json!({ "poet": poet, "round": round, "attempts": attempt });
                events::emit("broadcast-gave-up", fields);
                return false;
            }
            sleep_until(begin + retries.interval * slot).await;
        }
    }

    /// One try: all gateways at the same time, each within the client's time.
    async fn attempt(&self, message: &Broadcast) -> (usize, String) {
        let mut posts = JoinSet::new();
        for gateway in self.connected.iter().copied() {
            let (client, message) = (self.client.clone(), message.clone());
            posts.spawn(async move {
                let answer: Result<Ack, _> = client.post(gateway, BROADCAST_POET, &message).await;
                match answer {
                    Ok(ack) if ack.value == OK => Ok(()),
                    Ok(ack) => Err(format!("{gateway} answered `{}`", ack.value)),
                    Err(error) => Err(error.to_string()),
                }
            });
        }
        let answers = posts.join_all().await;
        let acks = answers.iter().filter(|answer| answer.is_ok()).count();
        let mut errors: Vec<String> = answers.into_iter().filter_map(Result::err).collect();
        errors.sort_unstable();
        let counts = format!(
            "{acks} of {} gateways took the proof and {} must",
            self.connected.len(),
            self.acks
        );
        errors.insert(0, counts);
        (acks, errors.join("; ").chars().take(TOLD).collect())
    }
}

/// Which try comes next: the one after this, without those whose time went by meanwhile.
fn next_slot(elapsed: Duration, slot: u32, retries: Retries) -> u32 {
    let passed = elapsed.as_nanos() / retries.interval.as_nanos().max(1);
    let passed = u32::try_from(passed).unwrap_or(u32::MAX);
    passed.max(slot).saturating_add(1)
}

/// Ends when the gateway gives any answer, be it that it does not know what was asked.
async fn answers(client: &Client, gateway: SocketAddr) {
    loop {
        match client.get::<IgnoredAny>(gateway, GREETING).await {
            Err(
                ClientError::Unreachable { .. } | ClientError::Slow { .. } | ClientError::Make(_),
            ) => sleep(DIAL_AGAIN).await,
            Ok(_) | Err(_) => return,
        }
    }
}

fn listed(gateways: &[SocketAddr]) -> String {
    let texts: Vec<_> = gateways.iter().map(SocketAddr::to_string).collect();
    texts.join(", ")
}

#[cfg(test)]
#[path = "broadcaster_tests.rs"]
mod tests;
