//! Invariants that hold whatever else is wrong: revoking, suspending and narrowing always take effect, nothing is
//! written twice, and a credential does not outlive what it depends on.

use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use super::*;

/// Returns a Secret with the key's name that is not the key's.
fn foreign() -> Secret {
    let secret = json!({"metadata": {"name": "printer"}, "type": "servicebinding.io/smtp"});
    serde_json::from_value(secret).expect("a secret")
}

fn put_key(plan: &Plan<SubAccountApiKeyStatus>) -> Option<KeyEntry> {
    entries(plan).first().map(|entry| match entry {
        Entry::Key(key) => key.clone(),
        Entry::Policy(_) | Entry::Account(_) => panic!("a key is put"),
    })
}

fn seen_policy(entry: Option<crate::domain::directory::PolicyEntry>, users: Vec<Name>) -> credit_policy::Observed {
    credit_policy::Observed {
        id: PolicyId(Uuid::from_u128(1)),
        entry,
        login: Login::None,
        namespace: "franking".into(),
        gauge: None,
        cost: Default::default(),
        accounts: AccountCounts::default(),
        limited: Default::default(),
        users,
        endpoint: endpoint(),
        relay: RelayState::default(),
        config_hash: None,
        sightings: None,
        orphans: None,
        ledger_ahead: None,
        figures_permitted: false,
    }
}

fn put_policy(plan: &Plan<crate::crd::CreditPolicyStatus>) -> Option<crate::domain::directory::PolicyEntry> {
    entries(plan).first().map(|entry| match entry {
        Entry::Policy(policy) => policy.clone(),
        Entry::Account(_) | Entry::Key(_) => panic!("a policy is put"),
    })
}

#[test]
fn a_key_is_revoked_whatever_else_is_wrong_with_it() {
    type Fault = fn(&mut Scene);
    let cases: [(&str, Fault, Value); 3] = [
        ("another mistake", |_| {}, json!({"revoked": true, "allowFrom": ["10.0.0.1/8"]})),
        ("no account", |scene| scene.seen.account = None, json!({"revoked": true})),
        ("a foreign secret", |scene| scene.seen.secret = Some(foreign()), json!({"revoked": true})),
    ];
    for (what, fault, spec) in cases {
        let mut scene = Scene::new(json!({}));
        scene.settle();
        fault(&mut scene);
        scene.set(spec);
        // Alone and at once: everything else is judged in a second pass.
        let plan = scene.settle();
        assert!(put_key(&plan).is_some_and(|entry| entry.revoked), "{what}");
        assert_eq!((letters(&plan).as_str(), plan.repeat_pass), ("P", true), "{what}");
        let rest = scene.settle();
        assert!(!rest.repeat_pass, "{what}");
        assert_eq!(letters(&scene.settle()), "", "{what}");
    }
}

#[test]
fn a_key_is_narrowed_while_its_secret_is_another_s() {
    let mut scene = Scene::new(json!({}));
    scene.settle();
    scene.seen.secret = Some(foreign());
    scene.set(json!({"allowFrom": ["10.0.0.0/8"]}));
    let plan = scene.settle();
    assert_eq!(verdict(&plan.status.as_ref().expect("a status").conditions), "SecretConflict!");
    let entry = put_key(&plan).expect("an entry");
    assert!(!entry.allow_from.is_empty() && !entry.credentials.is_empty());
    assert_eq!(letters(&scene.settle()), "");
}

#[test]
fn a_key_is_narrowed_and_keeps_its_password_while_its_secret_must_not_be_read() {
    let mut scene = Scene::new(json!({}));
    scene.settle();
    let before = scene.seen.entry.clone().expect("an entry");
    scene.seen.secret = None;
    scene.seen.forbidden = Some("reading the Secret \"key\": it is forbidden".into());
    scene.set(json!({"allowFrom": ["10.0.0.0/8"]}));
    let plan = scene.settle();
    let status = plan.status.as_ref().expect("a status");
    assert_eq!(verdict(&status.conditions), "ApplyFailed");
    let entry = put_key(&plan).expect("an entry");
    assert!(!entry.allow_from.is_empty());
    assert_eq!(entry.credentials, before.credentials);
    assert!(plan.requeue_at.is_some(), "no event tells that the right was granted");
}

