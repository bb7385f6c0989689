//! Accounts with many refunded messages: counted, judged, forgotten.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::failure::{Failure, Op};
use super::rows;
use super::tx::Tx;
use crate::domain::credit::Refused;
use crate::domain::id::{AccountId, IdMap, Kind};
use crate::ledger::rules::history;

/// Returns the arrival, in microseconds, beyond which an account may be shut.
pub fn open_until(now: Timestamp) -> i64 {
    Refused::shut_beyond(now).as_microsecond()
}

/// Returns the accounts that may be shut.
pub async fn read(tx: &Tx) -> Op<IdMap<AccountId, Refused>> {
    let sql = "SELECT account, arrival, per_hour FROM refusal WHERE arrival > $1";
    let found = tx.query(sql, &[&open_until(tx.judged_at())]).await?;
    let refused = |row: &Row| {
        let per_hour: i64 = row.try_get(2)?;
        let refused = Refused { arrival: arrival(row, 1)?, per_hour: u32::try_from(per_hour).unwrap_or(u32::MAX) };
        Ok((AccountId(row.try_get(0)?), refused))
    };
    found.iter().map(refused).collect()
}

/// Counts messages that were given back.
pub async fn count(tx: &Tx, messages: &BTreeMap<AccountId, u32>) -> Op<()> {
    if messages.is_empty() {
        return Ok(());
    }
    let accounts: Vec<Uuid> = messages.keys().map(|account| account.0).collect();
    let [hour, hour_before] = history::hours_of_refusals(tx.now_ms());
    // Locked in the order of their ids, also those without a row.
    let locked = tx
        .query(
            "INSERT INTO refusal AS r (account, arrival, per_hour) \
             SELECT id, 0, 0 FROM unnest($1::uuid[]) x(id) ORDER BY id \
             ON CONFLICT (account) DO UPDATE SET arrival = r.arrival \
             RETURNING r.account, r.arrival, (SELECT coalesce(sum(q1 + q2 + q3 + q4), 0)::bigint FROM used_hour u \
                 WHERE u.hour IN ($2, $3) AND u.kind = $4 AND u.holder = r.account)",
            &[&accounts, &hour, &hour_before, &rows::kind_number(Kind::Account)],
        )
        .await?;
    let (mut ids, mut arrivals, mut per_hours) = (vec![], vec![], vec![]);
    for row in &locked {
        let account: Uuid = row.try_get(0)?;
        let messages = messages.get(&AccountId(account)).copied().unwrap_or(0);
        let refused = Refused::after(Some(arrival(row, 1)?), messages, row.try_get(2)?, tx.judged_at());
        ids.push(account);
        arrivals.push(refused.arrival.as_microsecond());
        per_hours.push(i64::from(refused.per_hour));
    }
    tx.execute(
        "UPDATE refusal r SET arrival = x.arrival, per_hour = x.per_hour \
         FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) x(account, arrival, per_hour) \
         WHERE r.account = x.account",
        &[&ids, &arrivals, &per_hours],
    )
    .await?;
    Ok(())
}

/// Deletes the rows that have no effect any more.
pub async fn forget(tx: &Tx) -> Op<()> {
    // A row that another transaction is counting now is not obsolete.
    let sql = "DELETE FROM refusal WHERE account IN \
         (SELECT account FROM refusal WHERE arrival <= $1 FOR UPDATE SKIP LOCKED)";
    tx.execute(sql, &[&tx.judged_at().as_microsecond()]).await?;
    Ok(())
}

fn arrival(row: &Row, column: usize) -> Op<Timestamp> {
    Timestamp::from_microsecond(row.try_get(column)?).map_err(|error| Failure::Row(error.to_string()))
}
