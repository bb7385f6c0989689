//! Sentences about objects: what is waited for, and what stands.

use std::collections::BTreeMap;
use std::time::Duration;

use franking::crd::{CreditPolicy, SubAccount, SubAccountApiKey};
use franking::domain::credential::Stage;
use franking::domain::directory::Entry;
use franking::domain::id::Holder;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::harness::{DEADLINE, World};

/// Waits until the object is as `condition` wants it (`None`: gone).
pub async fn until<K, T>(api: Api<K>, name: &str, what: &str, condition: impl Fn(Option<&K>) -> Option<T>) -> T
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
    T: Send,
{
    let holds = |object: Option<&K>| condition(object).is_some();
    let waited = tokio::time::timeout(DEADLINE, await_condition(api.clone(), name, holds)).await;
    let Ok(found) = waited else {
        let standing = api.get_opt(name).await.map(|object| format!("{object:?}")).unwrap_or_default();
        panic!("waited for {name}: {what}; it is {standing}");
    };
    let found = found.expect("the watch works");
    condition(found.as_ref()).expect("it held a moment ago")
}

/// The conditions of any of the three kinds.
pub trait Conditioned: Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static {
    fn conditions(&self) -> &[Condition];
}

macro_rules! conditioned {
    ($($kind:ty),*) => {
        $(impl Conditioned for $kind {
            fn conditions(&self) -> &[Condition] {
                self.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default()
            }
        })*
    };
}

conditioned!(CreditPolicy, SubAccount, SubAccountApiKey);

fn holding<'a, K: Conditioned>(object: &'a K, kind: &str, status: &str) -> Option<&'a Condition> {
    let conditions = object.conditions().iter();
    conditions
        .filter(|condition| condition.observed_generation == object.meta().generation)
        .find(|condition| condition.type_ == kind && condition.status == status)
}

/// Waits for Ready=True of the present generation.
pub async fn ready<K: Conditioned>(api: Api<K>, name: &str) -> K {
    until(api, name, "Ready", |object| object.filter(|object| holding(*object, "Ready", "True").is_some()).cloned())
        .await
}

/// Waits for Stalled with this reason, and returns its sentence. Ready must say the same.
pub async fn stalled<K: Conditioned>(api: Api<K>, name: &str, reason: &str) -> String {
    until(api, name, &format!("Stalled, {reason}"), |object| {
        let object = object?;
        let stalled = holding(object, "Stalled", "True").filter(|condition| condition.reason == reason)?;
        holding(object, "Ready", "False").filter(|condition| condition.reason == reason)?;
        Some(stalled.message.clone())
    })
    .await
}

/// Waits for Ready=False with this reason and Reconciling, and returns its sentence.
pub async fn waiting<K: Conditioned>(api: Api<K>, name: &str, reason: &str) -> String {
    until(api, name, &format!("Reconciling, {reason}"), |object| {
        let object = object?;
        let waiting = holding(object, "Reconciling", "True").filter(|condition| condition.reason == reason)?;
        holding(object, "Ready", "False").map(|_| waiting.message.clone())
    })
    .await
}

pub async fn gone<K>(api: Api<K>, name: &str)
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    until(api, name, "gone", |object| object.is_none().then_some(())).await;
}

pub async fn delete<K>(api: &Api<K>, name: &str)
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned,
{
    api.delete(name, &DeleteParams::default()).await.expect("the deletion is accepted");
}

pub async fn merge_patch<K>(api: &Api<K>, name: &str, patch: Value) -> K
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned,
{
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("the patch is accepted")
}

pub async fn create<K>(api: &Api<K>, object: Value) -> K
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + serde::Serialize,
{
    let object: K = serde_json::from_value(object).expect("an object");
    api.create(&PostParams::default(), &object).await.expect("the object is created")
}

pub fn text(secret: &Secret) -> BTreeMap<String, String> {
    let data = secret.data.iter().flatten();
    data.map(|(key, value)| (key.clone(), String::from_utf8(value.0.clone()).expect("text"))).collect()
}

