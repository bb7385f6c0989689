//! What is said is so: a pass that fails is shown, and what another writer left in a status is put right.

use std::sync::Arc;
use std::time::Duration;

use franking::domain::credit::Verdict;
use franking::runtime::clock::{ManualClock, SystemClock};
use franking::runtime::metrics::render;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::discovery::ApiResource;
use kube::core::gvk::GroupVersionKind;
use kube::{Api, ResourceExt as _};
use serde_json::json;

use super::fuse::Fuse;
use super::harness::{DEADLINE, Running, SYSTEM, World, alone, apply_any, endpoint, plane, store};
use super::lifecycle::{key_id, own, send};
use super::waits::{create, delete, merge_patch, ready, stalled, text, told, until, waiting};

/// An admission policy that refuses new Secrets in the world's namespace, with these words.
struct Denial<'a> {
    world: &'a World,
    name: String,
}

impl<'a> Denial<'a> {
    async fn of(world: &'a World, words: &str) -> Self {
        let denial = Self { world, name: format!("deny-{}", world.name) };
        let rule =
            json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["secrets"]});
        let policy = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": denial.name},
            "spec": {"matchConstraints": {"resourceRules": [rule]},
                     "validations": [{"expression": "false", "message": words}]}
        });
        let selector = json!({"matchLabels": {"kubernetes.io/metadata.name": world.name}});
        let binding = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": denial.name},
            "spec": {"policyName": denial.name, "validationActions": ["Deny"],
                     "matchResources": {"namespaceSelector": selector}}
        });
        apply_any(&world.client, policy).await;
        apply_any(&world.client, binding).await;
        denial.until_holds(true).await;
        denial
    }

    async fn lift(self) {
        let kind = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicyBinding");
        let api: Api<DynamicObject> = Api::all_with(self.world.client.clone(), &ApiResource::from_gvk(&kind));
        delete(&api, &self.name).await;
        self.until_holds(false).await;
    }

    /// Admission follows its objects with a delay of its own.
    async fn until_holds(&self, denies: bool) {
        let probe: Secret = serde_json::from_value(json!({"metadata": {"name": "probe"}})).expect("a secret");
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        let waited = async {
            while self.world.secrets().create(&dry, &probe).await.is_err() != denies {
                ticks.tick().await;
            }
        };
        tokio::time::timeout(DEADLINE, waited).await.expect("admission follows in time");
    }
}

#[tokio::test]
async fn a_refused_write_over_a_converged_key_is_shown_with_the_api_servers_words_and_heals() {
    let world = World::shared("denied").await;
    let old = world.ready_key().await;
    let denial = Denial::of(&world, "no more secrets in this namespace").await;
    delete(&world.secrets(), "key").await;
    let sentence = waiting(world.keys(), "key", "ApplyFailed").await;
    assert!(
        sentence.contains("the Secret \"key\"") && sentence.contains("no more secrets in this namespace"),
        "{sentence}"
    );
    let key = world.keys().get("key").await.expect("the key");
    let conditions = key.status.expect("a status").conditions;
    let programmed = conditions.iter().find(|condition| condition.type_ == "Programmed").expect("Programmed");
    assert_eq!(programmed.status, "True", "the directory holds what it held");
    let event = told(&world, "ApplyFailed").await;
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    assert!(event.note.is_some_and(|note| note.contains("no more secrets in this namespace")));
    denial.lift().await;
    world.key("key", "account", json!({"label": "again"})).await;
    ready(world.keys(), "key").await;
    let new = world.secrets().get("key").await.expect("the secret");
    assert!(world.may_send(&new).await && world.may_send(&old).await);
    told(&world, "Ready").await;
}

#[tokio::test]
async fn an_immutable_secret_that_has_to_be_changed_is_shown_and_heals() {
    let world = World::shared("immutable").await;
    world.ready_key().await;
    merge_patch(&world.secrets(), "key", json!({"immutable": true, "stringData": {"host": "elsewhere.example.com"}}))
        .await;
    let sentence = waiting(world.keys(), "key", "ApplyFailed").await;
    assert!(sentence.contains("Secret \"key\"") && sentence.contains("immutable"), "{sentence}");
    delete(&world.secrets(), "key").await;
    ready(world.keys(), "key").await;
    assert_eq!(text(&world.secrets().get("key").await.expect("the secret"))["host"], endpoint().host);
}

