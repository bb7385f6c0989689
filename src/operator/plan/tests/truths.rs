//! What a status says is so: of passes that failed, of a Secret that lost its owner, and along the chain.

use super::credits::{balance, of_account, seen_policy};
use super::*;
use crate::crd::{CreditPolicyStatus, Reason, SubAccountStatus};
use crate::domain::id::Holder;
use crate::operator::plan::gauge::Gauge;
use crate::operator::plan::{Interruption, interrupted, was_interrupted};

fn conditions(scene: &mut Scene) -> Vec<Condition> {
    scene.settle();
    scene.plan().status.expect("a status").conditions
}

fn failed(reason: Reason, failures: u32) -> Interruption {
    Interruption {
        reason,
        message: "the words of the API server".to_owned(),
        refused: reason == Reason::ApplyFailed,
        contended: false,
        outstanding: false,
        failures,
    }
}

#[test]
fn a_refusal_is_shown_at_once_and_what_may_pass_by_itself_when_it_lasts() {
    let ready = conditions(&mut Scene::new(json!({})));
    let revoked = conditions(&mut Scene::new(json!({"revoked": true})));
    let ledger = |failures| failed(Reason::LedgerUnavailable, failures);
    let outstanding = |interruption| Interruption { outstanding: true, ..interruption };
    let contended = |interruption| Interruption { contended: true, refused: false, ..interruption };
    let shown = interrupted(&ready, Some(1), now(), &ledger(3));
    let cases = [
        ("refused", &ready, failed(Reason::ApplyFailed, 1), true),
        ("refused, over a revocation whose cause may be gone", &revoked, failed(Reason::ApplyFailed, 1), true),
        ("the ledger, once", &ready, ledger(1), false),
        ("the ledger, again and again", &ready, ledger(3), true),
        ("the ledger, shown already", &shown, ledger(4), true),
        ("a revocation stays one", &revoked, ledger(30), false),
        ("a new spec waits for the ledger", &ready, outstanding(ledger(1)), true),
        ("a new spec of a revoked key", &revoked, outstanding(ledger(1)), true),
        ("another writer, once", &ready, outstanding(contended(failed(Reason::ApplyFailed, 1))), false),
        ("another writer, each time", &ready, contended(failed(Reason::ApplyFailed, 3)), true),
    ];
    for (what, standing, interruption, expected) in cases {
        assert_eq!(interruption.is_shown(standing), expected, "{what}");
    }
}

#[test]
fn a_failed_pass_turns_ready_leaves_what_is_in_the_directory_and_is_told_once_each_way() {
    let ready = conditions(&mut Scene::new(json!({})));
    let interruption = failed(Reason::ApplyFailed, 1);
    let after = interrupted(&ready, Some(1), now(), &interruption);
    assert_eq!(verdict(&after), "ApplyFailed");
    assert!(is_true(&after, ConditionType::Programmed) && is_true(&after, ConditionType::Reconciling));
    assert!(was_interrupted(&after) && !was_interrupted(&ready));
    let unjudged = interrupted(&ready, Some(2), now(), &Interruption { outstanding: true, ..interruption.clone() });
    assert!(!is_true(&unjudged, ConditionType::Programmed), "the new spec is not in the directory");
    assert!(interruption.notice(&ready).is_some_and(|notice| notice.warning && notice.note.contains("the words")));
    assert_eq!(interruption.notice(&after), None);
    assert!(transition(&after, &ready).is_some_and(|notice| !notice.warning && notice.reason == Reason::Ready));
}

/// The Secret without its owner, in this version.
fn disowned(scene: &mut Scene) {
    let secret = scene.seen.secret.as_mut().expect("a secret");
    secret.metadata.owner_references = None;
    secret.metadata.resource_version = Some("7".to_owned());
}

