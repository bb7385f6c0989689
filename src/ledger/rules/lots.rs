//! The lots of one holder as an engine read them, and the rules that change them. The engine writes the marked ones.

use jiff::Timestamp;

use super::floors::{Bound, Floor, Raised, raise};
use super::holding::{Opened, open};
use super::sources::{self, Planned};
use crate::domain::credit::{Limit, Lot, LotId, Meter, Overage, Source};
use crate::domain::directory::{Entry, HolderTerms};
use crate::domain::id::{Holder, IdMap};
use crate::domain::period::Calendar;
use crate::ledger::audit::Note;

/// Maximum lots of one holder made in one go. A holder that was idle for longer gets the rest next time.
pub const LOTS_AHEAD_MAX: usize = 40;

/// The write that an engine owes a lot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowState {
    /// Unchanged since it was read.
    Clean,
    /// To be updated.
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
    /// An edit ended it: nothing is charged to it any more, whatever the caller's time.
    pub ended: bool,
    pub state: RowState,
}

impl Row {
    fn holds_at(&self, at: Timestamp) -> bool {
        !self.ended && self.lot.holds_at(at)
    }

    fn change(&mut self) {
        if self.state == RowState::Clean {
            self.state = RowState::Changed;
        }
    }
}

/// All lots of one holder that matter to its messages.
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
    // A calendar is three plain fields: nothing in it can fail to serialise.
    serde_json::to_string(calendar).unwrap_or_default()
}

/// Returns the lot of `limit` that holds at `at`, after `previous`, not yet written. If `previous` reached into this
/// period, the lot begins where it ended, and carries what its holder has `used` in the period so far.
fn following(
    holder: Holder,
    (limit, overage): (&Limit, Overage),
    previous: Option<&Lot>,
    used: i64,
    at: Timestamp,
) -> Lot {
    let window = limit.calendar.window(at);
    match previous.map(|previous| previous.window.to).filter(|ended| *ended > window.from) {
        None => Lot::of_period(holder, window, limit.credits),
        Some(begun) => Lot::within_period(holder, window, begun, limit.credits, overage, used),
    }
}

impl Lots {
    pub fn empty(holder: Holder) -> Self {
        Self { holder, periods: vec![], others: vec![], arrival: None }
    }

    /// Adds a lot that was read. A holder's lots must come oldest first.
    pub fn push(&mut self, lot: Lot, calendar: String, ended: bool) {
        let rows = if lot.source == Source::Period { &mut self.periods } else { &mut self.others };
        rows.push(Row { lot, calendar, ended, state: RowState::Clean });
    }

    pub fn all(&self) -> impl Iterator<Item = &Row> {
        self.periods.iter().chain(&self.others)
    }

    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut Row> {
        self.periods.iter_mut().chain(&mut self.others)
    }

    /// Marks the rows as unchanged after everything was written.
    pub fn is_written(&mut self) {
        self.all_mut().for_each(|row| row.state = RowState::Clean);
    }

    /// Returns the latest lot that has begun by `at`.
    fn latest(&self, at: Timestamp) -> Option<&Row> {
        self.periods.iter().rfind(|row| row.lot.begun <= at)
    }

    fn running_row(&mut self, at: Timestamp) -> Option<&mut Row> {
        self.periods.iter_mut().rfind(|row| row.lot.begun <= at).filter(|latest| latest.holds_at(at))
    }

    pub fn running(&self, at: Timestamp) -> Option<&Lot> {
        self.latest(at).filter(|latest| latest.holds_at(at)).map(|row| &row.lot)
    }

    /// Returns true if an edit has ended the running lot later than `now`: a caller at `now` was overtaken, and
    /// retries.
    pub fn is_overtaken(&self, now: Timestamp) -> bool {
        self.latest(now).is_some_and(|latest| latest.ended && now < latest.lot.window.to)
    }

    pub fn others(&self) -> Vec<Lot> {
        self.others.iter().map(|row| row.lot.clone()).collect()
    }

