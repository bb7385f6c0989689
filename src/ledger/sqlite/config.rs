//! The directory's writes, the limits that follow from them, and lots made ahead of their time.

use std::collections::HashSet;

use jiff::Timestamp;
use rusqlite::params;

use super::failure::Op;
use super::incarnation;
use super::rows;
use super::write::Tx;
use crate::domain::directory::Entry;
use crate::domain::id::Holder;
use crate::ledger::shelf::{LOTS_AHEAD_MAX, changes_limit};
use crate::ledger::store::Session;
use crate::ledger::trail::of_change;

impl Tx<'_> {
    pub fn put(&mut self, session: &Session, actor: &str, entries: &[Entry]) -> Op<()> {
        self.fence(session)?;
        incarnation::refuse_held(self.connection)?;
        let mut epoch = None;
        for entry in entries {
            let before = rows::entry(self.connection, entry.holder())?;
            if before.as_ref() == Some(entry) {
                continue;
            }
            let epoch = *epoch.get_or_insert_with(|| self.next_epoch());
            self.store(entry, epoch)?;
            let notes = of_change(before.as_ref(), entry);
            // What is no news for the trail changes no limit and no figure.
            if notes.is_empty() {
                continue;
            }
            for note in notes {
                self.note(actor, entry.holder(), &note)?;
            }
            // What is removed keeps its lot as it is: nothing is charged to it any more.
            if changes_limit(before.as_ref(), entry) {
                let of_before = before.as_ref().map_or(entry.limit(), Entry::limit);
                self.apply_limit(actor, entry.holder(), of_before, entry.limit())?;
            }
            if entry.removed_at().is_none() {
                self.apply_sources(actor, before.as_ref(), entry)?;
            } else if let Some(before) = before.filter(|before| before.removed_at().is_none()) {
                self.leave(actor, &before)?;
            }
            self.moved(entry.holder())?;
        }
        Ok(())
    }

    /// Leaves what is removed with what has begun, top-ups that had come due too: its rules may change before it
    /// returns, and what has not begun is made when it does.
    fn leave(&mut self, actor: &str, before: &Entry) -> Op<()> {
        self.drop_lots_ahead(before.holder())?;
        self.running_lot(before.holder(), before.limit())?;
        if before.terms().has_more() { self.plan_sources(actor, Some(before), before) } else { Ok(()) }
    }

    /// Makes the lots that will hold at `until`, for up to `limit` holders that lack one. Returns how many lots.
    pub fn prepare_lots(&mut self, session: &Session, until: Timestamp, limit: usize) -> Op<u64> {
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
            made += self.prepare_holder(holder, until)?;
        }
        Ok(made)
    }

    fn prepare_holder(&mut self, holder: Holder, until: Timestamp) -> Op<u64> {
        let Some(entry) = rows::entry(self.connection, holder)? else { return Ok(0) };
        let mut made = 0;
        let mut previous = super::lots::latest(self.connection, holder, until)?.map(|latest| latest.lot);
        for _ in 0..LOTS_AHEAD_MAX {
            // A holder that slept over whole periods needs no lots for them.
            let at = previous.as_ref().map_or(self.now, |lot| lot.window.to.max(self.now));
            if at > until {
                break;
            }
            previous = Some(self.make_lot(holder, entry.limit(), previous.as_ref(), at)?);
            made += 1;
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
