//! Accounts with many refunded messages: counted, judged, forgotten.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rusqlite::{OptionalExtension as _, params};
use uuid::Uuid;

use super::failure::{Failure, Op};
use super::write::Tx;
use crate::domain::credit::Refused;
use crate::domain::id::{AccountId, IdMap, Kind};
use crate::ledger::rules::history;

impl Tx<'_> {
    /// Returns the accounts that may be shut.
    pub fn refused(&self) -> Op<IdMap<AccountId, Refused>> {
        let mut statement =
            self.connection.prepare_cached("SELECT account, arrival, per_hour FROM refusal WHERE arrival > ?1")?;
        let mut found = statement.query([Refused::shut_beyond(self.judged_at()).as_microsecond()])?;
        let mut refused = IdMap::default();
        while let Some(row) = found.next()? {
            let account = AccountId(Uuid::from_bytes(row.get(0)?));
            refused.insert(account, Refused { arrival: instant(row.get(1)?)?, per_hour: row.get(2)? });
        }
        Ok(refused)
    }

    /// Counts messages that were given back.
    pub fn count_refused(&self, messages: &BTreeMap<AccountId, u32>) -> Op<()> {
        let [hour, hour_before] = history::hours_of_refusals(self.now_ms());
        for (account, messages) in messages {
            let id = account.0.as_bytes();
            let before: Option<i64> = self
                .connection
                .prepare_cached("SELECT arrival FROM refusal WHERE account = ?1")?
                .query_row([id], |row| row.get(0))
                .optional()?;
            let used: i64 = self
                .connection
                .prepare_cached(
                    "SELECT ifnull(sum(q1 + q2 + q3 + q4), 0) FROM used_hour \
                     WHERE hour IN (?1, ?2) AND kind = ?3 AND holder = ?4",
                )?
                .query_row(params![hour, hour_before, Kind::Account.as_str(), id], |row| row.get(0))?;
            let refused = Refused::after(before.map(instant).transpose()?, *messages, used, self.judged_at());
            self.connection
                .prepare_cached(
                    "INSERT INTO refusal (account, arrival, per_hour) VALUES (?1, ?2, ?3) \
                     ON CONFLICT DO UPDATE SET arrival = excluded.arrival, per_hour = excluded.per_hour",
                )?
                .execute(params![id, refused.arrival.as_microsecond(), refused.per_hour])?;
        }
        Ok(())
    }

    /// Deletes the rows that have no effect any more.
    pub fn forget_refused(&self) -> Op<()> {
        self.connection
            .prepare_cached("DELETE FROM refusal WHERE arrival <= ?1")?
            .execute([self.judged_at().as_microsecond()])?;
        Ok(())
    }
}

fn instant(micros: i64) -> Op<Timestamp> {
    Timestamp::from_microsecond(micros).map_err(|error| Failure::Row(error.to_string()))
}
