//! A status is true: after failed passes, for a Secret that lost its owner, and along the chain.

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
    assert!(interruption.event(&ready).is_some_and(|event| event.warning && event.note.contains("the words")));
    assert_eq!(interruption.event(&after), None);
    assert!(transition(&after, &ready).is_some_and(|notice| !notice.warning && notice.reason == Reason::Ready));
}

/// Removes the owner reference from the Secret, with a new version.
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

/// Returns the status of a key of the account; the key's own credits are not exhausted.
fn judged_key(account: &SubAccount) -> SubAccountApiKeyStatus {
    let mut scene = Scene::new(json!({}));
    let seen = scene.seen.account.as_mut().expect("an account");
    seen.obstacle = sub_account::obstacle(account);
    seen.sending = account.status.as_ref().and_then(|status| status.sending.clone());
    scene.settle();
    scene.plan().status.expect("a status")
}

/// Returns status and reason of `Ready`, and its message.
fn said(conditions: &[Condition]) -> (String, String) {
    let ready = find_condition(conditions, ConditionType::Ready).expect("Ready is always there");
    (format!("{}: {}", ready.status, ready.reason), ready.message.clone())
}

#[test]
fn ready_is_told_along_the_chain() {
    let upstream = json!({"upstream": {"host": "h.example.com", "credentialsSecretRef": {"name": "login"}}});
    let unpaid = json!({"suspended": true, "suspendReason": "unpaid"});
    let (none, nobody, elsewhere) = (json!({}), json!({"senders": {}}), json!({"allowedSenders": ["*@other.example"]}));
    let unlisted = "its policy \"plan\" is not ready: spec.senders.domains: nothing can be sent";
    let missing = "its policy \"plan\" is not ready: spec.upstream.credentialsSecretRef.name: there is no Secret";
    type Words = (&'static str, &'static str);
    let cases: [(&Value, Login, &Value, Words, Words); 7] = [
        (
            &none,
            Login::None,
            &none,
            ("True: Ready", "its settings permit sending"),
            ("True: Ready", "the Secret \"printer\" holds a password that works"),
        ),
        (
            &upstream,
            Login::Missing(Wanted::Credentials),
            &none,
            ("False: PolicyNotReady", missing),
            ("False: PolicyNotReady", missing),
        ),
        (&nobody, Login::None, &none, ("False: PolicyNotReady", unlisted), ("False: PolicyNotReady", unlisted)),
        (
            &none,
            Login::None,
            &elsewhere,
            ("False: SendersNotPermitted", "spec.allowedSenders: nothing can be sent, because none of these senders"),
            ("False: AccountNotReady", "its account \"shop\" is not ready: spec.allowedSenders: nothing can be sent"),
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
        let open = ![&unpaid, &upstream, &nobody].contains(&policy_spec);
        assert_eq!(above.sending.as_deref(), Some(if open { "yes" } else { "no" }));
        assert_eq!(said(&above.conditions).0.starts_with("True"), open);
    }
}

#[test]
fn used_up_credits_and_an_upstream_that_is_away_do_not_turn_ready_and_are_told_along_the_chain() {
    let used_up = "no credits until 2026-12-01T00:00:00Z";
    // The use of the pool and of the cap of ten, and whether the upstream is away.
    let cases = [
        (10, 0, false, used_up, used_up, "at the moment its account has no credits until 2026-12-01T00:00:00Z"),
        (0, 10, false, "yes", used_up, "at the moment its account has no credits until 2026-12-01T00:00:00Z"),
        (
            0,
            0,
            true,
            "upstream away",
            "upstream away",
            "at the moment its upstream is unavailable, and mail is deferred with 451",
        ),
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

#[test]
fn a_policy_without_a_sender_domain_is_refused_and_its_upstream_stays() {
    for spec in [json!({"senders": {}}), json!({"senders": {"domains": []}}), json!({"senders": {}, "suspended": true})]
    {
        let plan = credit_policy::plan(&policy(spec.clone()), &seen_policy(None, None), now());
        let Entry::Policy(entry) = entries(&plan)[0] else { panic!("a policy") };
        assert!(entry.upstream.is_some(), "{spec}: a sender hears why, and not that mail waits");
        let conditions = plan.status.expect("a status").conditions;
        assert_eq!(verdict(&conditions), "NoSenderDomains!", "{spec}");
        let told = transition(&[], &conditions).expect("an event");
        assert!(told.warning && told.note.starts_with("spec.senders.domains: "), "{told:?}");
    }
    // Its account goes by the spec, even if the policy's status says something else or nothing yet.
    let shown = judged_account(&mut account(json!({})), &policy(json!({"senders": {}})), 0);
    let (verdict, sentence) = said(&shown.conditions);
    assert_eq!(verdict, "False: PolicyNotReady");
    assert!(sentence.starts_with("its policy \"plan\" is not ready: spec.senders.domains: "), "{sentence}");
}

#[test]
fn a_key_that_has_no_sender_in_common_with_its_account_says_so_unless_the_account_has_none_at_all() {
    let cases = [
        // The account's senders, the key's, and the key's reason.
        (json!(["sales@example.com"]), json!(["ceo@example.com"]), "SendersNotPermitted!"),
        (json!(["sales@example.com"]), json!(["ceo@example.com", "*@example.com"]), "Ready"),
        (json!(["sales@example.com"]), json!(["*@other.example"]), "SendersNotPermitted!"),
        (json!(["sales@other.example"]), json!(["ceo@example.com"]), "AccountNotReady"),
        (json!(["sales@other.example"]), json!(["sales@other.example"]), "AccountNotReady"),
    ];
    for (of_account, of_key, expected) in cases {
        let (mut policy, mut account) = (policy(json!({})), account(json!({"allowedSenders": of_account})));
        judged_policy(&mut policy, Login::None, 0);
        judged_account(&mut account, &policy, 0);
        let mut scene = Scene::new(json!({"allowedSenders": of_key}));
        let seen = scene.seen.account.as_mut().expect("an account");
        let patterns = account.spec.check().expect("a valid spec").allowed_senders;
        seen.senders = Some((vec![MailDomain::parse("example.com").expect("a domain")], Some(patterns)));
        seen.obstacle = sub_account::obstacle(&account);
        scene.settle();
        let status = scene.plan().status.expect("a status");
        assert_eq!(verdict(&status.conditions), expected, "{of_account} {of_key}");
        assert_eq!(status.sending.as_deref(), Some(if expected == "Ready" { "yes" } else { "no" }));
    }
}

#[test]
fn rotates_at_is_when_the_password_really_changes() {
    let at = |hours| now().checked_add(SignedDuration::from_hours(hours)).expect("a time");
    let (current, before) = (Stage::Current { since: now() }, Stage::Previous { until: at(100) });
    let cases = [
        // The requested rotation, the end of the previous password, and when this one changes.
        (json!({"every": "48h"}), None, Some(48)),
        (json!({"every": "48h"}), Some(before), Some(100)),
        (json!({"every": "720h"}), Some(before), Some(720)),
        (json!({"every": "48h", "force": true}), Some(before), Some(48)),
        (json!({"restartedAt": "2026-11-22T09:00:00Z"}), Some(before), Some(100)),
        (json!({"every": "720h", "restartedAt": "2026-11-22T09:00:00Z"}), Some(before), Some(100)),
        (json!({}), Some(before), None),
    ];
    for (rotation, previous, expected) in cases {
        let mut scene = Scene::new(json!({}));
        scene.settle();
        let known = &mut scene.seen.entry.as_mut().expect("an entry").credentials;
        known[0].stage = current;
        known.extend(previous.map(|stage| Credential { hash: hash_key().hash(&Password::given("old")), stage }));
        scene.set(json!({"rotation": rotation}));
        for hours in [0, 50] {
            let Scene { key, seen, rng } = &mut scene;
            let plan = api_key::plan(key, seen, at(hours), rng);
            let credential = plan.status.as_ref().and_then(|status| status.credential.clone()).expect("its dates");
            let due = expected == Some(48) && hours == 50;
            let rotates_at = if due { at(98) } else { at(expected.unwrap_or_default()) };
            assert_eq!(credential.rotates_at.map(|at| at.0), expected.map(|_| rotates_at), "{rotation} {previous:?}");
            assert!(
                plan.requeue_at.is_none_or(|requeue_at| requeue_at > at(hours)),
                "{rotation}: it is looked at in a circle"
            );
        }
        scene.key.spec.expires_at = Some(at(40).to_string());
        let credential = scene.plan().status.expect("a status").credential.expect("its dates");
        assert_eq!(credential.rotates_at, None, "{rotation}: the key ends before");
    }
}

#[test]
fn a_use_of_the_present_password_is_not_told_as_one_before_it_was_issued() {
    let time = |text: &str| text.parse::<Timestamp>().expect("a time");
    // The password was issued at 10:07.
    for (used, shown) in [
        ("2026-11-22T10:59:59Z", "2026-11-22T10:07:00Z"),
        ("2026-11-22T10:07:00Z", "2026-11-22T10:07:00Z"),
        ("2026-11-22T11:03:00Z", "2026-11-22T11:00:00Z"),
        // A use of the previous password.
        ("2026-11-22T10:06:59Z", "2026-11-22T10:00:00Z"),
        ("2026-11-22T08:30:00Z", "2026-11-22T08:00:00Z"),
    ] {
        let mut scene = Scene::new(json!({}));
        scene.settle();
        scene.seen.entry.as_mut().expect("an entry").credentials[0].stage =
            Stage::Current { since: time("2026-11-22T10:07:00Z") };
        let mut of_key = balance(Holder::Key(KeyId(Uuid::from_u128(3))), None, 1);
        of_key.usage.last_sent_at = Some(time(used));
        scene.seen.gauge = Some(Gauge::of(&of_key));
        let status = scene.plan().status.expect("a status");
        assert_eq!(status.last_used_at.map(|at| at.0), Some(time(shown)), "{used}");
        // The same if the key's spec is refused meanwhile.
        scene.key.status =
            Some(SubAccountApiKeyStatus { last_used_at: None, ..scene.plan().status.expect("a status") });
        scene.set(json!({"allowFrom": ["10.0.0.1/8"]}));
        let refused = scene.plan().status.expect("a status");
        assert_eq!(verdict(&refused.conditions), "Invalid!");
        assert_eq!(refused.last_used_at.map(|at| at.0), Some(time(shown)), "{used}");
    }
}

#[test]
fn a_key_of_a_refused_account_has_nothing_left() {
    for balance in [None, Some(balance(Holder::Key(KeyId(Uuid::from_u128(3))), Some(70), 20))] {
        let mut scene = Scene::new(json!({"cap": {"credits": 70}}));
        scene.seen.gauge = balance.as_ref().map(Gauge::of);
        let left = |scene: &mut Scene| {
            let status = scene.plan().status.expect("a status");
            let credits = status.credits.expect("credits");
            (credits.remaining, credits.reopens_at.is_some(), status.sending.expect("a word"))
        };
        let open = (Some(if balance.is_some() { 50 } else { 70 }), true, "yes".to_owned());
        assert_eq!(left(&mut scene), open);
        let account = scene.seen.account.as_mut().expect("an account");
        (account.programmed, account.stalled, account.refusal) = (false, true, Some("spec.cap: too high".to_owned()));
        assert_eq!(left(&mut scene), (Some(0), false, "no".to_owned()));
        // Nothing changed, so nothing is written again for the figures alone.
        scene.key.status = scene.plan().status;
        assert_eq!(scene.plan().status, scene.key.status);
        scene.seen.account.as_mut().expect("an account").programmed = true;
        assert_eq!(left(&mut scene), open);
    }
}
