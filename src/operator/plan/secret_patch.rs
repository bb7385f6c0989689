//! Builds merge patches of Secrets: additions, removals, and the fields that we wrote before.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use super::meta;

/// Our data keys with their values, our labels and our annotations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    pub data: BTreeMap<String, Vec<u8>>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

/// Adds missing or differing wanted values, and removes ours that are no longer wanted.
pub fn set<T: PartialEq>(
    patch: &mut Value,
    found: &BTreeMap<String, T>,
    wanted: &BTreeMap<String, T>,
    ours: &BTreeSet<String>,
    encode: impl Fn(&T) -> Value,
) {
    for (key, value) in wanted.iter().filter(|(key, value)| found.get(*key) != Some(*value)) {
        patch[key] = encode(value);
    }
    for key in ours.iter().filter(|key| found.contains_key(*key) && !wanted.contains_key(*key)) {
        patch[key] = Value::Null;
    }
}

/// Returns the patch for the judged version, without empty parts; `None` if nothing is left.
pub fn finished(mut patch: Value, secret: &Secret) -> Option<Value> {
    if let Some(metadata) = patch["metadata"].as_object_mut() {
        metadata.retain(|_, part| !part.is_null());
    }
    if let Some(parts) = patch.as_object_mut() {
        parts.retain(|_, part| part.as_object().is_some_and(|part| !part.is_empty()));
    }
    if patch.as_object().is_none_or(serde_json::Map::is_empty) {
        return None;
    }
    patch["metadata"]["resourceVersion"] = json!(secret.metadata.resource_version);
    Some(patch)
}

/// Returns the keys under `path` that we wrote, by the Secret's managed fields.
pub fn managed(secret: &Secret, path: &str) -> BTreeSet<String> {
    let entries = secret.metadata.managed_fields.iter().flatten();
    let ours = entries.filter(|entry| entry.manager.as_deref() == Some(meta::MANAGER));
    let fields = ours.filter_map(|entry| entry.fields_v1.as_ref()?.0.pointer(path)?.as_object());
    fields.flat_map(|fields| fields.keys()).filter_map(|key| key.strip_prefix("f:").map(str::to_owned)).collect()
}
