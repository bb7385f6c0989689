//! Connections: opened, checked, kept in a pool, dropped when anything about them is in doubt.

use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{self, Metrics, Pool, PoolError, RecycleError, RecycleResult, Timeouts};

use super::address::Address;
use super::connection::PgConnection;
use super::durability;
use super::failure::{Failure, Op};
use crate::ledger::store::{Error, Result};

/// Maximum connections of one process: charges, outcomes and the heartbeat at once, the directory's followers, the
/// operator's workers.
const CONNECTIONS: usize = 16;
/// Maximum wait for one of them.
const WAIT_LIMIT: Duration = Duration::from_secs(10);

/// Time after which a connection that found the previous release's schema checks again: the schema is migrated while
/// the fleet rolls.
const OLDER_SCHEMA_LIFE: Duration = Duration::from_secs(30);

/// Makes connections.
pub struct Connector {
    pub address: Address,
    pub demands: durability::Demands,
}

impl Connector {
    /// Opens a connection whose server was checked, whatever its schema.
    pub async fn connect(&self) -> Result<PgConnection> {
        let doing = "connecting to the ledger's database";
        let Address { config, tls } = &self.address;
        let (client, connection) = config.connect(tls.clone()).await.map_err(|error| Failure::from(error).of(doing))?;
        let connection = PgConnection::new(client, connection);
        durability::judge(&connection, &self.demands).await?;
        Ok(connection)
    }
}

impl managed::Manager for Connector {
    type Type = PgConnection;
    type Error = Error;

    async fn create(&self) -> Result<PgConnection> {
        // On the heap: ten layers of callers would each hold it on the stack.
        let mut connection = Box::pin(self.connect()).await?;
        connection.schema = durability::check_schema(&connection).await?;
        Ok(connection)
    }

    async fn recycle(&self, connection: &mut PgConnection, _: &Metrics) -> RecycleResult<Error> {
        if connection.client.is_closed() {
            return Err(RecycleError::message("closed"));
        }
        if connection.schema < durability::SCHEMA_NEWEST && connection.since.elapsed() > OLDER_SCHEMA_LIFE {
            return Err(RecycleError::message("it may know an older schema than there is"));
        }
        Ok(())
    }
}

pub type Connections = Pool<Connector>;

pub fn pool(connector: Connector) -> Result<Connections> {
    let place = connector.demands.place.clone();
    Pool::builder(connector)
        .max_size(CONNECTIONS)
        .timeouts(Timeouts { wait: Some(WAIT_LIMIT), create: Some(WAIT_LIMIT), recycle: None })
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| Error::Unfit { path: place, why: format!("no connections can be kept for it ({error})") })
}

/// One connection from the pool. It goes back only by [`Lease::give_back`]; dropped otherwise, it is closed, because a
/// call may still be under way on it.
pub struct Lease(Option<managed::Object<Connector>>);

impl Lease {
    pub async fn take(connections: &Connections) -> Op<Self> {
        match connections.get().await {
            Ok(object) => Ok(Self(Some(object))),
            Err(PoolError::Backend(error)) => Err(Failure::Connect(Box::new(error))),
            Err(
                PoolError::Timeout(_)
                | PoolError::Closed
                | PoolError::NoRuntimeSpecified
                | PoolError::PostCreateHook(_),
            ) => Err(Failure::Crowded),
        }
    }

    pub fn give_back(mut self) {
        self.0 = None;
    }

    /// Gives the connection back after a single statement was answered, whatever the answer: it is clean unless it is
    /// gone.
    pub fn give_back_answered(self) {
        if !self.client.is_closed() {
            self.give_back();
        }
    }
}

impl std::ops::Deref for Lease {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.0.as_ref().expect("a lease has its connection until it is given back, by value")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(managed::Object::take(object));
        }
    }
}
