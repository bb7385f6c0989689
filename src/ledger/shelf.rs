//! What one holder has: its lots as an engine read them, and what its rules make of them. Pure, so that engines cannot
//! disagree about it.
//!
//! An engine reads a shelf under its locks, changes it here, writes what is marked, and has nothing to decide itself.

use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::domain::credit::{Holding, Limit, Lot, LotId, Prepaid, Source, Stock, Tempo, Topped, next_lot};
use crate::domain::credit::{in_order_of_use, next_top_up, top_up};
use crate::domain::directory::Entry;
use crate::domain::id::Holder;
use crate::domain::period::Calendar;

/// Lots of one holder made in one go. A holder that nobody touched for longer gets the rest next time.
const LOTS_AHEAD_MAX: usize = 40;

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
pub struct Shelved {
    pub lot: Lot,
    /// JSON; empty for a lot that no calendar made.
    pub calendar: String,
    pub mark: Mark,
}

impl Shelved {
    fn new(lot: Lot, calendar: String) -> Self {
        Self { lot, calendar, mark: Mark::New }
    }

    fn change(&mut self) {
        if self.mark == Mark::Clean {
            self.mark = Mark::Changed;
        }
    }
}

/// A line for the audit trail.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    pub kind: &'static str,
    pub holder: Holder,
    pub detail: Value,
}

/// All of one holder that bears on its messages.
#[derive(Clone, Debug)]
pub struct Shelf {
    pub holder: Holder,
    /// The lots of its periods, oldest first: at least the latest that has begun, if there ever was one.
    pub periods: Vec<Shelved>,
    /// Lots of other sources.
    pub others: Vec<Shelved>,
    /// The theoretical arrival of its next message.
    pub arrival: Option<Timestamp>,
    pub notes: Vec<Note>,
}

fn calendar_json(calendar: &Calendar) -> String {
    // A calendar is three plain fields: there is nothing in it that could fail.
    serde_json::to_string(calendar).unwrap_or_default()
}

impl Shelf {
    pub fn empty(holder: Holder) -> Self {
        Self { holder, periods: vec![], others: vec![], arrival: None, notes: vec![] }
    }

    /// Puts a lot that was read where it belongs. Lots must come oldest first.
    pub fn push(&mut self, lot: Lot, calendar: String) {
        let shelf = if lot.source == Source::Period { &mut self.periods } else { &mut self.others };
        shelf.push(Shelved { lot, calendar, mark: Mark::Clean });
    }

    pub fn all(&self) -> impl Iterator<Item = &Shelved> {
        self.periods.iter().chain(&self.others)
    }

    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut Shelved> {
        self.periods.iter_mut().chain(&mut self.others)
    }

    /// The latest lot that has begun by `at`.
    pub fn latest(&self, at: Timestamp) -> Option<&Shelved> {
        self.periods.iter().rfind(|shelved| shelved.lot.window.from <= at)
    }

    pub fn running(&self, at: Timestamp) -> Option<&Shelved> {
        self.latest(at).filter(|latest| at < latest.lot.window.to)
    }

    fn other(&mut self, source: &Source) -> Option<&mut Shelved> {
        self.others.iter_mut().find(|shelved| shelved.lot.source == *source)
    }

    /// Makes what has to be there at `now` under the entry's rules: the running lot, and top-ups that are due.
    pub fn open(&mut self, entry: &Entry, now: Timestamp) {
        self.run(entry.limit(), now);
        let rule = entry.prepaid().and_then(|prepaid| prepaid.recurring.as_ref());
        let (holder, calendar) = (self.holder, &entry.limit().calendar);
        if let Some((rule, shelved)) = rule.zip(self.others.iter_mut().find(|other| other.lot.source == Source::TopUp))
        {
            let added = top_up(rule, calendar, &mut shelved.lot, now);
            if added.periods > 0 {
                shelved.change();
                let detail =
                    json!({ "credits": added.credits, "periods": added.periods, "granted": shelved.lot.granted });
                self.notes.push(Note { kind: "lot.topped_up", holder, detail });
            }
        }
    }

    fn run(&mut self, limit: &Limit, now: Timestamp) {
        if self.running(now).is_none() {
            let previous = self.latest(now).map(|latest| &latest.lot);
            let lot = following(self.holder, limit, previous, now);
            self.periods.push(Shelved::new(lot, calendar_json(&limit.calendar)));
        }
    }

