//! Index of references between resources, from the watches. It replaces scans of all objects.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;

use crate::crd::KeyCounts;
use crate::operator::object_ref::Name;

/// The facts about an account that other objects depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountFacts {
    pub policy: String,
    pub created: Timestamp,
    pub external_id: Option<String>,
    /// Its deletion was requested.
    pub deleting: bool,
    /// The operator refused it: it may not send.
    pub refused: bool,
    /// Its spec suspends it.
    pub suspended: bool,
    /// Its spec makes it prepaid.
    pub prepaid: bool,
    /// Its spec limits its spending.
    pub spend_limited: bool,
    /// Its spec lists its senders.
    pub narrowed: bool,
}

impl AccountFacts {
    /// Returns the externalId that it claims, with the policy in which that must be unique.
    fn claim(&self) -> Option<(String, String)> {
        let id = self.external_id.clone().filter(|_| !self.deleting)?;
        Some((self.policy.clone(), id))
    }
}

/// The facts about a key that other objects depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFacts {
    /// Name of the account in the key's namespace.
    pub account: String,
    pub ready: bool,
    /// Messages refused for their sender, according to its status.
    pub denied_messages: i64,
}

/// Counts of the accounts of one policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountCount {
    pub total: i64,
    pub active: i64,
    pub suspended: i64,
    /// Accounts made prepaid by their own spec.
    pub prepaid: i64,
    /// Accounts that have a spend limit in their own spec.
    pub spend_limited: i64,
    /// Accounts whose spec lists their senders.
    pub narrowed: i64,
}

#[derive(Default)]
pub struct Index {
    accounts: BTreeMap<Name, AccountFacts>,
    accounts_of_policy: HashMap<String, BTreeSet<Name>>,
    /// By policy. These are few, even if the policy has very many accounts.
    refused: HashMap<String, BTreeSet<Name>>,
    /// By policy and externalId, oldest first.
    external_ids: HashMap<(String, String), BTreeSet<(Timestamp, Name)>>,
    keys: BTreeMap<Name, KeyFacts>,
    keys_of_account: HashMap<Name, BTreeSet<String>>,
    /// Key that owns each Secret.
    secrets: HashMap<Name, String>,
    secrets_of_key: HashMap<Name, BTreeSet<String>>,
    /// Foreign Secrets that keys share.
    adopted: BTreeSet<Name>,
}

impl Index {
    /// Updates an account (`None`: it is gone). Returns the accounts whose plan may depend on the difference: those
    /// with the same externalId, and the refused ones of its namespace if it frees a place. All others would be planned
    /// the same again, and there may be thousands.
    pub fn set_account(&mut self, name: &Name, facts: Option<AccountFacts>) -> BTreeSet<Name> {
        let old = match &facts {
            Some(facts) => self.accounts.insert(name.clone(), facts.clone()),
            None => self.accounts.remove(name),
        };
        if old == facts {
            return BTreeSet::new();
        }
        let mut touched = BTreeSet::new();
        let claim = |facts: &AccountFacts| (facts.claim(), facts.created);
        let claims = old.as_ref().map(claim) != facts.as_ref().map(claim);
        let leaves = old.as_ref().map(|old| &old.policy) != facts.as_ref().map(|facts| &facts.policy);
        if let Some(old) = old {
            remove_from(&mut self.accounts_of_policy, &old.policy, name);
            remove_from(&mut self.refused, &old.policy, name);
            if let Some(claim) = old.claim() {
                remove_from(&mut self.external_ids, &claim, &(old.created, name.clone()));
            }
            if claims {
                touched.extend(self.rivals(&old));
            }
            if leaves {
                touched.extend(self.refused_in(&old.policy, &name.namespace));
            }
        }
        if let Some(facts) = facts {
            self.accounts_of_policy.entry(facts.policy.clone()).or_default().insert(name.clone());
            if facts.refused {
                self.refused.entry(facts.policy.clone()).or_default().insert(name.clone());
            }
            if let Some(claim) = facts.claim() {
                self.external_ids.entry(claim).or_default().insert((facts.created, name.clone()));
            }
            if claims {
                touched.extend(self.rivals(&facts));
            }
        }
        touched.remove(name);
        touched
    }

