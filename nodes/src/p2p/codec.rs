//! Bytes in, fields out: a reader and a writer in which every length is checked.
//!
//! All integers are big-endian. To add a message, write its fields with [`Writer`] and read them in
//! the same order with [`Reader`], then call [`Reader::finish`], which refuses what is left over.
//! This module knows no message and does no I/O; it never panics, whatever the bytes are.

/// Why bytes are not the message they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The bytes end before the field does.
    #[error("{what} needs {need} more bytes and only {have} are left")]
    TooShort {
        /// The field that was being read.
        what: &'static str,
        /// Bytes the field takes.
        need: usize,
        /// Bytes that were left.
        have: usize,
    },
    /// A length is above the limit of its field.
    #[error("{what} is {len} long, above its limit of {limit}")]
    TooLong {
        /// The field that was being read.
        what: &'static str,
        /// Its length, in the field's own unit.
        len: usize,
        /// The largest length that is taken.
        limit: usize,
    },
    /// A field holds a value that means nothing.
    #[error("{what} has the unknown value {value}")]
    BadValue {
        /// The field that was being read.
        what: &'static str,
        /// What it held.
        value: u64,
    },
    /// The message is complete and bytes are left.
    #[error("{extra} bytes follow the end of the message")]
    Trailing {
        /// How many bytes are left.
        extra: usize,
    },
    /// The `NaCl` box does not open: another key, or damage on the way.
    #[error("the box does not open with this key pair; it was sealed for another key, or damaged")]
    Sealed,
    /// The message belongs to another network.
    #[error("the message is of network {found} and this is network {expected}")]
    NetId {
        /// The network of the receiver.
        expected: u32,
        /// The network named in the message.
        found: u32,
    },
    /// The key inside the box is not the one the box was sealed with.
    #[error("the key inside the message is not the key that sealed it")]
    AuthKey,
    /// A well-formed message that is not the one waited for.
    #[error("{what} was expected, and something else came")]
    Unexpected {
        /// What was waited for.
        what: &'static str,
    },
}

impl WireError {
    /// A short word for this kind of error, used as a metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooShort { .. } => "too-short",
            Self::TooLong { .. } => "too-long",
            Self::BadValue { .. } => "bad-value",
            Self::Trailing { .. } => "trailing",
            Self::Sealed => "sealed",
            Self::NetId { .. } => "netid",
            Self::AuthKey => "auth-key",
            Self::Unexpected { .. } => "unexpected",
        }
    }
}

/// Reads fields off the front of a slice.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn take(&mut self, what: &'static str, need: usize) -> Result<&'a [u8], WireError> {
        let Some((field, rest)) = self.rest.split_at_checked(need) else {
            return Err(WireError::TooShort {
                what,
                need,
                have: self.rest.len(),
            });
        };
        self.rest = rest;
        Ok(field)
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], WireError> {
        let Some((field, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(WireError::TooShort {
                what,
                need: N,
                have: self.rest.len(),
            });
        };
        self.rest = rest;
        Ok(*field)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, WireError> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, WireError> {
        self.array(what).map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, WireError> {
        self.array(what).map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, WireError> {
        self.array(what).map(u64::from_be_bytes)
    }

    pub(crate) fn bool(&mut self, what: &'static str) -> Result<bool, WireError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(WireError::BadValue {
                what,
                value: other.into(),
            }),
        }
    }

    /// A `u16` length and that many bytes, at most `limit`.
    pub(crate) fn bytes(
        &mut self,
        what: &'static str,
        limit: usize,
    ) -> Result<&'a [u8], WireError> {
        let len = usize::from(self.u16(what)?);
        if len > limit {
            return Err(WireError::TooLong { what, len, limit });
        }
        self.take(what, len)
    }

    /// Everything that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Refuses left-over bytes, so that one message has one encoding.
    pub(crate) fn finish(self) -> Result<(), WireError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(WireError::Trailing { extra }),
        }
    }
}

/// Writes the fields that [`Reader`] reads.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    out: Vec<u8>,
}

impl Writer {
    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.raw(&[value])
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    /// A `u16` length and the bytes; what is above `limit` is cut off, since callers only pass what
    /// they built themselves within the limit.
    pub(crate) fn bytes(&mut self, bytes: &[u8], limit: u16) -> &mut Self {
        let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX).min(limit);
        self.u16(len).raw(&bytes[..usize::from(len)])
    }

    pub(crate) fn done(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }
}
