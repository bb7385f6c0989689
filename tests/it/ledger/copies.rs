//! Messages that are sent again, byte for byte.

use std::sync::Arc;

use super::world::{Place, World, chain, key, monthly};
use franking::domain::credit::{Blocked, Outcome, Rate, RateScope, Verdict};
use franking::domain::directory::{Entry, KeyEntry};
use franking::domain::fingerprint::Fingerprint;
use franking::domain::id::MessageId;
use franking::ledger::store::{DedupUpdate, FINGERPRINT_KEPT, FINGERPRINT_KEPT_UNMARKED, Kept, Role, Settlement};

const PRINT: Fingerprint = Fingerprint([7; 32]);
const KEPT: Kept = Kept { fingerprint: PRINT, within: FINGERPRINT_KEPT };
const OPEN: DedupUpdate = DedupUpdate::Open(KEPT);
const ENDED: DedupUpdate = DedupUpdate::Ended(KEPT);
const TOLD: DedupUpdate = DedupUpdate::StoodIn { fingerprint: PRINT, told: true };
const UNTOLD: DedupUpdate = DedupUpdate::StoodIn { fingerprint: PRINT, told: false };

impl World {
    async fn limited(place: &impl Place) -> Self {
        Self::with(place, None, Some(100), None).await
    }

    /// Charges a message, and settles it as one whose client was told to try again.
    async fn open(&mut self, update: DedupUpdate) -> MessageId {
        let first = self.copy(7);
        assert_eq!(self.ask(&first).await, Verdict::Reserved);
        self.settle_with(first.message, Outcome::Unknown, update).await;
        first.message
    }

    async fn ask_copy(&mut self) -> (MessageId, Verdict) {
        let copy = self.copy(7);
        (copy.message, self.ask(&copy).await)
    }

    /// Returns the account's charged credits, and how many of them are relayed and unknown.
    async fn figures(&self) -> [i64; 3] {
        self.check().await;
        let usage = self.balance(chain()[1]).await.usage;
        [usage.accepted, usage.relayed, usage.unknown]
    }
}

pub async fn a_copy_of_an_open_message_is_answered_by_what_became_of_it(place: &impl Place) {
    let mut world = World::limited(place).await;
    let first = world.open(OPEN).await;
    // Another relay recognises it as well, and another message is another message.
    let other = place.open(Arc::new(world.clock.clone()));
    let elsewhere = other.open_session(Role::Relay, "relay-1").await.expect("a session");
    let early = world.copy(7);
    for _ in 0..2 {
        let verdicts = other.reserve(&elsewhere, std::slice::from_ref(&early)).await.expect("answered");
        assert_eq!(verdicts, [Verdict::UnderWay(first)]);
    }
    let stranger = world.copy(8);
    assert_eq!(world.ask(&stranger).await, Verdict::Reserved);
    assert_eq!(world.figures().await, [2, 0, 1]);

    world.settle(first, Outcome::Relayed).await;
    let copy = world.copy(7);
    for _ in 0..2 {
        let verdicts = other.reserve(&elsewhere, std::slice::from_ref(&copy)).await.expect("answered");
        assert_eq!(verdicts, [Verdict::Relayed(first)]);
    }
    assert_eq!(world.figures().await, [2, 1, 0]);
    // A client that sends it once more means another message.
    assert_eq!(world.ask_copy().await.1, Verdict::Reserved);
    assert_eq!(world.figures().await, [3, 1, 0]);
}

pub async fn a_copy_of_a_message_that_was_given_back_is_a_new_one(place: &impl Place) {
    let mut world = World::limited(place).await;
    for outcome in [Outcome::Refused, Outcome::NotOffered] {
        let first = world.open(OPEN).await;
        assert_eq!(world.ask_copy().await.1, Verdict::UnderWay(first));
        world.settle(first, outcome).await;
        let (copy, verdict) = world.ask_copy().await;
        assert_eq!(verdict, Verdict::Reserved, "{outcome:?}");
        world.settle(copy, Outcome::Relayed).await;
    }
    assert_eq!(world.figures().await, [2, 2, 0]);
}

pub async fn a_copy_stands_in_for_a_message_of_which_nobody_will_know(place: &impl Place) {
    let mut world = World::limited(place).await;
    let first = world.open(OPEN).await;
    world.settle_with(first, Outcome::Unknown, ENDED).await;
    let copy = world.copy(7);
    for _ in 0..2 {
        assert_eq!(world.ask(&copy).await, Verdict::Resumed(first));
    }
    assert_eq!(world.ask_copy().await.1, Verdict::UnderWay(first), "one copy at a time");
    // Any outcome but a success leaves the first one unknown.
    for outcome in [Outcome::Refused, Outcome::NotOffered, Outcome::Unknown] {
        world.settle_with(copy.message, outcome, UNTOLD).await;
        world.settle_with(copy.message, outcome, UNTOLD).await;
        assert_eq!(world.figures().await, [1, 0, 1], "{outcome:?}");
        assert_eq!(world.ask(&copy).await, Verdict::Resumed(first));
    }
    // It was relayed after its client had been told to try again: the next copy is answered so.
    world.settle_with(copy.message, Outcome::Relayed, UNTOLD).await;
    assert_eq!(world.figures().await, [1, 1, 0]);
    assert_eq!(world.ask_copy().await.1, Verdict::Relayed(first));

    let second = world.open(ENDED).await;
    let (copy, verdict) = world.ask_copy().await;
    assert_eq!(verdict, Verdict::Resumed(second));
    for _ in 0..2 {
        world.settle_with(copy, Outcome::Relayed, TOLD).await;
    }
    assert_eq!(world.figures().await, [2, 2, 0]);
    assert_eq!(world.ask_copy().await.1, Verdict::Reserved, "its client heard it");
}

