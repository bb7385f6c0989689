//! Runs one watch per kind, which fills a store and reports the changes that matter to others.
//!
//! A predicate on `generation` alone would hide finalizers and deletions, so every object has two marks: one of the
//! parts that its own reconcile depends on, one of the parts that others depend on. Objects that vanished while a watch
//! was down are found by comparing the lists, because no deletion is ever sent for them.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::hash::Hash;
use std::pin::pin;

use futures::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use crate::operator::error::status_code;
use crate::operator::object_ref::Name;
use crate::operator::plan::meta::trim;

/// Hashes of the parts of an object that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// The parts that its own reconcile depends on.
    pub own: u64,
    /// The parts that objects which refer to it depend on.
    pub outward: u64,
    /// Its status, which only the operator may write.
    pub shown: u64,
}

/// A change that matters to an object.
pub enum Change<'a, K> {
    Seen { object: &'a K, own: bool, outward: bool, shown: bool },
    Gone(Name),
}

/// Receiver of the stored versions of a kind, and of the end of its first list, once that was reported in full.
pub trait Listed: Sync {
    fn listed(&self);
    /// Records that the store has this version: the one after the last (`in_turn`), or one from a list, which skips
    /// versions.
    fn stored(&self, meta: &ObjectMeta, in_turn: bool);

    /// True if a first list that the API server refuses counts as an empty one: the right to read one namespace is its
    /// administrators' to take away, and must not hold up all others.
    fn may_be_refused(&self) -> bool {
        false
    }
}

/// Receiver of the changes of a kind.
pub trait Told<K>: Listed {
    /// Handles a change that the store has already taken. The watch waits for it.
    fn changed(&self, change: Change<'_, K>) -> impl Future<Output = ()> + Send;

    /// Handles an object that the API server deleted. [`Self::changed`] follows.
    fn deleted(&self, _: &K) {}

    /// Handles an object that vanished while the watch was down. [`Self::changed`] follows.
    fn missing(&self, _: &Name) {}

    /// Returns the objects that must exist although the watch never showed them: they were written while it was down.
    /// Those that a list lacks are reported as gone.
    fn unseen(&self) -> Vec<Name> {
        Vec::new()
    }
}

/// Follows `api` until the future is dropped, and fills a store if there is one.
pub async fn follow<K>(
    kind: &'static str,
    api: Api<K>,
    config: watcher::Config,
    mut store: Option<Writer<K>>,
    marks: fn(&K) -> Marks,
    told: &impl Told<K>,
) where
    K: Resource<DynamicType: Default + Eq + Hash + Clone + Send>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static,
{
    let mut first = true;
    let mut known: HashMap<Name, Marks> = HashMap::new();
    let mut listed: HashMap<Name, Marks> = HashMap::new();
    let mut pending: Vec<K> = Vec::new();
    // Managed fields are half of an object's size; only the last writer is needed.
    let events = watch(api, config).default_backoff().modify(|object| trim(object.meta_mut()));
    let mut events = pin!(events);
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(kind, error = &error as &dyn std::error::Error, "watching");
                if told.may_be_refused() && is_forbidden(&error) && std::mem::take(&mut first) {
                    told.listed();
                }
                continue;
            }
        };
        if let Some(store) = &mut store {
            store.apply_watcher_event(&event);
        }
        match event {
            Event::Init => {
                listed.clear();
                pending.clear();
            }
            Event::InitApply(object) => {
                told.stored(object.meta(), false);
                listed.insert(Name::of(&object), marks(&object));
                pending.push(object);
            }
            Event::InitDone => {
                let before = std::mem::replace(&mut known, std::mem::take(&mut listed));
                for object in std::mem::take(&mut pending) {
                    let name = Name::of(&object);
                    tell_seen(&object, before.get(&name).copied(), marks(&object), told).await;
                }
                let mut expected: BTreeSet<Name> = before.into_keys().collect();
                expected.extend(told.unseen());
                for name in expected.into_iter().filter(|name| !known.contains_key(name)) {
                    told.missing(&name);
                    told.changed(Change::Gone(name)).await;
                }
                // Only now, because the reported changes are part of the state that others judge by. Otherwise a policy
                // being deleted would be released while the accounts that use it are still being counted.
                if std::mem::take(&mut first) {
                    told.listed();
                }
            }
            Event::Apply(object) => {
                told.stored(object.meta(), true);
                let now = marks(&object);
                let before = known.insert(Name::of(&object), now);
                tell_seen(&object, before, now, told).await;
            }
            Event::Delete(object) => {
                let name = Name::of(&object);
                known.remove(&name);
                told.deleted(&object);
                told.changed(Change::Gone(name)).await;
            }
        }
    }
}

