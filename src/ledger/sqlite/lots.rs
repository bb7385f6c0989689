//! Lots: which one holds now, making the next one, and what a changed limit does to the running one.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::failure::{Failure, Op};
use super::lot_row::{self, LotRow, select_lot};
use super::write::Tx;
use crate::domain::credit::{Limit, Lot, LotId, Share};
use crate::domain::id::Holder;
use crate::domain::period::Calendar;
use crate::ledger::shelf::following;
use crate::ledger::trail::Note;

/// The latest lot of a holder that began by `at`.
pub fn latest(connection: &Connection, holder: Holder, at: Timestamp) -> Op<Option<LotRow>> {
    let found = connection
        .prepare_cached(select_lot!(
            "WHERE holder = ?1 AND kind = ?2 AND valid_from <= ?3 AND source = 'period' ORDER BY valid_from DESC LIMIT 1"
        ))?
        .query_row(params![holder.uuid().as_bytes(), holder.kind().as_str(), at.as_millisecond()], lot_row::read)
        .optional()?;
    Ok(found)
}

fn json(calendar: &Calendar) -> Op<String> {
    serde_json::to_string(calendar).map_err(|error| Failure::Row(error.to_string()))
}

fn granted(limit: &Limit, share: Share) -> Option<i64> {
    limit.credits.map(|credits| share.of(credits))
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
                lot.window.key.as_str(),
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

    /// Takes back what was prepared for later: nobody has used it.
    pub fn drop_lots_ahead(&mut self, holder: Holder) -> Op<()> {
        self.connection
            .prepare_cached("DELETE FROM lot WHERE holder = ?1 AND kind = ?2 AND valid_from > ?3")?
            .execute(params![holder.uuid().as_bytes(), holder.kind().as_str(), self.now_ms()])?;
        Ok(())
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
        self.drop_lots_ahead(holder)?;
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
            .prepare_cached("UPDATE lot SET granted = ?2, overhang = ?3, consumed = ?4, overage = ?5 WHERE id = ?1")?
            .execute(params![lot.id.0, lot.granted, lot.overhang, lot.consumed, lot.overage])?;
        self.moved(lot.holder)?;
        self.note(actor, lot.holder, &Note::regranted(before, &lot))
    }

    /// Ends a lot that limits nothing, now, and begins a full one of the new calendar.
    fn cut(&mut self, actor: &str, mut lot: Lot, limit: &Limit) -> Op<()> {
        let now = self.now;
        let note = Note::cut(&lot);
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
        self.note(actor, lot.holder, &note)
    }

    fn rewrite(&mut self, lot: &mut Lot, limit: &Limit) -> Op<()> {
        let window = limit.calendar.window(self.now);
        lot.regrant(limit.credits);
        self.connection
            .prepare_cached(
                "UPDATE lot SET period = ?2, valid_to = ?3, calendar = ?4, part = 1, whole = 1, granted = ?5, \
                 overhang = ?6, consumed = ?7, overage = ?8 WHERE id = ?1",
            )?
            .execute(params![
                lot.id.0,
                window.key.as_str(),
                window.to.as_millisecond(),
                json(&limit.calendar)?,
                lot.granted,
                lot.overhang,
                lot.consumed,
                lot.overage
            ])?;
        Ok(())
    }
}
