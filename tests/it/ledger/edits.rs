//! Edits of limits: set, removed, with another period, on another policy and back. No edit refills a limit, and none
//! shuts out a holder that has used less in the limit's own period.

use std::sync::Arc;

use super::limits::change_cap;
use super::world::{Place, World, account, account_id, at, chain, key, key_id, limit, monthly, policy, policy_id};
use franking::domain::credit::{Limit, Outcome, Reservation, Verdict};
use franking::domain::directory::Entry;
use franking::domain::id::{Holder, MessageId};
use franking::domain::period::{Calendar, Period};
use franking::ledger::store::{Error, Role, Settlement};

const KEY: usize = 0;
const ACCOUNT: usize = 1;
const POLICY: usize = 2;

fn in_zone(credits: Option<i64>, period: Period, zone: &str) -> Limit {
    Limit { credits, calendar: Calendar::new(period, 1, zone).expect("a calendar") }
}

/// Writes the limit of key 1, account 1 or policy 1.
async fn set(world: &mut World, holder: usize, limit: Limit) {
    let entry = match holder {
        KEY => Entry::Key(key(1, 1, limit)),
        ACCOUNT => Entry::Account(account(1, limit)),
        _ => Entry::Policy(policy(1, limit)),
    };
    world.put(&[entry]).await;
}

async fn used(world: &World, holder: usize) -> i64 {
    world.lot(chain()[holder]).await.used()
}

/// The attack: use all of a cap, then any edits, then the first cap again.
pub async fn no_edit_refills_a_cap(place: &impl Place) {
    let mut world = World::with(place, None, None, None).await;
    for holder in [KEY, ACCOUNT, POLICY] {
        // The use of earlier rounds counts.
        let cap = used(&world, holder).await + 20;
        set(&mut world, holder, monthly(Some(cap))).await;
        assert_eq!(world.send(20).await.1, Verdict::Reserved);
        let edits = [
            in_zone(Some(5), Period::Daily, "UTC"),
            in_zone(None, Period::Daily, "UTC"),
            in_zone(Some(500), Period::Weekly, "Asia/Kolkata"),
            in_zone(Some(0), Period::Monthly, "Asia/Kolkata"),
            in_zone(None, Period::Monthly, "UTC"),
            in_zone(None, Period::Weekly, "America/St_Johns"),
        ];
        for edit in edits {
            for _ in 0..2 {
                world.clock.advance(1);
                set(&mut world, holder, edit.clone()).await;
                set(&mut world, holder, monthly(Some(cap))).await;
                let (_, verdict) = world.send(1).await;
                let lot = world.lot(chain()[holder]).await;
                assert!(matches!(verdict, Verdict::Short { remaining: 0, .. }), "{edit:?}: {verdict:?} {lot:?}");
            }
        }
        assert_eq!(used(&world, holder).await, cap);
        set(&mut world, holder, monthly(None)).await;
        world.check().await;
    }
}

pub async fn moving_to_another_policy_and_back_refills_nothing(place: &impl Place) {
    let mut world = World::with(place, None, Some(20), None).await;
    let mut other = policy(2, in_zone(None, Period::Daily, "Europe/Berlin"));
    other.id = policy_id(2);
    world.put(&[Entry::Policy(other)]).await;
    world.send(20).await;
    for cap in [None, Some(5), None] {
        let mut moved = account(1, in_zone(cap, Period::Daily, "Europe/Berlin"));
        moved.policy = policy_id(2);
        world.put(&[Entry::Account(moved)]).await;
        world.clock.advance(60);
        // The messages it sends there count when it is back.
        let expected = if cap.is_none() { 2 } else { 0 };
        let sent = world.send(2).await.1 == Verdict::Reserved;
        assert_eq!(i64::from(sent) * 2, expected, "{cap:?}");
        world.put(&[Entry::Account(account(1, monthly(Some(20))))]).await;
        assert!(matches!(world.send(1).await.1, Verdict::Short { granted: 20, remaining: 0, .. }));
    }
    assert_eq!(used(&world, ACCOUNT).await, 24);
    world.put(&[Entry::Account(account(1, monthly(Some(25))))]).await;
    assert_eq!(world.send(1).await.1, Verdict::Reserved);
    assert!(matches!(world.send(1).await.1, Verdict::Short { .. }));
    world.check().await;
}

