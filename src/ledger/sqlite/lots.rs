//! The lots of a holder: read, and written as the rulebook marked them.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::failure::{Failure, Op};
use super::lot_row::{self, LotRow, select_lot};
use super::usage::used_since;
use super::write::Tx;
use crate::domain::credit::{Limit, Lot, LotId, Source};
use crate::domain::directory::HolderTerms;
use crate::domain::id::Holder;
use crate::ledger::audit::LEDGER;
use crate::ledger::rules::lots::{Lots, Row, RowState, counts_from};
use crate::ledger::rules::sources::{Planned, missing_spend};

/// The place of lots of other sources in the index of period lots: some 30,000 years before any, each two milliseconds
/// before the last, so that they never overlap and schema 1 never takes one for a running lot.
const OUTSIDE_MS: i64 = -1_000_000_000_000_000;

/// Returns the latest lot of a holder's periods that began by `at`.
pub fn latest(connection: &Connection, holder: Holder, at: Timestamp) -> Op<Option<LotRow>> {
    let found = connection
        .prepare_cached(select_lot!(
            "WHERE holder = ?1 AND kind = ?2 AND valid_from <= ?3 AND source = 'period' ORDER BY valid_from DESC LIMIT 1"
        ))?
        .query_row(params![holder.uuid().as_bytes(), holder.kind().as_str(), at.as_millisecond()], lot_row::read)
        .optional()?;
    Ok(found)
}

/// Returns the lots of other sources that a batch is judged by: neither taken back nor expired.
pub fn live(connection: &Connection, holder: Holder, now: Timestamp) -> Op<Vec<Lot>> {
    let mut statement = connection.prepare_cached(select_lot!(
        "WHERE holder = ?1 AND kind = ?2 AND source <> 'period' AND (granted > 0 OR source IN ('spend', 'topup')) \
         AND (expires_at IS NULL OR expires_at > ?3)"
    ))?;
    let (id, kind) = (holder.uuid(), holder.kind().as_str());
    let found = statement.query_map(params![id.as_bytes(), kind, now.as_millisecond()], lot_row::read)?;
    found.map(|row| Ok(row?.lot)).collect()
}

/// Wraps a holder's latest lot for the rulebook.
pub fn of_latest(holder: Holder, latest: Option<LotRow>) -> Lots {
    let mut lots = Lots::empty(holder);
    if let Some(LotRow { lot, calendar, .. }) = latest {
        // Time never runs backwards here: no caller's time lies in a lot that an edit ended.
        lots.push(lot, calendar, false);
    }
    lots
}

fn latest_of(connection: &Connection, holder: Holder, at: Timestamp) -> Op<Lots> {
    Ok(of_latest(holder, latest(connection, holder, at)?))
}

/// Reads the same with all lots of other sources.
pub fn read(connection: &Connection, holder: Holder, at: Timestamp) -> Op<Lots> {
    let mut lots = latest_of(connection, holder, at)?;
    let mut statement =
        connection.prepare_cached(select_lot!("WHERE holder = ?1 AND kind = ?2 AND source <> 'period' ORDER BY id"))?;
    let found = statement.query_map(params![holder.uuid().as_bytes(), holder.kind().as_str()], lot_row::read)?;
    for row in found {
        let LotRow { lot, calendar, .. } = row?;
        lots.push(lot, calendar, false);
    }
    Ok(lots)
}

