//! Networks that keys log in from: the audit trail reports the first login from each.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::SignedDuration;

use super::id::KeyId;
use super::network::canonical;

/// Maximum number of networks that are kept for one key, and that are reported within [`NEWS_WITHIN`]. A further
/// network replaces the one that was used longest ago. This bounds the rows that the key's holder can write into the
/// trail by using many addresses: fewer than the rows allowed for making and removing keys.
pub const NETWORKS_PER_KEY: usize = 64;
pub const NEWS_WITHIN: SignedDuration = SignedDuration::from_hours(24);
/// Interval at which a relay reports again that a key still logs in from a network. The ledger therefore knows which
/// network was used longest ago to within two such intervals.
pub const SEEN_EVERY: SignedDuration = SignedDuration::from_hours(1);
/// Maximum number of logins that one relay holds before it reports them, and that the ledger takes in one call.
pub const LOGINS_MAX: usize = 1_000;
/// Prefix of the network that one site usually has: a login from another address within it is not reported.
const PREFIX_V4: u8 = 24;
const PREFIX_V6: u8 = 64;

/// A login of a key, with the network that it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LoginFrom {
    pub key: KeyId,
    pub network: IpNet,
}

impl LoginFrom {
    pub fn new(key: KeyId, address: IpAddr) -> Self {
        Self { key, network: network_of(address) }
    }
}

/// Returns the /24 or the /64 network of an address.
fn network_of(address: IpAddr) -> IpNet {
    match canonical(address) {
        IpAddr::V4(v4) => Ipv4Net::new_assert(v4, PREFIX_V4).trunc().into(),
        IpAddr::V6(v6) => Ipv6Net::new_assert(v6, PREFIX_V6).trunc().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_site_are_one_network() {
        for (address, network) in [
            ("192.0.2.77", "192.0.2.0/24"),
            ("::ffff:192.0.2.1", "192.0.2.0/24"),
            ("198.51.100.255", "198.51.100.0/24"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("::1", "::/64"),
        ] {
            assert_eq!(network_of(address.parse().expect(address)).to_string(), network);
        }
    }
}
