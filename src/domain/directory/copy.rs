//! The copy of the directory that a relay keeps in memory.

use std::hash::RandomState;
use std::sync::Arc;

use super::entry::{AccountEntry, Entry, KeyEntry, Named, PolicyEntry, ResolvedKey};
use crate::domain::credential::Username;
use crate::domain::id::{AccountId, KeyId, PolicyId};
use crate::domain::sharded::Sharded;

/// The in-memory copy. A clone shares everything that is not changed afterwards.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    policies: Sharded<PolicyId, Arc<PolicyEntry>>,
    accounts: Sharded<AccountId, Arc<AccountEntry>>,
    keys: Sharded<KeyId, Arc<KeyEntry>>,
    /// Tenants choose a part of these, so their hasher must resist chosen collisions.
    usernames: Sharded<Username, KeyId, RandomState>,
}

impl Directory {
    /// Applies one row, replacing what was known of the same holder. Drops its settings, by which no message is judged.
    pub fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Policy(policy) => {
                self.policies.insert(policy.id, Arc::new(PolicyEntry { settings: None, ..policy }));
            }
            Entry::Account(account) => {
                self.accounts.insert(account.id, Arc::new(AccountEntry { settings: None, ..account }));
            }
            Entry::Key(key) => {
                let old = self.keys.get(&key.id).map(|old| old.username.clone());
                if let Some(old) = old.filter(|old| self.usernames.get(old) == Some(&key.id)) {
                    self.usernames.remove(&old);
                }
                // A user name that is used again belongs to the key that is not removed.
                let taken = self.usernames.get(&key.username).and_then(|holder| self.keys.get(holder));
                if key.removed_at.is_none() || taken.is_none_or(|holder| holder.removed_at.is_some()) {
                    self.usernames.insert(key.username.clone(), key.id);
                }
                self.keys.insert(key.id, Arc::new(KeyEntry { settings: None, ..key }));
            }
        }
    }

    /// Applies one row, but does not keep removed keys: for copies that judge an unknown key like a removed one.
    pub fn apply_standing(&mut self, entry: Entry) {
        match entry {
            Entry::Key(key) if key.removed_at.is_some() => self.forget_key(key.id),
            entry @ (Entry::Key(_) | Entry::Account(_) | Entry::Policy(_)) => self.apply(entry),
        }
    }

    pub fn forget_key(&mut self, id: KeyId) {
        let Some(key) = self.keys.remove(&id) else { return };
        if self.usernames.get(&key.username) == Some(&id) {
            self.usernames.remove(&key.username);
        }
    }

    /// Returns the key of a user name, with its account and policy if they are known.
    pub fn by_username(&self, username: &Username) -> Option<Named> {
        self.named(*self.usernames.get(username)?)
    }

    pub fn named(&self, key: KeyId) -> Option<Named> {
        match self.sender(key) {
            Some(sender) => Some(Named::Sender(sender)),
            None => self.keys.get(&key).cloned().map(Named::Waiting),
        }
    }

    pub fn sender(&self, key: KeyId) -> Option<ResolvedKey> {
        let key = self.keys.get(&key)?;
        let account = self.accounts.get(&key.account)?;
        let policy = self.policies.get(&account.policy)?;
        Some(ResolvedKey { key: key.clone(), account: account.clone(), policy: policy.clone() })
    }

    pub fn policy(&self, id: PolicyId) -> Option<&Arc<PolicyEntry>> {
        self.policies.get(&id)
    }

    pub fn account(&self, id: AccountId) -> Option<&Arc<AccountEntry>> {
        self.accounts.get(&id)
    }

    pub fn key(&self, id: KeyId) -> Option<&Arc<KeyEntry>> {
        self.keys.get(&id)
    }

    pub fn policies(&self) -> impl Iterator<Item = &Arc<PolicyEntry>> {
        self.policies.values()
    }

    pub fn accounts(&self) -> impl Iterator<Item = &Arc<AccountEntry>> {
        self.accounts.values()
    }

    pub fn keys(&self) -> impl Iterator<Item = &Arc<KeyEntry>> {
        self.keys.values()
    }
}
