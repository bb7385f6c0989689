//! The faults that only this engine can have, on a real server. The suite that every engine passes is
//! `tests/it/ledger`.

mod disk;
mod durability;
mod faults;
#[path = "../../../../tests/it/support/postgres.rs"]
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jiff::Timestamp;
use uuid::Uuid;

use super::connection::PgConnection;
use super::pool::Connector;
use super::schema::{self, MIGRATIONS, Migration};
use super::{PostgresStore, connector};
use crate::ledger::incarnation::Naming;
use crate::ledger::store::{State, Store};
use crate::ledger::world::Place;
use crate::runtime::clock::Clock;

fn naming() -> Naming {
    let (installation, incarnation) = (Uuid::from_u128(1), Uuid::from_u128(2));
    Naming { installation, cluster: "cluster".to_owned(), incarnation, state: State::Open }
}

/// A ledger in a schema of its own, dropped with the test.
pub struct TestLedger {
    url: String,
    schema: String,
}

impl TestLedger {
    fn new() -> Self {
        Self::on(server::url(), MIGRATIONS)
    }

    fn on(url: &str, migrations: &'static [Migration]) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let schema = format!("franking_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let ledger = Self { url: url.to_owned(), schema };
        let connector = ledger.connector();
        aside(async move {
            schema::prepare(&connector, &naming(), migrations, Timestamp::UNIX_EPOCH).await.expect("a ledger");
        });
        ledger
    }

    fn connector(&self) -> Connector {
        connector(&self.url, "the test's".to_owned(), true, &self.schema).expect("an address")
    }

    fn store(&self, clock: Arc<dyn Clock>) -> PostgresStore {
        PostgresStore::over(self.connector(), Some(clock)).expect("the ledger")
    }

    /// Reads the rows from outside.
    fn look<T: Send + 'static, F>(&self, work: impl FnOnce(PgConnection) -> F + Send + 'static) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        let connector = self.connector();
        aside(async move { work(connector.connect().await.expect("connected")).await })
    }
}

impl Drop for TestLedger {
    fn drop(&mut self) {
        if self.url != server::url() {
            // A test's own server goes with everything in it, and may be gone already.
            return;
        }
        let schema = self.schema.clone();
        self.look(move |connection| async move {
            // A test that failed may still hold rows of it; the server goes anyway.
            let _ = connection.batch(&format!("SET lock_timeout = '1s'; DROP SCHEMA {schema} CASCADE")).await;
        });
    }
}

/// Runs a future to its end, from any test.
fn aside<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(work)
    };
    std::thread::spawn(run).join().expect("no panic")
}

impl Place for TestLedger {
    fn open(&self, clock: Arc<dyn Clock>) -> Arc<dyn Store> {
        Arc::new(self.store(clock))
    }
}
