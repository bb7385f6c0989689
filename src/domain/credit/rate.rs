//! Messages per time: the generic cell rate algorithm (ITU-T I.371), with one timestamp for each holder.
//!
//! The timestamp is the theoretical arrival: the time of the next message if all came evenly. All relays share it
//! through the ledger, so their number does not multiply a limit.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// A number of messages in a number of seconds. All of them may come at once; then each waits for its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rate {
    pub messages: u32,
    pub per_seconds: u32,
}

/// The rate that was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RateScope {
    Key,
    Account,
    /// The rate of messages of the account that were given back.
    Refused,
}

impl RateScope {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key.rate",
            Self::Account => "account.rate",
            Self::Refused => "account.refused",
        }
    }
}

impl Rate {
    /// Returns the time between two messages that come evenly, in whole microseconds, rounded up: the timestamp is
    /// stored so.
    pub fn interval(self) -> SignedDuration {
        // A rate of no messages cannot be configured; it is treated as the slowest that can.
        let messages = i64::from(self.messages.max(1));
        let micros = (i64::from(self.per_seconds) * 1_000_000 + messages - 1) / messages;
        SignedDuration::from_micros(micros)
    }

    /// Returns the timestamp after one more message at `now`, or as the error the time to try again. `arrival` is the
    /// stored one.
    pub fn pass(self, arrival: Option<Timestamp>, now: Timestamp) -> Result<Timestamp, Timestamp> {
        let interval = self.interval();
        let burst = interval * i32::try_from(self.messages.max(1) - 1).unwrap_or(i32::MAX);
        let after = |at: Timestamp, duration| at.checked_add(duration).unwrap_or(Timestamp::MAX);
        let full = after(now, burst);
        // An arrival further ahead than this rate ever gets was left by a slower rate; no client has to wait for that.
        let arrival = match arrival.unwrap_or(now).max(now) {
            left_behind if left_behind > after(full, interval) => full,
            arrival => arrival,
        };
        let earliest = arrival.checked_sub(burst).unwrap_or(Timestamp::MIN);
        if earliest <= now { Ok(after(arrival, interval)) } else { Err(earliest) }
    }
}

/// Minimum of messages that are given back in the time of any rate, so that two refusals of the upstream never stop a
/// third.
const GIVEN_BACK_MIN: u32 = 2;

/// The theoretical arrivals of a holder with a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrivals {
    /// The theoretical arrival of the next message.
    pub message: Timestamp,
    /// The theoretical arrival of the next message that is given back; `None` if none was yet.
    pub given_back: Option<Timestamp>,
}

impl Rate {
    /// Returns the arrivals after a message charged at `charged_at` was given back. `None` if nothing changes, because
    /// its turn has passed at `now` and holds up no other, or because as many were given back as the rate itself
    /// allows: a client that gets nothing but refusals sends at twice the rate (at three times a rate of one).
    pub fn give_back(self, arrivals: Arrivals, charged_at: Timestamp, now: Timestamp) -> Option<Arrivals> {
        let window = SignedDuration::from_secs(i64::from(self.per_seconds));
        let holds_up = charged_at.checked_add(window).is_ok_and(|until| now < until);
        let given_back = self.of_given_back().pass(arrivals.given_back, now).ok().filter(|_| holds_up)?;
        let message = arrivals.message.checked_sub(self.interval()).unwrap_or(Timestamp::MIN);
        Some(Arrivals { message, given_back: Some(given_back) })
    }