/// A daily cap that is set in the middle of a month counts the day, in the time zone's own quarter of an hour.
pub async fn a_limit_that_begins_within_its_period_counts_that_period_and_no_more(place: &impl Place) {
    // A zone; the last moment of a day there, and the first of the next.
    let midnights = [
        ("UTC", "2026-12-09T23:59:59.999Z", "2026-12-10T00:00:00Z"),
        ("Asia/Kathmandu", "2026-12-09T18:14:59.999Z", "2026-12-09T18:15:00Z"),
        ("Asia/Kolkata", "2026-12-09T18:29:59.999Z", "2026-12-09T18:30:00Z"),
        ("Pacific/Chatham", "2026-12-10T10:14:59.999Z", "2026-12-10T10:15:00Z"),
    ];
    let mut world = World::with(place, None, None, None).await;
    world.clock.set(at("2026-12-08T10:00:00Z"));
    let mut sent = vec![];
    let mut instants: Vec<&str> = midnights.iter().flat_map(|(_, before, after)| [*before, *after]).collect();
    instants.sort_unstable_by_key(|instant| at(instant));
    for instant in instants {
        world.clock.set(at(instant));
        assert_eq!(world.send(1).await.1, Verdict::Reserved);
        sent.push(at(instant));
        // Some of it is rolled up, and some is not.
        if sent.len() % 3 == 0 {
            world.store.rollup(&world.session).await.expect("rolled up");
        }
    }
    world.clock.set(at("2026-12-10T17:00:00Z"));
    for (zone, _, midnight) in midnights {
        set(&mut world, ACCOUNT, in_zone(Some(9), Period::Daily, zone)).await;
        let expected = sent.iter().filter(|at_| **at_ >= at(midnight)).count() as i64;
        let lot = world.lot(chain()[ACCOUNT]).await;
        assert_eq!((lot.used(), lot.remaining()), (expected, Some(9 - expected)), "{zone}");
        assert_eq!(lot.window.from, at(midnight), "{zone}");
    }
    // The next day is another one.
    world.clock.set(at("2026-12-11T12:00:00Z"));
    assert_eq!(used(&world, ACCOUNT).await, 0);
    set(&mut world, ACCOUNT, monthly(Some(9))).await;
    assert_eq!(used(&world, ACCOUNT).await, 8);
    world.check().await;
}

pub async fn a_changed_calendar_holds_at_once(place: &impl Place) {
    let mut world = World::empty(place).await;
    world
        .put(&[
            Entry::Policy(policy(1, monthly(None))),
            Entry::Account(account(1, limit(Some(70), Period::Weekly))),
            Entry::Key(key(1, 1, monthly(None))),
        ])
        .await;
    world.send(70).await;
    assert!(matches!(world.send(1).await.1, Verdict::Short { granted: 70, .. }));
    change_cap(&mut world, Some(100), Period::Monthly).await;
    assert_eq!(world.send(30).await.1, Verdict::Reserved);
    assert!(matches!(world.send(1).await.1, Verdict::Short { granted: 100, remaining: 0, .. }));
    // The week's limit counts what the month's was charged.
    change_cap(&mut world, Some(70), Period::Weekly).await;
    assert!(matches!(world.send(1).await.1, Verdict::Short { granted: 70, remaining: 0, .. }));
    world.clock.set(at("2026-11-23T00:00:00Z"));
    assert_eq!(world.send(70).await.1, Verdict::Reserved);
    change_cap(&mut world, Some(171), Period::Monthly).await;
    assert_eq!(world.send(1).await.1, Verdict::Reserved);
    assert!(matches!(world.send(1).await.1, Verdict::Short { granted: 171, remaining: 0, .. }));
    world.clock.set(at("2026-12-01T00:00:00Z"));
    assert_eq!(world.send(171).await.1, Verdict::Reserved);
    world.check().await;
}

