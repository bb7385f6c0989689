//! Fingerprints of messages whose outcome was open: kept, recognised, forgotten.
//!
//! Their rows are locked before any other, here and where they are settled, and read by a second statement, which sees
//! what the holder of the lock has committed.

use std::collections::HashMap;

use jiff::Timestamp;
use uuid::Uuid;

use super::failure::{Failure, Op};
use super::pool::Connections;
use super::rows;
use super::tx::{Clock, Lane, Tx};
use crate::domain::fingerprint::Fingerprint;
use crate::domain::id::MessageId;
use crate::ledger::rules::dedup::{DedupChange, DedupRecord, Release, earlier_outcome, release};
use crate::ledger::store::{DedupUpdate, FINGERPRINT_KEPT, Kept, LedgerSession, Settlement};

/// Writes which copy was answered, or carries the message.
pub async fn record_copy(
    tx: &Tx,
    session: &LedgerSession,
    (message, change): (MessageId, DedupChange),
    copy: MessageId,
) -> Op<()> {
    match change {
        DedupChange::Answered => {
            tx.execute("UPDATE fingerprint SET answered = $2 WHERE message = $1", &[&message.0, &copy.0]).await?;
        }
        DedupChange::Carried => {
            tx.execute(
                "UPDATE fingerprint SET carrier = $2, session = $3, epoch = $4, stand_ins = stand_ins + 1 \
                 WHERE message = $1",
                &[&message.0, &copy.0, &session.id, &session.epoch],
            )
            .await?;
        }
    }
    Ok(())
}

/// Returns what is kept under these messages' fingerprints, locked, oldest first.
pub async fn records(
    tx: &Tx,
    asked: impl Iterator<Item = (MessageId, Fingerprint)>,
) -> Op<HashMap<Fingerprint, Vec<DedupRecord>>> {
    let mut records: HashMap<Fingerprint, Vec<DedupRecord>> = HashMap::new();
    let asked: Vec<Fingerprint> = asked.map(|(_, fingerprint)| fingerprint).collect();
    if asked.is_empty() {
        return Ok(records);
    }
    let digests: Vec<&[u8]> = asked.iter().map(|fingerprint| fingerprint.0.as_slice()).collect();
    let locked =
        tx.query("SELECT FROM fingerprint WHERE digest = ANY ($1) ORDER BY message FOR UPDATE", &[&digests]).await?;
    if locked.is_empty() {
        return Ok(records);
    }
    let day = FINGERPRINT_KEPT.as_millis() as i64;
    let found = tx
        .query(
            "SELECT f.digest, f.message, f.carrier, f.answered, o.outcome, EXISTS \
                 (SELECT FROM session s WHERE s.id = f.session AND s.epoch = f.epoch AND s.closed_at IS NULL), \
                 f.stand_ins \
             FROM fingerprint f LEFT JOIN LATERAL (SELECT outcome FROM settlement s \
                 WHERE s.day = f.day AND s.message = f.message ORDER BY correction DESC LIMIT 1) o ON true \
             WHERE f.digest = ANY ($1) AND coalesce(f.until, f.at + $3) > $2 ORDER BY f.at, f.message",
            &[&digests, &tx.now_ms(), &day],
        )
        .await?;
    for row in &found {
        let outcome: Option<i16> = row.try_get(4)?;
        let record = DedupRecord {
            message: MessageId(row.try_get(1)?),
            outcome: outcome.map(rows::outcome).transpose()?,
            carrier: row.try_get::<_, Option<Uuid>>(2)?.map(MessageId),
            lives: row.try_get(5)?,
            answered: row.try_get::<_, Option<Uuid>>(3)?.map(MessageId),
            stand_ins: u32::try_from(row.try_get::<_, i32>(6)?).unwrap_or(0),
        };
        let digest: &[u8] = row.try_get(0)?;
        let digest = digest.try_into().map_err(|_| Failure::Row("a fingerprint of another length".to_owned()))?;
        records.entry(Fingerprint(digest)).or_default().push(record);
    }
    Ok(records)
}

