//! Fingerprints of messages whose outcome was open: kept, recognised, forgotten.

use jiff::Timestamp;
use rusqlite::params;
use uuid::Uuid;

use super::failure::Op;
use super::rows;
use super::write::Tx;
use crate::domain::fingerprint::Fingerprint;
use crate::domain::id::MessageId;
use crate::ledger::rules::dedup::{DedupChange, DedupRecord, Release, earlier_outcome, release};
use crate::ledger::rules::settle::Settled;
use crate::ledger::store::{DedupUpdate, FINGERPRINT_KEPT, Kept, LedgerSession, Settlement};

impl Tx<'_> {
    /// Writes which copy was answered, or carries the message.
    pub fn record_copy(
        &self,
        session: &LedgerSession,
        (message, change): (MessageId, DedupChange),
        copy: MessageId,
    ) -> Op<()> {
        let (message, copy) = (message.0.as_bytes(), copy.0.as_bytes());
        match change {
            DedupChange::Answered => self
                .connection
                .prepare_cached("UPDATE fingerprint SET answered = ?2 WHERE message = ?1")?
                .execute(params![message, copy])?,
            DedupChange::Carried => self
                .connection
                .prepare_cached(
                    "UPDATE fingerprint SET carrier = ?2, session = ?3, epoch = ?4, stand_ins = stand_ins + 1 \
                     WHERE message = ?1",
                )?
                .execute(params![message, copy, session.id, session.epoch])?,
        };
        Ok(())
    }

    /// Returns what is kept under a fingerprint, oldest first.
    pub fn records(&self, fingerprint: &Fingerprint) -> Op<Vec<DedupRecord>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT f.message, f.carrier, f.answered, EXISTS \
                 (SELECT 1 FROM session s WHERE s.id = f.session AND s.epoch = f.epoch AND s.closed_at IS NULL), \
                 f.stand_ins \
             FROM fingerprint f WHERE f.digest = ?1 AND ifnull(f.until, f.at + ?3) > ?2 ORDER BY f.at, f.message",
        )?;
        let day = FINGERPRINT_KEPT.as_millis() as i64;
        let mut found = statement.query(params![fingerprint.0, self.now_ms(), day])?;
        let mut records = Vec::new();
        while let Some(row) = found.next()? {
            let id = |bytes| MessageId(Uuid::from_bytes(bytes));
            records.push(DedupRecord {
                message: id(row.get(0)?),
                outcome: None,
                carrier: row.get::<_, Option<[u8; 16]>>(1)?.map(id),
                lives: row.get(3)?,
                answered: row.get::<_, Option<[u8; 16]>>(2)?.map(id),
                stand_ins: row.get(4)?,
            });
        }
        for record in &mut records {
            record.outcome = self.latest_outcome(record.message)?.and_then(Settled::outcome);
        }
        Ok(records)
    }

    /// Takes over what a settlement says about copies. Returns the earlier message that it settles too.
    pub fn keep(&mut self, session: &LedgerSession, settlement: Settlement) -> Op<Option<Settlement>> {
        let message = settlement.message.0.as_bytes();
        match settlement.dedup {
            None => Ok(None),
            Some(DedupUpdate::Open(Kept { fingerprint, within })) => {
                self.connection
                    .prepare_cached(
                        "INSERT INTO fingerprint (message, digest, at, until, carrier, session, epoch) \
                         VALUES (?1, ?2, ?3, ?3 + ?6, ?1, ?4, ?5) ON CONFLICT DO NOTHING",
                    )?
                    .execute(params![
                        message,
                        fingerprint.0,
                        self.now_ms(),
                        session.id,
                        session.epoch,
                        within.as_millis() as i64
                    ])?;
                Ok(None)
            }
            Some(DedupUpdate::Ended(Kept { fingerprint, within })) => {
                // If a copy carries it by now, the end of that copy is awaited.
                self.connection
                    .prepare_cached(
                        "INSERT INTO fingerprint (message, digest, at, until, session, epoch) \
                         VALUES (?1, ?2, ?3, ?3 + ?6, ?4, ?5) \
                         ON CONFLICT DO UPDATE SET carrier = NULL WHERE carrier = message",
                    )?
                    .execute(params![
                        message,
                        fingerprint.0,
                        self.now_ms(),
                        session.id,
                        session.epoch,
                        within.as_millis() as i64
                    ])?;
                Ok(None)
            }
            Some(DedupUpdate::StoodIn { fingerprint, told }) => self.stood_in(settlement, &fingerprint, told),
        }
    }

    fn stood_in(&mut self, copy: Settlement, fingerprint: &Fingerprint, told: bool) -> Op<Option<Settlement>> {
        let asker = copy.message.0.as_bytes();
        let sql = match release(copy.outcome, told) {
            Release::UsedUp => {
                "DELETE FROM fingerprint WHERE digest = ?1 AND message <> ?2 AND (carrier = ?2 OR answered = ?2) \
                 RETURNING message"
            }
            Release::NotSent => {
                "UPDATE fingerprint \
                 SET stand_ins = stand_ins - ifnull(carrier = ?2, 0), carrier = NULL, answered = NULL \
                 WHERE digest = ?1 AND message <> ?2 AND (carrier = ?2 OR answered = ?2) RETURNING message"
            }
            Release::Open => {
                "UPDATE fingerprint SET carrier = NULL, answered = NULL \
                 WHERE digest = ?1 AND message <> ?2 AND (carrier = ?2 OR answered = ?2) RETURNING message"
            }
        };
        let earlier: Option<[u8; 16]> = rusqlite::OptionalExtension::optional(
            self.connection.prepare_cached(sql)?.query_row(params![fingerprint.0, asker], |row| row.get(0)),
        )?;
        let earlier = earlier.map(|bytes| MessageId(Uuid::from_bytes(bytes)));
        Ok(earlier.zip(earlier_outcome(copy.outcome)).map(|(earlier, outcome)| Settlement::of(earlier, outcome)))
    }

    /// Drops up to `limit` fingerprints that were kept before `before`. Returns how many.
    pub fn forget_fingerprints(&mut self, session: &LedgerSession, before: Timestamp, limit: usize) -> Op<u64> {
        self.fence(session)?;
        let forgotten = self
            .connection
            .prepare_cached(
                "DELETE FROM fingerprint WHERE message IN (SELECT message FROM fingerprint WHERE at < ?1 LIMIT ?2)",
            )?
            .execute(params![before.as_millisecond(), rows::limit(limit)])?;
        Ok(forgotten as u64)
    }
}
