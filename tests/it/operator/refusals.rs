//! Each refusal is a condition with a sentence, waits for its cause, and heals by itself when that goes.

use std::time::Duration;

use franking::crd::CreditPolicy;
use franking::runtime::clock::ManualClock;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serde_json::json;

use super::harness::{DEADLINE, SYSTEM, World, alone};
use super::lifecycle::own;
use super::waits::{create, delete, merge_patch, ready, settled, snapshot, stalled, until, waiting};

/// Lets time pass until the world's policy shows what is counted of its accounts, which waits for a moment so that a
/// thousand changes are one write.
async fn counted(world: &World, clock: &ManualClock, shows: impl Fn(&CreditPolicy) -> bool) -> CreditPolicy {
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let waited = async {
        loop {
            ticks.tick().await;
            clock.advance(1);
            let policy = world.policies().get(&world.name).await.expect("the policy");
            if shows(&policy) {
                return policy;
            }
        }
    };
    tokio::time::timeout(DEADLINE, waited).await.expect("the policy is counted in time")
}

#[tokio::test]
async fn an_account_without_its_policy_waits_for_it() {
    let world = World::shared("no-policy").await;
    world.account("a", json!({})).await;
    let sentence = stalled(world.accounts(), "a", "PolicyNotFound").await;
    assert!(sentence.contains("spec.policyRef.name") && sentence.contains("\"no-policy\""), "{sentence}");
    world.plain_policy("no-policy", json!({})).await;
    ready(world.accounts(), "a").await;
}

#[tokio::test]
async fn a_namespace_is_taken_when_it_gets_the_label() {
    let world = World::shared("label").await;
    let selector = json!({"from": "Selector", "selector": {"matchLabels": {"mail": "yes"}}});
    world.plain_policy("label", json!({"allowedNamespaces": selector})).await;
    world.account("a", json!({})).await;
    let sentence = stalled(world.accounts(), "a", "NotAllowedByPolicy").await;
    assert!(sentence.contains("spec.allowedNamespaces"), "{sentence}");
    world.make_namespace("label", json!({"mail": "yes"})).await;
    ready(world.accounts(), "a").await;
}

#[tokio::test]
async fn a_cap_above_the_ceiling_stops_the_keys_until_it_is_lowered() {
    let world = World::shared("ceiling").await;
    let secret = world.ready_key().await;
    assert!(world.may_send(&secret).await);
    world.plain_policy("ceiling", json!({"perAccount": {"maxCap": {"credits": 100}}})).await;
    world.account("account", json!({"cap": {"credits": 101}})).await;
    let sentence = stalled(world.accounts(), "account", "CapAboveCeiling").await;
    assert!(sentence.contains("spec.cap.credits") && sentence.contains("100"), "{sentence}");
    assert!(!world.may_send(&secret).await);
    stalled(world.keys(), "key", "AccountNotReady").await;
    world.account("account", json!({"cap": {"credits": 100}})).await;
    ready(world.accounts(), "account").await;
    assert!(world.may_send(&secret).await);
    ready(world.keys(), "key").await;
}

#[tokio::test]
async fn the_key_of_a_refused_account_has_nothing_left_and_is_left_in_peace() {
    let _turn = alone().await;
    let (world, running, _folder, clock) = own("nothing-left", None).await;
    world.plain_policy("nothing-left", json!({"perAccount": {"maxCap": {"credits": 100}}})).await;
    world.account("account", json!({"cap": {"credits": 101}})).await;
    world.key("key", "account", json!({"cap": {"credits": 70}})).await;
    stalled(world.keys(), "key", "AccountNotReady").await;
    let shown = async || {
        let status = world.keys().get("key").await.expect("the key").status.expect("a status");
        (status.credits.expect("credits").remaining, status.sending.expect("a word"))
    };
    assert_eq!(shown().await, (Some(0), "no".to_owned()));
    // The ledger has other figures of it, and they are looked at in every slot.
    clock.advance(10);
    settled(&world).await;
    let standing = snapshot(&world).await;
    clock.advance(200);
    settled(&world).await;
    assert_eq!(snapshot(&world).await, standing);
    world.account("account", json!({"cap": {"credits": 100}})).await;
    ready(world.keys(), "key").await;
    assert_eq!(shown().await, (Some(70), "yes".to_owned()));
    world.clear().await;
    running.stop().await;
}

