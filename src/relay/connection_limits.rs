//! Limits the number of connections. Each place that is taken is a permit that releases itself, so no path out of a
//! session can leak one. The limits are passed with each call: they change live, and what was taken under an older
//! limit stays counted.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::domain::id::KeyId;
use crate::domain::network;

/// The connection counters of a relay.
#[derive(Clone, Default)]
pub struct ConnectionLimits {
    all: Tally<()>,
    addresses: Tally<IpAddr>,
    keys: Tally<KeyId>,
    /// Connections that have logged in.
    namespaces: Tally<Arc<str>>,
    /// Connections that are told the reason why they are not served.
    turned_away: Tally<()>,
}

/// Maximum number of connections that are told the reason at a time; more are closed without a reply.
const TURNED_AWAY_MAX: u32 = 256;

impl ConnectionLimits {
    pub fn any(&self, limit: u32) -> Option<Permit<()>> {
        self.all.take((), limit)
    }

    pub fn address(&self, address: IpAddr, limit: u32) -> Option<Permit<IpAddr>> {
        self.addresses.take(party(address), limit)
    }

    pub fn key(&self, key: KeyId, limit: u32) -> Option<Permit<KeyId>> {
        self.keys.take(key, limit)
    }

    /// Takes a place for a connection that has logged in. A namespace may hold as many as it leaves free of `limit`,
    /// the maximum of all connections: alone half of them, two namespaces a third each. So however many keys and
    /// addresses a tenant has, others can connect.
    pub fn namespace(&self, namespace: Arc<str>, limit: u32) -> Option<Permit<Arc<str>>> {
        let free = limit.saturating_sub(self.all.count(&()));
        // The connection that asks is counted as open already: the last free place is for it.
        self.namespaces.take(namespace, free.saturating_add(1))
    }

    pub fn turned_away(&self) -> Option<Permit<()>> {
        self.turned_away.take((), TURNED_AWAY_MAX)
    }
}

/// Returns the party of an address. The holder of one IPv6 address holds the /64 around it (RFC 6177), so the /64 is
/// one party.
pub fn party(address: IpAddr) -> IpAddr {
    match network::canonical(address) {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
    }
}

/// Number of places taken for each `K`. Its size is bounded by the connections there are.
struct Tally<K>(Arc<Mutex<HashMap<K, u32>>>);

impl<K> Clone for Tally<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Clone + Eq + Hash> Tally<K> {
    fn count(&self, of: &K) -> u32 {
        self.0.lock().get(of).copied().unwrap_or(0)
    }

    fn take(&self, of: K, limit: u32) -> Option<Permit<K>> {
        let mut counts = self.0.lock();
        let taken = counts.get(&of).copied().unwrap_or(0);
        if taken >= limit {
            return None;
        }
        // An entry is never left at 0.
        counts.insert(of.clone(), taken + 1);
        Some(Permit { tally: self.clone(), of })
    }
}

/// A place in a [`Tally`].
pub struct Permit<K: Clone + Eq + Hash> {
    tally: Tally<K>,
    of: K,
}

impl<K: Clone + Eq + Hash> Drop for Permit<K> {
    fn drop(&mut self) {
        let mut counts = self.tally.0.lock();
        if let Some(count) = counts.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_back() {
        let limits = ConnectionLimits::default();
        let first = limits.any(2).expect("a place");
        let second = limits.any(2).expect("another place");
        assert!(limits.any(2).is_none());
        drop(first);
        assert!(limits.any(2).is_some());
        drop(second);
        assert!(limits.all.0.lock().is_empty());
    }

    #[test]
    fn a_namespace_holds_as_many_connections_as_it_leaves_free() {
        let limits = ConnectionLimits::default();
        let connect = |namespace: &str| {
            let connection = limits.any(12)?;
            limits.namespace(Arc::from(namespace), 12).map(|place| (connection, place))
        };
        let all = |namespace| std::iter::from_fn(|| connect(namespace)).collect::<Vec<_>>();
        let greedy = all("greedy");
        assert_eq!(greedy.len(), 6);
        let other = all("other");
        assert_eq!(other.len(), 3, "half of what is left");
        assert!(connect("greedy").is_none() && connect("third").is_some());
        drop(other);
        drop(greedy);
        assert!(limits.namespaces.0.lock().is_empty());
        let alone = ConnectionLimits::default();
        let _open = alone.any(1).expect("a place");
        assert!(alone.namespace(Arc::from("only"), 1).is_some(), "one connection can log in");
    }

    #[test]
    fn each_address_has_its_own_places_and_a_64_is_one_address() {
        let limits = ConnectionLimits::default();
        let address = |text: &str| text.parse().expect("an address");
        let permit = limits.address(address("2001:db8::1"), 1).expect("a place");
        assert!(limits.address(address("2001:db8::2"), 1).is_none());
        assert!(limits.address(address("2001:db8:0:1::1"), 1).is_some());
        let mapped = limits.address(address("::ffff:10.0.0.1"), 1);
        assert!(mapped.is_some() && limits.address(address("10.0.0.1"), 1).is_none());
        drop(permit);
        assert!(limits.address(address("2001:db8::2"), 1).is_some());
        drop(mapped);
        assert!(limits.addresses.0.lock().is_empty());
    }
}
