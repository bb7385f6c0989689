//! The suite on SQLite.

use std::path::PathBuf;
use std::sync::Arc;

use franking::ledger::sqlite::{SqliteStore, prepare};
use franking::ledger::store::Store;
use franking::runtime::clock::Clock;
use jiff::Timestamp;
use rusqlite::Connection;
use uuid::Uuid;

use super::world::Place;
use super::{random_histories_agree_with_the_model, whole_suite};

/// A directory of its own, removed with the test.
struct File(tempfile::TempDir);

impl File {
    fn new() -> Self {
        let file = Self(tempfile::tempdir().expect("a directory"));
        prepare(&file.path(), Uuid::from_u128(1), "cluster", Uuid::from_u128(2), Timestamp::UNIX_EPOCH)
            .expect("a ledger");
        file
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("ledger.db")
    }
}

impl Place for File {
    fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(&self.path(), clock).expect("the ledger"))
    }
}

whole_suite!(File::new());

#[test]
fn random_histories_agree() {
    random_histories_agree_with_the_model(File::new, no_lots_overlap);
}

/// Checks that every holder has at most one lot at any instant.
fn no_lots_overlap(file: &File) {
    let connection = Connection::open(file.path()).expect("a database");
    let overlaps: i64 = connection
        .query_row(
            "SELECT count(*) FROM lot a JOIN lot b ON a.holder = b.holder AND a.kind = b.kind AND a.id <> b.id \
             WHERE a.valid_from <= b.valid_from AND b.valid_from < a.valid_to",
            [],
            |row| row.get(0),
        )
        .expect("counted");
    assert_eq!(overlaps, 0);
}
