//! Finds the parents whose limits bind an object besides its own.

use crate::domain::id::Holder;
use crate::operator::object_ref::{Name, Ref};
use crate::operator::state::registered_ids::RegisteredIds;
use crate::operator::watch::references::References;

/// Returns the known objects that limit what `what` may send: a key's account and policy, an account's policy.
pub fn above(references: &References, what: &Ref) -> Vec<Ref> {
    let policy_of = |account: &Name| {
        let account = references.account(account)?;
        Some(Ref::Policy(Name::new("", &account.spec.policy_ref.name)))
    };
    match what {
        Ref::Policy(_) => Vec::new(),
        Ref::Account(account) => policy_of(account).into_iter().collect(),
        Ref::Key(name) => {
            let Some(key) = references.key(name) else { return Vec::new() };
            let account = Name::new(&name.namespace, &key.spec.sub_account_ref.name);
            let policy = policy_of(&account);
            [Some(Ref::Account(account)), policy].into_iter().flatten().collect()
        }
    }
}

/// Returns the holders whose limits bind this object besides its own. Only a key's status shows what they leave.
pub fn holders_above(references: &References, ids: &RegisteredIds, what: &Ref) -> Vec<Holder> {
    match what {
        Ref::Key(_) => above(references, what).iter().filter_map(|above| ids.holder_of(references, above)).collect(),
        Ref::Account(_) | Ref::Policy(_) => Vec::new(),
    }
}
