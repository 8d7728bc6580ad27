//! The wire format of the bundled network, as the harness's agent needs it. Only the CLI knows both sides.

use tweedledum_harness::agent::{DatagramKind, DatagramSpec, Dialect, PingSpec};
use tweedledum_nodes::wire;

/// UDP discovery of 2020: sealed datagrams, sessions keyed by remote ip:port.
#[derive(Debug)]
pub(crate) struct UdpSession2020;

impl Dialect for UdpSession2020 {
    fn name(&self) -> &'static str {
        "udp-session-2020"
    }

    fn public_key(&self, identity: &[u8; 32]) -> [u8; 32] {
        wire::public_key(identity)
    }

    fn signing_key(&self, identity: &[u8; 32]) -> [u8; 32] {
        tweedledum_nodes::node_id(identity)
    }

    fn datagram(&self, spec: &DatagramSpec<'_>) -> Vec<u8> {
        let netid = match spec.kind {
            DatagramKind::WellFormed => spec.netid,
            // Any other network would do; the neighbour's number is what a mistyped setting would give.
            DatagramKind::ForeignNetid => spec.netid.wrapping_add(1),
            DatagramKind::Garbage => {
                // Two seeds long: enough to name a sender and a nonce, and nothing behind them opens.
                return [spec.seed.as_slice(), &wire::public_key(spec.seed)].concat();
            }
        };
        wire::ping(
            spec.seed,
            spec.target_key,
            &nonce(spec.seed),
            netid,
            spec.now_unix_ns,
            1,
        )
    }

    fn ping(&self, spec: &PingSpec<'_>) -> Vec<u8> {
        let mut nonce = nonce(spec.identity);
        // The agent's key is used for many pings, so each needs a nonce of its own.
        nonce[..8].copy_from_slice(&spec.request.to_le_bytes());
        wire::ping(
            spec.identity,
            spec.target_key,
            &nonce,
            spec.netid,
            spec.now_unix_ns,
            spec.request,
        )
    }

    fn is_pong(&self, datagram: &[u8], spec: &PingSpec<'_>) -> bool {
        wire::parse_pong(
            spec.identity,
            spec.target_key,
            spec.netid,
            spec.request,
            datagram,
        )
        .is_ok()
    }
}

/// A nonce from a seed that is used as a key once only.
fn nonce(seed: &[u8; 32]) -> wire::Nonce {
    let mut nonce = wire::Nonce::default();
    nonce.copy_from_slice(&seed[..24]);
    nonce
}
