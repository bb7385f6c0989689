//! Messages that relays refused because of their sender.

use jiff::SignedDuration;
use rusqlite::{Row, params};
use uuid::Uuid;

use super::failure::{Failure, Op};
use super::rows;
use super::write::Tx;
use crate::domain::denied_sender::{DENIED_MAX, DeniedReport, DeniedSenders};
use crate::domain::id::KeyId;
use crate::domain::sender::{MailDomain, SenderFault};
use crate::ledger::store::LedgerSession;

impl Tx<'_> {
    pub fn count_denied_senders(&mut self, session: &LedgerSession, denied: &[DeniedSenders]) -> Op<()> {
        self.fence(session)?;
        let mut count = self.connection.prepare_cached(
            "INSERT INTO denied_sender (key, reason, messages, reported, domain, last_at, due_at) \
             VALUES (?1, ?2, ?3, 0, ?4, ?5, ?5) \
             ON CONFLICT DO UPDATE SET messages = messages + excluded.messages, domain = excluded.domain, \
                 last_at = excluded.last_at",
        )?;
        let now = self.now_ms();
        for DeniedSenders { key, fault, messages, domain } in denied.iter().take(DENIED_MAX) {
            let domain = domain.as_ref().map_or("", MailDomain::as_str);
            count.execute(params![key.0.as_bytes(), fault.as_str(), messages, domain, now])?;
        }
        Ok(())
    }

    pub fn report_denied_senders(
        &mut self,
        session: &LedgerSession,
        every: SignedDuration,
        limit: usize,
    ) -> Op<Vec<DeniedReport>> {
        self.fence(session)?;
        let now = self.now_ms();
        let mut due = self.connection.prepare_cached(
            "SELECT key, reason, messages - reported, domain, last_at, \
                 (SELECT sum(messages) FROM denied_sender a WHERE a.key = d.key) \
             FROM denied_sender d WHERE messages > reported AND due_at <= ?1 ORDER BY due_at, key, reason LIMIT ?2",
        )?;
        let mut found = due.query(params![now, rows::limit(limit.min(DENIED_MAX))])?;
        let mut reports = Vec::new();
        while let Some(row) = found.next()? {
            reports.push(report(row)?);
        }
        let mut reported = self.connection.prepare_cached(
            "UPDATE denied_sender SET reported = messages, due_at = ?3 WHERE key = ?1 AND reason = ?2",
        )?;
        let again = now.saturating_add(i64::try_from(every.as_millis()).unwrap_or(i64::MAX));
        for DeniedReport { key, fault, .. } in &reports {
            reported.execute(params![key.0.as_bytes(), fault.as_str(), again])?;
        }
        Ok(reports)
    }
}

fn report(row: &Row<'_>) -> Op<DeniedReport> {
    let (reason, domain): (String, String) = (row.get(1)?, row.get(3)?);
    Ok(DeniedReport {
        key: KeyId(Uuid::from_bytes(row.get(0)?)),
        fault: SenderFault::parse(&reason).ok_or_else(|| Failure::Row(format!("unknown reason {reason}")))?,
        messages: row.get(2)?,
        domain: MailDomain::parse(&domain).ok(),
        last_at: rows::instant(row.get(4)?)?,
        total: row.get(5)?,
    })
}
