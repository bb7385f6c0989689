//! Moves a ledger from SQLite into PostgreSQL: all of it, or nothing.
//!
//! The order, and why `kill -9` at any point leaves exactly one ledger in force:
//!
//! 1. The source is checked, is of the expected installation if one is expected, and the target is found empty (no
//!    ledger, or an empty one that is held). Nothing is written before that.
//! 2. The source is marked as *moving*, with the target's fingerprint, in one transaction. From its commit on no
//!    process writes to the source, whatever release it is of (triggers refuse it), and none opens it. So what is
//!    copied is all that there ever will be.
//! 3. Everything is copied into the target, compared and committed in **one** transaction, whose last rows say whose
//!    ledger it is, that it is open, and which move brought it.
//! 4. The source is marked as *moved*.
//!
//! Killed before 2, the source is in force and the target is not. Killed between 2 and the commit of 3, neither is: the
//! source is closed, and the target holds an empty ledger that is held. The move is run again and begins with 3.
//! Killed between the commit of 3 and 4, the target alone is in force, and the move, run again, finds the move's id in
//! the target's trail and only does 4. There is no point at which both are in force, because the source closes before
//! the target opens; and none from which running it again does not lead to the target, because a source that is marked
//! accepts its own target only. A commit of 3 whose answer is lost is one of these cases. One move at a time works on a
//! database, by an advisory lock of its connection.
//!
//! `--abandon` takes a source back that is marked as moving. It holds the same lock, and refuses if the target has
//! everything: only a move that holds the lock and finds the mark could still bring it.

pub mod tables;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::error::{Error, Result};
use super::postgres::copy::{Encoder, Tally};
use super::postgres::target::{Found, Target};
use super::sqlite::moved::Mark;
use super::sqlite::source::Source;
use crate::runtime::relay_config::LedgerAddress;
use tables::{SEQUENCES, SESSIONS, TABLES, Table};

/// Pieces that are read ahead of the server.
const AHEAD: usize = 4;

/// The result of a move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The target's place, without user and password.
    pub place: String,
    /// Rows by table of the target; empty if all was there already.
    pub rows: Vec<(&'static str, i64)>,
}

/// Moves the ledger at `from` into the database. Run again after an interruption, it goes on; run again after its end,
/// it changes nothing. `expected`: the installation that both must belong to. An empty database cannot tell whose it will
/// be, so without it the ledger of a wrong volume is only found out when it has moved.
pub async fn run(from: &Path, to: &LedgerAddress, expected: Option<Uuid>, now: Timestamp) -> Result<Moved> {
    let target = Target::open(to).await?;
    let source = Shared::open(from).await?;
    let mark = source.with(Source::mark).await?;
    refuse_another(mark.as_ref(), &target, from)?;
    let installation = source.with(Source::meta).await?.installation;
    if let Some(expected) = expected.filter(|expected| *expected != installation) {
        return Err(unfit(
            from,
            format!("it belongs to installation {installation}, expected {expected}; name its own volume"),
        ));
    }
    let found = target.look(installation, mark.as_ref().map(|mark| mark.id)).await?;
    let nothing_more = Moved { place: target.place.clone(), rows: vec![] };
    match (&mark, found) {
        (Some(Mark { is_done: true, .. }), Found::Everything) => return Ok(nothing_more),
        (Some(Mark { is_done: true, .. }), Found::Nothing) => {
            let why = "it was moved to this database, which has no ledger any more: restore the database from its \
                       backup; what the file has is older";
            return Err(unfit(from, why));
        }
        (Some(_), Found::Everything) => {
            target.settle().await?;
            source.with(Source::end).await?;
            return Ok(nothing_more);
        }
        (Some(_), Found::Nothing) => {}
        (None, Found::Everything | Found::Nothing) => source.with(Source::judge).await?,
    }
    let (fingerprint, place) = (target.fingerprint.clone(), target.place.clone());
    let mark = source.with(move |source| source.leave(&fingerprint, &place, now)).await?;
    refuse_another(Some(&mark), &target, from)?;
    tracing::info!(to = target.place, "the ledger is closed and is being copied");
    let rows = copy(&source, &target, mark.id, now).await?;
    source.with(Source::end).await?;
    target.analyse().await;
    Ok(Moved { place: target.place, rows })
}

