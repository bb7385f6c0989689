//! The rows of one call, read once and written once however many messages touch them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use jiff::Timestamp;
use rusqlite::params;

use super::failure::{Failure, Op};
use super::write::Tx;
use super::{lot_row, sources, tempo};
use crate::domain::credit::{Books, Lot, LotId, Tempo};
use crate::domain::directory::Terms;
use crate::ledger::sources::open;
use crate::ledger::store::Usage;
use crate::ledger::trail::LEDGER;

/// The lots of one call, read once and written once however many messages touch them.
#[derive(Default)]
pub struct Ledgered {
    pub books: Books,
    counted: HashMap<LotId, Usage>,
}

impl Ledgered {
    /// Reads a holder's rows, once. Its lot is made and its top-ups are added here, before any denial.
    pub fn open(&mut self, tx: &mut Tx<'_>, terms: &Terms<'_>) -> Op<()> {
        if self.books.holdings.contains_key(&terms.holder) {
            return Ok(());
        }
        let period = tx.running_lot(terms.holder, terms.limit)?;
        let lots = if terms.has_more() { sources::live(tx.connection, terms.holder, tx.now)? } else { Vec::new() };
        let arrival = if terms.rate.is_some() { tempo::arrival(tx.connection, terms.holder)? } else { None };
        let opened = open(terms, &period, lots, arrival, tx.now);
        if let Some(planned) = opened.topped_up {
            tx.write_planned(LEDGER, planned)?;
        }
        self.books.holdings.insert(terms.holder, opened.holding);
        self.books.lots.extend(opened.lots.into_iter().chain([period]).map(|lot| (lot.id, lot)));
        Ok(())
    }

    pub fn lot(&mut self, tx: &Tx<'_>, id: LotId) -> Op<&mut Lot> {
        Ok(match self.books.lots.entry(id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(lot_row::by_id(tx.connection, id)?.lot),
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
             consumed = ?8, overhang = ?9, overage = ?10 WHERE id = ?1",
        )?;
        for (holder, holding) in &self.books.holdings {
            if let Some(Tempo { arrival: Some(arrival), moved: true, .. }) = holding.tempo {
                tempo::set_arrival(tx.connection, *holder, arrival)?;
            }
        }
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
                    lot.overhang,
                    lot.overage
                ])?,
            };
            if written != 1 {
                return Err(Failure::Row(format!("lot {} is gone", id.0)));
            }
        }
        Ok(())
    }
}
