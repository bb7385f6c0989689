//! The directory's writes, the limits that follow from them, and lots made ahead of their time.

use std::collections::HashSet;

use jiff::Timestamp;
use rusqlite::params;

use super::failure::Op;
use super::write::Tx;
use super::{identity, lots, rows};
use crate::domain::directory::Entry;
use crate::domain::id::Holder;
use crate::ledger::audit::of_change;
use crate::ledger::rules::lots::{drops_lots_ahead, holding, touches_lots};
use crate::ledger::store::LedgerSession;

impl Tx<'_> {
    pub fn put(&mut self, session: &LedgerSession, actor: &str, entries: &[Entry]) -> Op<()> {
        self.fence(session)?;
        identity::refuse_held(self.connection)?;
        let mut epoch = None;
        for entry in entries {
            let before = rows::entry(self.connection, entry.holder())?;
            if before.as_ref() == Some(entry) {
                continue;
            }
            let epoch = *epoch.get_or_insert_with(|| self.next_epoch());
            self.store(entry, epoch)?;
            let notes = of_change(before.as_ref(), entry);
            // An edit without a note in the trail changes no limit and no figure.
            if notes.is_empty() {
                continue;
            }
            for note in notes {
                self.note(actor, entry.holder(), &note)?;
            }
            self.edit_lots(actor, before.as_ref(), entry)?;
            if before.is_none() {
                self.raise_remembered(actor, entry)?;
            }
            self.moved(entry.holder())?;
        }
        Ok(())
    }

    /// Brings the lots in line with an entry that was written.
    fn edit_lots(&mut self, actor: &str, before: Option<&Entry>, entry: &Entry) -> Op<()> {
        if !touches_lots(before, entry) {
            return Ok(());
        }
        let holder = entry.holder();
        if drops_lots_ahead(before, entry) {
            self.drop_lots_ahead(holder)?;
        }
        let mut lots = lots::read(self.connection, holder, self.now)?;
        let used = self.used_under(&lots, &holding(before, entry).terms())?;
        let notes = lots.edit(before, entry, used, self.now);
        self.write_lots(holder, &mut lots)?;
        for note in notes {
            self.note(actor, holder, &note)?;
        }
        Ok(())
    }

    /// Makes the lots that will hold at `until`, for up to `limit` holders that lack one. Returns how many lots.
    pub fn prepare_lots(&mut self, session: &LedgerSession, until: Timestamp, limit: usize) -> Op<u64> {
        self.fence(session)?;
        let lacking: Vec<Holder> = self
            .connection
            .prepare_cached(
                "SELECT d.kind, d.id FROM directory d WHERE d.removed = 0 AND NOT EXISTS \
                 (SELECT 1 FROM lot l WHERE l.holder = d.id AND l.kind = d.kind AND l.valid_to > ?1) LIMIT ?2",
            )?
            .query_map(params![until.as_millisecond(), rows::limit(limit)], rows::holder)?
            .collect::<rusqlite::Result<_>>()?;
        let mut made = 0;
        for holder in lacking {
            if let Some(entry) = rows::entry(self.connection, holder)? {
                made += self.prepare_holder(holder, entry.limit(), until)?;
            }
        }
        Ok(made)
    }

    /// Marks holders as moved, each once.
    pub fn all_moved(&mut self, holders: &HashSet<Holder>) -> Op<()> {
        for holder in holders {
            self.moved(*holder)?;
        }
        Ok(())
    }
}
