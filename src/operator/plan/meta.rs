//! Names, labels, owners and finalizers of the objects that we make or hold.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ManagedFieldsEntry, ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt as _};

use crate::crd::{ConditionType, Reason, find_condition, printable};
use crate::ledger::audit::OPERATOR;

/// Our name as a writer in server-side apply and `metadata.managedFields`.
pub const MANAGER: &str = "franking";
/// Holds an object until the ledger has recorded its end.
pub const FINALIZER: &str = "franking.io/ledger";
/// Releases an object without the ledger's record: for a ledger that is lost for good.
pub const FORCE_DELETE: &str = "franking.io/force-delete";
/// On a namespace: names the orphan finding whose revocation an administrator has reviewed and approved.
pub const REVOKE_ORPHANS: &str = "franking.io/revoke-orphans";
/// Label without which a Secret cannot be referred to, so that naming a Secret is not a way to read it.
pub const USE_LABEL: &str = "franking.io/use";
/// Label on every object that we make; we watch only such Secrets in tenants' namespaces.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Hash of a Secret's content, so that reloaders roll pods when, and only when, it changed.
pub const CONTENT_HASH: &str = "franking.io/content-hash";
/// On a foreign Secret that a key shares: names the key and lists its additions, so that they can be removed.
pub const ADOPTED: &str = "franking.io/adopted";
/// The user who made the last write of the spec. The chart's MutatingAdmissionPolicy overwrites any value sent by a
/// client, so it can be trusted if `OperatorSettings::changed_by_stamped` is set.
pub const CHANGED_BY: &str = "franking.io/changed-by";
/// The `rotation.restartedAt` that the Secret's password was made for; empty for none. It is written with the password,
/// so a crash can never rotate twice or not at all.
pub const RESTARTED_AT: &str = "franking.io/restarted-at";

/// Returns the labels of the Secrets that we make.
pub fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([
        (MANAGED_BY.to_owned(), MANAGER.to_owned()),
        ("app.kubernetes.io/name".to_owned(), "franking".to_owned()),
        ("app.kubernetes.io/part-of".to_owned(), "franking".to_owned()),
        ("app.kubernetes.io/component".to_owned(), "smtp-credential".to_owned()),
    ])
}

/// Returns the labels of objects that belong to the whole installation.
pub fn installation_labels() -> BTreeMap<String, String> {
    let labels =
        [(MANAGED_BY, MANAGER), ("app.kubernetes.io/name", "franking"), ("app.kubernetes.io/part-of", "franking")];
    labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// Builds the controller reference from an object that we make to its `owner`. It does not block the owner's deletion:
/// the finalizer covers what has to be awaited.
pub fn controller_of<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

/// Builds the same for the ConfigMap that a fleet of relays is made from, so that the fleet is deleted with it.
pub fn config_map_owner(map: &ConfigMap) -> OwnerReference {
    controller_of(map)
}

/// Returns the key that controls this object, by its owner reference.
pub fn controlling_key<'a>(meta: &'a ObjectMeta, kind: &str) -> Option<&'a OwnerReference> {
    let mut owners = meta.owner_references.iter().flatten();
    owners.find(|owner| {
        owner.controller == Some(true) && owner.kind == kind && owner.api_version.starts_with("franking.io/")
    })
}

/// True if deletion was requested.
pub fn deleting(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
}

pub fn holds(meta: &ObjectMeta) -> bool {
    meta.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// True if an administrator released it from waiting for the ledger.
pub fn forced(meta: &ObjectMeta) -> bool {
    meta.annotations.as_ref().and_then(|annotations| annotations.get(FORCE_DELETE)).is_some_and(|value| value == "true")
}

/// True if a Secret may be referred to.
pub fn may_be_used(secret: &Secret) -> bool {
    secret.metadata.labels.as_ref().and_then(|labels| labels.get(USE_LABEL)).is_some_and(|value| value == "true")
}

/// Returns the actor in the audit trail for writes caused by an object. If its changed spec is the cause, that is
/// `user:` and the stamped user; without a trusted stamp `manager:` and the field manager known to have made this edit
/// (`edits`), a name its client chose freely; or [`UNKNOWN`]. The prefix keeps a client from posing as another. Stamp
/// and manager are those of the last edit: if there were several since the last pass, the generations are named too.
/// Writes with another cause (time, another object, a Secret) are the operator's own, and so are deletions: a deleted
/// object does not say who asked for it, the API server's audit log does.
pub fn actor(meta: &ObjectMeta, last: LastPass, editor: Option<&str>, stamped: bool) -> String {
    if deleting(meta) || (meta.generation == last.generation && last.took_over) {
        return OPERATOR.to_owned();
    }
    let stamp = || meta.annotations.as_ref()?.get(CHANGED_BY).filter(|user| !user.is_empty());
    let by = match (stamp().filter(|_| stamped), editor) {
        (Some(user), _) => named("user", user),
        (None, Some(manager)) => named("manager", manager),
        (None, None) => UNKNOWN.to_owned(),
    };
    let generation = meta.generation.unwrap_or_default();
    let known = if last.generation.is_some() && !last.took_over { None } else { last.generation.or(Some(0)) };
    match known {
        Some(known) if generation == known + 1 => by,
        Some(known) if generation > known => format!("generations {} to {generation}, the last by {by}", known + 1),
        // A spec that the last pass refused may be valid now. (A generation that went back belongs to another object.)
        Some(_) | None => format!("generations up to {generation}, the last by {by}"),
    }
}

/// The progress of the pass before this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastPass {
    /// The generation that it processed; `None` if there was no such pass.
    pub generation: Option<i64>,
    /// True if the directory has that generation's spec. One that was refused, or waits, may be missing.
    pub took_over: bool,
}

