//! The database that a SQLite ledger is moved into.
//!
//! All rows, and the row that says whose ledger it is, are written in one transaction, so the database has either all
//! of the ledger or none. Until then it holds an empty ledger that is held, which no mail is charged to: relays of a
//! fleet that waits for the move run on it and answer 451.

use bytes::Bytes;
use futures::SinkExt as _;
use jiff::Timestamp;
use ring::digest;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_postgres::CopyInSink;
use uuid::Uuid;

use super::connection::PgConnection;
use super::copy::{Tally, tally_query};
use super::failure::{Failure, Op};
use super::pool::Connector;
use super::read;
use super::schema::{self, MIGRATIONS};
use super::{SCHEMA, connector, identity};
use crate::ledger::audit::LEDGER_MOVED;
use crate::ledger::identity::{Because, State};
use crate::ledger::incarnation::Naming;
use crate::ledger::sqlite::source::Meta;
use crate::ledger::store::{Error, Result};
use crate::ledger::transfer::tables::{SESSIONS, TABLES, Table};
use crate::runtime::relay_config::LedgerAddress;

/// Number of the advisory lock under which one move at a time works on a database: "FRNM".
const LOCK: i64 = 0x4652_4e4d;
/// A move reads for minutes between two statements, and its statements take minutes.
const PATIENT: &str =
    "SET lock_timeout = '60s'; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0";

/// The content of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// No ledger, or an empty one that is held.
    Nothing,
    /// All of the ledger that this move brings.
    Everything,
}

/// An open connection that has the database for itself as far as moves go.
pub struct Target {
    connection: PgConnection,
    connector: Connector,
    pub place: String,
    /// Identifies the database: it stays the same when its address or its password changes.
    pub fingerprint: String,
}

impl Target {
    /// Connects, and waits for another move into the same database to end. Refuses an address of another engine.
    pub async fn open(address: &LedgerAddress) -> Result<Self> {
        let LedgerAddress::Postgres { url, single_node } = address else {
            let why = "a ledger is moved from SQLite into PostgreSQL, and there is no way back, because SQLite has one \
                       writer in one pod: set ledger.engine to postgres, with the database that it moves into";
            return Err(Error::Unfit { path: address.place(), why: why.to_owned() });
        };
        let place = address.place();
        let connector = connector(url, place.clone(), *single_node, SCHEMA)?;
        let connection = connector.connect().await?;
        let begun = async {
            connection.batch(PATIENT).await?;
            connection.batch("SET lock_timeout = 0").await?;
            connection.query_one("SELECT pg_advisory_lock($1)::text", &[&LOCK]).await?;
            connection.batch(PATIENT).await?;
            let row = connection
                .query_one("SELECT system_identifier::text, current_database()::text FROM pg_control_system()", &[])
                .await?;
            Ok::<_, Failure>((row.try_get::<_, String>(0)?, row.try_get::<_, String>(1)?))
        };
        let (system, database) = begun.await.map_err(|failure| failure.of("connecting to the database"))?;
        Ok(Self { connection, connector, place, fingerprint: fingerprint(&system, &database) })
    }

    fn unfit(&self, why: impl Into<String>) -> Error {
        Error::Unfit { path: self.place.clone(), why: why.into() }
    }

