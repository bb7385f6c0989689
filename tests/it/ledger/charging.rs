//! Reserve and settle.

use std::sync::Arc;

use super::world::{Place, World, account, chain, key, key_id, monthly, policy};
use franking::domain::credit::{Blocked, Meter, Outcome, Reservation, Verdict};
use franking::domain::directory::{Entry, Named, Suspension};
use franking::domain::id::MessageId;
use franking::ledger::store::{Error, LedgerSession, Role, Settlement, Store};

pub async fn a_message_is_charged_to_all_its_meters_or_to_none(place: &impl Place) {
    let mut world = World::with(place, None, Some(5), Some(100)).await;
    assert_eq!(world.send(3).await.1, Verdict::Reserved);
    assert_eq!(world.consumed().await, [3, 3, 3]);
    let (_, verdict) = world.send(3).await;
    assert!(
        matches!(verdict, Verdict::Short { meter: Meter::AccountCap, granted: 5, remaining: 2, .. }),
        "{verdict:?}"
    );
    assert_eq!(world.consumed().await, [3, 3, 3]);
    assert_eq!(world.send(2).await.1, Verdict::Reserved);
    world.check().await;
}

pub async fn a_shortage_says_when_the_period_ends(place: &impl Place) {
    let mut world = World::with(place, Some(0), None, None).await;
    let (_, verdict) = world.send(1).await;
    let reopens_at = Some(super::world::at("2026-12-01T00:00:00Z"));
    assert_eq!(verdict, Verdict::Short { meter: Meter::KeyCap, granted: 0, remaining: 0, reopens_at, pending: false });
}

pub async fn asking_again_with_the_same_id_charges_nothing(place: &impl Place) {
    let mut world = World::with(place, None, Some(1), None).await;
    let reservation = world.reservation(1);
    for _ in 0..3 {
        assert_eq!(world.ask(&reservation).await, Verdict::Reserved);
    }
    let twice = [reservation.clone(), reservation.clone()];
    let verdicts = world.store.reserve(&world.session, &twice).await.expect("answered");
    assert_eq!(verdicts, [Verdict::Reserved, Verdict::Reserved]);
    world.reopen(place).await;
    assert_eq!(world.ask(&reservation).await, Verdict::Reserved);
    assert_eq!(world.consumed().await, [1, 1, 1]);
    world.check().await;
}

pub async fn an_id_twice_in_one_batch_is_charged_once(place: &impl Place) {
    let mut world = World::with(place, None, Some(3), None).await;
    let (one, large) = (world.reservation(1), world.reservation(9));
    let batch = [one.clone(), large.clone(), one.clone(), large];
    let verdicts = world.store.reserve(&world.session, &batch).await.expect("answered");
    assert_eq!((&verdicts[0], &verdicts[2]), (&Verdict::Reserved, &Verdict::Reserved));
    assert!(matches!(verdicts[1], Verdict::Short { .. }) && verdicts[1] == verdicts[3], "{verdicts:?}");
    assert_eq!(world.consumed().await, [1, 1, 1]);
}

pub async fn refused_and_not_offered_give_back_relayed_and_unknown_do_not(place: &impl Place) {
    let mut world = World::with(place, Some(10), Some(10), Some(10)).await;
    for (outcome, kept) in
        [(Outcome::Relayed, 3), (Outcome::Refused, 0), (Outcome::NotOffered, 0), (Outcome::Unknown, 3)]
    {
        let before = world.consumed().await[0];
        let (message, _) = world.send(3).await;
        for _ in 0..2 {
            world.settle(message, outcome).await;
        }
        assert_eq!(world.consumed().await, [before + kept; 3], "{outcome:?}");
        world.check().await;
    }
}

pub async fn the_first_outcome_stays_and_unknown_is_corrected_once(place: &impl Place) {
    let mut world = World::with(place, None, Some(100), None).await;
    let (relayed, _) = world.send(10).await;
    world.settle(relayed, Outcome::Relayed).await;
    world.settle(relayed, Outcome::Refused).await;
    world.settle(relayed, Outcome::Unknown).await;
    assert_eq!(world.consumed().await, [10; 3]);

    let (unknown, _) = world.send(5).await;
    world.settle(unknown, Outcome::Unknown).await;
    world.settle(unknown, Outcome::Unknown).await;
    assert_eq!(world.balance(chain()[1]).await.usage.unknown, 5);
    world.settle(unknown, Outcome::Refused).await;
    world.settle(unknown, Outcome::Relayed).await;
    world.settle(unknown, Outcome::Refused).await;
    let usage = world.balance(chain()[1]).await.usage;
    assert_eq!((usage.unknown, usage.refused, usage.relayed, usage.accepted, usage.messages), (0, 5, 10, 10, 1));
    world.check().await;
}

