//! Counts the places in a policy's `maxAccountsPerNamespace` that are ahead of an account's own.
//!
//! A place is held for a period: an account that has or had one in this period keeps it ahead of all that had none,
//! whatever their age. Otherwise an account that is made again, or an older one that moves in, would let the next one
//! reuse a used-up place. Among those that had one, and among those that had none, the oldest come first.

use std::collections::BTreeSet;

use crate::domain::id::AccountId;
use crate::operator::object_ref::Name;

/// Places that are ahead of an account's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// Places of older accounts that exist.
    pub older: usize,
    /// Places of accounts that had one in this period and are gone, or are younger than one that had none.
    pub had: usize,
}

/// Counts the places ahead of the account `own` named `name`. `accounts` are the policy's accounts in its namespace,
/// oldest first; `places` the accounts that have or had a place there in this period.
pub fn count(own: AccountId, name: &Name, accounts: &[Name], places: &[(AccountId, Name)]) -> Places {
    // A purge removes the name by which a place would be found, and a namespace that is made again gives another ID.
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

    /// Counts the places ahead of each of `accounts` (oldest first; an ID is the number of its letter), where those in
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
        // A lowered limit leaves the older of two that have one.
        assert_eq!(counted("bac", &[a, b]), [(0, 0), (1, 0), (2, 0)]);
        // Gone, moved away, or purged.
        assert_eq!(counted("b", &[a]), [(0, 1)]);
        assert_eq!(counted("b", &[(97, "")]), [(0, 1)]);
        assert_eq!(counted("ba", &[(97, "")]), [(0, 1), (0, 0)], "its own place is its own");
        // Under the same name in the previous namespace.
        assert_eq!(counted("ba", &[(7, "a")]), [(0, 1), (0, 0)]);
    }
}
