//! Bytes inside JSON, as the gateways of 2020 wrote them: base64 with padding.
//!
//! Use it with `#[serde(with = "crate::runtime::base64")]` on a `Vec<u8>`. What is not base64 is an
//! error of the JSON around it, which axum answers with 4xx.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serializer};

/// Bytes as base64.
pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

/// Bytes out of base64.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    STANDARD
        .decode(text)
        .map_err(|error| serde::de::Error::custom(format!("not base64: {error}")))
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Debug, Serialize, Deserialize, PartialEq)]
    struct Message {
        #[serde(with = "super")]
        data: Vec<u8>,
    }

    #[test]
    fn bytes_are_padded_base64_and_anything_else_is_refused() {
        let message = Message {
            data: vec![0, 255, 7, 9],
        };
        let text = serde_json::to_string(&message).unwrap();
        assert_eq!(text, r#"{"data":"AP8HCQ=="}"#);
        assert_eq!(serde_json::from_str::<Message>(&text).unwrap(), message);
        for bad in [
            r#"{"data":"AP8HCQ"}"#,
            r#"{"data":"~"}"#,
            r#"{"data":[1]}"#,
            "{}",
        ] {
            assert!(serde_json::from_str::<Message>(bad).is_err(), "{bad}");
        }
    }
}