impl Tx<'_> {
    /// Returns the running lot of a holder: found, or made.
    pub fn running_lot(&mut self, terms: &HolderTerms<'_>) -> Op<Lot> {
        let holder = terms.holder;
        let mut lots = latest_of(self.connection, holder, self.now)?;
        let used = self.used_under(&lots, terms)?;
        // The lots of other sources are not read here.
        lots.run(&HolderTerms { priced: false, ..terms.clone() }, used, self.now);
        self.write_lots(holder, &mut lots)?;
        let running = lots.running(self.now).cloned();
        running.ok_or_else(|| Failure::Row(format!("the lot that was made for {holder:?} is gone")))
    }

    /// Returns the use that a lot that begins now for these terms has to count.
    pub fn used_under(&self, lots: &Lots, terms: &HolderTerms<'_>) -> Op<i64> {
        let from = lots.counts_from(terms.limit, self.now);
        from.map_or(Ok(0), |from| used_since(self.connection, terms.holder, from))
    }

    /// Makes the lot that counts an account's money if it is missing.
    pub fn count_money(&mut self, terms: &HolderTerms<'_>, others: &mut Vec<Lot>) -> Op<()> {
        if let Some(mut spend) = missing_spend(terms, others.iter()) {
            spend.id = self.insert_source(&spend)?;
            self.moved(terms.holder)?;
            others.push(spend);
        }
        Ok(())
    }

    /// Makes the lots that follow each other until `until`. Returns how many were made.
    pub fn prepare_holder(&mut self, holder: Holder, limit: &Limit, until: Timestamp) -> Op<u64> {
        let mut lots = latest_of(self.connection, holder, until)?;
        let made = lots.prepare(limit, self.now, until);
        self.write_lots(holder, &mut lots)?;
        Ok(made)
    }

    /// Deletes the lots that were made ahead: they are unused.
    pub fn drop_lots_ahead(&mut self, holder: Holder) -> Op<()> {
        self.connection
            .prepare_cached("DELETE FROM lot WHERE holder = ?1 AND kind = ?2 AND valid_from > ?3")?
            .execute(params![holder.uuid().as_bytes(), holder.kind().as_str(), self.now_ms()])?;
        Ok(())
    }

    /// Writes the lots that are marked; new ones get their ids.
    pub fn write_lots(&mut self, holder: Holder, lots: &mut Lots) -> Op<()> {
        if !lots.has_changes() {
            return Ok(());
        }
        // Ended lots first: if one is cut, the next begins at the same instant.
        for row in lots.all().filter(|row| row.state == RowState::Changed) {
            self.update_lot(row)?;
        }
        for row in lots.all_mut().filter(|row| row.state == RowState::New) {
            row.lot.id = self.insert_lot(row)?;
        }
        lots.is_written();
        self.moved(holder)
    }

    fn insert_lot(&self, row: &Row) -> Op<LotId> {
        let lot = &row.lot;
        match lot.source {
            Source::Period => self.insert_period(lot, &row.calendar),
            Source::Spend | Source::Grant(_) | Source::TopUp => self.insert_source(lot),
        }
    }

    fn insert_period(&self, lot: &Lot, calendar: &str) -> Op<LotId> {
        // `part` and `whole` belong to earlier schemas, whose short lots were granted in proportion.
        self.connection
            .prepare_cached(
                "INSERT INTO lot (kind, holder, period, valid_from, valid_to, counts_from, calendar, part, whole, \
                 granted, overhang, consumed, carried, overage) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1, 1, ?8, ?9, ?10, ?11, ?12)",
            )?
            .execute(params![
                lot.holder.kind().as_str(),
                lot.holder.uuid().as_bytes(),
                lot.window.key.as_str(),
                lot.begun.as_millisecond(),
                lot.window.to.as_millisecond(),
                counts_from(lot),
                calendar,
                lot.granted,
                lot.overdraft,
                lot.consumed,
                lot.carried,
                lot.overage
            ])?;
        Ok(LotId(self.connection.last_insert_rowid()))
    }

    fn insert_source(&self, lot: &Lot) -> Op<LotId> {
        self.connection
            .prepare_cached(
                "INSERT INTO lot (kind, holder, period, valid_from, valid_to, calendar, part, whole, granted, source, \
                 expires_at, topped_until, topped_total) \
                 SELECT ?1, ?2, ?3, ?4 - 2 * count(*), ?4 - 2 * count(*) + 1, '', 1, 1, ?5, ?6, ?7, ?8, ?9 \
                 FROM lot WHERE kind = ?1 AND holder = ?2 AND source <> 'period'",
            )?
            .execute(params![
                lot.holder.kind().as_str(),
                lot.holder.uuid().as_bytes(),
                lot.window.key.as_str(),
                OUTSIDE_MS,
                lot.granted,
                lot.source.word(),
                lot.expires_at().map(Timestamp::as_millisecond),
                lot.topped.map(|topped| topped.until.as_millisecond()),
                lot.topped.map(|topped| topped.total)
            ])?;
        Ok(LotId(self.connection.last_insert_rowid()))
    }

    fn update_lot(&self, row: &Row) -> Op<()> {
        let lot = &row.lot;
        match lot.source {
            Source::Period => self.update_period(lot, &row.calendar),
            Source::Spend | Source::Grant(_) | Source::TopUp => self.update_source(lot),
        }
    }

    fn update_period(&self, lot: &Lot, calendar: &str) -> Op<()> {
        let written = self
            .connection
            .prepare_cached(
                "UPDATE lot SET period = ?2, valid_to = ?3, counts_from = ?4, calendar = ?5, granted = ?6, \
                 overhang = ?7, consumed = ?8, carried = ?9, overage = ?10 WHERE id = ?1",
            )?
            .execute(params![
                lot.id.0,
                lot.window.key.as_str(),
                lot.window.to.as_millisecond(),
                counts_from(lot),
                calendar,
                lot.granted,
                lot.overdraft,
                lot.consumed,
                lot.carried,
                lot.overage
            ])?;
        if written == 1 { Ok(()) } else { Err(gone(lot)) }
    }

    fn update_source(&self, lot: &Lot) -> Op<()> {
        let written = self
            .connection
            .prepare_cached(
                "UPDATE lot SET granted = ?2, overhang = ?3, consumed = ?4, overage = ?5, expires_at = ?6, \
                 topped_until = ?7, topped_total = ?8 WHERE id = ?1",
            )?
            .execute(params![
                lot.id.0,
                lot.granted,
                lot.overdraft,
                lot.consumed,
                lot.overage,
                lot.expires_at().map(Timestamp::as_millisecond),
                lot.topped.map(|topped| topped.until.as_millisecond()),
                lot.topped.map(|topped| topped.total)
            ])?;
        if written == 1 { Ok(()) } else { Err(gone(lot)) }
    }

    /// Writes a lot that received a top-up, and its notes in the trail.
    pub fn write_topped_up(&mut self, planned: Planned) -> Op<()> {
        let Planned { lot, notes } = planned;
        self.update_source(&lot)?;
        self.moved(lot.holder)?;
        for note in notes {
            self.note(LEDGER, lot.holder, &note)?;
        }
        Ok(())
    }
}

fn gone(lot: &Lot) -> Failure {
    Failure::Row(format!("lot {} is gone", lot.id.0))
}