#[test]
fn neither_a_login_nor_the_installation_s_keys_are_adopted() {
    let secret = |name: &str, label: &str| -> Secret {
        let metadata = json!({"name": name, "labels": {label: "true"}});
        serde_json::from_value(json!({"metadata": metadata, "type": "servicebinding.io/smtp"})).expect("a secret")
    };
    for (name, label, writes) in
        [("printer", "team", true), ("printer", "franking.io/use", false), ("franking-installation", "app", false)]
    {
        let mut scene = Scene::new(json!({"secret": {"adopt": true, "name": name}}));
        scene.seen.secret = Some(secret(name, label));
        assert_eq!(letters(&scene.plan()).contains('W'), writes, "{name} {label}");
    }
}

#[test]
fn a_secret_is_shared_only_where_nothing_in_it_is_overwritten() {
    let secret = |more: Value| -> Secret {
        let mut secret =
            json!({"metadata": {"name": "printer", "resourceVersion": "1"}, "type": "servicebinding.io/smtp"});
        merge(&mut secret, &more);
        serde_json::from_value(secret).expect("a secret")
    };
    let adoption = |key: &str| json!({"key": key, "uid": "gone", "data": ["password"], "labels": []}).to_string();
    // The Secret, the key's labels for it, and the text of the refusal; `None` if it is shared.
    let cases = [
        (json!({"data": {"colour": "Ymx1ZQ=="}}), json!({}), None),
        (json!({"data": {"password": "eA==", "uri": "eA=="}}), json!({}), Some("has password, uri already")),
        (json!({"data": {"type": "c210cA=="}}), json!({}), Some("has type already")),
        (json!({"metadata": {"labels": {"team": "b"}}}), json!({"team": "a"}), Some("has label team already")),
        (json!({"metadata": {"labels": {"team": "a"}}}), json!({"team": "a"}), None),
        (json!({"immutable": true}), json!({}), Some("is immutable")),
        // Additions of a key with this name are ours to write, those of another key are not.
        (
            json!({"data": {"password": "eA=="}, "metadata": {"annotations": {"franking.io/adopted": adoption("printer")}}}),
            json!({}),
            None,
        ),
        (
            json!({"data": {"x": "eA=="}, "metadata": {"annotations": {"franking.io/adopted": adoption("other")}}}),
            json!({}),
            Some("is adopted by the key \"other\""),
        ),
    ];
    for (theirs, labels, refusal) in cases {
        let mut scene = Scene::new(json!({"secret": {"adopt": true, "metadata": {"labels": labels}}}));
        let before = secret(theirs.clone());
        scene.seen.secret = Some(before.clone());
        let plan = scene.settle();
        let status = plan.status.as_ref().expect("a status");
        let sentence = &find_condition(&status.conditions, ConditionType::Ready).expect("Ready").message;
        assert_eq!(verdict(&status.conditions) == "SecretConflict!", refusal.is_some(), "{theirs}: {sentence}");
        let Some(words) = refusal else {
            assert!(scene.works(&scene.password()), "{theirs}");
            assert_eq!(letters(&scene.settle()), "", "{theirs}");
            continue;
        };
        assert!(sentence.contains(words), "{theirs}: {sentence}");
        assert_eq!(scene.seen.secret, Some(before), "{theirs}");
    }
}

#[test]
fn a_shared_secret_is_let_go_as_it_was() {
    let before: Secret = serde_json::from_value(json!({
        "metadata": {"name": "printer", "resourceVersion": "1", "labels": {"team": "a"}, "annotations": {"note": "b"}},
        "type": "servicebinding.io/smtp", "data": {"colour": "Ymx1ZQ=="}
    }))
    .expect("a secret");
    let labels = json!({"team": "a", "extra": "c"});
    let mut scene = Scene::new(json!({"secret": {"adopt": true, "metadata": {"labels": labels}}}));
    scene.seen.secret = Some(before.clone());
    scene.settle();
    assert_ne!(scene.seen.secret.as_ref(), Some(&before));
    scene.key.metadata.deletion_timestamp = scene.key.metadata.creation_timestamp.clone();
    scene.seen.others = scene.seen.secret.clone().into_iter().collect();
    assert_eq!(letters(&scene.settle()), "PWG");
    assert_eq!(scene.seen.secret, Some(before));
}

