//! A password of the user's own: waited for, judged, taken over, followed.

use franking::crd::SubAccountApiKey;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use super::harness::{SYSTEM, World, apply_any};
use super::waits::{create, delete, gone, merge_patch, ready, stalled, text, told, until};

const FIRST: &str = "correct-horse-battery";
const SECOND: &str = "staple-battery-horse";

async fn give(world: &World, password: &str, labels: Value) {
    apply_any(
        &world.client,
        json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "stringData": {"pin": password},
               "metadata": {"name": "printer", "namespace": world.name, "labels": labels}}),
    )
    .await;
}

fn usable() -> Value {
    json!({"franking.io/use": "true"})
}

/// Waits until the key's own Secret has this password.
async fn has(world: &World, password: &str) -> Secret {
    until(world.secrets(), "key", "the user's password", |secret| {
        secret.filter(|secret| text(secret).get("password").is_some_and(|found| found == password)).cloned()
    })
    .await
}

#[tokio::test]
async fn a_password_of_the_users_own_is_waited_for_taken_over_and_followed() {
    let world = World::shared("existing").await;
    world.plain_policy("existing", json!({})).await;
    world.account("account", json!({})).await;
    world.key("key", "account", json!({"secret": {"existing": {"name": "printer", "key": "pin"}}})).await;
    // Nothing is let in before the password is there, may be used, and is good.
    let sentence = stalled(world.keys(), "key", "SecretNotFound").await;
    assert!(sentence.contains("\"printer\"") && sentence.contains("franking.io/use"), "{sentence}");
    give(&world, FIRST, json!({})).await;
    // It has no label, so no watch of ours tells of it: an edit of the key has it looked at again.
    merge_patch(&world.keys(), "key", json!({"spec": {"label": "the printer"}})).await;
    stalled(world.keys(), "key", "SecretNotLabelled").await;
    give(&world, "too-short", usable()).await;
    let sentence = stalled(world.keys(), "key", "SecretInvalid").await;
    assert!(sentence.contains("16 to 128") && !sentence.contains("too-short"), "{sentence}");
    assert!(world.secrets().get_opt("key").await.expect("an answer").is_none(), "a Secret with half a password");
    give(&world, FIRST, usable()).await;
    ready(world.keys(), "key").await;
    let first = has(&world, FIRST).await;
    assert!(world.may_send(&first).await);

    // A changed one holds at once, and the one before for the overlap.
    give(&world, SECOND, usable()).await;
    let second = has(&world, SECOND).await;
    assert!(world.may_send(&second).await && world.may_send(&first).await);
    let told = told(&world, "CredentialReplaced").await;
    assert!(told.note.is_some_and(|note| note.contains("\"printer\"") && !note.contains(SECOND)));
    // The key's own Secret follows, whatever is done to it.
    merge_patch(&world.secrets(), "key", json!({"stringData": {"password": "by hand, by hand, by hand"}})).await;
    has(&world, SECOND).await;
    delete(&world.secrets(), "key").await;
    has(&world, SECOND).await;
    // Back to the first, before its overlap ends.
    give(&world, FIRST, usable()).await;
    let first = has(&world, FIRST).await;
    assert!(world.may_send(&first).await);

    // What makes it unusable later stops no mail, and is said.
    for (edit, reason) in [
        (json!({"metadata": {"labels": {"franking.io/use": null}}}), "SecretNotLabelled"),
        (json!({"metadata": {"labels": {"franking.io/use": "true"}}, "stringData": {"pin": "short"}}), "SecretInvalid"),
    ] {
        merge_patch(&world.secrets(), "printer", edit).await;
        stalled(world.keys(), "key", reason).await;
        assert!(world.may_send(&first).await, "{reason}");
    }
    delete(&world.secrets(), "printer").await;
    stalled(world.keys(), "key", "SecretNotFound").await;
    assert!(world.may_send(&first).await);

    // Without it, the last password stays, in a Secret that the key keeps by itself again.
    world.key("key", "account", json!({})).await;
    ready(world.keys(), "key").await;
    assert!(world.may_send(&has(&world, FIRST).await).await);

    // No status, no Event and no row of the trail has a password or its hash.
    let key = world.keys().get("key").await.expect("a key");
    let trail = world.store.events(0, 1_000_000).await.expect("the trail");
    let api: Api<Event> = Api::namespaced(world.client.clone(), &world.name);
    let events = serde_json::to_string(&api.list(&ListParams::default()).await.expect("events").items).expect("json");
    for text in [serde_json::to_string(&key).expect("json"), format!("{trail:?}"), events] {
        for secret in [FIRST, SECOND, "too-short"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
    assert!(trail.iter().any(|event| event.detail.to_string().contains("secret.existing.name")), "the trail lacks it");
}

#[tokio::test]
async fn the_secret_of_another_key_brings_no_password() {
    let world = World::shared("existing-key").await;
    world.ready_key().await;
    merge_patch(&world.secrets(), "key", json!({"metadata": {"labels": {"franking.io/use": "true"}}})).await;
    world.key("thief", "account", json!({"secret": {"existing": {"name": "key"}}})).await;
    let sentence = stalled(world.keys(), "thief", "SecretInvalid").await;
    assert!(sentence.contains("holds the password of a key"), "{sentence}");
}

/// One write of a tenant has the operator write each key that names the Secret, so it follows a few at once and then waits.
#[tokio::test]
async fn a_secret_that_changes_back_and_forth_is_followed_with_pauses_and_to_its_end() {
    let world = World::shared("existing-flipped").await;
    world.plain_policy("existing-flipped", json!({})).await;
    world.account("account", json!({})).await;
    world.key("key", "account", json!({"secret": {"existing": {"name": "printer", "key": "pin"}}})).await;
    stalled(world.keys(), "key", "SecretNotFound").await;
    let begun = std::time::Instant::now();
    // Six are followed at once, and one more each ten seconds.
    for number in 0..8 {
        let password = format!("{FIRST}-{number}");
        give(&world, &password, usable()).await;
        has(&world, &password).await;
    }
    assert!(begun.elapsed().as_secs() >= 20, "{:?}", begun.elapsed());
}

/// The operator's own namespace may have keys too, and no key takes what the operator works with for a password.
#[tokio::test]
async fn what_franking_itself_works_with_brings_no_password() {
    let world = World::shared("existing-own").await;
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), SYSTEM);
    let upstream = json!({"host": "smtp.example.com", "tls": "Implicit", "credentialsSecretRef": {"name": "provider"}});
    world.plain_policy("existing-own", json!({"upstream": upstream})).await;
    let policy = json!({"policyRef": {"name": "existing-own"}});
    world.apply("SubAccount", Some(SYSTEM), "own", policy).await;
    let keys: Api<SubAccountApiKey> = Api::namespaced(world.client.clone(), SYSTEM);
    let own = ["provider", "franking-installation"];
    for name in own {
        let secret = json!({"metadata": {"name": name, "labels": usable()},
                            "stringData": {"username": "u", "password": FIRST}});
        let _: Secret = create(&secrets, secret).await;
    }
    ready(world.policies(), "existing-own").await;
    for name in own {
        let key = format!("own-{name}");
        let spec = json!({"subAccountRef": {"name": "own"}, "secret": {"existing": {"name": name}}});
        world.apply("SubAccountApiKey", Some(SYSTEM), &key, spec).await;
        let sentence = stalled(keys.clone(), &key, "SecretInvalid").await;
        assert!(sentence.contains("name a Secret of your own") && sentence.contains(name), "{sentence}");
        assert!(secrets.get_opt(&key).await.expect("an answer").is_none(), "it was copied");
    }
    // The same Secret serves where no policy names it any more.
    world.plain_policy("existing-own", json!({})).await;
    ready(world.policies(), "existing-own").await;
    merge_patch(&keys, "own-provider", json!({"spec": {"label": "the printer"}})).await;
    ready(keys.clone(), "own-provider").await;
    for name in own {
        delete(&keys, &format!("own-{name}")).await;
        gone(keys.clone(), &format!("own-{name}")).await;
        delete(&secrets, name).await;
    }
}
