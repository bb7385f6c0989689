//! The Secret of a key: its content, its repair, its rotation.

use franking::crd::SubAccountApiKey;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use super::harness::{World, alone};
use super::lifecycle::{own, restart};
use super::waits::{delete, merge_patch, ready, text, until};

/// Waits until the key's Secret holds another password than `old`.
async fn replaced(world: &World, old: &Secret) -> Secret {
    let before = text(old)["password"].clone();
    until(world.secrets(), "key", "a new password", |secret| {
        secret.filter(|secret| text(secret).get("password").is_some_and(|password| *password != before)).cloned()
    })
    .await
}

#[tokio::test]
async fn a_secret_has_what_programs_read_and_nothing_of_the_resource() {
    let world = World::shared("content").await;
    world.plain_policy("content", json!({"senders": {"domains": ["x.org"]}})).await;
    world.account("account", json!({})).await;
    let secret = json!({
        "presets": ["env"], "template": {"dsn": "{{ .username }}@{{ .host }}"},
        "metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}}
    });
    world.key("key", "account", json!({"secret": secret, "allowedSenders": ["*@x.org", "alerts@example.com"]})).await;
    let labels = json!({"metadata": {"labels": {"argocd.argoproj.io/instance": "app"}}});
    merge_patch(&world.keys(), "key", labels).await;
    let key = ready(world.keys(), "key").await;
    let status = key.status.expect("a status");
    assert_eq!(status.binding.expect("a binding").name, "key");
    let secret = world.secrets().get("key").await.expect("the secret");
    let data = text(&secret);
    let (username, password) = (&data["username"], &data["password"]);
    assert_eq!(data["uri"], format!("smtps://{username}:{password}@relay.franking.svc:465"));
    assert_eq!((data["type"].as_str(), data["provider"].as_str(), data["port"].as_str()), ("smtp", "franking", "465"));
    assert_eq!(data["SMTP_PASSWORD"], *password);
    assert_eq!(data["SMTP_FROM"], "alerts@example.com");
    assert_eq!(data["SMTP_CA"], data["certificates"]);
    assert_eq!(data["dsn"], format!("{username}@relay.franking.svc"));
    assert!(data.contains_key("certificates"));
    assert_eq!(secret.type_.as_deref(), Some("servicebinding.io/smtp"));
    let labels = secret.metadata.labels.clone().expect("labels");
    assert_eq!((labels["team"].as_str(), labels["app.kubernetes.io/managed-by"].as_str()), ("a", "franking"));
    assert!(!labels.contains_key("argocd.argoproj.io/instance"));
    let owners = secret.metadata.owner_references.clone().expect("an owner");
    assert_eq!((owners[0].kind.as_str(), owners[0].controller), ("SubAccountApiKey", Some(true)));
    assert!(world.may_send(&secret).await);

    // What is no longer wanted goes, what others added stays, the password stays.
    merge_patch(&world.secrets(), "key", json!({"stringData": {"theirs": "x"}})).await;
    world.key("key", "account", json!({"secret": {"presets": ["env"]}})).await;
    let tidied = until(world.secrets(), "key", "without dsn", |secret| {
        secret.filter(|secret| !text(secret).contains_key("dsn")).cloned()
    })
    .await;
    let after = text(&tidied);
    assert_eq!((after["theirs"].as_str(), &after["password"]), ("x", password));
    assert!(!tidied.metadata.labels.expect("labels").contains_key("team"));
    assert_ne!(
        secret.metadata.annotations.expect("annotations")["franking.io/content-hash"],
        tidied.metadata.annotations.expect("annotations")["franking.io/content-hash"]
    );
}

#[tokio::test]
async fn a_key_goes_although_the_secret_that_it_shared_became_immutable() {
    let world = World::shared("adopted-immutable").await;
    world.plain_policy("adopted-immutable", json!({})).await;
    world.account("account", json!({})).await;
    let shared = json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "stringData": {"colour": "blue"},
                        "metadata": {"name": "settings", "namespace": world.name}});
    super::harness::apply_any(&world.client, shared).await;
    world.key("key", "account", json!({"secret": {"adopt": true, "name": "settings", "type": "Opaque"}})).await;
    ready(world.keys(), "key").await;
    merge_patch(&world.secrets(), "settings", json!({"immutable": true})).await;
    delete(&world.keys(), "key").await;
    super::waits::gone(world.keys(), "key").await;
    let left = world.secrets().get("settings").await.expect("it outlives the key");
    assert!(left.metadata.annotations.unwrap_or_default().keys().all(|key| !key.starts_with("franking.io/")));
    let told = super::waits::told(&world, "SecretImmutable").await;
    assert!(told.note.is_some_and(|note| note.contains("Secret \"settings\"") && note.contains("password")));
}

#[tokio::test]
async fn an_edited_password_is_replaced_and_the_old_one_works_for_the_overlap() {
    let world = World::shared("edited").await;
    let old = world.ready_key().await;
    let edited =
        merge_patch(&world.secrets(), "key", json!({"stringData": {"password": "chosen by hand, long enough"}})).await;
    let new = replaced(&world, &edited).await;
    assert_ne!(text(&new)["password"], text(&old)["password"]);
    let promoted = until(world.keys(), "key", "an overlap", |key: Option<&SubAccountApiKey>| {
        key?.status.as_ref()?.credential.as_ref()?.previous_valid_until.clone()
    });
    promoted.await;
    assert!(world.may_send(&old).await && world.may_send(&new).await && !world.may_send(&edited).await);
    let told = super::waits::told(&world, "CredentialReplaced").await;
    assert!(told.note.as_deref().is_some_and(|note| note.contains("did not write")), "{told:?}");
    assert_eq!(told.type_.as_deref(), Some("Warning"));
}

