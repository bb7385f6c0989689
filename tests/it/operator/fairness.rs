//! A tenant floods the operator, or has objects that always fail: what other tenants hear of it.

use std::time::{Duration, Instant};

use franking::crd::SubAccountApiKey;
use franking::domain::credit::Verdict;
use franking::domain::id::{Holder, Kind};
use franking::ledger::store::Role;
use franking::runtime::metrics::render;
use k8s_openapi::api::core::v1::{ResourceQuota, Secret};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::harness::{DEADLINE, Running, World, alone};
use super::lifecycle::{key_id, own, send};
use super::waits::{delete, gone, merge_patch, poll, ready, until, waiting};

/// Keys of the tenant that floods: more than there are places.
const FLOOD: usize = 40;
/// Keys of the tenant whose keys always fail.
const FAILING: usize = 60;
/// Tenants that are measured, one after the other. The least counts: what delays a status is there each time, and a machine
/// that was busy for a moment is not.
const MEASURED: usize = 3;

/// The same cluster as another tenant has it.
async fn neighbour(world: &World, name: &str) -> World {
    let neighbour = World { name: name.to_owned(), ..world.clone() };
    neighbour.make_namespace(name, json!({})).await;
    neighbour
}

/// A neighbour's account on the world's policy.
async fn account(world: &World, neighbour: &World) {
    neighbour.account("account", json!({"policyRef": {"name": world.name}})).await;
    ready(neighbour.accounts(), "account").await;
}

/// Bounds the Secrets of a namespace, and waits until that is enforced.
async fn quota(world: &World, secrets: usize) {
    let api: Api<ResourceQuota> = Api::namespaced(world.client.clone(), &world.name);
    let hard = json!({"count/secrets": secrets.to_string()});
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "secrets"},
                       "spec": {"hard": &hard}});
    // The quota controller copies it to the status, which is what admission goes by.
    let parameters = PatchParams::apply("tests").force();
    api.patch("secrets", &parameters, &Patch::Apply(quota)).await.expect("the quota is accepted");
    let probe: Secret = serde_json::from_value(json!({"metadata": {"name": "probe"}})).expect("a Secret");
    let enforced = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        loop {
            ticks.tick().await;
            let made = world.secrets().create(&PostParams::default(), &probe).await.is_ok();
            if made {
                delete(&world.secrets(), "probe").await;
            }
            let status = api.get("secrets").await.expect("the API server answers").status.unwrap_or_default();
            let known = status.hard.and_then(|hard| hard.get("count/secrets").cloned());
            if made == (secrets > 0) && known == Some(Quantity(secrets.to_string())) {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, enforced).await.expect("the quota is enforced in time");
}

