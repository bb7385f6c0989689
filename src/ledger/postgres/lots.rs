//! Lots read under lock, and written. Transactions that lock several do so by kind and id, so pools come last.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use tokio_postgres::Row;

use super::connection::PgConnection;
use super::failure::{Failure, Op};
use super::history::used_since;
use super::rows::{self, lot_columns};
use super::tx::Tx;
use crate::domain::credit::{Arrivals, Lot, LotId};
use crate::domain::directory::HolderTerms;
use crate::domain::id::{Holder, IdMap};
use crate::ledger::rules::lots::{Lots, RowState, counts_from};

/// Selects, for each holder, the latest period lot that has begun and the lots of other sources.
macro_rules! of_holders {
    ($lock:literal) => {
        concat!(
            "WITH ids AS MATERIALIZED ( \
                 SELECT x.id FROM unnest($1::smallint[], $2::uuid[]) h(kind, id) CROSS JOIN LATERAL ( \
                     (SELECT p.id FROM lot p WHERE p.holder = h.id AND p.kind = h.kind AND p.source = 'period' \
                         AND p.valid_from <= $3 ORDER BY p.valid_from DESC LIMIT 1) \
                     UNION ALL \
                     (SELECT o.id FROM lot o WHERE o.holder = h.id AND o.kind = h.kind AND o.source <> 'period') \
                 ) x) \
             SELECT ",
            lot_columns!(),
            " FROM lot l JOIN ids ON ids.id = l.id ORDER BY l.kind, l.id",
            $lock
        )
    };
}

pub type LotsByHolder = IdMap<Holder, Lots>;

fn by_holder(holders: &[Holder], found: &[Row]) -> Op<LotsByHolder> {
    let mut lots: LotsByHolder = holders.iter().map(|holder| (*holder, Lots::empty(*holder))).collect();
    for row in found {
        let (lot, (calendar, ended)) = (rows::lot(row)?, rows::made_by(row)?);
        if let Some(of_holder) = lots.get_mut(&lot.holder) {
            of_holder.push(lot, calendar, ended);
        }
    }
    Ok(lots)
}

/// Returns the lots of holders at `at`, without locking them.
pub async fn read(connection: &PgConnection, holders: &[Holder], at: Timestamp) -> Op<LotsByHolder> {
    let (kinds, ids) = rows::columns(holders.iter().copied());
    let found = connection.query(of_holders!(""), &[&kinds, &ids, &at.as_millisecond()]).await?;
    by_holder(holders, &found)
}

/// Returns the use that a lot that begins now for these terms has to count.
pub async fn used_under(connection: &PgConnection, lots: &Lots, terms: &HolderTerms<'_>, now: Timestamp) -> Op<i64> {
    match lots.counts_from(terms.limit, now) {
        Some(from) => used_since(connection, terms.holder, from).await,
        None => Ok(0),
    }
}

impl Tx {
    /// Returns the lots of holders now, locked. A caller that was overtaken by an edit retries.
    pub async fn lock_lots_of(&self, holders: &[Holder]) -> Op<LotsByHolder> {
        let (kinds, ids) = rows::columns(holders.iter().copied());
        let found = self.query(of_holders!(" FOR UPDATE OF l"), &[&kinds, &ids, &self.now_ms()]).await?;
        let mut lots = by_holder(holders, &found)?;
        for (holder, arrivals) in self.arrivals(holders).await? {
            if let Some(of_holder) = lots.get_mut(&holder) {
                of_holder.arrival = Some(arrivals.message);
            }
        }
        if lots.values().any(|lots| lots.is_overtaken(self.now)) {
            return Err(Failure::Overtaken);
        }
        Ok(lots)
    }

    /// Returns the arrivals of holders that had a rate. Their running lots must be locked.
    pub async fn arrivals(&self, holders: &[Holder]) -> Op<BTreeMap<Holder, Arrivals>> {
        let (kinds, ids) = rows::columns(holders.iter().copied());
        let found = self
            .query(
                "SELECT t.kind, t.holder, t.arrival, t.given_back FROM tempo t \
                 JOIN unnest($1::smallint[], $2::uuid[]) h(kind, id) ON t.kind = h.kind AND t.holder = h.id",
                &[&kinds, &ids],
            )
            .await?;
        let instant = |micros| Timestamp::from_microsecond(micros).map_err(|error| Failure::Row(error.to_string()));
        let arrivals = |row: &Row| {
            let given_back: Option<i64> = row.try_get(3)?;
            let arrivals =
                Arrivals { message: instant(row.try_get(2)?)?, given_back: given_back.map(instant).transpose()? };
            Ok((rows::holder(row, 0)?, arrivals))
        };
        found.iter().map(arrivals).collect()
    }

