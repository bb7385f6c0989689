//! What we wrote and have not seen again: so that our own echo is not taken for news, nor a slow watch for the truth.
//!
//! Every write comes back through a watch. To look at the object again for it costs the API server as much as the write
//! did. What is remembered here is exactly what a pass judged or wrote; anything else that comes is news.

use std::collections::HashMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::operator::object_ref::Name;

/// Writes that were not seen again yet. Only a stuck watch makes this many.
const UNSEEN_MAX: usize = 10_000;

/// Bounded tables, each of one kind of write.
#[derive(Default)]
pub struct Written {
    /// Statuses by the object's UID: the version, and the whole object.
    statuses: Mutex<HashMap<String, (u64, Value)>>,
    /// What an object's own reconcile looks at (`Marks::own`), as our finalizer left it, by UID.
    marks: Mutex<HashMap<String, u64>>,
    /// The versions of our Secrets.
    secrets: Mutex<HashMap<Name, u64>>,
}

fn lock<K: std::hash::Hash + Eq, V>(table: &Mutex<HashMap<K, V>>) -> MutexGuard<'_, HashMap<K, V>> {
    let mut table = table.lock();
    if table.len() >= UNSEEN_MAX {
        table.clear();
    }
    table
}

impl Written {
    /// An object as the API server answered a write of its status.
    pub fn status<K: Resource + Serialize>(&self, written: &K) {
        if let (Some(uid), Ok(object)) = (&written.meta().uid, serde_json::to_value(written)) {
            lock(&self.statuses).insert(uid.clone(), (version(written.meta()), object));
        }
    }

    /// The object as it was written last, where the cache is behind.
    pub fn freshest<K: Resource + Clone + DeserializeOwned>(&self, object: &K) -> K {
        let meta = object.meta();
        self.seen(meta);
        let statuses = lock(&self.statuses);
        let written = meta.uid.as_ref().and_then(|uid| statuses.get(uid));
        written.and_then(|(_, written)| serde_json::from_value(written.clone()).ok()).unwrap_or_else(|| object.clone())
    }

    /// The cache has this version: what was written up to it need not be remembered.
    pub fn seen(&self, meta: &ObjectMeta) {
        let Some(uid) = &meta.uid else { return };
        let mut statuses = lock(&self.statuses);
        if statuses.get(uid).is_some_and(|(written, _)| *written <= version(meta)) {
            statuses.remove(uid);
        }
    }

    /// An object was judged, and our own write to its metadata left this mark.
    pub fn mark(&self, uid: String, own: u64) {
        lock(&self.marks).insert(uid, own);
    }

    /// Whether a change of what an object's own reconcile looks at is our own write.
    pub fn is_own_mark(&self, meta: &ObjectMeta, own: u64) -> bool {
        let Some(uid) = &meta.uid else { return false };
        lock(&self.marks).remove(uid) == Some(own)
    }

    /// A Secret as the API server answered our write.
    pub fn secret(&self, name: Name, meta: &ObjectMeta) {
        lock(&self.secrets).insert(name, version(meta));
    }

    /// Whether this version of a Secret is what we wrote last. A newer one is somebody else's, and ours is not expected
    /// any more.
    pub fn is_own_secret(&self, name: &Name, meta: &ObjectMeta) -> bool {
        let (mut secrets, seen) = (lock(&self.secrets), version(meta));
        let written = secrets.get(name).copied();
        if written.is_some_and(|written| written <= seen) {
            secrets.remove(name);
        }
        written == Some(seen)
    }

    /// The Secrets that were written and that the watch has not shown since.
    pub fn unseen_secrets(&self) -> Vec<Name> {
        lock(&self.secrets).keys().cloned().collect()
    }

    pub fn forget_secret(&self, name: &Name) {
        lock(&self.secrets).remove(name);
    }

    /// What is gone is not expected back.
    pub fn forget(&self, meta: &ObjectMeta) {
        let Some(uid) = &meta.uid else { return };
        lock(&self.statuses).remove(uid);
        lock(&self.marks).remove(uid);
    }
}

/// Versions of one kind of resource are numbers that grow (guaranteed since Kubernetes 1.35).
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
        let written = Written::default();
        written.status(&object("7", "written"));
        assert_eq!(written.freshest(&object("6", "cached")), object("7", "written"));
        written.seen(&object("6", "").metadata);
        assert_eq!(written.freshest(&object("5", "cached")), object("7", "written"));
        assert_eq!(written.freshest(&object("9", "newer")), object("9", "newer"));
        assert_eq!(written.freshest(&object("6", "cached")), object("6", "cached"));
    }

    #[test]
    fn an_echo_is_known_once_and_only_as_it_was_written() {
        let (written, meta) = (Written::default(), object("7", "").metadata);
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