pub async fn an_outcome_of_a_message_that_was_never_reserved_changes_nothing(place: &impl Place) {
    let mut world = World::with(place, None, Some(1), None).await;
    let stranger = world.message();
    world.settle(stranger, Outcome::Refused).await;
    let (_, verdict) = world.send(1).await;
    assert_eq!((verdict, world.consumed().await), (Verdict::Reserved, [1; 3]));
    world.check().await;
}

pub async fn one_bad_message_does_not_spoil_the_batch(place: &impl Place) {
    let mut world = World::with(place, None, Some(2), None).await;
    let stranger = Reservation { message: world.message(), key: key_id(99), credits: 1, fingerprint: None };
    let batch = [world.reservation(1), stranger, world.reservation(5), world.reservation(1)];
    let verdicts = world.store.reserve(&world.session, &batch).await.expect("answered");
    assert_eq!(verdicts[0], Verdict::Reserved);
    assert_eq!(verdicts[1], Verdict::Blocked(Blocked::KeyRevoked));
    assert!(matches!(verdicts[2], Verdict::Short { .. }));
    assert_eq!(verdicts[3], Verdict::Reserved);
    world.check().await;
}

pub async fn standing_is_judged_on_fresh_rows(place: &impl Place) {
    type Edit = fn(
        &mut franking::domain::directory::PolicyEntry,
        &mut franking::domain::directory::AccountEntry,
        &mut franking::domain::directory::KeyEntry,
    );
    let now = super::world::at(super::world::START);
    let cases: [(Edit, Blocked); 7] = [
        (|_, _, key| key.revoked = true, Blocked::KeyRevoked),
        (|_, _, key| key.removed_at = Some(super::world::at(super::world::START)), Blocked::KeyRevoked),
        (|_, _, key| key.expires_at = Some(super::world::at(super::world::START)), Blocked::KeyExpired),
        (
            |_, account, _| account.suspended = Some(Suspension { reason: Some("unpaid".into()) }),
            Blocked::AccountSuspended { reason: Some("unpaid".into()) },
        ),
        (|_, account, _| account.removed_at = Some(super::world::at(super::world::START)), Blocked::AccountRemoved),
        (
            |policy, _, _| policy.suspended = Some(Suspension { reason: None }),
            Blocked::PolicySuspended { reason: None },
        ),
        (|policy, _, _| policy.removed_at = Some(super::world::at(super::world::START)), Blocked::PolicyRemoved),
    ];
    let mut world = World::with(place, None, None, None).await;
    assert_eq!(world.clock_now(), now);
    // Another process writes; this one has the good rows in its cache.
    let other = place.open(Arc::new(world.clock.clone()));
    let operator = other.open_session(Role::Operator, "operator-0").await.expect("a session");
    for (edit, blocked) in cases {
        let (mut p, mut a, mut k) = (policy(1, monthly(None)), account(1, monthly(None)), key(1, 1, monthly(None)));
        let good = [Entry::Policy(p.clone()), Entry::Account(a.clone()), Entry::Key(k.clone())];
        other.put(&operator, "test", &good).await.expect("written");
        assert_eq!(world.send(1).await.1, Verdict::Reserved);
        edit(&mut p, &mut a, &mut k);
        other.put(&operator, "test", &[Entry::Policy(p), Entry::Account(a), Entry::Key(k)]).await.expect("written");
        let before = world.consumed_total().await;
        assert_eq!(world.send(1).await.1, Verdict::Blocked(blocked));
        assert_eq!(world.consumed_total().await, before);
    }
    // An account that is deleted takes its keys out of service, and a login is told which of the two it was.
    let (p, mut a, mut k) = (policy(1, monthly(None)), account(1, monthly(None)), key(1, 1, monthly(None)));
    (a.removed_at, k.removed_at) = (Some(now), Some(now));
    let username = k.username.clone();
    other.put(&operator, "test", &[Entry::Policy(p), Entry::Account(a), Entry::Key(k)]).await.expect("written");
    let sender =
        world.store.find_sender(&username).await.expect("answered").and_then(Named::sender).expect("it is known");
    assert_eq!(sender.standing(now), Err(Blocked::AccountRemoved));
}

pub async fn an_account_that_moves_is_charged_to_its_new_policy(place: &impl Place) {
    let mut world = World::with(place, None, None, Some(1)).await;
    let (message, _) = world.send(1).await;
    let mut moved = account(1, monthly(None));
    moved.policy = super::world::policy_id(2);
    world.put(&[Entry::Policy(policy(2, monthly(Some(5)))), Entry::Account(moved)]).await;
    assert_eq!(world.send(2).await.1, Verdict::Reserved);
    world.settle(message, Outcome::Refused).await;
    assert_eq!(world.lot(chain()[2]).await.consumed, 0, "the refund goes where it came from");
    let second = franking::domain::id::Holder::Policy(super::world::policy_id(2));
    assert_eq!(world.lot(second).await.consumed, 2);
    world.check().await;
}