    /// Looks for what a move has to find: nothing, or all that it brought before it was interrupted.
    pub async fn look(&self, installation: Uuid, id: Option<Uuid>) -> Result<Found> {
        let doing = "looking into the database";
        let found = super::durability::schema_version(&self.connection).await.map_err(|failure| failure.of(doing))?;
        if found.is_none() {
            return Ok(Found::Nothing);
        }
        super::durability::check_schema(&self.connection).await?;
        let identity = identity::read_identity(&self.connection).await.map_err(|failure| failure.of(doing))?;
        if identity.installation != installation {
            return Err(Error::Foreign { found: identity.installation, expected: installation });
        }
        if let Some(id) = id
            && self.has_moved(id).await.map_err(|failure| failure.of(doing))?
        {
            return Ok(Found::Everything);
        }
        if identity.state != State::Held(Because::Empty) {
            return Err(self.unfit(format!(
                "a ledger is in use there (its state is {}); a ledger is moved into an empty database only",
                identity.state.as_str()
            )));
        }
        for table in &TABLES {
            let sql = format!("SELECT EXISTS (SELECT FROM {})", table.into);
            let row = self
                .connection
                .client
                .query_one(sql.as_str(), &[])
                .await
                .map_err(|error| Failure::from(error).of(doing))?;
            if row.get::<_, bool>(0) {
                let why = format!("its table {} has rows; a ledger is moved into an empty database only", table.into);
                return Err(self.unfit(why));
            }
        }
        Ok(Found::Nothing)
    }

    async fn has_moved(&self, id: Uuid) -> Op<bool> {
        let row = self
            .connection
            .query_one(
                "SELECT EXISTS (SELECT FROM event WHERE kind = $1 AND detail::json ->> 'move' = $2)",
                &[&LEDGER_MOVED, &id.to_string()],
            )
            .await?;
        Ok(row.try_get(0)?)
    }

    /// Makes the tables, with an empty ledger that is held, and the days on which mail was charged.
    pub async fn prepare(&self, meta: &Meta, incarnation: Uuid, days: &[i32], now: Timestamp) -> Result<()> {
        let (installation, cluster) = (meta.installation, meta.cluster.clone());
        let naming = Naming { installation, cluster, incarnation, state: State::Held(Because::Empty) };
        schema::prepare(&self.connector, &naming, MIGRATIONS, now).await?;
        let made = async {
            for day in days {
                self.connection.query_one("SELECT make_days($1, $1)", &[day]).await?;
            }
            Ok::<_, Failure>(())
        };
        made.await.map_err(|failure| failure.of("making the days"))
    }

    /// Begins the one transaction. Returns its number.
    pub async fn begin(&self) -> Result<i64> {
        let begun = async {
            self.connection.batch("BEGIN").await?;
            Ok::<_, Failure>(
                self.connection.query_one("SELECT pg_current_xact_id()::text::bigint", &[]).await?.try_get(0)?,
            )
        };
        begun.await.map_err(|failure| failure.of("beginning the copy"))
    }

    /// Writes the pieces of one table as they come. They end with the channel.
    pub async fn copy(&self, table: &Table, mut pieces: mpsc::Receiver<Bytes>) -> Result<()> {
        let names: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
        let sql = format!("COPY {} ({}) FROM STDIN (FORMAT binary)", table.into, names.join(", "));
        let copied = async {
            let sink: CopyInSink<Bytes> = self.connection.client.copy_in(sql.as_str()).await?;
            let mut sink = std::pin::pin!(sink);
            while let Some(piece) = pieces.recv().await {
                sink.send(piece).await?;
            }
            sink.as_mut().finish().await?;
            Ok::<_, Failure>(())
        };
        copied.await.map_err(|failure| failure.of("copying a table"))
    }

    /// Compares what the server has of a table with what was sent.
    pub async fn compare(&self, table: &Table, sent: &Tally) -> Result<()> {
        let row = self.connection.client.query_one(tally_query(table).as_str(), &[]).await;
        let row = row.map_err(|error| Failure::from(error).of("adding a table up"))?;
        let sums = (1..=sent.sums.len()).map(|column| row.get::<_, Option<i64>>(column).unwrap_or(0)).collect();
        let stored = Tally { rows: row.get(0), sums };
        if stored == *sent {
            return Ok(());
        }
        Err(self.unfit(format!(
            "{} differs from the source after the copy: {} rows of {}, sums {:?} and {:?}; nothing was kept of it",
            table.into, stored.rows, sent.rows, stored.sums, sent.sums
        )))
    }

