//! Whoever guesses passwords is slowed down; whoever has one is not.
//!
//! Failed logins are counted by address and by name, also where nobody has the name, so that a pause says nothing about
//! it. A pause is measured from the start of the login and hides how long the look at the directory took. A name is
//! never locked: its right password works at once from an address that did not guess. An address that goes on
//! guessing is not asked for passwords at all, except for names that logged in from there before: a printer with an old
//! password must not lock out the office around it.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::connection_limits::party;
use super::recent::Recent;
use crate::domain::relay_config::Limits;

/// The pause after a failed login; it doubles with each, up to `authDelaySeconds`. A guesser gets three tries in three
/// connections' worth of time, a typing mistake costs half a second.
const PAUSE: Duration = Duration::from_millis(500);
/// At their limits the counters alone make pauses of this many doublings: 8 s.
const DOUBLINGS: u32 = 4;

/// The failed logins that are remembered.
#[derive(Default)]
pub struct Guesses {
    books: Mutex<Books>,
    hasher: RandomState,
}

#[derive(Default)]
struct Books {
    addresses: Recent<IpAddr, Failures>,
    names: Recent<u64, Failures>,
    /// Who logged in from where.
    good: Recent<(IpAddr, u64), ()>,
}

/// Who tries as whom.
#[derive(Clone, Copy, Debug)]
pub struct Guess {
    address: IpAddr,
    /// A name is what a stranger says, of any length: its hash is enough to count by.
    name: u64,
}

impl Guesses {
    pub fn guess(&self, address: IpAddr, username: &str) -> Guess {
        Guess { address: party(address), name: self.hasher.hash_one(username) }
    }

    /// Whether a password is looked at at all.
    pub fn admits(&self, guess: Guess, limits: &Limits, now: Instant) -> bool {
        let books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = books.addresses.seen(guess.address).map_or(0, |failures| failures.at(now, limits));
        failed < limits.auth_failures_per_address || books.good.seen((guess.address, guess.name)).is_some()
    }

    /// How long to wait with the answer to a failed login, from its start. `earlier`: failed before in this connection.
    pub fn failed(&self, guess: Guess, earlier: u32, limits: &Limits, now: Instant) -> Duration {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let room = limits.auth_counters as usize;
        let address = books.addresses.touch(guess.address, room).add(now, limits) - 1;
        let name = books.names.touch(guess.name, room).add(now, limits) - 1;
        let share = |failures: u32, limit: u32| failures.saturating_mul(DOUBLINGS) / limit.max(1);
        let doublings = earlier
            .max(share(address, limits.auth_failures_per_address))
            .max(share(name, limits.auth_failures_per_name));
        PAUSE.saturating_mul(2_u32.saturating_pow(doublings)).min(longest(limits))
    }

    pub fn succeeded(&self, guess: Guess, limits: &Limits) {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        books.good.touch((guess.address, guess.name), limits.auth_counters as usize);
    }
}

/// The longest pause; that of an address whose passwords are not looked at.
pub fn longest(limits: &Limits) -> Duration {
    Duration::from_secs(u64::from(limits.auth_delay_seconds))
}

/// A number of failures that shrinks by one each `authForgetSeconds` since the last.
#[derive(Clone, Copy, Default)]
struct Failures {
    count: u32,
    last: Option<Instant>,
}

impl Failures {
    fn at(self, now: Instant, limits: &Limits) -> u32 {
        let quiet = self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let forgotten = quiet.as_secs() / u64::from(limits.auth_forget_seconds.max(1));
        self.count.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX))
    }

    /// Counts one more; how many there are with it, at most as many as can matter.
    fn add(&mut self, now: Instant, limits: &Limits) -> u32 {
        let ceiling = limits.auth_failures_per_address.max(limits.auth_failures_per_name).max(1);
        *self = Self { count: self.at(now, limits).saturating_add(1).min(ceiling), last: Some(now) };
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            auth_failures_per_address: 8,
            auth_failures_per_name: 4,
            auth_forget_seconds: 60,
            auth_delay_seconds: 8,
            auth_counters: 6,
            ..Limits::default()
        }
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn pauses_grow_with_the_connection_the_name_and_the_address() {
        let (guesses, limits, now) = (Guesses::default(), limits(), Instant::now());
        let pause = |last, name: &str, earlier| {
            guesses.failed(guesses.guess(address(last), name), earlier, &limits, now).as_millis()
        };
        assert_eq!([pause(1, "a", 0), pause(1, "b", 1), pause(1, "c", 2)], [500, 1000, 2000]);
        // One name from everywhere.
        assert_eq!([pause(2, "d", 0), pause(3, "d", 0), pause(4, "d", 0)], [500, 1000, 2000]);
        // One address, each name once: its fourth failure.
        assert_eq!([pause(1, "e", 0), pause(1, "f", 0)], [1000, 2000]);
        assert_eq!(pause(1, "g", 9), 8000, "no pause is longer than authDelaySeconds");
    }

    #[test]
    fn an_address_that_guesses_is_not_asked_except_for_names_that_it_knows() {
        let (guesses, limits, now) = (Guesses::default(), limits(), Instant::now());
        let guess = |last, name: &str| guesses.guess(address(last), name);
        guesses.succeeded(guess(1, "printer"), &limits);
        for _ in 0..8 {
            assert!(guesses.admits(guess(1, "somebody"), &limits, now));
            guesses.failed(guess(1, "somebody"), 0, &limits, now);
        }
        assert!(!guesses.admits(guess(1, "somebody"), &limits, now));
        assert!(!guesses.admits(guess(1, "another"), &limits, now));
        assert!(guesses.admits(guess(1, "printer"), &limits, now), "it logged in from here before");
        assert!(guesses.admits(guess(2, "somebody"), &limits, now), "no name is ever locked");
        let later = now + Duration::from_secs(60);
        assert!(guesses.admits(guess(1, "somebody"), &limits, later), "one failure is forgotten");
        guesses.failed(guess(1, "somebody"), 0, &limits, later);
        assert!(!guesses.admits(guess(1, "somebody"), &limits, later));
    }

    #[test]
    fn strangers_cannot_fill_the_tables() {
        let (guesses, limits, now) = (Guesses::default(), limits(), Instant::now());
        for n in 0..1000_u32 {
            let guess = guesses.guess(IpAddr::from(n.to_be_bytes()), &n.to_string());
            guesses.failed(guess, 0, &limits, now);
            guesses.succeeded(guess, &limits);
            let books = guesses.books.lock().expect("the books");
            let sizes = [books.addresses.len(), books.names.len(), books.good.len()];
            assert!(sizes.iter().all(|size| *size <= 6), "{sizes:?}");
        }
    }
}
