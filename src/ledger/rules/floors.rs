//! What is known to be used, put into a ledger that was accepted.

use jiff::Timestamp;

use crate::domain::credit::{Lot, Meter, Overage, in_order_of_use};
use crate::domain::id::Holder;

/// What is known to be used of one of a holder's meters: of its running period, of all its prepaid credits that have not
/// expired, or of its money.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    pub holder: Holder,
    pub meter: Meter,
    pub consumed: i64,
    /// When the period ends in which it was used: after that it says nothing.
    pub until: Timestamp,
}

/// A lot with what was added to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raised {
    pub lot: Lot,
    pub by: i64,
}

/// What is added to which of a meter's lots (the live ones) so that they have used what is known: as it would have been
/// charged, and what they do not hold to the last.
pub fn raise(floor: &Floor, overage: Overage, mut lots: Vec<Lot>) -> Vec<Raised> {
    let mut missing = floor.consumed - lots.iter().map(Lot::used).sum::<i64>();
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
        let floor = |consumed| Floor { holder, meter: Meter::AccountPrepaid, consumed, until: Timestamp::MAX };
        let of = |consumed, overage| -> Vec<(i64, i64, i64)> {
            let raised = raise(&floor(consumed), overage, lots.clone());
            raised.iter().map(|Raised { lot, by }| (lot.id.0, *by, lot.overage)).collect()
        };
        assert_eq!(of(0, Overage::Deny), []);
        assert_eq!(of(7, Overage::Deny), [(2, 5, 0), (1, 2, 0)]);
        // More than was ever granted here: the last one remembers it.
        assert_eq!(of(30, Overage::Deny), [(2, 5, 0), (1, 10, 0), (3, 15, 0)]);
        assert_eq!(of(30, Overage::Allow), [(2, 5, 0), (1, 10, 0), (3, 15, 10)]);
        assert_eq!(raise(&floor(9), Overage::Deny, Vec::new()), []);
        let half = Lot { consumed: 4, ..lot(1, 10, None) };
        assert_eq!(
            raise(&floor(6), Overage::Deny, vec![half.clone()]),
            [Raised { lot: Lot { consumed: 6, ..half }, by: 2 }]
        );
    }
}
