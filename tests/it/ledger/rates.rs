//! Rates: judged for all processes together, and given back by refused messages.

use std::sync::Arc;

use super::world::{Place, World, account, at, key, key_id, monthly};
use franking::domain::credit::{Blocked, Meter, Outcome, Rate, RateScope, Reservation, Verdict};
use franking::domain::directory::Entry;
use franking::domain::id::MessageId;
use franking::ledger::store::{LedgerTime, Role};

pub(super) fn rate(messages: u32, per_seconds: u32) -> Rate {
    Rate { messages, per_seconds }
}

async fn set_rates(world: &mut World, of_key: Option<Rate>, of_account: Option<Rate>, cap: Option<i64>) {
    let (mut one, mut two) = (key(1, 1, monthly(None)), key(2, 1, monthly(None)));
    (one.rate, two.rate) = (of_key, None);
    let mut account = account(1, monthly(cap));
    account.rate = of_account;
    world.put(&[Entry::Account(account), Entry::Key(one), Entry::Key(two)]).await;
}

fn too_fast(scope: RateScope, rate: Rate, retry_at: &str) -> Verdict {
    Verdict::TooFast { scope, rate, retry_at: at(retry_at) }
}

pub async fn a_rate_is_judged_for_all_processes_together(place: &impl Place) {
    let mut world = World::with(place, None, None, None).await;
    let slow = rate(2, 60);
    set_rates(&mut world, Some(slow), None, None).await;
    let other = place.open(Arc::new(world.clock.clone()));
    let session = other.open_session(Role::Relay, "relay-1").await.expect("a session");
    assert_eq!(world.send(50).await.1, Verdict::Reserved, "a message is one, however many recipients it has");
    let second = [world.reservation(1)];
    assert_eq!(other.reserve(&session, &second).await.expect("answered"), [Verdict::Reserved]);
    for _ in 0..3 {
        assert_eq!(world.send(1).await.1, too_fast(RateScope::Key, slow, "2026-11-20T10:00:30Z"));
    }
    // Retried with the same id it is the same message.
    assert_eq!(world.ask(&second[0]).await, Verdict::Reserved);
    world.reopen(place).await;
    world.clock.advance(29);
    assert_eq!(world.send(1).await.1, too_fast(RateScope::Key, slow, "2026-11-20T10:00:30Z"));
    world.clock.advance(1);
    let batch = [world.reservation(1), world.reservation(1)];
    let verdicts = world.store.reserve(&world.session, &batch).await.expect("answered");
    assert_eq!(verdicts, [Verdict::Reserved, too_fast(RateScope::Key, slow, "2026-11-20T10:01:00Z")]);
    // An hour back: the ledger's time stands, and no message waits until the clock has caught up.
    world.clock.advance(-3_600);
    assert_eq!(world.send(1).await.1, Verdict::Reserved);
    assert_eq!(world.send(1).await.1, too_fast(RateScope::Key, slow, "2026-11-20T09:01:00Z"));
    world.clock.advance(3_600 + 30);
    assert_eq!(world.send(1).await.1, Verdict::Reserved);
    assert_eq!(world.consumed().await, [54; 3]);
    world.check().await;
}

pub async fn a_rate_is_judged_before_credits_and_refused_messages_move_nothing(place: &impl Place) {
    let mut world = World::with(place, None, None, None).await;
    let (of_key, of_account) = (rate(1, 10), rate(2, 100));
    set_rates(&mut world, Some(of_key), Some(of_account), Some(2)).await;
    // Short of credits, again and again: the rate has not moved.
    for _ in 0..3 {
        assert!(matches!(world.send(3).await.1, Verdict::Short { meter: Meter::AccountCap, .. }));
    }
    let (first, verdict) = world.send(1).await;
    assert_eq!(verdict, Verdict::Reserved);
    // Too fast: the answer does not mention credits.
    assert_eq!(world.send(3).await.1, too_fast(RateScope::Key, of_key, "2026-11-20T10:00:10Z"));
    let mut of_second = world.reservation(1);
    of_second.key = key_id(2);
    assert_eq!(world.ask(&of_second).await, Verdict::Reserved);
    // Both are too fast: the one that waits longer is named.
    assert_eq!(world.send(1).await.1, too_fast(RateScope::Account, of_account, "2026-11-20T10:00:50Z"));
    // A refund gives back the credits and the rate.
    world.settle(first, Outcome::Refused).await;
    assert_eq!(world.send(1).await.1, Verdict::Reserved);
    assert_eq!(world.send(1).await.1, too_fast(RateScope::Account, of_account, "2026-11-20T10:00:50Z"));
    // Without a rate no message waits; a faster one ends the old wait.
    set_rates(&mut world, None, Some(rate(1_000, 1)), Some(3)).await;
    assert_eq!(world.send(1).await.1, Verdict::Reserved);
    world.check().await;
}