#[test]
fn a_secret_that_lost_its_owner_is_taken_back_with_its_password() {
    let mut scene = Scene::new(json!({}));
    scene.settle();
    let password = scene.password();
    disowned(&mut scene);
    let plan = scene.settle();
    assert_eq!(letters(&plan), "W");
    assert_eq!(verdict(&plan.status.expect("a status").conditions), "Ready");
    let owners = scene.seen.secret.as_ref().and_then(|secret| secret.metadata.owner_references.clone());
    assert_eq!(owners.expect("an owner")[0].uid, "uid-printer");
    assert_eq!(scene.password(), password);
    assert_eq!(letters(&scene.settle()), "");
}

#[test]
fn a_secret_without_an_owner_is_taken_back_only_with_label_and_content_of_this_very_key() {
    type Fault = fn(&mut Scene);
    let cases: [(&str, Fault); 4] = [
        ("another password", |scene| scene.write("password", "chosen by hand, long enough")),
        ("another key's user name", |scene| scene.write("username", "other-0123456789")),
        ("without our labels", |scene| {
            scene.seen.secret.as_mut().expect("a secret").metadata.labels = None;
        }),
        ("a controller of another kind", |scene| {
            let owner =
                json!([{"apiVersion": "v1", "kind": "Deployment", "name": "x", "uid": "x", "controller": true}]);
            let owners = serde_json::from_value(owner).expect("owners");
            scene.seen.secret.as_mut().expect("a secret").metadata.owner_references = owners;
        }),
    ];
    for (what, fault) in cases {
        let mut scene = Scene::new(json!({}));
        scene.settle();
        disowned(&mut scene);
        fault(&mut scene);
        let plan = scene.plan();
        assert_eq!(letters(&plan), "", "{what}");
        assert_eq!(verdict(&plan.status.expect("a status").conditions), "SecretConflict!", "{what}");
    }
}

fn judged_policy(policy: &mut CreditPolicy, login: Login, used: i64) -> CreditPolicyStatus {
    let pool = Holder::Policy(PolicyId(Uuid::from_u128(1)));
    let seen = credit_policy::Observed { login, ..seen_policy(None, Some(&balance(pool, Some(10), used))) };
    policy.status = credit_policy::plan(policy, &seen, now()).status;
    policy.status.clone().expect("a status")
}

fn judged_account(account: &mut SubAccount, policy: &CreditPolicy, used: i64) -> SubAccountStatus {
    let mut seen = seen_account(Some(policy.clone()));
    seen.gauge = Some(Gauge::of(&of_account(Some(10), used)));
    account.status = sub_account::plan(account, &seen, now()).status;
    account.status.clone().expect("a status")
}

/// The status of a key of the account, whose own credits are not used up.
fn judged_key(account: &SubAccount) -> SubAccountApiKeyStatus {
    let mut scene = Scene::new(json!({}));
    let seen = scene.seen.account.as_mut().expect("an account");
    seen.obstacle = sub_account::obstacle(account);
    seen.sending = account.status.as_ref().and_then(|status| status.sending.clone());
    scene.settle();
    scene.plan().status.expect("a status")
}

/// `Ready: reason`, and its sentence.
fn said(conditions: &[Condition]) -> (String, String) {
    let ready = find_condition(conditions, ConditionType::Ready).expect("Ready is always there");
    (format!("{}: {}", ready.status, ready.reason), ready.message.clone())
}

