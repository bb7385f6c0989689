//! Objects that come, go and come back, with the operator and the ledger up or down.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use franking::domain::credit::{Reservation, Verdict};
use franking::domain::id::{Holder, KeyId, MessageId};
use franking::ledger::store::{Role, Store};
use franking::runtime::clock::{ManualClock, SystemClock};
use franking::runtime::metrics::render;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;
use uuid::Uuid;

use super::harness::{Running, World, alone, store};
use super::waits::{delete, gone, merge_patch, ready, settled, snapshot, stalled, text, until, waiting};

/// Charges `credits` to the key of a Secret, as a relay would.
pub async fn send(world: &World, key: KeyId, credits: u32) -> Verdict {
    let session = world.store.open_session(Role::Relay, &world.name).await.expect("a session");
    let reservation = Reservation { message: MessageId(Uuid::now_v7_for_tests()), key, credits, fingerprint: None };
    let verdicts = world.store.reserve(&session, &[reservation]).await.expect("the ledger answers");
    verdicts.into_iter().next().expect("one verdict")
}

/// An id for a message, without asking for the time or for randomness.
trait ForTests {
    fn now_v7_for_tests() -> Uuid;
}

impl ForTests for Uuid {
    fn now_v7_for_tests() -> Uuid {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        Uuid::from_u64_pair(0x0193_0000_0000_7000, 0x8000_0000_0000_0000 | NEXT.fetch_add(1, Ordering::SeqCst))
    }
}

async fn account_id(world: &World) -> String {
    ready(world.accounts(), "account").await.status.and_then(|status| status.account_id).expect("an id")
}

pub async fn key_id(world: &World) -> KeyId {
    let key = ready(world.keys(), "key").await;
    key.status.and_then(|status| status.key_id).expect("an id").parse().expect("a uuid")
}

#[tokio::test]
async fn deleting_an_account_stops_its_keys_and_applying_it_again_finds_id_and_credits() {
    let world = World::shared("again").await;
    let secret = world.ready_key().await;
    world.account("account", json!({"cap": {"credits": 10}})).await;
    let (id, key) = (account_id(&world).await, key_id(&world).await);
    assert_eq!(send(&world, key, 4).await, Verdict::Reserved);
    delete(&world.accounts(), "account").await;
    gone(world.accounts(), "account").await;
    assert!(!world.may_send(&secret).await);
    stalled(world.keys(), "key", "AccountNotFound").await;

    world.account("account", json!({"cap": {"credits": 10}})).await;
    assert_eq!(account_id(&world).await, id);
    ready(world.keys(), "key").await;
    assert!(world.may_send(&secret).await);
    let credits =
        until(world.accounts(), "account", "figures", |account| account?.status.as_ref()?.credits.clone()).await;
    assert_eq!((credits.cap, credits.used, credits.remaining), (Some(10), 4, Some(6)));
}

#[tokio::test]
async fn a_deleted_key_lets_nobody_in_and_comes_back_with_another_password() {
    let world = World::shared("key-again").await;
    let old = world.ready_key().await;
    let id = key_id(&world).await;
    delete(&world.keys(), "key").await;
    gone(world.keys(), "key").await;
    assert!(!world.may_send(&old).await);
    world.key("key", "account", json!({})).await;
    assert_eq!(key_id(&world).await, id);
    let new = world.secrets().get("key").await.expect("the secret");
    assert_ne!(text(&new)["password"], text(&old)["password"]);
    assert!(world.may_send(&new).await && !world.may_send(&old).await);
}

#[tokio::test]
async fn a_namespace_is_deleted_while_the_operator_runs_and_made_again_as_somebody_new() {
    let world = World::shared("remade").await;
    let old = world.ready_key().await;
    let id = account_id(&world).await;
    delete(&world.namespaces(), "remade").await;
    gone(world.namespaces(), "remade").await;
    assert!(!world.may_send(&old).await);
    world.make_namespace("remade", json!({})).await;
    let new = world.ready_key().await;
    assert_ne!(account_id(&world).await, id);
    assert_ne!(text(&new)["username"], text(&old)["username"]);
    assert!(world.may_send(&new).await && !world.may_send(&old).await);
}

#[tokio::test]
async fn a_policy_that_accounts_use_waits_for_them() {
    let world = World::shared("in-use").await;
    let secret = world.ready_key().await;
    delete(&world.policies(), "in-use").await;
    let sentence = waiting(world.policies(), "in-use", "InUse").await;
    assert!(sentence.contains("in-use/account"), "{sentence}");
    assert!(world.may_send(&secret).await);
    world.account("late", json!({})).await;
    let sentence = stalled(world.accounts(), "late", "PolicyNotReady").await;
    assert!(sentence.contains("is being deleted"), "{sentence}");
    for name in ["account", "late"] {
        delete(&world.accounts(), name).await;
    }
    gone(world.policies(), "in-use").await;
}

#[tokio::test]
async fn a_purged_account_leaves_no_name_behind() {
    let world = World::shared("purged").await;
    world.ready_key().await;
    world.account("account", json!({"deletionPolicy": "Purge"})).await;
    let id = account_id(&world).await;
    delete(&world.accounts(), "account").await;
    gone(world.accounts(), "account").await;
    let holder = Holder::Account(id.parse().expect("a uuid"));
    let entry = world.store.find(holder).await.expect("the ledger answers").expect("an entry");
    let json = serde_json::to_value(&entry).expect("json").to_string();
    assert!(!json.contains("purged"), "{json}");
}

