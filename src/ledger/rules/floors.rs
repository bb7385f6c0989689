//! Floors: usage known from elsewhere, put into a ledger that was accepted.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::domain::credit::{Lot, Meter, Overage, in_order_of_use};
use crate::domain::directory::{Entry, HolderTerms};
use crate::domain::id::{Holder, IdMap, Kind};

/// The known usage of one of a holder's meters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    pub holder: Holder,
    pub meter: Meter,
    pub bound: Bound,
    /// End of the period in which it was used: afterwards the floor means nothing.
    pub until: Timestamp,
}

impl Floor {
    /// Returns true if the period in which it was used is not over.
    pub fn is_running(&self, now: Timestamp) -> bool {
        now < self.until
    }

    /// Returns the terms under which its holder's lots are made: the amount of money spent is known, whether or not it
    /// is limited at present.
    pub fn terms<'a>(&self, entry: &'a Entry) -> HolderTerms<'a> {
        HolderTerms { priced: self.meter == Meter::AccountSpend, ..entry.terms() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Credits used in the running period, overage included, or micro-units of money.
    UsedAtLeast(i64),
    /// Prepaid credits that were left at that moment. Later grants and top-ups come on top.
    LeftAtMost { left: i64, at: Timestamp },
}

/// A lot with the amount that was added to it, or is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raised {
    pub lot: Lot,
    pub by: i64,
}

/// Returns the amounts to add to a meter's (live) lots so that they have used what is known: in the order in which
/// messages are charged, and the excess to the last lot.
pub fn raise(bound: Bound, overage: Overage, mut lots: Vec<Lot>) -> Vec<Raised> {
    let mut missing = match bound {
        Bound::UsedAtLeast(used) => used - lots.iter().map(Lot::used).sum::<i64>(),
        Bound::LeftAtMost { left, at: _ } => lots.iter().filter_map(Lot::remaining).sum::<i64>() - left,
    };
    in_order_of_use(&mut lots);
    let last = lots.len().saturating_sub(1);
    let mut raised = Vec::new();
    for (index, mut lot) in lots.into_iter().enumerate() {
        let room = lot.remaining().filter(|_| index < last).unwrap_or(missing);
        let by = room.min(missing);
        if by <= 0 {
            continue;
        }
        missing -= by;
        lot.take_in(by, overage);
        raised.push(Raised { lot, by });
    }
    raised
}

/// The kinds whose parents are raised by what they were raised, in this order: an account that was raised by its keys
/// raises its policy.
pub const CHILDREN: [Kind; 2] = [Kind::Key, Kind::Account];

/// Sorts raised lots by the parent of their holder. A holder without an entry has none.
pub fn by_parent(raised: Vec<Raised>, entries: &HashMap<Holder, Entry>) -> IdMap<Holder, Vec<Raised>> {
    let mut children: IdMap<Holder, Vec<Raised>> = IdMap::default();
    for raised in raised {
        if let Some(parent) = entries.get(&raised.lot.holder).and_then(Entry::parent) {
            children.entry(parent).or_default().push(raised);
        }
    }
    children
}

/// Returns by how much a parent's running lot was raised less than its children: every message of a key is one of its
/// account, and every message of an account one of its policy. `parent` says by how much it was raised itself. What a
/// child used, or may have used, before the parent's period began is not counted.
pub fn lacking(parent: &Raised, children: &[Raised]) -> i64 {
    let within = children.iter().filter(|child| child.lot.window.from >= parent.lot.window.from);
    (within.map(|child| child.by).sum::<i64>() - parent.by).max(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::credit::{LotId, Source};
    use uuid::Uuid;

    #[test]
    fn what_is_known_to_be_used_fills_lots_in_the_order_of_their_use() {
        let holder = Holder::Account(Uuid::from_u128(7).into());
        let lot = |id: i64, granted: i64, expires: Option<i64>| {
            let expires = expires.map(|second| Timestamp::from_second(second).expect("a time"));
            let lot = Lot::of_source(holder, Source::Grant(id.to_string()), Some(granted), expires);
            Lot { id: LotId(id), ..lot }
        };
        let lots = vec![lot(1, 10, None), lot(2, 5, Some(100)), lot(3, 5, None)];
        let known = |known, overage| -> Vec<(i64, i64, i64)> {
            let raised = raise(known, overage, lots.clone());
            raised.iter().map(|Raised { lot, by }| (lot.id.0, *by, lot.overage)).collect()
        };
        let of = |used, overage| known(Bound::UsedAtLeast(used), overage);
        assert_eq!(of(0, Overage::Deny), []);
        assert_eq!(of(7, Overage::Deny), [(2, 5, 0), (1, 2, 0)]);
        // More than was ever granted here: the last lot takes the excess.
        assert_eq!(of(30, Overage::Deny), [(2, 5, 0), (1, 10, 0), (3, 15, 0)]);
        assert_eq!(of(30, Overage::Allow), [(2, 5, 0), (1, 10, 0), (3, 15, 10)]);
        // 12 of the 20 are left.
        let left = |left| known(Bound::LeftAtMost { left, at: Timestamp::UNIX_EPOCH }, Overage::Deny);
        assert_eq!(left(12), [(2, 5, 0), (1, 3, 0)]);
        assert_eq!(left(20), []);
        assert_eq!(raise(Bound::UsedAtLeast(9), Overage::Deny, Vec::new()), []);
        let half = Lot { consumed: 4, ..lot(1, 10, None) };
        assert_eq!(
            raise(Bound::UsedAtLeast(6), Overage::Deny, vec![half.clone()]),
            [Raised { lot: Lot { consumed: 6, ..half }, by: 2 }]
        );
    }

    #[test]
    fn a_parent_lacks_what_its_children_used_in_its_period() {
        use crate::domain::period::{Calendar, Period};
        let at: Timestamp = "2026-11-20T10:00:00Z".parse().expect("a timestamp");
        let of = |period, by| {
            let window = Calendar::new(period, 1, "UTC").expect("a calendar").window(at);
            Raised { lot: Lot::of_period(Holder::Account(Uuid::nil().into()), window, None), by }
        };
        let keys = [of(Period::Monthly, 7), of(Period::Daily, 3)];
        assert_eq!(lacking(&of(Period::Monthly, 5), &keys), 5);
        assert_eq!(lacking(&of(Period::Monthly, 12), &keys), 0);
        // What was used in the month may have been used before this day.
        assert_eq!(lacking(&of(Period::Daily, 1), &keys), 2);
        assert_eq!(lacking(&of(Period::Daily, 0), &[]), 0);
    }
}
