//! Bills and notices.

use std::collections::HashMap;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use tokio_postgres::Row;
use uuid::Uuid;

use super::connection::PgConnection;
use super::failure::{Failure, Op};
use super::read::Snapshot;
use super::tx::{Lane, Tx};
use super::{LONG_LIMIT, PostgresStore, denied_sender, login_network, rows, trouble};
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

/// The account id that stands for the parent's own keys.
const PARENT: Uuid = Uuid::nil();
/// The channel of notices that are only remembered.
const NOWHERE: &str = "none";

/// Writes as a session on the records' lane, and retries if others were faster.
macro_rules! as_session {
    ($store:expr, $doing:literal, $session:expr, |$tx:ident| $work:expr) => {{
        let work = || async {
            let $tx = Tx::begin_fenced(&$store.connections, &$store.clock, $session, Lane::Records).await?;
            let done = $work.await;
            $tx.end(done).await
        };
        $store.call($doing, work).await
    }};
}

#[async_trait]
impl Report for PostgresStore {
    async fn usage(
        &self,
        policy: PolicyId,
        from: Timestamp,
        to: Timestamp,
        after: Option<Spender>,
        limit: usize,
    ) -> Result<Vec<UsageRow>> {
        let read = || async {
            let snapshot = Snapshot::take(&self.connections).await?;
            let found = usage(&snapshot, policy, [from, to], after, limit.min(USAGE_ROWS_MAX)).await;
            snapshot.end(found).await
        };
        self.call_within(LONG_LIMIT, "reading usage", read).await
    }

    async fn put_terms(&self, session: &LedgerSession, terms: &BillingTerms) -> Result<()> {
        as_session!(self, "writing the terms of a bill", session, |tx| put_terms(&tx, terms))
    }

    async fn terms(&self, policy: PolicyId, period: &str) -> Result<Option<BillingTerms>> {
        self.call("reading the terms of a bill", || async {
            let snapshot = Snapshot::take(&self.connections).await?;
            let found = terms(&snapshot, policy, period).await;
            snapshot.end(found).await
        })
        .await
    }

    async fn told(&self, limits: &[(Holder, Meter)]) -> Result<Vec<Option<Told>>> {
        self.call("reading what was told", || async {
            let snapshot = Snapshot::take(&self.connections).await?;
            let found = told(&snapshot, limits).await;
            snapshot.end(found).await
        })
        .await
    }

    async fn announce(
        &self,
        session: &LedgerSession,
        notices: &[(ThresholdNotice, Vec<Channel>)],
    ) -> Result<Vec<bool>> {
        as_session!(self, "taking notices", session, |tx| announce(&tx, notices))
    }

    async fn claim_notices(&self, session: &LedgerSession, channel: Channel, limit: usize) -> Result<Vec<Queued>> {
        as_session!(self, "handing notices out", session, |tx| claim(&tx, channel, limit.min(NOTICES_MAX)))
    }

    async fn close_notices(&self, session: &LedgerSession, ended: &[(i64, Ended)]) -> Result<()> {
        as_session!(self, "ending notices", session, |tx| close(&tx, ended))
    }

    async fn forget_notices(&self, session: &LedgerSession, before: Timestamp, limit: usize) -> Result<u64> {
        as_session!(self, "forgetting notices", session, |tx| forget(&tx, before, limit))
    }

    async fn put_troubles(&self, session: &LedgerSession, troubles: &[Trouble]) -> Result<()> {
        as_session!(self, "telling of upstreams", session, |tx| trouble::put(&tx, session, troubles))
    }

    async fn note_logins(&self, session: &LedgerSession, logins: &[LoginFrom]) -> Result<()> {
        let work = || async {
            let mut tx = Tx::begin_fenced(&self.connections, &self.clock, session, Lane::Records).await?;
            let noted = login_network::note(&mut tx, logins).await;
            tx.end(noted).await
        };
        self.call("noting logins", work).await
    }

    async fn count_denied_senders(&self, session: &LedgerSession, denied: &[DeniedSenders]) -> Result<()> {
        as_session!(self, "counting refused senders", session, |tx| denied_sender::count(&tx, denied))
    }

    async fn report_denied_senders(
        &self,
        session: &LedgerSession,
        every: SignedDuration,
        limit: usize,
    ) -> Result<Vec<DeniedReport>> {
        as_session!(self, "reporting refused senders", session, |tx| denied_sender::report(&tx, every, limit))
    }

    async fn sightings(&self) -> Result<Sightings> {
        self.call("reading what relays say", || async {
            let snapshot = Snapshot::take(&self.connections).await?;
            let found = trouble::sightings(&snapshot).await;
            snapshot.end(found).await
        })
        .await
    }
}