#[tokio::test]
async fn accounts_removed_in_this_period_count() {
    let world = World::shared("many").await;
    world.plain_policy("many", json!({"perAccount": {"maxAccountsPerNamespace": 2}})).await;
    world.account("a", json!({})).await;
    ready(world.accounts(), "a").await;
    world.account("b", json!({})).await;
    ready(world.accounts(), "b").await;
    world.account("c", json!({})).await;
    let sentence = stalled(world.accounts(), "c", "TooManyAccounts").await;
    assert!(sentence.contains("allows 2 accounts"), "{sentence}");
    // Removing one makes no room in this period …
    delete(&world.accounts(), "a").await;
    super::waits::gone(world.accounts(), "a").await;
    stalled(world.accounts(), "c", "TooManyAccounts").await;
    // … and a higher limit does.
    world.plain_policy("many", json!({"perAccount": {"maxAccountsPerNamespace": 3}})).await;
    ready(world.accounts(), "c").await;
    ready(world.accounts(), "b").await;
}

/// Whoever makes the account that has used its cap again makes it younger than one that waits.
#[tokio::test]
async fn a_place_of_this_period_is_kept_when_its_account_is_made_again() {
    let world = World::shared("places").await;
    world.plain_policy("places", json!({"perAccount": {"maxAccountsPerNamespace": 1}})).await;
    world.account("used", json!({})).await;
    ready(world.accounts(), "used").await;
    world.account("fresh", json!({})).await;
    stalled(world.accounts(), "fresh", "TooManyAccounts").await;
    delete(&world.accounts(), "used").await;
    super::waits::gone(world.accounts(), "used").await;
    world.account("used", json!({})).await;
    ready(world.accounts(), "used").await;
    let sentence = stalled(world.accounts(), "fresh", "TooManyAccounts").await;
    assert!(sentence.contains("0 older ones and 1 more that had a place"), "{sentence}");
}

/// Both are judged before the directory knows of either.
#[tokio::test]
async fn an_older_account_that_moves_in_beside_a_new_one_takes_its_place() {
    let _turn = alone().await;
    let (world, running, _folder, _) = own("racing", None).await;
    world.plain_policy("racing", json!({"perAccount": {"maxAccountsPerNamespace": 1}})).await;
    world.plain_policy("raced-from", json!({})).await;
    ready(world.policies(), "racing").await;
    world.account("a", json!({"policyRef": {"name": "raced-from"}})).await;
    ready(world.accounts(), "a").await;
    running.ledger.accounts.shut();
    world.account("b", json!({})).await;
    world.account("a", json!({})).await;
    running.ledger.accounts.reached_by(2).await;
    running.ledger.accounts.open();
    let sentence = stalled(world.accounts(), "b", "TooManyAccounts").await;
    assert!(sentence.contains("allows 1 accounts"), "{sentence}");
    ready(world.accounts(), "a").await;
    world.clear().await;
    delete(&world.policies(), "raced-from").await;
    super::waits::gone(world.policies(), "raced-from").await;
    running.stop().await;
}

#[tokio::test]
async fn accounts_that_moved_to_another_policy_in_this_period_count() {
    let _turn = alone().await;
    let (world, running, _folder, clock) = own("moving", None).await;
    world.plain_policy("moving", json!({"perAccount": {"maxAccountsPerNamespace": 1}})).await;
    world.plain_policy("moved-to", json!({})).await;
    let elsewhere = json!({"policyRef": {"name": "moved-to"}});
    // Others come from another policy, and wait for the place.
    for name in ["a", "b", "c"] {
        world.account(name, elsewhere.clone()).await;
        ready(world.accounts(), name).await;
    }
    world.account("a", json!({})).await;
    ready(world.accounts(), "a").await;
    // It leaves and another comes, at the same moment.
    world.account("a", elsewhere.clone()).await;
    world.account("b", json!({})).await;
    let sentence = stalled(world.accounts(), "b", "TooManyAccounts").await;
    assert!(sentence.contains("0 older ones and 1 more that had a place in this period"), "{sentence}");
    ready(world.accounts(), "a").await;
    let counts = |policy: &CreditPolicy| {
        let counts = policy.status.as_ref().and_then(|status| status.accounts).unwrap_or_default();
        (counts.total, counts.removed)
    };
    counted(&world, &clock, |policy| counts(policy) == (1, 1)).await;
    // Also after it was deleted there, and made again: a place was had, whoever had it.
    delete(&world.accounts(), "a").await;
    super::waits::gone(world.accounts(), "a").await;
    world.account("a", elsewhere.clone()).await;
    ready(world.accounts(), "a").await;
    world.account("c", json!({})).await;
    stalled(world.accounts(), "c", "TooManyAccounts").await;
    // Its own place is its own: it may come back.
    world.account("b", elsewhere.clone()).await;
    ready(world.accounts(), "b").await;
    world.account("c", elsewhere).await;
    ready(world.accounts(), "c").await;
    world.account("a", json!({})).await;
    ready(world.accounts(), "a").await;
    counted(&world, &clock, |policy| counts(policy) == (1, 0)).await;
    world.clear().await;
    delete(&world.policies(), "moved-to").await;
    super::waits::gone(world.policies(), "moved-to").await;
    running.stop().await;
}

