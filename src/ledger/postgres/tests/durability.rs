//! Servers and schemas that are refused, and the neighbours that are not.

use std::sync::Arc;

use jiff::Timestamp;

use super::{TestLedger, aside, naming, server};
use crate::domain::credit::Verdict;
use crate::ledger::incarnation::Naming;
use crate::ledger::postgres::schema::{self, MIGRATIONS, Migration};
use crate::ledger::postgres::{PostgresStore, connector, durability, rows};
use crate::ledger::store::{Error, Identity, Result, Role, Store as _};
use crate::ledger::world::{Place as _, World, at};
use crate::runtime::clock::ManualClock;

fn why<T>(refused: Result<T>) -> String {
    match refused {
        Ok(_) => panic!("it was accepted"),
        Err(Error::Unfit { why, .. }) => why,
        Err(other) => panic!("{other:?}"),
    }
}

async fn open(url: &str, single_node: bool) -> Result<Identity> {
    let connector = connector(url, "the test's".to_owned(), single_node, "franking_of_nobody")?;
    PostgresStore::over(connector, None)?.identity().await
}

#[tokio::test]
async fn a_server_that_may_forget_commits_is_refused_with_what_to_set() {
    let url = server::url();
    for setting in ["off", "local"] {
        let refused = why(open(&format!("{url}&options=-csynchronous_commit%3D{setting}"), true).await);
        assert!(refused.contains("synchronous_commit") && refused.contains("set it to on"), "{refused}");
    }
    let refused = why(open(url, false).await);
    assert!(refused.contains("synchronous_standby_names") && refused.contains("ledger.singleNode: true"), "{refused}");
    assert!(matches!(open(url, true).await, Err(Error::Schema { found: 0, .. })), "there is no ledger in it");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_outage_and_nobody_reads_its_password() {
    let refused = open("postgresql://franking:s3cret@127.0.0.1:1/franking?sslmode=disable", true).await;
    let refused = refused.expect_err("refused");
    assert!(matches!(refused, Error::Unavailable { .. }), "{refused:?}");
    assert!(!format!("{refused:?}").contains("s3cret"));
}

#[tokio::test]
async fn another_installations_ledger_is_told_and_not_touched() {
    let ledger = TestLedger::new();
    let other = Naming { installation: uuid::Uuid::from_u128(9), ..naming() };
    let found = schema::prepare(&ledger.connector(), &other, MIGRATIONS, Timestamp::UNIX_EPOCH).await.expect("told");
    assert_eq!(found.installation, naming().installation);
    let refused = schema::prepare(&ledger.connector(), &other, &[NEXT], Timestamp::UNIX_EPOCH).await;
    assert!(matches!(refused, Err(Error::Foreign { .. })), "{refused:?}");
}

/// The change that a later release may make: it adds.
const NEXT: Migration = Migration {
    version: durability::SCHEMA_NEWEST + 1,
    sql: "ALTER TABLE lot ADD COLUMN later text NOT NULL DEFAULT ''; \
          ALTER TABLE reservation ADD COLUMN later bigint; CREATE TABLE later (a integer)",
};

/// Charges a message, once however often it is asked, also after everything in memory is gone.
async fn works(ledger: &TestLedger) {
    let mut world = World::with(ledger, None, Some(1), None).await;
    let reservation = world.reservation(1);
    for _ in 0..3 {
        assert_eq!(world.ask(&reservation).await, Verdict::Reserved);
    }
    let twice = [reservation.clone(), reservation.clone()];
    let verdicts = world.store.reserve(&world.session, &twice).await.expect("answered");
    assert_eq!(verdicts, [Verdict::Reserved, Verdict::Reserved]);
    world.store = ledger.open(Arc::new(world.clock.clone()));
    world.session = world.store.open_session(Role::Relay, "relay-0").await.expect("a session");
    assert_eq!(world.ask(&reservation).await, Verdict::Reserved);
    assert_eq!(world.consumed().await, [1, 1, 1]);
    world.check().await;
}

/// A process that starts before `prepare` has run waits for it.
#[tokio::test]
async fn a_schema_before_the_oldest_known_one_is_refused() {
    let ledger = TestLedger::new();
    let before = durability::SCHEMA_OLDEST - 1;
    ledger.look(move |connection| async move {
        connection.execute("UPDATE meta SET schema_version = $1", &[&before]).await.expect("written");
    });
    let store = ledger.store(Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH)));
    let refused = store.identity().await;
    assert!(matches!(refused, Err(Error::Schema { found, .. }) if found == before), "{refused:?}");
}

