//! A ledger that was replaced: held, accepted, rebuilt, opened.

use std::sync::Arc;

use uuid::Uuid;

use super::prepaid::{grant, grants};
use super::world::{Place, START, World, account, account_id, at, chain, key, key_id, limit, monthly, policy};
use franking::domain::credential::Username;
use franking::domain::credit::{Meter, Outcome, Overage, Prepaid, Reservation, TopUp, Verdict};
use franking::domain::directory::{AccountEntry, Entry};
use franking::domain::id::{Holder, Kind};
use franking::domain::money::Pricing;
use franking::domain::period::Period;
use franking::ledger::identity::{Because, State};
use franking::ledger::incarnation::{Acceptance, Known, name_of, successor};
use franking::ledger::store::{Bound, Error, Floor, Identity, Role, Store};

/// The end of the month of the world's clock.
const UNTIL: &str = "2026-12-01T00:00:00Z";

async fn identity(world: &World) -> Identity {
    world.store.identity().await.expect("read")
}

async fn accept(world: &World) -> Acceptance {
    accept_as_found(world.store.as_ref()).await
}

pub async fn accept_as_found(store: &dyn Store) -> Acceptance {
    let found = store.identity().await.expect("read");
    let Identity { installation, cluster, incarnation, progress, .. } = found.clone();
    let known = Known { installation, cluster: cluster.clone(), incarnation, progress };
    let incarnation = successor(name_of(&known, &found));
    let acceptance =
        Acceptance { actor: "kubectl".into(), found: found.incarnation, installation, cluster, incarnation };
    store.accept(&acceptance).await.expect("accepted");
    acceptance
}

pub async fn a_held_ledger_charges_nothing_and_judges_nobody(place: &impl Place) {
    let mut world = World::with(place, None, Some(10), None).await;
    let (message, verdict) = world.send(2).await;
    assert_eq!(verdict, Verdict::Reserved);
    world.store.hold(Because::WentBack).await.expect("held");
    // A held ledger keeps its reason.
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
    // A message that was charged before is settled all the same.
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
    // An id that was given out before the acceptance goes to the object that shows it now.
    assert_eq!(assign("heir", minted).await, minted);
    assert_eq!(find("heir").await, minted);
    // A key's id is not assigned to an account.
    let key = store.identify(&session, Kind::Key, "uid-1", "k").await.expect("an id");
    assert_ne!(assign("thief", key).await, key);
}

