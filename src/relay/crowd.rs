//! How many connections there may be. Each place that is taken is a guard that gives
//! itself back, so no path out of a session can leak one. The limits are handed in at each question: they change
//! live, and what was taken under an older limit stays counted.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::id::KeyId;
use crate::domain::network;

/// All counters of a relay.
#[derive(Clone, Default)]
pub struct Crowd {
    pub connections: Counter,
    pub unauthenticated: Counter,
    addresses: Tally<IpAddr>,
    keys: Tally<KeyId>,
}

impl Crowd {
    pub fn address(&self, address: IpAddr, limit: u32) -> Option<Seat<IpAddr>> {
        self.addresses.take(party(address), 1, limit as usize)
    }

    pub fn key(&self, key: KeyId, limit: u32) -> Option<Seat<KeyId>> {
        self.keys.take(key, 1, limit as usize)
    }
}

/// Whoever holds one IPv6 address holds the /64 around it (RFC 6177), so the /64 is one party.
pub fn party(address: IpAddr) -> IpAddr {
    match network::canonical(address) {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
    }
}

/// A number with a ceiling.
#[derive(Clone, Default)]
pub struct Counter(Arc<AtomicUsize>);

/// A share of a [`Counter`].
pub struct Share {
    counter: Arc<AtomicUsize>,
    amount: usize,
}

impl Counter {
    /// Takes `amount`, or nothing where it would pass `limit`.
    pub fn take(&self, amount: usize, limit: usize) -> Option<Share> {
        let mut share = Share { counter: self.0.clone(), amount: 0 };
        share.grow_to(amount, limit).then_some(share)
    }
}

impl Share {
    /// Takes more, up to `amount` in all. Says false, and takes nothing, where the counter would pass `limit`.
    pub fn grow_to(&mut self, amount: usize, limit: usize) -> bool {
        let Some(more) = amount.checked_sub(self.amount).filter(|more| *more > 0) else { return true };
        let fits = |taken: usize| taken.checked_add(more).filter(|sum| *sum <= limit);
        let grown = self.counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok();
        if grown {
            self.amount = amount;
        }
        grown
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.counter.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

/// How many, or how much, there is of each. Its size is bounded by the connections there are.
struct Tally<K>(Arc<Mutex<HashMap<K, usize>>>);

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

impl<K: Copy + Eq + Hash> Tally<K> {
    fn take(&self, of: K, amount: usize, limit: usize) -> Option<Seat<K>> {
        let mut seat = Seat { tally: self.clone(), of, amount: 0 };
        seat.grow_to(amount, limit).then_some(seat)
    }
}

/// A place, or an amount, in a [`Tally`].
pub struct Seat<K: Copy + Eq + Hash> {
    tally: Tally<K>,
    of: K,
    amount: usize,
}

impl<K: Copy + Eq + Hash> Seat<K> {
    /// Takes more, up to `amount` in all. Says false, and takes nothing, where it would pass `limit`.
    fn grow_to(&mut self, amount: usize, limit: usize) -> bool {
        let Some(more) = amount.checked_sub(self.amount).filter(|more| *more > 0) else { return true };
        let mut counts = self.tally.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = counts.get(&self.of).copied().unwrap_or(0);
        let Some(sum) = taken.checked_add(more).filter(|sum| *sum <= limit) else { return false };
        // An entry is never left at 0.
        counts.insert(self.of, sum);
        self.amount = amount;
        true
    }
}

impl<K: Copy + Eq + Hash> Drop for Seat<K> {
    fn drop(&mut self) {
        let mut counts = self.tally.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.of) {
            *count -= self.amount;
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
    fn a_share_grows_to_the_limit_and_gives_itself_back() {
        let counter = Counter::default();
        let mut first = counter.take(6, 10).expect("room");
        assert!(counter.take(5, 10).is_none());
        assert!(!first.grow_to(11, 10));
        assert!(first.grow_to(10, 10) && first.grow_to(3, 10), "a share never shrinks and asks again for free");
        assert!(counter.take(1, 10).is_none());
        drop(first);
        assert!(counter.take(10, 10).is_some());
    }

    #[test]
    fn each_address_has_its_own_places_and_a_64_is_one_address() {
        let crowd = Crowd::default();
        let address = |text: &str| text.parse().expect("an address");
        let seat = crowd.address(address("2001:db8::1"), 1).expect("a place");
        assert!(crowd.address(address("2001:db8::2"), 1).is_none());
        assert!(crowd.address(address("2001:db8:0:1::1"), 1).is_some());
        let mapped = crowd.address(address("::ffff:10.0.0.1"), 1);
        assert!(mapped.is_some() && crowd.address(address("10.0.0.1"), 1).is_none());
        drop(seat);
        assert!(crowd.address(address("2001:db8::2"), 1).is_some());
        drop(mapped);
        assert!(crowd.addresses.0.lock().expect("the counts").is_empty());
    }
}