/// Takes back a ledger whose move did not come to its end.
pub async fn abandon(from: &Path, to: &LedgerAddress) -> Result<()> {
    let target = Target::open(to).await?;
    let source = Shared::open(from).await?;
    let Some(mark) = source.with(Source::mark).await? else {
        return Err(unfit(from, "no move of it has begun; there is nothing to take back"));
    };
    refuse_another(Some(&mark), &target, from)?;
    let installation = source.with(Source::meta).await?.installation;
    if mark.is_done || target.look(installation, Some(mark.id)).await? == Found::Everything {
        let why = format!("{} has all of it and is in force; there is no way back", target.place);
        return Err(unfit(from, why));
    }
    source.with(Source::stay).await
}

/// Refuses a target that is not the one that the source is marked for.
fn refuse_another(mark: Option<&Mark>, target: &Target, from: &Path) -> Result<()> {
    match mark {
        Some(mark) if mark.target != target.fingerprint => {
            let is = if mark.is_done { "it was moved" } else { "it is being moved" };
            let why = format!("{is} to {}, and {} is another database", mark.place, target.place);
            Err(unfit(from, why))
        }
        Some(_) | None => Ok(()),
    }
}

fn unfit(path: &Path, why: impl Into<String>) -> Error {
    Error::Unfit { path: path.display().to_string(), why: why.into() }
}

/// Copies everything into the target and commits. A failure drops the connection, and with it all that was written.
async fn copy(source: &Shared, target: &Target, id: Uuid, now: Timestamp) -> Result<Vec<(&'static str, i64)>> {
    let meta = source.with(Source::meta).await?;
    let days = source.with(Source::days).await?;
    target.prepare(&meta, id, &days, now).await?;
    let transaction = target.begin().await?;
    let mut rows = vec![];
    for table in &TABLES {
        rows.push(copy_table(source, target, table, transaction).await?);
    }
    target.take_over().await?;
    for table in &SESSIONS {
        rows.push(copy_table(source, target, table, transaction).await?);
    }
    let mut sequences = vec![];
    for (table, column) in SEQUENCES {
        let last = source.with(move |source| source.last_number(table, column)).await?;
        // No process of the empty ledger has a session of a later number.
        sequences.push((table, column, if table == "session" { last.max(transaction) } else { last }));
    }
    target.commit(&meta, id, &sequences, now).await?;
    Ok(rows)
}

/// Copies one table and compares both sides. Returns its name and its rows.
async fn copy_table(
    source: &Shared,
    target: &Target,
    table: &'static Table,
    transaction: i64,
) -> Result<(&'static str, i64)> {
    let (pieces, taken) = mpsc::channel(AHEAD);
    let reading = source.with(move |source| read(source, table, transaction, &pieces));
    let (read, written) = tokio::join!(reading, target.copy(table, taken));
    // A copy that the server refused is the cause of a reader that could not go on.
    written?;
    let tally = read?;
    target.compare(table, &tally).await?;
    if tally.rows > 0 {
        tracing::info!(table = table.into, rows = tally.rows, "copied");
    }
    Ok((table.into, tally.rows))
}

fn read(source: &Source, table: &'static Table, transaction: i64, pieces: &mpsc::Sender<Bytes>) -> Result<Tally> {
    let mut encoder = Encoder::new(table);
    let gone = |_| "the database did not take it".to_owned();
    source.rows(table.select, transaction, |row| {
        encoder.push(row)?;
        encoder.piece().map_or(Ok(()), |piece| pieces.blocking_send(piece).map_err(gone))
    })?;
    let (rest, tally) = encoder.end();
    // A server that is gone is found by the writer.
    drop(pieces.blocking_send(rest));
    Ok(tally)
}

/// The source, used from threads that may wait.
struct Shared(Arc<Mutex<Source>>);

impl Shared {
    async fn open(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        let opened = blocking(move || Source::open(&path)).await?;
        Ok(Self(Arc::new(Mutex::new(opened))))
    }

    async fn with<T: Send + 'static>(&self, work: impl FnOnce(&Source) -> Result<T> + Send + 'static) -> Result<T> {
        let source = self.0.clone();
        blocking(move || work(&source.lock())).await
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(Error::Unavailable { doing: "moving the ledger", source: Box::new(error) }))
}
