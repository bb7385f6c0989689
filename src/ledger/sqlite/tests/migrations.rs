//! A step to another schema, and the binary of the release before on the file that it makes.

use jiff::Timestamp;
use rusqlite::Connection;

use super::{File, naming, newest, open};
use crate::domain::credit::{Outcome, Verdict};
use crate::ledger::sqlite::file::{self, MIGRATIONS, Migration};
use crate::ledger::store::Error;
use crate::ledger::world::World;

/// A step that expands: what the release before writes still fits.
fn expanded() -> Vec<Migration> {
    let known = MIGRATIONS.iter().map(|known| Migration { version: known.version, sql: known.sql });
    let sql = "ALTER TABLE lot ADD COLUMN later TEXT NOT NULL DEFAULT ''; \
         ALTER TABLE reservation ADD COLUMN later INTEGER; CREATE TABLE later (a INTEGER) STRICT";
    known.chain([Migration { version: newest() + 1, sql }]).collect()
}

/// A step that contracts what the one before expanded.
const CONTRACTED: &str = "ALTER TABLE reservation DROP COLUMN later; DROP TABLE later";

#[tokio::test]
async fn a_running_binary_goes_on_with_an_expanded_file_and_none_starts_on_it() {
    let file = File::new();
    let mut world = World::with(&file, None, Some(10), None).await;
    let (message, verdict) = world.send(4).await;
    assert_eq!(verdict, Verdict::Reserved);
    let now = Timestamp::from_second(1_000).expect("a time");
    let identity = file::prepare(&file.path(), &naming(1), &expanded(), now).expect("migrated");
    assert_eq!(identity.schema_version, newest() + 1);
    let copy = Connection::open(file::copy_path(&file.path(), newest(), now)).expect("the copy");
    let charged: i64 = copy.query_row("SELECT count(*) FROM reservation", [], |row| row.get(0)).expect("read");
    assert_eq!(charged, 1);

    world.settle(message, Outcome::NotOffered).await;
    assert_eq!(world.send(10).await.1, Verdict::Reserved);
    assert!(matches!(world.send(1).await.1, Verdict::Short { .. }), "what was used before counts");
    world.check().await;
    assert!(matches!(open(&file.path()), Err(Error::Schema { found, .. }) if found == newest() + 1));
}

#[tokio::test]
async fn an_expanded_file_is_contracted_once_and_keeps_what_was_used() {
    let file = File::new();
    let mut world = World::with(&file, None, Some(10), None).await;
    assert_eq!(world.send(4).await.1, Verdict::Reserved);
    let mut steps = expanded();
    steps.push(Migration { version: newest() + 2, sql: CONTRACTED });
    for _ in 0..2 {
        let identity = file::prepare(&file.path(), &naming(1), &steps, Timestamp::UNIX_EPOCH).expect("migrated");
        assert_eq!(identity.schema_version, newest() + 2);
    }
    let connection = Connection::open(file.path()).expect("a database");
    let found: (i64, i64) = connection
        .query_row(
            "SELECT (SELECT count(*) FROM reservation), (SELECT count(*) FROM sqlite_schema WHERE name = 'later')",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .expect("read");
    assert_eq!(found, (1, 0));
    assert!(matches!(world.send(7).await.1, Verdict::Short { .. }));
}
