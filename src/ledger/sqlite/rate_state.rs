//! The arrivals of holders with a rate.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::failure::{Failure, Op};
use crate::domain::credit::Arrivals;
use crate::domain::id::Holder;

/// Reads a holder's arrivals. `None` if no message came yet.
pub fn arrivals(connection: &Connection, holder: Holder) -> Op<Option<Arrivals>> {
    let found: Option<(i64, Option<i64>)> = connection
        .prepare_cached("SELECT arrival, given_back FROM tempo WHERE kind = ?1 AND holder = ?2")?
        .query_row(params![holder.kind().as_str(), holder.uuid().as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let instant = |micros| Timestamp::from_microsecond(micros).map_err(|error| Failure::Row(error.to_string()));
    let Some((message, given_back)) = found else { return Ok(None) };
    Ok(Some(Arrivals { message: instant(message)?, given_back: given_back.map(instant).transpose()? }))
}

/// Writes the arrival of the next message, and leaves that for messages that are given back.
pub fn set_arrival(connection: &Connection, holder: Holder, arrival: Timestamp) -> Op<()> {
    connection
        .prepare_cached(
            "INSERT INTO tempo (kind, holder, arrival) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET arrival = ?3",
        )?
        .execute(params![holder.kind().as_str(), holder.uuid().as_bytes(), arrival.as_microsecond()])?;
    Ok(())
}

/// Writes both arrivals of a holder that has a row.
pub fn set_arrivals(connection: &Connection, holder: Holder, arrivals: Arrivals) -> Op<()> {
    let Arrivals { message, given_back } = arrivals;
    connection
        .prepare_cached("UPDATE tempo SET arrival = ?3, given_back = ?4 WHERE kind = ?1 AND holder = ?2")?
        .execute(params![
            holder.kind().as_str(),
            holder.uuid().as_bytes(),
            message.as_microsecond(),
            given_back.map(Timestamp::as_microsecond)
        ])?;
    Ok(())
}