impl LastPass {
    /// Reads it from a status: the observed generation and the conditions.
    pub fn of(generation: Option<i64>, conditions: &[Condition]) -> Self {
        let stopped = [Reason::Revoked, Reason::Expired].map(Reason::as_str);
        let ready = find_condition(conditions, ConditionType::Ready);
        let is_stopped = ready.is_some_and(|ready| stopped.contains(&ready.reason.as_str()));
        let accepted = find_condition(conditions, ConditionType::Accepted).is_some_and(|one| one.status == "True");
        Self { generation, took_over: accepted || is_stopped }
    }
}

fn named(kind: &str, name: &str) -> String {
    let cut: String = name.chars().take(ACTOR_CHARS).collect();
    format!("{kind}:{}", printable(&cut))
}

/// The actor in the audit trail for an edit whose author is not known.
pub const UNKNOWN: &str = "unknown";
/// Characters of a name in the audit trail. Kubernetes bounds a field manager at 128 and a user's name not at all.
const ACTOR_CHARS: usize = 256;

/// Reduces the managed fields to the last writer of the spec, and drops the field lists, which are half of an object's
/// size.
pub fn trim(meta: &mut ObjectMeta) {
    let Some(mut entries) = meta.managed_fields.take() else { return };
    entries.retain(edits_spec);
    let newest = entries.iter().filter_map(edited_at).max();
    entries.retain(|entry| edited_at(entry) == newest);
    let kept: Vec<_> = entries.into_iter().map(|entry| ManagedFieldsEntry { fields_v1: None, ..entry }).collect();
    meta.managed_fields = Some(kept).filter(|kept| !kept.is_empty());
}

/// Returns the time and manager of the last change to fields of the spec, as far as the remaining managed fields show
/// it. The time is in whole seconds; the manager is `None` if several wrote in the same one.
pub fn last_edit(meta: &ObjectMeta) -> Option<(Timestamp, Option<&str>)> {
    let edits = || meta.managed_fields.iter().flatten().filter(|entry| edits_spec(entry));
    let newest = edits().filter_map(edited_at).max()?;
    let mut managers = edits().filter(|entry| edited_at(entry) == Some(newest)).map(|entry| entry.manager.as_deref());
    let first = managers.next().flatten();
    Some((newest, first.filter(|_| managers.all(|other| other == first))))
}

fn edited_at(entry: &ManagedFieldsEntry) -> Option<Timestamp> {
    entry.time.as_ref().map(|time| time.0)
}