    /// Locks what processes of the empty ledger write, and empties it. From here on no process of it can go on.
    pub async fn take_over(&self) -> Result<()> {
        let doing = "taking the database over";
        let taken = async {
            let names: Vec<&str> = SESSIONS.iter().map(|table| table.into).collect();
            self.connection
                .batch(&format!("LOCK TABLE {}, rolled, meta IN ACCESS EXCLUSIVE MODE", names.join(", ")))
                .await?;
            for name in names {
                self.connection.batch(&format!("DELETE FROM {name}")).await?;
            }
            identity::read_identity(&self.connection).await
        };
        let found = taken.await.map_err(|failure| failure.of(doing))?;
        if found.state == State::Held(Because::Empty) {
            return Ok(());
        }
        Err(self.unfit("the empty ledger there was accepted while the copy ran; nothing was kept of it"))
    }

    /// Checks the balances, writes whose ledger this is, and commits: from then on it is in force.
    pub async fn commit(&self, meta: &Meta, id: Uuid, sequences: &[(&str, &str, i64)], now: Timestamp) -> Result<()> {
        let doing = "ending the copy";
        let unbalanced = read::check(&self.connection).await.map_err(|failure| failure.of("checking the copy"))?;
        if !unbalanced.is_empty() {
            let why = format!("{} lots of the copy are not in balance; nothing was kept of it", unbalanced.len());
            return Err(self.unfit(why));
        }
        self.commit_in(meta, id, sequences, now).await.map_err(|failure| failure.of(doing))
    }

    async fn commit_in(&self, meta: &Meta, id: Uuid, sequences: &[(&str, &str, i64)], now: Timestamp) -> Op<()> {
        for (table, column, last) in sequences {
            let restart = format!("ALTER TABLE {table} ALTER COLUMN {column} RESTART WITH {}", last + 1);
            self.connection.batch(&restart).await?;
        }
        self.connection
            .execute(
                "UPDATE rolled SET low = pg_current_xact_id()::text::bigint, high = pg_current_xact_id()::text::bigint, \
                 running = '{}'",
                &[],
            )
            .await?;
        let detail = json!({ "move": id, "from": "sqlite" });
        self.connection
            .execute(
                "INSERT INTO event (seq, at, actor, kind, detail) VALUES ($1, $2, 'franking ledger move', $3, $4)",
                &[&(meta.event + 1), &now.as_millisecond().max(meta.last_now), &LEDGER_MOVED, &detail.to_string()],
            )
            .await?;
        self.connection
            .execute(
                "UPDATE meta SET installation = $1, cluster = $2, incarnation = $3, floor_ms = $4, config_epoch = $5, \
                 moved = $6, events = $7, state = $8, accepted_at = $9",
                &[
                    &meta.installation,
                    &meta.cluster,
                    &meta.incarnation,
                    &meta.last_now,
                    &meta.config_epoch,
                    &meta.moved,
                    &(meta.event + 1),
                    &meta.state,
                    &meta.accepted_at,
                ],
            )
            .await?;
        self.connection.batch("COMMIT").await
    }

    /// Writes something, so that a commit that was never answered is on the standby too before it is built upon.
    pub async fn settle(&self) -> Result<()> {
        let written = self.connection.execute("UPDATE meta SET floor_ms = floor_ms", &[]).await;
        written.map(drop).map_err(|failure| failure.of("writing to the moved ledger"))
    }

    /// Has the server look at the new rows, so that its first plans are good. A failure costs only time.
    pub async fn analyse(&self) {
        if let Err(error) = self.connection.batch("ANALYZE lot, reservation, settlement, directory").await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the database's statistics are not up to date yet"
            );
        }
    }
}

fn fingerprint(system: &str, database: &str) -> String {
    let digest = digest::digest(&digest::SHA256, format!("{system}/{database}/{SCHEMA}").as_bytes());
    digest.as_ref().iter().take(16).map(|octet| format!("{octet:02x}")).collect()
}