    /// Writes the arrivals of holders after messages were given back. Their rows exist.
    pub async fn write_given_back(&self, arrivals: BTreeMap<Holder, Arrivals>) -> Op<()> {
        let (kinds, ids) = rows::columns(arrivals.keys().copied());
        let messages: Vec<i64> = arrivals.values().map(|arrivals| arrivals.message.as_microsecond()).collect();
        let given_back: Vec<Option<i64>> =
            arrivals.values().map(|arrivals| arrivals.given_back.map(Timestamp::as_microsecond)).collect();
        self.execute(
            "UPDATE tempo t SET arrival = x.arrival, given_back = x.given_back \
             FROM unnest($1::smallint[], $2::uuid[], $3::bigint[], $4::bigint[]) x(kind, holder, arrival, given_back) \
             WHERE t.kind = x.kind AND t.holder = x.holder",
            &[&kinds, &ids, &messages, &given_back],
        )
        .await?;
        Ok(())
    }

    /// Writes the arrivals of the next messages, and leaves those for messages that are given back.
    pub async fn write_arrivals(&self, arrivals: impl IntoIterator<Item = (Holder, Timestamp)>) -> Op<()> {
        let moved = arrivals.into_iter().map(|(holder, arrival)| (holder, arrival.as_microsecond()));
        let (holders, arrivals): (Vec<Holder>, Vec<i64>) = moved.unzip();
        if holders.is_empty() {
            return Ok(());
        }
        let (kinds, ids) = rows::columns(holders);
        self.execute(
            "INSERT INTO tempo AS t (kind, holder, arrival) \
             SELECT * FROM unnest($1::smallint[], $2::uuid[], $3::bigint[]) x(kind, holder, arrival) ORDER BY 1, 2 \
             ON CONFLICT (kind, holder) DO UPDATE SET arrival = excluded.arrival",
            &[&kinds, &ids, &arrivals],
        )
        .await?;
        Ok(())
    }

    /// Makes the missing lots that messages of these terms are charged to; they get their ids when they are inserted.
    pub async fn run(&self, lots: &mut Lots, terms: &HolderTerms<'_>) -> Op<()> {
        let used = used_under(self, lots, terms, self.now).await?;
        lots.run(terms, used, self.now);
        Ok(())
    }

    /// Returns lots, locked, each with a flag that is true if an edit has ended it.
    pub async fn lock_lots(&self, ids: &[i64]) -> Op<HashMap<LotId, (Lot, bool)>> {
        let found = self
            .query(
                concat!(
                    "SELECT ",
                    lot_columns!(),
                    " FROM lot l WHERE l.id = ANY ($1) ORDER BY l.kind, l.id FOR UPDATE"
                ),
                &[&ids],
            )
            .await?;
        let locked = |row| {
            let (lot, (_, ended)) = (rows::lot(row)?, rows::made_by(row)?);
            Ok((lot.id, (lot, ended)))
        };
        found.iter().map(locked).collect()
    }

    /// Returns, for each of these that is a period's lot, the one that runs now for its holder: itself or a later one.
    pub async fn running_beside(&self, ids: &[i64]) -> Op<HashMap<LotId, LotId>> {
        let found = self
            .query(
                "SELECT l.id, r.id FROM lot l CROSS JOIN LATERAL ( \
                     SELECT p.id FROM lot p WHERE p.holder = l.holder AND p.kind = l.kind AND p.source = 'period' \
                         AND NOT p.ended AND p.valid_from <= greatest($2, (SELECT max(at) FROM beat)) \
                         ORDER BY p.valid_from DESC LIMIT 1) r \
                 WHERE l.id = ANY ($1) AND l.source = 'period'",
                &[&ids, &self.now_ms()],
            )
            .await?;
        found.iter().map(|row| Ok((LotId(row.try_get(0)?), LotId(row.try_get(1)?)))).collect()
    }