    /// Returns the accounts that claim the same externalId.
    fn rivals(&self, facts: &AccountFacts) -> Vec<Name> {
        let rivals = facts.claim().and_then(|claim| self.external_ids.get(&claim));
        rivals.into_iter().flatten().map(|(_, name)| name.clone()).collect()
    }

    fn refused_in(&self, policy: &str, namespace: &str) -> Vec<Name> {
        let refused = self.refused.get(policy).into_iter().flat_map(|names| names.range(Name::new(namespace, "")..));
        refused.take_while(|name| name.namespace == namespace).cloned().collect()
    }

    /// Updates a key (`None`: it is gone). Returns its account if that must count its keys again.
    pub fn set_key(&mut self, name: &Name, facts: Option<KeyFacts>) -> Option<Name> {
        let old = match &facts {
            Some(facts) => self.keys.insert(name.clone(), facts.clone()),
            None => self.keys.remove(name),
        };
        if old == facts {
            return None;
        }
        let account = facts.as_ref().or(old.as_ref()).map(|facts| Name::new(&name.namespace, &facts.account));
        if let Some(old) = old {
            remove_from(&mut self.keys_of_account, &Name::new(&name.namespace, old.account), &name.name);
        }
        if let Some(facts) = facts {
            let account = Name::new(&name.namespace, facts.account);
            self.keys_of_account.entry(account).or_default().insert(name.name.clone());
        }
        account
    }

    /// Counts an account's keys, those that are ready, and the messages of all of them that were refused for their
    /// sender.
    pub fn count_keys(&self, account: &Name) -> KeyCounts {
        self.keys_of_account(account).iter().filter_map(|key| self.keys.get(key)).fold(
            KeyCounts::default(),
            |counts, facts| KeyCounts {
                total: counts.total + 1,
                active: counts.active + i64::from(facts.ready),
                denied_messages: counts.denied_messages.saturating_add(facts.denied_messages),
            },
        )
    }

    /// Updates the key of a Secret. Returns the previous one.
    pub fn set_secret(&mut self, secret: &Name, key: Option<String>) -> Option<Name> {
        let old = match &key {
            Some(key) => self.secrets.insert(secret.clone(), key.clone()),
            None => self.secrets.remove(secret),
        };
        let old = old.map(|old| Name::new(&secret.namespace, old));
        if let Some(old) = &old {
            remove_from(&mut self.secrets_of_key, old, &secret.name);
        }
        if let Some(key) = key {
            let key = Name::new(&secret.namespace, key);
            self.secrets_of_key.entry(key).or_default().insert(secret.name.clone());
        }
        old
    }

    pub fn policy_of(&self, account: &Name) -> Option<String> {
        self.accounts.get(account).map(|facts| facts.policy.clone())
    }

    pub fn accounts_of_policy(&self, policy: &str) -> impl Iterator<Item = &Name> {
        self.accounts_of_policy.get(policy).into_iter().flatten()
    }

    pub fn accounts_in_namespace(&self, namespace: &str) -> Vec<Name> {
        let from = Name::new(namespace, "");
        self.accounts.range(from..).map(|(name, _)| name).take_while(|n| n.namespace == namespace).cloned().collect()
    }

    pub fn keys_in_namespace(&self, namespace: &str) -> Vec<Name> {
        let from = Name::new(namespace, "");
        self.keys.range(from..).map(|(name, _)| name).take_while(|n| n.namespace == namespace).cloned().collect()
    }

    pub fn keys_of_account(&self, account: &Name) -> Vec<Name> {
        let keys = self.keys_of_account.get(account).into_iter().flatten();
        keys.map(|name| Name::new(&account.namespace, name)).collect()
    }

    /// Records whether a Secret is a foreign one that a key shares.
    pub fn set_adopted(&mut self, secret: &Name, adopted: bool) {
        if adopted {
            self.adopted.insert(secret.clone());
        } else {
            self.adopted.remove(secret);
        }
    }