/// Takes over what settlements say about copies. Returns the earlier messages that they settle too.
pub async fn keep(tx: &Tx, session: &LedgerSession, batch: &[Settlement]) -> Op<Vec<Settlement>> {
    let mut said: Vec<(Settlement, DedupUpdate)> = batch.iter().filter_map(|one| Some((*one, one.dedup?))).collect();
    if said.is_empty() {
        return Ok(Vec::new());
    }
    // Two that settle at once lock in one order; a stable sort keeps the settlements of one message in their order.
    said.sort_by_key(|(settlement, _)| settlement.message.0);
    let digests: Vec<&[u8]> = said.iter().map(|(_, update)| update.fingerprint().0.as_slice()).collect();
    tx.query("SELECT FROM fingerprint WHERE digest = ANY ($1) ORDER BY message FOR UPDATE", &[&digests]).await?;
    let mut earlier = Vec::new();
    for (settlement, update) in &said {
        earlier.extend(keep_one(tx, session, *settlement, update).await?);
    }
    Ok(earlier)
}

async fn keep_one(
    tx: &Tx,
    session: &LedgerSession,
    settlement: Settlement,
    update: &DedupUpdate,
) -> Op<Option<Settlement>> {
    let (message, day) = (settlement.message.0, rows::day(settlement.message));
    let digest = update.fingerprint().0.as_slice();
    match update {
        DedupUpdate::Open(Kept { within, .. }) => {
            let until = tx.now_ms() + within.as_millis() as i64;
            tx.execute(
                "INSERT INTO fingerprint (message, day, digest, at, until, carrier, session, epoch) \
                 VALUES ($1, $2, $3, $4, $7, $1, $5, $6) ON CONFLICT DO NOTHING",
                &[&message, &day, &digest, &tx.now_ms(), &session.id, &session.epoch, &until],
            )
            .await?;
            Ok(None)
        }
        DedupUpdate::Ended(Kept { within, .. }) => {
            let until = tx.now_ms() + within.as_millis() as i64;
            // If a copy carries it by now, the end of that copy is awaited.
            tx.execute(
                "INSERT INTO fingerprint AS f (message, day, digest, at, until, session, epoch) \
                 VALUES ($1, $2, $3, $4, $7, $5, $6) \
                 ON CONFLICT (message) DO UPDATE SET carrier = NULL WHERE f.carrier = f.message",
                &[&message, &day, &digest, &tx.now_ms(), &session.id, &session.epoch, &until],
            )
            .await?;
            Ok(None)
        }
        DedupUpdate::StoodIn { told, .. } => {
            let sql = match release(settlement.outcome, *told) {
                Release::UsedUp => {
                    "DELETE FROM fingerprint WHERE digest = $1 AND message <> $2 AND (carrier = $2 OR answered = $2) \
                     RETURNING message"
                }
                Release::NotSent => {
                    "UPDATE fingerprint SET stand_ins = stand_ins - CASE WHEN carrier = $2 THEN 1 ELSE 0 END, \
                         carrier = NULL, answered = NULL \
                     WHERE digest = $1 AND message <> $2 AND (carrier = $2 OR answered = $2) RETURNING message"
                }
                Release::Open => {
                    "UPDATE fingerprint SET carrier = NULL, answered = NULL \
                     WHERE digest = $1 AND message <> $2 AND (carrier = $2 OR answered = $2) RETURNING message"
                }
            };
            let earlier = tx.query_opt(sql, &[&digest, &message]).await?.map(|row| row.try_get(0)).transpose()?;
            let earlier = earlier.map(MessageId).zip(earlier_outcome(settlement.outcome));
            Ok(earlier.map(|(earlier, outcome)| Settlement::of(earlier, outcome)))
        }
    }
}

/// Drops up to `limit` fingerprints that were kept before `before`. Returns how many.
pub async fn forget(
    connections: &Connections,
    clock: &Clock,
    session: &LedgerSession,
    before: Timestamp,
    limit: usize,
) -> Op<u64> {
    let tx = Tx::begin_fenced(connections, clock, session, Lane::Chores).await?;
    let forgotten = async {
        tx.execute(
            "DELETE FROM fingerprint WHERE message IN \
                 (SELECT message FROM fingerprint WHERE at < $1 ORDER BY message LIMIT $2 FOR UPDATE SKIP LOCKED)",
            &[&before.as_millisecond(), &rows::limit(limit)],
        )
        .await
    };
    let forgotten = forgotten.await;
    tx.end(forgotten).await
}
