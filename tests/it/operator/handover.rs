//! What one operator has begun and another goes on with, and what is looked at before what it hangs on.

use std::sync::atomic::Ordering;

use franking::domain::credit::Verdict;
use franking::ledger::store::Role;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use serde_json::json;

use super::harness::{Running, World, alone, plane};
use super::lifecycle::{key_id, own, send};
use super::waits::{merge_patch, ready, stalled, text, until, waiting};

/// An operator that was cut off while it was about to write the Secret of the key: its ledger is out of reach, and it
/// will hear no answer to that write.
async fn cut_off(operator: &Running) {
    operator.fuse.secrets.reached().await;
    operator.ledger.down.store(true, Ordering::SeqCst);
    operator.fuse.blow_next();
}

async fn successor(world: &World) -> Running {
    Running::start(plane().kubeconfig(), world.store.clone(), world.clock.clone(), None).await
}

async fn prepared(world: &World) {
    world.plain_policy(&world.name, json!({})).await;
    world.account("account", json!({})).await;
    ready(world.accounts(), "account").await;
}

async fn written(world: &World, other_than: Option<&Secret>) -> Secret {
    let before = other_than.map(|secret| text(secret)["password"].clone());
    until(world.secrets(), "key", "written", |secret| {
        secret.filter(|secret| Some(&text(secret)["password"]) != before.as_ref()).cloned()
    })
    .await
}

async fn ends_well(world: &World, running: Running) {
    ready(world.keys(), "key").await;
    let secret = world.secrets().get("key").await.expect("the secret");
    assert!(world.may_send(&secret).await);
    let check = world.store.check().await.expect("the ledger answers");
    assert!(check.is_empty(), "{check:?}");
    world.clear_quickly().await;
    running.stop().await;
}

#[tokio::test]
async fn a_first_password_that_a_leader_writes_after_its_end_opens_the_relay() {
    let _turn = alone().await;
    let (world, old, _folder, _) = own("late-first", None).await;
    prepared(&world).await;
    old.fuse.secrets.shut();
    world.key("key", "account", json!({})).await;
    cut_off(&old).await;

    // The next one has seen no Secret either, and is about to write another password.
    let next = successor(&world).await;
    next.fuse.secrets.shut();
    next.fuse.secrets.reached().await;
    old.fuse.secrets.open();
    let late = written(&world, None).await;
    assert!(world.may_send(&late).await, "a pod that reads it now is locked out");
    next.fuse.secrets.open();
    ready(world.keys(), "key").await;
    let live = world.secrets().get("key").await.expect("the secret");
    assert_eq!(text(&live)["password"], text(&late)["password"], "pods that read it need not read again");
    old.kill().await;
    ends_well(&world, next).await;
}

#[tokio::test]
async fn a_replaced_password_that_a_leader_writes_after_its_end_opens_the_relay() {
    let _turn = alone().await;
    let (world, old, _folder, _) = own("late-second", None).await;
    let _ = world.ready_key().await;
    old.fuse.secrets.shut();
    merge_patch(&world.secrets(), "key", json!({"stringData": {"password": "chosen by hand"}})).await;
    let edited = world.secrets().get("key").await.expect("the secret");
    cut_off(&old).await;

    let next = successor(&world).await;
    next.fuse.secrets.shut();
    next.fuse.secrets.reached().await;
    old.fuse.secrets.open();
    let late = written(&world, Some(&edited)).await;
    assert!(world.may_send(&late).await, "a pod that reads it now is locked out");
    next.fuse.secrets.open();
    old.kill().await;
    ends_well(&world, next).await;
}

#[tokio::test]
async fn a_leader_that_writes_after_its_end_takes_no_password_away() {
    let _turn = alone().await;
    let (world, old, _folder, _) = own("late-third", None).await;
    prepared(&world).await;
    old.fuse.secrets.shut();
    world.key("key", "account", json!({})).await;
    cut_off(&old).await;
    let next = successor(&world).await;
    ready(world.keys(), "key").await;
    let standing = world.secrets().get("key").await.expect("the secret");
    old.fuse.secrets.open();
    old.fuse.blows().await;
    let after = world.secrets().get("key").await.expect("the secret");
    assert_eq!(after.resource_version(), standing.resource_version());
    old.kill().await;
    ends_well(&world, next).await;
}

#[tokio::test]
async fn the_messages_of_a_relay_that_came_back_under_its_name_are_marked_by_whoever_operates() {
    let _turn = alone().await;
    let (world, first, _folder, _) = own("left-open", None).await;
    let _ = world.ready_key().await;
    let key = key_id(&world).await;
    first.stop().await;
    // Charged by a relay that was killed with it, and started again.
    assert_eq!(send(&world, key, 3).await, Verdict::Reserved);
    world.store.open_session(Role::Relay, &world.name).await.expect("a session");
    let next = successor(&world).await;
    next.until_metric("franking_operator_unknown_messages_total 1").await;
    ends_well(&world, next).await;
}

#[tokio::test]
async fn nothing_is_ready_before_the_relays_know_its_policy() {
    let _turn = alone().await;
    let (world, running, _folder, _) = own("early", None).await;
    running.ledger.policies.shut();
    world.account("account", json!({})).await;
    world.key("key", "account", json!({})).await;
    // So that there is a status to see it by.
    stalled(world.accounts(), "account", "PolicyNotFound").await;
    stalled(world.keys(), "key", "AccountNotReady").await;
    world.plain_policy("early", json!({})).await;
    running.ledger.policies.reached().await;
    waiting(world.accounts(), "account", "PolicyNotReady").await;
    waiting(world.keys(), "key", "AccountNotReady").await;
    let secret = world.secrets().get("key").await.expect("the secret");
    assert!(!world.may_send(&secret).await, "nobody's plan");
    running.ledger.policies.open();
    ready(world.accounts(), "account").await;
    ends_well(&world, running).await;
}
