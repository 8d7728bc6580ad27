//! TCP frames of the swarm: `[u32 length][sealed bytes]`, a handshake first, then messages.
//!
//! The first frame of each side is a whole sealed datagram (`wire.rs`) with a [`Handshake`]; later
//! frames are `[24 B nonce][NaCl box]` with a [`Frame`]. 2020 used varint lengths, no limit, and no
//! handshake from the accepting side; ours answers, so that a refusal is known to the dialler. To add a
//! frame, add a variant to [`Frame`]. Pure functions; they never panic, whatever the bytes.

use super::codec::{Reader, WireError, Writer};
use super::wire::CLIENT_VERSION;
use bytes::{Buf as _, Bytes, BytesMut};

/// Bytes of the length in front of each frame.
pub(crate) const LENGTH_LEN: usize = 4;
/// The only handshake version there is.
const VERSION: u16 = 1;

/// What two nodes tell each other first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handshake {
    pub(crate) client_version: String,
    pub(crate) netid: u32,
    /// Where the sender listens, on the address it dialled from.
    pub(crate) port: u16,
}

impl Handshake {
    pub(crate) fn new(netid: u32, port: u16) -> Self {
        Self {
            client_version: CLIENT_VERSION.to_owned(),
            netid,
            port,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u16(VERSION)
            .bytes(self.client_version.as_bytes(), 64)
            .u32(self.netid)
            .u16(self.port);
        out.done()
    }

    pub(crate) fn decode(plain: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(plain);
        let version = reader.u16("the handshake version")?;
        if version != VERSION {
            let what = "the handshake version";
            return Err(WireError::BadValue {
                what,
                value: version.into(),
            });
        }
        let client_version = reader.bytes("the client version", 64)?;
        let client_version = String::from_utf8_lossy(client_version).into_owned();
        let netid = reader.u32("the netid")?;
        let port = reader.u16("the port")?;
        reader.finish()?;
        Ok(Self {
            client_version,
            netid,
            port,
        })
    }
}

/// What is inside a sealed frame after the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Says that the sender is alive.
    KeepAlive,
    /// A gossip message of a topic.
    Gossip { topic: u8, body: Bytes },
    /// A question of the sender's mesh.
    Request { id: u64, body: Bytes },
    /// The answer to the receiver's question of this number.
    Answer { id: u64, body: Bytes },
}

impl Frame {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Writer::default();
        match self {
            Self::KeepAlive => out.u8(0),
            Self::Gossip { topic, body } => out.u8(1).u8(*topic).raw(body),
            Self::Request { id, body } => out.u8(2).u64(*id).raw(body),
            Self::Answer { id, body } => out.u8(3).u64(*id).raw(body),
        };
        out.done().into()
    }

    pub(crate) fn decode(plain: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(plain);
        match reader.u8("the kind of frame")? {
            0 => reader.finish().map(|()| Self::KeepAlive),
            1 => {
                let topic = reader.u8("the topic")?;
                Ok(Self::Gossip {
                    topic,
                    body: Bytes::copy_from_slice(reader.rest()),
                })
            }
            kind @ (2 | 3) => {
                let id = reader.u64("the number of a question")?;
                let body = Bytes::copy_from_slice(reader.rest());
                Ok(if kind == 2 {
                    Self::Request { id, body }
                } else {
                    Self::Answer { id, body }
                })
            }
            other => Err(WireError::BadValue {
                what: "the kind of frame",
                value: other.into(),
            }),
        }
    }
}

/// Takes the next whole frame off the front of what was read, if it is there.
pub(crate) fn split(buffer: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, WireError> {
    let Some(length) = buffer.first_chunk::<LENGTH_LEN>() else {
        return Ok(None);
    };
    let len = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if len > limit {
        return Err(WireError::TooLong {
            what: "a frame",
            len,
            limit,
        });
    }
    if buffer.len() - LENGTH_LEN < len {
        return Ok(None);
    }
    buffer.advance(LENGTH_LEN);
    Ok(Some(buffer.split_to(len).freeze()))
}

/// Appends a frame whose sealed bytes `write` appends.
pub(crate) fn append(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; LENGTH_LEN]);
    write(out);
    let len = out.len() - at - LENGTH_LEN;
    let len = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    out[at..at + LENGTH_LEN].copy_from_slice(&len);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(handshake) = Handshake::decode(&bytes) {
                prop_assert_eq!(Handshake::decode(&handshake.encode()).unwrap(), handshake);
            }
            if let Ok(frame) = Frame::decode(&bytes) {
                prop_assert_eq!(&frame.encode()[..], &bytes[..]);
            }
            let mut buffer = BytesMut::from(&bytes[..]);
            let before = buffer.len();
            let taken = split(&mut buffer, 64).ok().flatten();
            let taken = taken.map_or(0, |frame| frame.len() + LENGTH_LEN);
            prop_assert_eq!(before, buffer.len() + taken);
        }

        #[test]
        fn a_stream_of_frames_comes_out_as_it_went_in_however_it_is_cut(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..8),
            cut in 1_usize..40,
        ) {
            let mut stream = Vec::new();
            for frame in &frames {
                append(&mut stream, |out| out.extend_from_slice(frame));
            }
            let (mut buffer, mut seen) = (BytesMut::new(), Vec::new());
            for piece in stream.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = split(&mut buffer, 64).unwrap() {
                    seen.push(frame.to_vec());
                }
            }
            prop_assert_eq!(seen, frames);
        }
    }

    #[test]
    fn messages_round_trip_and_a_long_frame_is_refused_before_it_is_read() {
        let handshake = Handshake::new(116, 7513);
        assert_eq!(Handshake::decode(&handshake.encode()).unwrap(), handshake);
        for frame in [
            Frame::KeepAlive,
            Frame::Gossip {
                topic: 3,
                body: Bytes::from_static(b"x"),
            },
            Frame::Request {
                id: 7,
                body: Bytes::from_static(b"what"),
            },
            Frame::Answer {
                id: u64::MAX,
                body: Bytes::new(),
            },
        ] {
            assert_eq!(Frame::decode(&frame.encode()).unwrap(), frame);
        }
        let mut buffer = BytesMut::from(&65_u32.to_be_bytes()[..]);
        assert!(matches!(
            split(&mut buffer, 64),
            Err(WireError::TooLong { len: 65, .. })
        ));
    }
}