    fn add(&mut self, lot: Lot, calendar: &Calendar) {
        self.periods.push(Row { lot, calendar: json(calendar), ended: false, state: RowState::New });
    }

    /// Returns true if anything is to be written.
    pub fn has_changes(&self) -> bool {
        self.all().any(|row| row.state != RowState::Clean)
    }

    /// Returns the moment from which its holder's use has to be known before a lot of this limit is made: the beginning
    /// of its period. `None`: the running lot counts it, or nothing was used in the period before.
    pub fn counts_from(&self, limit: &Limit, now: Timestamp) -> Option<Timestamp> {
        let latest = self.latest(now)?;
        if latest.holds_at(now) && latest.calendar == json(&limit.calendar) {
            return None;
        }
        let window = limit.calendar.window(now);
        (latest.lot.window.to > window.from).then_some(window.from)
    }

    /// Makes the missing lots that messages are charged to. `used` is what the holder has used since
    /// [`counts_from`](Self::counts_from).
    pub fn run(&mut self, terms: &HolderTerms<'_>, used: i64, now: Timestamp) {
        if self.running(now).is_none() {
            self.make(terms.limit, terms.overage, used, now);
        }
        if let Some(spend) = sources::missing_spend(terms, self.others.iter().map(|row| &row.lot)) {
            self.put(spend);
        }
    }

    /// Returns the lot that [`run`](Self::run) would make, not yet written.
    pub fn next(&self, (limit, overage): (&Limit, Overage), used: i64, now: Timestamp) -> Lot {
        let previous = self.latest(now).map(|row| &row.lot);
        following(self.holder, (limit, overage), previous, used, now)
    }

    fn make(&mut self, limit: &Limit, overage: Overage, used: i64, now: Timestamp) {
        let lot = self.next((limit, overage), used, now);
        self.add(lot, &limit.calendar);
    }

    /// Makes the period lots that follow each other until `until`. Returns how many were made.
    pub fn prepare(&mut self, limit: &Limit, now: Timestamp, until: Timestamp) -> u64 {
        let mut made = 0;
        for _ in 0..LOTS_AHEAD_MAX {
            let ended = self.periods.last().map(|latest| latest.lot.window.to);
            // A holder that was idle for whole periods needs no lots for them.
            let at = ended.map_or(now, |ended| ended.max(now));
            let window = limit.calendar.window(at);
            // A lot that begins within its period carries what will be used by then: it is made when it begins.
            if at > until || ended.is_some_and(|ended| ended > window.from) {
                break;
            }
            self.add(Lot::of_period(self.holder, window, limit.credits), &limit.calendar);
            made += 1;
        }
        made
    }

    /// Returns the state that its messages are judged by, once every lot has its id. `None`: a lot is missing that
    /// [`run`](Self::run) makes.
    pub fn open(&self, terms: &HolderTerms<'_>, now: Timestamp) -> Option<Opened> {
        let others = if terms.has_more() { self.others() } else { vec![] };
        if sources::missing_spend(terms, others.iter()).is_some() {
            return None;
        }
        Some(open(terms, self.running(now)?, others, self.arrival, now))
    }

    /// Takes over the balances that a decision changed.
    pub fn take_back(&mut self, lots: &IdMap<LotId, Lot>) {
        for row in self.all_mut() {
            if let Some(lot) = lots.get(&row.lot.id).filter(|lot| **lot != row.lot) {
                row.lot = lot.clone();
                row.change();
            }
        }
    }

    /// Takes over a lot of another source, marked as new if there is none of its source yet.
    pub fn put(&mut self, lot: Lot) {
        match self.others.iter_mut().find(|known| known.lot.source == lot.source) {
            Some(known) => {
                known.lot = lot;
                known.change();
            }
            None => self.others.push(Row { lot, calendar: String::new(), ended: false, state: RowState::New }),
        }
    }

