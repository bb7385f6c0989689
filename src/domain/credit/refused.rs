//! Messages of an account that are given back: they cost it nothing, and each leaves rows.
//!
//! They are counted as a rate is (the generic cell rate algorithm), when they are settled: so many in an hour. While there
//! were more, nothing of the account is taken, for an hour at the longest.

use jiff::{SignedDuration, Timestamp};

use super::Rate;

/// In an hour, of an account that was charged less than this in credits; else as many as the credits that it was charged
/// in this hour and the one before, and not given back.
pub const REFUSED_PER_HOUR: u32 = 1_000;
const HOUR_SECONDS: u32 = 3_600;
/// So long an account waits at most.
pub const SHUT_MAX: SignedDuration = SignedDuration::from_hours(1);

/// Where an account stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When the next one would come if all came evenly.
    pub arrival: Timestamp,
    /// What the account might have refused in an hour, when one was last.
    pub per_hour: u32,
}

impl Refused {
    /// After so many more at `now`. `used`: the credits of an account that was charged more than most.
    pub fn after(before: Option<Timestamp>, messages: u32, used: i64, now: Timestamp) -> Self {
        let per_hour = u32::try_from(used.max(0)).unwrap_or(u32::MAX).max(REFUSED_PER_HOUR);
        let rate = Self::rate(per_hour);
        let more = rate.interval().saturating_mul(i32::try_from(messages).unwrap_or(i32::MAX));
        let arrival = before.unwrap_or(now).max(now);
        let latest = later(now, Self::open_until() + SHUT_MAX);
        Self { arrival: later(arrival, more).min(latest), per_hour }
    }

    /// Every arrival beyond this, from now, shuts its account.
    pub fn open_until() -> SignedDuration {
        SignedDuration::from_secs(i64::from(HOUR_SECONDS))
    }

    /// The rate that is exceeded, and when a message passes. `None`: it is not.
    pub fn shuts(&self, now: Timestamp) -> Option<(Rate, Timestamp)> {
        let retry_at = self.arrival.checked_sub(Self::open_until()).unwrap_or(Timestamp::MIN);
        // Whatever lies further ahead than it is ever written was written by another clock.
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
            // Each 3.6 s one passes, and if it is refused the next waits its turn.
            let now = Timestamp::from_millisecond((n - 1) * 3_600).expect("a time");
            assert_eq!(refused.shuts(now), None, "{n}");
            refused = Refused::after(Some(refused.arrival), 1, 0, now);
            let (rate, retry_at) = refused.shuts(now).expect("one too many");
            assert_eq!((rate, retry_at.as_millisecond()), (Rate { messages: 1_000, per_seconds: 3_600 }, n * 3_600));
        }
        // Whatever is not refused moves nothing, and after an hour all is forgotten.
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
        // A clock that was set back by more must not hold it either.
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
