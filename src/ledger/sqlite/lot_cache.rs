//! The running lots that the writer charged last, so that most messages read none.
//!
//! SQLite shows inside a transaction whether another connection has written since, so the cache agrees with the rows.
//! Only reserving and settling keep it up to date; any other write of this process empties it.

use rusqlite::Connection;

use super::failure::Op;
use crate::domain::credit::{Lot, Source};
use crate::domain::id::{Holder, IdMap};

/// Maximum lots that are remembered: some 60 MB. Beyond, all are forgotten and learnt again.
const LOTS_MAX: usize = 250_000;

#[derive(Default)]
pub struct LotCache {
    lots: IdMap<Holder, Lot>,
    /// `PRAGMA data_version` when they were read: it changes when another connection commits.
    version: Option<i64>,
}

impl LotCache {
    /// Begins a transaction, which must hold the write lock already.
    pub fn renew(&mut self, connection: &Connection) -> Op<()> {
        let version = connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
        if self.version != Some(version) {
            self.lots.clear();
            self.version = Some(version);
        }
        Ok(())
    }

    pub fn forget(&mut self) {
        self.lots.clear();
    }

    pub fn get(&self, holder: Holder) -> Option<&Lot> {
        self.lots.get(&holder)
    }

    /// Remembers the running lot of its holder.
    pub fn learn(&mut self, lot: &Lot) {
        if self.lots.len() >= LOTS_MAX {
            self.lots.clear();
        }
        self.lots.insert(lot.holder, lot.clone());
    }

    /// Takes over a balance that was just written. Nothing is remembered of a period that is over.
    pub fn wrote(&mut self, lot: &Lot) {
        if lot.source == Source::Period
            && let Some(known) = self.lots.get_mut(&lot.holder)
            && known.id == lot.id
        {
            known.clone_from(lot);
        }
    }
}
