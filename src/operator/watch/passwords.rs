//! Wakes the keys whose password a Secret of the user's own brings, when that Secret changes.
//!
//! One watch for all namespaces, or for each that may be watched, of what its owners labelled for use, without its data.

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use kube::core::PartialObjectMeta;

use crate::crd::SubAccountApiKey;
use crate::operator::object_ref::{Name, Ref};
use crate::operator::watch::follow::{Change, Listed, Told};
use crate::operator::watch::work_queue::WorkQueues;

/// The keys of a namespace that are known, for [`Passwords`].
pub trait Keys: Sync {
    /// Returns the names of a namespace's keys for which `wanted` holds.
    fn keys_that(&self, namespace: &str, wanted: impl Fn(&SubAccountApiKey) -> bool) -> Vec<Name>;
    /// Records that the first list is reported in full.
    fn listed(&self);
}

/// The relation by which such a Secret wakes keys.
pub struct Passwords<'a, K> {
    pub keys: &'a K,
    pub queues: &'a WorkQueues,
    /// True for the watch of one namespace.
    pub may_be_refused: bool,
}

impl<K: Keys> Listed for Passwords<'_, K> {
    fn listed(&self) {
        self.keys.listed();
    }

    fn stored(&self, _: &ObjectMeta, _: bool) {}

    fn may_be_refused(&self) -> bool {
        self.may_be_refused
    }
}

impl<K: Keys> Told<PartialObjectMeta<Secret>> for Passwords<'_, K> {
    async fn changed(&self, change: Change<'_, PartialObjectMeta<Secret>>) {
        let secret = match change {
            Change::Seen { object, .. } => Name::new(object.namespace().unwrap_or_default(), object.name_any()),
            Change::Gone(name) => name,
        };
        let users = self.keys.keys_that(&secret.namespace, |key| {
            let existing = key.spec.secret.as_ref().and_then(|layout| layout.existing.as_ref());
            existing.is_some_and(|existing| existing.name == secret.name)
        });
        self.queues.wake_all(users.into_iter().map(Ref::Key));
    }
}
