//! A dialect for the tests of this package: readable, unsealed, deterministic. It stands for no real protocol.

use super::{DatagramKind, DatagramSpec, Dialect, PingSpec};

/// Text datagrams: `flood KIND SEED` and `ping REQUEST NETID`, answered by `pong REQUEST NETID`.
#[derive(Debug)]
pub(crate) struct TextDialect;

impl Dialect for TextDialect {
    fn name(&self) -> &'static str {
        "text"
    }

    fn public_key(&self, identity: &[u8; 32]) -> [u8; 32] {
        identity.map(|byte| !byte)
    }

    fn signing_key(&self, identity: &[u8; 32]) -> [u8; 32] {
        identity.map(|byte| byte ^ 0x55)
    }

    fn datagram(&self, spec: &DatagramSpec<'_>) -> Vec<u8> {
        let netid = if spec.kind == DatagramKind::ForeignNetid {
            spec.netid + 1
        } else {
            spec.netid
        };
        format!("flood {:?} {} {netid}", spec.kind, hex::encode(spec.seed)).into_bytes()
    }

    fn ping(&self, spec: &PingSpec<'_>) -> Vec<u8> {
        format!("ping {} {}", spec.request, spec.netid).into_bytes()
    }

    fn is_pong(&self, datagram: &[u8], spec: &PingSpec<'_>) -> bool {
        datagram == format!("pong {} {}", spec.request, spec.netid).as_bytes()
    }
}
