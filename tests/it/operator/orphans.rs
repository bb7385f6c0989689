//! Objects that vanish without the ledger's note: their finalizer was taken away, and no admission policy forbade it.

use std::sync::atomic::Ordering;

use franking::domain::id::{AccountId, Holder};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serde_json::json;

use super::harness::{World, alone};
use super::lifecycle::{own, restart};
use super::waits::{Conditioned, create, delete, gone, merge_patch, ready, text, until};

/// More than ten, and all that the namespace has: what the sweep would not revoke unseen.
const KEYS: usize = 12;

/// Takes the finalizer away and deletes, before the operator can put it back.
async fn vanish<K: Conditioned>(api: Api<K>, name: &str) {
    merge_patch(&api, name, json!({"metadata": {"finalizers": null}})).await;
    delete(&api, name).await;
}

/// Keys of an account of their own each, and their Secrets.
async fn ready_keys(world: &World) -> Vec<Secret> {
    world.plain_policy(&world.name, json!({})).await;
    let mut secrets = Vec::new();
    for index in 0..KEYS {
        world.account(&format!("account-{index}"), json!({})).await;
        world.key(&format!("key-{index}"), &format!("account-{index}"), json!({})).await;
    }
    for index in 0..KEYS {
        ready(world.keys(), &format!("key-{index}")).await;
        secrets.push(world.secrets().get(&format!("key-{index}")).await.expect("the secret"));
    }
    secrets
}

async fn account_id(world: &World, name: &str) -> AccountId {
    let status = ready(world.accounts(), name).await.status.expect("a status");
    status.account_id.expect("an id").parse().expect("a uuid")
}

async fn is_in_service(world: &World, account: AccountId) -> bool {
    let entry = world.store.find(Holder::Account(account)).await.expect("the ledger answers").expect("an entry");
    entry.removed_at().is_none()
}

/// Waits until none of these passwords is let in.
async fn no_one_is_let_in(world: &World, secrets: &[Secret]) {
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(50));
    let waited = async {
        for secret in secrets {
            while world.may_send(secret).await {
                ticks.tick().await;
            }
        }
    };
    tokio::time::timeout(super::harness::DEADLINE, waited).await.expect("a key outlives its resource");
}

#[tokio::test]
async fn keys_and_accounts_that_vanish_are_written_off_at_once_however_many() {
    let _turn = alone().await;
    let (world, running, _folder, _) = own("vanished", None).await;
    let secrets = ready_keys(&world).await;
    // Keys first, and then the accounts of some that are still there. The operator puts no finalizer back meanwhile.
    running.fuse.finalizers.shut();
    for index in 0..KEYS {
        vanish(world.keys(), &format!("key-{index}")).await;
    }
    no_one_is_let_in(&world, &secrets).await;
    let mut accounts = Vec::new();
    for index in 0..5 {
        let name = format!("account-{index}");
        accounts.push(account_id(&world, &name).await);
        let purge = json!({"spec": {"deletionPolicy": if index == 0 { "Purge" } else { "Retain" }}});
        merge_patch(&world.accounts(), &name, purge).await;
        vanish(world.accounts(), &name).await;
    }
    running.until_metric("franking_operator_written_off_total{kind=\"key\"} 12").await;
    running.until_metric("franking_operator_written_off_total{kind=\"account\"} 5").await;
    for account in &accounts {
        assert!(!is_in_service(&world, *account).await);
    }
    let purged = world.store.find(Holder::Account(accounts[0])).await.expect("the ledger answers");
    let purged = serde_json::to_value(purged).expect("JSON").to_string();
    assert!(!purged.contains("vanished") && !purged.contains("account-0"), "{purged}");
    running.fuse.finalizers.open();
    // A policy too: what it holds of its upstream's login goes.
    for index in 5..KEYS {
        delete(&world.accounts(), &format!("account-{index}")).await;
        gone(world.accounts(), &format!("account-{index}")).await;
    }
    running.fuse.finalizers.shut();
    vanish(world.policies(), "vanished").await;
    running.until_metric("franking_operator_written_off_total{kind=\"policy\"} 1").await;
    running.fuse.finalizers.open();
    delete(&world.namespaces(), "vanished").await;
    running.stop().await;
}

#[tokio::test]
async fn what_vanishes_while_the_ledger_is_down_is_written_off_when_it_is_back() {
    let _turn = alone().await;
    let (world, running, _folder, _) = own("orphan-down", None).await;
    let secret = world.ready_key().await;
    running.ledger.down.store(true, Ordering::SeqCst);
    vanish(world.keys(), "key").await;
    gone(world.keys(), "key").await;
    assert!(world.may_send(&secret).await, "the ledger has not taken note yet");
    running.ledger.down.store(false, Ordering::SeqCst);
    no_one_is_let_in(&world, &[secret]).await;
    world.clear().await;
    running.stop().await;
}