pub async fn what_is_given_back_makes_room_in_the_limit_that_counts_it(place: &impl Place) {
    let mut world = World::with(place, None, Some(10), None).await;
    world.clock.set(at("2026-12-05T10:00:00Z"));
    let (early, _) = world.send(3).await;
    world.clock.set(at("2026-12-20T10:00:00Z"));
    let (late, _) = world.send(4).await;
    change_cap(&mut world, Some(5), Period::Daily).await;
    assert_eq!(used(&world, ACCOUNT).await, 4);
    // A message from before this day makes no room in it when it is refunded.
    world.settle(early, Outcome::Refused).await;
    assert_eq!(used(&world, ACCOUNT).await, 4);
    world.clock.advance(1);
    change_cap(&mut world, Some(10), Period::Monthly).await;
    assert_eq!(used(&world, ACCOUNT).await, 4);
    world.clock.advance(1);
    change_cap(&mut world, Some(5), Period::Daily).await;
    let (own, verdict) = world.send(1).await;
    assert_eq!(verdict, Verdict::Reserved);
    assert!(matches!(world.send(1).await.1, Verdict::Short { .. }));
    for _ in 0..2 {
        world.settle(late, Outcome::NotOffered).await;
        world.settle(own, Outcome::NotOffered).await;
        assert_eq!(used(&world, ACCOUNT).await, 0, "once");
    }
    assert_eq!(world.send(5).await.1, Verdict::Reserved);
    world.clock.advance(1);
    change_cap(&mut world, Some(6), Period::Monthly).await;
    assert_eq!(used(&world, ACCOUNT).await, 5);
    let usage = world.balance(chain()[ACCOUNT]).await.usage;
    assert_eq!((usage.accepted, usage.messages), (0, 0), "figures count since the limit began");
    world.check().await;
}

pub async fn a_calendar_that_changes_twice_in_a_millisecond_leaves_one_lot(place: &impl Place) {
    let mut world = World::with(place, None, None, None).await;
    let (first, _) = world.send(2).await;
    for period in [Period::Daily, Period::Weekly, Period::Daily] {
        change_cap(&mut world, None, period).await;
        world.send(1).await;
    }
    change_cap(&mut world, Some(6), Period::Weekly).await;
    let lot = world.lot(chain()[ACCOUNT]).await;
    assert_eq!((lot.granted, lot.window.to, lot.used(), lot.charged()), (Some(6), at("2026-11-23T00:00:00Z"), 5, 3));
    assert_eq!(world.send(1).await.1, Verdict::Reserved);
    assert!(matches!(world.send(1).await.1, Verdict::Short { .. }));
    world.settle(first, Outcome::Refused).await;
    assert_eq!(used(&world, ACCOUNT).await, 4);
    world.check().await;
}

pub async fn a_lot_follows_from_the_limit_of_now_made_ahead_or_not(place: &impl Place) {
    let mut world = World::empty(place).await;
    let limited = |n| Entry::Account(account(n, limit(Some(5), Period::Monthly)));
    world.put(&[Entry::Policy(policy(1, monthly(None))), limited(1)]).await;
    world.store.prepare_lots(&world.session, at("2026-12-02T00:00:00Z")).await.expect("made");
    // The lot of December is not made for this one.
    world.put(&[limited(2)]).await;
    world.clock.set(at("2026-12-01T12:00:00Z"));
    let mut lots = vec![];
    for n in [1, 2] {
        world.put(&[Entry::Account(account(n, limit(Some(9), Period::Daily)))]).await;
        lots.push(world.lot(Holder::Account(account_id(n))).await);
    }
    assert_eq!((lots[0].granted, lots[0].window.key.as_str()), (Some(9), "2026-12-01"));
    assert_eq!((&lots[0].window, lots[0].granted), (&lots[1].window, lots[1].granted));
}

