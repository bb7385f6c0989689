//! Limits, periods and time.

use super::world::{Place, World, account, account_id, at, calendar, chain, key, key_id, limit, monthly, policy};
use franking::domain::credit::{Blocked, Meter, Outcome, Verdict};
use franking::domain::directory::Entry;
use franking::domain::id::Holder;
use franking::domain::period::Period;

const ACCOUNT: usize = 1;

pub(super) async fn change_cap(world: &mut World, credits: Option<i64>, period: Period) {
    world.put(&[Entry::Account(account(1, limit(credits, period)))]).await;
}

pub async fn a_raised_limit_holds_at_once(place: &impl Place) {
    let mut world = World::with(place, None, Some(1), None).await;
    world.send(1).await;
    assert!(matches!(world.send(1).await.1, Verdict::Short { .. }));
    change_cap(&mut world, Some(2), Period::Monthly).await;
    assert_eq!(world.send(1).await.1, Verdict::Reserved);
    assert!(matches!(world.send(1).await.1, Verdict::Short { granted: 2, .. }));
}

pub async fn a_lowered_limit_stops_sending_and_its_refunds_make_no_room(place: &impl Place) {
    let mut world = World::with(place, None, Some(10), None).await;
    let (first, _) = world.send(4).await;
    let (second, _) = world.send(4).await;
    change_cap(&mut world, Some(5), Period::Monthly).await;
    let lot = world.lot(chain()[ACCOUNT]).await;
    assert_eq!((lot.granted, lot.overdraft, lot.consumed), (Some(5), 8, 8));
    world.settle(first, Outcome::Refused).await;
    assert_eq!(world.send(1).await.1, Verdict::Reserved);
    assert!(matches!(world.send(1).await.1, Verdict::Short { remaining: 0, .. }));
    world.settle(second, Outcome::Refused).await;
    assert_eq!(world.send(4).await.1, Verdict::Reserved);
    world.check().await;
}

pub async fn a_limit_that_comes_later_counts_what_was_used_before(place: &impl Place) {
    let mut world = World::with(place, None, None, None).await;
    world.send(7).await;
    change_cap(&mut world, Some(10), Period::Monthly).await;
    assert!(matches!(world.send(4).await.1, Verdict::Short { remaining: 3, .. }));
    change_cap(&mut world, None, Period::Monthly).await;
    assert_eq!(world.send(100).await.1, Verdict::Reserved);
}

pub async fn a_period_ends_by_itself(place: &impl Place) {
    let mut world = World::with(place, None, Some(5), None).await;
    let (late, _) = world.send(5).await;
    world.clock.set(at("2026-11-30T23:59:59Z"));
    assert!(matches!(world.send(1).await.1, Verdict::Short { .. }));
    world.clock.set(at("2026-12-01T00:00:00Z"));
    assert_eq!(world.lot(chain()[ACCOUNT]).await.window.key, "2026-12");
    assert_eq!(world.send(5).await.1, Verdict::Reserved);
    // A refund goes to the period that it was charged in.
    world.settle(late, Outcome::Refused).await;
    assert_eq!(world.consumed().await, [5; 3]);
    assert!(matches!(world.send(1).await.1, Verdict::Short { .. }));
    world.check().await;
}

pub async fn a_clock_that_steps_back_opens_no_older_period(place: &impl Place) {
    let mut world = World::with(place, None, Some(5), None).await;
    world.clock.set(at("2026-12-01T00:00:10Z"));
    assert_eq!(world.send(5).await.1, Verdict::Reserved);
    world.clock.set(at("2026-11-30T10:00:00Z"));
    assert!(matches!(world.send(1).await.1, Verdict::Short { .. }));
    assert_eq!(world.lot(chain()[ACCOUNT]).await.window.key, "2026-12");
    world.reopen(place).await;
    assert!(matches!(world.send(1).await.1, Verdict::Short { .. }));
    let reopens_at = Some(at("2027-01-01T00:00:00Z"));
    let (_, verdict) = world.send(1).await;
    assert_eq!(
        verdict,
        Verdict::Short { meter: Meter::AccountCap, granted: 5, remaining: 0, reopens_at, pending: false }
    );
}