#[tokio::test]
async fn a_secret_that_a_vanished_key_shared_is_let_go() {
    let _turn = alone().await;
    let (world, running, _folder, _) = own("orphan-share", None).await;
    world.plain_policy("orphan-share", json!({})).await;
    world.account("account", json!({})).await;
    let theirs = json!({"metadata": {"name": "theirs"}, "type": "Opaque", "stringData": {"colour": "blue"}});
    let _: Secret = create(&world.secrets(), theirs).await;
    let adopts = json!({"secret": {"name": "theirs", "type": "Opaque", "adopt": true}});
    world.key("key", "account", adopts.clone()).await;
    ready(world.keys(), "key").await;
    let shared = world.secrets().get("theirs").await.expect("the secret");
    assert!(world.may_send(&shared).await && text(&shared)["colour"] == "blue");
    vanish(world.keys(), "key").await;
    let let_go = until(world.secrets(), "theirs", "let go", |secret| {
        secret.filter(|secret| !text(secret).contains_key("password")).cloned()
    })
    .await;
    assert_eq!(text(&let_go).into_keys().collect::<Vec<_>>(), ["colour"]);
    assert_eq!((let_go.metadata.labels, let_go.metadata.annotations), (None, None));
    assert!(!world.may_send(&shared).await);
    // Another key of the name shares it again, and lets it go when it is to have another Secret.
    world.key("key", "account", adopts).await;
    ready(world.keys(), "key").await;
    world.key("key", "account", json!({"secret": {"name": "own", "type": "Opaque"}})).await;
    let own = until(world.secrets(), "own", "made", |secret| secret.cloned()).await;
    until(world.secrets(), "theirs", "let go", |secret| {
        secret.filter(|secret| text(secret).len() == 1 && secret.metadata.annotations.is_none()).cloned()
    })
    .await;
    assert!(world.may_send(&own).await);
    world.clear().await;
    running.stop().await;
}

#[tokio::test]
async fn a_namespace_takes_its_keys_along_also_without_their_finalizers() {
    let _turn = alone().await;
    let (world, running, _folder, _) = own("orphan-town", None).await;
    let secrets = ready_keys(&world).await;
    for index in 0..KEYS {
        merge_patch(&world.keys(), &format!("key-{index}"), json!({"metadata": {"finalizers": null}})).await;
    }
    delete(&world.namespaces(), "orphan-town").await;
    no_one_is_let_in(&world, &secrets).await;
    gone(world.namespaces(), "orphan-town").await;
    delete(&world.policies(), "orphan-town").await;
    gone(world.policies(), "orphan-town").await;
    running.stop().await;
}

#[tokio::test]
async fn the_sweep_keeps_many_of_one_namespace_until_an_administrator_decides_and_takes_the_others() {
    let _turn = alone().await;
    let (world, running, _folder, _) = own("orphan-many", None).await;
    let secrets = ready_keys(&world).await;
    let other = World { name: "orphan-few".to_owned(), ..world.clone() };
    other.make_namespace("orphan-few", json!({})).await;
    other.account("account", json!({"policyRef": {"name": "orphan-many"}})).await;
    other.key("key", "account", json!({})).await;
    ready(other.keys(), "key").await;
    let few = other.secrets().get("key").await.expect("the secret");
    let few_account = account_id(&other, "account").await;
    running.stop().await;
    for index in 0..KEYS {
        vanish(world.keys(), &format!("key-{index}")).await;
    }
    vanish(other.keys(), "key").await;
    vanish(other.accounts(), "account").await;

    let again = restart(&world).await;
    no_one_is_let_in(&other, &[few]).await;
    again.until_metric("franking_operator_written_off_total{kind=\"account\"} 1").await;
    assert!(!is_in_service(&other, few_account).await);
    again.until_metric("franking_operator_sweep_stopped 1").await;
    let sentence = until(world.policies(), "orphan-many", "SweepStopped", |policy| {
        let conditions = &policy?.status.as_ref()?.conditions;
        let found = conditions.iter().find(|condition| condition.type_ == "SweepStopped")?;
        (found.status == "True").then(|| found.message.clone())
    })
    .await;
    assert!(sentence.contains("12 of 24 entries") && sentence.contains("namespace orphan-many"), "{sentence}");
    assert!(world.may_send(&secrets[0]).await, "no administrator has looked yet");
    ready(world.policies(), "orphan-many").await;
    again.stop().await;

    // The administrator runs the command of the sentence. The sweep comes by at every start, and each minute while it waits.
    let (_, finding) = sentence.rsplit_once("franking.io/revoke-orphans=").expect("the command");
    let approval = json!({"metadata": {"annotations": {"franking.io/revoke-orphans": finding}}});
    merge_patch(&world.namespaces(), "orphan-many", approval).await;
    let again = restart(&world).await;
    no_one_is_let_in(&world, &secrets).await;
    again.until_metric("franking_operator_sweep_stopped 0").await;
    until(world.policies(), "orphan-many", "no warning", |policy| {
        let conditions = &policy?.status.as_ref()?.conditions;
        conditions.iter().all(|condition| condition.type_ != "SweepStopped").then_some(())
    })
    .await;
    delete(&world.namespaces(), "orphan-few").await;
    world.clear().await;
    again.stop().await;
}
