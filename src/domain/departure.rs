//! Policies that an account left for another: it still counts towards their `maxAccountsPerNamespace` until their
//! period ends.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::id::PolicyId;

/// Longest time that a departure is kept: longer than any period, so no policy counts it any more.
const KEPT: SignedDuration = SignedDuration::from_hours(32 * 24);
/// Maximum number of departures that are kept, and so counted, for one account.
const DEPARTURES_MAX: usize = 256;

/// A policy that an account left, and the time of leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Departure {
    pub policy: PolicyId,
    pub at: Timestamp,
}

/// Returns the departures of an account that leaves `policy` at `at`, one for each policy. Departures that no policy
/// counts any more are dropped.
pub fn departed(before: &[Departure], policy: PolicyId, at: Timestamp) -> Vec<Departure> {
    let counts = |departure: &&Departure| departure.policy != policy && at.duration_since(departure.at) <= KEPT;
    let kept: Vec<Departure> = before.iter().filter(counts).copied().collect();
    let excess = (kept.len() + 1).saturating_sub(DEPARTURES_MAX);
    kept.into_iter().skip(excess).chain([Departure { policy, at }]).collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn each_policy_is_left_once_and_forgotten_when_no_period_can_count_it() {
        let at = |day: i64| Timestamp::from_second(day * 86_400).expect("a time");
        let policy = |n: u128| PolicyId(Uuid::from_u128(n));
        let mut found = Vec::new();
        for (day, left) in [(0, 1), (5, 2), (10, 1), (36, 3)] {
            found = departed(&found, policy(left), at(day));
        }
        let shown: Vec<_> = found.iter().map(|departure| (departure.policy, departure.at)).collect();
        assert_eq!(shown, [(policy(2), at(5)), (policy(1), at(10)), (policy(3), at(36))]);
        assert_eq!(departed(&found, policy(4), at(60)).len(), 2);
        for n in 0..300 {
            found = departed(&found, policy(n), at(36));
        }
        assert_eq!((found.len(), found.last().map(|last| last.policy)), (DEPARTURES_MAX, Some(policy(299))));
    }
}