#[test]
fn ready_is_told_along_the_chain() {
    let upstream = json!({"upstream": {"host": "h.example.com", "credentialsSecretRef": {"name": "login"}}});
    let unpaid = json!({"suspended": true, "suspendReason": "unpaid"});
    let none = json!({});
    let missing = "its policy \"plan\" is not ready: spec.upstream.credentialsSecretRef.name: there is no Secret";
    type Words = (&'static str, &'static str);
    let cases: [(&Value, Login, &Value, Words, Words); 5] = [
        (
            &none,
            Login::None,
            &none,
            ("True: Ready", "mail can be sent"),
            ("True: Ready", "the Secret \"printer\" holds a password that works"),
        ),
        (
            &upstream,
            Login::Missing(Wanted::Credentials),
            &none,
            ("False: PolicyNotReady", missing),
            ("False: PolicyNotReady", missing),
        ),
        (
            &unpaid,
            Login::None,
            &none,
            ("False: ParentSuspended", "its policy \"plan\" is suspended: unpaid"),
            ("False: ParentSuspended", "its policy \"plan\" is suspended: unpaid"),
        ),
        (
            &none,
            Login::None,
            &unpaid,
            ("False: Suspended", "suspended by spec.suspended"),
            ("False: ParentSuspended", "its account is suspended: unpaid"),
        ),
        (
            &json!({"perAccount": {"prepaid": "Required"}}),
            Login::None,
            &none,
            ("False: RequiredByPolicy", "nothing can be sent: the CreditPolicy \"plan\" requires"),
            ("False: AccountNotReady", "its account \"shop\" is not ready: nothing can be sent: the CreditPolicy"),
        ),
    ];
    for (policy_spec, login, account_spec, of_account, of_key) in cases {
        let (mut policy, mut account) = (policy(policy_spec.clone()), account(account_spec.clone()));
        let above = judged_policy(&mut policy, login, 0);
        let shown = judged_account(&mut account, &policy, 0);
        let key = judged_key(&account);
        for (conditions, sending, (verdict, words)) in
            [(&shown.conditions, &shown.sending, of_account), (&key.conditions, &key.sending, of_key)]
        {
            let (found, sentence) = said(conditions);
            assert_eq!(found, verdict, "{sentence}");
            assert!(sentence.starts_with(words), "{sentence}");
            let expected = if verdict.starts_with("True") { "yes" } else { "no" };
            assert_eq!(sending.as_deref(), Some(expected), "{sentence}");
            let accepted = find_condition(conditions, ConditionType::Accepted).expect("Accepted");
            assert_eq!(accepted.status, "True", "what it says itself is right: {sentence}");
            assert!(!is_true(conditions, ConditionType::Stalled) && !is_true(conditions, ConditionType::Reconciling));
        }
        let open = policy_spec != &unpaid && policy_spec != &upstream;
        assert_eq!(above.sending.as_deref(), Some(if open { "yes" } else { "no" }));
        assert_eq!(said(&above.conditions).0.starts_with("True"), open);
    }
}

#[test]
fn used_up_credits_and_an_upstream_that_is_away_do_not_turn_ready_and_are_told_along_the_chain() {
    let used_up = "no credits until 2026-12-01T00:00:00Z";
    // What the pool and the cap of ten have used, and whether the upstream is away.
    let cases = [
        (10, 0, false, used_up, used_up, "at the moment its account has no credits until 2026-12-01T00:00:00Z"),
        (0, 10, false, "yes", used_up, "at the moment its account has no credits until 2026-12-01T00:00:00Z"),
        (0, 0, true, "upstream away", "upstream away", "at the moment its upstream is away, and mail waits with 451"),
    ];
    for (pool, cap, away, of_policy, of_account, of_key) in cases {
        let (mut policy, mut account) =
            (policy(json!({"pool": {"credits": 10}})), account(json!({"cap": {"credits": 10}})));
        if away {
            let condition = json!({
                "type": "UpstreamAvailable", "status": "False", "reason": "UpstreamUnreachable", "message": "",
                "lastTransitionTime": "2026-11-22T09:00:00Z"
            });
            let standing = json!({"conditions": [condition]});
            policy.status = Some(serde_json::from_value(standing).expect("a status"));
        }
        let above = judged_policy(&mut policy, Login::None, pool);
        let shown = judged_account(&mut account, &policy, cap);
        let key = judged_key(&account);
        let sending = [&above.sending, &shown.sending, &key.sending].map(|sending| sending.clone().expect("a word"));
        assert_eq!(sending, [of_policy, of_account, of_account]);
        for conditions in [&above.conditions, &shown.conditions, &key.conditions] {
            assert_eq!(verdict(conditions), "Ready");
        }
        let sentence = said(&key.conditions).1;
        assert_eq!(sentence, format!("the Secret \"printer\" holds a password that works; {of_key}"));
    }
}
