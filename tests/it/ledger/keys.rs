//! Keys that are issued again and again, and keys that were removed long ago.

use jiff::Timestamp;

use super::world::{Place, World, account, at, chain, key, key_id, monthly, policy};
use franking::domain::credential::{Credential, Password, SecretHash, Stage, stage};
use franking::domain::credit::Verdict;
use franking::domain::directory::{Entry, KeyEntry};
use franking::domain::id::{Holder, Kind};

fn hash(password: &str) -> SecretHash {
    franking::domain::credential::HashKey::new(&[1; 32]).hash(&Password::given(password))
}

async fn kinds(world: &World) -> Vec<String> {
    let events = world.store.events(0, 1_000).await.expect("events");
    events.into_iter().filter(|event| event.holder == Some(chain()[0])).map(|event| event.kind).collect()
}

pub async fn a_password_that_is_issued_once_more_is_no_news(place: &impl Place) {
    let mut world = World::empty(place).await;
    world.put(&[Entry::Policy(policy(1, monthly(None))), Entry::Account(account(1, monthly(None)))]).await;
    let mut staged = key(1, 1, monthly(None));
    stage(&mut staged.credentials, hash("first"), world.clock_now());
    world.put(&[Entry::Key(staged.clone())]).await;
    let (_, cursor) = world.store.moved(0, 100).await.expect("moved");
    let epoch = world.store.changes(0).await.expect("changes").epoch;
    for password in ["second", "third", "fourth"] {
        world.clock.advance(1);
        stage(&mut staged.credentials, hash(password), world.clock_now());
        world.put(&[Entry::Key(staged.clone())]).await;
    }
    // The relays learn of it; the trail and the figures do not mention it.
    let changes = world.store.changes(epoch).await.expect("changes");
    assert_eq!(changes.entries, [Entry::Key(staged.clone())]);
    assert_eq!(kinds(&world).await, ["directory.added"]);
    assert_eq!(world.store.moved(cursor, 100).await.expect("moved"), (vec![], cursor));
    // Anything else beside it is news.
    let mut narrowed = staged.clone();
    stage(&mut narrowed.credentials, hash("fifth"), world.clock_now());
    narrowed.plain_listener = true;
    world.put(&[Entry::Key(narrowed.clone())]).await;
    let current = Credential { hash: hash("fifth"), stage: Stage::Current { since: world.clock_now() } };
    world.put(&[Entry::Key(KeyEntry { credentials: vec![current], ..narrowed })]).await;
    let expected = ["directory.added", "directory.changed", "setting.changed", "directory.changed", "key.issued"];
    assert_eq!(kinds(&world).await, expected);
}

/// Removes key 1 at this time, by the clock too.
async fn removed(world: &mut World, when: Timestamp) -> KeyEntry {
    world.clock.set(when);
    let gone = key(1, 1, monthly(Some(5))).removed(when);
    world.put(&[Entry::Key(gone.clone())]).await;
    gone
}

pub async fn keys_removed_long_ago_leave_and_find_what_they_used(place: &impl Place) {
    let mut world = World::with(place, Some(5), None, None).await;
    let named = async |world: &World| {
        world.store.identify(&world.session, Kind::Key, "namespace", "key-1").await.expect("an id")
    };
    let id = named(&world).await;
    let many: Vec<Entry> = (10..1_020).map(|n| Entry::Key(key(n, 1, monthly(None)))).collect();
    world.put(&many).await;
    // As after an account's removal: its keys may come back with the same passwords.
    let current = Credential { hash: hash("kept"), stage: Stage::Current { since: world.clock_now() } };
    let waits = KeyEntry { credentials: vec![current], ..key(2, 1, monthly(None)) }.out_of_service(world.clock_now());
    world.put(&[Entry::Key(waits)]).await;
    assert_eq!(world.send(3).await.1, Verdict::Reserved);
    let gone = removed(&mut world, at("2026-11-21T00:00:00Z")).await;

    // No row is forgotten that a process may still remember in its earlier state.
    let forget = async |before| world.store.forget_keys(&world.session, before).await.expect("forgotten");
    assert_eq!(forget(at("2026-11-23T00:00:00Z")).await, 0);
    world.clock.set(at("2026-11-23T00:00:00Z"));
    assert_eq!(forget(at("2026-11-21T00:00:00Z")).await, 0);
    assert_eq!(forget(at("2026-11-23T00:00:00Z")).await, 1);
    assert_eq!(forget(at("2026-11-23T00:00:00Z")).await, 0);
    assert_eq!(world.store.find(chain()[0]).await.expect("read"), None);
    assert!(world.store.find(Holder::Key(key_id(2))).await.expect("read").is_some());
    assert_eq!(world.store.changes(0).await.expect("changes").entries.len(), 2 + 1_010 + 1);
    assert!(world.store.find_sender(&gone.username).await.expect("read").is_none());
    assert!(matches!(world.send(1).await.1, Verdict::Blocked(_)));
    let forgotten = world.store.events(0, 5_000).await.expect("events");
    assert!(forgotten.iter().all(|event| event.kind != "directory.forgotten" || event.detail["keys"] == 1));
    world.check().await;

    // Applied again in the same period: it has the id, and its usage still counts.
    assert_eq!(named(&world).await, id);
    world.put(&[Entry::Key(key(1, 1, monthly(Some(5))))]).await;
    assert_eq!(world.balance(chain()[0]).await.lot.remaining(), Some(2));
    assert!(matches!(world.send(3).await.1, Verdict::Short { .. }));
    assert_eq!(world.send(2).await.1, Verdict::Reserved);
    world.check().await;
}