pub async fn a_limit_of_nothing_holds_at_once_whatever_its_period(place: &impl Place) {
    let mut world = World::with(place, None, Some(10), None).await;
    world.send(3).await;
    change_cap(&mut world, Some(0), Period::Daily).await;
    assert!(matches!(world.send(1).await.1, Verdict::Short { granted: 0, .. }));
    change_cap(&mut world, Some(10), Period::Monthly).await;
    assert_eq!(world.send(7).await.1, Verdict::Reserved);
    assert!(matches!(world.send(1).await.1, Verdict::Short { granted: 10, .. }));
    world.check().await;
}

pub async fn a_limit_that_is_taken_away_is_gone_at_once(place: &impl Place) {
    let mut world = World::empty(place).await;
    world
        .put(&[
            Entry::Policy(policy(1, monthly(None))),
            Entry::Account(account(1, limit(Some(1), Period::Daily))),
            Entry::Key(key(1, 1, monthly(None))),
        ])
        .await;
    world.send(1).await;
    change_cap(&mut world, None, Period::Monthly).await;
    assert_eq!(world.send(9).await.1, Verdict::Reserved);
    // Added again on the same day, it counts that day.
    change_cap(&mut world, Some(10), Period::Daily).await;
    assert!(matches!(world.send(1).await.1, Verdict::Short { granted: 10, remaining: 0, .. }));
}

pub async fn lots_made_ahead_are_the_ones_that_would_have_been_made(place: &impl Place) {
    let mut world = World::with(place, Some(3), Some(4), Some(5)).await;
    let until = at("2027-02-10T00:00:00Z");
    // November's were made when the entries were written.
    assert_eq!(world.store.prepare_lots(&world.session, until).await.expect("made"), 9);
    assert_eq!(world.store.prepare_lots(&world.session, until).await.expect("made"), 0);
    change_cap(&mut world, Some(6), Period::Monthly).await;
    for (month, period) in [("2026-11-21", "2026-11"), ("2026-12-15", "2026-12"), ("2027-02-01", "2027-02")] {
        world.clock.set(at(&format!("{month}T00:00:00Z")));
        world.send(1).await;
        let lot = world.lot(chain()[ACCOUNT]).await;
        assert_eq!((lot.window.key.as_str(), lot.granted, lot.consumed), (period, Some(6), 1));
        assert_eq!(lot.window, calendar(Period::Monthly).window(at(&format!("{month}T00:00:00Z"))));
    }
    world.check().await;
}

pub async fn what_is_removed_gets_no_lots_ahead(place: &impl Place) {
    let mut world = World::with(place, None, Some(5), None).await;
    let mut removed = account(1, monthly(Some(5)));
    removed.removed_at = Some(world.clock_now());
    world.put(&[Entry::Account(removed)]).await;
    let made = world.store.prepare_lots(&world.session, at("2026-12-10T00:00:00Z")).await.expect("made");
    assert_eq!(made, 2, "the key's and the policy's");
}

pub async fn a_holder_that_returns_finds_what_it_used_and_the_limit_of_now(place: &impl Place) {
    let mut world = World::with(place, None, Some(5), None).await;
    world.send(3).await;
    let mut removed = account(1, monthly(Some(4)));
    removed.removed_at = Some(world.clock_now());
    world.put(&[Entry::Account(removed)]).await;
    assert_eq!(world.send(1).await.1, Verdict::Blocked(Blocked::AccountRemoved));
    change_cap(&mut world, Some(4), Period::Monthly).await;
    let lot = world.lot(Holder::Account(account_id(1))).await;
    assert_eq!((lot.granted, lot.consumed), (Some(4), 3));
}

pub async fn two_keys_race_for_the_last_credit_of_their_account(place: &impl Place) {
    let mut world = World::with(place, None, Some(1), None).await;
    world.put(&[Entry::Key(key(2, 1, monthly(None)))]).await;
    let mut asks = vec![];
    for n in [1, 2] {
        let mut reservation = world.reservation(1);
        reservation.key = key_id(n);
        let (store, session) = (world.store.clone(), world.session.clone());
        asks.push(tokio::spawn(async move { store.reserve(&session, &[reservation]).await.expect("answered") }));
    }
    let mut reserved = 0;
    for ask in asks {
        reserved += usize::from(ask.await.expect("no panic")[0] == Verdict::Reserved);
    }
    assert_eq!(reserved, 1);
}
