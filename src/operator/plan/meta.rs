//! Names, labels, owners and finalizers: what every object we make or hold carries.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt as _};

use crate::crd::printable;

/// The name under which we write: server-side apply and `metadata.managedFields` know us by it.
pub const MANAGER: &str = "franking";
/// Holds an object until the ledger has taken note of its end.
pub const FINALIZER: &str = "franking.io/ledger";
/// Lets an object go without the ledger's note: for a ledger that is lost for good.
pub const FORCE_DELETE: &str = "franking.io/force-delete";
/// On a namespace: names the finding of orphans that an administrator has looked at and approves to be revoked.
pub const REVOKE_ORPHANS: &str = "franking.io/revoke-orphans";
/// Without this label a Secret cannot be pointed to: naming a Secret is not a way to read one.
pub const USE_LABEL: &str = "franking.io/use";
/// What every object that we make carries, and the only Secrets that we watch in tenants' namespaces.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The hash of a Secret's content, so that reloaders roll pods when, and only when, it changed.
pub const CONTENT_HASH: &str = "franking.io/content-hash";
/// On a foreign Secret that a key shares: names the key and lists what was added, so that it can be taken off.
pub const ADOPTED: &str = "franking.io/adopted";
/// The user who asked for the last write of the spec. The chart's MutatingAdmissionPolicy stamps it, over what anybody wrote
/// there, so it can be believed where [`Settings::changed_by_stamped`](crate::operator::Settings) says so.
pub const CHANGED_BY: &str = "franking.io/changed-by";
/// The `rotation.restartedAt` that the Secret's password was made for; empty for none. It is written with the
/// password, so a crash can never rotate twice or not at all.
pub const RESTARTED_AT: &str = "franking.io/restarted-at";

/// The labels of the Secrets that we make.
pub fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([
        (MANAGED_BY.to_owned(), MANAGER.to_owned()),
        ("app.kubernetes.io/name".to_owned(), "franking".to_owned()),
        ("app.kubernetes.io/part-of".to_owned(), "franking".to_owned()),
        ("app.kubernetes.io/component".to_owned(), "smtp-credential".to_owned()),
    ])
}

/// The labels of what belongs to the installation as a whole.
pub fn installation_labels() -> BTreeMap<String, String> {
    let labels =
        [(MANAGED_BY, MANAGER), ("app.kubernetes.io/name", "franking"), ("app.kubernetes.io/part-of", "franking")];
    labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// The reference with which `owner` controls what we make for it. It does not block the owner's deletion: the
/// finalizer does what has to be waited for.
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

/// The same for the ConfigMap that a fleet of relays is made from: the fleet goes with it.
pub fn config_map_owner(map: &ConfigMap) -> OwnerReference {
    controller_of(map)
}

/// The key that controls this object, by its reference.
pub fn controlling_key<'a>(meta: &'a ObjectMeta, kind: &str) -> Option<&'a OwnerReference> {
    let mut owners = meta.owner_references.iter().flatten();
    owners.find(|owner| {
        owner.controller == Some(true) && owner.kind == kind && owner.api_version.starts_with("franking.io/")
    })
}

/// Whether its deletion was asked for.
pub fn deleting(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
}

