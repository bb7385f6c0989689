//! A clock that ran ahead and was put right.

use franking::runtime::clock::Clock as _;

use super::harness::alone;
use super::lifecycle::{own, restart};
use super::waits::{ready, until};

#[tokio::test]
async fn a_ledger_that_is_ahead_of_the_clock_is_told_until_the_clock_has_caught_up() {
    let _turn = alone().await;
    let (world, running, _folder, clock) = own("ledger-ahead", None).await;
    let secret = world.ready_key().await;
    clock.advance(3 * 86_400);
    // Something is written in that time.
    world.store.open_session(franking::ledger::store::Role::Relay, "relay-0").await.expect("a session");
    let ahead = clock.now();
    clock.advance(-3 * 86_400);
    let told = |policy: Option<&franking::crd::CreditPolicy>| {
        let conditions = &policy?.status.as_ref()?.conditions;
        conditions.iter().find(|found| found.type_ == "LedgerAhead").map(|found| found.message.clone())
    };
    let sentence = until(world.policies(), "ledger-ahead", "LedgerAhead", told).await;
    assert!(sentence.contains(&ahead.to_string()) && sentence.contains("the runbook"), "{sentence}");
    running.until_metric("franking_ledger_ahead_seconds 259200").await;
    // A restart does not help, and nothing else is wrong.
    running.stop().await;
    let again = restart(&world).await;
    again.until_metric("franking_ledger_ahead_seconds 259200").await;
    ready(world.policies(), "ledger-ahead").await;
    assert!(world.may_send(&secret).await);

    clock.advance(3 * 86_400);
    again.until_metric("franking_ledger_ahead_seconds 0").await;
    until(world.policies(), "ledger-ahead", "no warning", |policy| told(policy).is_none().then_some(())).await;
    again.stop().await;
}