    /// Makes the period lots that follow each other until `until`. Returns how many were made.
    pub fn prepare(&mut self, limit: &Limit, now: Timestamp, until: Timestamp) -> u64 {
        let mut made = 0;
        for _ in 0..LOTS_AHEAD_MAX {
            let previous = self.periods.last().map(|latest| latest.lot.clone());
            // A holder that slept over whole periods needs no lots for them.
            let at = previous.as_ref().map_or(now, |lot| lot.window.to.max(now));
            if at > until {
                break;
            }
            let lot = following(self.holder, limit, previous.as_ref(), at);
            self.periods.push(Shelved::new(lot, calendar_json(&limit.calendar)));
            made += 1;
        }
        made
    }

    /// What its messages are judged by, once every lot has its id.
    pub fn holding(&self, entry: &Entry, now: Timestamp) -> Option<Holding> {
        let period = self.running(now)?.lot.id;
        let spend = entry.spend_limit_micro().and_then(|_| self.others.iter().find(|o| o.lot.source == Source::Spend));
        let tempo = entry.rate().map(|rate| Tempo { rate, arrival: self.arrival, moved: false });
        let prepaid = entry.prepaid().map(|prepaid| self.stock(prepaid, now));
        Some(Holding { period, overage: entry.overage(), spend: spend.map(|spend| spend.lot.id), prepaid, tempo })
    }

    fn stock(&self, prepaid: &Prepaid, now: Timestamp) -> Stock {
        let mut lots: Vec<Lot> = self.others.iter().map(|other| other.lot.clone()).collect();
        lots.retain(|lot| matches!(lot.source, Source::Grant(_) | Source::TopUp) && lot.holds_at(now));
        in_order_of_use(&mut lots);
        let topped = self.others.iter().find_map(|other| other.lot.topped);
        let next_top_up = prepaid.recurring.as_ref().zip(topped).and_then(|(rule, topped)| next_top_up(rule, topped));
        Stock { lots: lots.iter().map(|lot| lot.id).collect(), next_top_up }
    }

    /// Takes back what was decided on its lots.
    pub fn take_back(&mut self, lots: &HashMap<LotId, Lot>) {
        for shelved in self.all_mut() {
            if let Some(lot) = lots.get(&shelved.lot.id).filter(|lot| **lot != shelved.lot) {
                shelved.lot = lot.clone();
                shelved.change();
            }
        }
    }
}

/// The lot that follows `previous` under `limit`, not yet written.
pub fn following(holder: Holder, limit: &Limit, previous: Option<&Lot>, at: Timestamp) -> Lot {
    let new = next_lot(&limit.calendar, previous.map(|lot| (lot.window.to, lot.granted.is_none())), at);
    Lot::of_period(holder, new, limit.credits)
}

/// What a changed entry does to its holder's lots.
impl Shelf {
    /// Applies what an entry says now, after `before`. Lots that were made ahead must be gone already: they are made
    /// again, under the new rules.
    pub fn edit(&mut self, before: Option<&Entry>, entry: &Entry, now: Timestamp) {
        let returns = before.is_some_and(|before| before.removed_at().is_some());
        if entry.removed_at().is_some() {
            // What is removed keeps its lots as they are: nothing is charged to them any more.
            return;
        }
        if returns || before.is_none_or(|before| before.limit() != entry.limit()) {
            self.apply_limit(before.map_or(entry.limit(), Entry::limit), entry.limit(), now);
        }
        if let Some(limit) = entry.spend_limit_micro() {
            self.grant(&Source::Spend, limit, None);
        }
        let none = Prepaid::default();
        self.apply_grants(entry.prepaid().unwrap_or(&none));
        let rule_before = before.filter(|_| !returns).and_then(Entry::prepaid);
        self.apply_top_up(rule_before.unwrap_or(&none), entry.prepaid().unwrap_or(&none), &entry.limit().calendar, now);
        self.open(entry, now);
    }

