//! Checks that a server may be trusted with money, on every new connection: after a failover it is another one.

use super::connection::PgConnection;
use super::failure::{Failure, Op};
use crate::ledger::store::{Error, Result};

/// The demands on a server.
#[derive(Clone)]
pub struct Demands {
    /// The ledger's place, for messages.
    pub place: String,
    /// A server without synchronous standbys is accepted.
    pub single_node: bool,
    /// The schema that holds the tables.
    pub schema: String,
}

/// The session's limits on waiting for a row and on running a statement: a process that holds a lot longer is stuck or
/// gone. The rollup and the check have no such limit. A client that stopped in the middle of a transaction loses it, so
/// that a paused process does not hold the pool's lot.
const SESSION: &str = "SET lock_timeout = '5s'; SET statement_timeout = '20s'; \
     SET idle_in_transaction_session_timeout = '5s'; SET jit = off; SET client_min_messages = 'warning'; \
     SET default_transaction_isolation = 'read committed'; SET timezone = 'UTC'";

/// The schemas that this release works with: these, and the next one's.
pub const SCHEMA_OLDEST: i64 = FIRST;
pub const SCHEMA_NEWEST: i64 = FIRST;
/// The first schema. The numbers below it were those of development versions.
pub const FIRST: i64 = 20;
/// The oldest server version that was tested.
const SERVER_OLDEST: i32 = 150_000;

struct ServerSettings {
    version: i32,
    synchronous_commit: String,
    fsync: String,
    full_page_writes: String,
    standbys: String,
}

/// Refuses a server that can lose an acknowledged commit, with a sentence that says which setting to change.
pub async fn judge(connection: &PgConnection, demands: &Demands) -> Result<()> {
    let doing = "reading the database's settings";
    let settings = read(connection, &demands.schema).await.map_err(|failure| failure.of(doing))?;
    match refusal(&settings, demands.single_node) {
        Some(why) => Err(Error::Unfit { path: demands.place.clone(), why }),
        None => Ok(()),
    }
}

async fn read(connection: &PgConnection, schema: &str) -> Op<ServerSettings> {
    let row = connection
        .query_one(
            "SELECT current_setting('server_version_num')::integer, current_setting('synchronous_commit'), \
             current_setting('fsync'), current_setting('full_page_writes'), \
             current_setting('synchronous_standby_names')",
            &[],
        )
        .await?;
    let settings = ServerSettings {
        version: row.try_get(0)?,
        synchronous_commit: row.try_get(1)?,
        fsync: row.try_get(2)?,
        full_page_writes: row.try_get(3)?,
        standbys: row.try_get(4)?,
    };
    connection.batch(SESSION).await?;
    // After this line no other schema's tables can come first.
    connection.execute("SELECT set_config('search_path', $1, false)", &[&schema]).await?;
    if settings.synchronous_commit == "remote_write" {
        // A standby that has only received a commit loses it with its own power.
        connection.batch("SET synchronous_commit = on").await?;
    }
    Ok(settings)
}

fn refusal(settings: &ServerSettings, single_node: bool) -> Option<String> {
    let ServerSettings { version, synchronous_commit, fsync, full_page_writes, standbys } = settings;
    if *version < SERVER_OLDEST {
        return Some(format!("it is PostgreSQL {}; use 15 or newer", version / 10_000));
    }
    if ["off", "local"].contains(&synchronous_commit.as_str()) {
        return Some(format!(
            "synchronous_commit is {synchronous_commit}, so a failover forgets credits that were used; set it to on"
        ));
    }
    if fsync != "on" {
        return Some("fsync is off, so a power cut forgets credits that were used; set fsync = on".to_owned());
    }
    if full_page_writes != "on" {
        return Some(
            "full_page_writes is off, so a power cut damages the ledger; set full_page_writes = on".to_owned(),
        );
    }
    if standbys.trim().is_empty() && !single_node {
        return Some(
            "it has no synchronous standby, so losing its disk forgets credits that were used; set \
             synchronous_standby_names, or ledger.singleNode: true to accept that"
                .to_owned(),
        );
    }
    None
}

/// Returns the version of the schema; `None` if there is none.
pub async fn schema_version(connection: &PgConnection) -> Op<Option<i64>> {
    let made: bool = connection.query_one("SELECT to_regclass('meta') IS NOT NULL", &[]).await?.try_get(0)?;
    if !made {
        return Ok(None);
    }
    let row = connection.query_opt("SELECT schema_version FROM meta", &[]).await?;
    row.map(|row| row.try_get(0)).transpose().map_err(Failure::from)
}

/// Returns the schema's version. Refuses that of a release that this one does not know.
pub async fn check_schema(connection: &PgConnection) -> Result<i64> {
    let doing = "reading the ledger's schema version";
    match schema_version(connection).await.map_err(|failure| failure.of(doing))? {
        Some(version) if (SCHEMA_OLDEST..=SCHEMA_NEWEST + 1).contains(&version) => Ok(version),
        found => {
            let found = found.unwrap_or(0);
            Err(Error::Schema { found, oldest: SCHEMA_OLDEST, newest: SCHEMA_NEWEST + 1 })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn safe() -> ServerSettings {
        ServerSettings {
            version: 160_003,
            synchronous_commit: "on".to_owned(),
            fsync: "on".to_owned(),
            full_page_writes: "on".to_owned(),
            standbys: "ANY 1 (\"a\",\"b\")".to_owned(),
        }
    }

    #[test]
    fn each_setting_that_can_lose_a_commit_is_refused_by_name() {
        type Edit = fn(&mut ServerSettings);
        let cases: [(Edit, &str); 6] = [
            (|s| s.version = 140_011, "PostgreSQL 14"),
            (|s| s.synchronous_commit = "off".into(), "synchronous_commit is off"),
            (|s| s.synchronous_commit = "local".into(), "synchronous_commit is local"),
            (|s| s.fsync = "off".into(), "fsync = on"),
            (|s| s.full_page_writes = "off".into(), "full_page_writes = on"),
            (|s| s.standbys = String::new(), "synchronous_standby_names"),
        ];
        assert_eq!(refusal(&safe(), false), None);
        for (edit, named) in cases {
            let mut settings = safe();
            edit(&mut settings);
            let refused = refusal(&settings, false).expect(named);
            assert!(refused.contains(named), "{refused}");
        }
        assert_eq!(refusal(&ServerSettings { standbys: String::new(), ..safe() }, true), None);
    }
}
