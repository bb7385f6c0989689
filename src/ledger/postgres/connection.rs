//! One connection to the server, with the statements that are prepared on it.
//!
//! If the server stops waiting for a standby, the connection's last commit may be lost, so the connection ends before
//! that commit is answered: its call is unknown and retried. No statement is cancelled here; a call that takes too long
//! loses its connection.

use std::collections::HashMap;
use std::future::poll_fn;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Connection, Row, Socket, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::failure::Op;

type RustlsStream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// One connection with its prepared statements.
pub struct PgConnection {
    pub client: Client,
    /// The schema's version when this was connected; 0 if it was not checked.
    pub schema: i64,
    pub since: Instant,
    statements: Mutex<HashMap<&'static str, Statement>>,
    task: JoinHandle<()>,
}

impl Drop for PgConnection {
    fn drop(&mut self) {
        // Statements that are still under way are not awaited.
        self.task.abort();
    }
}

impl PgConnection {
    /// Wraps a client, and carries its messages in a task of its own.
    pub fn new(client: Client, connection: Connection<Socket, RustlsStream>) -> Self {
        let task = tokio::spawn(drive(connection));
        Self { client, schema: 0, since: Instant::now(), statements: Mutex::default(), task }
    }

    async fn statement(&self, sql: &'static str) -> Op<Statement> {
        let known = self.statements.lock().get(sql).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.client.prepare(sql).await?;
        self.statements.lock().insert(sql, statement.clone());
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

    /// Runs several statements without parameters.
    pub async fn batch(&self, sql: &str) -> Op<()> {
        Ok(self.client.batch_execute(sql).await?)
    }
}

/// The server's routine that reports that a standby was not awaited (code 01000, or 57P01 at its shutdown). Its name is
/// in the message's own field, which is not translated.
const GAVE_UP_WAITING: &str = "SyncRepWaitForLSN";

/// Carries messages until the connection ends, or until the server reports that it answers a commit too early.
async fn drive(mut connection: Connection<Socket, RustlsStream>) {
    loop {
        match poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notice(notice))) if notice.routine() == Some(GAVE_UP_WAITING) => {
                // The warning comes before the answer: the caller never learns that it was committed.
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
