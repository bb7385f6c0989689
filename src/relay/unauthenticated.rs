//! The places of connections that have not logged in, and the choice of one to close when all places are taken.
//!
//! An attacker who holds places keeps them for long; a client logs in within a moment. So a new connection is served,
//! and an older one is closed: the oldest of the address that holds most places. Half of the places are for addresses
//! that logged in lately, so that strangers, however many addresses they come from, push out no client that is known;
//! the other half is for strangers, so that a tenant's addresses push out no new client.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use super::connection_limits::party;
use super::recent::Recent;
use crate::runtime::relay_config::Limits;

/// Time that an address is known after a login from it.
const LATELY: Duration = Duration::from_secs(3600);
/// Divisor of the time for a login while more than half of the places are taken.
const CROWDED_SHARE: u32 = 4;

/// All places. Cheap to clone.
#[derive(Clone, Default)]
pub struct Unauthenticated(Arc<Mutex<Places>>);

#[derive(Default)]
struct Places {
    next: u64,
    strangers: Class,
    known: Class,
    /// Time of the last login from each address.
    logins: Recent<IpAddr, Option<Instant>>,
}

/// Connections of one kind of address.
#[derive(Default)]
struct Class {
    count: usize,
    /// The connections by address, oldest first. No entry is left empty.
    addresses: HashMap<IpAddr, VecDeque<(u64, CancellationToken)>>,
}

/// The place of one connection; released when it is dropped.
pub struct Place {
    places: Unauthenticated,
    address: IpAddr,
    is_known: bool,
    number: u64,
    /// Cancelled when another connection got the place.
    taken: CancellationToken,
}

impl Unauthenticated {
    /// Takes a place for a connection from `address`, if need be that of an older one. `None` if there is none that may
    /// be closed.
    pub fn admit(&self, address: IpAddr, limits: &Limits, now: Instant) -> Option<Place> {
        let limit = limits.unauthenticated as usize;
        let address = party(address);
        let mut places = self.places();
        let is_known = places.is_known(address, now);
        if places.strangers.count + places.known.count >= limit && !places.make_room(is_known, limit) {
            return None;
        }
        let number = places.next;
        places.next += 1;
        let taken = CancellationToken::new();
        places.class(is_known).add(address, number, taken.clone());
        drop(places);
        Some(Place { places: self.clone(), address, is_known, number, taken })
    }

    /// Notes a login from `address`.
    pub fn logged_in(&self, address: IpAddr, limits: &Limits, now: Instant) {
        *self.places().logins.touch(party(address), limits.auth_counters as usize) = Some(now);
    }

    /// Returns the time that a client has to log in, at this moment: less while places become scarce.
    pub fn login_limit(&self, limits: &Limits) -> Duration {
        let places = self.places();
        let taken = places.strangers.count + places.known.count;
        let share = if taken > limits.unauthenticated as usize / 2 { CROWDED_SHARE } else { 1 };
        Duration::from_secs(u64::from(limits.login_seconds)) / share
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.lock()
    }
}

impl Places {
    fn is_known(&self, address: IpAddr, now: Instant) -> bool {
        self.logins.seen(address).flatten().is_some_and(|at| now < at + LATELY)
    }

    fn class(&mut self, is_known: bool) -> &mut Class {
        if is_known { &mut self.known } else { &mut self.strangers }
    }

    /// Closes a connection to make room for one of this kind. Each kind may keep half of the places against the other.
    fn make_room(&mut self, for_known: bool, limit: usize) -> bool {
        let half = limit.div_ceil(2);
        let other_has_more = self.class(!for_known).count > half;
        let from_other = other_has_more || self.class(for_known).count == 0;
        self.class(for_known ^ from_other).dismiss()
    }
}

impl Class {
    fn add(&mut self, address: IpAddr, number: u64, taken: CancellationToken) {
        self.addresses.entry(address).or_default().push_back((number, taken));
        self.count += 1;
    }

    /// Closes the oldest connection of the address that holds most places; of several such, the oldest of all. False if
    /// there is none.
    fn dismiss(&mut self) -> bool {
        let by_places = |(_, queue): &(&IpAddr, &VecDeque<(u64, CancellationToken)>)| {
            (queue.len(), std::cmp::Reverse(queue.front().map(|(number, _)| *number)))
        };
        let Some(address) = self.addresses.iter().max_by_key(by_places).map(|(address, _)| *address) else {
            return false;
        };
        let oldest = self.addresses.get(&address).and_then(VecDeque::front).cloned();
        if let Some((number, taken)) = oldest {
            taken.cancel();
            self.remove(address, number);
        }
        true
    }

