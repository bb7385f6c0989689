//! Accounts: each refusal, and how they and their namespaces end.

use super::*;
use crate::crd::AccountState;

#[test]
fn each_refusal_of_an_account_has_its_reason_and_takes_it_out_of_service() {
    type Edit = fn(&mut SubAccount, &mut sub_account::Observed);
    let cases: [(&str, Edit); 8] = [
        ("PricingMissing!", |account, _| account.spec.spend_limit_minor = Some(100)),
        ("PolicyNotFound!", |_, seen| seen.policy = None),
        ("NotAllowedByPolicy!", |_, seen| {
            let rule = json!({"from": "Selector", "selector": {"matchLabels": {"a": "b"}}});
            replace(seen, json!({"allowedNamespaces": rule}));
        }),
        ("CapAboveCeiling!", |account, seen| {
            account.spec = self::account(json!({"cap": {"credits": 11}})).spec;
            replace(seen, json!({"perAccount": {"maxCap": {"credits": 10}}}));
        }),
        ("CapPeriodMismatch!", |account, seen| {
            account.spec = self::account(json!({"cap": {"credits": 1, "period": "Daily"}})).spec;
            replace(seen, json!({"perAccount": {"maxCap": {"credits": 10}}}));
        }),
        ("TooManyAccounts!", |_, seen| {
            replace(seen, json!({"perAccount": {"maxAccountsPerNamespace": 2}}));
            seen.places = Places { older: 1, had: 1 };
        }),
        ("DuplicateExternalId!", |account, seen| {
            account.spec.external_id = Some("4711".into());
            seen.claimant = Some(Name::new("other", "older"));
        }),
        ("Invalid!", |account, _| account.spec.policy_ref.name = "Not A Name".into()),
    ];
    for (expected, edit) in cases {
        let (mut account, mut seen) = (account(json!({})), seen_account(Some(policy(json!({})))));
        seen.entry = Some(standing_account());
        edit(&mut account, &mut seen);
        let plan = sub_account::plan(&account, &seen, now());
        let status = plan.status.as_ref().expect("a status");
        assert_eq!(verdict(&status.conditions), expected);
        assert_eq!(entries(&plan).first().and_then(|entry| entry.removed_at()), Some(now()), "{expected}");
        // If it is already out of service, nothing is written again.
        seen.entry = Some(AccountEntry { removed_at: Some(now()), ..standing_account() });
        assert_eq!(letters(&sub_account::plan(&account, &seen, now())), "", "{expected}");
    }
}

fn replace(observed: &mut sub_account::Observed, spec: Value) {
    observed.policy.as_mut().expect("a policy").object = Arc::new(policy(spec));
}

#[test]
fn another_tenants_names_are_not_told() {
    let mut seen = seen_account(Some(policy(json!({}))));
    seen.claimant = Some(Name::new("rival", "their-shop"));
    let plan = sub_account::plan(&account(json!({"externalId": "1"})), &seen, now());
    let status = plan.status.expect("a status");
    let text = format!("{:?}", status.conditions);
    assert!(!text.contains("rival") && !text.contains("their-shop"), "{text}");
}

#[test]
fn an_account_that_stands_is_not_written_again() {
    let mut seen = seen_account(Some(policy(json!({}))));
    let first = sub_account::plan(&account(json!({})), &seen, now());
    assert_eq!(letters(&first), "P");
    seen.entry = Some(standing_account());
    let mut standing = account(json!({}));
    standing.status = first.status.clone();
    let later = now().checked_add(SignedDuration::from_hours(1)).expect("a time");
    let again = sub_account::plan(&standing, &seen, later);
    assert_eq!((letters(&again), again.status), (String::new(), first.status));
}

