//! Which accounts have figures of their own in the metrics: all, those that used most, or none.
//!
//! More series than a Prometheus bears would hurt it more than they help, so how many is a setting; how many are left
//! out is a metric, so that a sum over accounts is never taken for the whole by mistake.

use std::collections::{BTreeSet, HashMap};

use crate::operator::object_ref::Name;

/// How many accounts have figures of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountMetrics {
    All,
    /// Those that used most credits in their running periods. 0 = none.
    Top(u32),
}

/// The accounts that were seen, by what they used.
pub struct Measured {
    limit: usize,
    used: HashMap<Name, i64>,
    /// By credits, then by name: the least is the first that makes room.
    shown: BTreeSet<(i64, Name)>,
    left_out: BTreeSet<(i64, Name)>,
}

/// What follows from a movement of one account.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// It has figures of its own.
    pub shown: bool,
    /// Another one has none any more.
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

    /// Takes over what an account has used. An account that used less than another that is left out gives its place up
    /// when that one moves next.
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

    /// How many accounts have no figures of their own.
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
        // A shown one whose period begins anew keeps its place until another one wants it.
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