#[tokio::test]
async fn the_oldest_account_keeps_its_external_id() {
    let world = World::shared("external").await;
    world.plain_policy("external", json!({})).await;
    world.account("first", json!({"externalId": "4711"})).await;
    ready(world.accounts(), "first").await;
    // Creation times have whole seconds; the name decides among equals.
    world.account("second", json!({"externalId": "4711"})).await;
    let sentence = stalled(world.accounts(), "second", "DuplicateExternalId").await;
    assert!(sentence.contains("spec.externalId") && sentence.contains("\"first\""), "{sentence}");
    delete(&world.accounts(), "first").await;
    ready(world.accounts(), "second").await;
}

#[tokio::test]
async fn a_key_without_its_account_waits_for_it() {
    let world = World::shared("no-account").await;
    world.plain_policy("no-account", json!({})).await;
    world.key("key", "a", json!({})).await;
    let sentence = stalled(world.keys(), "key", "AccountNotFound").await;
    assert!(sentence.contains("spec.subAccountRef.name"), "{sentence}");
    world.account("a", json!({})).await;
    ready(world.keys(), "key").await;
}

#[tokio::test]
async fn a_foreign_secret_is_never_touched_unless_adopted() {
    let world = World::shared("foreign").await;
    let foreign =
        json!({"metadata": {"name": "key"}, "type": "servicebinding.io/smtp", "stringData": {"password": "theirs"}});
    let foreign: Secret = create(&world.secrets(), foreign).await;
    world.plain_policy("foreign", json!({})).await;
    world.account("a", json!({})).await;
    world.key("key", "a", json!({})).await;
    let sentence = stalled(world.keys(), "key", "SecretConflict").await;
    assert!(sentence.contains("spec.secret.name"), "{sentence}");
    let untouched = world.secrets().get("key").await.expect("it stands");
    assert_eq!(untouched, foreign);
    delete(&world.secrets(), "key").await;
    ready(world.keys(), "key").await;

    let taken =
        json!({"metadata": {"name": "other"}, "type": "servicebinding.io/smtp", "stringData": {"more": "stays"}});
    let _: Secret = create(&world.secrets(), taken).await;
    world.key("other", "a", json!({})).await;
    stalled(world.keys(), "other", "SecretConflict").await;
    world.key("other", "a", json!({"secret": {"adopt": true}})).await;
    ready(world.keys(), "other").await;
    let adopted = world.secrets().get("other").await.expect("the adopted secret");
    assert_eq!(super::waits::text(&adopted)["more"], "stays");
    assert!(world.may_send(&adopted).await);
}

#[tokio::test]
async fn an_upstream_secret_must_exist_carry_the_label_and_hold_a_login() {
    let world = World::shared("upstream").await;
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), SYSTEM);
    let upstream = json!({"host": "smtp.example.com", "credentialsSecretRef": {"name": "login"}});
    let senders = json!({"domains": ["example.com"]});
    world.policy("upstream", json!({"senders": senders, "upstream": upstream})).await;
    let sentence = stalled(world.policies(), "upstream", "SecretNotFound").await;
    assert!(sentence.contains("spec.upstream.credentialsSecretRef.name") && sentence.contains(SYSTEM), "{sentence}");
    world.account("a", json!({})).await;
    let unlabelled = json!({"metadata": {"name": "login"}, "stringData": {"username": "u"}});
    let _: Secret = create(&secrets, unlabelled).await;
    // Nothing watches Secrets without the label; the next look says what is wrong with it.
    world.policy("upstream", json!({"senders": senders, "upstream": upstream, "displayName": "look"})).await;
    stalled(world.policies(), "upstream", "SecretNotLabelled").await;
    merge_patch(&secrets, "login", json!({"metadata": {"labels": {"franking.io/use": "true"}}})).await;
    let sentence = stalled(world.policies(), "upstream", "SecretInvalid").await;
    assert!(sentence.contains("lacks password"), "{sentence}");
    merge_patch(&secrets, "login", json!({"stringData": {"password": "p"}})).await;
    ready(world.policies(), "upstream").await;
    ready(world.accounts(), "a").await;
}