pub async fn a_copy_of_a_message_whose_carrier_is_gone_stands_in_for_it(place: &impl Place) {
    let mut world = World::limited(place).await;
    let first = world.open(OPEN).await;
    let gone = world.session.clone();
    world.reopen(place).await;
    let (copy, verdict) = world.ask_copy().await;
    assert_eq!(verdict, Verdict::Resumed(first));
    // The end of the first, reported by a session that was given up, does not end the copy's own try.
    let ended = Settlement { message: first, outcome: Outcome::Unknown, dedup: Some(ENDED) };
    world.store.settle(&gone, &[ended]).await.expect("settled");
    assert_eq!(world.ask_copy().await.1, Verdict::UnderWay(first));
    world.store.close_session(&world.session).await.expect("closed");
    world.session = world.store.open_session(Role::Relay, "relay-2").await.expect("a session");
    assert_eq!(world.ask_copy().await.1, Verdict::Resumed(first));
    world.settle_with(copy, Outcome::Relayed, UNTOLD).await;
    assert_eq!(world.figures().await, [1, 0, 1], "another copy carries it");
}

pub async fn one_of_two_racing_copies_stands_in(place: &impl Place) {
    let mut world = World::limited(place).await;
    let first = world.open(ENDED).await;
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..4 {
        let store = place.open(Arc::new(world.clock.clone()));
        let session = store.open_session(Role::Relay, &format!("racer-{number}")).await.expect("a session");
        let copy = world.copy(7);
        asking.spawn(async move { store.reserve(&session, &[copy]).await.expect("answered").remove(0) });
    }
    let verdicts = asking.join_all().await;
    assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Resumed(first)).count(), 1, "{verdicts:?}");
    assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::UnderWay(first)).count(), 3, "{verdicts:?}");
    // The same within one batch.
    let batch = [world.copy(9), world.copy(7), world.copy(7)];
    let verdicts = world.store.reserve(&world.session, &batch).await.expect("answered");
    assert_eq!(verdicts, [Verdict::Reserved, Verdict::UnderWay(first), Verdict::UnderWay(first)]);
    assert_eq!(world.figures().await[0], 2);
}

pub async fn two_messages_that_were_open_answer_two_copies(place: &impl Place) {
    let mut world = World::limited(place).await;
    let (one, other) = (world.copy(7), world.copy(7));
    for copy in [&one, &other] {
        assert_eq!(world.ask(copy).await, Verdict::Reserved, "nothing is known to be open");
    }
    for copy in [&one, &other] {
        world.settle_with(copy.message, Outcome::Unknown, OPEN).await;
        world.settle(copy.message, Outcome::Relayed).await;
    }
    let batch = [world.copy(7), world.copy(7), world.copy(7)];
    let verdicts = world.store.reserve(&world.session, &batch).await.expect("answered");
    assert_eq!(verdicts, [Verdict::Relayed(one.message), Verdict::Relayed(other.message), Verdict::Reserved]);
    assert_eq!(world.figures().await, [3, 2, 0]);
}

pub async fn an_answer_that_nobody_collects_is_left_for_the_next_copy(place: &impl Place) {
    let mut world = World::limited(place).await;
    let first = world.open(ENDED).await;
    for outcome in [Outcome::Unknown, Outcome::Relayed] {
        if outcome == Outcome::Relayed {
            world.settle(first, outcome).await;
        }
        for _ in 0..2 {
            let copy = world.copy(7);
            let verdict = world.ask(&copy).await;
            let expected = if outcome == Outcome::Relayed { Verdict::Relayed(first) } else { Verdict::Resumed(first) };
            assert_eq!(verdict, expected);
            world.store.settle(&world.session, &[Settlement::given_back(&copy)]).await.expect("settled");
        }
    }
    // A charge is given back as before.
    let charged = world.copy(8);
    assert_eq!(world.ask(&charged).await, Verdict::Reserved);
    world.store.settle(&world.session, &[Settlement::given_back(&charged)]).await.expect("settled");
    assert_eq!(world.figures().await, [1, 1, 0]);
}

