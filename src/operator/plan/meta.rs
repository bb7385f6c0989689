//! Names, labels, owners and finalizers: what every object we make or hold carries.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt as _};

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

/// Who goes to the audit trail for what follows from an object: the field manager that changed its spec last, where that
/// is what we act on. What follows from anything else (time, another object, a Secret) is the operator's own, and so is
/// an end: who asked for a deletion is in no object.
pub fn actor(meta: &ObjectMeta, observed_generation: Option<i64>) -> String {
    let edited = meta.generation != observed_generation && !deleting(meta);
    let entries = meta.managed_fields.iter().flatten().filter(|entry| edited && edits_spec(entry));
    let last = entries.max_by_key(|entry| entry.time.as_ref().map(|time| time.0));
    last.and_then(|entry| entry.manager.clone()).unwrap_or_else(|| OPERATOR.to_owned())
}

/// The name in the audit trail of what nobody asked for at that moment.
const OPERATOR: &str = "operator";

/// Keeps of the managed fields who wrote the spec last, and lets the fields go: they are half of an object's size.
pub fn trim(meta: &mut ObjectMeta) {
    let Some(entries) = meta.managed_fields.take() else { return };
    let last = entries.into_iter().filter(edits_spec).max_by_key(|entry| entry.time.as_ref().map(|time| time.0));
    meta.managed_fields = last.map(|entry| vec![ManagedFieldsEntry { fields_v1: None, ..entry }]);
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
        assert_eq!(actor(&meta, Some(2)), "kubectl-edit");
        assert_eq!(actor(&meta, None), "kubectl-edit");
        assert_eq!(actor(&meta, Some(3)), "operator", "the spec is what it was");
        trim(&mut meta);
        assert_eq!(meta.managed_fields.as_ref().map(Vec::len), Some(1));
        assert_eq!(actor(&meta, Some(2)), "kubectl-edit");
        meta.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(actor(&meta, Some(2)), "operator");
    }
}