    /// A lot of the same calendar is granted what the limit says now. A lot of another calendar keeps what it was
    /// granted until it ends; where it limits nothing, it ends now and a full lot of the new calendar begins. A limit
    /// that is taken away is gone at once, and one of nothing holds at once: there is nothing to wait for.
    ///
    /// A lot follows from the limit that held when it began, whether or not anybody has used it yet: where the running
    /// one is not made, it is made from the limit `before`.
    fn apply_limit(&mut self, before: &Limit, limit: &Limit, now: Timestamp) {
        self.run(before, now);
        let calendar = calendar_json(&limit.calendar);
        let Some(running) = self.periods.last_mut() else { return };
        if running.calendar == calendar || running.lot.granted.is_some() && matches!(limit.credits, None | Some(0)) {
            let granted = limit.credits.map(|credits| running.lot.share.of(credits));
            let holder = self.holder;
            self.notes.extend(regrant(holder, running, granted));
        } else if running.lot.granted.is_none() {
            self.cut(limit, calendar, now);
        }
    }

    /// Ends a lot that limits nothing, now, and begins a full one of the new calendar.
    fn cut(&mut self, limit: &Limit, calendar: String, now: Timestamp) {
        let holder = self.holder;
        let Some(running) = self.periods.last_mut() else { return };
        let lot = &mut running.lot;
        let detail = json!({ "lot": lot.id, "period": lot.window.key, "consumed": lot.consumed });
        if lot.window.from == now {
            // It began this very millisecond: it becomes the new one, with what it has counted.
            let window = limit.calendar.window(now);
            lot.window.key = window.key;
            lot.window.to = window.to;
            lot.share = crate::domain::credit::Share::FULL;
            lot.regrant(limit.credits);
            running.calendar = calendar;
            running.change();
        } else {
            lot.window.to = now;
            let next = following(holder, limit, Some(lot), now);
            running.change();
            self.periods.push(Shelved::new(next, calendar));
        }
        self.notes.push(Note { kind: "lot.cut", holder, detail });
    }

    /// Deleting a grant takes back what is left of it; writing it again gives that back.
    fn apply_grants(&mut self, prepaid: &Prepaid) {
        for grant in &prepaid.grants {
            self.grant(&Source::Grant(grant.id.clone()), grant.credits, grant.expires_at);
        }
        let holder = self.holder;
        let written = |id: &str| prepaid.grants.iter().any(|grant| grant.id == id);
        for other in &mut self.others {
            if matches!(&other.lot.source, Source::Grant(id) if !written(id)) {
                self.notes.extend(regrant(holder, other, Some(0)));
            }
        }
    }

    fn apply_top_up(&mut self, before: &Prepaid, after: &Prepaid, calendar: &Calendar, now: Timestamp) {
        let holder = self.holder;
        let begins = before.recurring.is_none();
        match (&after.recurring, self.other(&Source::TopUp)) {
            (Some(rule), None) => {
                let mut lot = Lot::of_source(holder, Source::TopUp, 0, None);
                lot.topped = Some(Topped::begin(rule, calendar, None, now));
                self.others.push(Shelved::new(lot, String::new()));
            }
            (Some(rule), Some(other)) if begins => {
                let topped = Topped::begin(rule, calendar, other.lot.topped, now);
                other.lot.topped = Some(topped);
                other.change();
                let note = regrant(holder, other, Some(topped.total));
                self.notes.extend(note);
            }
            (None, Some(other)) => {
                let note = regrant(holder, other, Some(0));
                self.notes.extend(note);
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
    }

    /// A lot that has one source for life: made, or granted what is said now.
    fn grant(&mut self, source: &Source, granted: i64, expires_at: Option<Timestamp>) {
        let holder = self.holder;
        if let Some(other) = self.other(source) {
            let until = expires_at.unwrap_or(Timestamp::MAX);
            if other.lot.window.to != until {
                other.lot.window.to = until;
                other.change();
            }
            let note = regrant(holder, other, Some(granted));
            self.notes.extend(note);
        } else {
            let lot = Lot::of_source(holder, source.clone(), granted, expires_at);
            let detail = json!({ "source": source.word(), "from": null, "to": granted, "consumed": 0 });
            self.notes.push(Note { kind: "lot.granted", holder, detail });
            self.others.push(Shelved::new(lot, String::new()));
        }
    }
}

fn regrant(holder: Holder, shelved: &mut Shelved, granted: Option<i64>) -> Option<Note> {
    let lot = &mut shelved.lot;
    let before = lot.granted;
    if before == granted {
        return None;
    }
    lot.regrant(granted);
    let detail = json!({
        "lot": lot.id, "period": lot.window.key, "source": lot.source.word(), "from": before, "to": granted,
        "consumed": lot.consumed,
    });
    shelved.change();
    Some(Note { kind: "lot.regranted", holder, detail })
}