async fn usage(
    connection: &PgConnection,
    policy: PolicyId,
    [from, to]: [Timestamp; 2],
    after: Option<Spender>,
    limit: usize,
) -> Op<Vec<UsageRow>> {
    connection.batch("SET LOCAL statement_timeout = 0").await?;
    let (account, key) =
        after.map_or((None, None), |(account, key)| (Some(account.map_or(PARENT, |account| account.0)), Some(key.0)));
    let found = connection
        .query(
            "SELECT account, key, sum(messages)::bigint, \
                 (sum(charged) - sum(refused) - sum(not_offered))::bigint, sum(priced)::bigint, \
                 sum(relayed)::bigint, sum(refused)::bigint, sum(not_offered)::bigint, sum(unknown)::bigint \
             FROM usage_hour WHERE hour >= $1 AND hour < $2 AND policy = $3 \
                 AND ($4::uuid IS NULL OR (account, key) > ($4, $5::uuid)) \
             GROUP BY account, key ORDER BY account, key LIMIT $6",
            &[&from.as_millisecond(), &to.as_millisecond(), &policy.0, &account, &key, &rows::limit(limit)],
        )
        .await?;
    found.iter().map(usage_row).collect()
}

fn usage_row(row: &Row) -> Op<UsageRow> {
    let account: Uuid = row.try_get(0)?;
    Ok(UsageRow {
        spender: (Some(account).filter(|account| *account != PARENT).map(AccountId), KeyId(row.try_get(1)?)),
        messages: row.try_get(2)?,
        credits: row.try_get(3)?,
        priced_micro: row.try_get(4)?,
        relayed: row.try_get(5)?,
        refused: row.try_get(6)?,
        not_offered: row.try_get(7)?,
        unknown: row.try_get(8)?,
    })
}

async fn put_terms(tx: &Tx, terms: &BillingTerms) -> Op<()> {
    tx.execute(
        "INSERT INTO terms (policy, period, valid_from, valid_to, currency, base_price_minor, \
             price_per_thousand_minor) VALUES ($1, $2, $3, $4, $5, $6, $7) \
         ON CONFLICT (policy, period) DO UPDATE SET valid_from = $3, valid_to = $4, currency = $5, \
             base_price_minor = $6, price_per_thousand_minor = $7",
        &[
            &terms.policy.0,
            &terms.period,
            &terms.from.as_millisecond(),
            &terms.to.as_millisecond(),
            &terms.currency,
            &terms.base_price_minor,
            &terms.price_per_thousand_minor,
        ],
    )
    .await?;
    Ok(())
}

async fn terms(connection: &PgConnection, policy: PolicyId, period: &str) -> Op<Option<BillingTerms>> {
    let row = connection
        .query_opt(
            "SELECT valid_from, valid_to, currency, base_price_minor, price_per_thousand_minor \
             FROM terms WHERE policy = $1 AND period = $2",
            &[&policy.0, &period],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(BillingTerms {
        policy,
        period: period.to_owned(),
        from: rows::instant(row.try_get(0)?)?,
        to: rows::instant(row.try_get(1)?)?,
        currency: row.try_get(2)?,
        base_price_minor: row.try_get(3)?,
        price_per_thousand_minor: row.try_get(4)?,
    }))
}

async fn told(connection: &PgConnection, limits: &[(Holder, Meter)]) -> Op<Vec<Option<Told>>> {
    let (kinds, ids) = rows::columns(limits.iter().map(|(holder, _)| *holder));
    let meters: Vec<&str> = limits.iter().map(|(_, meter)| meter.as_str()).collect();
    let found = connection
        .query(
            "SELECT x.n, t.period, t.threshold, t.granted, t.used \
             FROM unnest($1::smallint[], $2::uuid[], $3::text[]) WITH ORDINALITY x(kind, holder, meter, n) \
             CROSS JOIN LATERAL (SELECT n.period FROM notice n WHERE n.holder = x.holder AND n.kind = x.kind \
                 AND n.meter = x.meter ORDER BY n.id DESC LIMIT 1) newest \
             JOIN notice t ON t.holder = x.holder AND t.kind = x.kind AND t.meter = x.meter \
                 AND t.period = newest.period ORDER BY t.id",
            &[&kinds, &ids, &meters],
        )
        .await?;
    let mut by_number: HashMap<i64, Told> = HashMap::new();
    for row in &found {
        let threshold = threshold(row.try_get(2)?)?;
        match by_number.entry(row.try_get(0)?) {
            std::collections::hash_map::Entry::Occupied(mut known) => {
                let told = known.get_mut();
                told.threshold = told.threshold.max(threshold);
            }
            std::collections::hash_map::Entry::Vacant(new) => {
                let told = Told { period: row.try_get(1)?, threshold, granted: row.try_get(3)?, used: row.try_get(4)? };
                new.insert(told);
            }
        }
    }
    Ok((1..).take(limits.len()).map(|number: i64| by_number.remove(&number)).collect())
}

fn threshold(percent: i16) -> Op<u8> {
    u8::try_from(percent).map_err(|error| Failure::Row(error.to_string()))
}

