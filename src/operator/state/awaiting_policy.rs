//! Accounts that arrived before their policy.
//!
//! Objects applied together are reconciled in parallel, so an account's pass may end before its policy is in the
//! directory. If it were then in service and its key Ready, the relays would know a key without a policy and reject its
//! correct password for good. So the account waits here, and its policy's next pass wakes it.

use std::collections::{BTreeSet, HashMap, HashSet};

use parking_lot::{Mutex, MutexGuard};

use crate::domain::directory::Entry;
use crate::domain::id::{Holder, PolicyId};
use crate::operator::error::{Error, Result};
use crate::operator::object_ref::Name;
use crate::operator::state::ledger_client::LedgerClient;

#[derive(Default)]
pub struct AwaitingPolicy(Mutex<Inner>);

/// The accounts by policy name. Holds no more than the stores of policies and accounts do.
#[derive(Default)]
struct Inner {
    /// Policies that were found in the directory; they stay there until they are deleted.
    present: HashSet<String>,
    waiting: HashMap<String, BTreeSet<Name>>,
}

impl AwaitingPolicy {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock()
    }

    /// True if the policy is in the directory. If not, the account waits, and is registered before the read, so that a
    /// policy written meanwhile wakes it.
    pub async fn is_policy_present(
        &self,
        ledger: &LedgerClient,
        policy: &str,
        id: PolicyId,
        account: &Name,
    ) -> Result<bool> {
        {
            let mut inner = self.inner();
            if inner.present.contains(policy) {
                return Ok(true);
            }
            inner.waiting.entry(policy.to_owned()).or_default().insert(account.clone());
        }
        let entry = ledger.entry(Holder::Policy(id)).await.map_err(Error::ledger("looking for an account's policy"))?;
        let is_present = matches!(entry, Some(Entry::Policy(entry)) if entry.removed_at.is_none());
        if is_present {
            self.inner().present.insert(policy.to_owned());
            self.woken(policy, account);
        }
        Ok(is_present)
    }

    /// Returns an account that waits for the policy. It stays registered until [`Self::woken`]: an interruption between
    /// the two wakes it twice, but never skips it.
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

    /// Forgets a deleted account, whatever policies it named.
    pub fn forget_account(&self, account: &Name) {
        self.inner().waiting.retain(|_, waiting| {
            waiting.remove(account);
            !waiting.is_empty()
        });
    }

    /// Forgets a deleted policy.
    pub fn forget_policy(&self, policy: &str) {
        let mut inner = self.inner();
        inner.present.remove(policy);
        inner.waiting.remove(policy);
    }

    /// Forgets everything: another ledger has another directory.
    pub fn forget(&self) {
        *self.inner() = Inner::default();
    }
}
