//! A free subnet for a run's network.
//!
//! Candidates come from 10.0.0.0/8, where the search starts follows from the nonce, so runs that
//! start together rarely meet. What the engine's networks use is passed over, and on this machine
//! what its routes use; that the engine has the last word is for [`run`](super::run).

use std::net::Ipv4Addr;

use crate::substrate::process::Nonce;

/// Addresses at the beginning of a subnet that no pod gets: network, gateway, and some to spare.
const FIRST: u32 = 10;

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    base: u32,
    length: u32,
}

impl Subnet {
    /// The subnet that this text (`10.1.2.0/24`) is; `None` for IPv6 and nonsense.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let address: Ipv4Addr = address.parse().ok()?;
        let length: u32 = length.parse().ok().filter(|length| *length <= 32)?;
        Some(Self::new(u32::from(address), length))
    }

    fn new(address: u32, length: u32) -> Self {
        let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
        Self {
            base: address & mask,
            length,
        }
    }

    fn size(self) -> u64 {
        1 << (32 - self.length)
    }

    fn overlaps(self, other: Self) -> bool {
        let (a, b) = (u64::from(self.base), u64::from(other.base));
        a < b + other.size() && b < a + self.size()
    }

    /// The address of pod `index`, counted from 0; `None` where the subnet ends.
    pub fn pod(self, index: usize) -> Option<Ipv4Addr> {
        let inside = u32::try_from(index).ok()?.checked_add(FIRST)?;
        // The last address is for broadcasts.
        (u64::from(inside) + 1 < self.size()).then(|| Ipv4Addr::from(self.base + inside))
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.length)
    }
}

/// Subnets that hold this many pods and overlap nothing that is taken, in the order in which to
/// try them.
pub(super) fn free(nonce: &Nonce, pods: usize, taken: &[Subnet]) -> impl Iterator<Item = Subnet> {
    let length = if pods <= 200 { 24 } else { 22 };
    let [a, b, ..] = *nonce.bytes();
    let count = 1u32 << (length - 8);
    let start = u32::from(u16::from_be_bytes([a, b])) % count;
    (0..count)
        .map(move |step| Subnet::new(10 << 24 | ((start + step) % count) << (32 - length), length))
        .filter(move |subnet| !taken.iter().any(|other| subnet.overlaps(*other)))
}

/// The subnets of a routing table (`/proc/net/route`), without the default route.
pub(super) fn parse_routes(text: &str) -> Vec<Subnet> {
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        // The table is written in the machine's own byte order.
        let address = |field: Option<&&str>| {
            u32::from_str_radix(field?, 16)
                .ok()
                .map(|word| u32::from_be_bytes(word.to_ne_bytes()))
        };
        let (to, mask) = (address(fields.get(1))?, address(fields.get(7))?);
        (mask != 0).then(|| Subnet::new(to, mask.leading_ones()))
    };
    text.lines().skip(1).filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_subnets_hold_the_pods_and_touch_nothing() {
        let nonce = Nonce::from_bytes([0; 16]);
        let taken: Vec<Subnet> = ["10.0.0.0/23", "10.0.3.128/25", "172.17.0.0/16"]
            .iter()
            .filter_map(|text| Subnet::parse(text))
            .collect();
        let first: Vec<String> = free(&nonce, 20, &taken)
            .take(2)
            .map(|s| s.to_string())
            .collect();
        assert_eq!(first, ["10.0.2.0/24", "10.0.4.0/24"]);
        let large = free(&nonce, 1000, &taken).next().unwrap();
        assert_eq!(large.to_string(), "10.0.4.0/22");
        assert!(large.pod(999).is_some());
        let all = Subnet::parse("10.0.0.0/8").unwrap();
        assert_eq!(free(&nonce, 20, &[all]).next(), None);
        let last = Nonce::from_bytes([0xff; 16]);
        assert_eq!(
            free(&last, 20, &[]).nth(1).unwrap().to_string(),
            "10.0.0.0/24"
        );
    }

    #[test]
    fn pods_have_addresses_until_the_subnet_ends() {
        let subnet = Subnet::parse("10.9.8.7/24").unwrap();
        assert_eq!(subnet.pod(0), Some([10, 9, 8, 10].into()));
        assert_eq!(subnet.pod(244), Some([10, 9, 8, 254].into()));
        assert_eq!(subnet.pod(245), None);
        assert_eq!(subnet.pod(usize::MAX), None);
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "fe80::/64", "x/8"] {
            assert_eq!(Subnet::parse(bad), None, "{bad}");
        }
        assert!(Subnet::parse("0.0.0.0/0").unwrap().overlaps(subnet));
    }

    #[test]
    fn routes() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
                     eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\n\
                     eth0\t0000010A\t00000000\t0001\t0\t0\t0\t00FFFFFF\nbad\n";
        let want = if cfg!(target_endian = "little") {
            "10.1.0.0/24"
        } else {
            "0.0.1.10/24"
        };
        let routes: Vec<String> = parse_routes(table)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(routes, [want]);
    }
}
