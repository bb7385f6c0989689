//! The lots of one holder as an engine read them, and what its rules make of them. The engine writes what is marked.

use jiff::Timestamp;

use super::holding::{self, Opened};
use super::sources::{self, Planned};
use crate::domain::credit::{Limit, Lot, LotId, Share, Source, next_lot};
use crate::domain::directory::{Entry, Terms};
use crate::domain::id::{Holder, IdMap};
use crate::domain::period::Calendar;
use crate::ledger::trail::Note;

/// Lots of one holder made in one go. A holder that nobody touched for longer gets the rest next time.
pub const LOTS_AHEAD_MAX: usize = 40;

/// What an engine has to do with a lot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// As it was read.
    Clean,
    /// To be written as it is now.
    Changed,
    /// To be inserted; it has no id.
    New,
}

/// A lot with the calendar that made it.
#[derive(Clone, Debug)]
pub struct Row {
    pub lot: Lot,
    /// JSON; empty for a lot that no calendar made.
    pub calendar: String,
    pub mark: Mark,
}

impl Row {
    fn change(&mut self) {
        if self.mark == Mark::Clean {
            self.mark = Mark::Changed;
        }
    }
}

/// All lots of one holder that bear on its messages.
#[derive(Clone, Debug)]
pub struct Lots {
    holder: Holder,
    /// The lots of its periods, oldest first: at least the latest that has begun, if there ever was one.
    periods: Vec<Row>,
    /// Lots of other sources.
    others: Vec<Row>,
    /// The theoretical arrival of its next message.
    pub arrival: Option<Timestamp>,
}

fn json(calendar: &Calendar) -> String {
    // A calendar is three plain fields: there is nothing in it that could fail.
    serde_json::to_string(calendar).unwrap_or_default()
}

/// The lot that follows `previous` under `limit`, not yet written.
pub fn following(holder: Holder, limit: &Limit, previous: Option<&Lot>, at: Timestamp) -> Lot {
    let new = next_lot(&limit.calendar, previous.map(|lot| (lot.window.to, lot.granted.is_none())), at);
    Lot::of_period(holder, new, limit.credits)
}

impl Lots {
    pub fn empty(holder: Holder) -> Self {
        Self { holder, periods: vec![], others: vec![], arrival: None }
    }

    /// Puts a lot that was read where it belongs. A holder's lots must come oldest first.
    pub fn push(&mut self, lot: Lot, calendar: String) {
        let rows = if lot.source == Source::Period { &mut self.periods } else { &mut self.others };
        rows.push(Row { lot, calendar, mark: Mark::Clean });
    }

    pub fn all(&self) -> impl Iterator<Item = &Row> {
        self.periods.iter().chain(&self.others)
    }

    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut Row> {
        self.periods.iter_mut().chain(&mut self.others)
    }

    /// After everything was written.
    pub fn is_written(&mut self) {
        self.all_mut().for_each(|row| row.mark = Mark::Clean);
    }

    /// The latest lot that has begun by `at`.
    fn latest(&self, at: Timestamp) -> Option<&Lot> {
        self.periods.iter().map(|row| &row.lot).rfind(|lot| lot.window.from <= at)
    }

    pub fn running(&self, at: Timestamp) -> Option<&Lot> {
        self.latest(at).filter(|latest| at < latest.window.to)
    }

    pub fn others(&self) -> Vec<Lot> {
        self.others.iter().map(|row| row.lot.clone()).collect()
    }

    fn add(&mut self, lot: Lot, calendar: &Calendar) {
        self.periods.push(Row { lot, calendar: json(calendar), mark: Mark::New });
    }

    /// Whether anything is to be written.
    pub fn is_marked(&self) -> bool {
        self.all().any(|row| row.mark != Mark::Clean)
    }

    /// Makes the running lot where it is not.
    pub fn run(&mut self, limit: &Limit, now: Timestamp) {
        if self.running(now).is_none() {
            let lot = following(self.holder, limit, self.latest(now), now);
            self.add(lot, &limit.calendar);
        }
    }

    /// Makes the period lots that follow each other until `until`. Returns how many were made.
    pub fn prepare(&mut self, limit: &Limit, now: Timestamp, until: Timestamp) -> u64 {
        let mut made = 0;
        for _ in 0..LOTS_AHEAD_MAX {
            let previous = self.periods.last().map(|latest| &latest.lot);
            // A holder that slept over whole periods needs no lots for them.
            let at = previous.map_or(now, |lot| lot.window.to.max(now));
            if at > until {
                break;
            }
            let lot = following(self.holder, limit, previous, at);
            self.add(lot, &limit.calendar);
            made += 1;
        }
        made
    }

    /// What its messages are judged by, once every lot has its id: its running lot must be made.
    pub fn open(&self, terms: &Terms<'_>, now: Timestamp) -> Option<Opened> {
        let others = if terms.has_more() { self.others() } else { vec![] };
        Some(holding::open(terms, self.running(now)?, others, self.arrival, now))
    }

    /// Takes back what was decided on its lots.
    pub fn take_back(&mut self, lots: &IdMap<LotId, Lot>) {
        for row in self.all_mut() {
            if let Some(lot) = lots.get(&row.lot.id).filter(|lot| **lot != row.lot) {
                row.lot = lot.clone();
                row.change();
            }
        }
    }

    /// Takes over a lot of another source, made where it has no id.
    pub fn put(&mut self, lot: Lot) {
        match self.others.iter_mut().find(|known| known.lot.source == lot.source) {
            Some(known) => {
                known.lot = lot;
                known.change();
            }
            None => self.others.push(Row { lot, calendar: String::new(), mark: Mark::New }),
        }
    }

