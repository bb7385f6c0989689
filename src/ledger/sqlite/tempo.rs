//! Where a holder with a rate stands.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::failure::{Failure, Op};
use crate::domain::id::Holder;

/// The theoretical arrival of the next message; `None` where none came yet.
pub fn arrival(connection: &Connection, holder: Holder) -> Op<Option<Timestamp>> {
    let micros: Option<i64> = connection
        .prepare_cached("SELECT arrival FROM tempo WHERE kind = ?1 AND holder = ?2")?
        .query_row(params![holder.kind().as_str(), holder.uuid().as_bytes()], |row| row.get(0))
        .optional()?;
    let instant = |micros| Timestamp::from_microsecond(micros).map_err(|error| Failure::Row(error.to_string()));
    micros.map(instant).transpose()
}

pub fn set_arrival(connection: &Connection, holder: Holder, arrival: Timestamp) -> Op<()> {
    connection
        .prepare_cached(
            "INSERT INTO tempo (kind, holder, arrival) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET arrival = ?3",
        )?
        .execute(params![holder.kind().as_str(), holder.uuid().as_bytes(), arrival.as_microsecond()])?;
    Ok(())
}