async fn announce(tx: &Tx, notices: &[(ThresholdNotice, Vec<Channel>)]) -> Op<Vec<bool>> {
    let mut fresh = Vec::with_capacity(notices.len());
    for (notice, channels) in notices.iter().take(NOTICES_MAX) {
        let Topic { holder, meter, period } = &notice.topic;
        let sent = channels.iter().map(|channel| (channel.as_str(), Some(tx.now_ms()), None));
        let remembered = channels.is_empty().then_some((NOWHERE, None, Some(NOWHERE)));
        let mut new = false;
        for (channel, next_at, ended) in sent.chain(remembered) {
            let written = tx
                .execute(
                    "INSERT INTO notice (kind, holder, meter, period, threshold, channel, policy, granted, used, at, \
                         next_at, ended) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
                     ON CONFLICT DO NOTHING",
                    &[
                        &rows::kind_number(holder.kind()),
                        &holder.uuid(),
                        &meter.as_str(),
                        period,
                        &i16::from(notice.threshold),
                        &channel,
                        &notice.policy.0,
                        &notice.granted,
                        &notice.used,
                        &tx.now_ms(),
                        &next_at,
                        &ended,
                    ],
                )
                .await?;
            new |= written == 1;
        }
        fresh.push(new);
    }
    Ok(fresh)
}

async fn claim(tx: &Tx, channel: Channel, limit: usize) -> Op<Vec<Queued>> {
    let found = tx
        .query(
            "WITH due AS ( \
                 SELECT n.id, n.next_at, coalesce(d.body::json #>> '{account,namespace}', n.policy::text) AS tenant \
                 FROM notice n LEFT JOIN directory d ON d.kind = n.kind AND d.id = n.holder \
                 WHERE n.channel = $1 AND n.next_at <= $2 ORDER BY n.next_at, n.id LIMIT $4), \
             turns AS (SELECT id, row_number() OVER (PARTITION BY tenant ORDER BY next_at, id) AS turn FROM due) \
             SELECT n.kind, n.holder, n.id, n.meter, n.period, n.threshold, n.policy, n.granted, n.used, n.at, n.tries \
             FROM turns t JOIN notice n ON n.id = t.id WHERE n.next_at <= $2 \
             ORDER BY t.turn, n.next_at, n.id LIMIT $3 FOR UPDATE OF n SKIP LOCKED",
            &[&channel.as_str(), &tx.now_ms(), &rows::limit(limit), &rows::limit(NOTICES_DUE_MAX)],
        )
        .await?;
    let queued: Vec<Queued> = found.iter().map(queued_row).collect::<Op<_>>()?;
    let ids: Vec<i64> = queued.iter().map(|notice| notice.id).collect();
    let next = |notice: &Queued| tx.now.saturating_add(pause_after(notice.tries)).unwrap_or(Timestamp::MAX);
    let next: Vec<i64> = queued.iter().map(|notice| next(notice).as_millisecond()).collect();
    tx.execute(
        "UPDATE notice n SET tries = n.tries + 1, next_at = x.next_at \
         FROM unnest($1::bigint[], $2::bigint[]) x(id, next_at) WHERE n.id = x.id",
        &[&ids, &next],
    )
    .await?;
    Ok(queued)
}

fn queued_row(row: &Row) -> Op<Queued> {
    let meter: &str = row.try_get(3)?;
    let tries: i32 = row.try_get(10)?;
    let topic = Topic {
        holder: rows::holder(row, 0)?,
        meter: Meter::parse(meter).ok_or_else(|| Failure::Row(format!("unknown meter {meter}")))?,
        period: row.try_get(4)?,
    };
    let notice = ThresholdNotice {
        topic,
        threshold: threshold(row.try_get(5)?)?,
        policy: PolicyId(row.try_get(6)?),
        granted: row.try_get(7)?,
        used: row.try_get(8)?,
    };
    let tries = u32::try_from(tries).unwrap_or(u32::MAX).saturating_add(1);
    Ok(Queued { id: row.try_get(2)?, notice, at: rows::instant(row.try_get(9)?)?, tries })
}

async fn close(tx: &Tx, ended: &[(i64, Ended)]) -> Op<()> {
    let ids: Vec<i64> = ended.iter().map(|(id, _)| *id).collect();
    let words: Vec<&str> = ended.iter().map(|(_, ended)| ended.as_str()).collect();
    tx.execute(
        "UPDATE notice n SET next_at = NULL, ended = x.ended \
         FROM unnest($1::bigint[], $2::text[]) x(id, ended) WHERE n.id = x.id AND n.next_at IS NOT NULL",
        &[&ids, &words],
    )
    .await?;
    Ok(())
}

async fn forget(tx: &Tx, before: Timestamp, limit: usize) -> Op<u64> {
    tx.execute(
        "DELETE FROM notice WHERE id IN \
             (SELECT id FROM notice WHERE next_at IS NULL AND at < $1 ORDER BY at LIMIT $2)",
        &[&before.as_millisecond(), &rows::limit(limit)],
    )
    .await
}