#[tokio::test]
async fn a_spec_that_only_the_check_can_refuse_is_refused_with_its_field() {
    let world = World::shared("invalid").await;
    world.plain_policy("invalid", json!({"pool": {"timeZone": "Local"}})).await;
    let sentence = stalled(world.policies(), "invalid", "Invalid").await;
    assert!(sentence.contains("spec.pool.timeZone"), "{sentence}");
    world.account("a", json!({})).await;
    waiting(world.accounts(), "a", "PolicyNotReady").await;
    world.plain_policy("invalid", json!({"pool": {"timeZone": "Europe/Berlin"}})).await;
    ready(world.policies(), "invalid").await;
    ready(world.accounts(), "a").await;
}

#[tokio::test]
async fn a_spend_limit_waits_until_the_plan_has_a_price() {
    let world = World::shared("unpriced").await;
    world.plain_policy("unpriced", json!({})).await;
    world.account("a", json!({"spendLimitMinor": 500})).await;
    let sentence = stalled(world.accounts(), "a", "PricingMissing").await;
    assert!(sentence.contains("spec.spendLimitMinor") && sentence.contains("spec.pricing"), "{sentence}");
    world.plain_policy("unpriced", json!({"pricing": {"currency": "EUR"}})).await;
    ready(world.accounts(), "a").await;
}

#[tokio::test]
async fn a_policy_with_a_prepaid_account_warns_until_it_says_what_holds_for_others() {
    let _turn = alone().await;
    let (world, running, _folder, clock) = own("unbounded", None).await;
    world.plain_policy("unbounded", json!({})).await;
    ready(world.policies(), "unbounded").await;
    world.account("paid", json!({"prepaid": {}})).await;
    ready(world.accounts(), "paid").await;
    let warning = |policy: &CreditPolicy| {
        let conditions = &policy.status.as_ref()?.conditions;
        conditions.iter().find(|condition| condition.type_ == "SelfServiceUnbounded").map(|found| found.message.clone())
    };
    let policy = counted(&world, &clock, |policy| warning(policy).is_some()).await;
    let sentence = warning(&policy).expect("a sentence");
    assert!(sentence.contains("spec.perAccount.prepaid"), "{sentence}");
    ready(world.policies(), "unbounded").await;
    world.plain_policy("unbounded", json!({"perAccount": {"prepaid": "Required"}})).await;
    counted(&world, &clock, |policy| warning(policy).is_none()).await;
    // From now on an account without it is as strict as can be; the one that has it goes on as it was.
    world.account("free", json!({})).await;
    until(world.accounts(), "free", "RequiredByPolicy", |account| {
        let status = account?.status.as_ref()?;
        let condition = status.conditions.iter().find(|condition| condition.type_ == "Ready")?;
        (condition.reason == "RequiredByPolicy" && status.credits.as_ref()?.remaining == Some(0)).then_some(())
    })
    .await;
    world.clear().await;
    running.stop().await;
}

#[tokio::test]
async fn a_currency_stays_also_when_pricing_is_removed_and_written_again() {
    let world = World::shared("currency").await;
    let priced = |currency: &str| json!({"pricing": {"currency": currency, "pricePerThousandMinor": 1000}});
    world.plain_policy("currency", priced("EUR")).await;
    world.account("a", json!({"spendLimitMinor": 500})).await;
    world.key("key", "a", json!({})).await;
    ready(world.keys(), "key").await;
    let secret = world.secrets().get("key").await.expect("the secret");
    assert!(world.may_send(&secret).await);
    // In one edit the API server refuses it; in two it is the operator that knows.
    world.plain_policy("currency", json!({})).await;
    ready(world.policies(), "currency").await;
    stalled(world.accounts(), "a", "PricingMissing").await;
    world.plain_policy("currency", priced("JPY")).await;
    let sentence = stalled(world.policies(), "currency", "CurrencyChanged").await;
    assert!(sentence.contains("spec.pricing.currency") && sentence.contains("EUR"), "{sentence}");
    let sentence = waiting(world.accounts(), "a", "PolicyNotReady").await;
    assert!(sentence.contains("spec.pricing.currency"), "{sentence}");
    assert!(!world.may_send(&secret).await, "a limit of 500 EUR is none of 500 JPY");
    let status = world.policies().get("currency").await.expect("the policy").status.expect("a status");
    assert_eq!(status.currency.as_deref(), Some("EUR"));
    // The currency that it had is taken again.
    world.plain_policy("currency", json!({})).await;
    ready(world.policies(), "currency").await;
    world.plain_policy("currency", priced("EUR")).await;
    ready(world.policies(), "currency").await;
    ready(world.accounts(), "a").await;
    assert!(world.may_send(&secret).await);
}
