//! The running lots that the writer charged last, so that most messages read none.
//!
//! SQLite says inside a transaction whether anybody else has written since, so what is kept is what the rows say. Only
//! reserving and settling keep it up to date; whatever else this process writes empties it.

use rusqlite::Connection;

use super::failure::Op;
use crate::domain::credit::{Lot, Source};
use crate::domain::id::{Holder, IdMap};

/// Some 60 MB of lots. Beyond, all are forgotten and learnt again.
const LOTS_MAX: usize = 250_000;

#[derive(Default)]
pub struct Memory {
    lots: IdMap<Holder, Lot>,
    /// `PRAGMA data_version` when they were read: it moves when another connection commits.
    version: Option<i64>,
}

impl Memory {
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

    /// Takes a balance over that was just written. Of a period that is over, nothing is remembered.
    pub fn wrote(&mut self, lot: &Lot) {
        if lot.source == Source::Period
            && let Some(known) = self.lots.get_mut(&lot.holder)
            && known.id == lot.id
        {
            known.clone_from(lot);
        }
    }
}