pub async fn used_credits_are_raised_to_what_is_known_and_the_books_balance(place: &impl Place) {
    let mut world = World::with(place, None, Some(10), Some(100)).await;
    world.send(4).await;
    let [_, account, policy] = chain();
    let floor = |holder: Holder, used, until: &str| Floor {
        holder,
        meter: Meter::of_period(holder),
        bound: Bound::UsedAtLeast(used),
        until: at(until),
    };
    let floors = [
        floor(account, 12, UNTIL),
        // Less than is known, of a period that is over, and of an unknown holder.
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

/// A policy whose pool was exceeded, with a shared balance; an account with every meter; a key.
fn entries_of_every_meter() -> [Entry; 3] {
    let mut parent = policy(1, monthly(Some(10)));
    (parent.overage, parent.prepaid) = (Overage::Allow, grants(&[grant("shared", 100, None)]));
    parent.pricing = Some(Pricing { currency: "EUR".to_owned(), base_price_minor: 0, price_per_thousand_minor: 1 });
    let mut of_all = account(1, monthly(Some(40)));
    of_all.prepaid = grants(&[grant("a", 5, Some("2026-11-25T00:00:00Z")), grant("b", 45, None)]);
    of_all.spend_limit_micro = Some(30_000);
    [Entry::Policy(parent), Entry::Account(of_all), Entry::Key(key(1, 1, monthly(Some(35))))]
}

/// Returns what statuses showed of 17 credits: 7 of them beyond the pool.
fn floors_of_every_meter() -> Vec<Floor> {
    let [key, account, policy] = chain();
    let floor = |holder, meter, bound, until: Option<&str>| {
        let until = until.map_or(jiff::Timestamp::MAX, at);
        Floor { holder, meter, bound, until }
    };
    let left = |left| Bound::LeftAtMost { left, at: at(START) };
    vec![
        floor(key, Meter::KeyCap, Bound::UsedAtLeast(17), Some(UNTIL)),
        floor(account, Meter::AccountCap, Bound::UsedAtLeast(17), Some(UNTIL)),
        floor(account, Meter::AccountSpend, Bound::UsedAtLeast(17_000), None),
        floor(account, Meter::AccountPrepaid, left(33), None),
        floor(policy, Meter::PolicyPool, Bound::UsedAtLeast(17), Some(UNTIL)),
        floor(policy, Meter::PolicyPrepaid, left(83), None),
    ]
}

async fn has_used_17_of_every_meter(world: &World) {
    let [key, account, policy] = chain();
    assert_eq!(world.lot(key).await.used(), 17);
    let of_account = world.balance(account).await;
    assert_eq!(of_account.lot.used(), 17);
    assert_eq!(of_account.spend.expect("limited").used_micro, 17_000);
    assert_eq!(of_account.prepaid.expect("prepaid").remaining, 33);
    let of_policy = world.balance(policy).await;
    assert_eq!((of_policy.lot.consumed, of_policy.lot.overage), (10, 7), "overage is counted once");
    assert_eq!(of_policy.prepaid.expect("prepaid").remaining, 83);
    world.check().await;
}

pub async fn an_accepted_ledger_starts_from_what_was_used_of_every_meter(place: &impl Place) {
    let mut world = World::empty(place).await;
    world.put(&entries_of_every_meter()).await;
    for turn in 0..2 {
        accept(&world).await;
        world.session = world.store.open_session(Role::Operator, "operator").await.expect("a session");
        for raised in [if turn == 0 { 7 } else { 0 }, 0] {
            // The account's prepaid credits are in two lots.
            let floors = floors_of_every_meter();
            assert_eq!(world.store.raise(&world.session, "rebuild", &floors).await.expect("raised"), raised);
            has_used_17_of_every_meter(&world).await;
        }
        world.store.reopen(&world.session).await.expect("opened");
        has_used_17_of_every_meter(&world).await;
    }
    // Money pays for 13 more, and edits shed nothing of what was known.
    world.clock.advance(1);
    let [parent, mut of_all, of_key] = entries_of_every_meter();
    if let Entry::Account(account) = &mut of_all {
        account.cap = limit(Some(20), Period::Daily);
        account.spend_limit_micro = None;
    }
    world.put(&[parent, of_all, of_key]).await;
    world.put(&entries_of_every_meter()).await;
    has_used_17_of_every_meter(&world).await;
    let (_, verdict) = world.send(14).await;
    assert!(matches!(verdict, Verdict::Short { meter: Meter::AccountSpend, remaining: 13, .. }), "{verdict:?}");
    assert_eq!(world.send(13).await.1, Verdict::Reserved);
    world.check().await;
}

/// An object that was deleted while the ledger was held is made again after it is accepted.
pub async fn what_is_known_of_an_entry_that_comes_later_waits_for_it(place: &impl Place) {
    let mut world = World::empty(place).await;
    accept(&world).await;
    world.session = world.store.open_session(Role::Operator, "operator").await.expect("a session");
    for _ in 0..2 {
        let floors = floors_of_every_meter();
        assert_eq!(world.store.raise(&world.session, "rebuild", &floors).await.expect("remembered"), 0);
    }
    world.store.reopen(&world.session).await.expect("opened");
    world.clock.advance(60);
    for entry in entries_of_every_meter() {
        world.put(&[entry]).await;
    }
    has_used_17_of_every_meter(&world).await;
    // It is applied once: an account that is removed and made again keeps what it has.
    world.send(1).await;
    let [_, of_all, _] = entries_of_every_meter();
    let Entry::Account(of_all) = of_all else { unreachable!("the second is the account") };
    world.put(&[Entry::Account(AccountEntry { removed_at: Some(world.clock_now()), ..of_all.clone() })]).await;
    world.put(&[Entry::Account(of_all)]).await;
    assert_eq!(world.lot(chain()[1]).await.used(), 18);
    // A floor of a period that is over has no effect.
    let late = Floor { until: at(UNTIL), ..floors_of_every_meter()[0] };
    let late = Floor { holder: Holder::Key(key_id(2)), ..late };
    world.store.raise(&world.session, "rebuild", &[late]).await.expect("remembered");
    world.clock.set(at(UNTIL));
    world.put(&[Entry::Key(key(2, 1, monthly(Some(35))))]).await;
    assert_eq!(world.lot(Holder::Key(key_id(2))).await.used(), 0);
    world.check().await;
}

/// A status was written some time ago: later top-ups come on top, and earlier ones are in it.
pub async fn top_ups_since_a_status_are_added_to_what_it_shows_as_left(place: &impl Place) {
    let recurring = TopUp { credits: 5, every: Period::Daily, start: None, end: None };
    let prepaid = Some(Prepaid { recurring: Some(recurring), ..grants(&[grant("a", 10, None)]).expect("grants") });
    let entries = [
        Entry::Policy(policy(1, monthly(None))),
        Entry::Account(AccountEntry { prepaid, ..account(1, monthly(None)) }),
        Entry::Key(key(1, 1, monthly(None))),
    ];
    let floor = Floor {
        holder: chain()[1],
        meter: Meter::AccountPrepaid,
        bound: Bound::LeftAtMost { left: 2, at: at("2026-11-21T12:00:00Z") },
        until: jiff::Timestamp::MAX,
    };
    let mut world = World::empty(place).await;
    world.put(&entries).await;
    world.send(1).await;
    // Two top-ups are due that are not written yet. The first was in the status.
    world.clock.set(at("2026-11-22T12:00:00Z"));
    for _ in 0..2 {
        accept(&world).await;
        world.session = world.store.open_session(Role::Operator, "operator").await.expect("a session");
        world.store.raise(&world.session, "rebuild", &[floor]).await.expect("raised");
        world.store.reopen(&world.session).await.expect("opened");
        assert_eq!(world.balance(chain()[1]).await.prepaid.expect("prepaid").remaining, 7);
    }
    world.clock.set(at("2026-11-23T00:00:00Z"));
    assert_eq!(world.balance(chain()[1]).await.prepaid.expect("prepaid").remaining, 12);
    world.check().await;

    // The same holds if another account of that name is made after the acceptance.
    accept(&world).await;
    world.session = world.store.open_session(Role::Operator, "operator").await.expect("a session");
    let elsewhere = Floor { holder: Holder::Account(account_id(2)), ..floor };
    let earlier = Floor { bound: Bound::LeftAtMost { left: 2, at: at("2026-11-20T12:00:00Z") }, ..elsewhere };
    for floor in [elsewhere, earlier] {
        world.store.raise(&world.session, "rebuild", &[floor]).await.expect("remembered");
    }
    world.store.reopen(&world.session).await.expect("opened");
    let [_, of_account, _] = entries;
    let Entry::Account(of_account) = of_account else { unreachable!("the second is the account") };
    world.put(&[Entry::Account(AccountEntry { prepaid: of_account.prepaid, ..account(2, monthly(None)) })]).await;
    let remaining = world.balance(elsewhere.holder).await.prepaid.expect("prepaid").remaining;
    assert_eq!(remaining, 12);
}

/// Floors of keys 1 (of its month) and 2 (of its day), their account and their policy.
fn floors_of_a_family([one, two, of_account, of_policy]: [i64; 4]) -> [Floor; 4] {
    let [key, account, policy] = chain();
    let floor = |holder: Holder, used, until: &str| Floor {
        holder,
        meter: Meter::of_period(holder),
        bound: Bound::UsedAtLeast(used),
        until: at(until),
    };
    [
        floor(key, one, UNTIL),
        floor(Holder::Key(key_id(2)), two, "2026-11-21T00:00:00Z"),
        floor(account, of_account, UNTIL),
        floor(policy, of_policy, UNTIL),
    ]
}

fn family() -> [Entry; 4] {
    [
        Entry::Policy(policy(1, monthly(Some(100)))),
        Entry::Account(account(1, monthly(Some(100)))),
        Entry::Key(key(1, 1, monthly(None))),
        Entry::Key(key(2, 1, limit(None, Period::Daily))),
    ]
}

/// Statuses are written one after the other: an account's may be older than its keys'.
pub async fn an_accepted_account_has_used_what_its_keys_have_and_a_policy_what_its_accounts_have(place: &impl Place) {
    let mut world = World::empty(place).await;
    world.put(&family()).await;
    // Usage that is in the ledger already, of a key that shows no status any more.
    world.put(&[Entry::Key(key(3, 1, monthly(None)))]).await;
    let mut gone = world.reservation(2);
    gone.key = key_id(3);
    assert_eq!(world.ask(&gone).await, Verdict::Reserved);
    accept(&world).await;
    world.session = world.store.open_session(Role::Operator, "operator").await.expect("a session");
    let floors = floors_of_a_family([7, 3, 5, 4]);
    world.store.raise(&world.session, "rebuild", &floors).await.expect("raised");
    for _ in 0..2 {
        world.store.reopen(&world.session).await.expect("opened");
        let lots = [world.lot(chain()[1]).await, world.lot(chain()[2]).await];
        assert_eq!(lots.map(|lot| lot.used()), [12; 2]);
        world.check().await;
    }
    // A second time nothing is added.
    accept(&world).await;
    world.session = world.store.open_session(Role::Operator, "operator").await.expect("a session");
    assert_eq!(world.store.raise(&world.session, "rebuild", &floors).await.expect("raised"), 0);
    world.store.reopen(&world.session).await.expect("opened");
    assert_eq!(world.lot(chain()[1]).await.used(), 12);
}

pub async fn an_account_has_used_what_its_keys_have_also_where_they_come_later(place: &impl Place) {
    let mut world = World::empty(place).await;
    accept(&world).await;
    world.session = world.store.open_session(Role::Operator, "operator").await.expect("a session");
    let floors = floors_of_a_family([7, 3, 5, 4]);
    assert_eq!(world.store.raise(&world.session, "rebuild", &floors).await.expect("remembered"), 0);
    world.store.reopen(&world.session).await.expect("opened");
    let [parent, account, one, two] = family();
    world.put(&[parent, account]).await;
    assert_eq!(world.lot(chain()[1]).await.used(), 5);
    assert_eq!(world.lot(chain()[2]).await.used(), 5);
    for (key, used) in [(one, 7), (two, 10)] {
        world.put(&[key]).await;
        let lots = [world.lot(chain()[1]).await, world.lot(chain()[2]).await];
        assert_eq!(lots.map(|lot| lot.used()), [used; 2]);
    }
    world.check().await;
}

pub async fn a_mark_grows_with_the_directory_the_trail_and_what_is_sent(place: &impl Place) {
    let mut world = World::with(place, None, None, None).await;
    let first = identity(&world).await.progress;
    let (message, _) = world.send(1).await;
    world.settle(message, Outcome::Relayed).await;
    world.store.rollup(&world.session).await.expect("rolled up");
    let sent = identity(&world).await.progress;
    assert!(sent.reaches(first) && !first.reaches(sent), "{first:?} {sent:?}");
    world.store.record(&world.session, "test", "test", None, serde_json::json!({})).await.expect("recorded");
    let told = identity(&world).await.progress;
    assert!(told.reaches(sent) && !sent.reaches(told));
    // Nothing happened: a ledger that stands writes no progress.
    world.store.heartbeat(&world.session).await.expect("alive");
    world.reopen(place).await;
    assert_eq!(identity(&world).await.progress, told);
}
