//! Shares a foreign Secret with a key: records on the Secret what was added, and removes it again.
//!
//! Existing data is never overwritten, so only a Secret that lacks all of our keys can be adopted. It carries no owner
//! reference, because the garbage collector would delete it with the key; it is released instead.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::meta;
use super::secret_patch::{Content, finished, managed, set};

/// The value of the annotation [`meta::ADOPTED`]: the key that adopted the Secret, and everything that was added to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Adoption {
    /// Name of the key.
    pub key: String,
    pub uid: String,
    #[serde(default)]
    pub data: BTreeSet<String>,
    #[serde(default)]
    pub labels: BTreeSet<String>,
    #[serde(default)]
    pub annotations: BTreeSet<String>,
}

impl Adoption {
    /// Reads the adoption recorded on a Secret, if it was adopted.
    pub fn of(meta: &ObjectMeta) -> Option<Self> {
        serde_json::from_str(meta.annotations.as_ref()?.get(meta::ADOPTED)?).ok()
    }

    /// True if this key made the adoption.
    pub fn is_by(&self, owner: &OwnerReference) -> bool {
        self.key == owner.name && self.uid == owner.uid
    }
}

/// Reduces the content for an adopted Secret: of our own labels it keeps only the one that our watch selects by.
pub fn shared(content: Content, wanted: &BTreeMap<String, String>) -> Content {
    let label = |key: &String| key == meta::MANAGED_BY || wanted.contains_key(key);
    Content { labels: content.labels.into_iter().filter(|(key, _)| label(key)).collect(), ..content }
}

/// Lists our additions to a Secret that `owner` adopts or has adopted: those recorded by an adoption by a key of this
/// name, and those that the Secret's managed fields show as our writes.
fn ours(secret: &Secret, owner: &OwnerReference) -> Adoption {
    let standing = Adoption::of(&secret.metadata).filter(|adoption| adoption.key == owner.name).unwrap_or_default();
    let with = |listed: BTreeSet<String>, path| listed.into_iter().chain(managed(secret, path)).collect();
    Adoption {
        key: owner.name.clone(),
        uid: owner.uid.clone(),
        data: with(standing.data, "/f:data"),
        labels: with(standing.labels, "/f:metadata/f:labels"),
        annotations: with(standing.annotations, "/f:metadata/f:annotations"),
    }
}

/// Lists the keys, labels and annotations that we would write but another writer already has. A label or annotation
/// with the same value is no clash.
pub fn clashes(secret: &Secret, wanted: &Content, owner: &OwnerReference) -> Vec<String> {
    let ours = ours(secret, owner);
    let empty = BTreeMap::new();
    let labels = secret.metadata.labels.as_ref().unwrap_or(&empty);
    let annotations = secret.metadata.annotations.as_ref().unwrap_or(&empty);
    let keys = secret.data.iter().flatten().map(|(key, _)| key);
    let keys = keys.filter(|key| wanted.data.contains_key(*key) && !ours.data.contains(*key)).cloned();
    let differing = |found: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>, ours: &BTreeSet<String>| {
        let foreign = wanted.iter().filter(|(key, value)| {
            !is_franking(key) && !ours.contains(*key) && found.get(*key).is_some_and(|found| found != *value)
        });
        foreign.map(|(key, _)| key.clone()).collect::<Vec<_>>()
    };
    let labels = differing(labels, &wanted.labels, &ours.labels).into_iter().map(|key| format!("label {key}"));
    let annotations = differing(annotations, &wanted.annotations, &ours.annotations).into_iter();
    keys.chain(labels).chain(annotations.map(|key| format!("annotation {key}"))).collect()
}

fn is_franking(key: &str) -> bool {
    key.starts_with("franking.io/")
}

/// Builds the merge patch that adds our content to an adopted Secret, or `None` if nothing is missing. The patch names
/// the version that was judged. Call [`clashes`] before.
pub fn difference(secret: &Secret, content: &Content, owner: &OwnerReference) -> Option<Value> {
    let standing = ours(secret, owner);
    let metadata = &secret.metadata;
    let empty = BTreeMap::new();
    let labels = metadata.labels.as_ref().unwrap_or(&empty);
    let annotations = metadata.annotations.as_ref().unwrap_or(&empty);
    // A label that another writer set to the same value stays theirs.
    let added = |found: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>, ours: &BTreeSet<String>| {
        let keys = wanted.keys().filter(|key| ours.contains(*key) || !found.contains_key(*key));
        keys.filter(|key| !is_franking(key)).cloned().collect::<BTreeSet<_>>()
    };
    let next = Adoption {
        data: content.data.keys().cloned().collect(),
        labels: added(labels, &content.labels, &standing.labels),
        annotations: added(annotations, &content.annotations, &standing.annotations),
        ..standing.clone()
    };
    let mut wanted = content.annotations.clone();
    wanted.insert(meta::ADOPTED.to_owned(), serde_json::to_string(&next).unwrap_or_default());
    let data = secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect();
    let mut patch = json!({});
    set(&mut patch["data"], &data, &content.data, &standing.data, |value| json!(ByteString(value.clone())));
    set(&mut patch["metadata"]["labels"], labels, &content.labels, &standing.labels, |value| json!(value));
    set(&mut patch["metadata"]["annotations"], annotations, &wanted, &standing.annotations, |value| json!(value));
    finished(patch, secret)
}

/// Builds the merge patch that removes our additions from an adopted Secret. If the Secret was made immutable
/// meanwhile, only the labels and annotations are removed: its data cannot change any more.
pub fn release(secret: &Secret, adoption: &Adoption) -> Option<Value> {
    let mut patch = json!({});
    let empty = BTreeMap::new();
    let annotations = secret.metadata.annotations.as_ref().unwrap_or(&empty);
    let franking = annotations.keys().filter(|key| is_franking(key)).cloned();
    let listed: BTreeSet<String> = adoption.annotations.iter().cloned().chain(franking).collect();
    let data = secret.data.iter().flatten().map(|(key, _)| (key.clone(), ())).collect();
    let labels = secret.metadata.labels.as_ref().unwrap_or(&empty);
    if secret.immutable != Some(true) {
        set(&mut patch["data"], &data, &BTreeMap::new(), &adoption.data, |()| Value::Null);
    }
    set(&mut patch["metadata"]["labels"], labels, &BTreeMap::new(), &adoption.labels, |_| Value::Null);
    set(&mut patch["metadata"]["annotations"], annotations, &BTreeMap::new(), &listed, |_| Value::Null);
    finished(patch, secret)
}
