//! Selects the accounts that have metrics of their own: all, those with the highest use, or none.
//!
//! More series than a Prometheus can handle would do more harm than good, so their number is a setting. The number of
//! accounts left out is a metric, so that a sum over accounts is never mistaken for the whole.

use std::collections::{BTreeSet, HashMap};

use crate::operator::object_ref::Name;

/// The setting for accounts with metrics of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountMetrics {
    All,
    /// The accounts that used most credits in their running periods. 0 = none.
    Top(u32),
}

/// The known accounts, by their use.
pub struct Measured {
    limit: usize,
    used: HashMap<Name, i64>,
    /// By credits, then by name: the account with the least use gives way first.
    shown: BTreeSet<(i64, Name)>,
    left_out: BTreeSet<(i64, Name)>,
}

/// The effect of a change of one account's use.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// True if it has metrics of its own.
    pub shown: bool,
    /// An account that has lost its metrics to it.
    pub hidden: Option<Name>,
}

impl Measured {
    pub fn new(setting: AccountMetrics) -> Self {
        let limit = match setting {
            AccountMetrics::All => usize::MAX,
            AccountMetrics::Top(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        Self { limit, used: HashMap::new(), shown: BTreeSet::new(), left_out: BTreeSet::new() }
    }

    /// Updates the use of an account. An account that used less than one that is left out loses its place to that one
    /// when it moves next.
    pub fn moved(&mut self, account: &Name, used: i64) -> Change {
        let old = self.used.insert(account.clone(), used);
        let was_shown = old.is_some_and(|old| self.shown.remove(&(old, account.clone())));
        if let Some(old) = old.filter(|_| !was_shown) {
            self.left_out.remove(&(old, account.clone()));
        }
        if was_shown || self.shown.len() < self.limit {
            self.shown.insert((used, account.clone()));
            return Change { shown: true, hidden: None };
        }
        let least = self.shown.first().filter(|(least, _)| *least < used).cloned();
        let Some(least) = least else {
            self.left_out.insert((used, account.clone()));
            return Change::default();
        };
        self.shown.remove(&least);
        self.shown.insert((used, account.clone()));
        let hidden = least.1.clone();
        self.left_out.insert(least);
        Change { shown: true, hidden: Some(hidden) }
    }

    /// Forgets an account that is gone.
    pub fn forget(&mut self, account: &Name) {
        if let Some(used) = self.used.remove(account) {
            let place = (used, account.clone());
            self.shown.remove(&place);
            self.left_out.remove(&place);
        }
    }

    /// Returns how many accounts have no metrics of their own.
    pub fn left_out(&self) -> usize {
        self.left_out.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(index: usize) -> Name {
        Name::new("team", format!("{index}"))
    }

    #[test]
    fn those_that_used_most_are_shown_and_the_others_counted() {
        let mut measured = Measured::new(AccountMetrics::Top(2));
        assert!(measured.moved(&account(1), 5).shown && measured.moved(&account(2), 3).shown);
        assert_eq!(measured.moved(&account(3), 3), Change::default(), "no more than the least");
        assert_eq!(measured.left_out(), 1);
        assert_eq!(measured.moved(&account(3), 4), Change { shown: true, hidden: Some(account(2)) });
        assert_eq!((measured.left_out(), measured.shown.len(), measured.used.len()), (1, 2, 3));
        // A shown account whose period restarts keeps its place until another one takes it.
        assert!(measured.moved(&account(1), 0).shown);
        assert_eq!(measured.moved(&account(2), 3), Change { shown: true, hidden: Some(account(1)) });
        measured.forget(&account(3));
        measured.forget(&account(1));
        assert_eq!((measured.left_out(), measured.shown.len()), (0, 1));
        assert!(measured.moved(&account(4), 0).shown, "there is room again");
    }

    #[test]
    fn all_and_none_are_what_they_say() {
        let (mut all, mut none) = (Measured::new(AccountMetrics::All), Measured::new(AccountMetrics::Top(0)));
        for index in 0..2_000 {
            assert!(all.moved(&account(index), 0).shown);
            assert_eq!(none.moved(&account(index), 9), Change::default());
        }
        assert_eq!((all.left_out(), none.left_out()), (0, 2_000));
    }
}
