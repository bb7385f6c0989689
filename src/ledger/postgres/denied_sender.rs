//! Messages that relays refused because of their sender.

use jiff::SignedDuration;
use tokio_postgres::Row;

use super::failure::{Failure, Op};
use super::rows;
use super::tx::Tx;
use crate::domain::denied_sender::{DENIED_MAX, DeniedReport, DeniedSenders};
use crate::domain::id::KeyId;
use crate::domain::sender::{MailDomain, SenderFault};

/// Counts them. Relays lock the rows in the same order, so that they cannot deadlock.
pub async fn count(tx: &Tx, denied: &[DeniedSenders]) -> Op<()> {
    let mut denied: Vec<&DeniedSenders> = denied.iter().take(DENIED_MAX).collect();
    denied.sort_unstable_by_key(|denied| (denied.key.0, denied.fault.as_str()));
    let keys: Vec<uuid::Uuid> = denied.iter().map(|denied| denied.key.0).collect();
    let reasons: Vec<&str> = denied.iter().map(|denied| denied.fault.as_str()).collect();
    let messages: Vec<i64> = denied.iter().map(|denied| i64::from(denied.messages)).collect();
    let domains: Vec<&str> =
        denied.iter().map(|denied| denied.domain.as_ref().map_or("", MailDomain::as_str)).collect();
    tx.execute(
        "INSERT INTO denied_sender AS d (key, reason, messages, reported, domain, last_at, due_at) \
         SELECT k, r, m, 0, n, $5, $5 FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[]) AS u(k, r, m, n) \
         ON CONFLICT (key, reason) DO UPDATE SET messages = d.messages + excluded.messages, \
             domain = excluded.domain, last_at = excluded.last_at",
        &[&keys, &reasons, &messages, &domains, &tx.now.as_millisecond()],
    )
    .await?;
    Ok(())
}

pub async fn report(tx: &Tx, every: SignedDuration, limit: usize) -> Op<Vec<DeniedReport>> {
    let now = tx.now.as_millisecond();
    let again = now.saturating_add(i64::try_from(every.as_millis()).unwrap_or(i64::MAX));
    let found = tx
        .query(
            "WITH due AS (SELECT key, reason, messages - reported AS fresh FROM denied_sender \
                 WHERE messages > reported AND due_at <= $1 ORDER BY due_at, key, reason LIMIT $2 \
                 FOR UPDATE SKIP LOCKED) \
             UPDATE denied_sender d SET reported = d.messages, due_at = $3 FROM due \
             WHERE d.key = due.key AND d.reason = due.reason \
             RETURNING d.key, d.reason, due.fresh, d.domain, d.last_at, \
                 (SELECT sum(a.messages)::bigint FROM denied_sender a WHERE a.key = d.key)",
            &[&now, &rows::limit(limit.min(DENIED_MAX)), &again],
        )
        .await?;
    let mut reports = found.iter().map(row).collect::<Op<Vec<_>>>()?;
    reports.sort_unstable_by_key(|report| (report.key.0, report.fault));
    Ok(reports)
}

fn row(row: &Row) -> Op<DeniedReport> {
    let (reason, domain): (&str, &str) = (row.try_get(1)?, row.try_get(3)?);
    Ok(DeniedReport {
        key: KeyId(row.try_get(0)?),
        fault: SenderFault::parse(reason).ok_or_else(|| Failure::Row(format!("unknown reason {reason}")))?,
        messages: row.try_get(2)?,
        domain: MailDomain::parse(domain).ok(),
        last_at: rows::instant(row.try_get(4)?)?,
        total: row.try_get(5)?,
    })
}