pub fn holds(meta: &ObjectMeta) -> bool {
    meta.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// Whether an administrator let it go without the ledger.
pub fn forced(meta: &ObjectMeta) -> bool {
    meta.annotations.as_ref().and_then(|annotations| annotations.get(FORCE_DELETE)).is_some_and(|value| value == "true")
}

/// Whether a Secret may be pointed to.
pub fn may_be_used(secret: &Secret) -> bool {
    secret.metadata.labels.as_ref().and_then(|labels| labels.get(USE_LABEL)).is_some_and(|value| value == "true")
}

/// The actor in the audit trail of what follows from an object, where its spec changed and that is what we act on:
/// `user:` and the stamped user, or without a believable stamp `manager:` and the field manager that wrote the spec last,
/// which is any word that its client chose. The prefix keeps a client from choosing another's. What follows from anything
/// else (time, another object, a Secret) is the operator's own, and so is an end: the object of a deletion does not say who
/// asked for it, the API server's audit log does.
pub fn actor(meta: &ObjectMeta, observed_generation: Option<i64>, stamped: bool) -> String {
    if meta.generation == observed_generation || deleting(meta) {
        return OPERATOR.to_owned();
    }
    let stamp = || meta.annotations.as_ref()?.get(CHANGED_BY).filter(|user| !user.is_empty());
    if let Some(user) = stamp().filter(|_| stamped) {
        return named("user", user);
    }
    last_edit(meta.managed_fields.iter().flatten())
        .and_then(|entry| entry.manager.as_deref())
        .map_or_else(|| OPERATOR.to_owned(), |manager| named("manager", manager))
}

fn named(kind: &str, name: &str) -> String {
    let cut: String = name.chars().take(ACTOR_CHARS).collect();
    format!("{kind}:{}", printable(&cut))
}

/// The name in the audit trail of what nobody asked for at that moment.
const OPERATOR: &str = "operator";
/// Characters of a name in the audit trail. Kubernetes bounds a field manager at 128 and a user's name not at all.
const ACTOR_CHARS: usize = 256;

/// Keeps of the managed fields who wrote the spec last, and lets the fields go: they are half of an object's size.
pub fn trim(meta: &mut ObjectMeta) {
    let Some(entries) = meta.managed_fields.take() else { return };
    let last = last_edit(&entries).cloned();
    meta.managed_fields = last.map(|entry| vec![ManagedFieldsEntry { fields_v1: None, ..entry }]);
}

fn last_edit<'a>(entries: impl IntoIterator<Item = &'a ManagedFieldsEntry>) -> Option<&'a ManagedFieldsEntry> {
    let edits = entries.into_iter().filter(|entry| edits_spec(entry));
    edits.max_by_key(|entry| entry.time.as_ref().map(|time| time.0))
}

/// Whether it says who wrote fields of the spec. What was trimmed did, and does not say which.
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
        let time = jiff::Timestamp::from_second(second).expect("a time");
        ManagedFieldsEntry {
            manager: Some(manager.to_owned()),
            time: Some(Time(time)),
            fields_v1: Some(FieldsV1(fields)),
            ..ManagedFieldsEntry::default()
        }
    }

    #[test]
    fn the_trail_names_who_edited_the_spec_and_nobody_for_what_follows_from_other_things() {
        let spec = json!({"f:spec": {"f:suspended": {}}});
        let labels = json!({"f:metadata": {"f:labels": {}}});
        let mut status = entry("kubelet", 40, spec.clone());
        status.subresource = Some("status".to_owned());
        let managed = vec![
            entry("flux", 10, spec.clone()),
            entry("kubectl-edit", 20, spec.clone()),
            entry("kubectl-label", 30, labels),
            entry(MANAGER, 50, spec),
            status,
        ];
        let mut meta = ObjectMeta { generation: Some(3), managed_fields: Some(managed), ..ObjectMeta::default() };
        assert_eq!(actor(&meta, Some(2), false), "manager:kubectl-edit");
        assert_eq!(actor(&meta, None, true), "manager:kubectl-edit", "there is no stamp");
        assert_eq!(actor(&meta, Some(3), false), "operator", "the spec is what it was");
        trim(&mut meta);
        assert_eq!(meta.managed_fields.as_ref().map(Vec::len), Some(1));
        assert_eq!(actor(&meta, Some(2), false), "manager:kubectl-edit");
        meta.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(actor(&meta, Some(2), false), "operator");
    }

    #[test]
    fn the_trail_names_the_stamped_user_where_the_chart_stamps_and_nobody_passes_for_another() {
        let stamped = |user: &str, manager: &str| ObjectMeta {
            generation: Some(3),
            annotations: Some(BTreeMap::from([(CHANGED_BY.to_owned(), user.to_owned())])),
            managed_fields: Some(vec![entry(manager, 10, json!({"f:spec": {"f:cap": {}}}))]),
            ..ObjectMeta::default()
        };
        let alice = stamped("alice@example.com", "kubectl-edit");
        assert_eq!(actor(&alice, Some(2), true), "user:alice@example.com");
        assert_eq!(actor(&alice, Some(2), false), "manager:kubectl-edit", "anybody may have written it");
        assert_eq!(actor(&alice, Some(3), true), "operator", "the spec is what it was");
        // A field manager is what its client calls itself.
        for forged in ["user:alice@example.com", "operator", "ledger"] {
            assert_eq!(actor(&stamped("", forged), Some(2), true), format!("manager:{forged}"));
        }
        assert_eq!(actor(&stamped("a\u{1b}[2J\nb", "x"), Some(2), true), "user:a\\u{1b}[2J\\nb");
        assert_eq!(actor(&stamped(&"é".repeat(300), "x"), Some(2), true), format!("user:{}", "é".repeat(256)));
    }
}
