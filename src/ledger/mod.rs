//! The ledger: what is remembered.
//!
//! One model, engines behind [`Store`], one conformance suite that every engine passes, one pure
//! [`decide`](crate::domain::credit::decide) that every engine calls. Charged before it is sent, never overspent by
//! one: a reservation charges at once, a settlement gives back what was definitely not accepted, and nothing expires
//! by itself.
//!
//! What it must never do: give credits from a cache, answer "charged" without a durable write, or refuse for good
//! while it cannot be reached.

mod batch;
pub mod bill;
#[cfg(test)]
mod conformance;
mod figures;
mod outcomes;
pub mod report;
pub mod seal;
mod sources;
pub mod sqlite;
pub mod store;
pub mod trail;

use std::sync::Arc;

use crate::domain::relay_config::LedgerAddress;
use crate::runtime::clock::Clock;

pub use batch::Ledger;
pub use report::Report;
pub use seal::Sealer;
pub use store::{Error, Store};

/// Opens the engine that an address names.
pub fn open(address: &LedgerAddress, clock: Arc<dyn Clock>) -> store::Result<Arc<dyn Store>> {
    match address {
        LedgerAddress::Sqlite { path } => Ok(Arc::new(sqlite::SqliteStore::open(path, clock)?)),
        LedgerAddress::Postgres { .. } => {
            Err(Error::Unfit { path: address.place(), why: "this build has no PostgreSQL engine yet".to_owned() })
        }
    }
}
