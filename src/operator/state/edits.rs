//! Who edited a spec, where only managed fields can say it.
//!
//! They name who holds a field. Who takes a field out of a spec holds nothing, and the newest manager that is left is
//! another one's. So each version that a watch shows is compared with the one before it: a manager made the edit if a new
//! generation came with a newer entry of its own. What came while nothing was watching is not known.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::{Mutex, MutexGuard};

use crate::operator::plan::meta::last_edit;

/// Objects that are remembered. Beyond it all are forgotten, and the next edit of each is by a manager that is not known.
const OBJECTS_MAX: usize = 1_000_000;

/// The last edit of each object, by UID.
#[derive(Default)]
pub struct Edits(Mutex<HashMap<String, Edit>>);

struct Edit {
    generation: i64,
    /// When fields of the spec were last taken over, in any version up to this one.
    newest: Option<Timestamp>,
    manager: Option<String>,
}

impl Edits {
    /// A watch showed this version, after the one before it (`in_turn`) or in a list, which leaves versions out.
    pub fn seen(&self, meta: &ObjectMeta, in_turn: bool) {
        let (Some(uid), Some(generation)) = (&meta.uid, meta.generation) else { return };
        let (newest, manager) = last_edit(meta).unzip();
        let manager = manager.flatten().map(str::to_owned);
        let mut edits = self.lock();
        let known = edits.get(uid);
        let manager = match known {
            Some(edit) if edit.generation > generation => return,
            Some(edit) if edit.generation == generation => edit.manager.clone(),
            Some(edit) if in_turn && edit.generation + 1 == generation => manager.filter(|_| newest > edit.newest),
            // Who made the object has all of its first spec.
            None if generation == 1 => {
                manager.filter(|_| newest == meta.creation_timestamp.as_ref().map(|time| time.0))
            }
            Some(_) | None => None,
        };
        let newest = newest.max(known.and_then(|edit| edit.newest));
        if edits.len() >= OBJECTS_MAX {
            edits.clear();
        }
        edits.insert(uid.clone(), Edit { generation, newest, manager });
    }

    /// Returns the manager that made the edit of which this version is.
    pub fn manager(&self, meta: &ObjectMeta) -> Option<String> {
        let edits = self.lock();
        let edit = edits.get(meta.uid.as_ref()?)?;
        edit.manager.clone().filter(|_| meta.generation == Some(edit.generation))
    }

    pub fn forget(&self, meta: &ObjectMeta) {
        if let Some(uid) = &meta.uid {
            self.lock().remove(uid);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Edit>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, Time};
    use serde_json::json;

    use super::*;

    /// A version with these managers of its spec, each with the second of its entry.
    fn version(generation: i64, managers: &[(&str, i64)]) -> ObjectMeta {
        let time = |second| Some(Time(Timestamp::from_second(second).expect("a time")));
        let entry = |(manager, second): &(&str, i64)| ManagedFieldsEntry {
            manager: Some((*manager).to_owned()),
            time: time(*second),
            fields_v1: Some(FieldsV1(json!({"f:spec": {}}))),
            ..ManagedFieldsEntry::default()
        };
        ObjectMeta {
            uid: Some("uid".to_owned()),
            generation: Some(generation),
            creation_timestamp: time(10),
            managed_fields: Some(managers.iter().map(entry).collect()),
            ..ObjectMeta::default()
        }
    }

    /// The manager of the last of these versions, each of which came in turn or in a list.
    fn told(versions: &[(bool, ObjectMeta)]) -> Option<String> {
        let edits = Edits::default();
        versions.iter().for_each(|(in_turn, meta)| edits.seen(meta, *in_turn));
        edits.manager(&versions.last().expect("a version").1)
    }

    #[test]
    fn a_manager_that_is_left_is_not_named_for_what_another_took_out() {
        let made = || (true, version(1, &[("helm", 10)]));
        let co_applied = || (true, version(1, &[("helm", 10), ("flux", 30)]));
        for (versions, expected) in [
            (vec![made()], Some("helm")),
            (vec![made(), (true, version(2, &[("helm", 10), ("kubectl-edit", 20)]))], Some("kubectl-edit")),
            // `kubectl patch` of a field to null: nothing of it is left.
            (vec![made(), (true, version(2, &[("helm", 10)]))], None),
            // Flux took over what it found, and somebody else took a field out.
            (vec![made(), co_applied(), (true, version(2, &[("helm", 10), ("flux", 30)]))], None),
            // The same second says nothing.
            (vec![made(), (true, version(2, &[("helm", 10), ("kubectl-edit", 10)]))], None),
            // What came between was not seen.
            (vec![made(), (false, version(2, &[("helm", 10), ("flux", 30)]))], None),
            (vec![made(), (true, version(3, &[("helm", 10), ("flux", 30)]))], None),
            (vec![(false, version(4, &[("helm", 10), ("flux", 30)]))], None),
            (vec![(false, version(4, &[("helm", 10)])), (true, version(5, &[("flux", 30)]))], Some("flux")),
            // The first version that is seen is not the first that was.
            (vec![(false, co_applied().1)], None),
            // An edit keeps its manager when others follow that change nothing.
            (vec![made(), (true, version(1, &[("helm", 10), ("flux", 30)]))], Some("helm")),
        ] {
            assert_eq!(told(&versions).as_deref(), expected, "{versions:?}");
        }
    }

    #[test]
    fn what_has_left_is_forgotten() {
        let (edits, meta) = (Edits::default(), version(1, &[("helm", 10)]));
        edits.seen(&meta, true);
        edits.forget(&meta);
        assert_eq!(edits.manager(&meta), None);
    }
}
