//! Accounts that came before their policy.
//!
//! Objects that are applied together are looked at side by side, so an account's pass may be done before its policy is
//! in the directory. Were it in service then, and its key Ready, the relays would know a key that belongs to nobody's
//! plan and refuse its right password for good. So it waits here, and its policy's next pass wakes it.

use std::collections::{BTreeSet, HashMap, HashSet};

use parking_lot::{Mutex, MutexGuard};

use crate::domain::directory::Entry;
use crate::domain::id::{Holder, PolicyId};
use crate::operator::error::{Error, Result};
use crate::operator::object_ref::Name;
use crate::operator::state::ledger_client::Books;

#[derive(Default)]
pub struct Early(Mutex<Inner>);

/// By the policies' names. Holds no more than the stores of policies and accounts do.
#[derive(Default)]
struct Inner {
    /// Policies that were seen in the directory: only their own end takes them out of it.
    standing: HashSet<String>,
    waiting: HashMap<String, BTreeSet<Name>>,
}

impl Early {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock()
    }

    /// Whether the policy is in the directory. Where it is not, the account waits from before the look on, so that a
    /// policy that is written meanwhile wakes it.
    pub async fn stands(&self, books: &Books, policy: &str, id: PolicyId, account: &Name) -> Result<bool> {
        {
            let mut inner = self.inner();
            if inner.standing.contains(policy) {
                return Ok(true);
            }
            inner.waiting.entry(policy.to_owned()).or_default().insert(account.clone());
        }
        let entry = books.entry(Holder::Policy(id)).await.map_err(Error::ledger("looking for an account's policy"))?;
        let stands = matches!(entry, Some(Entry::Policy(entry)) if entry.removed_at.is_none());
        if stands {
            self.inner().standing.insert(policy.to_owned());
            self.woken(policy, account);
        }
        Ok(stands)
    }

    /// One that waits for the policy. It does until [`Self::woken`]: whoever is interrupted between the two wakes it
    /// twice, and never not at all.
    pub fn next(&self, policy: &str) -> Option<Name> {
        self.inner().waiting.get(policy)?.first().cloned()
    }

    pub fn woken(&self, policy: &str, account: &Name) {
        let mut inner = self.inner();
        if let Some(waiting) = inner.waiting.get_mut(policy) {
            waiting.remove(account);
            if waiting.is_empty() {
                inner.waiting.remove(policy);
            }
        }
    }

    /// The account has left: it waits for nothing, whatever policies it named.
    pub fn forget_account(&self, account: &Name) {
        self.inner().waiting.retain(|_, waiting| {
            waiting.remove(account);
            !waiting.is_empty()
        });
    }

    /// The policy has left.
    pub fn left(&self, policy: &str) {
        let mut inner = self.inner();
        inner.standing.remove(policy);
        inner.waiting.remove(policy);
    }

    /// Another ledger has another directory.
    pub fn forget(&self) {
        *self.inner() = Inner::default();
    }
}
