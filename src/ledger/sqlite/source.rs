//! A SQLite ledger that is moved to another engine: marked, and read row by row.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use uuid::Uuid;

use super::failure::{Failure, Op};
use super::moved::{self, Mark};
use super::{check, file};
use crate::ledger::error::{Error, Result};
use crate::ledger::store::Discrepancy;
use crate::ledger::transfer::tables::{COUNTED_AHEAD, DAYS, META};

/// An opened source. It is used from one thread at a time.
pub struct Source {
    path: PathBuf,
    connection: Connection,
}

/// The ledger's own row, as PostgreSQL stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    pub installation: Uuid,
    pub cluster: String,
    pub incarnation: Uuid,
    pub config_epoch: i64,
    pub last_now: i64,
    pub moved: i64,
    pub event: i64,
    pub state: String,
    pub accepted_at: i64,
}

/// KiB of page cache, negative as SQLite wants it.
const CACHE_KIB: i64 = -16_384;
const READING: &str = "reading the ledger that is moved";

impl Source {
    /// Opens a ledger, marked or not.
    pub fn open(path: &Path) -> Result<Self> {
        let connection = file::connect_writer(path)?;
        file::check_schema(&connection, path)?;
        // It is read once from end to end, in a Job with little memory: what is sorted goes to a file, and little is
        // kept.
        let kept = connection
            .pragma_update(None, "temp_store", "FILE")
            .and_then(|()| connection.pragma_update(None, "cache_size", CACHE_KIB));
        kept.map_err(|error| Failure::from(error).of("opening the ledger"))?;
        Ok(Self { path: path.to_owned(), connection })
    }

    pub fn mark(&self) -> Result<Option<Mark>> {
        moved::read(&self.connection).map_err(|error| Failure::from(error).of(READING))
    }

    /// Refuses what a move would not carry over as it is.
    pub fn judge(&self) -> Result<()> {
        let found = self.read(check::check)?;
        if let Some(Discrepancy { lot, consumed, recomputed, .. }) = found.first() {
            return Err(self.unfit(format!(
                "{} of its lots are not in balance, such as lot {} ({consumed}, recomputed {recomputed}); \
                 `franking ledger check` shows all",
                found.len(),
                lot.0
            )));
        }
        if self.read(|connection| Ok(connection.query_row(COUNTED_AHEAD, [], |row| row.get(0))?))? {
            let why = "it has rows of a development version that are not counted yet; run franking on it once";
            return Err(self.unfit(why.to_owned()));
        }
        Ok(())
    }

    fn unfit(&self, why: String) -> Error {
        Error::Unfit { path: self.path.display().to_string(), why }
    }

    /// Reads in one snapshot.
    fn read<T>(&self, work: impl FnOnce(&Connection) -> Op<T>) -> Result<T> {
        super::read::snapshot(&self.connection, work).map_err(|failure| failure.of(READING))
    }

    /// Marks the ledger as on its way to a target, unless it is marked. Nothing is written to it from then on.
    pub fn leave(&self, target: &str, place: &str, now: Timestamp) -> Result<Mark> {
        moved::set(&self.connection, target, place, now)
            .map_err(|failure| failure.of("marking the ledger as being moved"))
    }

    /// Marks the ledger as moved.
    pub fn end(&self) -> Result<()> {
        moved::end(&self.connection).map_err(|failure| failure.of("marking the ledger as moved"))
    }

    /// Takes the mark away.
    pub fn stay(&self) -> Result<()> {
        moved::clear(&self.connection).map_err(|failure| failure.of("taking the ledger back"))
    }

    pub fn meta(&self) -> Result<Meta> {
        self.read(|connection| {
            Ok(connection.query_row(META, [], |row| {
                Ok(Meta {
                    installation: Uuid::from_bytes(row.get(0)?),
                    cluster: row.get(1)?,
                    incarnation: Uuid::from_bytes(row.get(2)?),
                    config_epoch: row.get(3)?,
                    last_now: row.get(4)?,
                    moved: row.get(5)?,
                    event: row.get(6)?,
                    state: row.get(7)?,
                    accepted_at: row.get(8)?,
                })
            })?)
        })
    }

    /// Returns the days on which mail was charged.
    pub fn days(&self) -> Result<Vec<i32>> {
        self.read(|connection| {
            let mut statement = connection.prepare(DAYS)?;
            Ok(statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Returns the last number that a table gave out.
    pub fn last_number(&self, table: &str, column: &str) -> Result<i64> {
        let sql = format!(
            "SELECT max(ifnull((SELECT max({column}) FROM {table}), 0), \
             ifnull((SELECT seq FROM sqlite_sequence WHERE name = ?1), 0))"
        );
        self.read(|connection| Ok(connection.query_row(&sql, [table], |row| row.get(0))?))
    }

    /// Passes each row of a query to `each`, which says why a row cannot go on. Nothing writes to a marked ledger, so
    /// all queries see one state.
    pub fn rows(
        &self,
        select: &str,
        transaction: i64,
        mut each: impl FnMut(&[ValueRef<'_>]) -> std::result::Result<(), String>,
    ) -> Result<()> {
        self.read(|connection| {
            let mut statement = connection.prepare(select)?;
            let width = statement.column_count();
            let takes = statement.parameter_count() > 0;
            let mut found = if takes { statement.query([transaction])? } else { statement.query([])? };
            while let Some(row) = found.next()? {
                let mut values = Vec::with_capacity(width);
                for column in 0..width {
                    values.push(row.get_ref(column)?);
                }
                each(&values).map_err(Failure::Row)?;
            }
            Ok(())
        })
    }
}
