//! Reads without writing, each in one snapshot of the database.

use std::collections::HashMap;

use jiff::Timestamp;

use super::connection::PgConnection;
use super::failure::{Failure, Op};
use super::pool::{Connections, Lease};
use super::tx::{Clock, clock_ms};
use super::{identity, lots, rows};
use crate::domain::credential::Username;
use crate::domain::credit::{LotId, Source};
use crate::domain::directory::{Directory, Entry, Named};
use crate::domain::id::{Holder, KeyId};
use crate::ledger::rules::balance::balance;
use crate::ledger::store::{Balance, Changes, Discrepancy, Event, LedgerTime, Usage};

/// Maximum rows of the audit trail in one answer.
const EVENTS_MAX: usize = 1_000;

/// One snapshot of the database for several statements.
pub struct Snapshot(Lease);

impl std::ops::Deref for Snapshot {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl Snapshot {
    pub async fn take(connections: &Connections) -> Op<Self> {
        let connection = Lease::take(connections).await?;
        connection.batch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        Ok(Self(connection))
    }

    pub async fn end<T>(self, result: Op<T>) -> Op<T> {
        if self.batch("ROLLBACK").await.is_ok() {
            self.0.give_back();
        }
        result
    }

    /// Returns the ledger's time beside the given clock, or the server's.
    pub async fn time(&self, clock: &Clock) -> Op<LedgerTime> {
        let row = self
            .query_one(
                "SELECT ledger_now($1), coalesce($1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint)",
                &[&clock_ms(clock)],
            )
            .await?;
        Ok(LedgerTime { ledger: rows::instant(row.try_get(0)?)?, clock: rows::instant(row.try_get(1)?)? })
    }

