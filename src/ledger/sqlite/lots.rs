//! Lots: which one holds now, making the next one, and what a changed limit does to the running one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::failure::{Failure, Op};
use super::rows;
use super::write::Tx;
use crate::domain::credit::{Books, Holding, Limit, Lot, LotId, Share, Source, next_lot};
use crate::domain::id::Holder;
use crate::domain::period::{Calendar, Window};
use crate::ledger::store::Usage;

/// The columns in the order that [`row`] reads them, before the rest of a query.
macro_rules! select_lot {
    ($rest:literal) => {
        concat!(
            "SELECT id, kind, holder, period, valid_from, valid_to, part, whole, granted, overhang, consumed, \
             calendar, messages, relayed, refused, not_offered, unknown, last_sent_at FROM lot ",
            $rest
        )
    };
}

/// A lot as stored.
#[derive(Clone, Debug)]
pub struct LotRow {
    pub lot: Lot,
    /// JSON of the calendar that made it.
    calendar: String,
    usage: Usage,
}

impl LotRow {
    /// The usage of its period. What is charged and not refunded is the balance itself.
    pub fn usage(&self) -> Usage {
        Usage { accepted: self.lot.consumed, ..self.usage }
    }
}

fn row(row: &Row<'_>) -> rusqlite::Result<LotRow> {
    let instant = |column| -> rusqlite::Result<Timestamp> {
        let ms = row.get(column)?;
        Timestamp::from_millisecond(ms).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, ms))
    };
    let last_sent: i64 = row.get(17)?;
    Ok(LotRow {
        lot: Lot {
            id: LotId(row.get(0)?),
            holder: rows::holder_at(row, 1)?,
            source: Source::Period,
            window: Window { key: row.get(3)?, from: instant(4)?, to: instant(5)? },
            share: Share { part: row.get(6)?, whole: row.get(7)? },
            granted: row.get(8)?,
            overhang: row.get(9)?,
            consumed: row.get(10)?,
            overage: 0,
            topped: None,
        },
        calendar: row.get(11)?,
        usage: Usage {
            messages: row.get(12)?,
            accepted: 0,
            relayed: row.get(13)?,
            refused: row.get(14)?,
            not_offered: row.get(15)?,
            unknown: row.get(16)?,
            last_sent_at: if last_sent == 0 { None } else { Some(instant(17)?) },
        },
    })
}

/// The latest lot of a holder that began by `at`.
pub fn latest(connection: &Connection, holder: Holder, at: Timestamp) -> Op<Option<LotRow>> {
    let found = connection
        .prepare_cached(select_lot!(
            "WHERE holder = ?1 AND kind = ?2 AND valid_from <= ?3 ORDER BY valid_from DESC LIMIT 1"
        ))?
        .query_row(params![holder.uuid().as_bytes(), holder.kind().as_str(), at.as_millisecond()], row)
        .optional()?;
    Ok(found)
}

fn by_id(connection: &Connection, id: LotId) -> Op<LotRow> {
    Ok(connection.prepare_cached(select_lot!("WHERE id = ?1"))?.query_row([id.0], row)?)
}

fn json(calendar: &Calendar) -> Op<String> {
    serde_json::to_string(calendar).map_err(|error| Failure::Row(error.to_string()))
}

fn granted(limit: &Limit, share: Share) -> Option<i64> {
    limit.credits.map(|credits| share.of(credits))
}

/// The lot that follows `previous` under `limit`, without writing it.
pub fn following(holder: Holder, limit: &Limit, previous: Option<&Lot>, at: Timestamp) -> Lot {
    let new = next_lot(&limit.calendar, previous.map(|lot| (lot.window.to, lot.granted.is_none())), at);
    Lot::of_period(holder, new, limit.credits)
}

