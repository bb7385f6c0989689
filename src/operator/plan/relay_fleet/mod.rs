//! The fleet of relays, planned from the chart's ConfigMap to the objects that run it. Pure.
//!
//! A change of `relay.yaml` changes the pod template, by its hash, so the Deployment's controller rolls the fleet: one
//! new relay at a time, and no old one ends before the new one is ready. The pods must never have a token of the
//! Kubernetes API, or a Secret besides `relay.yaml` and the certificate.

mod names;
mod objects;
mod settings;
#[cfg(test)]
mod tests;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::Value;

pub use names::{PODS, RELAY_SETTINGS};
pub use objects::{FleetIdentity, Names, Wanted, plan};
pub use settings::{FleetSettings, Pods, check};

/// True if `live` matches `wanted`, ignoring what the API server and others have added. Fields that we no longer want
/// show in the content's hash, which is one of the annotations.
pub fn stands(wanted: &Value, live: &Value) -> bool {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => {
            wanted.iter().all(|(key, value)| live.get(key).is_some_and(|live| stands(value, live)))
        }
        (Value::Array(wanted), Value::Array(live)) => {
            // The API server orders lists whose elements have keys in its own way.
            wanted.len() == live.len() && wanted.iter().all(|wanted| live.iter().any(|live| stands(wanted, live)))
        }
        (wanted, live) => wanted == live,
    }
}

/// True if an existing object is ours to write: the ConfigMap controls it.
pub fn is_ours(live: &ObjectMeta, owner: &OwnerReference) -> bool {
    live.owner_references.iter().flatten().any(|other| other.controller == Some(true) && other.uid == owner.uid)
}
