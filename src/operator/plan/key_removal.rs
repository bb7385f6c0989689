//! The end of a key: its own deletion, its namespace's, and the release of a shared Secret.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;

use super::adoption::{self, Adoption};
use super::{EventNote, Plan, Step, meta};
use crate::crd::{Reason, SubAccountApiKey};
use crate::domain::directory::Entry;
use crate::operator::plan::key_observed::{KeyPlan, Observed};

/// Ends a key in a terminating namespace at once. Such a namespace never comes back, so its own deletion need not be
/// awaited.
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

/// Removes our additions from a shared Secret, and reports if that is not possible.
pub fn release(plan: &mut KeyPlan, secret: &Secret, adoption: &Adoption) {
    let name = secret.name_any();
    let Some(patch) = adoption::release(secret, adoption) else { return };
    if secret.immutable == Some(true) {
        let keys: Vec<&str> = adoption.data.iter().map(String::as_str).collect();
        let note = format!(
            "the Secret \"{name}\" was made immutable, so {}, which this key had added, stay in it; the password in it is this \
             key's, and does not outlive it. Make the Secret anew without them",
            keys.join(", ")
        );
        plan.events.push(EventNote { warning: true, reason: Reason::SecretImmutable, note });
    }
    plan.steps.push(Step::PatchSecret { name, patch });
}

/// Plans the removal of a key: a credential must not outlive its resource. The Secret goes with its owner; a shared one
/// is released. A key that only finalizers of others still hold may be in service in a restored ledger.
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
    for secret in &observed.others {
        if let Some(adoption) = Adoption::of(&secret.metadata) {
            release(&mut plan, secret, &adoption);
        }
    }
    plan.steps.push(Step::RemoveFinalizer);
    plan
}