#[tokio::test]
async fn the_schema_of_the_release_after_is_worked_with_and_no_later_one() {
    let ledger = TestLedger::new();
    let mut migrations = MIGRATIONS.iter().map(|known| Migration { version: known.version, sql: known.sql });
    let mut next: Vec<Migration> = migrations.by_ref().collect();
    next.push(NEXT);
    let found = schema::prepare(&ledger.connector(), &naming(), &next, Timestamp::UNIX_EPOCH).await.expect("migrated");
    assert_eq!(found.schema_version, NEXT.version);
    works(&ledger).await;
    // The older release prepares again, and leaves it as it is.
    let found = schema::prepare(&ledger.connector(), &naming(), MIGRATIONS, Timestamp::UNIX_EPOCH).await.expect("same");
    assert_eq!(found.schema_version, NEXT.version);
    ledger.look(|connection| async move {
        connection.batch("UPDATE meta SET schema_version = schema_version + 1").await.expect("written");
    });
    let store = ledger.open(Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH)));
    assert!(matches!(store.identity().await, Err(Error::Schema { .. })));
    let refused = schema::prepare(&ledger.connector(), &naming(), MIGRATIONS, Timestamp::UNIX_EPOCH).await;
    assert!(matches!(refused, Err(Error::Schema { .. })), "{refused:?}");
}

#[tokio::test]
async fn two_that_prepare_at_once_make_one_ledger() {
    let ledger = TestLedger::new();
    ledger.look(|connection| async move {
        connection
            .batch("DO $$ BEGIN EXECUTE format('DROP SCHEMA %I CASCADE', current_schema()); END $$")
            .await
            .expect("gone");
    });
    let [one, other] = [ledger.connector(), ledger.connector()].map(|connector| {
        tokio::spawn(async move {
            schema::prepare(&connector, &naming(), MIGRATIONS, Timestamp::UNIX_EPOCH).await.expect("prepared")
        })
    });
    assert_eq!(one.await.expect("no panic"), other.await.expect("no panic"));
}

#[tokio::test]
async fn a_migration_that_fails_changes_nothing() {
    let ledger = TestLedger::new();
    let broken =
        [Migration { version: NEXT.version, sql: "CREATE TABLE later (a integer); SELECT nonsense FROM nowhere" }];
    assert!(schema::prepare(&ledger.connector(), &naming(), &broken, Timestamp::UNIX_EPOCH).await.is_err());
    let later: bool = ledger.look(|connection| async move {
        connection.query_one("SELECT to_regclass('later') IS NOT NULL", &[]).await.expect("read").get(0)
    });
    assert!(!later);
    works(&ledger).await;
}

#[tokio::test]
async fn the_trail_is_only_added_to() {
    let ledger = TestLedger::new();
    let mut world = World::with(&ledger, None, Some(5), None).await;
    let before = world.store.events(0, 100).await.expect("events");
    assert!(!before.is_empty());
    for change in ["UPDATE event SET actor = 'somebody else'", "DELETE FROM event", "TRUNCATE event"] {
        let refused = ledger.look(move |connection| async move { connection.batch(change).await.is_err() });
        assert!(refused, "{change}");
    }
    world.send(1).await;
    assert_eq!(world.store.events(0, before.len()).await.expect("events"), before);
}

#[tokio::test]
async fn a_day_that_is_sealed_is_dropped() {
    let ledger = TestLedger::new();
    // The day of its messages is the 20th of November 2026, and the world's own table of days begins with it.
    let days = |ledger: &TestLedger| -> Vec<i32> {
        ledger.look(|connection| async move {
            let days = connection.query("SELECT d FROM made_days() d ORDER BY d", &[]).await.expect("days");
            days.iter().map(|row| row.get(0)).collect()
        })
    };
    let day = |date: &str| rows::day_of(at(&format!("{date}T00:00:00Z")));
    let mut world = World::with(&ledger, None, None, None).await;
    world.store.prepare_lots(&world.session, at("2026-11-21T00:00:00Z")).await.expect("made");
    assert!(days(&ledger).contains(&day("2026-11-20")), "{:?}", days(&ledger));
    world.clock.set(at("2026-11-30T00:00:00Z"));
    world.send(1).await;
    world.store.retire(&world.session, at("2026-11-22T00:00:00Z")).await.expect("retired");
    assert!(days(&ledger).iter().all(|made| *made > day("2026-11-21")), "{:?}", days(&ledger));
    world.check().await;
}

#[tokio::test]
async fn the_belt_holds() {
    let ledger = TestLedger::new();
    let mut world = World::with(&ledger, None, Some(5), None).await;
    world.send(1).await;
    let overspent = aside({
        let connector = ledger.connector();
        async move { connector.connect().await.expect("connected").batch("UPDATE lot SET consumed = 6").await.is_err() }
    });
    assert!(overspent);
    ledger.look(|connection| async move {
        connection.batch("UPDATE lot SET consumed = 3 WHERE kind = 2").await.expect("written");
    });
    assert_eq!(world.store.check().await.expect("checked").len(), 1, "a balance that does not follow from its rows");
}
