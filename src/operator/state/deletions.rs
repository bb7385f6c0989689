//! Queues the resources that the watches saw deleted, until the ledger is known to have recorded each deletion.
//!
//! A finalizer holds every object until then, so this has work only for an object whose finalizer was removed by
//! another writer: by force, or to keep a credential that outlives its resource.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::operator::object_ref::Ref;

/// Maximum number of resources that wait while the ledger is unavailable. The sweep finds any others.
const PENDING_MAX: usize = 100_000;

#[derive(Default)]
pub struct Deletions {
    pending: Mutex<Pending>,
    news: Notify,
    /// Signals that objects are missing from a list. Their deletion was not watched, so the sweep looks for them.
    missing: Notify,
}

/// Deleted resources, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// The resources; true if the personal data must be erased.
    pub resources: BTreeMap<Ref, bool>,
    pub namespaces: BTreeSet<String>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.namespaces.is_empty()
    }
}

impl Deletions {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock()
    }

    /// Records that a resource was deleted; `purge` says that its personal data must be erased.
    pub fn resource(&self, what: Ref, purge: bool) {
        let mut pending = self.pending();
        if pending.resources.len() >= PENDING_MAX {
            self.missing.notify_one();
            return;
        }
        *pending.resources.entry(what).or_default() |= purge;
        self.news.notify_one();
    }

    /// Records that a namespace is gone, with everything in it.
    pub fn namespace(&self, name: String) {
        self.pending().namespaces.insert(name);
        self.news.notify_one();
    }

    /// Waits until something is pending, and takes all of it.
    pub async fn next(&self) -> Pending {
        loop {
            let news = self.news.notified();
            let pending = std::mem::take(&mut *self.pending());
            if !pending.is_empty() {
                return pending;
            }
            news.await;
        }
    }

    /// Puts back the deletions that could not be written off.
    pub fn put_back(&self, left: Pending) {
        for (what, purge) in left.resources {
            self.resource(what, purge);
        }
        left.namespaces.into_iter().for_each(|name| self.namespace(name));
    }

    /// Records that objects vanished while a watch was down.
    pub fn notify_missing(&self) {
        self.missing.notify_one();
    }

    /// Waits until objects are missing from a list.
    pub async fn missing(&self) {
        self.missing.notified().await;
    }
}
