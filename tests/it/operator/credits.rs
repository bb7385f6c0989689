//! What becomes of credits with time: a status follows it although nobody sends.

use franking::crd::CreditStatus;
use franking::domain::credit::{Meter, Verdict};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::harness::{World, alone};
use super::lifecycle::{key_id, own, send};
use super::waits::{ready, told, until};

const HOUR: SignedDuration = SignedDuration::from_hours(1);

async fn shows(world: &World, what: &str, holds: impl Fn(&CreditStatus) -> bool) -> CreditStatus {
    until(world.accounts(), "account", what, |account| {
        let credits = account?.status.as_ref()?.credits.clone()?;
        holds(&credits).then_some(credits)
    })
    .await
}

fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).expect("a time")
}

#[tokio::test]
async fn a_top_up_opens_an_account_by_itself_and_a_grant_that_expires_is_gone() {
    let _turn = alone().await;
    let (world, running, _folder, clock) = own("top-up", None).await;
    world.plain_policy("top-up", json!({"pool": {"timeZone": "Pacific/Auckland"}})).await;
    let recurring = json!({"credits": 2, "every": "Day"});
    world.account("account", json!({"prepaid": {"recurring": recurring}})).await;
    world.key("key", "account", json!({})).await;
    let key = key_id(&world).await;
    assert_eq!(send(&world, key, 2).await, Verdict::Reserved);
    let Verdict::Short { meter: Meter::AccountPrepaid, reopens_at: Some(reopens_at), .. } = send(&world, key, 1).await
    else {
        panic!("nothing is left")
    };
    let shown = shows(&world, "used up", |credits| credits.remaining == Some(0)).await;
    assert_eq!((shown.prepaid, shown.reopens_at.map(|at| at.0)), (Some(0), Some(reopens_at)));
    let event = told(&world, "CreditsExhausted").await;
    assert!(event.note.expect("a note").contains(&reopens_at.to_string()));

    clock.set(later(reopens_at, SignedDuration::from_secs(1)));
    let shown = shows(&world, "topped up", |credits| credits.prepaid == Some(2)).await;
    assert_eq!(shown.remaining, Some(2));
    told(&world, "CreditsAvailable").await;
    assert_eq!(send(&world, key, 2).await, Verdict::Reserved);

    // A grant for an hour: what is left of it is lost then, and status says so.
    let expires_at = later(world.clock.now(), HOUR);
    let grant = json!({"id": "hour", "credits": 5, "expiresAt": expires_at.to_string()});
    world.account("account", json!({"prepaid": {"recurring": recurring, "grants": [grant]}})).await;
    shows(&world, "granted", |credits| credits.prepaid == Some(5)).await;
    assert_eq!(send(&world, key, 1).await, Verdict::Reserved);
    clock.set(later(expires_at, SignedDuration::from_secs(1)));
    shows(&world, "expired", |credits| credits.prepaid == Some(0)).await;
    assert!(matches!(send(&world, key, 1).await, Verdict::Short { meter: Meter::AccountPrepaid, .. }));
    ready(world.accounts(), "account").await;
    world.clear().await;
    running.stop().await;
}

/// Waits until policy, account and key show this much as used; what account and key have left then.
async fn shown_used(world: &World, policy: &str, expected: i64) -> [Option<i64>; 2] {
    let what = format!("{expected} used");
    until(world.policies(), policy, &what, |policy| {
        (policy?.status.as_ref()?.credits.as_ref()?.used == expected).then_some(())
    })
    .await;
    let account = shows(world, &what, |credits| credits.used == expected).await;
    let key = until(world.keys(), "key", &what, |key| {
        let credits = key?.status.as_ref()?.credits.clone()?;
        (credits.used == expected).then_some(credits)
    })
    .await;
    [account.remaining, key.remaining]
}

#[tokio::test]
async fn whatever_moves_is_shown_within_a_minute_of_policy_account_and_key_alike() {
    let _turn = alone().await;
    let (world, running, _folder, clock) = own("figures", None).await;
    world.plain_policy("figures", json!({"pool": {"credits": 100_000}})).await;
    world.account("account", json!({"cap": {"credits": 60_000}})).await;
    world.key("key", "account", json!({})).await;
    world.key("idle", "account", json!({"cap": {"credits": 70_000}})).await;
    let key = key_id(&world).await;
    ready(world.keys(), "idle").await;
    assert_eq!(send(&world, key, 1000).await, Verdict::Reserved);
    clock.advance(60);
    assert_eq!(shown_used(&world, "figures", 1000).await, [Some(59_000); 2], "a key shows what its account leaves");
    // One message of 100,000 credits, in a status that was written a moment ago.
    assert_eq!(send(&world, key, 1).await, Verdict::Reserved);
    clock.advance(60);
    assert_eq!(shown_used(&world, "figures", 1001).await, [Some(58_999); 2]);
    until(world.keys(), "idle", "what its account leaves it", |key| {
        (key?.status.as_ref()?.credits.as_ref()?.remaining? < 60_000).then_some(())
    })
    .await;
    running.until_metric("franking_operator_status_lag_seconds 0").await;
    world.clear().await;
    running.stop().await;
}