/// Checks whether an entry records a write to the spec. A trimmed entry does, without listing the fields.
fn edits_spec(entry: &ManagedFieldsEntry) -> bool {
    let spec = entry.fields_v1.as_ref().is_none_or(|fields| fields.0.get("f:spec").is_some());
    let whole = entry.subresource.as_deref().unwrap_or_default().is_empty();
    spec && whole && entry.manager.as_deref() != Some(MANAGER)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, Time};
    use serde_json::json;

    use super::*;

    fn entry(manager: &str, second: i64, fields: serde_json::Value) -> ManagedFieldsEntry {
        let time = Timestamp::from_second(second).expect("a time");
        ManagedFieldsEntry {
            manager: Some(manager.to_owned()),
            time: Some(Time(time)),
            fields_v1: Some(FieldsV1(fields)),
            ..ManagedFieldsEntry::default()
        }
    }

    /// The state after a pass that took over this generation.
    fn after(generation: i64) -> LastPass {
        LastPass { generation: Some(generation), took_over: true }
    }

    #[test]
    fn the_last_edit_of_a_spec_is_of_who_took_its_fields_over_last() {
        let spec = json!({"f:spec": {"f:suspended": {}}});
        let labels = json!({"f:metadata": {"f:labels": {}}});
        let mut status = entry("kubelet", 40, spec.clone());
        status.subresource = Some("status".to_owned());
        let mut managed = vec![
            entry("flux", 10, spec.clone()),
            entry("kubectl-edit", 20, spec.clone()),
            entry("kubectl-label", 30, labels),
            entry(MANAGER, 50, spec.clone()),
            status,
        ];
        let at = |second| Timestamp::from_second(second).expect("a time");
        let mut meta = ObjectMeta { managed_fields: Some(managed.clone()), ..ObjectMeta::default() };
        assert_eq!(last_edit(&meta), Some((at(20), Some("kubectl-edit"))));
        trim(&mut meta);
        assert_eq!(meta.managed_fields.as_ref().map(Vec::len), Some(1));
        assert_eq!(last_edit(&meta), Some((at(20), Some("kubectl-edit"))));
        // Times are whole seconds: of two in the same second, either may be the last.
        managed.push(entry("flux", 20, spec));
        let mut meta = ObjectMeta { managed_fields: Some(managed), ..ObjectMeta::default() };
        assert_eq!(last_edit(&meta), Some((at(20), None)));
        trim(&mut meta);
        assert_eq!(last_edit(&meta), Some((at(20), None)));
    }

    #[test]
    fn the_trail_names_who_edited_the_spec_and_nobody_for_what_follows_from_other_things() {
        let mut meta = ObjectMeta { generation: Some(3), ..ObjectMeta::default() };
        assert_eq!(actor(&meta, after(2), Some("kubectl-edit"), false), "manager:kubectl-edit");
        assert_eq!(actor(&meta, after(2), Some("kubectl-edit"), true), "manager:kubectl-edit", "there is no stamp");
        assert_eq!(actor(&meta, after(2), None, true), "unknown");
        assert_eq!(actor(&meta, after(3), Some("kubectl-edit"), false), "operator", "the spec is what it was");
        meta.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert_eq!(actor(&meta, after(2), Some("kubectl-edit"), false), "operator");
    }

    #[test]
    fn of_several_edits_the_last_is_not_said_to_be_all() {
        let annotations = Some(BTreeMap::from([(CHANGED_BY.to_owned(), "alice".to_owned())]));
        let at = |generation| ObjectMeta {
            generation: Some(generation),
            annotations: annotations.clone(),
            ..ObjectMeta::default()
        };
        let never = LastPass { generation: None, took_over: false };
        let refused = |generation| LastPass { generation: Some(generation), took_over: false };
        for (generation, last, expected) in [
            (1, never, "user:alice"),
            (2, never, "generations 1 to 2, the last by user:alice"),
            (3, after(2), "user:alice"),
            (5, after(2), "generations 3 to 5, the last by user:alice"),
            // Another user may have written what was refused then and is valid now.
            (5, refused(4), "generations up to 5, the last by user:alice"),
            (5, after(5), "operator"),
            // What was refused is valid now, for example because another object changed.
            (5, refused(5), "generations up to 5, the last by user:alice"),
        ] {
            assert_eq!(actor(&at(generation), last, None, true), expected, "{generation} {last:?}");
        }
        assert_eq!(actor(&at(5), after(2), None, false), "generations 3 to 5, the last by unknown");
    }

    #[test]
    fn the_trail_names_the_stamped_user_where_the_chart_stamps_and_nobody_passes_for_another() {
        let stamped = |user: &str| ObjectMeta {
            generation: Some(3),
            annotations: Some(BTreeMap::from([(CHANGED_BY.to_owned(), user.to_owned())])),
            ..ObjectMeta::default()
        };
        let (alice, edit) = (stamped("alice@example.com"), Some("kubectl-edit"));
        assert_eq!(actor(&alice, after(2), edit, true), "user:alice@example.com");
        assert_eq!(actor(&alice, after(2), edit, false), "manager:kubectl-edit", "anybody may have written it");
        assert_eq!(actor(&alice, after(3), edit, true), "operator", "the spec is what it was");
        // Clients choose their own field manager.
        for forged in ["user:alice@example.com", "operator", "ledger", "unknown"] {
            assert_eq!(actor(&stamped(""), after(2), Some(forged), true), format!("manager:{forged}"));
        }
        assert_eq!(actor(&stamped("a\u{1b}[2J\nb"), after(2), None, true), "user:a\\u{1b}[2J\\nb");
        assert_eq!(actor(&stamped(&"é".repeat(300)), after(2), None, true), format!("user:{}", "é".repeat(256)));
    }
}
