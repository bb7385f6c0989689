//! The messages for policies about their entries without a resource, which the sweep found and an administrator must
//! decide on.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;

use crate::domain::id::PolicyId;

#[derive(Default)]
pub struct OrphanMessages(Mutex<BTreeMap<PolicyId, String>>);

impl OrphanMessages {
    /// Replaces all messages. Returns the policies whose message changed.
    pub fn replace(&self, next: BTreeMap<PolicyId, String>) -> Vec<PolicyId> {
        let mut current = self.0.lock();
        let both: BTreeSet<PolicyId> = current.keys().chain(next.keys()).copied().collect();
        let changed = both.into_iter().filter(|policy| current.get(policy) != next.get(policy)).collect();
        *current = next;
        changed
    }

    pub fn of(&self, policy: PolicyId) -> Option<String> {
        self.0.lock().get(&policy).cloned()
    }
}
