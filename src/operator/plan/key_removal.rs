//! The end of a key: its own deletion, its namespace's, and what it leaves on a shared Secret.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;

use super::adoption::{self, Adoption};
use super::api_key::{KeyPlan, Observed};
use super::{Plan, Step, meta};
use crate::crd::SubAccountApiKey;
use crate::domain::directory::Entry;

/// A namespace that is deleted never comes back, so its keys end with it at once, whenever its controller gets to them.
pub fn leaving(observed: &Observed, now: Timestamp) -> KeyPlan {
    let mut plan = Plan::nothing();
    if let Some(entry) = &observed.entry {
        let gone = entry.removed(now);
        if gone != *entry {
            plan.steps.push(Step::Put(Box::new(Entry::Key(gone))));
        }
    }
    plan
}

/// Takes what we added off a shared Secret.
pub fn release(secret: &Secret, adoption: &Adoption) -> Option<Step> {
    adoption::release(secret, adoption).map(|patch| Step::PatchSecret { name: secret.name_any(), patch })
}

/// A credential must not outlive its resource. The Secret goes with its owner; one that was shared is let go. A key that is
/// held by others' finalizers alone may be in service in a ledger that was restored.
pub fn removal(key: &SubAccountApiKey, observed: &Observed, now: Timestamp) -> KeyPlan {
    let mut plan = Plan::nothing();
    if let Some(entry) = &observed.entry {
        let gone = entry.removed(now);
        if gone != *entry {
            plan.steps.push(Step::Put(Box::new(Entry::Key(gone))));
        }
    }
    if !meta::holds(&key.metadata) {
        return plan;
    }
    let adopted = observed.others.iter().filter_map(|secret| Some((secret, Adoption::of(&secret.metadata)?)));
    plan.steps.extend(adopted.filter_map(|(secret, adoption)| release(secret, &adoption)));
    plan.steps.push(Step::RemoveFinalizer);
    plan
}