    /// Lists the foreign Secrets that this key shares, by name.
    pub fn adopted_by(&self, key: &Name) -> Vec<String> {
        let mut names = self.secrets_of_key(key);
        names.retain(|name| self.adopted.contains(&Name::new(&key.namespace, name)));
        names
    }

    /// Returns the names of the Secrets that carry our label and belong to this key.
    pub fn secrets_of_key(&self, key: &Name) -> Vec<String> {
        self.secrets_of_key.get(key).into_iter().flatten().cloned().collect()
    }

    /// Returns the accounts of `policy` in `namespace`, oldest first. One that is being deleted keeps its place until
    /// it is gone: by then the ledger has recorded its removal, so no other account can slip in between.
    pub fn in_namespace(&self, policy: &str, namespace: &str) -> Vec<Name> {
        let from = Name::new(namespace, "");
        let Some(names) = self.accounts_of_policy.get(policy) else { return Vec::new() };
        let mut places: Vec<_> = names
            .range(from..)
            .take_while(|name| name.namespace == namespace)
            .filter_map(|name| Some((self.accounts.get(name)?.created, name)))
            .collect();
        places.sort();
        places.into_iter().map(|(_, name)| name.clone()).collect()
    }

    /// Returns the accounts of `policy` in the namespace of `name` that are younger than it, except refused ones, which
    /// stay refused.
    pub fn younger_in_namespace(&self, policy: &str, name: &Name) -> Vec<Name> {
        let accounts = self.in_namespace(policy, &name.namespace);
        let younger = accounts.into_iter().skip_while(|other| other != name).skip(1);
        younger.filter(|other| !self.is_refused(policy, other)).collect()
    }

    fn is_refused(&self, policy: &str, name: &Name) -> bool {
        self.refused.get(policy).is_some_and(|refused| refused.contains(name))
    }

    /// Returns the oldest account of `policy` that claims `external_id`.
    pub fn claimant(&self, policy: &str, external_id: &str) -> Option<Name> {
        let claims = self.external_ids.get(&(policy.to_owned(), external_id.to_owned()))?;
        claims.first().map(|(_, name)| name.clone())
    }

    pub fn count(&self, policy: &str) -> AccountCount {
        let mut count = AccountCount::default();
        for facts in self.accounts_of_policy(policy).filter_map(|name| self.accounts.get(name)) {
            count.total += 1;
            count.prepaid += i64::from(facts.prepaid);
            count.spend_limited += i64::from(facts.spend_limited);
            count.narrowed += i64::from(facts.narrowed);
            if facts.suspended {
                count.suspended += 1;
            } else if !facts.refused && !facts.deleting {
                count.active += 1;
            }
        }
        count
    }
}

