//! Reads the ledger's identity, and whether mail may be charged to it.

use rusqlite::Connection;
use uuid::Uuid;

use super::failure::{Failure, Op};
use crate::ledger::identity::{Because, Identity, Progress, State, Tag};

pub fn read_identity(connection: &Connection) -> Op<Identity> {
    let (identity, state) = connection
        .prepare_cached(
            // Reservations count as movements here, so that messages sent since the last rollup are in the progress.
            "SELECT installation, cluster, incarnation, schema_version, config_epoch, \
             moved + (SELECT ifnull(max(seq), 0) FROM reservation), (SELECT ifnull(max(seq), 0) FROM event), state \
             FROM meta",
        )?
        .query_row([], |row| {
            let progress = Progress { config_epoch: row.get(4)?, moved: row.get(5)?, event: row.get(6)? };
            let identity = Identity {
                installation: Uuid::from_bytes(row.get(0)?),
                cluster: row.get(1)?,
                incarnation: Uuid::from_bytes(row.get(2)?),
                schema_version: row.get(3)?,
                state: State::Open,
                progress,
            };
            Ok((identity, row.get::<_, String>(7)?))
        })?;
    Ok(Identity { state: parse(&state)?, ..identity })
}

pub fn tag(connection: &Connection) -> Op<Tag> {
    let (installation, incarnation, state) = connection
        .prepare_cached("SELECT installation, incarnation, state FROM meta")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, String>(2)?)))?;
    let (installation, incarnation) = (Uuid::from_bytes(installation), Uuid::from_bytes(incarnation));
    Ok(Tag { installation, incarnation, state: parse(&state)? })
}

fn parse(word: &str) -> Op<State> {
    State::parse(word).ok_or_else(|| Failure::Row(format!("unknown state {word}")))
}

/// Refuses a ledger that is not open: charging and judging need an open one.
pub fn refuse_unless_open(connection: &Connection) -> Op<()> {
    match tag(connection)?.state {
        State::Open => Ok(()),
        held @ (State::Held(_) | State::Rebuilding) => Err(Failure::Held(held)),
    }
}

/// Refuses a held ledger. The operator reads and writes an open ledger or one that is being rebuilt; what it read from
/// a held one would be shown as true.
pub fn refuse_held(connection: &Connection) -> Op<()> {
    match tag(connection)?.state {
        State::Open | State::Rebuilding => Ok(()),
        held @ State::Held(_) => Err(Failure::Held(held)),
    }
}

/// Holds an open ledger: one that is held already keeps its reason, and one that was accepted its acceptance.
pub fn hold(connection: &Connection, because: Because) -> Op<()> {
    connection
        .prepare_cached("UPDATE meta SET state = ?1 WHERE state = 'open'")?
        .execute([State::Held(because).as_str()])?;
    Ok(())
}