#[tokio::test]
async fn a_deleted_secret_comes_back_with_a_new_password() {
    let world = World::shared("deleted").await;
    let old = world.ready_key().await;
    delete(&world.secrets(), "key").await;
    let new = replaced(&world, &old).await;
    ready(world.keys(), "key").await;
    assert!(world.may_send(&new).await);
    assert!(world.may_send(&old).await, "the pods that have it mounted go on for the overlap");
}

#[tokio::test]
async fn a_drifted_value_is_put_right_without_a_new_password() {
    let world = World::shared("drift").await;
    let old = world.ready_key().await;
    merge_patch(&world.secrets(), "key", json!({"stringData": {"host": "elsewhere.example.com"}})).await;
    let mended = until(world.secrets(), "key", "the host again", |secret| {
        secret.filter(|secret| text(secret)["host"] == "relay.franking.svc").cloned()
    })
    .await;
    assert_eq!(text(&mended), text(&old));
}

#[tokio::test]
async fn a_renamed_secret_takes_its_password_along() {
    let world = World::shared("renamed").await;
    let old = world.ready_key().await;
    world.key("key", "account", json!({"secret": {"name": "smtp"}})).await;
    let new = until(world.secrets(), "smtp", "made", |secret| secret.cloned()).await;
    assert_eq!(text(&new), text(&old));
    super::waits::gone(world.secrets(), "key").await;
    let key = ready(world.keys(), "key").await;
    assert_eq!(key.status.and_then(|status| status.binding).map(|binding| binding.name).as_deref(), Some("smtp"));
}

#[tokio::test]
async fn a_rotation_overlaps_and_the_next_one_waits_unless_forced() {
    let world = World::shared("rotation").await;
    let first = world.ready_key().await;
    world.key("key", "account", json!({"rotation": {"restartedAt": "2026-01-01T00:00:00Z", "overlap": "1h"}})).await;
    let second = replaced(&world, &first).await;
    let credential = |wanted: &'static str| {
        until(world.keys(), "key", "the rotation is done", move |key: Option<&SubAccountApiKey>| {
            let credential = key?.status.as_ref()?.credential.clone()?;
            (credential.restarted_at.as_deref() == Some(wanted)).then_some(credential)
        })
    };
    let rotated = credential("2026-01-01T00:00:00Z").await;
    let overlap = rotated.previous_valid_until.expect("an overlap").0.duration_since(rotated.issued_at.0);
    assert_eq!(overlap.as_secs(), 3600);
    assert!(world.may_send(&first).await && world.may_send(&second).await);

    let again = json!({"restartedAt": "2026-01-02T00:00:00Z", "overlap": "1h"});
    world.key("key", "account", json!({"rotation": again})).await;
    let sentence = until(world.keys(), "key", "RotationWaiting", |key: Option<&SubAccountApiKey>| {
        let conditions = &key?.status.as_ref()?.conditions;
        let ready = conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
        (ready.reason == "RotationWaiting").then(|| ready.message.clone())
    })
    .await;
    assert!(sentence.contains("spec.rotation.force"), "{sentence}");
    assert_eq!(text(&world.secrets().get("key").await.expect("the secret"))["password"], text(&second)["password"]);

    world.key("key", "account", json!({"rotation": {"restartedAt": "2026-01-02T00:00:00Z", "force": true}})).await;
    let third = replaced(&world, &second).await;
    credential("2026-01-02T00:00:00Z").await;
    assert!(!world.may_send(&first).await && world.may_send(&second).await && world.may_send(&third).await);
}

#[tokio::test]
async fn a_revoked_key_lets_nobody_in() {
    let world = World::shared("revoked").await;
    let secret = world.ready_key().await;
    world.key("key", "account", json!({"revoked": true})).await;
    super::waits::stalled(world.keys(), "key", "Revoked").await;
    assert!(!world.may_send(&secret).await);
    world.key("key", "account", json!({"revoked": false})).await;
    ready(world.keys(), "key").await;
    assert!(world.may_send(&secret).await);
}

#[tokio::test]
async fn a_password_that_is_due_changes_by_itself_and_the_old_one_works_for_the_overlap() {
    let _turn = alone().await;
    let (world, running, _folder, clock) = own("due", None).await;
    world.plain_policy("due", json!({})).await;
    world.account("account", json!({})).await;
    world.key("key", "account", json!({"rotation": {"every": "2h", "overlap": "10m"}})).await;
    let key = ready(world.keys(), "key").await;
    let credential = key.status.and_then(|status| status.credential).expect("a credential");
    let due = credential.rotates_at.expect("a time").0;
    assert_eq!(due.duration_since(credential.issued_at.0).as_secs(), 7200);
    let first = world.secrets().get("key").await.expect("a secret");
    running.stop().await;
    // The operator sleeps by another clock than the one that a test can move, and looks at all when it starts.
    // The date is in whole seconds, and the password a part of one younger.
    clock.set(due);
    clock.advance(1);
    let running = restart(&world).await;
    let second = replaced(&world, &first).await;
    assert!(world.may_send(&first).await && world.may_send(&second).await);
    until(world.keys(), "key", "the next date", |key: Option<&SubAccountApiKey>| {
        let credential = key?.status.as_ref()?.credential.clone()?;
        (credential.rotates_at?.0 > due && credential.previous_valid_until.is_some()).then_some(())
    })
    .await;
    clock.advance(601);
    assert!(!world.may_send(&first).await && world.may_send(&second).await);
    world.clear().await;
    running.stop().await;
}