impl Tx<'_> {
    /// The running lot of a holder: found, or made.
    pub fn running_lot(&mut self, holder: Holder, limit: &Limit) -> Op<Lot> {
        let latest = latest(self.connection, holder, self.now)?;
        match latest {
            Some(latest) if self.now < latest.lot.window.to => Ok(latest.lot),
            ended => self.make_lot(holder, limit, ended.as_ref().map(|ended| &ended.lot), self.now),
        }
    }

    /// Makes the lot that holds at `at`, which must not be before the end of `previous`.
    pub fn make_lot(&mut self, holder: Holder, limit: &Limit, previous: Option<&Lot>, at: Timestamp) -> Op<Lot> {
        let mut lot = following(holder, limit, previous, at);
        self.connection
            .prepare_cached(
                "INSERT INTO lot (kind, holder, period, valid_from, valid_to, calendar, part, whole, granted) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                holder.kind().as_str(),
                holder.uuid().as_bytes(),
                lot.window.key,
                lot.window.from.as_millisecond(),
                lot.window.to.as_millisecond(),
                json(&limit.calendar)?,
                lot.share.part,
                lot.share.whole,
                lot.granted
            ])?;
        lot.id = LotId(self.connection.last_insert_rowid());
        self.moved(holder)?;
        Ok(lot)
    }

    /// Applies a changed limit. What was prepared for later is made again, under the new limit.
    ///
    /// A lot of the same calendar is granted what the limit says now. A lot of another calendar keeps what it was
    /// granted until it ends; where it limits nothing, it ends now and a full lot of the new calendar begins. A limit
    /// that is taken away is gone at once, and one of nothing holds at once: there is nothing to wait for.
    ///
    /// A lot follows from the limit that held when it began, whether or not anybody has used it yet: where the running
    /// one is not made, it is made from the limit `before`.
    pub fn apply_limit(&mut self, actor: &str, holder: Holder, before: &Limit, limit: &Limit) -> Op<()> {
        self.connection
            .prepare_cached("DELETE FROM lot WHERE holder = ?1 AND kind = ?2 AND valid_from > ?3")?
            .execute(params![holder.uuid().as_bytes(), holder.kind().as_str(), self.now_ms()])?;
        self.running_lot(holder, before)?;
        let Some(running) = latest(self.connection, holder, self.now)? else {
            return Err(Failure::Row(format!("the lot that was made for {holder:?} is gone")));
        };
        if running.calendar == json(&limit.calendar)? {
            self.regrant(actor, running.lot, limit)
        } else if running.lot.granted.is_none() {
            self.cut(actor, running.lot, limit)
        } else if matches!(limit.credits, None | Some(0)) {
            self.regrant(actor, running.lot, limit)
        } else {
            Ok(())
        }
    }

    fn regrant(&mut self, actor: &str, mut lot: Lot, limit: &Limit) -> Op<()> {
        let before = lot.granted;
        let after = granted(limit, lot.share);
        if before == after {
            return Ok(());
        }
        lot.regrant(after);
        self.connection
            .prepare_cached("UPDATE lot SET granted = ?2, overhang = ?3 WHERE id = ?1")?
            .execute(params![lot.id.0, lot.granted, lot.overhang])?;
        self.moved(lot.holder)?;
        let detail = serde_json::json!({
            "lot": lot.id, "period": lot.window.key, "from": before, "to": after, "consumed": lot.consumed,
        });
        self.record(actor, "lot.regranted", Some(lot.holder), &detail)
    }

    /// Ends a lot that limits nothing, now, and begins a full one of the new calendar.
    fn cut(&mut self, actor: &str, mut lot: Lot, limit: &Limit) -> Op<()> {
        let now = self.now;
        let detail = serde_json::json!({ "lot": lot.id, "period": lot.window.key, "consumed": lot.consumed });
        if lot.window.from == now {
            // It began this very millisecond: it becomes the new one, with what it has counted.
            self.rewrite(&mut lot, limit)?;
        } else {
            lot.window.to = now;
            self.connection
                .prepare_cached("UPDATE lot SET valid_to = ?2 WHERE id = ?1")?
                .execute(params![lot.id.0, now.as_millisecond()])?;
            self.make_lot(lot.holder, limit, Some(&lot), now)?;
        }
        self.moved(lot.holder)?;
        self.record(actor, "lot.cut", Some(lot.holder), &detail)
    }

    fn rewrite(&mut self, lot: &mut Lot, limit: &Limit) -> Op<()> {
        let window = limit.calendar.window(self.now);
        lot.regrant(limit.credits);
        self.connection
            .prepare_cached(
                "UPDATE lot SET period = ?2, valid_to = ?3, calendar = ?4, part = 1, whole = 1, granted = ?5, \
                 overhang = ?6 WHERE id = ?1",
            )?
            .execute(params![
                lot.id.0,
                window.key,
                window.to.as_millisecond(),
                json(&limit.calendar)?,
                lot.granted,
                lot.overhang
            ])?;
        Ok(())
    }
}

/// The lots of one call, read once and written once however many messages touch them.
#[derive(Default)]
pub struct Ledgered {
    pub books: Books,
    counted: HashMap<LotId, Usage>,
}

impl Ledgered {
    pub fn open(&mut self, tx: &mut Tx<'_>, holder: Holder, limit: &Limit) -> Op<()> {
        if let Entry::Vacant(unknown) = self.books.holdings.entry(holder) {
            let lot = tx.running_lot(holder, limit)?;
            unknown.insert(Holding::plain(lot.id));
            self.books.lots.insert(lot.id, lot);
        }
        Ok(())
    }

    pub fn lot(&mut self, tx: &Tx<'_>, id: LotId) -> Op<&mut Lot> {
        Ok(match self.books.lots.entry(id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(by_id(tx.connection, id)?.lot),
        })
    }

    /// What is to be added to a lot's counters. A lot that is asked for here is written.
    pub fn count(&mut self, id: LotId) -> &mut Usage {
        self.counted.entry(id).or_default()
    }

    /// Writes what was counted, and the balance of the lots that were looked at.
    pub fn save(self, tx: &Tx<'_>) -> Op<()> {
        let mut counters = tx.connection.prepare_cached(
            "UPDATE lot SET messages = messages + ?2, relayed = relayed + ?3, refused = refused + ?4, \
             not_offered = not_offered + ?5, unknown = unknown + ?6, last_sent_at = max(last_sent_at, ?7) \
             WHERE id = ?1",
        )?;
        let mut both = tx.connection.prepare_cached(
            "UPDATE lot SET messages = messages + ?2, relayed = relayed + ?3, refused = refused + ?4, \
             not_offered = not_offered + ?5, unknown = unknown + ?6, last_sent_at = max(last_sent_at, ?7), \
             consumed = ?8, overhang = ?9 WHERE id = ?1",
        )?;
        for (id, more) in self.counted {
            let last_sent_at = more.last_sent_at.map_or(0, Timestamp::as_millisecond);
            let (messages, relayed, refused) = (more.messages, more.relayed, more.refused);
            let written = match self.books.lots.get(&id) {
                None => counters.execute(params![
                    id.0,
                    messages,
                    relayed,
                    refused,
                    more.not_offered,
                    more.unknown,
                    last_sent_at
                ])?,
                Some(lot) => both.execute(params![
                    id.0,
                    messages,
                    relayed,
                    refused,
                    more.not_offered,
                    more.unknown,
                    last_sent_at,
                    lot.consumed,
                    lot.overhang
                ])?,
            };
            if written != 1 {
                return Err(Failure::Row(format!("lot {} is gone", id.0)));
            }
        }
        Ok(())
    }
}