/// Passes of keys that failed so far.
fn failures(running: &Running) -> u64 {
    let text = render(&running.registry);
    let failed = r#"controller_runtime_reconcile_total{controller="SubAccountApiKey",result="error"}"#;
    let line = text.lines().find_map(|line| line.strip_prefix(failed));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// What the audit trail says of a key.
async fn trail(world: &World, name: &str) -> Vec<String> {
    let namespace = world.namespaces().get(&world.name).await.expect("the namespace").uid().expect("stored");
    let session = world.store.open_session(Role::Relay, "the test").await.expect("a session");
    let id = world.store.identify(&session, Kind::Key, &namespace, name).await.expect("known");
    let events = world.store.events(0, 1_000).await.expect("the ledger answers");
    let of_key = events.into_iter().filter(|event| event.holder == Some(Holder::new(Kind::Key, id)));
    of_key.map(|event| event.kind).collect()
}

/// Removes all that a test made, so that the next operator on this control plane has nothing to do.
async fn end(running: Running, world: &World, neighbours: &[&World]) {
    async fn empty<K>(api: Api<K>)
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
    {
        let (delete, list) = (DeleteParams::default(), ListParams::default());
        drop(api.delete_collection(&delete, &list).await.expect("the deletion is accepted"));
        for object in api.list(&list).await.expect("a list") {
            gone(api.clone(), &object.name_any()).await;
        }
    }
    for tenant in neighbours.iter().chain([&world]) {
        empty(tenant.keys()).await;
        empty(tenant.accounts()).await;
        delete(&tenant.namespaces(), &tenant.name).await;
    }
    delete(&world.policies(), &world.name).await;
    gone(world.policies(), &world.name).await;
    running.stop().await;
}

#[tokio::test]
async fn a_flood_of_keys_holds_up_no_revocation_suspension_or_deletion_and_no_new_key() {
    let _turn = alone().await;
    let (world, running, _folder, _) = own("fair-flood", None).await;
    let revoked = world.ready_key().await;
    for name in ["suspended", "deleted"] {
        world.account(name, json!({})).await;
        world.key(name, name, json!({})).await;
        ready(world.keys(), name).await;
    }
    let secret = async |name| world.secrets().get(name).await.expect("the key's secret");
    let (suspended, deleted) = (secret("suspended").await, secret("deleted").await);
    let flood = neighbour(&world, "fair-flood-many").await;
    account(&world, &flood).await;

    // The API server takes no Secret: every pass that has to write one holds its place.
    running.fuse.secrets.shut();
    for index in 0..FLOOD {
        flood.key(&format!("key-{index}"), "account", json!({})).await;
    }
    running.fuse.secrets.reached_by(12).await;

    merge_patch(&world.keys(), "key", json!({"spec": {"revoked": true}})).await;
    merge_patch(&world.accounts(), "suspended", json!({"spec": {"suspended": true}})).await;
    delete(&world.keys(), "deleted").await;
    for stopped in [&revoked, &suspended, &deleted] {
        while world.may_send(stopped).await {
            tokio::task::yield_now().await;
        }
    }
    gone(world.keys(), "deleted").await;
    assert_eq!(failures(&running), 0, "the flood had to give up its places first");
    // Another tenant's new key is next, although the flood was there before it.
    world.key("new", "account", json!({})).await;
    running.fuse.secrets.reached_by(13).await;

    running.fuse.secrets.open();
    ready(world.keys(), "new").await;
    for index in 0..FLOOD {
        ready(flood.keys(), &format!("key-{index}")).await;
    }
    end(running, &world, &[&flood]).await;
}

#[tokio::test]
async fn a_key_that_a_quota_refuses_waits_longer_each_time_and_heals() {
    let _turn = alone().await;
    let (world, running, _folder, _) = own("fair-quota", None).await;
    world.plain_policy(&world.name, json!({})).await;
    world.account("account", json!({})).await;
    ready(world.accounts(), "account").await;
    quota(&world, 0).await;

    let began = Instant::now();
    world.key("key", "account", json!({})).await;
    let said = waiting(world.keys(), "key", "ApplyFailed").await;
    assert!(said.contains("exceeded quota") && said.contains("tried again within 360 s"), "{said}");
    poll("four tries", || failures(&running) >= 4).await;
    // One, two and four seconds, each a fifth less at most.
    assert!(began.elapsed() >= Duration::from_secs(7).mul_f64(0.8), "four tries in {:?}", began.elapsed());
    assert_eq!(trail(&world, "key").await, ["directory.added"]);

    // Nothing tells of a quota that was raised. An edit does not wait for the back-off.
    quota(&world, 10).await;
    let failed = failures(&running);
    merge_patch(&world.keys(), "key", json!({"spec": {"label": "again"}})).await;
    ready(world.keys(), "key").await;
    assert_eq!(failures(&running), failed);
    assert_eq!(trail(&world, "key").await, ["directory.added", "directory.changed", "key.issued"]);

    // And one that is left alone heals by itself.
    quota(&world, 0).await;
    world.key("patient", "account", json!({})).await;
    waiting(world.keys(), "patient", "ApplyFailed").await;
    quota(&world, 10).await;
    ready(world.keys(), "patient").await;
    end(running, &world, &[]).await;
}

#[tokio::test]
async fn keys_that_always_fail_delay_no_other_tenants_status() {
    let _turn = alone().await;
    let (world, running, _folder, _) = own("fair-failing", None).await;
    world.plain_policy(&world.name, json!({})).await;
    let (idle, quiet) = least_time_to_status(&world, "fair-idle").await;

    let failing = neighbour(&world, "fair-many").await;
    account(&world, &failing).await;
    quota(&failing, 0).await;
    for index in 0..FAILING {
        failing.key(&format!("key-{index}"), "account", json!({})).await;
    }
    poll("the keys to fail", || failures(&running) >= FAILING as u64).await;
    let (busy, beside) = least_time_to_status(&world, "fair-busy").await;
    // Figures are looked at once a second.
    assert!(beside < quiet * 2 + Duration::from_secs(2), "{beside:?} beside keys that fail, {quiet:?} without");
    let tenants: Vec<&World> = idle.iter().chain([&failing]).chain(&busy).collect();
    end(running, &world, &tenants).await;
}

/// The tenants that were measured, and the least of their times.
async fn least_time_to_status(world: &World, name: &str) -> (Vec<World>, Duration) {
    let (mut tenants, mut least) = (Vec::new(), Duration::MAX);
    for index in 0..MEASURED {
        let tenant = neighbour(world, &format!("{name}-{index}")).await;
        least = least.min(time_to_status(&tenant, world).await);
        tenants.push(tenant);
    }
    (tenants, least)
}

/// How long a tenant waits until its key's status shows that its credits are used up.
async fn time_to_status(tenant: &World, world: &World) -> Duration {
    account(world, tenant).await;
    tenant.key("key", "account", json!({"cap": {"credits": 1, "period": "Monthly"}})).await;
    let key = key_id(tenant).await;
    let began = Instant::now();
    assert_eq!(send(tenant, key, 1).await, Verdict::Reserved);
    until(tenant.keys(), "key", "nothing is left", |key: Option<&SubAccountApiKey>| {
        let credits = key?.status.as_ref()?.credits.as_ref()?;
        (credits.remaining == Some(0)).then_some(())
    })
    .await;
    began.elapsed()
}
