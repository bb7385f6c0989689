//! The fleet of relays: from the chart's ConfigMap to the objects that run them. Pure.
//!
//! A change of `relay.yaml` is a change of the pod template, by its hash, so the Deployment's controller rolls the fleet:
//! one new relay at a time, and no old one goes before the new one is ready. What must never be in a pod here: a token of
//! the Kubernetes API, or a Secret besides `relay.yaml` and the certificate.

mod names;
mod objects;
mod settings;
#[cfg(test)]
mod tests;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::Value;

pub use names::{PODS, RELAY_SETTINGS};
pub use objects::{House, Names, Wanted, plan};
pub use settings::{Pods, Settings, check};

/// Whether `live` already is what is `wanted`, whatever else the API server and others have put beside it. What we no
/// longer want shows in the content's hash, which is one of the annotations.
pub fn stands(wanted: &Value, live: &Value) -> bool {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => {
            wanted.iter().all(|(key, value)| live.get(key).is_some_and(|live| stands(value, live)))
        }
        (Value::Array(wanted), Value::Array(live)) => {
            // The API server keeps an order of its own in the lists whose elements have keys.
            wanted.len() == live.len() && wanted.iter().all(|wanted| live.iter().any(|live| stands(wanted, live)))
        }
        (wanted, live) => wanted == live,
    }
}

/// Whether an object of a name that we want is ours to write: the ConfigMap controls it.
pub fn is_ours(live: &ObjectMeta, owner: &OwnerReference) -> bool {
    live.owner_references.iter().flatten().any(|other| other.controller == Some(true) && other.uid == owner.uid)
}
