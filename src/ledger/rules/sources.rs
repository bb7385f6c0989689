//! The lots that a holder has besides its period's: spend limit, grants, top-ups.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::domain::credit::{Added, Grant, Lot, Prepaid, Source, TopUp, Topped, top_up};
use crate::domain::directory::{Entry, HolderTerms};
use crate::ledger::audit::{self, Note};

/// A lot to write, made if its id is 0, and its notes for the trail.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    pub lot: Lot,
    pub notes: Vec<Note>,
}

/// Returns true if an entry's change may touch lots beside the period's: if not, they need not be read. `before` is the
/// stored entry, removed or not.
pub fn concerns(before: Option<&Entry>, entry: &Entry) -> bool {
    let Some(before) = before else { return entry.terms().has_more() };
    let (old, new) = (before.terms(), entry.terms());
    if !old.has_more() && !new.has_more() {
        return false;
    }
    // The calendar says when top-ups come.
    let moved = old.limit.calendar != new.limit.calendar;
    old.prepaid != new.prepaid || old.spend_limit != new.spend_limit || moved || before.removed_at().is_some()
}

/// Returns what a written entry changes in its holder's lots. `lots` are all of them but the period's, also used-up,
/// expired and taken-back ones: a grant's id is given once.
pub fn plan(before: Option<&Entry>, entry: &Entry, lots: &[Lot], now: Timestamp) -> Vec<Planned> {
    // A holder that was removed for a while does not catch up for that time.
    let standing = before.filter(|before| before.removed_at().is_none()).map(Entry::terms);
    let terms = entry.terms();
    let mut planned = Vec::new();
    planned.extend(plan_spend(standing.as_ref(), &terms, lots));
    let none = Prepaid::default();
    let wanted = terms.prepaid.unwrap_or(&none);
    plan_grants(&terms, wanted, lots, &mut planned);
    planned.extend(plan_top_up(standing.as_ref(), &terms, wanted.recurring.as_ref(), lots, now));
    planned
}

pub fn find<'a>(lots: &'a [Lot], source: &Source) -> Option<&'a Lot> {
    lots.iter().find(|lot| lot.source == *source)
}

fn plan_spend(standing: Option<&HolderTerms<'_>>, terms: &HolderTerms<'_>, lots: &[Lot]) -> Option<Planned> {
    let known = find(lots, &Source::Spend);
    let from = standing.and_then(|standing| standing.spend_limit);
    let lot = match (known, terms.spend_limit) {
        (None, None) => return None,
        (None, limit) => spend(terms, limit),
        (Some(lot), limit) => {
            let mut lot = lot.clone();
            lot.regrant(limit);
            lot
        }
    };
    let changed = from != terms.spend_limit || known.is_none_or(|known| *known != lot);
    let note = Note::spend_limited(from, terms.spend_limit, lot.consumed);
    changed.then(|| Planned { lot, notes: vec![note] })
}

fn spend(terms: &HolderTerms<'_>, limit: Option<i64>) -> Lot {
    Lot::of_source(terms.holder, Source::Spend, limit, None)
}

/// Returns the lot that counts an account's money if its messages cost some: limited or not, so that a later limit
/// finds what was spent. `None`: it exists, or there is nothing to count.
pub fn missing_spend<'a>(terms: &HolderTerms<'_>, mut lots: impl Iterator<Item = &'a Lot>) -> Option<Lot> {
    let counted = !terms.priced || lots.any(|lot| lot.source == Source::Spend);
    (!counted).then(|| spend(terms, terms.spend_limit))
}

fn plan_grants(terms: &HolderTerms<'_>, wanted: &Prepaid, lots: &[Lot], planned: &mut Vec<Planned>) {
    let mut listed = BTreeSet::new();
    for grant in &wanted.grants {
        if listed.insert(grant.id.as_str()) {
            planned.extend(plan_grant(terms, grant, lots));
        }
    }
    for lot in lots {
        if let Source::Grant(id) = &lot.source
            && !listed.contains(id.as_str())
            && lot.granted != Some(0)
        {
            let mut taken = lot.clone();
            taken.regrant(Some(0));
            let note = Note::taken_back(id, lot.granted, &taken);
            planned.push(Planned { lot: taken, notes: vec![note] });
        }
    }
}

fn plan_grant(terms: &HolderTerms<'_>, grant: &Grant, lots: &[Lot]) -> Option<Planned> {
    let source = Source::Grant(grant.id.clone());
    let new = || Lot::of_source(terms.holder, source.clone(), Some(grant.credits), grant.expires_at);
    let Some(known) = find(lots, &source) else {
        let lot = new();
        let note = Note::granted(&grant.id, &lot);
        return Some(Planned { lot, notes: vec![note] });
    };
    let mut lot = Lot { window: new().window, ..known.clone() };
    lot.regrant(Some(grant.credits));
    let note = Note::adjusted(&grant.id, known.granted, &lot);
    (lot != *known).then(|| Planned { lot, notes: vec![note] })
}

fn plan_top_up(
    standing: Option<&HolderTerms<'_>>,
    terms: &HolderTerms<'_>,
    rule: Option<&TopUp>,
    lots: &[Lot],
    now: Timestamp,
) -> Option<Planned> {
    let known = find(lots, &Source::TopUp);
    let before = standing.and_then(|standing| Some((standing, standing.prepaid?.recurring.as_ref()?)));
    let mut lot = match (known, rule) {
        (None, None) => return None,
        (None, Some(_)) => Lot::of_source(terms.holder, Source::TopUp, Some(0), None),
        (Some(known), _) => known.clone(),
    };
    let mut notes = Vec::new();
    // Top-ups that came due under the previous rule are added by that rule.
    if let Some((standing, rule)) = before {
        notes.extend(added(rule, standing, &mut lot, now));
    }
    match (rule, before) {
        (Some(rule), Some((_, before))) => {
            if rule != before {
                notes.push(Note::top_up_rule(audit::TOPUP_CHANGED, rule));
            }
            notes.extend(added(rule, terms, &mut lot, now));
        }
        (Some(rule), None) => {
            let topped = Topped::begin(rule, &terms.limit.calendar, lot.topped, now);
            lot.topped = Some(topped);
            lot.regrant(Some(topped.total));
            notes.push(Note::top_up_rule(audit::TOPUP_BEGUN, rule));
            notes.extend(added(rule, terms, &mut lot, now));
        }
        (None, _) => {
            let from = lot.granted;
            lot.regrant(Some(0));
            if from != Some(0) {
                notes.push(Note::top_up_taken_back(from, &lot));
            }
        }
    }
    (known != Some(&lot) || !notes.is_empty()).then_some(Planned { lot, notes })
}

/// Returns the credits that top-ups brought after a moment and until now.
pub fn came_between(terms: &HolderTerms<'_>, then: Timestamp, now: Timestamp) -> i64 {
    let Some(rule) = terms.prepaid.and_then(|prepaid| prepaid.recurring.as_ref()) else { return 0 };
    let calendar = &terms.limit.calendar;
    let topped = Some(Topped::begin(rule, calendar, None, then));
    let mut lot = Lot { topped, ..Lot::of_source(terms.holder, Source::TopUp, Some(0), None) };
    top_up(rule, calendar, &mut lot, then);
    top_up(rule, calendar, &mut lot, now).credits
}

pub fn added(rule: &TopUp, terms: &HolderTerms<'_>, lot: &mut Lot, now: Timestamp) -> Option<Note> {
    let added = top_up(rule, &terms.limit.calendar, lot, now);
    (added != Added::default()).then(|| Note::topped_up(added, lot))
}