pub async fn a_replaced_session_is_fenced_but_its_outcomes_are_taken(place: &impl Place) {
    let mut world = World::with(place, None, Some(10), None).await;
    let (message, _) = world.send(4).await;
    let stale = world.session.clone();
    world.reopen(place).await;
    let reservation = world.reservation(1);
    let refused = world.store.reserve(&stale, &[reservation]).await;
    assert!(matches!(refused, Err(Error::Fenced)), "{refused:?}");
    assert!(matches!(world.store.heartbeat(&stale).await, Err(Error::Fenced)));
    assert!(matches!(world.store.put(&stale, "test", &[]).await, Err(Error::Fenced)));
    let late = [Settlement::of(message, Outcome::Refused)];
    world.store.settle(&stale, &late).await.expect("taken");
    assert_eq!(world.consumed().await, [0; 3]);
    world.check().await;
}

pub async fn silent_sessions_are_given_up_and_their_messages_become_unknown(place: &impl Place) {
    let mut world = World::with(place, None, Some(10), None).await;
    let operator = world.store.open_session(Role::Operator, "operator-0").await.expect("a session");
    let (open, _) = world.send(3).await;
    let (done, _) = world.send(2).await;
    world.settle(done, Outcome::Relayed).await;
    let silence = jiff::SignedDuration::from_secs(30);
    assert_eq!(world.store.sweep_sessions(&operator, silence).await.expect("swept").len(), 0, "it lives");
    world.clock.advance(60);
    assert_eq!(world.store.sweep_sessions(&operator, silence).await.expect("swept").len(), 1);
    assert_eq!(world.store.sweep_sessions(&operator, silence).await.expect("swept").len(), 0);
    assert!(matches!(world.store.heartbeat(&world.session).await, Err(Error::Fenced)));
    let usage = world.balance(chain()[0]).await.usage;
    assert_eq!((usage.unknown, usage.relayed, usage.accepted), (3, 2, 5));
    world.settle(open, Outcome::NotOffered).await;
    let usage = world.balance(chain()[0]).await.usage;
    assert_eq!((usage.unknown, usage.not_offered, usage.accepted), (0, 3, 2));
    world.check().await;
}

pub async fn messages_of_a_closed_or_replaced_session_become_unknown(place: &impl Place) {
    let mut world = World::with(place, None, None, None).await;
    world.send(1).await;
    world.reopen(place).await;
    world.send(1).await;
    world.store.close_session(&world.session).await.expect("closed");
    assert!(matches!(world.store.heartbeat(&world.session).await, Err(Error::Fenced)));
    let operator = world.store.open_session(Role::Operator, "operator-0").await.expect("a session");
    let for_ever = jiff::SignedDuration::MAX;
    assert_eq!(world.store.sweep_sessions(&operator, for_ever).await.expect("swept").len(), 2);
    world.check().await;
}

/// Each of 16 tasks asks for one credit at a time; the limit has 500.
pub async fn racing_tasks_accept_exactly_the_limit(place: &impl Place) {
    race(place, 1).await;
}

/// Runs the same through two openings of the ledger, as two processes have them.
pub async fn racing_processes_accept_exactly_the_limit(place: &impl Place) {
    race(place, 2).await;
}

pub async fn sixteen_processes_accept_exactly_the_limit(place: &impl Place) {
    race(place, 16).await;
}

/// Retries until there is an answer, as a relay does: on a busy machine one of sixteen may not get its turn in time.
async fn answered(store: &Arc<dyn Store>, session: &LedgerSession, batch: &[Reservation]) -> Vec<Verdict> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    loop {
        match store.reserve(session, batch).await {
            Ok(verdicts) => return verdicts,
            Err(Error::Unavailable { .. }) if std::time::Instant::now() < deadline => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

async fn race(place: &impl Place, processes: usize) {
    const LIMIT: i64 = 500;
    const TASKS: u128 = 16;
    const EACH: u128 = 50;
    let world = World::with(place, None, Some(LIMIT), None).await;
    let mut stores = vec![(world.store.clone(), world.session.clone())];
    for n in 1..processes {
        let store = place.open(Arc::new(world.clock.clone()));
        let session = store.open_session(Role::Relay, &format!("relay-{n}")).await.expect("a session");
        stores.push((store, session));
    }
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let (store, session) = stores[task as usize % stores.len()].clone();
        tasks.spawn(async move {
            let mut accepted = 0;
            for n in 0..EACH {
                let message = MessageId(uuid::Uuid::from_u128(1 << 64 | task << 32 | n));
                let batch = [Reservation { message, key: key_id(1), credits: 1, fingerprint: None }];
                let verdicts = answered(&store, &session, &batch).await;
                accepted += i64::from(verdicts[0] == Verdict::Reserved);
            }
            accepted
        });
    }
    let accepted: i64 = tasks.join_all().await.into_iter().sum();
    assert_eq!(accepted, LIMIT);
    assert_eq!(world.consumed().await, [LIMIT; 3]);
    world.check().await;
}
