//! Grants and top-ups.

use super::world::{Place, World, account, account_id, at, chain, key, key_id, limit, monthly, policy};
use franking::domain::credit::{Grant, Meter, Outcome, Prepaid, Reservation, TopUp, Verdict};
use franking::domain::directory::Entry;
use franking::domain::id::{Holder, MessageId};
use franking::domain::period::{Calendar, Period};
use franking::ledger::store::{PrepaidBalance, Role};

const ACCOUNT: usize = 1;
const POLICY: usize = 2;

pub fn grant(id: &str, credits: i64, expires_at: Option<&str>) -> Grant {
    Grant { id: id.to_owned(), credits, expires_at: expires_at.map(at) }
}

pub fn grants(grants: &[Grant]) -> Option<Prepaid> {
    Some(Prepaid { grants: grants.to_vec(), recurring: None })
}

fn recurring(credits: i64, every: Period) -> Option<Prepaid> {
    Some(Prepaid { grants: vec![], recurring: Some(TopUp { credits, every, start: None, end: None }) })
}

async fn prepay(world: &mut World, prepaid: Option<Prepaid>) {
    let mut account = account(1, monthly(None));
    account.prepaid = prepaid;
    world.put(&[Entry::Account(account)]).await;
}

/// Key 1 of account 1, which is prepaid.
async fn prepaid_world(place: &impl Place, prepaid: Option<Prepaid>) -> World {
    let mut world = World::with(place, None, None, None).await;
    prepay(&mut world, prepaid).await;
    world
}

async fn balance(world: &World, holder: usize) -> PrepaidBalance {
    world.balance(chain()[holder]).await.prepaid.expect("prepaid")
}

async fn remaining(world: &World) -> i64 {
    balance(world, ACCOUNT).await.remaining
}

fn short(granted: i64, remaining: i64, reopens_at: Option<&str>) -> Verdict {
    Verdict::Short { meter: Meter::AccountPrepaid, granted, remaining, reopens_at: reopens_at.map(at), pending: false }
}

pub async fn a_prepaid_account_with_nothing_left_sends_nothing_also_where_its_lists_are_empty(place: &impl Place) {
    let mut world = prepaid_world(place, grants(&[])).await;
    assert_eq!(world.send(1).await.1, short(0, 0, None));
    prepay(&mut world, grants(&[grant("welcome", 3, None)])).await;
    assert_eq!(world.send(2).await.1, Verdict::Reserved);
    assert_eq!(world.send(2).await.1, short(3, 1, None));
    assert_eq!(world.send(1).await.1, Verdict::Reserved);
    assert_eq!(world.consumed().await, [3; 3]);
    // Without a balance it is no longer prepaid.
    prepay(&mut world, None).await;
    assert_eq!(world.send(9).await.1, Verdict::Reserved);
    assert_eq!(world.balance(chain()[ACCOUNT]).await.prepaid, None);
    world.check().await;
}

pub async fn grants_are_used_by_expiry_then_age_and_one_message_takes_of_several(place: &impl Place) {
    let all = [
        grant("old", 2, None),
        grant("late", 2, Some("2027-01-01T00:00:00Z")),
        grant("soon", 2, Some("2026-11-21T00:00:00Z")),
    ];
    let mut world = prepaid_world(place, grants(&all)).await;
    // Two of "soon", one of "late".
    let (message, verdict) = world.send(3).await;
    assert_eq!(verdict, Verdict::Reserved);
    assert_eq!(balance(&world, ACCOUNT).await.next_expiry, Some(at("2027-01-01T00:00:00Z")));
    world.clock.set(at("2026-11-21T00:00:00Z"));
    assert_eq!(remaining(&world).await, 3, "what expired was used up");
    // A refund goes where it came from: a refund to an expired lot is lost.
    world.settle(message, Outcome::Refused).await;
    assert_eq!(remaining(&world).await, 4);
    assert_eq!(world.send(4).await.1, Verdict::Reserved);
    assert_eq!(world.send(1).await.1, short(4, 0, None));
    world.check().await;
}

pub async fn a_grant_that_is_taken_back_and_given_again_never_refills(place: &impl Place) {
    let mut world = prepaid_world(place, grants(&[grant("promo", 10, None)])).await;
    let (message, _) = world.send(4).await;
    for _ in 0..2 {
        prepay(&mut world, grants(&[])).await;
        assert_eq!(world.send(1).await.1, short(0, 0, None));
        prepay(&mut world, grants(&[grant("promo", 10, None)])).await;
        assert_eq!(remaining(&world).await, 6);
    }
    // Deleting the account, or all of its balance, does not help either.
    let mut removed = account(1, monthly(None));
    removed.removed_at = Some(world.clock_now());
    world.put(&[Entry::Account(removed)]).await;
    prepay(&mut world, None).await;
    prepay(&mut world, grants(&[grant("promo", 10, None)])).await;
    assert_eq!(remaining(&world).await, 6);
    // Taken back while it is used: the refund gives back nothing that was taken.
    prepay(&mut world, grants(&[grant("promo", 1, None)])).await;
    world.settle(message, Outcome::Refused).await;
    assert_eq!((balance(&world, ACCOUNT).await.granted, remaining(&world).await), (1, 1));
    world.check().await;
}