/// Rows are counted by the rollup, sealed, and dropped; a month's use is known all the same.
pub async fn what_was_sealed_is_counted_by_a_limit_that_comes_later(place: &impl Place) {
    let mut world = World::with(place, None, None, None).await;
    for day in ["2026-12-01", "2026-12-03", "2026-12-12"] {
        world.clock.set(at(&format!("{day}T00:00:00Z")));
        world.send(1).await;
    }
    world.store.retire(&world.session, at("2026-12-10T00:00:00Z")).await.expect("retired");
    world.clock.set(at("2026-12-30T23:00:00Z"));
    // Usage that is older than any period is forgotten, and this is not.
    world.store.retire(&world.session, at("2026-12-20T00:00:00Z")).await.expect("retired");
    change_cap(&mut world, Some(5), Period::Daily).await;
    change_cap(&mut world, Some(5), Period::Monthly).await;
    assert_eq!(used(&world, ACCOUNT).await, 3);
    assert_eq!(world.send(2).await.1, Verdict::Reserved);
    assert!(matches!(world.send(1).await.1, Verdict::Short { .. }));
    world.check().await;
}

/// Relays charge while an operator changes the calendar of the cap again and again: all of its calendars count the same
/// day, so exactly the cap is accepted.
pub async fn charges_that_race_with_edits_accept_exactly_the_limit(place: &impl Place) {
    const CAP: i64 = 400;
    const RELAYS: u128 = 3;
    let mut world = World::with(place, None, Some(CAP), None).await;
    world.clock.set(at("2026-12-01T10:00:00Z"));
    change_cap(&mut world, Some(CAP), Period::Monthly).await;
    let mut relays = tokio::task::JoinSet::new();
    for relay in 0..RELAYS {
        let store = place.open(Arc::new(world.clock.clone()));
        let session = store.open_session(Role::Relay, &format!("racer-{relay}")).await.expect("a session");
        relays.spawn(async move {
            let (mut kept, mut refused, mut number) = (0, 0, 0u128);
            while refused < 10 {
                number += 1;
                let message = MessageId(uuid::Uuid::from_u128((relay + 1) << 64 | number));
                let asked = Reservation { message, key: key_id(1), credits: 1, fingerprint: None };
                let verdict = loop {
                    match store.reserve(&session, std::slice::from_ref(&asked)).await {
                        Ok(mut verdicts) => break verdicts.remove(0),
                        // Overtaken by one edit after the other: retried, as the handle does.
                        Err(Error::Unavailable { .. }) => tokio::task::yield_now().await,
                        Err(error) => panic!("{error}"),
                    }
                };
                let outcome = if number.is_multiple_of(4) { Outcome::Refused } else { Outcome::Relayed };
                match verdict {
                    Verdict::Reserved => {
                        let settlement = [Settlement::of(message, outcome)];
                        while let Err(error) = store.settle(&session, &settlement).await {
                            assert!(matches!(error, Error::Unavailable { .. }), "{error}");
                            tokio::task::yield_now().await;
                        }
                        kept += i64::from(outcome == Outcome::Relayed);
                    }
                    _ => refused += 1,
                }
            }
            kept
        });
    }
    let (mut turn, mut accepted) = (0, 0);
    while !relays.is_empty() {
        let period = [Period::Daily, Period::Monthly][turn % 2];
        // Each edit is later than the last one's lot.
        world.clock.advance(1);
        change_cap(&mut world, Some(CAP), period).await;
        if turn % 5 == 0 {
            world.store.rollup(&world.session).await.expect("rolled up");
        }
        turn += 1;
        let finished = tokio::time::timeout(std::time::Duration::from_millis(5), relays.join_next()).await;
        if let Ok(Some(kept)) = finished {
            accepted += kept.expect("no panic");
        }
    }
    assert!(turn > 3, "{turn} edits");
    // The last refunds may have come when no task was asking any more.
    let left = CAP - accepted;
    assert!((0..CAP / 4).contains(&left), "{left} left");
    assert_eq!(used(&world, ACCOUNT).await, accepted);
    for _ in 0..left {
        assert_eq!(world.send(1).await.1, Verdict::Reserved);
    }
    assert!(matches!(world.send(1).await.1, Verdict::Short { .. }));
    world.check().await;
}
