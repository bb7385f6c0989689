//! The facts that the index holds of each object, and the marks by which a watch detects a change.

use std::hash::{DefaultHasher, Hash, Hasher as _};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use kube::core::PartialObjectMeta;

use crate::crd::{ConditionType, CreditPolicy, SubAccount, SubAccountApiKey, find_condition};
use crate::operator::plan::{credit_policy, is_true, meta, sub_account};
use crate::operator::state::index::{AccountFacts, KeyFacts};
use crate::operator::state::own_statuses::status_mark;
use crate::operator::watch::follow::Marks;

pub fn account_facts(account: &SubAccount) -> AccountFacts {
    AccountFacts {
        policy: account.spec.policy_ref.name.clone(),
        created: account.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
        external_id: account.spec.external_id.clone(),
        deleting: meta::deleting(&account.metadata),
        refused: is_true(account_conditions(account), ConditionType::Stalled),
        suspended: account.spec.suspended,
        prepaid: account.spec.prepaid.is_some(),
        spend_limited: account.spec.spend_limit_minor.is_some(),
        narrowed: !account.spec.allowed_senders.is_empty(),
    }
}

pub fn key_facts(key: &SubAccountApiKey) -> KeyFacts {
    let conditions = key.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let denied = key.status.as_ref().and_then(|status| status.denied_senders.as_ref());
    KeyFacts {
        account: key.spec.sub_account_ref.name.clone(),
        ready: is_true(conditions, ConditionType::Ready),
        denied_messages: denied.map_or(0, |denied| denied.messages),
    }
}

fn account_conditions(account: &SubAccount) -> &[Condition] {
    account.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default()
}

/// Hashes the parts that all readers depend on: the spec, by its generation, and whether deletion was requested.
fn spec_mark<K: Resource>(object: &K, more: impl Hash) -> u64 {
    let meta = object.meta();
    let mut hasher = DefaultHasher::new();
    (&meta.uid, meta.generation, meta::deleting(meta)).hash(&mut hasher);
    more.hash(&mut hasher);
    hasher.finish()
}

pub fn own_mark<K: Resource>(object: &K) -> u64 {
    let meta = object.meta();
    spec_mark(object, (&meta.finalizers, meta::forced(meta)))
}

pub fn policy_marks(policy: &CreditPolicy) -> Marks {
    // Includes the presence of a status: before, nothing is reported for the policy's accounts.
    let said = (policy.status.is_some(), credit_policy::obstacle(policy));
    Marks { own: own_mark(policy), outward: spec_mark(policy, said), shown: status_mark(policy.status.as_ref()) }
}

pub fn account_marks(account: &SubAccount) -> Marks {
    let verdict = |kind| find_condition(account_conditions(account), kind).map(|c| (&c.status, &c.reason));
    let verdicts = (verdict(ConditionType::Accepted), verdict(ConditionType::Stalled));
    let obstacle = sub_account::obstacle(account).map(|(reason, message)| (reason.as_str(), message));
    let said = (account.status.is_some(), verdicts, obstacle);
    Marks { own: own_mark(account), outward: spec_mark(account, said), shown: status_mark(account.status.as_ref()) }
}

pub fn key_marks(key: &SubAccountApiKey) -> Marks {
    let shown = status_mark(key.status.as_ref());
    Marks { own: own_mark(key), outward: spec_mark(key, key_facts(key).ready), shown }
}

pub fn namespace_marks(namespace: &PartialObjectMeta<Namespace>) -> Marks {
    Marks { own: 0, outward: spec_mark(namespace, &namespace.metadata.labels), shown: 0 }
}

pub fn secret_marks(secret: &PartialObjectMeta<Secret>) -> Marks {
    Marks { own: 0, outward: spec_mark(secret, &secret.metadata.resource_version), shown: 0 }
}

pub fn login_marks(secret: &Secret) -> Marks {
    Marks { own: 0, outward: spec_mark(secret, &secret.metadata.resource_version), shown: 0 }
}
