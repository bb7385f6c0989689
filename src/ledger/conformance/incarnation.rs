//! A ledger that was replaced: held, accepted, rebuilt, opened.

use std::sync::Arc;

use uuid::Uuid;

use super::world::{Place, World, at, chain, key_id};
use crate::domain::credential::Username;
use crate::domain::credit::{Meter, Outcome, Reservation, Verdict};
use crate::domain::id::{Holder, Kind};
use crate::ledger::incarnation::name_of;
use crate::ledger::incarnation::{Acceptance, Because, Known, State, successor};
use crate::ledger::store::{Error, Floor, Identity, Role};

/// In the month of the world's clock.
const UNTIL: &str = "2026-12-01T00:00:00Z";

async fn identity(world: &World) -> Identity {
    world.store.identity().await.expect("read")
}

async fn accept(world: &World) -> Acceptance {
    let found = identity(world).await;
    let Identity { installation, cluster, incarnation, mark, .. } = found.clone();
    let known = Known { installation, cluster: cluster.clone(), incarnation, mark };
    let incarnation = successor(name_of(&known, &found));
    let acceptance =
        Acceptance { actor: "kubectl".into(), found: found.incarnation, installation, cluster, incarnation };
    world.store.accept(&acceptance).await.expect("accepted");
    acceptance
}

pub async fn a_held_ledger_charges_nothing_and_judges_nobody(place: &impl Place) {
    let mut world = World::with(place, None, Some(10), None).await;
    let (message, verdict) = world.send(2).await;
    assert_eq!(verdict, Verdict::Reserved);
    world.store.hold(Because::WentBack).await.expect("held");
    // What is held keeps its reason.
    world.store.hold(Because::Swapped).await.expect("held");
    let held = State::Held(Because::WentBack);
    let other = place.open(Arc::new(world.clock.clone()));
    assert_eq!(identity(&world).await.state, held);
    assert_eq!(other.changes(0).await.expect("read").tag.state, held);
    let asked = Reservation { message: world.message(), key: key_id(1), credits: 1, fingerprint: None };
    let refused = world.store.reserve(&world.session, &[asked]).await;
    assert!(matches!(refused, Err(Error::Held(state)) if state == held), "{refused:?}");
    let name = Username::try_from("key-1".to_owned()).expect("a user name");
    assert!(matches!(other.find_sender(&name).await, Err(Error::Held(_))));
    assert!(matches!(world.store.balances(&chain()).await, Err(Error::Held(_))), "figures that may be old");
    assert!(matches!(world.store.put(&world.session, "test", &[]).await, Err(Error::Held(_))));
    assert!(matches!(world.store.identify(&world.session, Kind::Key, "uid", "k").await, Err(Error::Held(_))));
    // What was charged before is settled all the same.
    world.settle(message, Outcome::Refused).await;
    accept(&world).await;
    assert_eq!(world.consumed().await, [0, 0, 0]);
}

pub async fn an_accepted_ledger_ends_every_session_and_charges_when_it_is_rebuilt(place: &impl Place) {
    let mut world = World::with(place, None, Some(10), None).await;
    let stale = world.session.clone();
    let wrong = Acceptance { found: Uuid::nil(), ..accept(&world).await };
    let wrong = Acceptance { incarnation: Uuid::from_u128(77), ..wrong };
    assert!(matches!(world.store.accept(&wrong).await, Err(Error::Replaced { .. })));
    assert!(matches!(world.store.heartbeat(&stale).await, Err(Error::Fenced)));

    world.session = world.store.open_session(Role::Operator, "operator").await.expect("a session");
    assert_eq!(identity(&world).await.state, State::Rebuilding);
    let asked = world.reservation(1);
    let refused = world.store.reserve(&world.session, std::slice::from_ref(&asked)).await;
    assert!(matches!(refused, Err(Error::Held(State::Rebuilding))), "{refused:?}");
    world.store.reopen(&world.session).await.expect("opened");
    world.store.reopen(&world.session).await.expect("open already");
    assert_eq!(world.ask(&asked).await, Verdict::Reserved);
    let events = world.store.events(0, 100).await.expect("the trail");
    let said = |kind: &str| events.iter().filter(|event| event.kind == kind).map(|event| event.actor.clone()).collect();
    let (accepted, opened): (Vec<String>, Vec<String>) = (said("ledger.accepted"), said("ledger.opened"));
    assert_eq!((accepted, opened.len()), (vec!["kubectl".to_owned()], 1));
    world.check().await;
}