    /// Applies an entry, which replaces `before`. If its limit changed, period lots that were made ahead must be gone
    /// already: they are made again, under the new one. `used` is what its holder has used since
    /// [`counts_from`](Self::counts_from) under the limit of [`holding`]. Returns the notes for the trail.
    pub fn edit(&mut self, before: Option<&Entry>, entry: &Entry, used: i64, now: Timestamp) -> Vec<Note> {
        if entry.removed_at().is_some() {
            let stood = before.filter(|before| before.removed_at().is_none());
            return stood.map_or_else(Vec::new, |before| self.leave(before, used, now));
        }
        let mut notes = Vec::new();
        if changes_limit(before, entry) {
            notes.extend(self.apply_limit(entry.limit(), entry.overage(), used, now));
        }
        if sources::concerns(before, entry) {
            notes.extend(self.plan(before, entry, now));
        }
        notes
    }

    /// Leaves a removed holder with what has begun, including top-ups that had come due: nothing is charged to its lots
    /// any more, and its rules may change before it returns.
    fn leave(&mut self, before: &Entry, used: i64, now: Timestamp) -> Vec<Note> {
        self.run(&before.terms(), used, now);
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

    /// Applies a changed limit at once. A lot of the same calendar is regranted; one of another calendar ends, and a
    /// lot begins that counts what was used since the beginning of the limit's own period. So it does not matter which
    /// limits held in between, or in which order.
    fn apply_limit(&mut self, limit: &Limit, overage: Overage, used: i64, now: Timestamp) -> Option<Note> {
        let is_of_this_calendar = self.latest(now).is_none_or(|latest| latest.calendar == json(&limit.calendar));
        match self.running_row(now) {
            Some(running) if is_of_this_calendar => regrant(running, limit),
            None if is_of_this_calendar => {
                self.make(limit, overage, used, now);
                None
            }
            Some(_) | None => self.cut(limit, overage, used, now),
        }
    }

    fn cut(&mut self, limit: &Limit, overage: Overage, used: i64, now: Timestamp) -> Option<Note> {
        let window = limit.calendar.window(now);
        let key = window.key.clone();
        let next = Lot::within_period(self.holder, window, now, limit.credits, overage, used);
        // The lot that ends may not have been made: nothing was charged to it.
        let Some(running) = self.running_row(now) else {
            self.add(next, &limit.calendar);
            return None;
        };
        running.change();
        let note = Note::cut(&running.lot, &key, used);
        if running.lot.begun == now {
            // It began this very millisecond: it becomes the new one. Its charges are part of `used`.
            let (id, charged) = (running.lot.id, running.lot.charged());
            running.lot = Lot { id, carried: used - charged, ..next };
            running.calendar = json(&limit.calendar);
        } else {
            running.lot.window.to = now;
            running.ended = true;
            self.add(next, &limit.calendar);
        }
        Some(note)
    }
}

impl Lots {
    /// Returns the lots of one of its holder's meters that messages are charged to now.
    pub fn of_meter(&self, meter: Meter, now: Timestamp) -> Vec<Lot> {
        let live = |lot: &Lot| match lot.source {
            Source::Spend | Source::TopUp => true,
            Source::Grant(_) => lot.granted != Some(0),
            Source::Period => false,
        };
        let others = self.others.iter().map(|row| &row.lot).filter(|lot| live(lot) && lot.holds_at(now));
        self.running(now).into_iter().chain(others).filter(|lot| lot.meter() == meter).cloned().collect()
    }

    /// Raises the usage to what is known. Its lots must be made. Returns the amount added to each lot, and the trail's
    /// note of a top-up that was due.
    pub fn raise(&mut self, floor: &Floor, terms: &HolderTerms<'_>, now: Timestamp) -> (Vec<Raised>, Option<Note>) {
        let (bound, note) = match floor.bound {
            Bound::UsedAtLeast(_) => (floor.bound, None),
            Bound::LeftAtMost { left, at } => {
                let note = self.top_up(terms, now);
                (Bound::LeftAtMost { left: left.saturating_add(sources::came_between(terms, at, now)), at }, note)
            }
        };
        let raised = raise(bound, terms.overage, self.of_meter(floor.meter, now));
        for Raised { lot, .. } in &raised {
            self.replace(lot);
        }
        (raised, note)
    }

