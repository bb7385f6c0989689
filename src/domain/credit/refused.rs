//! The limit on messages of an account that are given back: they cost it nothing, but each leaves rows.
//!
//! They are counted when they are settled, with the algorithm of rates (generic cell rate), per hour. An account that
//! exceeds the limit cannot send, for an hour at the longest.

use jiff::{SignedDuration, Timestamp};

use super::Rate;

/// Maximum per hour of an account that was charged fewer credits than this. Other accounts may have as many as the
/// credits that they were charged in this hour and the one before, and that were not given back.
pub const REFUSED_PER_HOUR: u32 = 1_000;
const HOUR_SECONDS: u32 = 3_600;
/// Longest time that an account has to wait.
pub const SHUT_MAX: SignedDuration = SignedDuration::from_hours(1);

/// The count of an account's messages that were given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Theoretical arrival of the next one if all came evenly.
    pub arrival: Timestamp,
    /// Maximum per hour at the time of the last one.
    pub per_hour: u32,
}

impl Refused {
    /// Returns the count after `messages` more at `now`. `used` is the credits of an account that was charged more than
    /// most.
    pub fn after(before: Option<Timestamp>, messages: u32, used: i64, now: Timestamp) -> Self {
        let per_hour = u32::try_from(used.max(0)).unwrap_or(u32::MAX).max(REFUSED_PER_HOUR);
        let rate = Self::rate(per_hour);
        let more = rate.interval().saturating_mul(i32::try_from(messages).unwrap_or(i32::MAX));
        let arrival = before.unwrap_or(now).max(now);
        let latest = later(now, Self::open_until() + SHUT_MAX);
        Self { arrival: later(arrival, more).min(latest), per_hour }
    }

    /// Returns how far ahead of now an arrival may lie before it stops its account.
    pub fn open_until() -> SignedDuration {
        SignedDuration::from_secs(i64::from(HOUR_SECONDS))
    }

    /// Returns the arrival beyond which an account may be shut at `now`.
    pub fn shut_beyond(now: Timestamp) -> Timestamp {
        later(now, Self::open_until())
    }

    /// Returns the rate that is exceeded and the time at which a message passes; `None` if the rate is not exceeded.
    pub fn shuts(&self, now: Timestamp) -> Option<(Rate, Timestamp)> {
        let retry_at = self.arrival.checked_sub(Self::open_until()).unwrap_or(Timestamp::MIN);
        // A time further ahead than any that is ever written was written by another clock.
        (now < retry_at && retry_at <= later(now, SHUT_MAX)).then(|| (Self::rate(self.per_hour), retry_at))
    }

    fn rate(messages: u32) -> Rate {
        Rate { messages, per_seconds: HOUR_SECONDS }
    }
}

fn later(at: Timestamp, duration: SignedDuration) -> Timestamp {
    at.checked_add(duration).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a time")
    }

    #[test]
    fn an_hours_worth_may_come_at_once_and_then_each_in_its_turn() {
        let of_hour = Refused::after(None, REFUSED_PER_HOUR, 0, at(0));
        assert_eq!((of_hour.arrival, of_hour.shuts(at(0))), (at(3_600), None));
        let mut refused = of_hour;
        for n in 1..=10 {
            // Every 3.6 s one passes, and if it is refused the next waits for its turn.
            let now = Timestamp::from_millisecond((n - 1) * 3_600).expect("a time");
            assert_eq!(refused.shuts(now), None, "{n}");
            refused = Refused::after(Some(refused.arrival), 1, 0, now);
            let (rate, retry_at) = refused.shuts(now).expect("one too many");
            assert_eq!((rate, retry_at.as_millisecond()), (Rate { messages: 1_000, per_seconds: 3_600 }, n * 3_600));
        }
        // A message that is not refused changes nothing, and after an hour all is forgotten.
        assert_eq!(Refused::after(Some(of_hour.arrival), REFUSED_PER_HOUR, 0, at(3_600)).shuts(at(3_600)), None);
    }

    #[test]
    fn nobody_is_shut_out_for_longer_than_an_hour() {
        let mut refused = Refused::after(None, u32::MAX, 0, at(0));
        for _ in 0..3 {
            assert_eq!(refused.shuts(at(0)).expect("far too many").1, at(3_600));
            assert_eq!(refused.shuts(at(3_600)), None);
            refused = Refused::after(Some(refused.arrival), 500, 0, at(0));
        }
        // A clock that was set back by more must not stop it either.
        assert_eq!(refused.shuts(at(-1)), None);
    }

    #[test]
    fn who_is_charged_more_may_have_more_refused() {
        for (used, per_hour) in [(i64::MIN, 1_000), (999, 1_000), (50_000, 50_000), (i64::MAX, u32::MAX)] {
            assert_eq!(Refused::after(None, 1, used, at(0)).per_hour, per_hour);
        }
        assert_eq!(Refused::after(None, 50_000, 50_000, at(0)).shuts(at(0)), None);
        assert!(Refused::after(None, 50_001, 50_000, at(0)).shuts(at(0)).is_some());
    }
}
