//! Reads the ledger's identity, and whether mail may be charged to it.

use super::connection::PgConnection;
use super::failure::{Failure, Op};
use crate::ledger::identity::{Identity, Progress, State, Tag};

pub async fn read_identity(connection: &PgConnection) -> Op<Identity> {
    let row = connection
        .query_one(
            "SELECT installation, cluster, incarnation, schema_version, config_epoch, moved, events, state FROM meta",
            &[],
        )
        .await?;
    Ok(Identity {
        installation: row.try_get(0)?,
        cluster: row.try_get(1)?,
        incarnation: row.try_get(2)?,
        schema_version: row.try_get(3)?,
        progress: Progress { config_epoch: row.try_get(4)?, moved: row.try_get(5)?, event: row.try_get(6)? },
        state: state(row.try_get(7)?)?,
    })
}

pub async fn tag(connection: &PgConnection) -> Op<Tag> {
    let row = connection.query_one("SELECT installation, incarnation, state FROM meta", &[]).await?;
    Ok(Tag { installation: row.try_get(0)?, incarnation: row.try_get(1)?, state: state(row.try_get(2)?)? })
}

pub fn state(word: &str) -> Op<State> {
    State::parse(word).ok_or_else(|| Failure::Row(format!("unknown state {word}")))
}

/// Refuses a ledger that is not open: charging and judging need an open one.
pub fn refuse_unless_open(state: State) -> Op<()> {
    match state {
        State::Open => Ok(()),
        held @ (State::Held(_) | State::Rebuilding) => Err(Failure::Held(held)),
    }
}

/// Refuses a held ledger. The operator reads and writes an open ledger or one that is being rebuilt; what it read from
/// a held one would be shown as true.
pub fn refuse_held(state: State) -> Op<()> {
    match state {
        State::Open | State::Rebuilding => Ok(()),
        held @ State::Held(_) => Err(Failure::Held(held)),
    }
}
