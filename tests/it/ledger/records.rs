//! The directory, ids, usage and the audit trail.

use std::sync::Arc;

use super::world::{Place, World, account, account_id, at, chain, key, key_id, monthly, policy, policy_id};
use franking::domain::credential::Username;
use franking::domain::credit::{Outcome, Reservation, Verdict};
use franking::domain::departure::Departure;
use franking::domain::directory::{Entry, Named};
use franking::domain::id::{Holder, Kind, MessageId};
use franking::ledger::store::{Role, Usage};

pub async fn an_id_is_minted_once_for_its_kind_namespace_and_name(place: &impl Place) {
    let mut world = World::empty(place).await;
    let names = [
        (Kind::Account, "uid-1", "a"),
        (Kind::Key, "uid-1", "a"),
        (Kind::Account, "uid-2", "a"),
        (Kind::Account, "uid-1", "b"),
        (Kind::Policy, "", "a"),
        // Joined without their lengths, these two would be one name.
        (Kind::Account, "uid", "-1a"),
        (Kind::Account, "ui", "d-1a"),
    ];
    let mut ids = vec![];
    for (kind, namespace, name) in names {
        ids.push(world.store.identify(&world.session, kind, namespace, name).await.expect("an id"));
    }
    world.reopen(place).await;
    for ((kind, namespace, name), id) in names.into_iter().zip(&ids) {
        assert_eq!(world.store.identify(&world.session, kind, namespace, name).await.expect("an id"), *id);
        assert_eq!(id.get_version_num(), 4);
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), names.len());
}

pub async fn changes_follow_an_epoch_and_equal_entries_move_none(place: &impl Place) {
    let mut world = World::with(place, None, None, None).await;
    let all = world.store.changes(0).await.expect("changes");
    assert_eq!(all.entries.len(), 3);
    let nothing = world.store.changes(all.epoch).await.expect("changes");
    assert_eq!((nothing.entries.len(), nothing.epoch), (0, all.epoch));
    let events = world.store.events(0, 100).await.expect("events").len();
    world.put(&[Entry::Policy(policy(1, monthly(None))), Entry::Account(account(1, monthly(None)))]).await;
    assert_eq!(world.store.changes(0).await.expect("changes").epoch, all.epoch);
    assert_eq!(world.store.events(0, 100).await.expect("events").len(), events);
    let mut renamed = account(1, monthly(None));
    renamed.name = "renamed".to_owned();
    renamed.departures = vec![Departure { policy: policy_id(2), at: at("2026-11-20T10:00:00Z") }];
    world.put(&[Entry::Account(renamed.clone())]).await;
    let changed = world.store.changes(all.epoch).await.expect("changes");
    assert_eq!(changed.entries, [Entry::Account(renamed)]);
    assert!(changed.epoch > all.epoch);
}

pub async fn an_entry_is_found_fresh_whoever_wrote_it(place: &impl Place) {
    let world = World::with(place, None, None, None).await;
    let other = place.open(Arc::new(world.clock.clone()));
    let name = Username::try_from("key-1".to_owned()).expect("a user name");
    let sender = other.find_sender(&name).await.expect("read").and_then(Named::sender).expect("known");
    assert_eq!((sender.key.id, sender.account.id), (key_id(1), account_id(1)));
    let nobody = Username::try_from("nobody".to_owned()).expect("a user name");
    assert!(other.find_sender(&nobody).await.expect("read").is_none());
    let entry = other.find(chain()[0]).await.expect("read");
    assert_eq!(entry, Some(Entry::Key(key(1, 1, monthly(None)))));
    assert_eq!(other.find(Holder::Key(key_id(9))).await.expect("read"), None);
}

