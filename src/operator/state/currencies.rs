//! The currency of each policy's money. It never changes while the ledger stays the same, so it is read once.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::domain::id::PolicyId;

#[derive(Default)]
pub struct Currencies(Mutex<HashMap<PolicyId, String>>);

impl Currencies {
    pub fn of(&self, policy: PolicyId) -> Option<String> {
        self.0.lock().get(&policy).cloned()
    }

    pub fn remember(&self, policy: PolicyId, currency: String) {
        self.0.lock().insert(policy, currency);
    }

    /// Forgets everything: another ledger may count in other currencies.
    pub fn forget_all(&self) {
        self.0.lock().clear();
    }
}
