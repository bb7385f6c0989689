//! Our own writes that the cache does not show yet, so that their echo starts no pass and a slow watch is not believed.
//!
//! Every write comes back through a watch. Reconciling the object for it would cost the API server as much as the write
//! did. The tables hold exactly the versions that a pass read or wrote; any other version is a change.

use std::collections::HashMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::operator::object_ref::Name;

/// Maximum number of writes not seen yet. Only a stuck watch causes this many.
const UNSEEN_MAX: usize = 10_000;

/// Bounded tables, one for each kind of write.
#[derive(Default)]
pub struct Expectations {
    /// Statuses by the object's UID: the version and the whole object.
    statuses: Mutex<HashMap<String, (u64, Value)>>,
    /// Marks of the parts that an object's own reconcile depends on (`Marks::own`), as our finalizer left them, by UID.
    marks: Mutex<HashMap<String, u64>>,
    /// Versions of our Secrets.
    secrets: Mutex<HashMap<Name, u64>>,
}

fn lock<K: std::hash::Hash + Eq, V>(table: &Mutex<HashMap<K, V>>) -> MutexGuard<'_, HashMap<K, V>> {
    let mut table = table.lock();
    if table.len() >= UNSEEN_MAX {
        table.clear();
    }
    table
}

impl Expectations {
    /// Records an object as returned by a write of its status.
    pub fn status<K: Resource + Serialize>(&self, written: &K) {
        if let (Some(uid), Ok(object)) = (&written.meta().uid, serde_json::to_value(written)) {
            lock(&self.statuses).insert(uid.clone(), (version(written.meta()), object));
        }
    }

    /// Returns the object as last written, if the cache is behind.
    pub fn freshest<K: Resource + Clone + DeserializeOwned>(&self, object: &K) -> K {
        let meta = object.meta();
        self.seen(meta);
        let statuses = lock(&self.statuses);
        let written = meta.uid.as_ref().and_then(|uid| statuses.get(uid));
        written.and_then(|(_, written)| serde_json::from_value(written.clone()).ok()).unwrap_or_else(|| object.clone())
    }

    /// Forgets the writes up to this version, which the cache now has.
    pub fn seen(&self, meta: &ObjectMeta) {
        let Some(uid) = &meta.uid else { return };
        let mut statuses = lock(&self.statuses);
        if statuses.get(uid).is_some_and(|(written, _)| *written <= version(meta)) {
            statuses.remove(uid);
        }
    }

    /// Records the mark that our own write to an object's metadata left.
    pub fn mark(&self, uid: String, own: u64) {
        lock(&self.marks).insert(uid, own);
    }

    /// True if a change of the parts that an object's own reconcile depends on is our own write.
    pub fn is_own_mark(&self, meta: &ObjectMeta, own: u64) -> bool {
        let Some(uid) = &meta.uid else { return false };
        lock(&self.marks).remove(uid) == Some(own)
    }

    /// Records a Secret as returned by our write.
    pub fn secret(&self, name: Name, meta: &ObjectMeta) {
        lock(&self.secrets).insert(name, version(meta));
    }

    /// True if this version of a Secret is the one that we wrote last. A newer one is another writer's, and ours is no
    /// longer expected.
    pub fn is_own_secret(&self, name: &Name, meta: &ObjectMeta) -> bool {
        let (mut secrets, seen) = (lock(&self.secrets), version(meta));
        let written = secrets.get(name).copied();
        if written.is_some_and(|written| written <= seen) {
            secrets.remove(name);
        }
        written == Some(seen)
    }

    /// Returns the Secrets that were written and that the watch has not shown since.
    pub fn unseen_secrets(&self) -> Vec<Name> {
        lock(&self.secrets).keys().cloned().collect()
    }

    pub fn forget_secret(&self, name: &Name) {
        lock(&self.secrets).remove(name);
    }

    /// Forgets an object that is gone.
    pub fn forget(&self, meta: &ObjectMeta) {
        let Some(uid) = &meta.uid else { return };
        lock(&self.statuses).remove(uid);
        lock(&self.marks).remove(uid);
    }
}

/// Returns the version as a number. Versions of one kind of resource grow (guaranteed since Kubernetes 1.35).
pub fn version(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_ref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    fn object(version: &str, note: &str) -> ConfigMap {
        let body = json!({"metadata": {"uid": "u", "resourceVersion": version}, "data": {"note": note}});
        serde_json::from_value(body).expect("an object")
    }

    #[test]
    fn what_was_written_is_the_truth_until_the_cache_has_it() {
        let written = Expectations::default();
        written.status(&object("7", "written"));
        assert_eq!(written.freshest(&object("6", "cached")), object("7", "written"));
        written.seen(&object("6", "").metadata);
        assert_eq!(written.freshest(&object("5", "cached")), object("7", "written"));
        assert_eq!(written.freshest(&object("9", "newer")), object("9", "newer"));
        assert_eq!(written.freshest(&object("6", "cached")), object("6", "cached"));
    }

    #[test]
    fn an_echo_is_known_once_and_only_as_it_was_written() {
        let (written, meta) = (Expectations::default(), object("7", "").metadata);
        written.mark("u".to_owned(), 42);
        assert!(!written.is_own_mark(&meta, 43));
        written.mark("u".to_owned(), 42);
        assert!(written.is_own_mark(&meta, 42));
        assert!(!written.is_own_mark(&meta, 42));
        let name = Name::new("team", "smtp");
        written.secret(name.clone(), &meta);
        assert!(!written.is_own_secret(&name, &object("6", "").metadata));
        assert!(written.is_own_secret(&name, &meta));
        assert!(!written.is_own_secret(&name, &meta));
        written.secret(name.clone(), &meta);
        assert!(!written.is_own_secret(&name, &object("8", "somebody else's").metadata));
        assert!(lock(&written.secrets).is_empty(), "who edits our Secrets leaves nothing here");
    }
}
