//! Watches of foreign Secrets that keys wait for, one by one; Secrets are never watched all together.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::operator::object_ref::Name;
use crate::operator::watch::work_queue::{Cause, WorkQueue};

/// Maximum number of Secrets watched at a time, each by a connection of its own.
const WATCHES_MAX: usize = 32;
/// Maximum for one namespace: a tenant that makes keys for foreign Secrets must not use up the watches of all.
const WATCHES_PER_NAMESPACE: usize = 8;

pub struct SecretWatches {
    client: Client,
    keys: Arc<WorkQueue>,
    tasks: Mutex<JoinSet<()>>,
    /// The watches by key.
    followed: Arc<Mutex<HashMap<Name, CancellationToken>>>,
}

impl SecretWatches {
    pub fn new(client: Client, keys: Arc<WorkQueue>) -> Self {
        Self { client, keys, tasks: Mutex::default(), followed: Arc::default() }
    }

    /// Wakes the key when the Secret is no longer the version that was `judged`. Returns false if too many are watched.
    pub fn follow(&self, key: &Name, secret: &str, judged: Option<String>) -> bool {
        let mut followed = self.followed.lock();
        if let Some(old) = followed.remove(key) {
            old.cancel();
        }
        let of_namespace = followed.keys().filter(|other| other.namespace == key.namespace).count();
        if followed.len() >= WATCHES_MAX || of_namespace >= WATCHES_PER_NAMESPACE {
            return false;
        }
        let stop = CancellationToken::new();
        followed.insert(key.clone(), stop.clone());
        let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(self.client.clone(), &key.namespace);
        let (key, secret, keys, all) = (key.clone(), secret.to_owned(), self.keys.clone(), self.followed.clone());
        let replaced = stop.clone();
        let mut tasks = self.tasks.lock();
        // Finished tasks are removed here, so that the set holds no more than the watched keys.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            tokio::select! {
                () = changed(api, &secret, judged) => {
                    // If another watch has replaced this one meanwhile, its entry must stay.
                    let ours = {
                        let mut all = all.lock();
                        !replaced.is_cancelled() && all.remove(&key).is_some()
                    };
                    if ours {
                        keys.wake(key, Cause::Change);
                    }
                }
                () = stop.cancelled() => {}
            }
        });
        true
    }

    pub fn release(&self, key: &Name) {
        if let Some(stop) = self.followed.lock().remove(key) {
            stop.cancel();
        }
    }
}

async fn changed(api: Api<PartialObjectMeta<Secret>>, name: &str, judged: Option<String>) {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    let mut seen = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(secret) | watcher::Event::InitApply(secret)) => {
                seen = true;
                if secret.resource_version() != judged {
                    return;
                }
            }
            Ok(watcher::Event::Delete(_)) => return,
            Ok(watcher::Event::Init) => seen = false,
            Ok(watcher::Event::InitDone) if !seen => return,
            Ok(watcher::Event::InitDone) => {}
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "watching an awaited secret"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use kube::client::Body;

    use super::*;
    use crate::operator::watch::work_queue::Places;

    /// Never answers a request.
    async fn silence(_: Request<Body>) -> Result<Response<Body>, Infallible> {
        std::future::pending().await
    }

    #[tokio::test]
    async fn one_namespace_has_a_part_of_the_watches() {
        let client = Client::new(tower::service_fn(silence), "default");
        let watches = SecretWatches::new(client, Arc::new(WorkQueue::new(Places::of(1))));
        let follow = |namespace: &str, key: usize| watches.follow(&Name::new(namespace, format!("{key}")), "s", None);
        assert_eq!((0..20).filter(|key| follow("many", *key)).count(), WATCHES_PER_NAMESPACE);
        assert!(follow("another", 0));
        // A key that is already watched keeps its watch, and a released one frees it.
        assert!(follow("many", 0));
        watches.release(&Name::new("many", "0"));
        assert!(follow("many", 19));
        let namespaces = 2..2 + WATCHES_MAX;
        let more = namespaces.filter(|n| follow(&format!("n-{n}"), 0)).count();
        assert_eq!(more, WATCHES_MAX - WATCHES_PER_NAMESPACE - 1);
    }
}