pub async fn a_grant_that_is_lowered_is_never_below_what_is_used(place: &impl Place) {
    let mut world = prepaid_world(place, grants(&[grant("a", 10, None), grant("b", 5, None)])).await;
    let (first, _) = world.send(6).await;
    prepay(&mut world, grants(&[grant("a", 4, None), grant("b", 5, None)])).await;
    assert_eq!(remaining(&world).await, 5, "the other grant is untouched");
    world.settle(first, Outcome::Refused).await;
    assert_eq!(remaining(&world).await, 9);
    prepay(&mut world, grants(&[grant("a", 20, None), grant("b", 5, Some("2026-11-20T00:00:00Z"))])).await;
    assert_eq!(remaining(&world).await, 20, "an expiry in the past ends it");
    world.check().await;
}

pub async fn top_ups_come_once_in_a_period_whoever_asks_and_are_carried_over(place: &impl Place) {
    let mut world = prepaid_world(place, recurring(10, Period::Daily)).await;
    assert_eq!(world.send(4).await.1, Verdict::Reserved);
    assert_eq!(world.send(7).await.1, short(10, 6, Some("2026-11-21T00:00:00Z")));
    world.clock.set(at("2026-11-21T00:00:00Z"));
    // Two processes see the new day at once.
    let other = place.open(std::sync::Arc::new(world.clock.clone()));
    let session = other.open_session(Role::Relay, "relay-1").await.expect("a session");
    let (one, two) = (world.reservation(8), world.reservation(8));
    let (first, second) = ([one], [two]);
    let (first, second) = tokio::join!(world.store.reserve(&world.session, &first), other.reserve(&session, &second));
    assert_eq!(
        (first.expect("answered"), second.expect("answered")),
        (vec![Verdict::Reserved], vec![Verdict::Reserved])
    );
    assert_eq!(world.send(1).await.1, short(20, 0, Some("2026-11-22T00:00:00Z")));
    // Three days without a message; then a restart, and a clock that steps back over midnight.
    world.clock.set(at("2026-11-24T00:10:00Z"));
    assert_eq!(remaining(&world).await, 30, "told before it is added");
    world.reopen(place).await;
    assert_eq!(world.send(29).await.1, Verdict::Reserved);
    world.clock.set(at("2026-11-23T23:10:00Z"));
    assert_eq!(world.send(2).await.1, short(50, 1, Some("2026-11-25T00:00:00Z")));
    world.clock.set(at("2026-11-24T00:20:00Z"));
    assert_eq!(remaining(&world).await, 1);
    world.check().await;
}

pub async fn no_edit_of_a_top_up_or_its_calendar_adds_twice(place: &impl Place) {
    let mut world = prepaid_world(place, recurring(300, Period::Monthly)).await;
    world.send(300).await;
    let edits = [recurring(300, Period::Daily), recurring(999, Period::Weekly), recurring(300, Period::Monthly)];
    for edit in edits.into_iter().chain([grants(&[]), recurring(300, Period::Monthly)]) {
        prepay(&mut world, edit).await;
        assert!(matches!(world.send(1).await.1, Verdict::Short { .. }));
    }
    // Another zone's December begins earlier; the credits of November end with November.
    let mut moved = account(1, limit(None, Period::Monthly));
    moved.cap.calendar = Calendar::new(Period::Monthly, 1, "Asia/Tokyo").expect("a calendar");
    moved.prepaid = recurring(300, Period::Monthly);
    world.put(&[Entry::Account(moved)]).await;
    world.clock.set(at("2026-11-30T23:59:59Z"));
    assert_eq!(world.send(1).await.1, short(300, 0, Some("2026-12-01T00:00:00Z")));
    world.clock.set(at("2026-12-01T00:00:00Z"));
    // 9 of the 744 hours of Tokyo's December were November's.
    assert_eq!(world.send(296).await.1, Verdict::Reserved);
    assert_eq!(world.send(1).await.1, short(596, 0, Some("2026-12-31T15:00:00Z")));
    world.check().await;
}