pub async fn a_key_without_its_account_or_policy_is_found_and_sends_nothing(place: &impl Place) {
    let mut world = World::empty(place).await;
    let name = Username::try_from("key-1".to_owned()).expect("a user name");
    for entry in [Entry::Key(key(1, 1, monthly(None))), Entry::Account(account(1, monthly(None)))] {
        world.put(&[entry]).await;
        let found = world.store.find_sender(&name).await.expect("read");
        assert!(matches!(found, Some(Named::Waiting(found)) if found.id == key_id(1)));
        assert!(matches!(world.send(1).await.1, Verdict::Blocked(_)));
    }
    world.put(&[Entry::Policy(policy(1, monthly(None)))]).await;
    assert!(matches!(world.store.find_sender(&name).await.expect("read"), Some(Named::Sender(_))));
    assert_eq!(world.send(1).await.1, Verdict::Reserved);
}

pub async fn usage_is_exact_in_the_transaction_that_moves_it(place: &impl Place) {
    let mut world = World::with(place, None, Some(100), None).await;
    assert_eq!(world.balance(chain()[0]).await.usage, Usage::default());
    let mut messages = vec![];
    for credits in [1, 2, 4, 8, 16] {
        messages.push(world.send(credits).await.0);
    }
    world.clock.advance(5);
    for (message, outcome) in messages.iter().zip(Outcome::ALL) {
        world.settle(*message, outcome).await;
    }
    let usage = Usage {
        messages: 3,
        accepted: 1 + 8 + 16,
        relayed: 1,
        refused: 2,
        not_offered: 4,
        unknown: 8,
        last_sent_at: Some(at("2026-11-20T10:00:05Z")),
    };
    for holder in chain() {
        assert_eq!(world.balance(holder).await.usage, usage, "{holder:?}");
    }
}

pub async fn the_rollup_takes_each_row_once_and_says_who_moved(place: &impl Place) {
    let mut world = World::with(place, None, Some(100), None).await;
    world.put(&[Entry::Account(account(2, monthly(None))), Entry::Key(key(2, 2, monthly(None)))]).await;
    let (_, cursor) = world.store.moved(0, 100).await.expect("moved");
    assert_eq!(world.store.rollup(&world.session).await.expect("rolled"), 0);
    assert_eq!(world.store.moved(cursor, 100).await.expect("moved"), (vec![], cursor));
    let (message, _) = world.send(3).await;
    world.settle(message, Outcome::Unknown).await;
    world.settle(message, Outcome::Relayed).await;
    assert_eq!(world.store.rollup(&world.session).await.expect("rolled"), 3);
    assert_eq!(world.store.rollup(&world.session).await.expect("rolled"), 0);
    let (mut moved, next) = world.store.moved(cursor, 100).await.expect("moved");
    moved.sort();
    assert_eq!(moved, chain());
    assert_eq!(world.store.moved(next, 100).await.expect("moved").0, vec![]);
    // Read in pieces, no holder is skipped.
    let (mut pieces, mut cursor) = (vec![], cursor);
    loop {
        let (some, next) = world.store.moved(cursor, 2).await.expect("moved");
        pieces.extend(some.iter().copied());
        if some.len() < 2 {
            break;
        }
        cursor = next;
    }
    pieces.sort();
    assert_eq!(pieces, chain());
}

pub async fn balances_leave_out_who_is_not_known(place: &impl Place) {
    let mut world = World::with(place, Some(5), None, None).await;
    world.send(2).await;
    let asked = [Holder::Key(key_id(9)), chain()[0]];
    let balances = world.store.balances(&asked).await.expect("balances");
    assert_eq!(balances.len(), 1);
    assert_eq!((balances[0].lot.holder, balances[0].lot.remaining()), (chain()[0], Some(3)));
}

pub async fn a_balance_of_a_period_in_which_nobody_sent_is_what_the_first_message_finds(place: &impl Place) {
    let mut world = World::with(place, Some(5), None, None).await;
    world.send(2).await;
    world.clock.set(at("2027-03-03T00:00:00Z"));
    let seen = world.lot(chain()[0]).await;
    world.send(0).await;
    let mut made = world.lot(chain()[0]).await;
    made.id = seen.id;
    assert_eq!(made, seen);
    assert_eq!(seen.window.key, "2027-03");
}

