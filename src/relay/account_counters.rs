//! Counters by account: for the first `limits.metricAccounts` accounts that sent, then for all others together.
//!
//! The places go to the accounts that sent first, and not to those that send most: a counter that changed hands while
//! it runs would make `rate()` wrong. A place is free again when its account is removed. The next other account that
//! sends takes it, with counters that begin at 0; what it sent before stays in those of the others.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use parking_lot::RwLock;

use crate::domain::directory::AccountEntry;
use crate::domain::id::AccountId;
use crate::runtime::metrics::{IntCounterVec, IntGauge, remove_where};

/// Maximum number of accounts that are told apart among those without counters of their own; the gauge counts no
/// further.
const OTHERS_MAX: usize = 100_000;
/// The label of accounts without counters of their own. No account has this name: it has no namespace and slash.
const OTHER: &str = "other";
/// The label that names the account.
const ACCOUNT: &str = "account";
/// Time that the counters of a removed account stay, so that a scrape reads their last values.
const KEPT_AFTER_REMOVAL: SignedDuration = SignedDuration::from_mins(10);

/// The sender whose message is counted.
#[derive(Clone, Copy)]
pub struct Whose<'a> {
    pub policy: &'a str,
    /// The account, as NAMESPACE/NAME.
    pub account: &'a str,
    /// Id of the account; `None` if the directory does not know the sender any more.
    pub id: Option<AccountId>,
}

/// The counters by account. Cheap to clone.
#[derive(Clone)]
pub struct AccountCounters {
    messages: IntCounterVec,
    credits: IntCounterVec,
    left_out: IntGauge,
    places: Arc<RwLock<Places>>,
}

/// The accounts that have counters of their own, by label. An account that was made again under the same name in a new
/// namespace has the same label and another id: the latest id counts.
#[derive(Default)]
struct Places {
    own: HashMap<String, AccountId>,
    /// The accounts that are counted as left out.
    others: HashMap<String, AccountId>,
}

impl Places {
    /// Returns the label to count under, unless the account must be given a place first.
    fn known<'a>(&self, account: &'a str, id: AccountId, limit: usize) -> Option<&'a str> {
        if self.own.get(account) == Some(&id) {
            return Some(account);
        }
        (self.own.len() >= limit && self.others.get(account) == Some(&id)).then_some(OTHER)
    }

    /// Gives the account a place of its own, or one among the others, and returns the label to count under.
    fn give<'a>(&mut self, account: &'a str, id: AccountId, limit: usize) -> &'a str {
        if self.own.len() < limit || self.own.contains_key(account) {
            self.others.remove(account);
            self.own.insert(account.to_owned(), id);
            return account;
        }
        if self.others.len() < OTHERS_MAX || self.others.contains_key(account) {
            self.others.insert(account.to_owned(), id);
        }
        OTHER
    }

    /// Frees the places of accounts that are not to stay, and returns the labels of those that had counters.
    fn release(&mut self, stays: impl Fn(AccountId) -> bool) -> HashSet<String> {
        self.others.retain(|_, id| stays(*id));
        self.own.extract_if(|_, id| !stays(*id)).map(|(account, _)| account).collect()
    }
}

impl AccountCounters {
    /// Counts with `messages` and `credits`, which have a label `account`.
    pub fn new(messages: IntCounterVec, credits: IntCounterVec, left_out: IntGauge) -> Self {
        Self { messages, credits, left_out, places: Arc::default() }
    }

    /// Counts one message; at most `limit` accounts have counters of their own.
    pub fn message(&self, whose: Whose<'_>, result: &str, limit: u32) {
        self.count(whose, limit, |account| self.messages.with_label_values(&[whose.policy, account, result]).inc());
    }

    /// Counts the recipients of a message, likewise.
    pub fn credits(&self, whose: Whose<'_>, outcome: &str, credits: u64, limit: u32) {
        self.count(whose, limit, |account| {
            self.credits.with_label_values(&[whose.policy, account, outcome]).inc_by(credits);
        });
    }

    /// Calls `count` with the label to count under, which is not released meanwhile.
    fn count(&self, whose: Whose<'_>, limit: u32, count: impl FnOnce(&str)) {
        let Some(id) = whose.id else { return count(OTHER) };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let places = self.places.read();
        if let Some(account) = places.known(whose.account, id, limit) {
            return count(account);
        }
        drop(places);
        let mut places = self.places.write();
        count(places.give(whose.account, id, limit));
        self.tell(&places);
    }

    /// Removes the counters of accounts that are not to stay, so that others get their places.
    pub fn release(&self, stays: impl Fn(AccountId) -> bool) {
        let mut places = self.places.write();
        let released = places.release(stays);
        if !released.is_empty() {
            for counters in [&self.messages, &self.credits] {
                remove_where(counters, ACCOUNT, |account| released.contains(account));
            }
        }
        self.tell(&places);
    }

    fn tell(&self, places: &Places) {
        self.left_out.set(i64::try_from(places.others.len()).unwrap_or(i64::MAX));
    }
}

/// True if an account keeps its counters at `now`.
pub fn keeps_counters(account: &AccountEntry, now: Timestamp) -> bool {
    account.removed_at.is_none_or(|at| now.duration_since(at) < KEPT_AFTER_REMOVAL)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn id(number: u128) -> AccountId {
        AccountId(Uuid::from_u128(number))
    }

    #[test]
    fn the_first_have_places_until_they_go_and_then_whoever_sends_next() {
        let mut places = Places::default();
        assert_eq!(places.known("team/1", id(1), 1), None);
        assert_eq!([places.give("team/1", id(1), 1), places.give("team/2", id(2), 1)], ["team/1", OTHER]);
        assert_eq!([places.known("team/1", id(1), 1), places.known("team/2", id(2), 1)], [Some("team/1"), Some(OTHER)]);
        assert!(places.release(|_| true).is_empty());
        // Gone, in whichever of the two.
        assert_eq!(places.release(|account| account != id(1)), HashSet::from(["team/1".to_owned()]));
        assert_eq!(places.known("team/2", id(2), 1), None, "there is a place");
        assert_eq!((places.give("team/2", id(2), 1), places.others.len()), ("team/2", 0));
        assert_eq!((places.give("team/3", id(3), 1), places.others.len()), (OTHER, 1));
        assert!(places.release(|account| account != id(3)).is_empty() && places.others.is_empty());
        // None, and more of them later.
        assert_eq!([places.give("team/4", id(4), 0), places.give("team/4", id(4), 2)], [OTHER, "team/4"]);
    }

    #[test]
    fn an_account_that_was_made_again_takes_over_the_place_of_its_name() {
        let mut places = Places::default();
        places.give("team/1", id(1), 1);
        assert_eq!(places.known("team/1", id(2), 1), None);
        assert_eq!(places.give("team/1", id(2), 1), "team/1");
        assert!(places.release(|account| account == id(2)).is_empty(), "the place is the new one's");
    }

    #[test]
    fn no_number_of_accounts_fills_the_memory() {
        let mut places = Places::default();
        for number in 0..OTHERS_MAX + 10 {
            places.give(&format!("team/{number}"), id(number as u128), 5);
        }
        assert_eq!((places.own.len(), places.others.len()), (5, OTHERS_MAX));
    }
}
