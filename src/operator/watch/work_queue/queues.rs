//! The work queues of the three kinds.

use std::sync::Arc;

use crate::operator::object_ref::Ref;
use crate::operator::watch::work_queue::WorkQueue;
use crate::operator::watch::work_queue::schedule::{Cause, Places};

/// The work queues of the three kinds, by kind.
#[derive(Clone)]
pub struct WorkQueues {
    pub policies: Arc<WorkQueue>,
    pub accounts: Arc<WorkQueue>,
    pub keys: Arc<WorkQueue>,
}

impl WorkQueues {
    /// Creates the queues. `concurrency`: passes at a time, for each kind.
    pub fn new(concurrency: u16) -> Self {
        let queue = || Arc::new(WorkQueue::new(Places::of(concurrency)));
        Self { policies: queue(), accounts: queue(), keys: queue() }
    }

    /// Schedules a pass for an object, because something that it depends on changed.
    pub fn wake(&self, what: &Ref) {
        self.wake_for(what, Cause::Change);
    }

    pub fn wake_for(&self, what: &Ref, cause: Cause) {
        match what {
            Ref::Policy(name) => self.policies.wake(name.clone(), cause),
            Ref::Account(name) => self.accounts.wake(name.clone(), cause),
            Ref::Key(name) => self.keys.wake(name.clone(), cause),
        }
    }

    pub fn wake_all(&self, what: impl IntoIterator<Item = Ref>) {
        what.into_iter().for_each(|one| self.wake(&one));
    }
}