#[test]
fn an_account_that_takes_a_place_has_younger_ones_judged_again() {
    let counted = || seen_account(Some(policy(json!({"perAccount": {"maxAccountsPerNamespace": 2}}))));
    let standing = |policy: u128, removed_at| {
        Some(AccountEntry { policy: PolicyId(Uuid::from_u128(policy)), removed_at, ..standing_account() })
    };
    for (entry, arrives) in
        [(None, true), (standing(1, Some(now())), true), (standing(9, None), true), (standing(1, None), false)]
    {
        let mut seen = counted();
        seen.entry = entry;
        let plan = sub_account::plan(&account(json!({"cap": {"credits": 3}})), &seen, now());
        assert_eq!((letters(&plan).as_str(), plan.arrives_at.is_some()), ("P", arrives), "{:?}", seen.entry);
    }
    let uncounted = sub_account::plan(&account(json!({})), &seen_account(Some(policy(json!({})))), now());
    assert_eq!((letters(&uncounted).as_str(), uncounted.arrives_at), ("P", None));
}

#[test]
fn a_broken_policy_stops_no_account_that_it_had_taken() {
    let mut seen = seen_account(Some(policy(json!({"pool": {"timeZone": "Mars/Olympus"}}))));
    seen.entry = Some(standing_account());
    let plan = sub_account::plan(&account(json!({})), &seen, now());
    assert_eq!(letters(&plan), "");
    assert_eq!(verdict(&plan.status.expect("a status").conditions), "PolicyNotReady");
}

/// Administrators of the old policy could no longer change it, and it would send under their old terms.
#[test]
fn an_account_that_moves_to_a_broken_policy_leaves_the_old_one() {
    let mut seen = seen_account(Some(policy(json!({"pool": {"timeZone": "Mars/Olympus"}}))));
    seen.entry = Some(AccountEntry { policy: PolicyId(Uuid::from_u128(9)), ..standing_account() });
    let plan = sub_account::plan(&account(json!({})), &seen, now());
    assert_eq!((letters(&plan).as_str(), entries(&plan)[0].removed_at()), ("P", Some(now())));
    let status = plan.status.expect("a status");
    assert_eq!((verdict(&status.conditions).as_str(), status.state), ("PolicyNotReady", Some(AccountState::Refused)));
}

#[test]
fn deletion_tells_the_ledger_first_and_a_purge_leaves_no_name() {
    for (deletion, name) in [("Retain", "shop"), ("Purge", "")] {
        let mut account = account(json!({"deletionPolicy": deletion}));
        account.metadata.deletion_timestamp = account.metadata.creation_timestamp.clone();
        let mut seen = seen_account(None);
        seen.entry = Some(standing_account());
        let plan = sub_account::plan(&account, &seen, now());
        assert_eq!(letters(&plan), "PG");
        let Entry::Account(entry) = entries(&plan)[0] else { panic!("an account") };
        assert_eq!((entry.removed_at, entry.name.as_str()), (Some(now()), name));
    }
}

/// A tenant's own finalizer holds the deleted object, and a restored ledger may have it in service.
#[test]
fn what_is_deleted_is_out_of_service_whoever_holds_it() {
    let foreign = Some(vec!["example.com/hold".to_owned()]);
    let mut account = account(json!({}));
    account.metadata.deletion_timestamp = account.metadata.creation_timestamp.clone();
    account.metadata.finalizers.clone_from(&foreign);
    let mut seen = seen_account(Some(policy(json!({}))));
    seen.entry = Some(standing_account());
    let plan = sub_account::plan(&account, &seen, now());
    assert_eq!((letters(&plan).as_str(), entries(&plan)[0].removed_at()), ("P", Some(now())));
    seen.entry = Some(standing_account().removed(now()));
    assert_eq!(letters(&sub_account::plan(&account, &seen, now())), "");

    let mut scene = Scene::new(json!({}));
    scene.settle();
    let password = scene.password();
    scene.key.metadata.deletion_timestamp = scene.key.metadata.creation_timestamp.clone();
    scene.key.metadata.finalizers = foreign;
    assert_eq!(letters(&scene.settle()), "P");
    assert!(!scene.works(&password));
    assert_eq!(letters(&scene.plan()), "");
}

