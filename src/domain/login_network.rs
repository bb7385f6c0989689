//! Networks that keys log in from: the first login from each is news for the audit trail.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::SignedDuration;

use super::id::KeyId;
use super::network::canonical;

/// Networks of one key that are kept, and the most that are told in [`NEWS_WITHIN`]. A further one takes the place of the
/// one that the key came from longest ago. The bound is on what the key's holder can write into the trail with addresses
/// of their own: fewer rows than they are allowed for keys that they make and remove.
pub const NETWORKS_PER_KEY: usize = 64;
pub const NEWS_WITHIN: SignedDuration = SignedDuration::from_hours(24);
/// So often it is told and written anew that a key still comes from a network: which one it came from longest ago is known
/// within two of these.
pub const SEEN_EVERY: SignedDuration = SignedDuration::from_hours(1);
/// Logins that one relay remembers until it tells the ledger of them, and that the ledger takes at once.
pub const LOGINS_MAX: usize = 1_000;
/// What one site usually has: it changes its address within these without being news.
const PREFIX_V4: u8 = 24;
const PREFIX_V6: u8 = 64;

/// A login of a key, by the network that it came from.
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

/// The /24 or the /64 of an address.
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
