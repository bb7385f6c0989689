//! Effects of the parent object: finds objects with an outdated SENDING, and keys that have an account to send for.

use kube::ResourceExt as _;

use crate::crd::{AccountState, CreditStatus, SubAccount, SubAccountApiKey};
use crate::operator::object_ref::{Name, Ref};
use crate::operator::plan::{meta, sending};
use crate::operator::watch::references::References;

impl References {
    /// Queues the accounts whose SENDING no longer matches their policy's. It changes with the traffic, and there may
    /// be thousands of them, so they wait for the write budget of figures.
    pub fn recount_behind_policy(&self, policy: &str) {
        let accounts: Vec<Name> = self.index(|index| index.accounts_of_policy(policy).cloned().collect());
        let behind = |name: &Name| self.account(name).is_some_and(|account| self.is_account_behind(&account));
        accounts.into_iter().filter(behind).for_each(|name| self.recount(Ref::Account(name)));
    }

    /// Does the same for the keys of an account.
    pub fn recount_behind_account(&self, account: &SubAccount) {
        let keys = self.index(|index| index.keys_of_account(&Name::of(account)));
        let behind = |name: &Name| self.key(name).is_some_and(|key| self.is_key_behind(&key));
        keys.into_iter().filter(behind).for_each(|name| self.recount(Ref::Key(name)));
    }

    /// True if an object's limits apply to what it can send: false for a key whose account is gone or refused.
    pub fn may_serve(&self, what: &Ref) -> bool {
        let Ref::Key(name) = what else { return true };
        let Some(key) = self.key(name) else { return false };
        let account = self.account(&Name::new(&name.namespace, &key.spec.sub_account_ref.name));
        let account = account.filter(|account| !meta::deleting(&account.metadata));
        match account.and_then(|account| account.status.as_ref()?.state) {
            Some(AccountState::Active | AccountState::Suspended | AccountState::ParentSuspended) => true,
            Some(AccountState::Refused | AccountState::Deleted) | None => false,
        }
    }

    /// True if an account's SENDING no longer follows from its policy's.
    pub fn is_account_behind(&self, account: &SubAccount) -> bool {
        let policy = self.policy(&account.spec.policy_ref.name);
        let above = policy.as_ref().and_then(|policy| policy.status.as_ref()?.sending.as_deref());
        account
            .status
            .as_ref()
            .is_some_and(|status| is_behind(status.sending.as_deref(), status.credits.as_ref(), above))
    }

    /// True if a key's SENDING no longer follows from its account's.
    pub fn is_key_behind(&self, key: &SubAccountApiKey) -> bool {
        let account = self.account(&Name::new(key.namespace().unwrap_or_default(), &key.spec.sub_account_ref.name));
        let above = account.as_ref().and_then(|account| account.status.as_ref()?.sending.as_deref());
        key.status.as_ref().is_some_and(|status| is_behind(status.sending.as_deref(), status.credits.as_ref(), above))
    }
}

fn is_behind(shown: Option<&str>, credits: Option<&CreditStatus>, above: Option<&str>) -> bool {
    let short = credits.is_some_and(|credits| credits.remaining == Some(0));
    sending::is_behind(shown, short, above)
}