/// The `docs/replies-and-conditions.md`: a message that is refused does not count against a rate.
pub async fn what_is_given_back_gives_its_rate_back_once(place: &impl Place) {
    let mut world = World::with(place, None, None, None).await;
    let (of_key, of_account) = (rate(2, 60), rate(3, 60));
    set_rates(&mut world, Some(of_key), Some(of_account), None).await;
    let key_waits = |retry_at| too_fast(RateScope::Key, of_key, retry_at);
    // Two that the upstream refuses, at a time, however often that is settled.
    for (outcome, retry_at) in
        [(Outcome::Refused, "2026-11-20T10:00:30Z"), (Outcome::NotOffered, "2026-11-20T10:01:30Z")]
    {
        let (first, second) = (world.send(1).await, world.send(1).await);
        assert_eq!([first.1, second.1], [Verdict::Reserved, Verdict::Reserved], "{outcome:?}");
        assert_eq!(world.send(1).await.1, key_waits(retry_at));
        for _ in 0..2 {
            world.settle(first.0, outcome).await;
            world.settle(second.0, outcome).await;
        }
        let (third, verdict) = world.send(1).await;
        assert_eq!(verdict, Verdict::Reserved, "{outcome:?}");
        world.settle(third, Outcome::Relayed).await;
        world.clock.advance(60);
    }
    // A message that is relayed, or unknown, took its turn, until it turns out that it did not.
    let (relayed, unknown) = (world.send(1).await.0, world.send(1).await.0);
    world.settle(relayed, Outcome::Relayed).await;
    world.settle(unknown, Outcome::Unknown).await;
    assert_eq!(world.send(1).await.1, key_waits("2026-11-20T10:02:30Z"));
    world.settle(unknown, Outcome::Refused).await;
    let (late, verdict) = world.send(1).await;
    assert_eq!(verdict, Verdict::Reserved);
    assert_eq!(world.send(1).await.1, key_waits("2026-11-20T10:02:30Z"));
    // Its turn has passed when it is given back: others have waited for it already.
    world.clock.advance(60);
    assert_eq!([world.send(1).await.1, world.send(1).await.1], [Verdict::Reserved, Verdict::Reserved]);
    world.settle(late, Outcome::Refused).await;
    assert!(matches!(world.send(1).await.1, Verdict::TooFast { .. }));
    world.check().await;
}

/// Returns how many messages pass at one moment when the upstream refuses each, of `most` that are tried with a key.
async fn refused_at_once(world: &mut World, of: u128, most: usize) -> usize {
    for passed in 0..most {
        let mut asked = world.reservation(1);
        asked.key = key_id(of);
        match world.ask(&asked).await {
            Verdict::Reserved => world.settle(asked.message, Outcome::Refused).await,
            Verdict::TooFast { .. } => return passed,
            other => panic!("{other:?}"),
        }
    }
    most
}

/// A client that only gets refusals tries recipients at the upstream's cost.
pub async fn as_much_of_a_rate_is_given_back_as_the_rate_allows(place: &impl Place) {
    let mut world = World::with(place, None, None, None).await;
    // A rate of a key, and of an account whose keys have none.
    for (of_key, of_account) in [(Some(rate(3, 60)), None), (None, Some(rate(3, 60)))] {
        world.clock.advance(120);
        set_rates(&mut world, of_key, of_account, None).await;
        assert_eq!(refused_at_once(&mut world, 1, 50).await, 6, "{of_key:?}: its three, and three given back");
        for _ in 0..2 {
            assert_eq!(refused_at_once(&mut world, 1, 50).await, 0);
            world.clock.advance(20);
            assert_eq!(refused_at_once(&mut world, 1, 50).await, 2, "{of_key:?}: twice the rate");
        }
        if of_account.is_some() {
            assert_eq!(refused_at_once(&mut world, 2, 50).await, 0, "all keys of the account together");
        }
        world.clock.advance(120);
        assert_eq!(refused_at_once(&mut world, 1, 50).await, 6, "{of_key:?}");
    }
    // Two refused messages do not stop the third, however low the rate.
    world.clock.advance(3_600);
    set_rates(&mut world, Some(rate(1, 3_600)), None, None).await;
    assert_eq!(refused_at_once(&mut world, 1, 50).await, 3);
    // A restart forgets nothing.
    world.reopen(place).await;
    assert_eq!(refused_at_once(&mut world, 1, 50).await, 0);
    world.check().await;
}