#[tokio::test]
async fn an_exhausted_cap_shows_on_status_and_a_suspension_on_the_account() {
    let world = World::shared("usage").await;
    world.ready_key().await;
    world.account("account", json!({"cap": {"credits": 3}})).await;
    let key = key_id(&world).await;
    ready(world.accounts(), "account").await;
    assert_eq!(send(&world, key, 3).await, Verdict::Reserved);
    assert!(matches!(send(&world, key, 1).await, Verdict::Short { .. }));
    until(world.accounts(), "account", "exhausted", |account| {
        let credits = account?.status.as_ref()?.credits.clone()?;
        (credits.remaining == Some(0) && credits.used == 3).then_some(())
    })
    .await;
    until(world.policies(), "usage", "used", |policy| {
        let status = policy?.status.as_ref()?;
        (status.credits.as_ref()?.used == 3 && status.accounts?.active == 1).then_some(())
    })
    .await;
    let policy = json!({"suspended": true, "suspendReason": "unpaid"});
    world.plain_policy("usage", policy).await;
    until(world.accounts(), "account", "ParentSuspended", |account| {
        let status = account?.status.as_ref()?;
        let reason = status.suspensions.first()?.reason.clone()?;
        (status.state?.as_str() == "ParentSuspended" && reason == "unpaid").then_some(())
    })
    .await;
    assert!(!world.may_send(&world.secrets().get("key").await.expect("the secret")).await);
}

/// A world and an operator of their own.
pub async fn own(name: &str, stop_after: Option<i64>) -> (World, Running, tempfile::TempDir, ManualClock) {
    let (_, plane) = tokio::task::spawn_blocking(|| ((), super::harness::plane())).await.expect("a control plane");
    let folder = tempfile::tempdir().expect("a folder");
    let clock = ManualClock::new(franking::runtime::clock::Clock::now(&SystemClock));
    let ledger: Arc<dyn Store> = store(folder.path(), Arc::new(clock.clone()));
    let client = plane.control.admin_client().await;
    let world = World::new(client, ledger.clone(), Arc::new(clock.clone()), name).await;
    let running = Running::start(plane.kubeconfig(), ledger, Arc::new(clock.clone()), stop_after).await;
    (world, running, folder, clock)
}

pub async fn restart(world: &World) -> Running {
    let plane = super::harness::plane();
    Running::start(plane.kubeconfig(), world.store.clone(), world.clock.clone(), None).await
}

#[tokio::test]
async fn deletion_waits_for_a_ledger_that_is_down_unless_forced() {
    let _turn = alone().await;
    let (world, running, _folder, _) = own("ledger-down", None).await;
    let secret = world.ready_key().await;
    world.key("forced", "account", json!({})).await;
    ready(world.keys(), "forced").await;
    running.ledger.down.store(true, Ordering::SeqCst);
    delete(&world.keys(), "key").await;
    delete(&world.keys(), "forced").await;
    let sentence = waiting(world.keys(), "key", "LedgerUnavailable").await;
    assert!(sentence.contains("deletion waits"), "{sentence}");
    world.account("account", json!({"displayName": "the shop"})).await;
    waiting(world.accounts(), "account", "LedgerUnavailable").await;
    let account = world.accounts().get("account").await.expect("the account");
    let key = world.keys().get("key").await.expect("the key");
    let sending = [account.status.and_then(|status| status.sending), key.status.and_then(|status| status.sending)];
    assert_eq!(sending.map(|sending| sending.unwrap_or_default()), ["no", "no"]);
    merge_patch(&world.keys(), "forced", json!({"metadata": {"annotations": {"franking.io/force-delete": "true"}}}))
        .await;
    gone(world.keys(), "forced").await;
    assert!(world.may_send(&secret).await, "the ledger has not taken note yet");
    running.ledger.down.store(false, Ordering::SeqCst);
    gone(world.keys(), "key").await;
    assert!(!world.may_send(&secret).await);
    let account = ready(world.accounts(), "account").await;
    assert_eq!(account.status.and_then(|status| status.sending).as_deref(), Some("yes"));
    world.clear().await;
    running.stop().await;
}

#[tokio::test]
async fn a_restart_with_everything_standing_writes_nothing() {
    let _turn = alone().await;
    let (world, running, _folder, _) = own("restart", None).await;
    world.ready_key().await;
    for index in 0..5 {
        let name = format!("account-{index}");
        world.account(&name, json!({"cap": {"credits": 5}})).await;
        world.key(&format!("key-{index}"), &name, json!({"secret": {"presets": ["env"]}})).await;
        ready(world.keys(), &format!("key-{index}")).await;
    }
    world.account("refused", json!({"policyRef": {"name": "nowhere"}})).await;
    stalled(world.accounts(), "refused", "PolicyNotFound").await;
    settled(&world).await;
    running.stop().await;
    let before = snapshot(&world).await;
    let again = restart(&world).await;
    again.reconciled(14).await;
    assert_eq!(again.fuse.writes(), 0);
    assert_eq!(snapshot(&world).await, before);
    assert!(render(&again.registry).contains("franking_operator_status_writes_total 0"));
    world.clear().await;
    again.stop().await;
}

#[tokio::test]
async fn another_address_of_the_relay_goes_into_every_secret() {
    let _turn = alone().await;
    let (world, running, _folder, _) = own("address", None).await;
    let old = world.ready_key().await;
    running.endpoint.send_modify(|endpoint| endpoint.host = "mail.example.com".to_owned());
    let new = until(world.secrets(), "key", "the new host", |secret: Option<&Secret>| {
        secret.filter(|secret| text(secret)["host"] == "mail.example.com").cloned()
    })
    .await;
    assert_eq!(text(&new)["password"], text(&old)["password"]);
    world.clear().await;
    running.stop().await;
}