fn remove_from<A: Eq + std::hash::Hash + Clone, B: Ord>(map: &mut HashMap<A, BTreeSet<B>>, at: &A, value: &B) {
    if let Some(set) = map.get_mut(at) {
        set.remove(value);
        if set.is_empty() {
            map.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(created: i64) -> AccountFacts {
        AccountFacts {
            policy: "plan".into(),
            created: Timestamp::from_second(created).expect("a time"),
            external_id: Some("x".into()),
            deleting: false,
            refused: false,
            suspended: false,
            prepaid: false,
            spend_limited: false,
            narrowed: false,
        }
    }

    #[test]
    fn the_oldest_claim_wins_and_its_end_wakes_the_next() {
        let mut index = Index::default();
        let (old, young) = (Name::new("b", "old"), Name::new("a", "young"));
        assert!(index.set_account(&old, Some(facts(1))).is_empty());
        assert_eq!(index.set_account(&young, Some(facts(2))), BTreeSet::from([old.clone()]));
        assert_eq!(index.claimant("plan", "x"), Some(old.clone()));
        assert_eq!(index.set_account(&old, None), BTreeSet::from([young.clone()]));
        assert_eq!(index.claimant("plan", "x"), Some(young));
    }

    #[test]
    fn a_deleting_account_keeps_its_place_until_it_is_gone() {
        let mut index = Index::default();
        let (first, second) = (Name::new("a", "1"), Name::new("a", "2"));
        index.set_account(&first, Some(facts(1)));
        index.set_account(&second, Some(AccountFacts { refused: true, external_id: None, ..facts(2) }));
        index.set_account(&first, Some(AccountFacts { deleting: true, ..facts(1) }));
        assert_eq!(index.in_namespace("plan", "a"), [first.clone(), second.clone()]);
        assert!(index.set_account(&first, None).contains(&second));
        assert_eq!(index.in_namespace("plan", "a"), [second]);
    }

    #[test]
    fn a_place_that_is_taken_concerns_the_younger_accounts_of_the_namespace_that_are_not_refused() {
        let mut index = Index::default();
        let name = |name: &str| Name::new("a", name);
        for (at, account) in ["z-oldest", "arrived", "younger", "refused"].into_iter().enumerate() {
            let created = i64::try_from(at).expect("few");
            let refused = account == "refused";
            index.set_account(&name(account), Some(AccountFacts { refused, external_id: None, ..facts(created) }));
        }
        index.set_account(&Name::new("b", "elsewhere"), Some(facts(9)));
        assert_eq!(index.younger_in_namespace("plan", &name("arrived")), [name("younger")]);
        assert!(index.younger_in_namespace("plan", &name("refused")).is_empty());
        assert!(index.younger_in_namespace("other", &name("arrived")).is_empty());
    }

    #[test]
    fn refused_accounts_are_judged_again_where_a_place_is_left_and_by_nothing_else() {
        let mut index = Index::default();
        let plain = |created| AccountFacts { external_id: None, ..facts(created) };
        let refused = |created| AccountFacts { refused: true, ..plain(created) };
        let (first, elsewhere) = (Name::new("a", "first"), Name::new("b", "elsewhere"));
        for name in [&first, &elsewhere] {
            assert!(index.set_account(name, Some(plain(1))).is_empty());
        }
        let waiting: BTreeSet<Name> = (2..100).map(|n| Name::new("a", format!("{n}"))).collect();
        for (created, name) in (2..).zip(&waiting) {
            assert!(index.set_account(name, Some(plain(created))).is_empty());
            assert!(index.set_account(name, Some(refused(created))).is_empty());
        }
        assert!(index.set_account(&first, Some(AccountFacts { suspended: true, ..plain(1) })).is_empty());
        assert!(index.set_account(&elsewhere, None).is_empty());
        assert_eq!(index.set_account(&first, Some(AccountFacts { policy: "other".into(), ..plain(1) })), waiting);
    }

    #[test]
    fn an_account_counts_its_keys_and_what_was_refused_of_them() {
        let mut index = Index::default();
        let key = |account: &str, ready, denied_messages| KeyFacts { account: account.into(), ready, denied_messages };
        let (first, second, shop) = (Name::new("a", "first"), Name::new("a", "second"), Name::new("a", "shop"));
        index.set_key(&first, Some(key("shop", true, 2)));
        index.set_key(&second, Some(key("shop", false, 5)));
        index.set_key(&Name::new("b", "first"), Some(key("shop", true, 9)));
        assert_eq!(index.count_keys(&shop), KeyCounts { total: 2, active: 1, denied_messages: 7 });
        assert_eq!(index.set_key(&first, Some(key("shop", true, 3))), Some(shop.clone()), "its account counts again");
        index.set_key(&second, Some(key("other", false, 5)));
        assert_eq!(index.count_keys(&shop), KeyCounts { total: 1, active: 1, denied_messages: 3 });
    }

    #[test]
    fn a_moved_secret_leaves_its_key() {
        let mut index = Index::default();
        let secret = Name::new("a", "s");
        assert_eq!(index.set_secret(&secret, Some("k1".into())), None);
        assert_eq!(index.set_secret(&secret, Some("k2".into())), Some(Name::new("a", "k1")));
        assert!(index.secrets_of_key(&Name::new("a", "k1")).is_empty());
        assert_eq!(index.secrets_of_key(&Name::new("a", "k2")), ["s"]);
    }
}
