//! The suite on PostgreSQL.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use franking::ledger::incarnation::Naming;
use franking::ledger::postgres::{PostgresStore, prepare};
use franking::ledger::store::{State, Store};
use franking::runtime::clock::Clock;
use jiff::Timestamp;
use uuid::Uuid;

use super::world::Place;
use super::{random_histories_agree_with_the_model, whole_suite};
use crate::spread::{made, with_databases};

const PLACE: &str = "the test's";

/// A database of its own, dropped with the test.
struct Database {
    name: String,
    url: String,
}

impl Database {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("suite_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let database = aside(async move {
            let url = made(&name).await;
            let (installation, incarnation) = (Uuid::from_u128(1), Uuid::from_u128(2));
            let naming = Naming { installation, cluster: "cluster".to_owned(), incarnation, state: State::Open };
            prepare(&url, PLACE.to_owned(), true, &naming, Timestamp::UNIX_EPOCH).await.expect("a ledger");
            Self { name, url }
        });
        database.expect("no panic")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let dropped = [format!("DROP DATABASE {} WITH (FORCE)", self.name)];
        // A second panic would end the tests' process; the server goes anyway.
        let _ = aside(async move { with_databases(&dropped).await });
    }
}

impl Place for Database {
    fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn Store> {
        Arc::new(PostgresStore::open(&self.url, PLACE.to_owned(), true, Some(clock)).expect("the ledger"))
    }
}

/// Runs a future to its end, from any test.
fn aside<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> std::thread::Result<T> {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(work)
    };
    std::thread::spawn(run).join()
}

whole_suite!(Database::new());

#[test]
fn random_histories_agree() {
    random_histories_agree_with_the_model(Database::new, no_lots_overlap);
}

/// Checks that every holder has at most one lot of its period at any instant.
fn no_lots_overlap(database: &Database) {
    let url = database.url.clone();
    let overlaps = aside(async move {
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("a server");
        let connection = tokio::spawn(connection);
        let counted = client
            .query_one(
                "SELECT count(*) FROM franking.lot a JOIN franking.lot b \
                     ON a.holder = b.holder AND a.kind = b.kind AND a.id <> b.id \
                 WHERE a.source = 'period' AND b.source = 'period' \
                     AND a.valid_from <= b.valid_from AND b.valid_from < a.valid_to",
                &[],
            )
            .await;
        connection.abort();
        counted.expect("counted").get::<_, i64>(0)
    });
    assert_eq!(overlaps.expect("no panic"), 0);
}
