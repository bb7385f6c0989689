//! Permits to write a status for its figures alone, which the usage task hands out within the budget of status writes.

use std::collections::HashSet;

use parking_lot::Mutex;

use crate::operator::object_ref::Ref;

#[derive(Default)]
pub struct StatusPermits(Mutex<HashSet<Ref>>);

impl StatusPermits {
    pub fn grant(&self, what: Ref) {
        self.0.lock().insert(what);
    }

    pub fn is_granted(&self, what: &Ref) -> bool {
        self.0.lock().contains(what)
    }

    /// Takes the permit back, because it was used or its object is gone.
    pub fn withdraw(&self, what: &Ref) {
        self.0.lock().remove(what);
    }

    /// Takes all permits back: the figures of another ledger are others.
    pub fn withdraw_all(&self) {
        self.0.lock().clear();
    }
}
