//! Floors: usage known from elsewhere, put into an accepted ledger, or remembered for entries that are still to come.

use rusqlite::params;

use super::failure::{Failure, Op};
use super::lot_row::{self, select_lot};
use super::lots;
use super::rows;
use super::write::Tx;
use crate::domain::credit::{Meter, Source};
use crate::domain::directory::{Entry, HolderTerms};
use crate::domain::id::{Holder, IdMap, Kind};
use crate::ledger::audit::Note;
use crate::ledger::rules::floors::{Bound, Floor, Raised, lacking};
use crate::ledger::rules::history::{self, Quarters};
use crate::ledger::store::Session;

impl Tx<'_> {
    pub fn raise(&mut self, session: &Session, actor: &str, floors: &[Floor]) -> Op<u64> {
        self.fence(session)?;
        let (mut raised, now) = (0, self.now);
        for floor in floors.iter().filter(|floor| now < floor.until) {
            match rows::entry(self.connection, floor.holder)? {
                Some(entry) => raised += self.raise_one(actor, &entry, floor)?,
                None => self.remember(floor)?,
            }
        }
        Ok(raised)
    }

    fn raise_one(&mut self, actor: &str, entry: &Entry, floor: &Floor) -> Op<u64> {
        // The amount spent is known, whether or not it is limited at present.
        let terms = HolderTerms { priced: floor.meter == Meter::AccountSpend, ..entry.terms() };
        let mut lots = lots::read(self.connection, floor.holder, self.now)?;
        let used = self.used_under(&lots, &terms)?;
        lots.run(&terms, used, self.now);
        self.write_lots(floor.holder, &mut lots)?;
        let (raised, topped_up) = lots.raise(floor, &terms, self.now);
        self.write_lots(floor.holder, &mut lots)?;
        if let Some(note) = topped_up {
            self.note(actor, floor.holder, &note)?;
        }
        for raised in &raised {
            self.adjust(actor, raised)?;
        }
        Ok(raised.len() as u64)
    }

    /// Writes the adjustment that explains why a lot has used more than was charged to it. The use of a period is known
    /// from now on, also to a later limit.
    fn adjust(&mut self, actor: &str, Raised { lot, by }: &Raised) -> Op<()> {
        self.connection
            .prepare_cached("INSERT INTO adjustment (lot, credits, actor, at) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![lot.id.0, by, actor, self.now_ms()])?;
        if lot.source == Source::Period {
            let (hour, quarter) = history::place(self.now_ms());
            let mut used = Quarters::default();
            used[quarter] = *by;
            self.add_used(hour, lot.holder, used)?;
        }
        self.note(actor, lot.holder, &Note::raised(lot, *by))
    }

    fn remember(&self, floor: &Floor) -> Op<()> {
        let (used, remaining, seen_at) = match floor.bound {
            Bound::UsedAtLeast(used) => (Some(used), None, None),
            Bound::LeftAtMost { left, at } => (None, Some(left), Some(at.as_millisecond())),
        };
        self.connection
            .prepare_cached(
                "INSERT INTO floor (kind, holder, meter, used, remaining, seen_at, until) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
                 ON CONFLICT DO UPDATE SET used = max(used, ?4), remaining = min(remaining, ?5), \
                     seen_at = max(seen_at, ?6), until = ?7",
            )?
            .execute(params![
                floor.holder.kind().as_str(),
                floor.holder.uuid().as_bytes(),
                floor.meter.as_str(),
                used,
                remaining,
                seen_at,
                floor.until.as_millisecond()
            ])?;
        Ok(())
    }

    /// Applies the floors that were remembered for a holder whose entry is new.
    pub fn raise_remembered(&mut self, actor: &str, entry: &Entry) -> Op<()> {
        let holder = entry.holder();
        let mut statement = self.connection.prepare_cached(
            "DELETE FROM floor WHERE kind = ?1 AND holder = ?2 RETURNING meter, used, remaining, seen_at, until",
        )?;
        let mut found = statement.query(params![holder.kind().as_str(), holder.uuid().as_bytes()])?;
        let mut floors = Vec::new();
        while let Some(row) = found.next()? {
            let word: String = row.get(0)?;
            let meter = Meter::parse(&word).ok_or_else(|| Failure::Row(format!("unknown meter {word}")))?;
            let bound = match row.get(1)? {
                Some(used) => Bound::UsedAtLeast(used),
                None => Bound::LeftAtMost { left: row.get(2)?, at: rows::instant(row.get(3)?)? },
            };
            floors.push(Floor { holder, meter, bound, until: rows::end(row.get(4)?)? });
        }
        let (mut raised, now) = (0, self.now);
        for floor in floors.iter().filter(|floor| now < floor.until) {
            raised += self.raise_one(actor, entry, floor)?;
        }
        if raised > 0 { self.raise_parents(actor) } else { Ok(()) }
    }

    /// Raises accounts by what their keys were raised since the acceptance, then policies by what their accounts were.
    pub fn raise_parents(&mut self, actor: &str) -> Op<()> {
        for kind in [Kind::Key, Kind::Account] {
            let mut children: IdMap<Holder, Vec<Raised>> = IdMap::default();
            for raised in self.raised_since_acceptance(kind)? {
                let entry = rows::entry(self.connection, raised.lot.holder)?;
                if let Some(parent) = entry.as_ref().and_then(Entry::parent) {
                    children.entry(parent).or_default().push(raised);
                }
            }
            for (parent, children) in children {
                self.raise_parent(actor, parent, &children)?;
            }
        }
        Ok(())
    }

    fn raise_parent(&mut self, actor: &str, parent: Holder, children: &[Raised]) -> Op<()> {
        let Some(entry) = rows::entry(self.connection, parent)? else { return Ok(()) };
        let lot = self.running_lot(&entry.terms())?;
        let by = self
            .connection
            .prepare_cached(
                "SELECT ifnull(sum(credits), 0) FROM adjustment \
                 WHERE lot = ?1 AND at >= (SELECT accepted_at FROM meta)",
            )?
            .query_row([lot.id.0], |row| row.get(0))?;
        let by = lacking(&Raised { lot, by }, children);
        if by == 0 {
            return Ok(());
        }
        let mut lots = lots::read(self.connection, parent, self.now)?;
        let raised = lots.raise_by(by, entry.overage(), self.now);
        self.write_lots(parent, &mut lots)?;
        raised.map_or(Ok(()), |raised| self.adjust(actor, &raised))
    }

    /// Returns the period lots of holders of a kind that were raised since the acceptance.
    fn raised_since_acceptance(&self, kind: Kind) -> Op<Vec<Raised>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT a.lot, sum(a.credits) FROM adjustment a JOIN lot l ON l.id = a.lot \
             WHERE a.at >= (SELECT accepted_at FROM meta) AND l.source = 'period' AND l.kind = ?1 GROUP BY a.lot",
        )?;
        let mut lot = self.connection.prepare_cached(select_lot!("WHERE id = ?1"))?;
        let mut found = statement.query([kind.as_str()])?;
        let mut raised = Vec::new();
        while let Some(row) = found.next()? {
            let id: i64 = row.get(0)?;
            raised.push(Raised { lot: lot.query_row([id], lot_row::read)?.lot, by: row.get(1)? });
        }
        Ok(raised)
    }

    /// Deletes expired floors.
    pub fn forget_floors(&self) -> Op<()> {
        self.connection.prepare_cached("DELETE FROM floor WHERE until <= ?1")?.execute([self.now_ms()])?;
        Ok(())
    }
}