pub async fn the_trail_says_who_changed_which_limit_and_names_nobody(place: &impl Place) {
    let world = World::with(place, None, Some(5), None).await;
    let mut lowered = account(1, monthly(Some(3)));
    lowered.name = "ada-lovelace".to_owned();
    world.store.put(&world.session, "kubectl-edit", &[Entry::Account(lowered)]).await.expect("written");
    world
        .store
        .record(&world.session, "operator", "key.rotated", Some(chain()[0]), serde_json::json!({ "by": "spec" }))
        .await
        .expect("recorded");
    let events = world.store.events(0, 100).await.expect("events");
    let regranted = events.iter().find(|event| event.kind == "lot.regranted").expect("a regrant");
    assert_eq!((regranted.actor.as_str(), regranted.holder), ("kubectl-edit", Some(chain()[1])));
    assert_eq!((regranted.detail["from"].as_i64(), regranted.detail["to"].as_i64()), (Some(5), Some(3)));
    let last = events.last().expect("events");
    assert_eq!((last.kind.as_str(), last.holder), ("key.rotated", Some(chain()[0])));
    assert!(events.iter().all(|event| !event.detail.to_string().contains("ada")));
    let after = world.store.events(regranted.seq, 1).await.expect("events");
    assert!(after.len() == 1 && after[0].seq > regranted.seq);
}

pub async fn two_processes_have_two_sessions(place: &impl Place) {
    let world = World::empty(place).await;
    let operator = world.store.open_session(Role::Operator, "relay-0").await.expect("a session");
    let relay = world.store.open_session(Role::Relay, "relay-1").await.expect("a session");
    assert!(operator.id != world.session.id && relay.id != world.session.id && relay.id != operator.id);
    for session in [&world.session, &operator, &relay] {
        world.store.heartbeat(session).await.expect("alive");
    }
}

pub async fn what_is_retired_stays_charged_and_the_books_balance(place: &impl Place) {
    let world = World::with(place, None, Some(100), None).await;
    // The day's table is made ahead, if an engine has one.
    world.store.prepare_lots(&world.session, at("2026-11-21T00:00:00Z")).await.expect("made");
    let outcomes = [Some(Outcome::Relayed), Some(Outcome::Refused), Some(Outcome::Unknown), None];
    for (number, outcome) in (0..).zip(outcomes) {
        let message = message_of("2026-11-20T10:00:00Z", number);
        let asked = Reservation { message, key: key_id(1), credits: 1 << number, fingerprint: None };
        assert_eq!(world.ask(&asked).await, Verdict::Reserved);
        if let Some(outcome) = outcome {
            world.settle(message, outcome).await;
        }
    }
    world.settle(message_of("2026-11-20T10:00:00Z", 2), Outcome::Relayed).await;
    let before = at("2026-11-22T00:00:00Z");
    world.clock.set(at("2026-11-29T00:00:00Z"));
    let young =
        Reservation { message: message_of("2026-11-29T00:00:00Z", 9), key: key_id(1), credits: 16, fingerprint: None };
    assert_eq!(world.ask(&young).await, Verdict::Reserved);
    let mut retired = 0;
    // Open messages are settled first, and may be dropped the next time.
    for _ in 0..2 {
        retired += world.store.retire(&world.session, before).await.expect("retired");
    }
    assert_eq!(retired, 4);
    assert_eq!(world.store.retire(&world.session, before).await.expect("retired"), 0);
    world.check().await;
    let usage = world.balance(chain()[1]).await.usage;
    assert_eq!((usage.accepted, usage.relayed, usage.refused, usage.unknown), (1 + 4 + 8 + 16, 1 + 4, 2, 8));
    // Too late to be given back.
    world.settle(message_of("2026-11-20T10:00:00Z", 3), Outcome::Refused).await;
    assert_eq!(world.balance(chain()[1]).await.usage.accepted, 29);
    world.settle(young.message, Outcome::Refused).await;
    assert_eq!(world.balance(chain()[1]).await.usage.accepted, 13);
    world.check().await;
}

/// Returns an id as a relay makes it at that moment.
fn message_of(moment: &str, number: u8) -> MessageId {
    let ms = u64::try_from(at(moment).as_millisecond()).expect("after 1970");
    MessageId(uuid::Builder::from_unix_timestamp_millis(ms, &[number; 10]).into_uuid())
}