fn is_forbidden(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) => {
            status_code(error) == Some(403)
        }
        watcher::Error::WatchError(status) => status.code == 403,
        watcher::Error::WatchFailed(_) | watcher::Error::NoResourceVersion => false,
    }
}

async fn tell_seen<K>(object: &K, before: Option<Marks>, now: Marks, told: &impl Told<K>) {
    let own = before.is_none_or(|before| before.own != now.own);
    let outward = before.is_none_or(|before| before.outward != now.outward);
    let shown = before.is_some_and(|before| before.shown != now.shown);
    if own || outward || shown {
        told.changed(Change::Seen { object, own, outward, shown }).await;
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::{Request, Response};
    use k8s_openapi::api::core::v1::Namespace;
    use kube::client::Body;
    use serde_json::json;
    use tokio::sync::Notify;

    use kube::ResourceExt as _;

    use super::*;

    #[derive(Default)]
    struct Heard {
        words: Mutex<Vec<String>>,
        listed: Notify,
    }

    impl Heard {
        fn hear(&self, word: String) {
            self.words.lock().expect("unpoisoned").push(word);
        }
    }

    impl Listed for Heard {
        fn listed(&self) {
            self.hear("listed".to_owned());
            self.listed.notify_one();
        }

        fn stored(&self, _: &ObjectMeta, _: bool) {}
    }

    impl Told<Namespace> for Heard {
        async fn changed(&self, change: Change<'_, Namespace>) {
            match change {
                Change::Seen { object, .. } => self.hear(object.name_any()),
                Change::Gone(name) => self.hear(format!("-{name}")),
            }
        }

        fn unseen(&self) -> Vec<Name> {
            ["a", "lost"].map(|name| Name::new("", name)).to_vec()
        }
    }

    /// Answers every list with two namespaces, and never answers a watch.
    async fn answer(request: Request<Body>) -> Result<Response<Body>, Infallible> {
        if request.uri().query().is_some_and(|query| query.contains("watch=")) {
            std::future::pending::<()>().await;
        }
        let item = |name: &str| json!({"metadata": {"name": name, "uid": name, "resourceVersion": "1"}});
        let list = json!({
            "apiVersion": "v1", "kind": "NamespaceList", "metadata": {"resourceVersion": "1"},
            "items": [item("a"), item("b")]
        });
        Ok(Response::new(Body::from(list.to_string().into_bytes())))
    }

    /// A receiver whose right to list comes back after a while.
    struct Refused(Heard);

    impl Listed for Refused {
        fn listed(&self) {
            self.0.listed();
        }

        fn stored(&self, _: &ObjectMeta, _: bool) {}

        fn may_be_refused(&self) -> bool {
            true
        }
    }

    impl Told<Namespace> for Refused {
        async fn changed(&self, change: Change<'_, Namespace>) {
            self.0.changed(change).await;
            self.0.listed.notify_one();
        }
    }

    #[tokio::test]
    async fn a_first_list_that_may_be_refused_counts_as_empty_and_is_told_when_it_comes() {
        let lists = AtomicUsize::new(0);
        let refuse_once = move |request: Request<Body>| {
            let is_first = lists.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                if !is_first {
                    return answer(request).await;
                }
                let status = json!({
                    "apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403,
                    "message": "not allowed"
                });
                let reply = Response::builder().status(403).body(Body::from(status.to_string().into_bytes()));
                Ok(reply.expect("a reply"))
            }
        };
        let client = kube::Client::new(tower::service_fn(refuse_once), "default");
        let refused = Refused(Heard::default());
        let marks = |_: &Namespace| Marks { own: 0, outward: 0, shown: 0 };
        let all_told = async {
            while refused.0.words.lock().expect("unpoisoned").len() < 3 {
                refused.0.listed.notified().await;
            }
        };
        tokio::select! {
            () = follow("Namespace", Api::all(client), watcher::Config::default(), None, marks, &refused) => {}
            () = all_told => {}
        }
        assert_eq!(*refused.0.words.lock().expect("unpoisoned"), ["listed", "a", "b"]);
    }

    #[tokio::test]
    async fn a_list_counts_as_there_when_all_of_it_was_told() {
        let client = kube::Client::new(tower::service_fn(answer), "default");
        let heard = Heard::default();
        let marks = |_: &Namespace| Marks { own: 0, outward: 0, shown: 0 };
        tokio::select! {
            () = follow("Namespace", Api::all(client), watcher::Config::default(), None, marks, &heard) => {}
            () = heard.listed.notified() => {}
        }
        assert_eq!(*heard.words.lock().expect("unpoisoned"), ["a", "b", "-lost", "listed"]);
    }
}
