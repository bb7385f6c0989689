//! The rows of one call, read once and written once however many messages touch them.

use std::collections::hash_map::Entry;

use rusqlite::params;

use super::failure::{Failure, Op};
use super::write::Tx;
use super::{lot_row, lots, rate_state};
use crate::domain::credit::{BatchRows, Lot, LotId, RateState};
use crate::domain::directory::HolderTerms;
use crate::domain::id::IdSet;
use crate::ledger::rules::holding::open;

/// The lots of one call, read once and written once however many messages touch them.
#[derive(Default)]
pub struct Ledgered {
    pub rows: BatchRows,
    touched: IdSet<LotId>,
}

impl Ledgered {
    /// Reads a holder's rows, once. Its missing lot is made and its top-ups are added here, before any denial.
    pub fn open(&mut self, tx: &mut Tx<'_>, terms: &HolderTerms<'_>) -> Op<()> {
        if self.rows.holdings.contains_key(&terms.holder) {
            return Ok(());
        }
        let known = tx.cache.lots.get(terms.holder).filter(|lot| lot.holds_at(tx.now));
        let period = match known {
            Some(lot) => lot.clone(),
            None => {
                let lot = tx.running_lot(terms)?;
                tx.cache.lots.learn(&lot);
                lot
            }
        };
        let mut lots = if terms.has_more() { lots::live(tx.connection, terms.holder, tx.now)? } else { Vec::new() };
        tx.count_money(terms, &mut lots)?;
        let arrivals = if terms.rate.is_some() { rate_state::arrivals(tx.connection, terms.holder)? } else { None };
        let opened = open(terms, &period, lots, arrivals.map(|arrivals| arrivals.message), tx.now);
        if let Some(planned) = opened.topped_up {
            tx.write_topped_up(planned)?;
        }
        self.rows.holdings.insert(terms.holder, opened.holding);
        self.rows.lots.extend(opened.lots.into_iter().chain([period]).map(|lot| (lot.id, lot)));
        Ok(())
    }

    pub fn lot(&mut self, tx: &Tx<'_>, id: LotId) -> Op<&mut Lot> {
        Ok(match self.rows.lots.entry(id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(lot_row::by_id(tx.connection, id)?.lot),
        })
    }

    /// Marks a lot's balance as changed.
    pub fn touch(&mut self, id: LotId) {
        self.touched.insert(id);
    }

    /// Writes the balances that moved.
    pub fn save(self, tx: &mut Tx<'_>) -> Op<()> {
        let mut balance = tx
            .connection
            .prepare_cached("UPDATE lot SET consumed = ?2, overhang = ?3, overage = ?4, carried = ?5 WHERE id = ?1")?;
        for (holder, holding) in &self.rows.holdings {
            if let Some(RateState { arrival: Some(arrival), moved: true, .. }) = holding.rate_state {
                rate_state::set_arrival(tx.connection, *holder, arrival)?;
            }
        }
        for id in &self.touched {
            let gone = || Failure::Row(format!("lot {} is gone", id.0));
            let lot = self.rows.lots.get(id).ok_or_else(gone)?;
            if balance.execute(params![id.0, lot.consumed, lot.overdraft, lot.overage, lot.carried])? != 1 {
                return Err(gone());
            }
            tx.cache.lots.wrote(lot);
        }
        Ok(())
    }
}
