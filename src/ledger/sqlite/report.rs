//! Bills and notices in the file.

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use uuid::Uuid;

use super::failure::{Failure, Op};
use super::write::Tx;
use super::{SqliteStore, file, read, rows, trouble};
use crate::domain::credit::Meter;
use crate::domain::denied_sender::{DeniedReport, DeniedSenders};
use crate::domain::id::{AccountId, Holder, KeyId, PolicyId};
use crate::domain::login_network::LoginFrom;
use crate::domain::trouble::{Sightings, Trouble};
use crate::ledger::report::{
    BillingTerms, Channel, Ended, NOTICES_DUE_MAX, NOTICES_MAX, Queued, Report, Spender, ThresholdNotice, Told, Topic,
    USAGE_ROWS_MAX, UsageRow, pause_after,
};
use crate::ledger::store::{LedgerSession, Result};

/// The account id that stands for the parent's own keys: columns of a primary key are never NULL.
const PARENT: Uuid = Uuid::nil();
/// The channel of notices that are only remembered.
const NOWHERE: &str = "none";

#[async_trait]
impl Report for SqliteStore {
    async fn usage(
        &self,
        policy: PolicyId,
        from: Timestamp,
        to: Timestamp,
        after: Option<Spender>,
        limit: usize,
    ) -> Result<Vec<UsageRow>> {
        let doing = "reading usage";
        let (path, limit) = (self.path.clone(), limit.min(USAGE_ROWS_MAX));
        // On a connection of its own: a month of a large policy takes a second, and the relays' directory must not
        // wait for it.
        tokio::task::spawn_blocking(move || {
            let connection = file::connect_reader(&path)?;
            let work = |connection: &Connection| usage(connection, policy, [from, to], after, limit);
            read::snapshot(&connection, work).map_err(|failure| failure.of(doing))
        })
        .await
        .unwrap_or_else(|_| Err(Failure::Panicked.of(doing)))
    }

    async fn put_terms(&self, session: &LedgerSession, terms: &BillingTerms) -> Result<()> {
        let (session, terms) = (session.clone(), terms.clone());
        self.writer.call("writing the terms of a bill", 1, move |tx| tx.put_terms(&session, &terms)).await
    }

    async fn terms(&self, policy: PolicyId, period: &str) -> Result<Option<BillingTerms>> {
        let period = period.to_owned();
        self.reader.call("reading the terms of a bill", move |connection, _| terms(connection, policy, period)).await
    }

    async fn told(&self, limits: &[(Holder, Meter)]) -> Result<Vec<Option<Told>>> {
        let limits = limits.to_vec();
        self.reader.call("reading what was told", move |connection, _| told(connection, &limits)).await
    }

    async fn announce(
        &self,
        session: &LedgerSession,
        notices: &[(ThresholdNotice, Vec<Channel>)],
    ) -> Result<Vec<bool>> {
        let (session, notices) = (session.clone(), notices.to_vec());
        self.writer.call("taking notices", notices.len(), move |tx| tx.announce(&session, &notices)).await
    }

    async fn claim_notices(&self, session: &LedgerSession, channel: Channel, limit: usize) -> Result<Vec<Queued>> {
        let (session, limit) = (session.clone(), limit.min(NOTICES_MAX));
        self.writer.call("handing notices out", limit, move |tx| tx.claim_notices(&session, channel, limit)).await
    }

    async fn close_notices(&self, session: &LedgerSession, ended: &[(i64, Ended)]) -> Result<()> {
        let (session, ended) = (session.clone(), ended.to_vec());
        self.writer.call("ending notices", ended.len(), move |tx| tx.close_notices(&session, &ended)).await
    }

    async fn forget_notices(&self, session: &LedgerSession, before: Timestamp, limit: usize) -> Result<u64> {
        let session = session.clone();
        self.writer.call("forgetting notices", limit, move |tx| tx.forget_notices(&session, before, limit)).await
    }

    async fn put_troubles(&self, session: &LedgerSession, troubles: &[Trouble]) -> Result<()> {
        let (session, troubles) = (session.clone(), troubles.to_vec());
        let work = move |tx: &mut Tx<'_>| tx.put_troubles(&session, &troubles);
        self.writer.call("telling of upstreams", 1, work).await
    }

    async fn note_logins(&self, session: &LedgerSession, logins: &[LoginFrom]) -> Result<()> {
        let (session, logins) = (session.clone(), logins.to_vec());
        let work = move |tx: &mut Tx<'_>| tx.note_logins(&session, &logins);
        self.writer.call("noting logins", 1, work).await
    }

    async fn count_denied_senders(&self, session: &LedgerSession, denied: &[DeniedSenders]) -> Result<()> {
        let (session, denied) = (session.clone(), denied.to_vec());
        let work = move |tx: &mut Tx<'_>| tx.count_denied_senders(&session, &denied);
        self.writer.call("counting refused senders", 1, work).await
    }

