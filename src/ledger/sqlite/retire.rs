//! Retires old messages: seals their sums and deletes their rows.

use std::collections::HashMap;

use jiff::Timestamp;
use rusqlite::params;
use uuid::Uuid;

use super::failure::{Failure, Op};
use super::rows;
use super::usage::{RESERVATIONS, SETTLEMENTS, cursor};
use super::write::Tx;
use crate::domain::credit::{LotId, Outcome, Part};
use crate::domain::id::MessageId;
use crate::ledger::rules::settle::Settled;
use crate::ledger::store::{LedgerSession, Settlement};

/// A reservation that is old enough to retire.
struct Old {
    seq: i64,
    message: MessageId,
    parts: Vec<Part>,
}

impl Tx<'_> {
    /// Retires up to `limit` messages that were reserved before `before`, oldest first, and that the rollup has taken.
    /// Returns how many were deleted.
    pub fn retire(&mut self, session: &LedgerSession, before: Timestamp, limit: usize) -> Op<usize> {
        self.fence(session)?;
        self.forget_used(limit)?;
        self.forget_floors()?;
        self.forget_refused()?;
        let old = self.old(before, limit)?;
        let open: Vec<Settlement> = self.open(&old)?;
        if !open.is_empty() {
            // The rollup counts them first; they are deleted the next time.
            self.settle(session, &open)?;
            return Ok(0);
        }
        let mut sums: HashMap<LotId, i64> = HashMap::new();
        let mut retired = 0;
        for one in old {
            if self.has_unrolled(one.message)? {
                break;
            }
            let outcome = self.latest_outcome(one.message)?;
            if !outcome.and_then(Settled::outcome).is_some_and(Outcome::refunds) {
                for Part(lot, amount) in one.parts {
                    *sums.entry(lot).or_default() += amount;
                }
            }
            self.delete(one.seq, one.message)?;
            retired += 1;
        }
        self.seal(&sums)?;
        Ok(retired)
    }

    fn old(&self, before: Timestamp, limit: usize) -> Op<Vec<Old>> {
        let rolled = cursor(self.connection, RESERVATIONS)?;
        let mut statement = self
            .connection
            .prepare_cached("SELECT seq, message, parts, at FROM reservation WHERE seq <= ?1 ORDER BY seq LIMIT ?2")?;
        let mut found = statement.query(params![rolled, rows::limit(limit)])?;
        let mut old = Vec::new();
        while let Some(row) = found.next()? {
            // Time never runs backwards here: all that follow are younger.
            if row.get::<_, i64>(3)? >= before.as_millisecond() {
                break;
            }
            let parts: String = row.get(2)?;
            let parts = serde_json::from_str(&parts).map_err(|error| Failure::Row(error.to_string()))?;
            old.push(Old { seq: row.get(0)?, message: MessageId(Uuid::from_bytes(row.get(1)?)), parts });
        }
        Ok(old)
    }

    fn open(&self, old: &[Old]) -> Op<Vec<Settlement>> {
        let mut pending = self.connection.prepare_cached("SELECT 1 FROM pending WHERE message = ?1")?;
        let mut open = Vec::new();
        for Old { message, .. } in old {
            if pending.exists([message.0.as_bytes()])? {
                open.push(Settlement::of(*message, Outcome::Unknown));
            }
        }
        Ok(open)
    }

    fn has_unrolled(&self, message: MessageId) -> Op<bool> {
        let rolled = cursor(self.connection, SETTLEMENTS)?;
        let mut statement =
            self.connection.prepare_cached("SELECT 1 FROM settlement WHERE message = ?1 AND seq > ?2")?;
        Ok(statement.exists(params![message.0.as_bytes(), rolled])?)
    }

    fn delete(&self, seq: i64, message: MessageId) -> Op<()> {
        self.connection.prepare_cached("DELETE FROM settlement WHERE message = ?1")?.execute([message.0.as_bytes()])?;
        self.connection.prepare_cached("DELETE FROM reservation WHERE seq = ?1")?.execute([seq])?;
        Ok(())
    }

    fn seal(&self, sums: &HashMap<LotId, i64>) -> Op<()> {
        let mut statement = self.connection.prepare_cached(
            "INSERT INTO seal (lot, amount) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET amount = amount + ?2",
        )?;
        for (lot, amount) in sums {
            statement.execute(params![lot.0, amount])?;
        }
        Ok(())
    }
}
