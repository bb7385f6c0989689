//! The balance of a holder, as its status shows it.

use jiff::Timestamp;

use super::holding::open;
use super::sources::find;
use crate::domain::credit::{Lot, Meter, Overage, Source};
use crate::domain::directory::HolderTerms;
use crate::domain::id::Holder;

/// All that a holder has at a moment, and its counted usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    /// The running lot of its period: granted, used, overage.
    pub lot: Lot,
    /// Usage in the lot's period.
    pub usage: Usage,
    /// Set for a policy.
    pub overage: Overage,
    /// Set for a prepaid holder.
    pub prepaid: Option<PrepaidBalance>,
    /// Set for an account with a spend limit.
    pub spend: Option<SpendBalance>,
}

/// The remaining credits of grants and top-ups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrepaidBalance {
    /// Sum over all lots that have not expired.
    pub granted: i64,
    pub remaining: i64,
    /// Time of the next top-up.
    pub next_top_up: Option<Timestamp>,
    /// Time at which some of what remains expires.
    pub next_expiry: Option<Timestamp>,
}

/// Money, in micro-units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpendBalance {
    pub limit_micro: i64,
    pub used_micro: i64,
    /// Present price of a credit.
    pub unit_price: i64,
}

/// A meter that lacks the credits of a message, with its figures as in [`Verdict::Short`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted {
    pub meter: Meter,
    pub granted: i64,
    pub remaining: i64,
    /// `None`: it does not open by itself.
    pub reopens_at: Option<Timestamp>,
}

impl Exhausted {
    /// Returns the one that stays closed longer; this one if both stay closed equally long.
    pub fn or_longer(self, other: Self) -> Self {
        let end = |exhausted: &Self| exhausted.reopens_at.unwrap_or(Timestamp::MAX);
        if end(&other) > end(&self) { other } else { self }
    }
}

impl Balance {
    /// Returns the meter of this holder that refuses one more credit: if several do, the one that stays closed longest.
    pub fn exhausted(&self) -> Option<Exhausted> {
        self.short_of(1)
    }

    /// Returns the meter of this holder that refuses a message of `credits`, as the reserve call would name it; if
    /// several do, the one that stays closed longest.
    pub fn short_of(&self, credits: i64) -> Option<Exhausted> {
        let (period, prepaid) = (self.period_short_of(credits), self.prepaid_short_of(credits));
        // In the order of `Meter`, which decides if several stay closed equally long.
        let in_order = match self.lot.holder {
            Holder::Key(_) | Holder::Account(_) => [self.spend_short_of(credits), period, prepaid],
            Holder::Policy(_) => [None, prepaid, period],
        };
        in_order.into_iter().flatten().reduce(Exhausted::or_longer)
    }

    fn spend_short_of(&self, credits: i64) -> Option<Exhausted> {
        let SpendBalance { limit_micro, used_micro, unit_price } = self.spend.filter(|spend| spend.unit_price > 0)?;
        let left = limit_micro.saturating_sub(used_micro).max(0);
        (left < unit_price.saturating_mul(credits)).then(|| Exhausted {
            meter: Meter::AccountSpend,
            granted: limit_micro / unit_price,
            remaining: left / unit_price,
            reopens_at: None,
        })
    }

    fn period_short_of(&self, credits: i64) -> Option<Exhausted> {
        let granted = self.lot.granted.filter(|_| self.overage.is_deny() && !self.lot.fits(credits))?;
        let remaining = self.lot.remaining().unwrap_or(0);
        Some(Exhausted { meter: self.lot.meter(), granted, remaining, reopens_at: Some(self.lot.window.to) })
    }

    fn prepaid_short_of(&self, credits: i64) -> Option<Exhausted> {
        let prepaid = self.prepaid.filter(|prepaid| prepaid.remaining < credits)?;
        let meter = Meter::of_prepaid(self.lot.holder)?;
        let PrepaidBalance { granted, remaining, next_top_up, .. } = prepaid;
        Some(Exhausted { meter, granted, remaining, reopens_at: next_top_up })
    }

    /// Returns, for the status, when an exhausted meter opens again; if none is exhausted, when the period's limit
    /// starts anew. `None`: neither happens by itself.
    pub fn reopens_at(&self) -> Option<Timestamp> {
        match self.exhausted() {
            Some(exhausted) => exhausted.reopens_at,
            None => self.lot.granted.map(|_| self.lot.window.to),
        }
    }

    /// Returns the credits that can still be charged to this holder: the least of its meters. `None`: nothing limits
    /// it.
    pub fn remaining(&self) -> Option<i64> {
        let period = self.lot.remaining().filter(|_| self.overage.is_deny());
        let prepaid = self.prepaid.map(|prepaid| prepaid.remaining);
        let spend = self.spend.filter(|spend| spend.unit_price > 0);
        let spend = spend.map(|spend| (spend.limit_micro - spend.used_micro).max(0) / spend.unit_price);
        [period, prepaid, spend].into_iter().flatten().min()
    }

    /// Returns when these figures change although no message is sent: a period ends, a top-up comes, a grant expires.
    pub fn changes_at(&self) -> Timestamp {
        let prepaid = self.prepaid.map(|prepaid| [prepaid.next_top_up, prepaid.next_expiry]);
        prepaid.into_iter().flatten().flatten().fold(self.lot.window.to, Timestamp::min)
    }
}

/// Returns the meter of a chain that refuses a message of `credits`, as the reserve call would name it. `balances`:
/// those of its key, its account and its policy, in this order.
pub fn short_of(balances: &[Balance], credits: i64) -> Option<Exhausted> {
    balances.iter().filter_map(|balance| balance.short_of(credits)).reduce(Exhausted::or_longer)
}

/// Counted recipients (credits) of a period, by outcome. `accepted` = charged and not refunded so far: it includes
/// overage, and what an accepted ledger was raised by, as the running limit's used credits are the same figure. No
/// message of this ledger accounts for the latter, so no other figure counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub messages: i64,
    pub accepted: i64,
    pub relayed: i64,
    /// Refunded because the upstream refused.
    pub refused: i64,
    /// Refunded because it never reached the upstream's final dot.
    pub not_offered: i64,
    /// Charged, with an outcome that is not known.
    pub unknown: i64,
    pub last_sent_at: Option<Timestamp>,
}

/// Returns the balance of a holder, as the next message would find it. `unit_price` is that of its account's policy.
pub fn balance(
    terms: &HolderTerms<'_>,
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