    async fn report_denied_senders(
        &self,
        session: &LedgerSession,
        every: SignedDuration,
        limit: usize,
    ) -> Result<Vec<DeniedReport>> {
        let session = session.clone();
        let work = move |tx: &mut Tx<'_>| tx.report_denied_senders(&session, every, limit);
        self.writer.call("reporting refused senders", 1, work).await
    }

    async fn sightings(&self) -> Result<Sightings> {
        self.reader.call("reading what relays say", |connection, _| trouble::sightings(connection)).await
    }
}

/// Sums usage. The hours of a span follow each other in the table, for all policies; rows of other policies are
/// skipped.
fn usage(
    connection: &Connection,
    policy: PolicyId,
    [from, to]: [Timestamp; 2],
    after: Option<Spender>,
    limit: usize,
) -> Op<Vec<UsageRow>> {
    let mut statement = connection.prepare_cached(
        "SELECT account, key, sum(messages), sum(charged) - sum(refused) - sum(not_offered), sum(priced), \
         sum(relayed), sum(refused), sum(not_offered), sum(unknown) \
         FROM usage_hour WHERE hour >= ?1 AND hour < ?2 AND policy = ?3 AND (account, key) > (?4, ?5) \
         GROUP BY account, key ORDER BY account, key LIMIT ?6",
    )?;
    // Before the first: no identifier is empty.
    let (account, key) = after.map_or((vec![], vec![]), |(account, key)| {
        (account.map_or(PARENT, |account| account.0).as_bytes().to_vec(), key.0.as_bytes().to_vec())
    });
    let found = statement.query_map(
        params![from.as_millisecond(), to.as_millisecond(), policy.0.as_bytes(), account, key, rows::limit(limit)],
        usage_row,
    )?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

fn usage_row(row: &Row<'_>) -> rusqlite::Result<UsageRow> {
    let id = |column| row.get(column).map(Uuid::from_bytes);
    let account = Some(id(0)?).filter(|account| *account != PARENT).map(AccountId);
    Ok(UsageRow {
        spender: (account, KeyId(id(1)?)),
        messages: row.get(2)?,
        credits: row.get(3)?,
        priced_micro: row.get(4)?,
        relayed: row.get(5)?,
        refused: row.get(6)?,
        not_offered: row.get(7)?,
        unknown: row.get(8)?,
    })
}

fn terms(connection: &Connection, policy: PolicyId, period: String) -> Op<Option<BillingTerms>> {
    let found = connection
        .prepare_cached(
            "SELECT valid_from, valid_to, currency, base_price_minor, price_per_thousand_minor \
             FROM terms WHERE policy = ?1 AND period = ?2",
        )?
        .query_row(params![policy.0.as_bytes(), period], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        })
        .optional()?;
    let Some((from, to, currency, base_price_minor, price_per_thousand_minor)) = found else { return Ok(None) };
    let (from, to) = (rows::instant(from)?, rows::instant(to)?);
    Ok(Some(BillingTerms { policy, period, from, to, currency, base_price_minor, price_per_thousand_minor }))
}

fn told(connection: &Connection, limits: &[(Holder, Meter)]) -> Op<Vec<Option<Told>>> {
    let mut statement = connection.prepare_cached(
        "SELECT period, threshold, granted, used FROM notice \
         WHERE holder = ?1 AND kind = ?2 AND meter = ?3 AND period = (SELECT period FROM notice \
         WHERE holder = ?1 AND kind = ?2 AND meter = ?3 ORDER BY id DESC LIMIT 1) ORDER BY id",
    )?;
    let mut all = Vec::with_capacity(limits.len());
    for (holder, meter) in limits {
        let id = holder.uuid();
        let mut rows = statement.query(params![id.as_bytes(), holder.kind().as_str(), meter.as_str()])?;
        let mut told: Option<Told> = None;
        while let Some(row) = rows.next()? {
            let threshold = row.get(1)?;
            match &mut told {
                Some(told) => told.threshold = told.threshold.max(threshold),
                None => told = Some(Told { period: row.get(0)?, threshold, granted: row.get(2)?, used: row.get(3)? }),
            }
        }
        all.push(told);
    }
    Ok(all)
}

