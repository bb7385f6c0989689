//! Slows down clients that guess passwords, and no others.
//!
//! Wrong passwords are counted by address and by name, across connections, even if no key has the name, so that a pause
//! says nothing about it. A correct password that may not be used here (its network, its listener, a suspension) is no
//! guess: it is answered after the same pause, and is not counted. A pause is measured from the start of the login and
//! hides how long the directory lookup took. A name is never locked: its correct password works at once from an address
//! that did not guess. An address that goes on guessing has no passwords checked at all, except for names that logged
//! in from there before: a printer with an old password must not lock out the office around it.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::connection_limits::party;
use super::recent::Recent;
use crate::runtime::relay_config::Limits;

/// The pause after a failed login; it doubles with each wrong password remembered for the address or the name, up to
/// `authDelaySeconds`. A typing mistake costs half a second.
const PAUSE: Duration = Duration::from_millis(500);
/// Minimum number of doublings for a name at `authFailuresPerName`: 8 s.
const DOUBLINGS: u32 = 4;

/// The logins that are remembered to slow down guessing.
#[derive(Default)]
pub struct AuthThrottle {
    attempts: Mutex<Attempts>,
    hasher: RandomState,
}

/// The remembered attempts to log in.
#[derive(Default)]
struct Attempts {
    addresses: Recent<IpAddr, Failures>,
    names: Recent<u64, Failures>,
    /// The names that logged in from each address.
    good: Recent<(IpAddr, u64), ()>,
}

/// An attempt to log in, by address and name.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    address: IpAddr,
    /// Hash of the name, which is enough to count by: a stranger may send names of any length.
    name: u64,
}

impl AuthThrottle {
    pub fn attempt(&self, address: IpAddr, username: &str) -> Attempt {
        Attempt { address: party(address), name: self.hasher.hash_one(username) }
    }

    /// True if the password is to be checked at all.
    pub fn admits(&self, attempt: Attempt, limits: &Limits, now: Instant) -> bool {
        let attempts = self.attempts();
        let failed = attempts.addresses.seen(attempt.address).map_or(0, |failures| failures.at(now, limits));
        failed < limits.auth_failures_per_address || attempts.good.seen((attempt.address, attempt.name)).is_some()
    }

    /// Counts a wrong password, and returns how long after the start of the login to answer.
    pub fn failed(&self, attempt: Attempt, limits: &Limits, now: Instant) -> Duration {
        let mut attempts = self.attempts();
        let pause = attempts.pause(attempt, limits, now);
        let room = limits.auth_counters as usize;
        attempts.addresses.touch(attempt.address, room).add(now, limits);
        attempts.names.touch(attempt.name, room).add(now, limits);
        pause
    }

    /// Returns the same for a correct password that may not be used: it waits as long as a wrong one would, and is not
    /// counted.
    pub fn refused(&self, attempt: Attempt, limits: &Limits, now: Instant) -> Duration {
        self.attempts().pause(attempt, limits, now)
    }

    pub fn succeeded(&self, attempt: Attempt, limits: &Limits) {
        self.attempts().good.touch((attempt.address, attempt.name), limits.auth_counters as usize);
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock()
    }
}

impl Attempts {
    fn pause(&self, attempt: Attempt, limits: &Limits, now: Instant) -> Duration {
        let earlier = |failures: Option<Failures>| failures.map_or(0, |failures| failures.at(now, limits));
        let name = earlier(self.names.seen(attempt.name));
        let share = name.saturating_mul(DOUBLINGS) / limits.auth_failures_per_name.max(1);
        let doublings = earlier(self.addresses.seen(attempt.address)).max(name).max(share);
        PAUSE.saturating_mul(2_u32.saturating_pow(doublings)).min(longest(limits))
    }
}

/// Returns the longest pause; that of an address whose passwords are not checked.
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

    /// Counts one more, up to as many as can matter.
    fn add(&mut self, now: Instant, limits: &Limits) {
        let ceiling = limits.auth_failures_per_address.max(limits.auth_failures_per_name).max(1);
        *self = Self { count: self.at(now, limits).saturating_add(1).min(ceiling), last: Some(now) };
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
    fn pauses_grow_with_the_address_and_the_name_whatever_the_connection() {
        let (throttle, limits, now) = (AuthThrottle::default(), limits(), Instant::now());
        let at =
            |last, name: &str, now| throttle.failed(throttle.attempt(address(last), name), &limits, now).as_millis();
        let pause = |last, name: &str| at(last, name, now);
        assert_eq!([pause(1, "a"), pause(1, "b"), pause(1, "c")], [500, 1000, 2000]);
        // One name from everywhere.
        assert_eq!([pause(2, "d"), pause(3, "d"), pause(4, "d")], [500, 1000, 2000]);
        assert_eq!(
            [pause(1, "e"), pause(1, "f"), pause(1, "g")],
            [4000, 8000, 8000],
            "authDelaySeconds is the longest"
        );
        assert_eq!(at(2, "h", now + Duration::from_secs(60)), 500, "one is forgotten in a minute");
    }

    #[test]
    fn a_right_password_that_may_not_be_used_waits_like_a_wrong_one_and_counts_nothing() {
        let (throttle, limits, now) = (AuthThrottle::default(), limits(), Instant::now());
        let attempt = throttle.attempt(address(1), "abroad");
        for failures in 0..8 {
            let waited: Vec<Duration> = (0..20).map(|_| throttle.refused(attempt, &limits, now)).collect();
            assert!(throttle.admits(attempt, &limits, now), "after {failures} wrong ones");
            assert_eq!(waited, [throttle.failed(attempt, &limits, now); 20]);
        }
        assert!(!throttle.admits(attempt, &limits, now), "wrong ones count as ever");
    }

    #[test]
    fn an_address_that_guesses_is_not_asked_except_for_names_that_it_knows() {
        let (throttle, limits, now) = (AuthThrottle::default(), limits(), Instant::now());
        let attempt = |last, name: &str| throttle.attempt(address(last), name);
        throttle.succeeded(attempt(1, "printer"), &limits);
        for _ in 0..8 {
            assert!(throttle.admits(attempt(1, "somebody"), &limits, now));
            throttle.failed(attempt(1, "somebody"), &limits, now);
        }
        assert!(!throttle.admits(attempt(1, "somebody"), &limits, now));
        assert!(!throttle.admits(attempt(1, "another"), &limits, now));
        assert!(throttle.admits(attempt(1, "printer"), &limits, now), "it logged in from here before");
        assert!(throttle.admits(attempt(2, "somebody"), &limits, now), "no name is ever locked");
        let later = now + Duration::from_secs(60);
        assert!(throttle.admits(attempt(1, "somebody"), &limits, later), "one failure is forgotten");
        throttle.failed(attempt(1, "somebody"), &limits, later);
        assert!(!throttle.admits(attempt(1, "somebody"), &limits, later));
    }

    #[test]
    fn strangers_cannot_fill_the_tables() {
        let (throttle, limits, now) = (AuthThrottle::default(), limits(), Instant::now());
        for n in 0..1000_u32 {
            let attempt = throttle.attempt(IpAddr::from(n.to_be_bytes()), &n.to_string());
            throttle.failed(attempt, &limits, now);
            throttle.succeeded(attempt, &limits);
            let attempts = throttle.attempts();
            let sizes = [attempts.addresses.len(), attempts.names.len(), attempts.good.len()];
            assert!(sizes.iter().all(|size| *size <= 6), "{sizes:?}");
        }
    }
}