    /// Applies what an entry says now, after `before`. Period lots that were made ahead must be gone already where its
    /// limit changed: they are made again, under the new one. Returns what the trail says of it.
    pub fn edit(&mut self, before: Option<&Entry>, entry: &Entry, now: Timestamp) -> Vec<Note> {
        if entry.removed_at().is_some() {
            let stood = before.filter(|before| before.removed_at().is_none());
            return stood.map_or_else(Vec::new, |before| self.leave(before, now));
        }
        let mut notes = Vec::new();
        if changes_limit(before, entry) {
            notes.extend(self.apply_limit(before.map_or(entry.limit(), Entry::limit), entry.limit(), now));
        }
        if sources::concerns(before, entry) {
            notes.extend(self.plan(before, entry, now));
        }
        notes
    }

    /// Leaves what is removed with what has begun, top-ups that had come due too: nothing is charged to its lots any
    /// more, and its rules may change before it returns.
    fn leave(&mut self, before: &Entry, now: Timestamp) -> Vec<Note> {
        self.run(before.limit(), now);
        if before.terms().has_more() { self.plan(Some(before), before, now) } else { vec![] }
    }

    fn plan(&mut self, before: Option<&Entry>, entry: &Entry, now: Timestamp) -> Vec<Note> {
        let mut notes = Vec::new();
        for Planned { lot, notes: of_lot } in sources::plan(before, entry, &self.others(), now) {
            self.put(lot);
            notes.extend(of_lot);
        }
        notes
    }

    /// A lot of the same calendar is granted what the limit says now. A lot of another calendar keeps what it was
    /// granted until it ends; where it limits nothing, it ends now and a full lot of the new calendar begins. A limit
    /// that is taken away is gone at once, and one of nothing holds at once: there is nothing to wait for.
    ///
    /// A lot follows from the limit that held when it began, whether or not anybody has used it yet: where the running
    /// one is not made, it is made from the limit `before`.
    fn apply_limit(&mut self, before: &Limit, limit: &Limit, now: Timestamp) -> Option<Note> {
        self.run(before, now);
        let running = self.periods.iter_mut().rfind(|row| row.lot.window.from <= now)?;
        let ends_at_once = matches!(limit.credits, None | Some(0));
        if running.calendar == json(&limit.calendar) {
            regrant(running, limit)
        } else if running.lot.granted.is_none() {
            self.cut(limit, now)
        } else if ends_at_once {
            regrant(running, limit)
        } else {
            None
        }
    }

    /// Ends a lot that limits nothing, now, and begins a full one of the new calendar.
    fn cut(&mut self, limit: &Limit, now: Timestamp) -> Option<Note> {
        let running = self.periods.iter_mut().rfind(|row| row.lot.window.from <= now)?;
        running.change();
        let lot = &mut running.lot;
        let note = Note::cut(lot);
        if lot.window.from == now {
            // It began this very millisecond: it becomes the new one, with what it has counted.
            let window = limit.calendar.window(now);
            (lot.window.key, lot.window.to, lot.share) = (window.key, window.to, Share::FULL);
            lot.regrant(limit.credits);
            running.calendar = json(&limit.calendar);
        } else {
            lot.window.to = now;
            let next = following(self.holder, limit, Some(lot), now);
            self.add(next, &limit.calendar);
        }
        Some(note)
    }
}

/// Credits that are known to be used and that no message of this ledger accounts for.
pub struct Raise {
    pub lot: LotId,
    pub credits: i64,
    pub note: Note,
}

impl Lots {
    /// Raises what the running lot has consumed, where it has less.
    pub fn raise(&mut self, consumed: i64, now: Timestamp) -> Option<Raise> {
        let running = self.periods.iter_mut().rfind(|row| row.lot.holds_at(now))?;
        let lot = &mut running.lot;
        let before = lot.consumed;
        if before >= consumed {
            return None;
        }
        lot.consumed = consumed;
        lot.regrant(lot.granted);
        let detail = serde_json::json!({
            "lot": lot.id, "period": lot.window.key, "from": before, "to": consumed, "granted": lot.granted,
        });
        let raise = Raise { lot: lot.id, credits: consumed - before, note: Note::new("lot.raised", detail) };
        running.change();
        Some(raise)
    }
}

/// Whether an entry's change touches the lots of its periods.
pub fn changes_limit(before: Option<&Entry>, entry: &Entry) -> bool {
    let returns = before.is_some_and(|before| before.removed_at().is_some());
    entry.removed_at().is_none() && (returns || before.is_none_or(|before| before.limit() != entry.limit()))
}

/// Whether an entry's change may touch any lot: if not, none need be read.
pub fn touches_lots(before: Option<&Entry>, entry: &Entry) -> bool {
    drops_lots_ahead(before, entry) || entry.removed_at().is_none() && sources::concerns(before, entry)
}

/// Whether an entry's change takes away what was made ahead: nobody has used it.
pub fn drops_lots_ahead(before: Option<&Entry>, entry: &Entry) -> bool {
    let leaves = entry.removed_at().is_some() && before.is_some_and(|before| before.removed_at().is_none());
    leaves || changes_limit(before, entry)
}

fn regrant(row: &mut Row, limit: &Limit) -> Option<Note> {
    let lot = &mut row.lot;
    let (before, after) = (lot.granted, limit.credits.map(|credits| lot.share.of(credits)));
    if before == after {
        return None;
    }
    lot.regrant(after);
    let note = Note::regranted(before, lot);
    row.change();
    Some(note)
}