/// What has no event of its own is looked at again and again, within the deadline.
pub async fn poll(what: &str, mut done: impl FnMut() -> bool) {
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let waited = async {
        while !done() {
            ticks.tick().await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, waited).await.is_ok(), "waited for {what}");
}

/// The versions of all objects of the world: what any write would change.
pub async fn snapshot(world: &World) -> BTreeMap<String, String> {
    async fn versions<K>(api: Api<K>) -> Vec<(String, String)>
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
    {
        let list = api.list(&Default::default()).await.expect("a list").items;
        let version = |object: &K| (format!("{}/{}", K::kind(&()), object.name_any()), object.resource_version());
        list.iter().map(version).map(|(name, version)| (name, version.unwrap_or_default())).collect()
    }
    let mut all = versions(world.policies()).await;
    all.extend(versions(world.accounts()).await);
    all.extend(versions(world.keys()).await);
    all.extend(versions(world.secrets()).await);
    all.into_iter().collect()
}

/// Waits until nothing has been written for a while: counts follow with a delay of two seconds, a second a tick.
pub async fn settled(world: &World) {
    let mut last = snapshot(world).await;
    let mut quiet = 0;
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    let waited = async {
        while quiet < 10 {
            ticks.tick().await;
            let now = snapshot(world).await;
            quiet = if now == last { quiet + 1 } else { 0 };
            last = now;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, waited).await.is_ok(), "the operator does not come to rest: {last:?}");
}

/// What stands in the end, without what differs between any two runs: ids, times, versions, passwords.
pub async fn shape(world: &World) -> Value {
    let conditions = |conditions: &[Condition]| -> Vec<String> {
        conditions
            .iter()
            .map(|condition| format!("{}={} {}", condition.type_, condition.status, condition.reason))
            .collect()
    };
    let mut objects = BTreeMap::new();
    for key in world.keys().list(&Default::default()).await.expect("a list").items {
        let status = key.status.clone().unwrap_or_default();
        let id = status.key_id.as_deref().expect("an id").parse().expect("a uuid");
        let entry = world.store.find(Holder::Key(id)).await.expect("the ledger answers");
        let Some(Entry::Key(entry)) = entry else { panic!("the directory lacks the key") };
        let stages: Vec<&str> = entry.credentials.iter().map(|credential| stage(&credential.stage)).collect();
        let shown = json!({
            "finalizers": key.metadata.finalizers, "conditions": conditions(key.conditions()), "stages": stages,
            "binding": status.binding, "overlap": status.credential.is_some_and(|c| c.previous_valid_until.is_some()),
        });
        objects.insert(format!("key/{}", key.name_any()), shown);
    }
    for account in world.accounts().list(&Default::default()).await.expect("a list").items {
        let shown = json!({"finalizers": account.metadata.finalizers, "conditions": conditions(account.conditions())});
        objects.insert(format!("account/{}", account.name_any()), shown);
    }
    for secret in world.secrets().list(&Default::default()).await.expect("a list").items {
        let keys: Vec<String> = text(&secret).into_keys().collect();
        let labels = secret.metadata.labels.clone();
        objects.insert(format!("secret/{}", secret.name_any()), json!({"keys": keys, "labels": labels}));
    }
    json!(objects)
}

fn stage(stage: &Stage) -> &'static str {
    match stage {
        Stage::Staged { .. } => "staged",
        Stage::Current { .. } => "current",
        Stage::Previous { .. } => "previous",
    }
}

/// Waits for an Event with this reason in the world's namespace.
pub async fn told(world: &World, reason: &str) -> Event {
    let api: Api<Event> = Api::namespaced(world.client.clone(), &world.name);
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    let waited = async {
        loop {
            ticks.tick().await;
            let events = api.list(&Default::default()).await.expect("events").items;
            if let Some(event) = events.into_iter().find(|event| event.reason.as_deref() == Some(reason)) {
                return event;
            }
        }
    };
    tokio::time::timeout(DEADLINE, waited).await.expect("the event is written in time")
}
