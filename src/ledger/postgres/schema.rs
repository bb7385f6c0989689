//! Makes the schema, and migrates it from one release's to the next.
//!
//! A release only adds to what its neighbour reads and writes, and removes what the previous release had stopped using;
//! so relays of both work while the fleet rolls.

use jiff::Timestamp;
use uuid::Uuid;

use super::connection::PgConnection;
use super::durability::{self, FIRST, SCHEMA_NEWEST, SCHEMA_OLDEST};
use super::failure::{Failure, Op};
use super::identity::read_identity;
use super::pool::Connector;
use crate::ledger::incarnation::Naming;
use crate::ledger::store::{Error, Identity, Result};

/// A step from one schema to the next.
pub struct Migration {
    pub version: i64,
    pub sql: &'static str,
}

pub const MIGRATIONS: &[Migration] =
    &[Migration { version: FIRST, sql: include_str!("../migrations/postgres/0020_ledger.sql") }];

/// The advisory lock that is held while the schema changes: "FRNK". Two that prepare at once follow each other.
const LOCK: i64 = 0x4652_4e4b;

/// Makes the tables, or brings them to the newest schema, and returns the ledger's identity. The ledger of another
/// installation is left as it is: its identity is returned if its schema is ours, otherwise it is refused.
pub async fn prepare(
    connector: &Connector,
    naming: &Naming,
    migrations: &[Migration],
    now: Timestamp,
) -> Result<Identity> {
    let doing = "preparing the ledger";
    let connection = connector.connect().await?;
    let schema = &connector.demands.schema;
    let prepared = prepare_in(&connection, schema, naming, migrations, now).await;
    // The lock would end with the connection too, but others wait for it now.
    let unlocked = connection.query_one("SELECT pg_advisory_unlock($1)", &[&LOCK]).await;
    let prepared = prepared.map_err(|failure| failure.of(doing))?;
    unlocked.map_err(|failure| failure.of(doing))?;
    prepared
}

async fn prepare_in(
    connection: &PgConnection,
    schema: &str,
    naming: &Naming,
    migrations: &[Migration],
    now: Timestamp,
) -> Op<Result<Identity>> {
    connection.batch("SET lock_timeout = 0; SET statement_timeout = 0").await?;
    connection.query_one("SELECT pg_advisory_lock($1)::text", &[&LOCK]).await?;
    let found = durability::schema_version(connection).await?;
    let newest = migrations.last().map_or(0, |migration| migration.version);
    let from = found.unwrap_or(0);
    if found.is_some() && from < newest {
        let installation: Uuid = connection.query_one("SELECT installation FROM meta", &[]).await?.try_get(0)?;
        if installation != naming.installation {
            return Ok(Err(Error::Foreign { found: installation, expected: naming.installation }));
        }
    }
    // A neighbour's newer schema stays; this release works with it.
    if from > newest.max(SCHEMA_NEWEST) + 1 || (found.is_some() && from < FIRST) {
        return Ok(Err(Error::Schema { found: from, oldest: SCHEMA_OLDEST, newest: SCHEMA_NEWEST + 1 }));
    }
    if found.is_none() {
        // The name is not user input: it is a constant, or a test's.
        connection.batch(&format!("CREATE SCHEMA IF NOT EXISTS \"{}\"", schema.replace('"', ""))).await?;
    }
    for migration in migrations.iter().filter(|migration| migration.version > from) {
        step(connection, naming, migration, now).await?;
    }
    Ok(Ok(read_identity(connection).await?))
}

/// Applies a migration, whole or not at all.
async fn step(connection: &PgConnection, naming: &Naming, migration: &Migration, now: Timestamp) -> Op<()> {
    connection.batch("BEGIN").await?;
    let done = async {
        connection.batch(migration.sql).await?;
        if migration.version == FIRST {
            connection
                .execute(
                    "INSERT INTO meta (schema_version, installation, cluster, incarnation, floor_ms, state) \
                 VALUES ($6, $1, $2, $3, $4, $5)",
                    &[
                        &naming.installation,
                        &naming.cluster,
                        &naming.incarnation,
                        &now.as_millisecond(),
                        &naming.state.as_str(),
                        &FIRST,
                    ],
                )
                .await?;
        }
        connection.execute("UPDATE meta SET schema_version = $1", &[&migration.version]).await?;
        Ok::<_, Failure>(())
    };
    match done.await {
        Ok(()) => connection.batch("COMMIT").await,
        Err(failure) => {
            connection.batch("ROLLBACK").await?;
            Err(failure)
        }
    }
}