pub async fn a_copy_is_judged_by_its_standing_first(place: &impl Place) {
    let mut world = World::limited(place).await;
    let first = world.open(OPEN).await;
    world.settle(first, Outcome::Relayed).await;
    world.put(&[Entry::Key(KeyEntry { revoked: true, ..key(1, 1, monthly(None)) })]).await;
    assert_eq!(world.ask_copy().await.1, Verdict::Blocked(Blocked::KeyRevoked));
    world.put(&[Entry::Key(key(1, 1, monthly(Some(1))))]).await;
    assert_eq!(world.ask_copy().await.1, Verdict::Relayed(first), "it costs nothing, so no limit is in its way");
}

/// An upstream that drops after every dot makes two copies free, and no more.
pub async fn a_fingerprint_has_at_most_two_stand_ins(place: &impl Place) {
    let mut world = World::limited(place).await;
    let first = world.open(ENDED).await;
    for stand_in in 1..=2 {
        // A copy that was certainly not sent takes no place.
        for outcome in [Outcome::NotOffered, Outcome::Refused, Outcome::Unknown] {
            let (copy, verdict) = world.ask_copy().await;
            assert_eq!(verdict, Verdict::Resumed(first), "{stand_in} {outcome:?}");
            assert_eq!(world.ask_copy().await.1, Verdict::UnderWay(first));
            world.settle_with(copy, outcome, UNTOLD).await;
        }
    }
    assert_eq!(world.figures().await, [1, 0, 1]);
    // From here on each is a message of its own, also to another relay, and none has stand-ins.
    world.reopen(place).await;
    for charged in 2..=6 {
        let (copy, verdict) = world.ask_copy().await;
        assert_eq!(verdict, Verdict::Reserved);
        world.settle_with(copy, Outcome::Unknown, ENDED).await;
        assert_eq!(world.figures().await, [charged, 0, charged]);
    }
    // A message that turned out to be relayed is still answered so.
    world.settle(first, Outcome::Relayed).await;
    assert_eq!(world.ask_copy().await.1, Verdict::Relayed(first));
}

pub async fn a_stand_in_is_judged_by_the_rate(place: &impl Place) {
    let mut world = World::limited(place).await;
    let slow = Rate { messages: 2, per_seconds: 60 };
    let paced = KeyEntry { rate: Some(slow), ..key(1, 1, monthly(None)) };
    world.put(&[Entry::Key(paced)]).await;
    let first = world.open(ENDED).await;
    let (copy, verdict) = world.ask_copy().await;
    assert_eq!(verdict, Verdict::Resumed(first));
    world.settle_with(copy, Outcome::Unknown, UNTOLD).await;
    for _ in 0..2 {
        let (_, verdict) = world.ask_copy().await;
        assert!(matches!(verdict, Verdict::TooFast { scope: RateScope::Key, .. }), "{verdict:?}");
    }
    // A refusal uses nothing up.
    world.clock.advance(30);
    assert_eq!(world.ask_copy().await.1, Verdict::Resumed(first));
    // A copy that is not sent does not count for the rate.
    world.settle(first, Outcome::Relayed).await;
    world.store.close_session(&world.session).await.expect("closed");
    world.session = world.store.open_session(Role::Relay, "relay-3").await.expect("a session");
    assert_eq!(world.ask_copy().await.1, Verdict::Relayed(first));
    assert_eq!(world.figures().await, [1, 1, 0]);
}

pub async fn a_message_that_nothing_tells_apart_is_kept_for_minutes(place: &impl Place) {
    let mut world = World::limited(place).await;
    let kept = Kept { within: FINGERPRINT_KEPT_UNMARKED, ..KEPT };
    let first = world.open(DedupUpdate::Ended(kept)).await;
    world.clock.advance(FINGERPRINT_KEPT_UNMARKED.as_secs() - 1);
    let (copy, verdict) = world.ask_copy().await;
    assert_eq!(verdict, Verdict::Resumed(first));
    world.settle_with(copy, Outcome::Unknown, UNTOLD).await;
    world.clock.advance(1);
    let (second, verdict) = world.ask_copy().await;
    assert_eq!(verdict, Verdict::Reserved, "the same bytes, and another message");
    world.settle_with(second, Outcome::Unknown, DedupUpdate::Open(kept)).await;
    world.clock.advance(FINGERPRINT_KEPT_UNMARKED.as_secs());
    assert_eq!(world.ask_copy().await.1, Verdict::Reserved);
}

pub async fn fingerprints_are_kept_for_a_day(place: &impl Place) {
    let mut world = World::limited(place).await;
    world.open(OPEN).await;
    let kept = world.clock_now();
    world.clock.advance(FINGERPRINT_KEPT.as_secs() - 1);
    assert!(matches!(world.ask_copy().await.1, Verdict::UnderWay(_)));
    let forget =
        async |world: &World, before| world.store.forget_fingerprints(&world.session, before).await.expect("forgotten");
    assert_eq!(forget(&world, kept).await, 0);
    world.clock.advance(1);
    assert_eq!(world.ask_copy().await.1, Verdict::Reserved);
    assert_eq!(forget(&world, world.clock_now()).await, 1);
    assert_eq!(forget(&world, world.clock_now()).await, 0);
}