impl Tx<'_> {
    fn put_terms(&mut self, session: &LedgerSession, terms: &BillingTerms) -> Op<()> {
        self.fence(session)?;
        self.connection
            .prepare_cached(
                "INSERT INTO terms (policy, period, valid_from, valid_to, currency, base_price_minor, \
                 price_per_thousand_minor) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO UPDATE SET \
                 valid_from = ?3, valid_to = ?4, currency = ?5, base_price_minor = ?6, price_per_thousand_minor = ?7",
            )?
            .execute(params![
                terms.policy.0.as_bytes(),
                terms.period,
                terms.from.as_millisecond(),
                terms.to.as_millisecond(),
                terms.currency,
                terms.base_price_minor,
                terms.price_per_thousand_minor
            ])?;
        Ok(())
    }

    fn announce(&mut self, session: &LedgerSession, notices: &[(ThresholdNotice, Vec<Channel>)]) -> Op<Vec<bool>> {
        self.fence(session)?;
        let mut statement = self.connection.prepare_cached(
            "INSERT INTO notice (kind, holder, meter, period, threshold, channel, policy, granted, used, at, next_at, \
             ended) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) ON CONFLICT DO NOTHING",
        )?;
        let mut fresh = Vec::with_capacity(notices.len());
        for (notice, channels) in notices.iter().take(NOTICES_MAX) {
            let Topic { holder, meter, period } = &notice.topic;
            let mut new = false;
            let sent = channels.iter().map(|channel| (channel.as_str(), Some(self.now_ms()), None));
            let remembered = channels.is_empty().then_some((NOWHERE, None, Some(NOWHERE)));
            for (channel, next_at, ended) in sent.chain(remembered) {
                let written = statement.execute(params![
                    holder.kind().as_str(),
                    holder.uuid().as_bytes(),
                    meter.as_str(),
                    period,
                    notice.threshold,
                    channel,
                    notice.policy.0.as_bytes(),
                    notice.granted,
                    notice.used,
                    self.now_ms(),
                    next_at,
                    ended
                ])?;
                new |= written == 1;
            }
            fresh.push(new);
        }
        Ok(fresh)
    }

    fn claim_notices(&mut self, session: &LedgerSession, channel: Channel, limit: usize) -> Op<Vec<Queued>> {
        self.fence(session)?;
        let mut statement = self.connection.prepare_cached(
            "WITH due AS ( \
                 SELECT n.id, n.next_at, coalesce(json_extract(d.body, '$.account.namespace'), n.policy) AS tenant \
                 FROM notice n LEFT JOIN directory d ON d.kind = n.kind AND d.id = n.holder \
                 WHERE n.channel = ?1 AND n.next_at <= ?2 ORDER BY n.next_at, n.id LIMIT ?4), \
             turns AS (SELECT id, row_number() OVER (PARTITION BY tenant ORDER BY next_at, id) AS turn FROM due) \
             SELECT n.kind, n.holder, n.id, n.meter, n.period, n.threshold, n.policy, n.granted, n.used, n.at, n.tries \
             FROM turns t JOIN notice n ON n.id = t.id ORDER BY t.turn, n.next_at, n.id LIMIT ?3",
        )?;
        let limits = (rows::limit(limit), rows::limit(NOTICES_DUE_MAX));
        let mut found = statement.query(params![channel.as_str(), self.now_ms(), limits.0, limits.1])?;
        let mut queued = Vec::new();
        while let Some(row) = found.next()? {
            queued.push(queued_row(row)?);
        }
        let mut tried = self.connection.prepare_cached("UPDATE notice SET tries = ?2, next_at = ?3 WHERE id = ?1")?;
        for notice in &queued {
            let next = self.now.saturating_add(pause_after(notice.tries)).unwrap_or(Timestamp::MAX);
            tried.execute(params![notice.id, notice.tries, next.as_millisecond()])?;
        }
        Ok(queued)
    }

    fn close_notices(&mut self, session: &LedgerSession, ended: &[(i64, Ended)]) -> Op<()> {
        self.fence(session)?;
        let mut statement = self
            .connection
            .prepare_cached("UPDATE notice SET next_at = NULL, ended = ?2 WHERE id = ?1 AND next_at IS NOT NULL")?;
        for (id, ended) in ended {
            statement.execute(params![id, ended.as_str()])?;
        }
        Ok(())
    }

    fn forget_notices(&mut self, session: &LedgerSession, before: Timestamp, limit: usize) -> Op<u64> {
        self.fence(session)?;
        let forgotten = self
            .connection
            .prepare_cached(
                "DELETE FROM notice WHERE id IN \
                 (SELECT id FROM notice WHERE next_at IS NULL AND at < ?1 ORDER BY at LIMIT ?2)",
            )?
            .execute(params![before.as_millisecond(), rows::limit(limit)])?;
        Ok(forgotten as u64)
    }
}

fn queued_row(row: &Row<'_>) -> Op<Queued> {
    let meter: String = row.get(3)?;
    let tries: u32 = row.get(10)?;
    let topic = Topic {
        holder: rows::holder(row)?,
        meter: Meter::parse(&meter).ok_or_else(|| Failure::Row(format!("unknown meter {meter}")))?,
        period: row.get(4)?,
    };
    let policy = PolicyId(Uuid::from_bytes(row.get(6)?));
    let notice = ThresholdNotice { topic, threshold: row.get(5)?, policy, granted: row.get(7)?, used: row.get(8)? };
    Ok(Queued { id: row.get(2)?, notice, at: rows::instant(row.get(9)?)?, tries: tries.saturating_add(1) })
}
