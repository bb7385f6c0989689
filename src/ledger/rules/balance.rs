//! What a status shows of a holder.

use jiff::Timestamp;

use super::holding::open;
use super::sources::find;
use crate::domain::credit::{Lot, Meter, Overage, Source};
use crate::domain::directory::Terms;

/// All that a holder has at a moment, and what was counted beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    /// The running lot of its period: granted, used, overage.
    pub lot: Lot,
    /// Figures of the lot's period.
    pub usage: Usage,
    /// Of a policy.
    pub overage: Overage,
    /// `Some` = prepaid.
    pub prepaid: Option<PrepaidBalance>,
    /// Of an account with a spend limit.
    pub spend: Option<SpendBalance>,
}

/// What is left of grants and top-ups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrepaidBalance {
    /// Of all lots that have not expired.
    pub granted: i64,
    pub remaining: i64,
    /// When more comes by itself.
    pub next_top_up: Option<Timestamp>,
    /// When some of what remains is lost.
    pub next_expiry: Option<Timestamp>,
}

/// Money, in micro-units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpendBalance {
    pub limit_micro: i64,
    pub used_micro: i64,
    /// A credit's price at present.
    pub unit_price: i64,
}

/// A meter of a holder that has nothing left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted {
    pub meter: Meter,
    /// `None`: it does not open by itself.
    pub reopens_at: Option<Timestamp>,
}

impl Balance {
    /// The meter of this holder that refuses one more credit: where several do, the one that stays closed longest.
    pub fn exhausted(&self) -> Option<Exhausted> {
        let holder = self.lot.holder;
        let period = match self.overage {
            Overage::Deny if self.lot.remaining() == Some(0) => {
                Some(Exhausted { meter: self.lot.meter(), reopens_at: Some(self.lot.window.to) })
            }
            Overage::Deny | Overage::Allow => None,
        };
        let spend = self.spend.filter(|spend| {
            spend.unit_price > 0 && spend.limit_micro.saturating_sub(spend.used_micro) < spend.unit_price
        });
        let spend = spend.map(|_| Exhausted { meter: Meter::AccountSpend, reopens_at: None });
        let prepaid = self.prepaid.filter(|prepaid| prepaid.remaining == 0);
        let prepaid = prepaid.zip(Meter::of_prepaid(holder));
        let prepaid = prepaid.map(|(prepaid, meter)| Exhausted { meter, reopens_at: prepaid.next_top_up });
        let end = |exhausted: &Exhausted| exhausted.reopens_at.unwrap_or(Timestamp::MAX);
        let longer = |one: Exhausted, other: Exhausted| if end(&other) > end(&one) { other } else { one };
        [spend, period, prepaid].into_iter().flatten().reduce(longer)
    }

    /// For status: when what is exhausted opens again; where nothing is, when the period's limit starts anew. `None`:
    /// nothing of that happens by itself.
    pub fn reopens_at(&self) -> Option<Timestamp> {
        match self.exhausted() {
            Some(exhausted) => exhausted.reopens_at,
            None => self.lot.granted.map(|_| self.lot.window.to),
        }
    }

    /// What can still be charged to this holder, in credits: the least of its meters. `None`: nothing limits it.
    pub fn remaining(&self) -> Option<i64> {
        let period = self.lot.remaining().filter(|_| self.overage.is_deny());
        let prepaid = self.prepaid.map(|prepaid| prepaid.remaining);
        let spend = self.spend.filter(|spend| spend.unit_price > 0);
        let spend = spend.map(|spend| (spend.limit_micro - spend.used_micro).max(0) / spend.unit_price);
        [period, prepaid, spend].into_iter().flatten().min()
    }

    /// When these figures change although nobody sends: a period ends, a top-up comes, a grant expires.
    pub fn changes_at(&self) -> Timestamp {
        let prepaid = self.prepaid.map(|prepaid| [prepaid.next_top_up, prepaid.next_expiry]);
        prepaid.into_iter().flatten().flatten().fold(self.lot.window.to, Timestamp::min)
    }
}

/// Counted recipients (credits) of a period, by outcome. `accepted` = charged and not refunded so far: overage is
/// included, and so is what an accepted ledger was raised by, as the running limit's used credits are the same figure.
/// No message of this ledger says what the latter were, so no other figure counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub messages: i64,
    pub accepted: i64,
    pub relayed: i64,
    /// Refunded because the upstream refused.
    pub refused: i64,
    /// Refunded because it never got to the upstream's final dot.
    pub not_offered: i64,
    /// Charged, and what became of it is not known.
    pub unknown: i64,
    pub last_sent_at: Option<Timestamp>,
}

/// What a holder has, as the next message would find it. `unit_price` is that of its account's policy.
pub fn balance(
    terms: &Terms<'_>,
    period: Lot,
    usage: Usage,
    lots: Vec<Lot>,
    unit_price: i64,
    now: Timestamp,
) -> Balance {
    let opened = open(terms, &period, lots, None, now);
    let prepaid = opened.holding.prepaid.as_ref().map(|stock| {
        let stocked = || opened.lots.iter().filter(|lot| stock.lots.contains(&lot.id));
        let left = stocked().filter(|lot| lot.remaining() != Some(0));
        PrepaidBalance {
            granted: stocked().filter_map(|lot| lot.granted).sum(),
            remaining: stocked().filter_map(Lot::remaining).sum(),
            next_top_up: stock.next_top_up,
            next_expiry: left.filter_map(Lot::expires_at).min(),
        }
    });
    let spend = terms.spend_limit.map(|limit_micro| {
        let used_micro = find(&opened.lots, &Source::Spend).map_or(0, |lot| lot.consumed);
        SpendBalance { limit_micro, used_micro, unit_price }
    });
    Balance { lot: period, usage, overage: terms.overage, prepaid, spend }
}
