//! Converts rows to values and back.

use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use uuid::Uuid;

use super::failure::{Failure, Op};
use crate::domain::directory::Entry;
use crate::domain::id::{Holder, Kind};

/// Converts a stored instant.
pub fn instant(ms: i64) -> Op<Timestamp> {
    Timestamp::from_millisecond(ms).map_err(|error| Failure::Row(error.to_string()))
}

/// Converts an end that may be "never".
pub fn end(ms: i64) -> Op<Timestamp> {
    if ms >= Timestamp::MAX.as_millisecond() { Ok(Timestamp::MAX) } else { instant(ms) }
}

/// Returns the clock's time, or the last transaction's if the clock stepped back. Whole milliseconds, as they are
/// stored.
pub fn later(clock: Timestamp, last_ms: i64) -> Op<Timestamp> {
    instant(clock.as_millisecond().max(last_ms))
}

pub fn kind(text: &str) -> Option<Kind> {
    [Kind::Key, Kind::Account, Kind::Policy].into_iter().find(|kind| kind.as_str() == text)
}

/// Reads a holder from the first two columns: kind and id.
pub fn holder(row: &Row<'_>) -> rusqlite::Result<Holder> {
    holder_at(row, 0)
}

pub fn holder_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Holder> {
    let word = row.get_ref(column)?.as_str()?;
    let kind = kind(word).ok_or_else(|| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, format!("unknown kind {word}").into())
    })?;
    Ok(Holder::new(kind, Uuid::from_bytes(row.get(column + 1)?)))
}

/// Converts a limit to SQLite's type.
pub fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

pub fn parse_entry(body: &str) -> Op<Entry> {
    serde_json::from_str(body).map_err(|error| Failure::Row(error.to_string()))
}

pub fn entry(connection: &Connection, holder: Holder) -> Op<Option<Entry>> {
    let body: Option<String> = connection
        .prepare_cached("SELECT body FROM directory WHERE kind = ?1 AND id = ?2")?
        .query_row(params![holder.kind().as_str(), holder.uuid().as_bytes()], |row| row.get(0))
        .optional()?;
    body.map(|body| parse_entry(&body)).transpose()
}

pub fn store_entry(connection: &Connection, entry: &Entry, epoch: i64) -> Op<()> {
    let holder = entry.holder();
    let username = match entry {
        Entry::Key(key) => Some(key.username.as_str()),
        Entry::Policy(_) | Entry::Account(_) => None,
    };
    let body = serde_json::to_string(entry).map_err(|error| Failure::Row(error.to_string()))?;
    connection
        .prepare_cached(
            "INSERT INTO directory (kind, id, epoch, removed, username, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
             ON CONFLICT DO UPDATE SET epoch = ?3, removed = ?4, username = ?5, body = ?6",
        )?
        .execute(params![
            holder.kind().as_str(),
            holder.uuid().as_bytes(),
            epoch,
            entry.removed_at().is_some(),
            username,
            body
        ])?;
    Ok(())
}

/// Returns all entries after an epoch, oldest change first.
pub fn entries_after(connection: &Connection, after: i64) -> Op<Vec<Entry>> {
    let mut statement = connection.prepare_cached("SELECT body FROM directory WHERE epoch > ?1 ORDER BY epoch")?;
    let bodies = statement.query_map([after], |row| row.get::<_, String>(0))?;
    bodies.map(|body| parse_entry(&body?)).collect()
}