    /// Inserts the lots that are new, giving them their ids. A lot that another process made first is found by a retry.
    pub async fn insert_new(&self, lots: &mut LotsByHolder) -> Op<()> {
        let mut new: Vec<_> =
            lots.values_mut().flat_map(Lots::all_mut).filter(|row| row.state == RowState::New).collect();
        if new.is_empty() {
            return Ok(());
        }
        new.sort_by_key(|row| (row.lot.holder, row.lot.source.clone(), row.lot.begun));
        let (kinds, holders) = rows::columns(new.iter().map(|row| row.lot.holder));
        let sources: Vec<String> = new.iter().map(|row| row.lot.source.word()).collect();
        let periods: Vec<&str> = new.iter().map(|row| row.lot.window.key.as_str()).collect();
        let column =
            |read: fn(&Lot) -> Option<i64>| -> Vec<Option<i64>> { new.iter().map(|row| read(&row.lot)).collect() };
        let calendars: Vec<&str> = new.iter().map(|row| row.calendar.as_str()).collect();
        let made = self
            .query(
                "INSERT INTO lot (kind, holder, source, period, calendar, valid_from, valid_to, counts_from, granted, \
                     overhang, consumed, carried, overage, topped_total, topped_until, part, whole) \
                 SELECT x.*, 1, 1 FROM unnest($1::smallint[], $2::uuid[], $3::text[], $4::text[], $5::text[], \
                     $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], \
                     $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[]) x \
                 ON CONFLICT DO NOTHING RETURNING id, kind, holder, source, valid_from",
                &[
                    &kinds,
                    &holders,
                    &sources,
                    &periods,
                    &calendars,
                    &column(|lot| Some(lot.begun.as_millisecond())),
                    &column(|lot| Some(lot.window.to.as_millisecond())),
                    &column(counts_from),
                    &column(|lot| lot.granted),
                    &column(|lot| Some(lot.overdraft)),
                    &column(|lot| Some(lot.consumed)),
                    &column(|lot| Some(lot.carried)),
                    &column(|lot| Some(lot.overage)),
                    &column(|lot| lot.topped.map(|topped| topped.total)),
                    &column(|lot| lot.topped.map(|topped| topped.until.as_millisecond())),
                ],
            )
            .await?;
        if made.len() != new.len() {
            return Err(Failure::Overtaken);
        }
        let mut ids: HashMap<(Holder, String, i64), i64> = HashMap::with_capacity(made.len());
        for row in &made {
            ids.insert((rows::holder(row, 1)?, row.try_get(3)?, row.try_get(4)?), row.try_get(0)?);
        }
        for row in new {
            let lot = &mut row.lot;
            let id = ids.get(&(lot.holder, lot.source.word(), lot.begun.as_millisecond()));
            lot.id = LotId(*id.ok_or_else(|| Failure::Row("a lot that was made did not come back".to_owned()))?);
            row.state = RowState::Clean;
        }
        Ok(())
    }

    /// Writes the lots that changed.
    pub async fn write_changed(&self, lots: &LotsByHolder) -> Op<()> {
        let changed: Vec<_> = lots.values().flat_map(Lots::all).filter(|row| row.state == RowState::Changed).collect();
        if changed.is_empty() {
            return Ok(());
        }
        let column =
            |read: fn(&Lot) -> Option<i64>| -> Vec<Option<i64>> { changed.iter().map(|row| read(&row.lot)).collect() };
        let periods: Vec<&str> = changed.iter().map(|row| row.lot.window.key.as_str()).collect();
        let calendars: Vec<&str> = changed.iter().map(|row| row.calendar.as_str()).collect();
        let written = self
            .execute(
                "UPDATE lot l SET period = x.period, calendar = x.calendar, ended = x.ended, valid_to = x.valid_to, \
                     counts_from = x.counts_from, granted = x.granted, overhang = x.overhang, consumed = x.consumed, \
                     carried = x.carried, overage = x.overage, topped_total = x.topped_total, \
                     topped_until = x.topped_until \
                 FROM unnest($1::bigint[], $2::text[], $3::text[], $4::boolean[], $5::bigint[], $6::bigint[], \
                     $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], \
                     $13::bigint[]) \
                     x(id, period, calendar, ended, valid_to, counts_from, granted, overhang, consumed, carried, \
                     overage, topped_total, topped_until) \
                 WHERE l.id = x.id",
                &[
                    &column(|lot| Some(lot.id.0)),
                    &periods,
                    &calendars,
                    &changed.iter().map(|row| row.ended).collect::<Vec<bool>>(),
                    &column(|lot| Some(lot.window.to.as_millisecond())),
                    &column(counts_from),
                    &column(|lot| lot.granted),
                    &column(|lot| Some(lot.overdraft)),
                    &column(|lot| Some(lot.consumed)),
                    &column(|lot| Some(lot.carried)),
                    &column(|lot| Some(lot.overage)),
                    &column(|lot| lot.topped.map(|topped| topped.total)),
                    &column(|lot| lot.topped.map(|topped| topped.until.as_millisecond())),
                ],
            )
            .await?;
        if written == changed.len() as u64 { Ok(()) } else { Err(Failure::Row("a lot is gone".to_owned())) }
    }

    /// Writes only the balances, which a charge or a refund moves.
    pub async fn write_balances<'a>(&self, lots: impl Iterator<Item = &'a Lot> + Clone) -> Op<()> {
        let column = |read: fn(&Lot) -> i64| -> Vec<i64> { lots.clone().map(read).collect() };
        let ids = column(|lot| lot.id.0);
        if ids.is_empty() {
            return Ok(());
        }
        let written = self
            .execute(
                "UPDATE lot l SET consumed = x.consumed, overage = x.overage, overhang = x.overhang, \
                     carried = x.carried \
                 FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[]) \
                     x(id, consumed, overage, overhang, carried) WHERE l.id = x.id",
                &[
                    &ids,
                    &column(|lot| lot.consumed),
                    &column(|lot| lot.overage),
                    &column(|lot| lot.overdraft),
                    &column(|lot| lot.carried),
                ],
            )
            .await?;
        if written == ids.len() as u64 { Ok(()) } else { Err(Failure::Row("a lot is gone".to_owned())) }
    }
}
