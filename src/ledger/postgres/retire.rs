//! Days: their partitions made ahead, old ones sealed and dropped.

use jiff::Timestamp;

use super::failure::Op;
use super::pool::{Connections, Lease};
use super::settle::settle_in;
use super::tx::{Clock, Lane, Tx};
use super::{floors, history, refusals, rows};
use crate::domain::credit::Outcome;
use crate::domain::id::MessageId;
use crate::ledger::audit::{LEDGER, Note};
use crate::ledger::store::{LedgerSession, Settlement};

/// Maximum days that are made in one go: more than lots are ever made ahead.
const DAYS_MAX: i32 = 31;
/// Limits for a statement that waits for a day's tables: others queue behind it, so it soon gives up and tries again
/// later.
const BRIEFLY: &str = "SET LOCAL lock_timeout = '500ms'; SET LOCAL statement_timeout = 0";

/// Makes the days from today until `until`.
pub async fn make_days(connections: &Connections, clock: &Clock, session: &LedgerSession, until: Timestamp) -> Op<()> {
    let tx = Tx::begin_fenced(connections, clock, session, Lane::Chores).await?;
    let made = make_in(&tx, until).await;
    tx.end(made).await
}

async fn make_in(tx: &Tx, until: Timestamp) -> Op<()> {
    let today = rows::day_of(tx.now);
    let last = rows::day_of(until).clamp(today, today.saturating_add(DAYS_MAX));
    let missing = "SELECT EXISTS (SELECT FROM generate_series($1::integer, $2) d \
         WHERE to_regclass(format('reservation_%s', d)) IS NULL)";
    if tx.query_one(missing, &[&today, &last]).await?.try_get(0)? {
        tx.batch(BRIEFLY).await?;
        tx.query_one("SELECT make_days($1, $2)", &[&today, &last]).await?;
    }
    Ok(())
}

/// Returns the oldest day that has a partition and ended before `before`.
pub async fn oldest(connections: &Connections, before: Timestamp) -> Op<Option<i32>> {
    let connection = Lease::take(connections).await?;
    let found =
        connection.query_opt("SELECT d FROM made_days() d WHERE d < $1 LIMIT 1", &[&rows::day_of(before)]).await;
    connection.give_back_answered();
    Ok(found?.map(|row| row.try_get(0)).transpose()?)
}

/// Deletes what holders used in hours that no running period reaches, and floors and refusals that have no effect any
/// more.
pub async fn forget_used(connections: &Connections, clock: &Clock, session: &LedgerSession) -> Op<()> {
    let tx = Tx::begin_fenced(connections, clock, session, Lane::Chores).await?;
    let forgotten = async {
        history::forget(&tx).await?;
        floors::forget(&tx).await?;
        refusals::forget(&tx).await
    };
    let forgotten = forgotten.await;
    tx.end(forgotten).await
}

/// Settles a day's open messages as unknown, at most `limit`. Returns how many.
pub async fn close(
    connections: &Connections,
    clock: &Clock,
    session: &LedgerSession,
    day: i32,
    limit: usize,
) -> Op<usize> {
    let tx = Tx::begin_fenced(connections, clock, session, Lane::Chores).await?;
    let closed = close_in(&tx, day, limit).await;
    tx.end(closed).await
}

async fn close_in(tx: &Tx, day: i32, limit: usize) -> Op<usize> {
    let open = tx
        .query(
            "SELECT u.message FROM unsettled u WHERE u.day = $1 \
                 AND NOT EXISTS (SELECT FROM settlement s WHERE s.day = u.day AND s.message = u.message) LIMIT $2",
            &[&day, &rows::limit(limit)],
        )
        .await?;
    let open: Vec<Settlement> =
        open.iter().map(|row| Ok(Settlement::of(MessageId(row.try_get(0)?), Outcome::Unknown))).collect::<Op<_>>()?;
    settle_in(tx, &open).await?;
    Ok(open.len())
}

/// Writes the sums of a day and drops its rows. `None` if it is still written to.
pub async fn seal(connections: &Connections, clock: &Clock, session: &LedgerSession, day: i32) -> Op<Option<u64>> {
    let mut tx = Tx::begin_fenced(connections, clock, session, Lane::Chores).await?;
    let sealed = async {
        tx.batch(BRIEFLY).await?;
        let sealed: Option<i64> = tx.query_one("SELECT retire_day($1)", &[&day]).await?.try_get(0)?;
        Ok(sealed)
    };
    let sealed = sealed.await;
    if let Ok(Some(messages)) = sealed {
        tx.note_of_ledger(LEDGER, Note::sealed(day, messages));
    }
    Ok(tx.end(sealed).await?.and_then(|messages| u64::try_from(messages).ok()))
}
