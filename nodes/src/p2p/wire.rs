//! The UDP datagrams of 2020: `[32 B sender key][24 B nonce][NaCl box]`.
//!
//! The box is curve25519 + xsalsa20-poly1305 and holds a [`Message`], the protocol message of
//! go-spacemesh v0.1.12: metadata {next protocol, client version, timestamp, key, netid} and a
//! payload. 2020 encoded it as XDR; here it is a compact codec of our own with the same fields.
//! Pure functions: keys, nonces, netid and timestamps are arguments. No clock, no entropy, no I/O.
//! To add a discovery message, add a `KIND_` constant, and its body beside [`Addresses`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tweedledum_crypto::sealed::{PairKey, Tag};

pub use super::codec::WireError;
use super::codec::{Reader, Writer};

// A secret key is what a node's identity is made from; a public one names the sender at the front of each datagram.
pub use tweedledum_crypto::sealed::{Nonce, PublicKey, SecretKey, public_key};

/// Bytes in front of the box: key and nonce.
pub const HEADER_LEN: usize = 32 + NONCE_LEN;
/// The shortest datagram from which 2020 took a sender key (it refused 32 bytes and fewer).
pub const MIN_DATAGRAM: usize = 33;
/// The longest datagram that is taken: the read buffer of 2020.
pub const MAX_DATAGRAM: usize = 30_000;
/// The protocol that all UDP messages of 2020 are for.
pub const DISCOVERY: &str = "/udp/v2/discovery";
/// What this implementation calls itself in metadata and handshakes.
pub const CLIENT_VERSION: &str = "tweedledum/0.1.0";
/// Message kind of ping and pong.
pub const KIND_PING: u32 = 0;
/// Message kind of get-addresses.
pub const KIND_GET_ADDRESSES: u32 = 1;
/// The most addresses one answer carries, as in 2020.
pub const MAX_ADDRESSES: usize = 300;

pub(crate) const NONCE_LEN: usize = 24;
pub(crate) const TAG_LEN: usize = 16;
/// Names and versions are short; 64 bytes are three times the longest one in use.
const MAX_NAME: u16 = 64;
/// 300 addresses take at most 15.6 kB, so this limit is never reached by our own messages.
const MAX_BODY: u16 = 20_000;

/// A well-formed discovery ping as one whole datagram from `secret`'s owner to `target`.
///
/// `timestamp_ns` is Unix time in nanoseconds. The answer comes to the address that sent it, and is
/// read by [`parse_pong`] with the same `request_id`.
pub fn ping(
    secret: &SecretKey,
    target: &PublicKey,
    nonce: &Nonce,
    netid: u32,
    timestamp_ns: u64,
    request_id: u64,
) -> Vec<u8> {
    let sender = public_key(secret);
    let request = Wrapped {
        request: true,
        kind: KIND_PING,
        id: request_id,
        body: Vec::new(),
    };
    let message = Message::discovery(sender, netid, timestamp_ns, request);
    seal(secret, target, nonce, &message.encode())
}

/// Reads the answer to [`ping`] out of a datagram that came to the owner of `secret`.
///
/// # Errors
/// Anything that is not the answer of `target`, in network `netid`, to request `request_id`.
pub fn parse_pong(
    secret: &SecretKey,
    target: &PublicKey,
    netid: u32,
    request_id: u64,
    datagram: &[u8],
) -> Result<Pong, WireError> {
    let (sender, plain) = open(secret, datagram)?;
    if sender != *target {
        return Err(WireError::Unexpected {
            what: "a pong sealed by the pinged node",
        });
    }
    let message = Message::decode(&plain)?;
    message.check(&sender, netid)?;
    let answer = message.answer_to(KIND_PING, request_id)?;
    Ok(Pong {
        responder: sender,
        timestamp_ns: message.timestamp_ns,
        client_version: message.client_version.clone(),
        listens: decode_listens(&answer.body)?,
    })
}

/// What a node said in its answer to a ping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pong {
    /// Who answered.
    pub responder: PublicKey,
    /// The responder's clock, Unix nanoseconds.
    pub timestamp_ns: u64,
    /// The responder's software.
    pub client_version: String,
    /// Where the responder listens.
    pub listens: Option<SocketAddr>,
}

/// Seals `payload` into a whole datagram from `secret`'s owner to `target`.
pub fn seal(secret: &SecretKey, target: &PublicKey, nonce: &Nonce, payload: &[u8]) -> Vec<u8> {
    SharedKey::new(secret, target).seal_datagram(&public_key(secret), nonce, payload)
}

/// Opens a datagram that was sealed for the owner of `secret`: the sender's key and the payload.
///
/// # Errors
/// Too short for a header and a box, or a box that does not open.
pub fn open(secret: &SecretKey, datagram: &[u8]) -> Result<(PublicKey, Vec<u8>), WireError> {
    let sender = sender_of(datagram)?;
    let plain = SharedKey::new(secret, &sender).open_datagram(datagram)?;
    Ok((sender, plain))
}