    pub async fn now(&self, clock: &Clock) -> Op<Timestamp> {
        rows::instant(self.query_one("SELECT ledger_now($1)", &[&clock_ms(clock)]).await?.try_get(0)?)
    }
}

/// Reads the changes of the directory. A transaction that writes entries holds the row of the epoch until it has
/// committed, so an epoch that is read here comes with every entry up to it.
pub async fn changes(connection: &PgConnection, after: i64) -> Op<Changes> {
    let epoch = connection.query_one("SELECT config_epoch FROM meta", &[]).await?.try_get(0)?;
    let tag = identity::tag(connection).await?;
    if epoch <= after {
        return Ok(Changes { entries: vec![], epoch, tag });
    }
    let found = connection
        .query("SELECT body FROM directory WHERE epoch > $1 AND epoch <= $2 ORDER BY epoch", &[&after, &epoch])
        .await?;
    let entries = found.iter().map(|row| rows::parse_entry(row.try_get(0)?)).collect::<Op<_>>()?;
    Ok(Changes { entries, epoch, tag })
}

pub async fn find_sender(connection: &PgConnection, username: &Username) -> Op<Option<Named>> {
    identity::refuse_unless_open(identity::tag(connection).await?.state)?;
    // A username that was given again belongs to the key that is not removed.
    let row = connection
        .query_opt(
            "SELECT id FROM directory WHERE username = $1 ORDER BY removed, epoch DESC LIMIT 1",
            &[&username.as_str()],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let id = KeyId(row.try_get(0)?);
    let mut directory = Directory::default();
    let mut next = Some(Holder::Key(id));
    while let Some(holder) = next {
        let Some(entry) = rows::entry(connection, holder).await? else { break };
        next = entry.parent();
        directory.apply(entry);
    }
    Ok(directory.named(id))
}

pub async fn balances(connection: &PgConnection, holders: &[Holder], now: Timestamp) -> Op<Vec<Balance>> {
    identity::refuse_held(identity::tag(connection).await?.state)?;
    let entries = entries(connection, holders).await?;
    let known: Vec<Holder> = holders.iter().copied().filter(|holder| entries.contains_key(holder)).collect();
    let mut lots_of = lots::read(connection, &known, now).await?;
    for (holder, of_holder) in &mut lots_of {
        // If no message was sent in this period yet: the lots that the first one would find.
        let terms = entries[holder].terms();
        let used = lots::used_under(connection, of_holder, &terms, now).await?;
        of_holder.run(&terms, used, now);
    }
    let running: Vec<i64> = lots_of.values().filter_map(|of_holder| Some(of_holder.running(now)?.id.0)).collect();
    let usage = usage_of(connection, &running).await?;
    let prices = prices(connection, &entries).await?;
    let mut balances = Vec::with_capacity(known.len());
    for holder in known {
        let (terms, of_holder) = (entries[&holder].terms(), &lots_of[&holder]);
        let Some(lot) = of_holder.running(now).cloned() else { continue };
        let counted = usage.get(&lot.id).copied().unwrap_or_default();
        let usage = Usage { accepted: lot.charged(), ..counted };
        let price = prices.get(&holder).copied().unwrap_or(0);
        balances.push(balance(&terms, lot, usage, of_holder.others(), price, now));
    }
    Ok(balances)
}

pub async fn entries(connection: &PgConnection, holders: &[Holder]) -> Op<HashMap<Holder, Entry>> {
    let (kinds, ids) = rows::columns(holders.iter().copied());
    let found = connection
        .query(
            "SELECT d.body FROM directory d JOIN unnest($1::smallint[], $2::uuid[]) h(kind, id) \
             ON d.kind = h.kind AND d.id = h.id",
            &[&kinds, &ids],
        )
        .await?;
    found
        .iter()
        .map(|row| {
            let entry = rows::parse_entry(row.try_get(0)?)?;
            Ok((entry.holder(), entry))
        })
        .collect()
}

/// Returns the price of a credit for each account that has a spend limit.
async fn prices(connection: &PgConnection, entries: &HashMap<Holder, Entry>) -> Op<HashMap<Holder, i64>> {
    let policy_of = |entry: &Entry| match entry {
        Entry::Account(account) if account.spend_limit_micro.is_some() => Some(Holder::Policy(account.policy)),
        Entry::Account(_) | Entry::Policy(_) | Entry::Key(_) => None,
    };
    let policies: Vec<Holder> = entries.values().filter_map(policy_of).collect();
    if policies.is_empty() {
        return Ok(HashMap::new());
    }
    let policies = self::entries(connection, &policies).await?;
    let price = |entry: &Entry| match policies.get(&policy_of(entry)?)? {
        Entry::Policy(policy) => Some(policy.unit_price()),
        Entry::Account(_) | Entry::Key(_) => None,
    };
    Ok(entries.iter().filter_map(|(holder, entry)| Some((*holder, price(entry)?))).collect())
}

/// Returns the usage of lots: what the rollup has counted, and what it has not taken yet.
async fn usage_of(connection: &PgConnection, lots: &[i64]) -> Op<HashMap<LotId, Usage>> {
    let found = connection
        .query(
            "SELECT x.lot, sum(messages)::bigint, sum(relayed)::bigint, sum(refused)::bigint, \
                 sum(not_offered)::bigint, sum(unknown)::bigint, max(sent_at)::bigint \
             FROM ( \
                 SELECT lot, messages, relayed, refused, not_offered, unknown, last_sent_at AS sent_at \
                 FROM lot_usage WHERE lot = ANY ($1) \
                 UNION ALL \
                 SELECT y.lot, 1, 0, 0, 0, 0, 0 FROM rolled c, reservation v \
                     CROSS JOIN LATERAL (VALUES (v.key_lot), (v.account_lot), (v.policy_lot)) y(lot) \
                 WHERE v.xid >= c.low AND (v.xid >= c.high OR v.xid = ANY (c.running)) AND y.lot = ANY ($1) \
                 UNION ALL \
                 SELECT y.lot, CASE WHEN s.outcome IN (2, 3) THEN -1 ELSE 0 END, \
                     CASE WHEN s.outcome = 1 THEN v.credits ELSE 0 END, \
                     CASE WHEN s.outcome = 2 THEN v.credits ELSE 0 END, \
                     CASE WHEN s.outcome = 3 THEN v.credits ELSE 0 END, \
                     CASE WHEN s.outcome = 4 THEN v.credits ELSE 0 END - CASE WHEN s.correction THEN v.credits ELSE 0 END, \
                     CASE WHEN s.outcome = 1 THEN s.at ELSE 0 END \
                 FROM rolled c, settlement s JOIN reservation v ON v.day = s.day AND v.message = s.message \
                     CROSS JOIN LATERAL (VALUES (v.key_lot), (v.account_lot), (v.policy_lot)) y(lot) \
                 WHERE s.xid >= c.low AND (s.xid >= c.high OR s.xid = ANY (c.running)) AND y.lot = ANY ($1) \
             ) x GROUP BY x.lot",
            &[&lots],
        )
        .await?;
    let mut usage = HashMap::with_capacity(found.len());
    for row in &found {
        let last_sent: i64 = row.try_get(6)?;
        let counted = Usage {
            messages: row.try_get(1)?,
            accepted: 0,
            relayed: row.try_get(2)?,
            refused: row.try_get(3)?,
            not_offered: row.try_get(4)?,
            unknown: row.try_get(5)?,
            last_sent_at: if last_sent == 0 { None } else { Some(rows::instant(last_sent)?) },
        };
        usage.insert(LotId(row.try_get(0)?), counted);
    }
    Ok(usage)
}

pub async fn moved(connection: &PgConnection, cursor: i64, limit: usize) -> Op<(Vec<Holder>, i64)> {
    let found = connection
        .query("SELECT kind, id, seq FROM moved WHERE seq > $1 ORDER BY seq LIMIT $2", &[&cursor, &rows::limit(limit)])
        .await?;
    let next = found.last().map_or(Ok(cursor), |row| row.try_get(2))?;
    Ok((found.iter().map(|row| rows::holder(row, 0)).collect::<Op<_>>()?, next))
}

pub async fn events(connection: &PgConnection, after: i64, limit: usize) -> Op<Vec<Event>> {
    let found = connection
        .query(
            "SELECT seq, at, actor, kind, detail, holder_kind, holder FROM event WHERE seq > $1 ORDER BY seq LIMIT $2",
            &[&after, &rows::limit(limit.min(EVENTS_MAX))],
        )
        .await?;
    let event = |row: &tokio_postgres::Row| {
        let about_nobody = row.try_get::<_, Option<i16>>(5)?.is_none();
        Ok(Event {
            seq: row.try_get(0)?,
            at: rows::instant(row.try_get(1)?)?,
            actor: row.try_get(2)?,
            kind: row.try_get(3)?,
            detail: serde_json::from_str(row.try_get(4)?).map_err(|error| Failure::Row(error.to_string()))?,
            holder: if about_nobody { None } else { Some(rows::holder(row, 5)?) },
        })
    };
    found.iter().map(event).collect()
}

/// Recomputes every balance from reservations and the settlements that hold, with adjustments and seals, beside the
/// lot's own balance without what it carries.
const RECOMPUTED: &str = "
    WITH final AS (
        SELECT DISTINCT ON (day, message) day, message, outcome FROM settlement ORDER BY day, message, correction DESC
    ), kept AS (
        SELECT v.* FROM reservation v LEFT JOIN final f ON f.day = v.day AND f.message = v.message
        WHERE f.outcome IS NULL OR f.outcome NOT IN (2, 3)
    ), charged AS (
        SELECT x.lot, sum(x.amount)::bigint AS amount FROM (
            SELECT y.lot, k.credits AS amount FROM kept k
                CROSS JOIN LATERAL (VALUES (k.key_lot), (k.account_lot), (k.policy_lot)) y(lot)
            UNION ALL
            SELECT k.more[i], k.more[i + 1] FROM kept k
                CROSS JOIN LATERAL generate_series(1, cardinality(k.more), 2) i
            UNION ALL SELECT a.lot, a.credits FROM adjustment a
            UNION ALL SELECT s.lot, s.amount FROM seal s
        ) x GROUP BY x.lot
    )
    SELECT coalesce(l.kind, 3::smallint), coalesce(l.holder, '00000000-0000-0000-0000-000000000000'::uuid),
        coalesce(l.id, c.lot), coalesce(l.consumed + l.overage - l.carried, 0), coalesce(c.amount, 0),
        coalesce(l.source, 'period')
    FROM lot l FULL JOIN charged c ON c.lot = l.id
    WHERE coalesce(l.consumed + l.overage - l.carried, 0) <> coalesce(c.amount, 0)";

pub async fn check(connection: &PgConnection) -> Op<Vec<Discrepancy>> {
    connection.batch("SET LOCAL statement_timeout = 0").await?;
    let found = connection.query(RECOMPUTED, &[]).await?;
    let discrepancy = |row: &tokio_postgres::Row| {
        let holder = rows::holder(row, 0)?;
        let source: String = row.try_get(5)?;
        let source = Source::parse(&source).ok_or_else(|| Failure::Row(format!("unknown source {source}")))?;
        Ok(Discrepancy {
            lot: LotId(row.try_get(2)?),
            holder,
            meter: source.meter(holder).unwrap_or(crate::domain::credit::Meter::of_period(holder)),
            consumed: row.try_get(3)?,
            recomputed: row.try_get(4)?,
        })
    };
    found.iter().map(discrepancy).collect()
}
