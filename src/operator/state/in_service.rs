//! Indexes the directory's entries in service by their resource.
//!
//! The ledger knows IDs and Kubernetes names: one name may have had several IDs, in namespaces that were deleted and
//! made again.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::domain::directory::Entry;
use crate::domain::id::{AccountId, Holder, KeyId, PolicyId};
use crate::operator::object_ref::{Name, Ref};

#[derive(Default)]
pub struct InService {
    holders: BTreeMap<Ref, BTreeSet<Holder>>,
    resources: HashMap<Holder, Ref>,
    accounts: HashMap<KeyId, AccountId>,
    policies: HashMap<AccountId, PolicyId>,
}

impl InService {
    /// Applies an entry as it was written.
    pub fn take(&mut self, entry: &Entry) {
        let (what, serves) = match entry {
            Entry::Policy(policy) => (Ref::Policy(Name::new("", &policy.name)), policy.removed_at.is_none()),
            Entry::Account(account) => {
                self.policies.insert(account.id, account.policy);
                (Ref::Account(Name::new(&account.namespace, &account.name)), account.removed_at.is_none())
            }
            Entry::Key(key) => {
                let serves = key.removed_at.is_none() && !key.revoked;
                if serves {
                    self.accounts.insert(key.id, key.account);
                } else {
                    self.accounts.remove(&key.id);
                }
                (Ref::Key(Name::new(&key.namespace, &key.name)), serves)
            }
        };
        let holder = entry.holder();
        self.forget(holder);
        if serves {
            self.holders.entry(what.clone()).or_default().insert(holder);
            self.resources.insert(holder, what);
        }
    }

    fn forget(&mut self, holder: Holder) {
        let Some(what) = self.resources.remove(&holder) else { return };
        if let Some(holders) = self.holders.get_mut(&what) {
            holders.remove(&holder);
            if holders.is_empty() {
                self.holders.remove(&what);
            }
        }
    }

    /// Lists the holders in service under a resource's name.
    pub fn of(&self, what: &Ref) -> impl Iterator<Item = Holder> {
        self.holders.get(what).into_iter().flatten().copied()
    }

    /// Lists the accounts and keys in service in a namespace of this name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Ref> {
        let from = Name::new(namespace, "");
        let keys = self.holders.range(Ref::Key(from)..).map(|(what, _)| what);
        let keys = keys.take_while(|what| matches!(what, Ref::Key(name) if name.namespace == namespace));
        self.accounts_in(namespace).map(|(what, _)| what).chain(keys).cloned().collect()
    }

    fn accounts_in(&self, namespace: &str) -> impl Iterator<Item = (&Ref, &BTreeSet<Holder>)> {
        let from = Ref::Account(Name::new(namespace, ""));
        let accounts = self.holders.range(from..);
        accounts.take_while(move |(what, _)| matches!(what, Ref::Account(name) if name.namespace == namespace))
    }

    /// Lists the accounts of a policy in service in a namespace of this name, according to the ledger.
    pub fn accounts_of(&self, policy: PolicyId, namespace: &str) -> impl Iterator<Item = (AccountId, &Name)> {
        self.accounts_in(namespace).flat_map(move |(what, holders)| {
            holders.iter().filter_map(move |holder| match (what, holder) {
                (Ref::Account(name), Holder::Account(id)) if self.policies.get(id) == Some(&policy) => {
                    Some((*id, name))
                }
                (Ref::Account(_) | Ref::Policy(_) | Ref::Key(_), _) => None,
            })
        })
    }

    /// Lists everything in service.
    pub fn all(&self) -> impl Iterator<Item = (&Ref, Holder)> {
        self.holders.iter().flat_map(|(what, holders)| holders.iter().map(move |holder| (what, *holder)))
    }

    /// Returns the policy of a holder.
    pub fn policy_of(&self, holder: Holder) -> Option<PolicyId> {
        match holder {
            Holder::Policy(id) => Some(id),
            Holder::Account(id) => self.policies.get(&id).copied(),
            Holder::Key(id) => self.policies.get(self.accounts.get(&id)?).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::domain::credit::Limit;
    use crate::domain::directory::AccountEntry;
    use crate::domain::period::Calendar;

    fn account(id: u128, namespace: &str, name: &str, removed_at: Option<Timestamp>) -> Entry {
        Entry::Account(AccountEntry {
            id: AccountId(Uuid::from_u128(id)),
            policy: PolicyId(Uuid::from_u128(9)),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            suspended: None,
            cap: Limit { credits: None, calendar: Calendar::monthly_utc() },
            prepaid: None,
            spend_limit_micro: None,
            rate: None,
            allowed_senders: None,
            departures: Vec::new(),
            settings: None,
            removed_at,
        })
    }

    #[test]
    fn a_name_may_have_several_holders_and_one_that_is_removed_is_not_in_service() {
        let mut found = InService::default();
        for (id, namespace, name) in [(1, "team", "a"), (2, "team", "a"), (3, "team", "b"), (4, "teams", "a")] {
            found.take(&account(id, namespace, name, None));
        }
        let what = Ref::Account(Name::new("team", "a"));
        assert_eq!(found.of(&what).count(), 2);
        assert_eq!(found.in_namespace("team"), [what.clone(), Ref::Account(Name::new("team", "b"))]);
        found.take(&account(1, "team", "a", Some(Timestamp::UNIX_EPOCH)));
        assert_eq!(found.of(&what).collect::<Vec<_>>(), [Holder::Account(AccountId(Uuid::from_u128(2)))]);
        // A purge removed the account's names.
        found.take(&account(2, "uid", "", Some(Timestamp::UNIX_EPOCH)));
        assert_eq!((found.of(&what).count(), found.all().count()), (0, 2));
    }
}
