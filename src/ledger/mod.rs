//! The ledger: the durable record of the directory, of credits and of what was charged.
//!
//! One model, engines behind [`Store`], one conformance suite that every engine passes (`tests/it/ledger`), one pure
//! rulebook (`rules`) that every engine calls. Mail is charged before it is sent, and no credit is spent twice: a
//! reservation charges at once, a settlement gives back what was definitely not accepted, and nothing expires by
//! itself.
//!
//! It must never give credits from a cache, answer "charged" without a durable write, or refuse for good while it
//! cannot be reached.

pub mod audit;
mod batch;
pub mod bill;
mod changes;
mod digest;
pub mod error;
pub mod identity;
pub mod incarnation;
mod metrics;
mod outcomes;
pub mod postgres;
pub mod report;
mod retry;
mod rules;
pub mod seal;
pub mod session;
pub mod sqlite;
pub mod store;
pub mod transfer;
/// The fixture of the suite in `tests/it/ledger`, for the engines' and the rules' own tests.
#[cfg(test)]
#[path = "../../tests/it/ledger/world.rs"]
mod world;

use std::sync::Arc;

use incarnation::Naming;
use jiff::Timestamp;
use store::Identity;

use crate::runtime::clock::Clock;
use crate::runtime::relay_config::LedgerAddress;

pub use batch::Ledger;
pub use metrics::Figures;
pub use report::Report;
pub use seal::Sealer;
pub use store::{Error, Store};

/// Opens the engine that an address names.
pub fn open(address: &LedgerAddress, clock: Arc<dyn Clock>) -> store::Result<Arc<dyn Store>> {
    match address {
        LedgerAddress::Sqlite { path } => Ok(Arc::new(sqlite::SqliteStore::open(path, clock)?)),
        LedgerAddress::Postgres { url, single_node } => {
            // The server's clock, so that relays need not agree about the time.
            Ok(Arc::new(postgres::PostgresStore::open(url, address.place(), *single_node, None)?))
        }
    }
}

/// Makes the ledger that an address names, or brings it to this release's schema, and returns its identity. A ledger of
/// another installation is not touched.
pub async fn prepare(address: &LedgerAddress, naming: &Naming, now: Timestamp) -> store::Result<Identity> {
    match address {
        LedgerAddress::Sqlite { path } => {
            let (path, naming) = (path.clone(), naming.clone());
            let prepared = tokio::task::spawn_blocking(move || sqlite::prepare_as(&path, &naming, now)).await;
            prepared.unwrap_or_else(|error| {
                Err(Error::Unavailable { doing: "preparing the ledger", source: Box::new(error) })
            })
        }
        LedgerAddress::Postgres { url, single_node } => {
            postgres::prepare(url, address.place(), *single_node, naming, now).await
        }
    }
}
