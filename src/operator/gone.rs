//! Resources that the watches saw deleted, until the ledger is known to have taken note of each.
//!
//! A finalizer holds every object until then, so that this finds nothing to do but for an object whose finalizer somebody
//! else took away: by force, or to keep a credential that outlives its resource.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::references::Ref;

/// Resources that may wait while the ledger is away. What comes beyond is found by the sweep.
const WAITING_MAX: usize = 100_000;

#[derive(Default)]
pub struct Gone {
    waiting: Mutex<Waiting>,
    news: Notify,
    /// Objects are missing from a list: nobody saw them deleted, so how many they are has to be judged first.
    missing: Notify,
}

/// What is gone, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// With whether personal data is to be erased.
    pub resources: BTreeMap<Ref, bool>,
    pub namespaces: BTreeSet<String>,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.namespaces.is_empty()
    }
}

impl Gone {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A resource was deleted; `purge` says that its personal data is to be erased.
    pub fn resource(&self, what: Ref, purge: bool) {
        let mut waiting = self.waiting();
        if waiting.resources.len() >= WAITING_MAX {
            self.missing.notify_one();
            return;
        }
        *waiting.resources.entry(what).or_default() |= purge;
        self.news.notify_one();
    }

    /// A namespace is gone, and with it all that was in it.
    pub fn namespace(&self, name: String) {
        self.waiting().namespaces.insert(name);
        self.news.notify_one();
    }

    /// Takes what waits, as soon as something does.
    pub async fn next(&self) -> Waiting {
        loop {
            let news = self.news.notified();
            let waiting = std::mem::take(&mut *self.waiting());
            if !waiting.is_empty() {
                return waiting;
            }
            news.await;
        }
    }

    /// Gives back what could not be dealt with.
    pub fn put_back(&self, left: Waiting) {
        for (what, purge) in left.resources {
            self.resource(what, purge);
        }
        left.namespaces.into_iter().for_each(|name| self.namespace(name));
    }

    /// Objects vanished while a watch was down.
    pub fn is_missing_some(&self) {
        self.missing.notify_one();
    }

    /// Waits until objects are missing from a list.
    pub async fn missing(&self) {
        self.missing.notified().await;
    }
}
