//! The status last written to each object, so that changes by another writer are reverted.
//!
//! A change of status does not wake the object's own pass, or each write would cause another. An operator that lost its
//! lease, or an administrator, may still write one, and it would stay until another event wakes the object. Holds one
//! entry for each object that had a pass and is not gone.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher as _};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;

use crate::operator::state::expectations::version;

/// Entries by object; `R` is a reference to one.
pub struct OwnStatuses<R>(Mutex<HashMap<R, Entry>>);

impl<R> Default for OwnStatuses<R> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

struct Entry {
    uid: Option<String>,
    /// The version in which the status `written`; an older one that the watch still delivers proves nothing.
    version: u64,
    written: Option<u64>,
    /// The status of a write under way: the watch may be faster than the reply.
    intended: Option<u64>,
    /// True if another writer changed it, and no pass has reverted that yet.
    foreign: bool,
}

/// Returns the hash of a status in its wire format.
pub fn status_mark<S: Serialize>(status: Option<&S>) -> u64 {
    let mut hasher = DefaultHasher::new();
    serde_json::to_vec(&status).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

impl<R: Clone + Eq + Hash> OwnStatuses<R> {
    fn entries(&self) -> MutexGuard<'_, HashMap<R, Entry>> {
        self.0.lock()
    }

    /// Records that a status with this mark is about to be written.
    pub fn will_write(&self, what: &R, meta: &ObjectMeta, mark: u64) {
        let mut entries = self.entries();
        match entries.get_mut(what).filter(|entry| entry.uid == meta.uid) {
            Some(entry) => entry.intended = Some(mark),
            None => {
                let entry =
                    Entry { uid: meta.uid.clone(), version: 0, written: None, intended: Some(mark), foreign: false };
                entries.insert(what.clone(), entry);
            }
        }
    }

    /// Records that the version of `meta` has the status with this mark.
    pub fn wrote(&self, what: &R, meta: &ObjectMeta, mark: u64) {
        let entry = Entry {
            uid: meta.uid.clone(),
            version: version(meta),
            written: Some(mark),
            intended: None,
            foreign: false,
        };
        self.entries().insert(what.clone(), entry);
    }

    /// Checks whether another writer left this status on the object, and records it if so.
    pub fn is_foreign(&self, what: &R, meta: &ObjectMeta, mark: u64) -> bool {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(what).filter(|entry| entry.uid == meta.uid) else { return false };
        let ours = entry.written.is_none() || entry.written == Some(mark) || entry.intended == Some(mark);
        let foreign = !ours && version(meta) >= entry.version;
        entry.foreign |= foreign;
        foreign
    }

    /// True if another writer's status has not been reverted yet, its figures included.
    pub fn must_be_reverted(&self, what: &R) -> bool {
        self.entries().get(what).is_some_and(|entry| entry.foreign)
    }

    pub fn forget(&self, what: &R) {
        self.entries().remove(what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(uid: &str, version: &str) -> ObjectMeta {
        ObjectMeta { uid: Some(uid.to_owned()), resource_version: Some(version.to_owned()), ..ObjectMeta::default() }
    }

    #[test]
    fn only_a_later_status_that_was_never_written_here_is_foreign() {
        let (own, what) = (OwnStatuses::default(), "printer");
        assert!(!own.is_foreign(&what, &meta("u", "1"), 9), "nothing was written yet");
        own.will_write(&what, &meta("u", "1"), 10);
        assert!(!own.is_foreign(&what, &meta("u", "2"), 10), "the watch was faster than the answer");
        own.wrote(&what, &meta("u", "2"), 10);
        assert!(!own.is_foreign(&what, &meta("u", "1"), 9), "an older version comes late");
        own.will_write(&what, &meta("u", "2"), 11);
        assert!(!own.is_foreign(&what, &meta("u", "3"), 10) && !own.is_foreign(&what, &meta("u", "3"), 11));
        assert!(!own.must_be_reverted(&what));
        assert!(own.is_foreign(&what, &meta("u", "4"), 66));
        assert!(!own.is_foreign(&what, &meta("another", "5"), 66), "an object that is judged anyway");
        assert!(own.must_be_reverted(&what));
        own.wrote(&what, &meta("u", "5"), 11);
        assert!(!own.must_be_reverted(&what));
        assert!(own.is_foreign(&what, &meta("u", "6"), 66));
        own.forget(&what);
        assert!(!own.must_be_reverted(&what));
    }
}