pub async fn an_acceptance_that_is_said_twice_holds_once(place: &impl Place) {
    let world = World::with(place, None, None, None).await;
    let acceptance = accept(&world).await;
    let after = identity(&world).await;
    assert_eq!(after.incarnation, acceptance.incarnation);
    world.store.accept(&acceptance).await.expect("accepted");
    assert_eq!(identity(&world).await, after);
}

pub async fn the_id_of_a_status_is_kept_and_a_copied_one_is_not(place: &impl Place) {
    let mut world = World::empty(place).await;
    let minted = world.store.identify(&world.session, Kind::Account, "uid-0", "old").await.expect("an id");
    world.clock.set(at("2026-11-20T11:00:00Z"));
    accept(&world).await;
    world.session = world.store.open_session(Role::Operator, "operator").await.expect("a session");
    let shown = Uuid::from_u128(0xabc);
    let (store, session) = (world.store.clone(), world.session.clone());
    let assign =
        async |name: &str, id: Uuid| store.assign(&session, Kind::Account, "uid-1", name, id).await.expect("an id");
    let find = async |name: &str| store.identify(&session, Kind::Account, "uid-1", name).await.expect("an id");
    assert_eq!(assign("a", shown).await, shown);
    assert_eq!(assign("a", shown).await, shown);
    assert_eq!(find("a").await, shown);
    let copied = assign("copy", shown).await;
    assert_ne!(copied, shown);
    assert_eq!((find("copy").await, find("a").await), (copied, shown));
    // An id that was given out before the acceptance goes to whoever shows it now.
    assert_eq!(assign("heir", minted).await, minted);
    assert_eq!(find("heir").await, minted);
    // An id that a key has is no account's.
    let key = store.identify(&session, Kind::Key, "uid-1", "k").await.expect("an id");
    assert_ne!(assign("thief", key).await, key);
}

pub async fn used_credits_are_raised_to_what_is_known_and_the_books_balance(place: &impl Place) {
    let mut world = World::with(place, None, Some(10), Some(100)).await;
    world.send(4).await;
    let [_, account, policy] = chain();
    let floor = |holder: Holder, consumed, until: &str| Floor {
        holder,
        meter: Meter::of_period(holder),
        consumed,
        until: at(until),
    };
    let floors = [
        floor(account, 12, UNTIL),
        // Less than is known, of a period that is over, and of nobody.
        floor(policy, 3, UNTIL),
        floor(chain()[0], 9, "2026-11-01T00:00:00Z"),
        floor(Holder::new(Kind::Key, Uuid::nil()), 9, UNTIL),
    ];
    assert_eq!(world.store.raise(&world.session, "rebuild", &floors).await.expect("raised"), 1);
    assert_eq!(world.store.raise(&world.session, "rebuild", &floors).await.expect("raised"), 0);
    assert_eq!(world.consumed().await, [4, 12, 4]);
    world.check().await;
    // More than is granted stops sending, and the refund of what was sent before makes no room.
    assert!(matches!(world.send(1).await.1, Verdict::Short { .. }));
    assert_eq!(world.store.raise(&world.session, "rebuild", &[floor(policy, 50, UNTIL)]).await.expect("raised"), 1);
    let events = world.store.events(0, 100).await.expect("the trail");
    let raised: Vec<_> = events.iter().filter(|event| event.kind == "lot.raised").collect();
    assert_eq!(raised.len(), 2);
    assert_eq!(
        (raised[0].actor.as_str(), &raised[0].detail["from"], &raised[0].detail["to"]),
        ("rebuild", &4.into(), &12.into())
    );
    world.reopen(place).await;
    assert_eq!(world.consumed().await, [4, 12, 50]);
    world.check().await;
}

pub async fn a_mark_grows_with_the_directory_the_trail_and_what_is_sent(place: &impl Place) {
    let mut world = World::with(place, None, None, None).await;
    let first = identity(&world).await.mark;
    let (message, _) = world.send(1).await;
    world.settle(message, Outcome::Relayed).await;
    world.store.rollup(&world.session).await.expect("rolled up");
    let sent = identity(&world).await.mark;
    assert!(sent.reaches(first) && !first.reaches(sent), "{first:?} {sent:?}");
    world.store.record(&world.session, "test", "test", None, serde_json::json!({})).await.expect("recorded");
    let told = identity(&world).await.mark;
    assert!(told.reaches(sent) && !sent.reaches(told));
    // Nothing happened: a ledger that stands writes no mark.
    world.store.heartbeat(&world.session).await.expect("alive");
    world.reopen(place).await;
    assert_eq!(identity(&world).await.mark, told);
}