/// The key a datagram names as its sender. Nothing is verified; 2020 made sessions of this alone.
///
/// # Errors
/// Fewer than [`MIN_DATAGRAM`] bytes.
pub fn sender_of(datagram: &[u8]) -> Result<PublicKey, WireError> {
    if datagram.len() < MIN_DATAGRAM {
        let need = MIN_DATAGRAM;
        return Err(WireError::TooShort {
            what: "a datagram",
            need,
            have: datagram.len(),
        });
    }
    Reader::new(datagram).array("the sender's key")
}

/// The precomputed key between two nodes, the same from either side.
#[derive(Clone)]
pub struct SharedKey(Arc<PairKey>);

impl std::fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedKey(..)")
    }
}

impl SharedKey {
    /// One Diffie-Hellman exchange, some 40 µs.
    pub fn new(mine: &SecretKey, theirs: &PublicKey) -> Self {
        Self(Arc::new(PairKey::new(mine, theirs)))
    }

    /// `[sender][nonce][box]`.
    pub fn seal_datagram(&self, sender: &PublicKey, nonce: &Nonce, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN + TAG_LEN + payload.len());
        out.extend_from_slice(sender);
        self.seal_into(nonce, payload, &mut out);
        out
    }

    /// The payload of `[sender][nonce][box]`.
    ///
    /// # Errors
    /// Too short for a header and a box, or a box that does not open.
    pub fn open_datagram(&self, datagram: &[u8]) -> Result<Vec<u8>, WireError> {
        let mut reader = Reader::new(datagram);
        reader.take("the sender's key", 32)?;
        self.open_box(reader.rest())
    }

    /// Appends `[nonce][box]`, the form of a TCP frame after the handshake.
    pub(crate) fn seal_into(&self, nonce: &Nonce, payload: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(nonce);
        let tag_at = out.len();
        out.extend_from_slice(&[0; TAG_LEN]);
        let text_at = out.len();
        out.extend_from_slice(payload);
        // xsalsa20-poly1305 fails only above 2^38 bytes, so an all-zero tag is never sent.
        if let Some(tag) = self.0.seal(nonce, &mut out[text_at..]) {
            out[tag_at..text_at].copy_from_slice(&tag);
        }
    }

    /// The payload of `[nonce][box]`.
    pub(crate) fn open_box(&self, sealed: &[u8]) -> Result<Vec<u8>, WireError> {
        let mut reader = Reader::new(sealed);
        let nonce: Nonce = reader.array("the nonce")?;
        let tag: Tag = reader.array("the box")?;
        let mut text = reader.rest().to_vec();
        if !self.0.open(&nonce, &tag, &mut text) {
            return Err(WireError::Sealed);
        }
        Ok(text)
    }
}

/// The protocol message of 2020: metadata and payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Which protocol the payload is for, [`DISCOVERY`] over UDP.
    pub next_protocol: String,
    /// The sender's software.
    pub client_version: String,
    /// The sender's clock, Unix nanoseconds.
    pub timestamp_ns: u64,
    /// The sender's key once more, now under the seal.
    pub auth_key: PublicKey,
    /// The network the sender belongs to.
    pub netid: u32,
    /// What it says.
    pub payload: Payload,
}

/// The two payloads of 2020.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// Bytes for the next protocol.
    Raw(Vec<u8>),
    /// A request or its answer.
    Wrapped(Wrapped),
}

/// A request, or the answer that carries the same id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrapped {
    /// True in a request, false in its answer.
    pub request: bool,
    /// [`KIND_PING`] or [`KIND_GET_ADDRESSES`].
    pub kind: u32,
    /// Chosen by who asks.
    pub id: u64,
    /// The body, whose form the kind decides.
    pub body: Vec<u8>,
}

impl Message {
    /// A message of the discovery protocol.
    pub fn discovery(sender: PublicKey, netid: u32, timestamp_ns: u64, wrapped: Wrapped) -> Self {
        Self {
            next_protocol: DISCOVERY.to_owned(),
            client_version: CLIENT_VERSION.to_owned(),
            timestamp_ns,
            auth_key: sender,
            netid,
            payload: Payload::Wrapped(wrapped),
        }
    }

