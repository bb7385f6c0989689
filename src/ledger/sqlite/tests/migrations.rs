//! Files of earlier releases, and binaries of earlier releases on files of this one.

use jiff::Timestamp;
use rusqlite::{Connection, params};
use uuid::Uuid;

use super::{File, naming, newest};
use crate::domain::credit::{Meter, Outcome, Verdict};
use crate::domain::directory::Entry;
use crate::ledger::conformance::{self, Place as _, World, account_with_grant, chain, key_1, monthly_policy};
use crate::ledger::sqlite::file;
use crate::ledger::sqlite::usage::used_since;
use crate::ledger::store::Error;

/// The first release's statements for reserving a message and settling it, word for word.
fn reserve_as_schema_1(connection: &Connection, message: u128) {
    let lots: Vec<i64> = chain()
        .iter()
        .map(|holder| {
            connection
                .query_row(
                    "SELECT id, kind, holder, period, valid_from, valid_to, part, whole, granted, overhang, consumed, \
                     calendar, messages, relayed, refused, not_offered, unknown, last_sent_at FROM lot \
                     WHERE holder = ?1 AND kind = ?2 AND valid_from <= ?3 ORDER BY valid_from DESC LIMIT 1",
                    params![holder.uuid().as_bytes(), holder.kind().as_str(), now_ms(connection)],
                    |row| row.get(0),
                )
                .expect("the running lot")
        })
        .collect();
    let message = Uuid::from_u128(message);
    let [key, account, policy] = chain().map(|holder| holder.uuid().into_bytes());
    let parts = format!("[[{},2],[{},2],[{},2]]", lots[0], lots[1], lots[2]);
    connection
        .execute(
            "INSERT INTO reservation (message, key, account, policy, credits, parts, session, epoch, at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![message.as_bytes(), key, account, policy, 2, parts, 1, 1, now_ms(connection)],
        )
        .expect("reserved");
    connection
        .execute("INSERT INTO pending (message, session, epoch) VALUES (?1, ?2, ?3)", params![message.as_bytes(), 1, 1])
        .expect("pending");
    for lot in lots {
        connection
            .execute(
                "UPDATE lot SET messages = messages + ?2, relayed = relayed + ?3, refused = refused + ?4, \
                 not_offered = not_offered + ?5, unknown = unknown + ?6, last_sent_at = max(last_sent_at, ?7), \
                 consumed = consumed + ?8, overhang = ?9 WHERE id = ?1",
                params![lot, 1, 0, 0, 0, 0, 0, 2, 0],
            )
            .expect("charged");
    }
}

fn now_ms(connection: &Connection) -> i64 {
    connection.query_row("SELECT last_now FROM meta", [], |row| row.get(0)).expect("the time")
}