#[test]
fn a_shared_secret_that_became_immutable_is_let_go_with_what_was_added_to_it() {
    for renamed in [false, true] {
        let mut scene = Scene::new(json!({"secret": {"adopt": true}}));
        scene.seen.secret = Some(
            serde_json::from_value(json!({
                "metadata": {"name": "printer", "resourceVersion": "1"}, "type": "servicebinding.io/smtp", "data": {"colour": "eA=="}
            }))
            .expect("a secret"),
        );
        scene.settle();
        let mut shared = scene.seen.secret.clone().expect("the secret");
        shared.immutable = Some(true);
        let data = shared.data.clone();
        scene.seen.others = vec![shared];
        if renamed {
            scene.set(json!({"secret": {"name": "other"}}));
            scene.seen.secret = None;
        } else {
            scene.key.metadata.deletion_timestamp = scene.key.metadata.creation_timestamp.clone();
        }
        let plan = scene.plan();
        let released = plan.steps.iter().find_map(|step| match step {
            Step::PatchSecret { name, patch } if name == "printer" => Some(patch),
            _ => None,
        });
        // The API server refuses a change of its data, but accepts one of its labels and annotations.
        let released = released.expect("it is let go");
        assert!(
            released.get("data").is_none() && released["metadata"]["annotations"]["franking.io/adopted"].is_null(),
            "{released}"
        );
        assert_eq!(letters(&plan).ends_with('G'), !renamed);
        let [notice] = plan.events.as_slice() else { panic!("{:?}", plan.events) };
        assert_eq!((notice.warning, notice.reason.as_str()), (true, "SecretImmutable"));
        assert!(
            data.is_some_and(|data| data.contains_key("password")) && notice.note.contains("password"),
            "{notice:?}"
        );
    }
}

#[test]
fn a_key_ends_with_its_account_and_comes_back_with_it() {
    let mut scene = Scene::new(json!({}));
    scene.settle();
    let (password, account) = (scene.password(), scene.seen.account.take());
    assert_eq!(put_key(&scene.settle()).and_then(|entry| entry.removed_at), Some(now()));
    assert_eq!(letters(&scene.settle()), "");
    scene.seen.account = account;
    assert_eq!(put_key(&scene.settle()).map(|entry| entry.removed_at), Some(None));
    assert!(scene.works(&password));
}

#[test]
fn a_rotation_that_comes_with_another_name_is_not_forgotten() {
    let mut scene = Scene::new(json!({}));
    scene.settle();
    let old = scene.password();
    let mut live = scene.seen.secret.take().expect("a secret");
    (live.metadata.uid, live.metadata.resource_version) = (Some("u".into()), Some("1".into()));
    scene.seen.others = vec![live];
    scene.set(json!({"secret": {"name": "smtp"}, "rotation": {"restartedAt": "2026-11-22T09:00:00Z"}}));
    assert_eq!(letters(&scene.settle()), "PCRPD");
    assert!(scene.password() != old && scene.works(&scene.password()) && scene.works(&old));
    assert_eq!(letters(&scene.settle()), "");
}

#[test]
fn a_policy_is_suspended_also_when_it_is_invalid_or_on_its_way_out() {
    let entry = put_policy(&credit_policy::plan(&policy(json!({})), &seen_policy(None, vec![]), now()));
    let users = vec![Name::new("team", "shop")];
    let invalid = policy(json!({"suspended": true, "pool": {"timeZone": "Mars/Olympus"}}));
    let mut leaving = policy(json!({"suspended": true}));
    leaving.metadata.deletion_timestamp = leaving.metadata.creation_timestamp.clone();
    for (object, reason) in [(invalid, "Invalid!"), (leaving, "InUse")] {
        let plan = credit_policy::plan(&object, &seen_policy(entry.clone(), users.clone()), now());
        let put = put_policy(&plan).expect(reason);
        assert!(put.suspended.is_some() && put.removed_at.is_none(), "{reason}");
        assert_eq!(verdict(&plan.status.expect("a status").conditions), reason);
        let again = credit_policy::plan(&object, &seen_policy(Some(put), users.clone()), now());
        assert_eq!(letters(&again), "", "{reason}");
    }
}