    /// Adds the top-ups that are due.
    fn top_up(&mut self, terms: &HolderTerms<'_>, now: Timestamp) -> Option<Note> {
        let rule = terms.prepaid?.recurring.as_ref()?;
        let row = self.others.iter_mut().find(|row| row.lot.source == Source::TopUp)?;
        let note = sources::added(rule, terms, &mut row.lot, now)?;
        row.change();
        Some(note)
    }

    /// Adds to the running lot what its children used.
    pub fn raise_by(&mut self, by: i64, overage: Overage, now: Timestamp) -> Option<Raised> {
        let mut lot = self.running(now)?.clone();
        lot.take_in(by, overage);
        self.replace(&lot);
        Some(Raised { lot, by })
    }

    fn replace(&mut self, lot: &Lot) {
        if let Some(row) = self.all_mut().find(|row| row.lot.id == lot.id) {
            row.lot = lot.clone();
            row.change();
        }
    }
}

/// Returns the beginning of a lot's period (unix milliseconds) if it comes before the lot's: the lot counts the use
/// since then.
pub fn counts_from(lot: &Lot) -> Option<i64> {
    (lot.window.from != lot.begun).then(|| lot.window.from.as_millisecond())
}

/// Returns the entry whose limit holds at the moment of an edit: for a removal, the one before.
pub fn holding<'a>(before: Option<&'a Entry>, entry: &'a Entry) -> &'a Entry {
    match entry.removed_at() {
        Some(_) => before.unwrap_or(entry),
        None => entry,
    }
}

/// Returns true if an entry's change touches the lots of its periods.
pub fn changes_limit(before: Option<&Entry>, entry: &Entry) -> bool {
    let returns = before.is_some_and(|before| before.removed_at().is_some());
    entry.removed_at().is_none() && (returns || before.is_none_or(|before| before.limit() != entry.limit()))
}

/// Returns true if an entry's change may touch any lot: if not, none need be read.
pub fn touches_lots(before: Option<&Entry>, entry: &Entry) -> bool {
    drops_lots_ahead(before, entry) || entry.removed_at().is_none() && sources::concerns(before, entry)
}

/// Returns true if an entry's change drops the lots that were made ahead: they are unused.
pub fn drops_lots_ahead(before: Option<&Entry>, entry: &Entry) -> bool {
    let leaves = entry.removed_at().is_some() && before.is_some_and(|before| before.removed_at().is_none());
    leaves || changes_limit(before, entry)
}

fn regrant(row: &mut Row, limit: &Limit) -> Option<Note> {
    let lot = &mut row.lot;
    let before = lot.granted;
    if before == limit.credits {
        return None;
    }
    lot.regrant(limit.credits);
    let note = Note::regranted(before, lot);
    row.change();
    Some(note)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::period::{Calendar, Period};
    use crate::ledger::world::{account, at};

    /// As when a release knows the rules of a time zone better than the one before.
    #[test]
    fn a_lot_whose_predecessor_reaches_into_its_period_carries_what_was_used() {
        let calendar = Calendar::new(Period::Daily, 1, "UTC").expect("a calendar");
        let entry = Entry::Account(account(1, Limit { credits: Some(10), calendar: calendar.clone() }));
        let (terms, now) = (entry.terms(), at("2026-12-01T12:00:00Z"));
        for (ended, carried) in [("2026-12-01T02:00:00Z", 3), ("2026-12-01T00:00:00Z", 0)] {
            let mut before = Lot::of_period(terms.holder, calendar.window(at("2026-11-30T12:00:00Z")), Some(10));
            before.window.to = at(ended);
            let mut lots = Lots::empty(terms.holder);
            lots.push(before, json(&calendar), false);
            let counts = lots.counts_from(terms.limit, now);
            assert_eq!(counts, (carried > 0).then(|| at("2026-12-01T00:00:00Z")));
            lots.run(&terms, carried, now);
            let lot = lots.running(now).expect("it runs");
            assert_eq!((lot.begun, lot.used(), lot.remaining()), (at(ended), carried, Some(10 - carried)));
        }
    }
}
