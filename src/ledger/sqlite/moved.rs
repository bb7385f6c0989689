//! The mark of a ledger that goes, or went, to another engine.
//!
//! The mark is a table of its own, made by the move, so a ledger that stays has no trace of it. With it come triggers
//! on every table that refuse any write: a process that has the file open, of whatever release, charges nothing any
//! more from that transaction on.

use std::path::Path;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};
use uuid::Uuid;

use super::failure::Op;
use crate::ledger::error::{Error, Result};

/// The way of a ledger to another engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Made with the mark: the target's audit trail names it when it has everything.
    pub id: Uuid,
    /// Identifies the target's database.
    pub target: String,
    /// The target's place, for people.
    pub place: String,
    /// The target has everything, and is in force.
    pub is_done: bool,
    pub at: Timestamp,
}

const MAKE: &str = "CREATE TABLE moved_away (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    id BLOB NOT NULL,
    target TEXT NOT NULL,
    place TEXT NOT NULL,
    done INTEGER NOT NULL DEFAULT 0 CHECK (done IN (0, 1)),
    at INTEGER NOT NULL
) STRICT";

/// Returns the mark, if there is one.
pub fn read(connection: &Connection) -> rusqlite::Result<Option<Mark>> {
    let marked = connection
        .query_row("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'moved_away'", [], |_| Ok(()))
        .optional()?;
    if marked.is_none() {
        return Ok(None);
    }
    connection
        .query_row("SELECT id, target, place, done, at FROM moved_away", [], |row| {
            Ok(Mark {
                id: Uuid::from_bytes(row.get(0)?),
                target: row.get(1)?,
                place: row.get(2)?,
                is_done: row.get(3)?,
                at: Timestamp::from_millisecond(row.get(4)?).unwrap_or_default(),
            })
        })
        .optional()
}

/// Refuses a ledger that has a mark, with a sentence that says where it is.
pub fn refuse(connection: &Connection, path: &Path) -> Result<()> {
    let mark = read(connection).map_err(|error| super::failure::Failure::from(error).of("opening the ledger"))?;
    let why = match mark {
        None => return Ok(()),
        Some(Mark { is_done: true, place, at, .. }) => {
            format!("it was moved to {place} (begun at {at:.0}); set ledger.engine to postgres, with that database")
        }
        Some(Mark { place, .. }) => format!(
            "it is being moved to {place}; run `franking ledger move` again, which goes on with it, or with \
             --abandon, which takes it back"
        ),
    };
    Err(Error::Unfit { path: path.display().to_string(), why })
}

/// Names the triggers of a table, one for each way to write.
fn triggers(table: &str) -> [(String, &'static str); 3] {
    ["INSERT", "UPDATE", "DELETE"].map(|write| (format!("moved_away_{table}_{}", write.to_lowercase()), write))
}

fn tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> 'moved_away'",
    )?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// Marks a ledger that has no mark, in one transaction. Returns the mark that holds: this one, or an earlier one.
pub fn set(connection: &Connection, target: &str, place: &str, now: Timestamp) -> Op<Mark> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let marked = set_in(connection, target, place, now);
    match marked.and_then(|mark| connection.execute_batch("COMMIT").map(|()| mark)) {
        Ok(mark) => Ok(mark),
        Err(error) => {
            // What failed is the error to report.
            drop(connection.execute_batch("ROLLBACK"));
            Err(error.into())
        }
    }
}

fn set_in(connection: &Connection, target: &str, place: &str, now: Timestamp) -> rusqlite::Result<Mark> {
    if let Some(mark) = read(connection)? {
        return Ok(mark);
    }
    connection.execute_batch(MAKE)?;
    connection.execute(
        "INSERT INTO moved_away (one, id, target, place, at) VALUES (1, randomblob(16), ?1, ?2, ?3)",
        params![target, place, now.as_millisecond()],
    )?;
    for table in tables(connection)? {
        for (name, write) in triggers(&table) {
            connection.execute_batch(&format!(
                "CREATE TRIGGER {name} BEFORE {write} ON \"{table}\" BEGIN \
                 SELECT RAISE(ABORT, 'the ledger moves to another engine'); END"
            ))?;
        }
    }
    read(connection)?.ok_or(rusqlite::Error::QueryReturnedNoRows)
}

/// Says that the target has everything.
pub fn end(connection: &Connection) -> Op<()> {
    connection.execute("UPDATE moved_away SET done = 1", [])?;
    Ok(())
}

/// Takes the mark away, so that this ledger is in force again.
pub fn clear(connection: &Connection) -> Op<()> {
    let mut sql = "BEGIN IMMEDIATE;".to_owned();
    for table in tables(connection)? {
        for (name, _) in triggers(&table) {
            sql.push_str(&format!("DROP TRIGGER IF EXISTS {name};"));
        }
    }
    sql.push_str("DROP TABLE moved_away; COMMIT;");
    let cleared = connection.execute_batch(&sql);
    if cleared.is_err() && !connection.is_autocommit() {
        drop(connection.execute_batch("ROLLBACK"));
    }
    Ok(cleared?)
}