#[test]
fn an_account_is_suspended_while_its_policy_is_broken() {
    let mut seen = seen_account(Some(policy(json!({"pool": {"timeZone": "Mars/Olympus"}}))));
    seen.entry = Some(standing_account());
    let plan = sub_account::plan(&account(json!({"suspended": true})), &seen, now());
    let Some(Entry::Account(put)) = entries(&plan).first().copied().cloned() else { panic!("an account is put") };
    assert!(put.suspended.is_some() && put.removed_at.is_none());
    seen.entry = Some(put);
    assert_eq!(letters(&sub_account::plan(&account(json!({"suspended": true})), &seen, now())), "");
}

#[test]
fn a_purged_account_keeps_the_place_of_its_namespace_and_not_its_name() {
    let mut account = account(json!({"deletionPolicy": "Purge"}));
    account.metadata.deletion_timestamp = account.metadata.creation_timestamp.clone();
    let mut seen = seen_account(None);
    seen.entry = Some(standing_account());
    let plan = sub_account::plan(&account, &seen, now());
    let Some(Entry::Account(put)) = entries(&plan).first().copied().cloned() else { panic!("an account is put") };
    assert_eq!((put.namespace.as_str(), put.name.as_str()), ("n", ""));
}

#[test]
fn what_was_refused_and_never_counted_is_not_written_again() {
    let later = now().checked_add(SignedDuration::from_hours(1)).expect("a time");
    let mut refused = account(json!({}));
    refused.status = sub_account::plan(&refused, &seen_account(None), now()).status;
    assert_eq!(sub_account::plan(&refused, &seen_account(None), later).status, refused.status);
    let mut scene = Scene::new(json!({}));
    scene.seen.account = None;
    scene.key.status = scene.plan().status;
    let again = api_key::plan(&scene.key, &scene.seen, later, &mut scene.rng);
    assert_eq!(again.status, scene.key.status);
}

#[test]
fn an_account_waits_until_the_relays_know_its_policy_and_keeps_its_old_plan_until_then() {
    let mut seen = seen_account(Some(policy(json!({}))));
    seen.policy.as_mut().expect("a policy").stands = false;
    let first = sub_account::plan(&account(json!({})), &seen, now());
    assert!(letters(&first).is_empty() && first.status.is_none(), "no word of a new account");
    let mut moved = account(json!({}));
    moved.status = Some(Default::default());
    seen.entry = Some(AccountEntry { policy: PolicyId(Uuid::from_u128(9)), ..standing_account() });
    let plan = sub_account::plan(&moved, &seen, now());
    assert_eq!(letters(&plan), "", "it stays with the policy that it had");
    assert_eq!(verdict(&plan.status.expect("a status").conditions), "PolicyNotReady");
    seen.policy.as_mut().expect("a policy").stands = true;
    assert_eq!(letters(&sub_account::plan(&moved, &seen, now())), "P");
}

#[test]
fn a_key_that_is_removed_leaves_no_address_behind() {
    let narrow = json!({"allowedSenders": ["alice@example.com"], "allowFrom": ["192.0.2.7/32"]});
    let mut scene = Scene::new(narrow);
    scene.settle();
    let entry = scene.seen.entry.clone().expect("an entry");
    assert_eq!((entry.allowed_senders.len(), entry.allow_from.len()), (1, 1));
    // Its account was deleted first: once it is back, the key follows its spec again.
    let account = scene.seen.account.take();
    let put = put_key(&scene.settle()).expect("it is taken out of service");
    assert!(put.allowed_senders.is_empty() && put.allow_from.is_empty() && !put.credentials.is_empty());
    scene.seen.account = account;
    assert_eq!(put_key(&scene.settle()), Some(entry));
    scene.key.metadata.deletion_timestamp = scene.key.metadata.creation_timestamp.clone();
    let put = put_key(&scene.settle()).expect("it is removed");
    assert!(put.allowed_senders.is_empty() && put.allow_from.is_empty() && put.credentials.is_empty());
    assert_eq!(letters(&scene.settle()), "G", "it is said once");
}