/// Writes conditions into a status, as an operator would that does not lead any more.
async fn tamper<K>(api: Api<K>, name: &str) -> K
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let lie = json!({
        "type": "Ready", "status": "False", "reason": "LedgerUnavailable", "message": "the ledger does not answer",
        "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1
    });
    let patch = Patch::Merge(json!({"status": {"conditions": [lie], "usage": null}}));
    api.patch_status(name, &PatchParams::default(), &patch).await.expect("the status is taken")
}

#[tokio::test]
async fn a_status_that_another_writer_left_is_put_right() {
    let world = World::shared("tampered").await;
    world.ready_key().await;
    ready(world.policies(), "tampered").await;
    ready(world.accounts(), "account").await;
    tamper(world.policies(), "tampered").await;
    ready(world.policies(), "tampered").await;
    tamper(world.accounts(), "account").await;
    assert!(ready(world.accounts(), "account").await.status.is_some_and(|status| status.usage.is_some()));
    tamper(world.keys(), "key").await;
    ready(world.keys(), "key").await;
    world.key("key", "account", json!({"revoked": true})).await;
    stalled(world.keys(), "key", "Revoked").await;
    tamper(world.keys(), "key").await;
    stalled(world.keys(), "key", "Revoked").await;
    // Figures too: there is nothing else to be written then.
    let usage = |used: i64| json!({"status": {"credits": {"used": used}}});
    let api = world.accounts();
    api.patch_status("account", &PatchParams::default(), &Patch::Merge(usage(7))).await.expect("it is taken");
    until(world.accounts(), "account", "what was used", |account| {
        (account?.status.as_ref()?.credits.as_ref()?.used == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_status_meets_another_version_and_is_written_over_that_one() {
    let _turn = alone().await;
    let (world, running, _folder, _) = own("conflict", None).await;
    world.plain_policy("conflict", json!({})).await;
    ready(world.policies(), "conflict").await;
    running.fuse.statuses.shut();
    world.account("account", json!({})).await;
    running.fuse.statuses.reached().await;
    // Neither the generation nor anything else that wakes the account changes with it.
    merge_patch(&world.accounts(), "account", json!({"metadata": {"annotations": {"example.com/note": "hello"}}}))
        .await;
    running.fuse.statuses.open();
    ready(world.accounts(), "account").await;
    world.clear().await;
    running.stop().await;
}

#[tokio::test]
async fn a_finalizer_that_meets_another_writer_is_added_to_what_is_there() {
    let _turn = alone().await;
    let (world, running, _folder, _) = own("finalizers", None).await;
    world.plain_policy("finalizers", json!({})).await;
    ready(world.policies(), "finalizers").await;
    let before = running.fuse.finalizers_begun();
    running.fuse.finalizers.shut();
    world.account("account", json!({})).await;
    running.fuse.finalizers.reached().await;
    let theirs = json!({"metadata": {"finalizers": ["example.com/theirs"]}});
    merge_patch(&world.accounts(), "account", theirs).await;
    running.fuse.finalizers.open();
    let account = ready(world.accounts(), "account").await;
    assert_eq!(account.finalizers(), ["example.com/theirs", "franking.io/ledger"]);
    // Over the version that was judged, and over the one that is there.
    assert_eq!(running.fuse.finalizers_begun() - before, 2, "the stale version was tried again and again");
    let failed = render(&running.registry);
    let failed = failed.lines().find(|line| line.contains("reconcile_total") && line.contains("result=\"error\""));
    assert_eq!(failed, None);
    merge_patch(&world.accounts(), "account", json!({"metadata": {"finalizers": ["franking.io/ledger"]}})).await;
    world.clear().await;
    running.stop().await;
}

#[tokio::test]
async fn a_secret_that_is_lost_or_disowned_while_the_watch_lists_anew_is_missed() {
    let _turn = alone().await;
    let plane = tokio::task::spawn_blocking(plane).await.expect("a control plane");
    let (folder, clock) = (tempfile::tempdir().expect("a folder"), Arc::new(SystemClock));
    let ledger = store(folder.path(), clock.clone());
    let world = World::new(plane.control.admin_client().await, ledger.clone(), clock.clone(), "unlisted").await;
    // From the first list on the watch shows nothing, and then it breaks.
    let fuse = Fuse::after(None);
    fuse.secret_watch.shut();
    let running = Running::start_behind(fuse, plane.kubeconfig(), ledger, clock).await;
    running.fuse.secret_watch.reached().await;
    let old = world.ready_key().await;
    world.key("disowned", "account", json!({})).await;
    ready(world.keys(), "disowned").await;
    let shared = json!({"metadata": {"name": "shared"}, "type": "servicebinding.io/smtp", "stringData": {"more": "x"}});
    let _: Secret = create(&world.secrets(), shared).await;
    world.key("shared", "account", json!({"secret": {"adopt": true}})).await;
    ready(world.keys(), "shared").await;

    delete(&world.secrets(), "key").await;
    merge_patch(&world.secrets(), "disowned", json!({"metadata": {"ownerReferences": null}})).await;
    let label = "app.kubernetes.io/managed-by";
    let unlabelled = merge_patch(&world.secrets(), "shared", json!({"metadata": {"labels": {label: null}}})).await;
    running.fuse.secret_watch.open();
    let new = until(world.secrets(), "key", "made again", |secret| secret.cloned()).await;
    assert_ne!(text(&new)["password"], text(&old)["password"]);
    until(world.secrets(), "disowned", "owned again", |secret| secret?.metadata.owner_references.clone()).await;
    let labelled = until(world.secrets(), "shared", "labelled again", |secret| {
        secret.filter(|secret| secret.labels().contains_key(label)).cloned()
    })
    .await;
    assert_eq!(text(&labelled), text(&unlabelled));
    ready(world.keys(), "key").await;
    world.clear().await;
    running.stop().await;
}

#[tokio::test]
async fn a_secret_that_lost_its_owner_is_taken_back() {
    let world = World::shared("disowned").await;
    let old = world.ready_key().await;
    merge_patch(&world.secrets(), "key", json!({"metadata": {"ownerReferences": null}})).await;
    let back = until(world.secrets(), "key", "owned again", |secret| {
        secret.filter(|secret| secret.metadata.owner_references.is_some()).cloned()
    })
    .await;
    assert_eq!(text(&back), text(&old));
    ready(world.keys(), "key").await;
}

/// Waits until Ready is False for this reason, and returns its sentence.
async fn unready<K: super::waits::Conditioned>(api: Api<K>, name: &str, reason: &str) -> String {
    until(api, name, &format!("not ready, {reason}"), |object| {
        let ready = object?.conditions().iter().find(|condition| condition.type_ == "Ready")?;
        (ready.status == "False" && ready.reason == reason).then(|| ready.message.clone())
    })
    .await
}

#[tokio::test]
async fn ready_follows_suspensions_and_a_missing_login_down_the_chain_and_back() {
    let world = World::shared("chain").await;
    let login: Api<Secret> = Api::namespaced(world.client.clone(), SYSTEM);
    let upstream = json!({"host": "smtp.example.com", "credentialsSecretRef": {"name": "chain"}});
    let senders = json!({"domains": ["example.com"]});
    world.policy("chain", json!({"senders": senders, "upstream": upstream})).await;
    world.account("account", json!({})).await;
    world.key("key", "account", json!({})).await;
    for sentence in [
        unready(world.accounts(), "account", "PolicyNotReady").await,
        unready(world.keys(), "key", "PolicyNotReady").await,
    ] {
        assert!(sentence.starts_with("its policy \"chain\" is not ready: spec.upstream."), "{sentence}");
    }
    let secret = json!({
        "metadata": {"name": "chain", "labels": {"franking.io/use": "true"}},
        "stringData": {"username": "u", "password": "p"}
    });
    let _: Secret = create(&login, secret).await;
    ready(world.accounts(), "account").await;
    ready(world.keys(), "key").await;
    world.account("account", json!({"suspended": true, "suspendReason": "unpaid"})).await;
    assert_eq!(unready(world.keys(), "key", "ParentSuspended").await, "its account is suspended: unpaid");
    world.account("account", json!({})).await;
    ready(world.keys(), "key").await;
    let audit = json!({"senders": senders, "upstream": upstream, "suspended": true, "suspendReason": "audit"});
    world.policy("chain", audit).await;
    unready(world.policies(), "chain", "Suspended").await;
    unready(world.accounts(), "account", "ParentSuspended").await;
    assert_eq!(unready(world.keys(), "key", "ParentSuspended").await, "its policy \"chain\" is suspended: audit");
    world.policy("chain", json!({"senders": senders, "upstream": upstream})).await;
    ready(world.keys(), "key").await;
    delete(&login, "chain").await;
    unready(world.keys(), "key", "PolicyNotReady").await;
}

#[tokio::test]
async fn nobody_to_send_as_is_told_where_it_is_put_right_and_down_the_chain() {
    let world = World::shared("nobody").await;
    world.plain_policy("nobody", json!({"senders": {}})).await;
    world.account("account", json!({})).await;
    world.key("key", "account", json!({})).await;
    let sentence = stalled(world.policies(), "nobody", "NoSenderDomains").await;
    assert!(sentence.starts_with("spec.senders.domains: nothing can be sent"), "{sentence}");
    for sentence in [
        unready(world.accounts(), "account", "PolicyNotReady").await,
        unready(world.keys(), "key", "PolicyNotReady").await,
    ] {
        assert!(sentence.starts_with("its policy \"nobody\" is not ready: spec.senders.domains"), "{sentence}");
    }
    world.plain_policy("nobody", json!({"senders": {"domains": ["a.example", "b.example"]}})).await;
    ready(world.policies(), "nobody").await;
    ready(world.keys(), "key").await;

    // Beside the policy's domains.
    world.account("account", json!({"allowedSenders": ["sales@c.example"]})).await;
    let sentence = unready(world.accounts(), "account", "SendersNotPermitted").await;
    assert!(sentence.starts_with("spec.allowedSenders: ") && sentence.contains("spec.senders.domains"), "{sentence}");
    told(&world, "SendersNotPermitted").await;
    let sentence = unready(world.keys(), "key", "AccountNotReady").await;
    assert!(sentence.contains("its account \"account\" is not ready: spec.allowedSenders: "), "{sentence}");
    let sending = world.keys().get("key").await.expect("the key").status.and_then(|status| status.sending);
    assert_eq!(sending.as_deref(), Some("no"));
    // Either of the two lists heals it.
    world.plain_policy("nobody", json!({"senders": {"domains": ["c.example"]}})).await;
    ready(world.accounts(), "account").await;
    ready(world.keys(), "key").await;

    // Beside the account's list, in the same domain.
    world.key("key", "account", json!({"allowedSenders": ["ceo@c.example"]})).await;
    stalled(world.keys(), "key", "SendersNotPermitted").await;
    world.account("account", json!({"allowedSenders": ["sales@c.example", "ceo@c.example"]})).await;
    ready(world.keys(), "key").await;
    world.account("account", json!({"allowedSenders": ["sales@c.example"]})).await;
    stalled(world.keys(), "key", "SendersNotPermitted").await;
    ready(world.accounts(), "account").await;
}

/// Lets time pass until the key's column SENDING begins so: what follows from above waits for the budget of figures.
async fn sends(world: &World, clock: &ManualClock, word: &str) {
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let waited = async {
        loop {
            ticks.tick().await;
            clock.advance(1);
            let key = world.keys().get("key").await.expect("the key");
            if key.status.and_then(|status| status.sending).is_some_and(|sending| sending.starts_with(word)) {
                return;
            }
        }
    };
    if tokio::time::timeout(DEADLINE, waited).await.is_err() {
        let key = world.keys().get("key").await.map(|key| key.status);
        let account = world.accounts().get("account").await.map(|account| account.status);
        panic!("waited for SENDING {word}; the key: {key:?}; its account: {account:?}");
    }
}

#[tokio::test]
async fn used_up_credits_are_told_to_the_key_and_leave_it_ready() {
    let _turn = alone().await;
    let (world, running, _folder, clock) = own("used-up", None).await;
    world.ready_key().await;
    world.account("account", json!({"cap": {"credits": 2}})).await;
    until(world.accounts(), "account", "the cap", |account| account?.status.as_ref()?.credits.as_ref()?.cap).await;
    let key = key_id(&world).await;
    assert_eq!(send(&world, key, 2).await, Verdict::Reserved);
    sends(&world, &clock, "no credits until").await;
    let key = ready(world.keys(), "key").await;
    let message = &key.status.expect("a status").conditions[0].message;
    assert!(message.contains("that works; at the moment its account has no credits until"), "{message}");
    world.account("account", json!({"cap": {"credits": 5}})).await;
    sends(&world, &clock, "yes").await;
    world.clear().await;
    running.stop().await;
}
