//! The lots that a holder has beside its period's.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::failure::{Failure, Op};
use super::lot_row::{self, select_lot};
use super::write::Tx;
use crate::domain::credit::{Lot, LotId};
use crate::domain::directory::Entry;
use crate::domain::id::Holder;
use crate::ledger::sources::{Planned, concerns, plan};

/// Where these lots lie in the index of period lots: some 30,000 years before any, each two milliseconds before the
/// last, so that they never overlap and schema 1 never takes one for a running lot.
const OUTSIDE_MS: i64 = -1_000_000_000_000_000;

/// Those that a batch is judged by: neither taken back nor expired.
pub fn live(connection: &Connection, holder: Holder, now: Timestamp) -> Op<Vec<Lot>> {
    let mut statement = connection.prepare_cached(select_lot!(
        "WHERE holder = ?1 AND kind = ?2 AND source <> 'period' AND (granted > 0 OR source IN ('spend', 'topup')) \
         AND (expires_at IS NULL OR expires_at > ?3)"
    ))?;
    let (id, kind) = (holder.uuid(), holder.kind().as_str());
    let found = statement.query_map(params![id.as_bytes(), kind, now.as_millisecond()], lot_row::read)?;
    found.map(|row| Ok(row?.lot)).collect()
}

fn all(connection: &Connection, holder: Holder) -> Op<Vec<Lot>> {
    let mut statement =
        connection.prepare_cached(select_lot!("WHERE holder = ?1 AND kind = ?2 AND source <> 'period' ORDER BY id"))?;
    let found = statement.query_map(params![holder.uuid().as_bytes(), holder.kind().as_str()], lot_row::read)?;
    found.map(|row| Ok(row?.lot)).collect()
}

impl Tx<'_> {
    /// Brings the lots in line with an entry that was written.
    pub fn apply_sources(&mut self, actor: &str, before: Option<&Entry>, entry: &Entry) -> Op<()> {
        if !concerns(before, entry) {
            return Ok(());
        }
        self.plan_sources(actor, before, entry)
    }

    /// The same, for a change that may concern lots although the entries are equal.
    pub fn plan_sources(&mut self, actor: &str, before: Option<&Entry>, entry: &Entry) -> Op<()> {
        let lots = all(self.connection, entry.holder())?;
        for planned in plan(before, entry, &lots, self.now) {
            self.write_planned(actor, planned)?;
        }
        Ok(())
    }

    /// Writes a lot, made where it has no id yet, and what the trail says of it.
    pub fn write_planned(&mut self, actor: &str, planned: Planned) -> Op<()> {
        let Planned { lot, notes } = planned;
        if lot.id == LotId(0) {
            self.insert_source(&lot)?
        } else {
            self.update_source(&lot)?
        }
        self.moved(lot.holder)?;
        for note in notes {
            self.note(actor, lot.holder, &note)?;
        }
        Ok(())
    }

    fn insert_source(&self, lot: &Lot) -> Op<()> {
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
        Ok(())
    }

    fn update_source(&self, lot: &Lot) -> Op<()> {
        let written = self
            .connection
            .prepare_cached(
                "UPDATE lot SET granted = ?2, overhang = ?3, expires_at = ?4, topped_until = ?5, topped_total = ?6 \
                 WHERE id = ?1",
            )?
            .execute(params![
                lot.id.0,
                lot.granted,
                lot.overhang,
                lot.expires_at().map(Timestamp::as_millisecond),
                lot.topped.map(|topped| topped.until.as_millisecond()),
                lot.topped.map(|topped| topped.total)
            ])?;
        if written == 1 { Ok(()) } else { Err(Failure::Row(format!("lot {} is gone", lot.id.0))) }
    }
}
