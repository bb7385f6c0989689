//! Limits on how fast mail may be sent.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problem::Problem;
use crate::domain::credit::Rate;

/// Maximum messages of a rate: a burst of these goes through at once.
const MESSAGES_MAX: i32 = 1_000_000;

/// Limit on how fast messages may be sent. This many may be sent at once; after that, the allowance comes back evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// Messages per unit of time, however many recipients they have.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub messages: i32,
    /// Unit of time: Second, Minute, Hour or Day.
    pub per: Per,
}

/// The unit of time of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Per {
    Second,
    Minute,
    Hour,
    Day,
}

impl Per {
    fn seconds(self) -> u32 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }
}

impl RateLimit {
    pub(super) fn check(self, field: &str) -> Result<Rate, Problem> {
        let messages = u32::try_from(self.messages).ok().filter(|_| (1..=MESSAGES_MAX).contains(&self.messages));
        let wrong = || {
            let fix = format!(
                "write a number from 1 to {MESSAGES_MAX}; to stop a sender, use suspended, revoked or a cap of 0"
            );
            Problem::new(format!("{field}.messages"), fix)
        };
        Ok(Rate { messages: messages.ok_or_else(wrong)?, per_seconds: self.per.seconds() })
    }
}

/// Returns the rate that applies to an account: the slower of its own and its policy's. If both are as slow, it is the
/// one that lets the smaller burst through.
pub fn slower(own: Option<Rate>, policy: Option<Rate>) -> Option<Rate> {
    let (Some(own), Some(policy)) = (own, policy) else { return own.or(policy) };
    // Messages in the product of both times, so that nothing is rounded.
    let messages = |rate: Rate, other: Rate| u64::from(rate.messages) * u64::from(other.per_seconds);
    let order = (messages(own, policy), own.messages) <= (messages(policy, own), policy.messages);
    Some(if order { own } else { policy })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_rate_holds_and_of_two_as_slow_the_smaller_burst() {
        let rate = |messages, per_seconds| Some(Rate { messages, per_seconds });
        let cases = [
            (None, None, None),
            (rate(5, 60), None, rate(5, 60)),
            (None, rate(5, 60), rate(5, 60)),
            (rate(10, 1), rate(100, 60), rate(100, 60)),
            (rate(1, 60), rate(2, 1), rate(1, 60)),
            (rate(60, 60), rate(1, 1), rate(1, 1)),
            (rate(1, 1), rate(3600, 3600), rate(1, 1)),
        ];
        for (own, policy, expected) in cases {
            assert_eq!(slower(own, policy), expected, "{own:?} {policy:?}");
        }
    }
}
