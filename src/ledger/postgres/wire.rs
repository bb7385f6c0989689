//! Connections: opened, judged, kept in a pool, dropped when anything about them is in doubt.
//!
//! A connection on which the wait for a standby was given up is one whose last commit may be lost, so it ends before
//! that commit is answered: its call is unknown and asked again. Nobody here cancels a statement; a call that takes
//! too long loses its connection.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use deadpool::Runtime;
use deadpool::managed::{self, Metrics, Pool, PoolError, RecycleError, RecycleResult, Timeouts};
use tokio::task::JoinHandle;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Connection, Row, Socket, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::Address;
use super::failure::{Failure, Op};
use super::fitness;
use crate::ledger::store::{Error, Result};

/// Of one process: charges, outcomes and the heartbeat at once, the directory's followers, the operator's workers.
const CONNECTIONS: usize = 16;
/// Waiting for one of them.
const WAIT_LIMIT: Duration = Duration::from_secs(10);

/// A connection that found the schema of the release before looks again after so long: it is brought to this release's
/// while the fleet rolls.
const OLDER_SCHEMA_LIFE: Duration = Duration::from_secs(30);

type RustlsStream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// One connection with what was prepared on it.
pub struct Wire {
    pub client: Client,
    /// The version that the schema had when this was connected; 0 where nobody looked.
    pub schema: i64,
    since: Instant,
    statements: Mutex<HashMap<&'static str, Statement>>,
    task: JoinHandle<()>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Whatever is still under way is not waited for.
        self.task.abort();
    }
}

impl Wire {
    async fn statement(&self, sql: &'static str) -> Op<Statement> {
        let known = self.statements.lock().unwrap_or_else(PoisonError::into_inner).get(sql).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.client.prepare(sql).await?;
        self.statements.lock().unwrap_or_else(PoisonError::into_inner).insert(sql, statement.clone());
        Ok(statement)
    }

    pub async fn query(&self, sql: &'static str, parameters: &[&(dyn ToSql + Sync)]) -> Op<Vec<Row>> {
        Ok(self.client.query(&self.statement(sql).await?, parameters).await?)
    }

    pub async fn query_one(&self, sql: &'static str, parameters: &[&(dyn ToSql + Sync)]) -> Op<Row> {
        Ok(self.client.query_one(&self.statement(sql).await?, parameters).await?)
    }

    pub async fn query_opt(&self, sql: &'static str, parameters: &[&(dyn ToSql + Sync)]) -> Op<Option<Row>> {
        Ok(self.client.query_opt(&self.statement(sql).await?, parameters).await?)
    }

    pub async fn execute(&self, sql: &'static str, parameters: &[&(dyn ToSql + Sync)]) -> Op<u64> {
        Ok(self.client.execute(&self.statement(sql).await?, parameters).await?)
    }

    /// Several statements without parameters.
    pub async fn batch(&self, sql: &str) -> Op<()> {
        Ok(self.client.batch_execute(sql).await?)
    }
}

/// Makes connections.
pub struct Connector {
    pub address: Address,
    pub demands: fitness::Demands,
}

impl Connector {
    /// A connection whose server was judged, whatever its schema.
    pub async fn connect(&self) -> Result<Wire> {
        let doing = "connecting to the ledger's database";
        let Address { config, tls } = &self.address;
        let (client, connection) = config.connect(tls.clone()).await.map_err(|error| Failure::from(error).of(doing))?;
        let task = tokio::spawn(drive(connection));
        let (schema, since) = (0, Instant::now());
        let wire = Wire { client, schema, since, statements: Mutex::default(), task };
        fitness::judge(&wire, &self.demands).await?;
        Ok(wire)
    }
}

/// The server's routine that says that a standby was not waited for (code 01000, or 57P01 at its shutdown). Its name
/// is in the message's own field, which is not translated.
const GAVE_UP_WAITING: &str = "SyncRepWaitForLSN";

/// Carries messages until the connection ends, or until the server says that it answers a commit too early.
async fn drive(mut connection: Connection<Socket, RustlsStream>) {
    loop {
        match poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notice(notice))) if notice.routine() == Some(GAVE_UP_WAITING) => {
                // The warning comes before the answer: nobody will hear that it was committed.
                tracing::warn!("the database stopped waiting for its standby; the call counts as unanswered");
                return;
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "a connection to the ledger ended");
                return;
            }
            None => return,
        }
    }
}

impl managed::Manager for Connector {
    type Type = Wire;
    type Error = Error;

    async fn create(&self) -> Result<Wire> {
        // On the heap: ten layers of callers would each hold it on the stack.
        let mut wire = Box::pin(self.connect()).await?;
        wire.schema = fitness::check_schema(&wire).await?;
        Ok(wire)
    }

    async fn recycle(&self, wire: &mut Wire, _: &Metrics) -> RecycleResult<Error> {
        if wire.client.is_closed() {
            return Err(RecycleError::message("closed"));
        }
        if wire.schema < fitness::SCHEMA_NEWEST && wire.since.elapsed() > OLDER_SCHEMA_LIFE {
            return Err(RecycleError::message("it may know an older schema than there is"));
        }
        Ok(())
    }
}

pub type Wires = Pool<Connector>;

pub fn pool(connector: Connector) -> Result<Wires> {
    let place = connector.demands.place.clone();
    Pool::builder(connector)
        .max_size(CONNECTIONS)
        .timeouts(Timeouts { wait: Some(WAIT_LIMIT), create: Some(WAIT_LIMIT), recycle: None })
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| Error::Unfit { path: place, why: format!("no connections can be kept for it ({error})") })
}

/// One connection from the pool. It goes back only by [`Lease::give_back`]; dropped otherwise, it is closed, because
/// nobody knows what is still under way on it.
pub struct Lease(Option<managed::Object<Connector>>);

impl Lease {
    pub async fn take(wires: &Wires) -> Op<Self> {
        match wires.get().await {
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

    /// After a single statement was answered, in whichever way: the connection is clean unless it is gone.
    pub fn give_back_answered(self) {
        if !self.client.is_closed() {
            self.give_back();
        }
    }
}

impl std::ops::Deref for Lease {
    type Target = Wire;

    fn deref(&self) -> &Wire {
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
