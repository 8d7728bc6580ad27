//! The bodies of the PoET's REST API and of a gateway's `/v1/broadcastpoet`, as 2020 wrote them.
//!
//! JSON in camelCase, bytes as base64, rounds as text. As in its protocol buffers, a field that is
//! missing has its empty value. Both ends use these types, so that they cannot drift apart. To add a
//! message, add a struct; paths are beside it.

use super::RoundId;
use super::hash::Node;
use crate::runtime::base64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) const START: &str = "/v1/start";
pub(crate) const UPDATE_GATEWAY: &str = "/v1/updategateway";
pub(crate) const SUBMIT: &str = "/v1/submit";
pub(crate) const INFO: &str = "/v1/info";
/// Followed by the round; not of 2020, whose PoETs only pushed (poet#187).
pub(crate) const PROOFS: &str = "/v1/proofs/";
pub(crate) const BROADCAST_POET: &str = "/v1/broadcastpoet";

/// What a gateway answers when a proof is queued for gossip, and nothing more.
pub(crate) const OK: &str = "ok";

/// `POST /v1/start` and `POST /v1/updategateway`; the answer is `{}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Gateways {
    pub(crate) gateway_addresses: Vec<String>,
    pub(crate) disable_broadcast: bool,
    /// 0: as the flags have it.
    pub(crate) conn_acks_threshold: u32,
    /// 0: as the flags have it.
    pub(crate) broadcast_acks_threshold: u32,
}

/// `POST /v1/submit`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Submit {
    #[serde(with = "base64")]
    pub(crate) challenge: Vec<u8>,
}

/// The answer: the challenge is on disk, as a member of this round.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Submitted {
    #[serde(with = "round")]
    pub(crate) round_id: RoundId,
}

/// `GET /v1/info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Info {
    /// None, as empty text, before the PoET was started.
    #[serde(with = "maybe_round")]
    pub(crate) open_round_id: Option<RoundId>,
    #[serde(with = "rounds")]
    pub(crate) executing_rounds_ids: Vec<RoundId>,
    #[serde(with = "base64")]
    pub(crate) service_pub_key: Vec<u8>,
    /// Those that proofs are handed to, which are those that answered when they were set. Not of 2020, whose operators could
    /// only believe that it had heard them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) gateway_addresses: Vec<String>,
}

/// `GET /v1/proofs/{id}`: the bytes of the proof; 404 as long as there is none.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ProofAnswer {
    #[serde(with = "base64")]
    pub(crate) proof: Vec<u8>,
}

/// `POST /v1/broadcastpoet` of a gateway: the bytes of a proof.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Broadcast {
    #[serde(with = "base64")]
    pub(crate) data: Vec<u8>,
}

/// Its answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ack {
    pub(crate) value: String,
}

/// A challenge, if the bytes are as many as one has.
pub(crate) fn challenge(bytes: &[u8]) -> Option<Node> {
    bytes.try_into().ok()
}

mod round {
    use super::{Deserialize as _, Deserializer, RoundId, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
    pub(super) fn serialize<S: Serializer>(
        round: &RoundId,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(round)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<RoundId, D::Error> {
        parse(&String::deserialize(deserializer)?)
    }

    pub(super) fn parse<E: serde::de::Error>(text: &str) -> Result<RoundId, E> {
        let wrong = || E::custom(format!("`{text}` is not the number of a round"));
        text.parse().map_err(|_| wrong())
    }
}

mod maybe_round {
    use super::{Deserialize as _, Deserializer, RoundId, Serializer, round};

    #[expect(
        clippy::ref_option,
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes it so"
    )]
    pub(super) fn serialize<S: Serializer>(
        round: &Option<RoundId>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match round {
            Some(round) => serializer.collect_str(round),
            None => serializer.serialize_str(""),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<RoundId>, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "" => Ok(None),
            text => round::parse(text).map(Some),
        }
    }
}

mod rounds {
    use super::{Deserialize as _, Deserializer, RoundId, Serializer, round};

    pub(super) fn serialize<S: Serializer>(
        rounds: &[RoundId],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(rounds.iter().map(RoundId::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<RoundId>, D::Error> {
        let texts: Vec<String> = Vec::deserialize(deserializer)?;
        texts.iter().map(|text| round::parse(text)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bodies_are_those_of_2020() {
        let info = Info {
            open_round_id: Some(3),
            executing_rounds_ids: vec![1, 2],
            service_pub_key: vec![255; 3],
            gateway_addresses: Vec::new(),
        };
        let expected = json!({
            "openRoundId": "3", "executingRoundsIds": ["1", "2"], "servicePubKey": "////",
        });
        assert_eq!(serde_json::to_value(&info).unwrap(), expected);
        assert_eq!(serde_json::from_value::<Info>(expected).unwrap(), info);

        let waiting = json!({ "openRoundId": "", "executingRoundsIds": [], "servicePubKey": "" });
        let info: Info = serde_json::from_value(waiting.clone()).unwrap();
        assert_eq!(info.open_round_id, None);
        assert_eq!(serde_json::to_value(info).unwrap(), waiting);

        let text = serde_json::to_value(Submitted { round_id: 7 }).unwrap();
        assert_eq!(text, json!({ "roundId": "7" }));
        assert!(serde_json::from_value::<Submitted>(json!({ "roundId": "-1" })).is_err());

        let some = json!({ "gatewayAddresses": ["127.0.0.1:9090"], "later": 1 });
        let gateways: Gateways = serde_json::from_value(some).unwrap();
        let expected = Gateways {
            gateway_addresses: vec!["127.0.0.1:9090".to_owned()],
            ..Gateways::default()
        };
        assert_eq!(gateways, expected);
    }
}