    fn of_given_back(self) -> Self {
        Self { messages: self.messages.max(GIVEN_BACK_MIN), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a time")
    }

    /// Returns how many of `asked` messages at the same moment pass.
    fn burst(rate: Rate, arrival: &mut Option<Timestamp>, now: Timestamp, asked: usize) -> usize {
        let mut passed = 0;
        for _ in 0..asked {
            if let Ok(next) = rate.pass(*arrival, now) {
                *arrival = Some(next);
                passed += 1;
            }
        }
        passed
    }

    #[test]
    fn all_messages_of_a_rate_may_come_at_once_and_then_each_in_its_turn() {
        for (messages, per_seconds) in [(1, 1), (1, 60), (7, 60), (10, 1), (1000, 3), (2_000_000, 1)] {
            let rate = Rate { messages, per_seconds };
            let mut arrival = None;
            let expected = (messages as usize).min(5_000);
            assert_eq!(burst(rate, &mut arrival, at(1_000), expected), expected, "{rate:?}");
            if expected < messages as usize {
                continue;
            }
            let retry = rate.pass(arrival, at(1_000)).expect_err("one too many");
            assert_eq!(burst(rate, &mut arrival, retry, 3), 1, "{rate:?}");
            // A rounded interval is at most a microsecond late for each message.
            assert_eq!(burst(rate, &mut arrival, at(1_000 + 2 * i64::from(per_seconds) + 1), 5_000), expected);
        }
    }

    #[test]
    fn a_refused_message_moves_nothing_and_says_when() {
        let rate = Rate { messages: 2, per_seconds: 60 };
        let mut arrival = None;
        assert_eq!(burst(rate, &mut arrival, at(0), 2), 2);
        for second in [0, 10, 29] {
            assert_eq!(rate.pass(arrival, at(second)), Err(at(30)));
        }
        assert_eq!(rate.pass(arrival, at(30)), Ok(at(90)));
    }

    /// Returns how many of `asked` messages that are given back at once pass at the same moment.
    fn burst_of_refused(rate: Rate, stands: &mut Option<Arrivals>, now: Timestamp, asked: usize) -> usize {
        for passed in 0..asked {
            let Ok(message) = rate.pass(stands.map(|stands| stands.message), now) else { return passed };
            let charged = Arrivals { message, given_back: stands.and_then(|stands| stands.given_back) };
            *stands = Some(rate.give_back(charged, now, now).unwrap_or(charged));
        }
        asked
    }

    #[test]
    fn a_message_that_is_given_back_makes_room_for_one_while_its_turn_lasts() {
        let rate = Rate { messages: 2, per_seconds: 60 };
        let mut arrival = None;
        assert_eq!(burst(rate, &mut arrival, at(0), 3), 2);
        let full = Arrivals { message: arrival.expect("stored"), given_back: None };
        let one = rate.give_back(full, at(0), at(1)).expect("given back");
        arrival = Some(one.message);
        assert_eq!(burst(rate, &mut arrival, at(1), 3), 1);
        // Its turn has passed, so it holds up no other message.
        assert_eq!(rate.give_back(full, at(0), at(60)), None);
        // No more than may come at once, however many are given back.
        let long_ago = Arrivals { message: at(-600), given_back: None };
        let mut arrival = rate.give_back(long_ago, at(1), at(2)).map(|stands| stands.message);
        assert_eq!(burst(rate, &mut arrival, at(2), 9), 2);
    }

    #[test]
    fn who_has_nothing_but_refusals_sends_at_twice_the_rate() {
        for (messages, at_once) in [(1, 3), (2, 4), (10, 20), (1_000, 2_000)] {
            let rate = Rate { messages, per_seconds: 1_000 };
            let mut stands = None;
            assert_eq!(burst_of_refused(rate, &mut stands, at(0), 5_000), at_once, "{rate:?}");
            let turn = 1_000 / i64::from(messages.max(2));
            let passed: usize = (1..=20).map(|n| burst_of_refused(rate, &mut stands, at(n * turn), 5_000)).sum();
            assert!((20..=40).contains(&passed), "{rate:?}: {passed} in twenty turns");
            assert_eq!(burst_of_refused(rate, &mut stands, at(100_000), 5_000), at_once, "{rate:?}: all is forgotten");
        }
    }

    #[test]
    fn a_rate_that_is_raised_lets_go_of_the_old_wait() {
        let slow = Rate { messages: 1, per_seconds: 86_400 };
        let mut arrival = None;
        assert_eq!(burst(slow, &mut arrival, at(0), 9), 1);
        let fast = Rate { messages: 10, per_seconds: 10 };
        assert_eq!(burst(fast, &mut arrival, at(0), 9), 1, "at once, and then in its turn");
        assert_eq!(fast.pass(arrival, at(0)), Err(at(1)));
        assert!(fast.pass(arrival, at(1)).is_ok());
    }
}
