//! Counts whose places among a policy's `maxAccountsPerNamespace` come before an account's own.
//!
//! A place is had for a period: who has one, or had one in this period, keeps it before all who had none, however old
//! they are. Else an account that is made again, or an older one that moves in, would let the next one use a place that
//! was used up. Among those who had one, and among those who had none, the oldest come first.

use std::collections::BTreeSet;

use crate::domain::id::AccountId;
use crate::operator::object_ref::Name;

/// Places that come before an account's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Of older accounts that are there.
    pub older: usize,
    /// Of accounts that had a place in this period and are gone, or are younger than one that had none.
    pub had: usize,
}

/// Counts them for the account `own` of the name `name`. `accounts` are those of the policy in its namespace, oldest first;
/// `places` the accounts that have or had a place there in this period.
pub fn count(own: AccountId, name: &Name, accounts: &[Name], places: &[(AccountId, Name)]) -> Places {
    // A purge takes the name by which a place would be found, and a namespace that is made again makes another id.
    let others = places.iter().filter(|(id, place)| *id != own && place != name);
    let others: Vec<&Name> = others.map(|(_, place)| place).collect();
    let has_one = others.len() < places.len();
    let older = accounts.iter().take_while(|account| *account != name);
    if has_one {
        let had: BTreeSet<&Name> = others.iter().copied().collect();
        let there: BTreeSet<&Name> = accounts.iter().collect();
        Places {
            older: older.filter(|account| had.contains(account)).count(),
            had: others.into_iter().filter(|other| !there.contains(other)).count(),
        }
    } else {
        let older: BTreeSet<&Name> = older.collect();
        Places { older: older.len(), had: others.into_iter().filter(|other| !older.contains(other)).count() }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn id(n: u128) -> AccountId {
        AccountId(Uuid::from_u128(n))
    }

    /// Counts the places before each of `accounts` (oldest first; an id is the number of its letter), where those of
    /// `places` have or had one.
    fn counted(accounts: &str, places: &[(u128, &str)]) -> Vec<(usize, usize)> {
        let places: Vec<_> = places.iter().map(|(n, name)| (id(*n), Name::new("team", *name))).collect();
        let accounts: Vec<Name> = accounts.chars().map(|letter| Name::new("team", letter.to_string())).collect();
        let count = |name: &Name| count(id(u128::from(name.name.as_bytes()[0])), name, &accounts, &places);
        accounts.iter().map(count).map(|Places { older, had }| (older, had)).collect()
    }

    #[test]
    fn a_place_of_this_period_is_kept_before_all_who_had_none() {
        let (a, b) = ((97, "a"), (98, "b"));
        assert_eq!(counted("ab", &[]), [(0, 0), (1, 0)], "nobody had one: the oldest");
        assert_eq!(counted("ab", &[a]), [(0, 0), (1, 0)]);
        // `b` waited, and `a` was made again; or `b` is older and moves in.
        assert_eq!(counted("ba", &[a]), [(0, 1), (0, 0)]);
        // A limit that was lowered leaves the older of two that have one.
        assert_eq!(counted("bac", &[a, b]), [(0, 0), (1, 0), (2, 0)]);
        // Gone, moved away, or purged.
        assert_eq!(counted("b", &[a]), [(0, 1)]);
        assert_eq!(counted("b", &[(97, "")]), [(0, 1)]);
        assert_eq!(counted("ba", &[(97, "")]), [(0, 1), (0, 0)], "its own place is its own");
        // In the namespace that was there before.
        assert_eq!(counted("ba", &[(7, "a")]), [(0, 1), (0, 0)]);
    }
}