pub async fn a_top_up_that_is_removed_is_taken_back_and_returns_with_what_was_left(place: &impl Place) {
    let mut world = prepaid_world(place, recurring(10, Period::Monthly)).await;
    world.send(4).await;
    prepay(&mut world, grants(&[])).await;
    assert_eq!(remaining(&world).await, 0);
    prepay(&mut world, recurring(10, Period::Monthly)).await;
    assert_eq!(remaining(&world).await, 6);
    prepay(&mut world, grants(&[])).await;
    // The months in which there was no rule add nothing.
    world.clock.set(at("2027-03-10T00:00:00Z"));
    prepay(&mut world, recurring(10, Period::Monthly)).await;
    assert_eq!(remaining(&world).await, 16);
    // Top-ups that came due under the old rule are added by it, though no message was sent.
    world.clock.set(at("2027-05-10T00:00:00Z"));
    prepay(&mut world, recurring(1, Period::Monthly)).await;
    assert_eq!(remaining(&world).await, 36);
    world.check().await;
}

pub async fn top_ups_keep_to_their_start_and_end(place: &impl Place) {
    let rule = TopUp {
        credits: 5,
        every: Period::Weekly,
        start: Some(at("2026-11-25T09:00:00Z")),
        end: Some(at("2026-12-07T00:00:00Z")),
    };
    let mut world = prepaid_world(place, Some(Prepaid { grants: vec![], recurring: Some(rule) })).await;
    assert_eq!(world.send(1).await.1, short(0, 0, Some("2026-11-25T09:00:00Z")));
    for (now, granted) in [("2026-11-25T09:00:00Z", 5), ("2026-11-30T00:00:00Z", 10), ("2027-11-30T00:00:00Z", 10)] {
        world.clock.set(at(now));
        assert_eq!(balance(&world, ACCOUNT).await.granted, granted, "{now}");
    }
    assert_eq!(world.send(11).await.1, short(10, 10, None));
    world.check().await;
}

pub async fn a_policys_balance_is_shared_beside_its_accounts_own(place: &impl Place) {
    let mut world = prepaid_world(place, grants(&[grant("own", 4, None)])).await;
    let mut parent = policy(1, monthly(Some(100)));
    parent.prepaid = grants(&[grant("shared", 6, None)]);
    let second = [Entry::Account(account(2, monthly(None))), Entry::Key(key(2, 2, monthly(None)))];
    world.put(&[Entry::Policy(parent)]).await;
    world.put(&second).await;
    assert_eq!(world.send(3).await.1, Verdict::Reserved);
    let mut of_second = world.reservation(4);
    of_second.key = key_id(2);
    let verdict = world.ask(&of_second).await;
    let expected =
        Verdict::Short { meter: Meter::PolicyPrepaid, granted: 6, remaining: 3, reopens_at: None, pending: false };
    assert_eq!(verdict, expected);
    of_second.credits = 3;
    assert_eq!(world.ask(&of_second).await, Verdict::Reserved);
    assert_eq!((remaining(&world).await, balance(&world, POLICY).await.remaining), (1, 0));
    assert_eq!(world.balance(Holder::Account(account_id(2))).await.prepaid, None);
    let exhausted = world.balance(chain()[POLICY]).await.exhausted().expect("exhausted");
    assert_eq!((exhausted.meter, exhausted.reopens_at), (Meter::PolicyPrepaid, None));
    world.check().await;
}

/// Sixteen tasks of two processes ask for three credits at a time; the grants have 500 in lots of 7.
pub async fn racing_processes_use_prepaid_lots_up_exactly(place: &impl Place) {
    const LIMIT: i64 = 500;
    let lots: Vec<Grant> = (0..72).map(|n| grant(&format!("g{n}"), if n < 71 { 7 } else { 3 }, None)).collect();
    let world = prepaid_world(place, grants(&lots)).await;
    let other = place.open(std::sync::Arc::new(world.clock.clone()));
    let session = other.open_session(Role::Relay, "relay-1").await.expect("a session");
    let stores = [(world.store.clone(), world.session.clone()), (other, session)];
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..16u128 {
        let (store, session) = stores[task as usize % 2].clone();
        tasks.spawn(async move {
            let mut accepted = 0;
            for n in 0..12u128 {
                let message = MessageId(uuid::Uuid::from_u128(1 << 64 | task << 32 | n));
                let batch = [Reservation { message, key: key_id(1), credits: 3, fingerprint: None }];
                let verdicts = store.reserve(&session, &batch).await.expect("answered");
                accepted += 3 * i64::from(verdicts[0] == Verdict::Reserved);
            }
            accepted
        });
    }
    let accepted: i64 = tasks.join_all().await.into_iter().sum();
    assert_eq!(accepted, LIMIT / 3 * 3);
    assert_eq!(remaining(&world).await, LIMIT - accepted);
    world.check().await;
}