#[test]
fn what_is_in_a_namespace_that_is_deleted_ends_with_it_at_once() {
    let mut seen = seen_account(Some(policy(json!({}))));
    seen.entry = Some(standing_account());
    seen.namespace.terminating = true;
    let plan = sub_account::plan(&account(json!({})), &seen, now());
    assert_eq!((letters(&plan).as_str(), entries(&plan)[0].removed_at()), ("P", Some(now())));
    assert!(plan.status.is_none(), "nobody reads it any more");

    let mut scene = Scene::new(json!({}));
    scene.settle();
    let password = scene.password();
    scene.seen.namespace.terminating = true;
    assert_eq!(letters(&scene.settle()), "P");
    let entry = scene.seen.entry.as_ref().expect("an entry");
    assert!(entry.removed_at == Some(now()) && !scene.works(&password));
    // A removed entry is not written again, and waits for its deletion.
    assert_eq!(letters(&scene.plan()), "");
}

#[test]
fn a_terminating_namespace_is_left_alone() {
    let mut scene = Scene::new(json!({}));
    scene.seen.namespace.terminating = true;
    let plan = scene.plan();
    assert!(plan.steps.is_empty() && plan.status.is_none());
    let mut seen = seen_account(Some(policy(json!({}))));
    seen.namespace.terminating = true;
    assert!(sub_account::plan(&account(json!({})), &seen, now()).steps.is_empty());
}

#[test]
fn an_account_that_moves_keeps_its_place_in_the_policy_that_it_left() {
    use crate::domain::departure::Departure;
    let [here, there] = [1, 9].map(|n| PolicyId(Uuid::from_u128(n)));
    let mut seen = seen_account(Some(policy(json!({}))));
    seen.entry = Some(standing_account());
    let mut move_to = |to: PolicyId, removed_at: Option<Timestamp>| {
        seen.policy.as_mut().expect("a policy").id = to;
        seen.entry.as_mut().expect("an entry").removed_at = removed_at;
        let plan = sub_account::plan(&account(json!({})), &seen, now());
        let Entry::Account(entry) = entries(&plan)[0].clone() else { panic!("an account") };
        seen.entry = Some(entry.clone());
        // Once written, nothing is written again.
        assert!(sub_account::plan(&account(json!({})), &seen, now()).steps.is_empty());
        entry.departures
    };
    assert_eq!(move_to(there, None), [Departure { policy: here, at: now() }]);
    let earlier = now().checked_sub(SignedDuration::from_hours(5)).expect("a time");
    // An account that was out of service left at that time, not when it moved.
    let both = [Departure { policy: here, at: now() }, Departure { policy: there, at: earlier }];
    assert_eq!(move_to(here, Some(earlier)), both);
}

#[test]
fn an_account_shows_the_domains_that_its_keys_may_send_from() {
    let shown = |account_spec: Value, policy_spec: Value| {
        let seen = seen_account(Some(policy(policy_spec)));
        sub_account::plan(&account(account_spec), &seen, now()).status.expect("a status").sender_domains
    };
    let domains = json!({"senders": {"domains": ["b.example", "Bücher.example", "a.example", "B.example"]}});
    assert_eq!(shown(json!({}), domains.clone()), ["a.example", "b.example", "xn--bcher-kva.example"]);
    let senders = json!({"allowedSenders": ["shop@b.example", "*@c.example"]});
    assert_eq!(shown(senders, domains.clone()), ["b.example"]);
    assert!(shown(json!({}), json!({"senders": {}})).is_empty());
    let refused = json!({"allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {"a": "b"}}}});
    assert!(shown(json!({}), refused).is_empty(), "an account that is refused may send as nobody");
}

#[test]
fn the_domains_that_an_account_shows_stand_while_its_policy_is_broken() {
    let mut seen = seen_account(Some(policy(json!({"pool": {"timeZone": "Mars/Olympus"}}))));
    seen.entry = Some(standing_account());
    let mut standing = account(json!({}));
    let status = SubAccountStatus { sender_domains: vec!["a.example".into()], ..SubAccountStatus::default() };
    standing.status = Some(status);
    let plan = sub_account::plan(&standing, &seen, now());
    assert_eq!(plan.status.expect("a status").sender_domains, ["a.example"]);
}
