//! What the status of each object was last written as, so that one that another writer changed is put right.
//!
//! A change of status is no news to the object's own pass, or each write would cause another. An operator that has lost
//! its lease, or an administrator, may write one all the same, and it would stand until something else wakes the object.
//! Holds one entry for each object that had a pass and is not gone.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher as _};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;

use crate::operator::state::expectations::version;

/// By object; `R` names one.
pub struct Shown<R>(Mutex<HashMap<R, Entry>>);

impl<R> Default for Shown<R> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

struct Entry {
    uid: Option<String>,
    /// The version that has the status which `stands`; an older one that the watch still brings proves nothing.
    version: u64,
    stands: Option<u64>,
    /// The status of a write under way: the watch may be faster than the answer.
    intended: Option<u64>,
    /// Another writer changed it, and no pass has put it right yet.
    foreign: bool,
}

/// Returns the hash of a status as it is on the wire.
pub fn status_mark<S: Serialize>(status: Option<&S>) -> u64 {
    let mut hasher = DefaultHasher::new();
    serde_json::to_vec(&status).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

impl<R: Clone + Eq + Hash> Shown<R> {
    fn entries(&self) -> MutexGuard<'_, HashMap<R, Entry>> {
        self.0.lock()
    }

    /// Notes that a status with this mark is about to be written.
    pub fn intend(&self, what: &R, meta: &ObjectMeta, mark: u64) {
        let mut entries = self.entries();
        match entries.get_mut(what).filter(|entry| entry.uid == meta.uid) {
            Some(entry) => entry.intended = Some(mark),
            None => {
                let entry =
                    Entry { uid: meta.uid.clone(), version: 0, stands: None, intended: Some(mark), foreign: false };
                entries.insert(what.clone(), entry);
            }
        }
    }

    /// Notes that the status with this mark stands in the version of `meta`.
    pub fn stands(&self, what: &R, meta: &ObjectMeta, mark: u64) {
        let entry =
            Entry { uid: meta.uid.clone(), version: version(meta), stands: Some(mark), intended: None, foreign: false };
        self.entries().insert(what.clone(), entry);
    }

    /// Says whether another writer left this status on the object, and notes it if so.
    pub fn is_foreign(&self, what: &R, meta: &ObjectMeta, mark: u64) -> bool {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(what).filter(|entry| entry.uid == meta.uid) else { return false };
        let ours = entry.stands.is_none() || entry.stands == Some(mark) || entry.intended == Some(mark);
        let foreign = !ours && version(meta) >= entry.version;
        entry.foreign |= foreign;
        foreign
    }

    /// Says whether another writer's status is still to be put right, its figures too.
    pub fn is_to_be_put_right(&self, what: &R) -> bool {
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
        let (shown, what) = (Shown::default(), "printer");
        assert!(!shown.is_foreign(&what, &meta("u", "1"), 9), "nothing was written yet");
        shown.intend(&what, &meta("u", "1"), 10);
        assert!(!shown.is_foreign(&what, &meta("u", "2"), 10), "the watch was faster than the answer");
        shown.stands(&what, &meta("u", "2"), 10);
        assert!(!shown.is_foreign(&what, &meta("u", "1"), 9), "an older version comes late");
        shown.intend(&what, &meta("u", "2"), 11);
        assert!(!shown.is_foreign(&what, &meta("u", "3"), 10) && !shown.is_foreign(&what, &meta("u", "3"), 11));
        assert!(!shown.is_to_be_put_right(&what));
        assert!(shown.is_foreign(&what, &meta("u", "4"), 66));
        assert!(!shown.is_foreign(&what, &meta("another", "5"), 66), "an object that is judged anyway");
        assert!(shown.is_to_be_put_right(&what));
        shown.stands(&what, &meta("u", "5"), 11);
        assert!(!shown.is_to_be_put_right(&what));
        assert!(shown.is_foreign(&what, &meta("u", "6"), 66));
        shown.forget(&what);
        assert!(!shown.is_to_be_put_right(&what));
    }
}