    /// The plain text of a box.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.bytes(self.next_protocol.as_bytes(), MAX_NAME)
            .bytes(self.client_version.as_bytes(), MAX_NAME)
            .u64(self.timestamp_ns)
            .raw(&self.auth_key)
            .u32(self.netid);
        match &self.payload {
            Payload::Raw(bytes) => out.u8(0).bytes(bytes, MAX_BODY),
            Payload::Wrapped(wrapped) => out
                .u8(1)
                .u8(wrapped.request.into())
                .u32(wrapped.kind)
                .u64(wrapped.id)
                .bytes(&wrapped.body, MAX_BODY),
        };
        out.done()
    }

    /// Reads the plain text of a box.
    ///
    /// # Errors
    /// Whatever is not exactly one message. Never panics.
    pub fn decode(plain: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(plain);
        let next_protocol = name(&mut reader, "the next protocol")?;
        let client_version = name(&mut reader, "the client version")?;
        let timestamp_ns = reader.u64("the timestamp")?;
        let auth_key = reader.array("the key")?;
        let netid = reader.u32("the netid")?;
        let limit = usize::from(MAX_BODY);
        let payload = match reader.u8("the payload's form")? {
            0 => Payload::Raw(reader.bytes("the payload", limit)?.to_vec()),
            1 => Payload::Wrapped(Wrapped {
                request: reader.bool("the request flag")?,
                kind: reader.u32("the message kind")?,
                id: reader.u64("the request id")?,
                body: reader.bytes("the body", limit)?.to_vec(),
            }),
            other => {
                return Err(WireError::BadValue {
                    what: "the payload's form",
                    value: other.into(),
                });
            }
        };
        reader.finish()?;
        Ok(Self {
            next_protocol,
            client_version,
            timestamp_ns,
            auth_key,
            netid,
            payload,
        })
    }

    /// Is this message from `sender`, and of network `netid`?
    ///
    /// # Errors
    /// [`WireError::NetId`] or [`WireError::AuthKey`].
    pub fn check(&self, sender: &PublicKey, netid: u32) -> Result<(), WireError> {
        if self.netid != netid {
            return Err(WireError::NetId {
                expected: netid,
                found: self.netid,
            });
        }
        if self.auth_key != *sender {
            return Err(WireError::AuthKey);
        }
        Ok(())
    }

    /// The answer of `kind` to request `id`, if this is it.
    pub(crate) fn answer_to(&self, kind: u32, id: u64) -> Result<&Wrapped, WireError> {
        match &self.payload {
            Payload::Wrapped(wrapped)
                if !wrapped.request && wrapped.kind == kind && wrapped.id == id =>
            {
                Ok(wrapped)
            }
            _ => Err(WireError::Unexpected {
                what: "the answer to the request",
            }),
        }
    }
}

fn name(reader: &mut Reader<'_>, what: &'static str) -> Result<String, WireError> {
    let bytes = reader.bytes(what, usize::from(MAX_NAME))?;
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => {
            let at = error.valid_up_to();
            Err(WireError::BadValue {
                what,
                value: u64::from(bytes[at]),
            })
        }
    }
}

/// The body of ping and pong: where the sender listens, or nothing.
pub(crate) fn encode_listens(listens: Option<SocketAddr>) -> Vec<u8> {
    let mut out = Writer::default();
    if let Some(address) = listens {
        write_address(&mut out, address);
    }
    out.done()
}

pub(crate) fn decode_listens(body: &[u8]) -> Result<Option<SocketAddr>, WireError> {
    if body.is_empty() {
        return Ok(None);
    }
    let mut reader = Reader::new(body);
    let address = read_address(&mut reader)?;
    reader.finish()?;
    Ok(Some(address))
}

/// The body of an answer to get-addresses: nodes and where they listen, at most [`MAX_ADDRESSES`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addresses(pub Vec<(PublicKey, SocketAddr)>);

impl Addresses {
    /// The first [`MAX_ADDRESSES`] of them as a body.
    pub fn encode(&self) -> Vec<u8> {
        let listed = self.0.iter().take(MAX_ADDRESSES);
        let mut out = Writer::default();
        out.u16(u16::try_from(listed.len()).unwrap_or(u16::MAX));
        for (key, address) in listed {
            write_address(out.raw(key), *address);
        }
        out.done()
    }

    /// Reads a body.
    ///
    /// # Errors
    /// Whatever is not exactly one list within the limit. Never panics.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        let len = usize::from(reader.u16("the number of addresses")?);
        if len > MAX_ADDRESSES {
            let what = "a list of addresses";
            return Err(WireError::TooLong {
                what,
                len,
                limit: MAX_ADDRESSES,
            });
        }
        let listed = (0..len)
            .map(|_| Ok((reader.array("a node's key")?, read_address(&mut reader)?)))
            .collect::<Result<_, WireError>>()?;
        reader.finish()?;
        Ok(Self(listed))
    }
}

fn write_address(out: &mut Writer, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => out.u8(4).raw(&ip.octets()),
        IpAddr::V6(ip) => out.u8(6).raw(&ip.octets()),
    };
    out.u16(address.port());
}

fn read_address(reader: &mut Reader<'_>) -> Result<SocketAddr, WireError> {
    let ip = match reader.u8("an address's family")? {
        4 => IpAddr::V4(Ipv4Addr::from(reader.array::<4>("an address")?)),
        6 => IpAddr::V6(Ipv6Addr::from(reader.array::<16>("an address")?)),
        other => {
            return Err(WireError::BadValue {
                what: "an address's family",
                value: other.into(),
            });
        }
    };
    Ok(SocketAddr::new(ip, reader.u16("a port")?))
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