/// Returns a message of key 1 whose id a relay made at this moment.
fn made_now(world: &mut World) -> Reservation {
    let (asked, now) = (world.reservation(1), world.clock_now());
    let mut random = [0; 10];
    random.copy_from_slice(&asked.message.0.as_bytes()[6..]);
    let id = uuid::Builder::from_unix_timestamp_millis(now.as_millisecond().unsigned_abs(), &random).into_uuid();
    Reservation { message: MessageId(id), ..asked }
}

/// A clock ran ahead and was corrected: for the ledger all messages have one time.
pub async fn what_is_given_back_late_lowers_no_running_rate_while_the_ledger_is_ahead(place: &impl Place) {
    let mut world = World::with(place, None, None, None).await;
    let slow = rate(2, 60);
    set_rates(&mut world, Some(slow), None, None).await;
    world.clock.set(at("2026-11-23T10:00:00Z"));
    let while_ahead = made_now(&mut world);
    assert_eq!(world.ask(&while_ahead).await, Verdict::Reserved);
    world.clock.set(at("2026-11-20T10:00:00Z"));
    // The arrival that the fast clock left behind holds one message up.
    let early = made_now(&mut world);
    assert_eq!(world.ask(&early).await, Verdict::Reserved);
    let waits = |retry_at| too_fast(RateScope::Key, slow, retry_at);
    assert_eq!(world.send(1).await.1, waits("2026-11-20T10:00:30Z"));
    // It was charged in the window of another clock.
    world.settle(while_ahead.message, Outcome::Refused).await;
    assert_eq!(world.send(1).await.1, waits("2026-11-20T10:00:30Z"));

    world.clock.advance(60);
    let (first, second) = (made_now(&mut world), made_now(&mut world));
    assert_eq!([world.ask(&first).await, world.ask(&second).await], [Verdict::Reserved, Verdict::Reserved]);
    world.settle(early.message, Outcome::Refused).await;
    assert_eq!(world.send(1).await.1, waits("2026-11-20T10:01:30Z"), "its window has passed");
    world.clock.advance(1);
    world.settle(first.message, Outcome::Refused).await;
    let again = made_now(&mut world);
    assert_eq!(world.ask(&again).await, Verdict::Reserved, "it is given back within its window");
    assert_eq!(world.send(1).await.1, waits("2026-11-20T10:01:30Z"));
    world.check().await;
}

/// A clock that ran three days ahead was corrected: the ledger's time stands for three days.
pub async fn rates_and_expiries_are_judged_by_the_clock_where_the_ledger_is_ahead_of_it(place: &impl Place) {
    let mut world = World::with(place, None, Some(100), None).await;
    let slow = rate(1, 60);
    let mut paced = key(1, 1, monthly(None));
    (paced.rate, paced.expires_at) = (Some(slow), Some(at("2026-11-21T00:00:00Z")));
    let mut other = key(2, 1, monthly(None));
    other.rate = Some(slow);
    world.put(&[Entry::Key(paced), Entry::Key(other)]).await;
    world.clock.set(at("2026-11-23T10:00:00Z"));
    assert_eq!(world.send(1).await.1, Verdict::Blocked(Blocked::KeyExpired));
    let mut of_other = world.reservation(1);
    of_other.key = key_id(2);
    assert_eq!(world.ask(&of_other).await, Verdict::Reserved);
    let time = world.store.time().await.expect("the time");
    assert_eq!(time, LedgerTime { ledger: at("2026-11-23T10:00:00Z"), clock: at("2026-11-23T10:00:00Z") });

    world.clock.set(at("2026-11-20T10:00:00Z"));
    let time = world.store.time().await.expect("the time");
    assert_eq!(time, LedgerTime { ledger: at("2026-11-23T10:00:00Z"), clock: at("2026-11-20T10:00:00Z") });
    assert_eq!(world.send(1).await.1, Verdict::Reserved, "it has not expired");
    assert_eq!(world.send(1).await.1, too_fast(RateScope::Key, slow, "2026-11-20T10:01:00Z"));
    // The arrival that the fast clock left behind holds one message up, and not for three days.
    let mut of_other = world.reservation(1);
    of_other.key = key_id(2);
    assert_eq!(world.ask(&of_other).await, Verdict::Reserved);
    world.reopen(place).await;
    assert_eq!(
        world.send(1).await.1,
        too_fast(RateScope::Key, slow, "2026-11-20T10:01:00Z"),
        "a restart changes nothing"
    );
    world.clock.advance(60);
    assert_eq!(world.send(1).await.1, Verdict::Reserved);
    world.clock.set(at("2026-11-21T00:00:00Z"));
    assert_eq!(world.send(1).await.1, Verdict::Blocked(Blocked::KeyExpired));
    // Within a minute the ledger's time holds.
    world.clock.set(at("2026-11-23T09:59:30Z"));
    assert_eq!(world.send(1).await.1, Verdict::Blocked(Blocked::KeyExpired));
    world.check().await;
}
