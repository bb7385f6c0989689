//! The limit on refused mail of an account: it costs nothing, and it must not fill the ledger.

use std::sync::Arc;

use super::world::{Place, World, account, account_id, at, key, key_id, monthly};
use franking::domain::credit::{Outcome, REFUSED_PER_HOUR, Rate, RateScope, Reservation, Verdict};
use franking::domain::directory::Entry;
use franking::domain::fingerprint::Fingerprint;
use franking::domain::id::{Holder, MessageId};
use franking::ledger::store::{DedupUpdate, FINGERPRINT_KEPT, Kept, Role, Settlement};

/// Reserves so many messages, in one call.
async fn reserved(world: &mut World, messages: u32) -> Vec<MessageId> {
    let batch: Vec<Reservation> = (0..messages).map(|_| world.reservation(1)).collect();
    let verdicts = world.store.reserve(&world.session, &batch).await.expect("answered");
    assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Reserved));
    batch.iter().map(|asked| asked.message).collect()
}

async fn settled(world: &World, messages: &[MessageId], outcome: Outcome) {
    let batch: Vec<Settlement> = messages.iter().map(|message| Settlement::of(*message, outcome)).collect();
    world.store.settle(&world.session, &batch).await.expect("settled");
}

async fn send_all(world: &mut World, messages: u32, outcome: Outcome) {
    let messages = reserved(world, messages).await;
    settled(world, &messages, outcome).await;
}

fn shut(per_hour: u32, retry_at: &str) -> Verdict {
    let rate = Rate { messages: per_hour, per_seconds: 3_600 };
    Verdict::TooFast { scope: RateScope::Refused, rate, retry_at: at(retry_at) }
}

pub async fn an_account_may_have_so_much_refused_in_an_hour_and_waits_its_turn_then(place: &impl Place) {
    let mut world = World::with(place, None, None, None).await;
    let elsewhere = Entry::Account(account(2, monthly(None)));
    world.put(&[elsewhere, Entry::Key(key(2, 1, monthly(None))), Entry::Key(key(3, 2, monthly(None)))]).await;
    let under_way = reserved(&mut world, 3).await;
    send_all(&mut world, REFUSED_PER_HOUR - 400, Outcome::Refused).await;
    send_all(&mut world, 300, Outcome::NotOffered).await;
    // A correction gives back as well, and a settled message is settled once.
    let unknown = reserved(&mut world, 100).await;
    settled(&world, &unknown, Outcome::Unknown).await;
    for _ in 0..2 {
        settled(&world, &unknown, Outcome::Refused).await;
    }
    send_all(&mut world, 20, Outcome::Relayed).await;
    let lost = Kept { fingerprint: Fingerprint([7; 32]), within: FINGERPRINT_KEPT };
    let (first, verdict) = world.send(1).await;
    assert_eq!(verdict, Verdict::Reserved);
    world.settle_with(first, Outcome::Unknown, DedupUpdate::Ended(lost)).await;
    assert_eq!(world.consumed_total().await, 24);

    // One too many, by messages that were under way already.
    settled(&world, &under_way[..1], Outcome::Refused).await;
    for _ in 0..3 {
        assert_eq!(world.send(1).await.1, shut(REFUSED_PER_HOUR, "2026-11-20T10:00:03.600Z"));
    }
    // Shut for all keys of the account, at every relay, and for a copy that would be sent; no other account is.
    let other = place.open(Arc::new(world.clock.clone()));
    let session = other.open_session(Role::Relay, "relay-1").await.expect("a session");
    let of_key = |n, asked: Reservation| Reservation { key: key_id(n), ..asked };
    let batch = [of_key(2, world.reservation(1)), world.copy(7), of_key(3, world.reservation(1))];
    let verdicts = other.reserve(&session, &batch).await.expect("answered");
    let shut_then = shut(REFUSED_PER_HOUR, "2026-11-20T10:00:03.600Z");
    assert_eq!(verdicts, [shut_then.clone(), shut_then, Verdict::Reserved]);
    // Messages under way end normally, and an answer that costs nothing is given.
    settled(&world, &under_way[1..], Outcome::Refused).await;
    assert_eq!(world.send(1).await.1, shut(REFUSED_PER_HOUR, "2026-11-20T10:00:10.800Z"));
    world.settle(first, Outcome::Relayed).await;
    let copy = world.copy(7);
    assert_eq!(world.ask(&copy).await, Verdict::Relayed(first));

    world.clock.advance(11);
    send_all(&mut world, 50, Outcome::Relayed).await;
    let (message, verdict) = world.send(1).await;
    assert_eq!(verdict, Verdict::Reserved);
    world.settle(message, Outcome::Refused).await;
    assert_eq!(world.send(1).await.1, shut(REFUSED_PER_HOUR, "2026-11-20T10:00:14.400Z"));
    // After an hour nothing is left of it.
    world.clock.advance(3_600 + 4);
    world.store.retire(&world.session, at("2026-11-01T00:00:00Z")).await.expect("retired");
    send_all(&mut world, REFUSED_PER_HOUR / 2, Outcome::Refused).await;
    send_all(&mut world, REFUSED_PER_HOUR / 2, Outcome::Refused).await;
    assert_eq!(world.send(1).await.1, Verdict::Reserved);
    assert_eq!(world.lot(Holder::Account(account_id(2))).await.used(), 1);
    world.check().await;
}

pub async fn nobody_waits_longer_than_an_hour_for_what_was_refused(place: &impl Place) {
    let mut world = World::with(place, None, None, None).await;
    let mut under_way = vec![];
    for _ in 0..4 {
        under_way.extend(reserved(&mut world, REFUSED_PER_HOUR).await);
    }
    settled(&world, &under_way, Outcome::Refused).await;
    assert_eq!(world.send(1).await.1, shut(REFUSED_PER_HOUR, "2026-11-20T11:00:00Z"));
    world.clock.advance(3_600);
    assert_eq!(world.send(1).await.1, Verdict::Reserved);
}

pub async fn who_has_much_accepted_may_have_as_much_refused(place: &impl Place) {
    let mut world = World::with(place, None, None, None).await;
    world.clock.advance(1_799);
    let big = Reservation { credits: 3 * REFUSED_PER_HOUR, ..world.reservation(1) };
    assert_eq!(world.ask(&big).await, Verdict::Reserved);
    world.settle(big.message, Outcome::Relayed).await;
    world.store.rollup(&world.session).await.expect("rolled up");
    // In the hour after as well.
    world.clock.advance(3_600);
    for _ in 0..3 {
        send_all(&mut world, REFUSED_PER_HOUR, Outcome::Refused).await;
    }
    send_all(&mut world, 1, Outcome::Refused).await;
    assert_eq!(world.send(1).await.1, shut(3 * REFUSED_PER_HOUR, "2026-11-20T11:30:00.200Z"));
    // Refunded messages, and older ones, do not count.
    world.store.rollup(&world.session).await.expect("rolled up");
    world.clock.advance(3_602);
    send_all(&mut world, REFUSED_PER_HOUR, Outcome::Refused).await;
    assert_eq!(world.send(1).await.1, Verdict::Reserved);
    send_all(&mut world, 1, Outcome::Refused).await;
    assert!(matches!(world.send(1).await.1, Verdict::TooFast { scope: RateScope::Refused, .. }));
}
