//! Finds the editor of a spec, if only the managed fields can tell.
//!
//! Managed fields name the manager that holds a field. A manager that removes a field from a spec holds nothing, and
//! the newest one left may be another. So each version that a watch shows is compared with the one before it: a manager
//! made the edit if a new generation came with a newer entry of its own. Edits made while no watch was running have no
//! known manager.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::{Mutex, MutexGuard};

use crate::operator::plan::meta::last_edit;

/// Maximum number of objects. Beyond it all are forgotten, and the next edit of each has no known manager.
const OBJECTS_MAX: usize = 1_000_000;

/// The last edit of each object, by UID.
#[derive(Default)]
pub struct Edits(Mutex<HashMap<String, Edit>>);

struct Edit {
    generation: i64,
    /// Time of the last change to fields of the spec, in any version up to this one.
    newest: Option<Timestamp>,
    manager: Option<String>,
}

impl Edits {
    /// Records a version from a watch: the one after the last (`in_turn`), or one from a list, which skips versions.
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
            // The creator of an object owns all of its first spec.
            None if generation == 1 => {
                let created = meta.creation_timestamp.as_ref().map(|time| time.0);
                manager.filter(|_| newest.is_some() && newest <= created)
            }
            Some(_) | None => None,
        };
        let newest = newest.max(known.and_then(|edit| edit.newest));
        if edits.len() >= OBJECTS_MAX {
            edits.clear();
        }
        edits.insert(uid.clone(), Edit { generation, newest, manager });
    }

    /// Returns the manager whose edit led to this version.
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

    /// Builds a version with these managers of its spec, each with the second of its entry.
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

    /// Returns the manager of the last of these versions, each of which came in turn or from a list.
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
            // `kubectl patch` of a field to null leaves no entry.
            (vec![made(), (true, version(2, &[("helm", 10)]))], None),
            // Flux took over the existing fields, and another manager removed a field.
            (vec![made(), co_applied(), (true, version(2, &[("helm", 10), ("flux", 30)]))], None),
            // The same second proves nothing.
            (vec![made(), (true, version(2, &[("helm", 10), ("kubectl-edit", 10)]))], None),
            // A version in between was not seen.
            (vec![made(), (false, version(2, &[("helm", 10), ("flux", 30)]))], None),
            (vec![made(), (true, version(3, &[("helm", 10), ("flux", 30)]))], None),
            (vec![(false, version(4, &[("helm", 10), ("flux", 30)]))], None),
            (vec![(false, version(4, &[("helm", 10)])), (true, version(5, &[("flux", 30)]))], Some("flux")),
            // The first version seen is not the first one made.
            (vec![(false, co_applied().1)], None),
            // An edit keeps its manager when later versions do not change the spec.
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