/// A ledger as the first release left it: a directory, lots, a message that was relayed and one that is open.
fn file_of_schema_1() -> File {
    let file = File(tempfile::tempdir().expect("a directory"));
    let made = file::prepare(&file.path(), &naming(1), &file::MIGRATIONS[..1], Timestamp::UNIX_EPOCH);
    // A read of the identity may want columns that come later: the file is made all the same.
    drop(made);
    let connection = Connection::open(file.path()).expect("a database");
    let start = conformance::at(conformance::START).as_millisecond();
    connection.execute("UPDATE meta SET last_now = ?1, config_epoch = 1", [start]).expect("the time");
    connection
        .execute(
            "INSERT INTO session (role, name, epoch, opened_at, seen_at) VALUES ('relay', 'relay-0', 1, ?1, ?1)",
            [start],
        )
        .expect("a session");
    let bodies = [
        ("policy", chain()[2].uuid(), r#"{"policy":{"id":"ID","name":"policy-1","pool":LIMIT}}"#),
        (
            "account",
            chain()[1].uuid(),
            r#"{"account":{"id":"ID","policy":"PARENT","namespace":"team","name":"account-1","cap":LIMIT}}"#,
        ),
        (
            "key",
            chain()[0].uuid(),
            r#"{"key":{"id":"ID","account":"PARENT","namespace":"team","name":"key-1","username":"key-1","plainListener":false,"cap":LIMIT,"revoked":false}}"#,
        ),
    ];
    let calendar = r#"{"period":"Monthly","anchor":1,"timeZone":"UTC"}"#;
    let mut parent = Uuid::nil();
    for (kind, id, body) in bodies {
        let limit = format!(r#"{{"credits":10,"calendar":{calendar}}}"#);
        let body = body.replace("ID", &id.to_string()).replace("PARENT", &parent.to_string()).replace("LIMIT", &limit);
        connection
            .execute(
                "INSERT INTO directory (kind, id, epoch, removed, username, body) VALUES (?1, ?2, 1, 0, ?3, ?4)",
                params![kind, id.as_bytes(), (kind == "key").then_some("key-1"), body],
            )
            .expect("an entry");
        let (from, to) = ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z");
        let ms = |text| conformance::at(text).as_millisecond();
        connection
            .execute(
                "INSERT INTO lot (kind, holder, period, valid_from, valid_to, calendar, part, whole, granted) \
                 VALUES (?1, ?2, '2026-11', ?3, ?4, ?5, 1, 1, 10)",
                params![kind, id.as_bytes(), ms(from), ms(to), calendar],
            )
            .expect("a lot");
        parent = id;
    }
    reserve_as_schema_1(&connection, 0x51);
    reserve_as_schema_1(&connection, 0x52);
    file
}

#[tokio::test]
async fn a_file_of_schema_1_is_copied_and_goes_on_with_what_was_used() {
    let file = file_of_schema_1();
    let now = Timestamp::from_second(1_000).expect("a time");
    let identity = file::prepare(&file.path(), &naming(1), file::MIGRATIONS, now).expect("migrated");
    assert_eq!(identity.schema_version, newest());
    let copy = Connection::open(file::copy_path(&file.path(), 1, now)).expect("the copy");
    let version: i64 = copy.query_row("SELECT schema_version FROM meta", [], |row| row.get(0)).expect("read");
    assert_eq!(version, 1);

    let mut world = World::empty(&file).await;
    assert_eq!(world.consumed().await, [4; 3]);
    world.check().await;
    world.settle(message(0x51), Outcome::Refused).await;
    assert_eq!(world.consumed().await, [2; 3]);
    assert_eq!(world.send(8).await.1, Verdict::Reserved);
    // The rows that the first release counted are not counted again.
    for _ in 0..2 {
        let usage = world.balance(chain()[1]).await.usage;
        assert_eq!((usage.messages, usage.accepted, usage.refused), (2, 10, 2));
        world.store.rollup(&world.session).await.expect("rolled");
    }
    // The new meters work on it.
    world.put(&[Entry::Account(account_with_grant(3))]).await;
    let (_, verdict) = world.send(4).await;
    assert!(matches!(verdict, Verdict::Short { meter: Meter::AccountPrepaid, .. }), "{verdict:?}");
    world.check().await;
}

fn message(id: u128) -> crate::domain::id::MessageId {
    crate::domain::id::MessageId(Uuid::from_u128(id))
}

/// A file of the previous schema with usage in its last hours, which only its rollup knows.
#[tokio::test]
async fn a_file_of_schema_10_is_refused_until_it_is_prepared_and_counts_what_was_used() {
    let file = File(tempfile::tempdir().expect("a directory"));
    let known = file::MIGRATIONS.iter().filter(|migration| migration.version <= 10);
    let known: Vec<_> = known.map(|known| file::Migration { version: known.version, sql: known.sql }).collect();
    let made = file::prepare(&file.path(), &naming(1), &known, Timestamp::UNIX_EPOCH).expect("a ledger");
    assert_eq!(made.schema_version, 10);
    assert!(matches!(super::open(&file.path()), Err(Error::Schema { found: 10, .. })));
    let old = Connection::open(file.path()).expect("a database");
    let [key, account, policy] = chain().map(|holder| holder.uuid().into_bytes());
    let hour = conformance::at("2026-11-20T09:00:00Z").as_millisecond();
    old.execute(
        "INSERT INTO usage_hour (hour, key, account, policy, messages, charged, refused) VALUES (?1, ?2, ?3, ?4, 3, 9, 2)",
        params![hour, key, account, policy],
    )
    .expect("counted");
    drop(old);
    file::prepare(&file.path(), &naming(1), file::MIGRATIONS, Timestamp::UNIX_EPOCH).expect("migrated");
    let now = conformance::at(conformance::START).as_millisecond();
    let new = Connection::open(file.path()).expect("a database");
    new.execute("UPDATE meta SET last_now = ?1", [now]).expect("the time");
    for holder in chain() {
        for (from, used) in [("2026-11-20T00:00:00Z", 7), ("2026-11-20T09:45:00Z", 7), ("2026-11-20T10:00:00Z", 0)] {
            let found = used_since(&new, holder, conformance::at(from)).expect("read");
            assert_eq!(found, used, "{holder:?} since {from}");
        }
    }
}

/// A binary of the first release refuses the newer schema when it starts; one that is still running goes on.
#[tokio::test]
async fn what_a_running_binary_of_schema_1_writes_fits_an_expanded_file() {
    let file = file_of_schema_1();
    let old = Connection::open(file.path()).expect("a database");
    file::prepare(&file.path(), &naming(1), file::MIGRATIONS, Timestamp::UNIX_EPOCH).expect("migrated");
    let mut world = World::empty(&file).await;
    // Lots of other sources do not get in its way.
    world.put(&[Entry::Policy(monthly_policy()), Entry::Account(account_with_grant(3)), Entry::Key(key_1())]).await;
    reserve_as_schema_1(&old, 0x53);
    let store = file.open(std::sync::Arc::new(world.clock.clone()));
    assert_eq!(world.lot(chain()[1]).await.consumed, 6);
    assert_eq!(store.check().await.expect("checked"), vec![]);
    world.settle(message(0x53), Outcome::NotOffered).await;
    assert_eq!(world.consumed().await, [4; 3]);
    assert_eq!(world.send(3).await.1, Verdict::Reserved);
    world.check().await;
}

/// Covers a rollup that has passed the numbers of rows that were deleted since.
#[test]
fn outcomes_of_schema_8_keep_their_numbers_and_their_rules() {
    let insert =
        "INSERT INTO settlement (message, correction, outcome, at, counted) VALUES (randomblob(16), 0, ?1, 1, 0)";
    let last = |file: &Connection| file.query_row("SELECT max(seq) FROM settlement", [], |row| row.get::<_, i64>(0));
    for deleted in [0, 2, 3] {
        let file = File(tempfile::tempdir().expect("a directory"));
        file::prepare(&file.path(), &naming(1), &file::MIGRATIONS[..8], Timestamp::UNIX_EPOCH).expect("schema 8");
        let old = Connection::open(file.path()).expect("a database");
        for _ in 0..3 {
            old.execute(insert, ["relayed"]).expect("written");
        }
        old.execute("DELETE FROM settlement WHERE seq > 3 - ?1", [deleted]).expect("deleted");
        file::prepare(&file.path(), &naming(1), file::MIGRATIONS, Timestamp::UNIX_EPOCH).expect("migrated");
        let rows: i64 = old.query_row("SELECT count(*) FROM settlement", [], |row| row.get(0)).expect("counted");
        assert_eq!(rows, 3 - deleted);
        old.execute(insert, ["unknown"]).expect("written");
        assert_eq!(last(&old).expect("read"), 4, "{deleted} were deleted");
        assert!(old.execute(insert, ["lost"]).is_err());
    }
}
