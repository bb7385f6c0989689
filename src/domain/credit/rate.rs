//! Messages per time: the generic cell rate algorithm (ITU-T I.371), one timestamp for each holder.
//!
//! The timestamp is the theoretical arrival: when the next message would come if all came evenly. Everybody who asks
//! the ledger shares it, so a limit is not multiplied by the number of relays.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// So many messages in so many seconds. All of them may come at once; then each waits until its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rate {
    pub messages: u32,
    pub per_seconds: u32,
}

/// Whose rate was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pace {
    Key,
    Account,
    /// Of messages of the account that were given back.
    Refused,
}

impl Pace {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key.rate",
            Self::Account => "account.rate",
            Self::Refused => "account.refused",
        }
    }
}

impl Rate {
    /// Between two messages that come evenly. Whole microseconds, rounded up: the timestamp is stored as such.
    pub fn interval(self) -> SignedDuration {
        // A rate of no messages cannot be written; it would mean the slowest that can.
        let messages = i64::from(self.messages.max(1));
        let micros = (i64::from(self.per_seconds) * 1_000_000 + messages - 1) / messages;
        SignedDuration::from_micros(micros)
    }

    /// The timestamp after one more message at `now`, or when to come again. `arrival` is the stored one.
    pub fn pass(self, arrival: Option<Timestamp>, now: Timestamp) -> Result<Timestamp, Timestamp> {
        let interval = self.interval();
        let burst = interval * i32::try_from(self.messages.max(1) - 1).unwrap_or(i32::MAX);
        let after = |at: Timestamp, duration| at.checked_add(duration).unwrap_or(Timestamp::MAX);
        let full = after(now, burst);
        // Further ahead than this rate ever gets is what a slower one left behind: nobody waits for that.
        let arrival = match arrival.unwrap_or(now).max(now) {
            left_behind if left_behind > after(full, interval) => full,
            arrival => arrival,
        };
        let earliest = arrival.checked_sub(burst).unwrap_or(Timestamp::MIN);
        if earliest <= now { Ok(after(arrival, interval)) } else { Err(earliest) }
    }
}

impl Rate {
    /// The timestamp after a message of `reserved_at` was given back, where it still held others up at `now`. `arrival` is
    /// the stored one.
    pub fn give_back(self, arrival: Timestamp, reserved_at: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let window = SignedDuration::from_secs(i64::from(self.per_seconds));
        let holds_up = reserved_at.checked_add(window).is_ok_and(|until| now < until);
        holds_up.then(|| arrival.checked_sub(self.interval()).unwrap_or(Timestamp::MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a time")
    }

    /// How many of `asked` messages at the same moment pass.
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

    #[test]
    fn a_message_that_is_given_back_makes_room_for_one_and_for_no_more_than_the_rate() {
        let rate = Rate { messages: 2, per_seconds: 60 };
        let mut arrival = None;
        assert_eq!(burst(rate, &mut arrival, at(0), 3), 2);
        arrival = rate.give_back(arrival.expect("stored"), at(0), at(1));
        assert_eq!(burst(rate, &mut arrival, at(1), 3), 1);
        // Its turn has passed: nobody waits for it.
        assert_eq!(rate.give_back(arrival.expect("stored"), at(0), at(60)), None);
        for _ in 0..9 {
            arrival = rate.give_back(arrival.expect("stored"), at(1), at(2));
        }
        assert_eq!(burst(rate, &mut arrival, at(2), 9), 2, "not more than may come at once");
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