    fn remove(&mut self, address: IpAddr, number: u64) {
        let Some(queue) = self.addresses.get_mut(&address) else { return };
        let Some(at) = queue.iter().position(|(known, _)| *known == number) else { return };
        queue.remove(at);
        self.count -= 1;
        if queue.is_empty() {
            self.addresses.remove(&address);
        }
    }
}

impl Place {
    /// Waits until another connection gets the place.
    pub fn taken(&self) -> WaitForCancellationFuture<'_> {
        self.taken.cancelled()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.places().class(self.is_known).remove(self.address, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(unauthenticated: u32) -> Limits {
        Limits { unauthenticated, auth_counters: 100, login_seconds: 60, ..Limits::default() }
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn gone(places: &[Place]) -> Vec<usize> {
        (0..places.len()).filter(|at| places[*at].taken.is_cancelled()).collect()
    }

    #[test]
    fn the_oldest_of_the_address_with_most_places_goes() {
        let (room, limits, now) = (Unauthenticated::default(), limits(4), Instant::now());
        let admit = |last| room.admit(address(last), &limits, now).expect("a place");
        let mut places = vec![admit(1), admit(2), admit(2), admit(1)];
        places.push(admit(3));
        assert_eq!(gone(&places), [0], "both hold two, and that one is the oldest");
        places.push(admit(4));
        assert_eq!(gone(&places), [0, 1]);
        // All hold one: the oldest.
        places.push(admit(5));
        assert_eq!(gone(&places), [0, 1, 2]);
        drop(places);
        let inner = room.places();
        assert!(inner.strangers.addresses.is_empty() && inner.strangers.count == 0);
    }

    #[test]
    fn strangers_push_out_no_address_that_logged_in_lately_and_it_pushes_them_out() {
        let (room, limits, now) = (Unauthenticated::default(), limits(4), Instant::now());
        let admit = |last, now| room.admit(address(last), &limits, now).expect("a place");
        room.logged_in(address(1), &limits, now);
        let mut places: Vec<Place> = (10..14).map(|last| admit(last, now)).collect();
        places.push(admit(1, now));
        assert_eq!(gone(&places), [0]);
        for last in 20..40 {
            places.push(admit(last, now));
        }
        assert!(!places[4].taken.is_cancelled(), "a known client went for a stranger");
        // An hour later it is a stranger like others.
        places.push(admit(1, now + LATELY));
        for last in 40..60 {
            places.push(admit(last, now));
        }
        assert!(places.iter().any(|place| place.address == address(1) && place.taken.is_cancelled()));
    }

    #[test]
    fn neither_strangers_nor_known_addresses_get_more_than_half_against_the_other() {
        let (room, limits, now) = (Unauthenticated::default(), limits(4), Instant::now());
        let admit = |last| room.admit(address(last), &limits, now).expect("a place");
        for last in 1..10 {
            room.logged_in(address(last), &limits, now);
        }
        let _known: Vec<Place> = (0..20).map(|n| admit(1 + n % 3)).collect();
        let strangers = [admit(100), admit(101)];
        let _more: Vec<Place> = (0..20).map(|n| admit(1 + n % 9)).collect();
        assert_eq!(gone(&strangers), [0; 0], "the strangers' half is theirs");
        let inner = room.places();
        assert_eq!((inner.known.count, inner.strangers.count), (2, 2));
    }

    #[test]
    fn an_office_behind_one_address_keeps_its_places_from_another_that_floods() {
        let (room, limits, now) = (Unauthenticated::default(), limits(100), Instant::now());
        let admit = |last| room.admit(address(last), &limits, now).expect("a place");
        for last in 1..=12 {
            room.logged_in(address(last), &limits, now);
        }
        let office: Vec<Place> = (0..5).map(|_| admit(1)).collect();
        let _flood: Vec<Place> = (0..1_100).map(|n: u16| admit(2 + u8::try_from(n % 11).expect("small"))).collect();
        assert_eq!(gone(&office), [0; 0]);
    }

    #[test]
    fn a_login_has_less_time_while_places_are_scarce() {
        let (room, limits, now) = (Unauthenticated::default(), limits(4), Instant::now());
        let mut places = Vec::new();
        let mut seconds = Vec::new();
        for last in 0..4 {
            seconds.push(room.login_limit(&limits).as_secs());
            places.push(room.admit(address(last), &limits, now));
        }
        seconds.push(room.login_limit(&limits).as_secs());
        assert_eq!(seconds, [60, 60, 60, 15, 15]);
    }

    #[test]
    fn without_a_place_nobody_is_served() {
        let (room, limits) = (Unauthenticated::default(), limits(0));
        assert!(room.admit(address(1), &limits, Instant::now()).is_none());
    }
}
