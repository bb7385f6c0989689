//! The one place where credits are given or refused.

use jiff::Timestamp;

use super::{Chain, Lot, LotId, Meter, Overage, Part, Rate, RateScope, Refused, Verdict};
use crate::domain::id::{AccountId, Holder, IdMap};

/// A prepaid balance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stock {
    /// The lots that have not expired, in the order of use.
    pub lots: Vec<LotId>,
    /// Time of the next top-up; `None` if there is none.
    pub next_top_up: Option<Timestamp>,
}

/// The rate of a holder, and its use so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateState {
    pub rate: Rate,
    pub arrival: Option<Timestamp>,
    /// True if `arrival` has changed and must be written.
    pub moved: bool,
}

/// The limits that one holder's messages are judged by and charged to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    pub period: LotId,
    /// For policies: `Allow` if the pool may be exceeded.
    pub overage: Overage,
    /// For accounts with a spend limit: its lot.
    pub spend: Option<LotId>,
    /// `Some` = prepaid, even if nothing is left.
    pub prepaid: Option<Stock>,
    pub rate_state: Option<RateState>,
}

impl Holding {
    /// Returns a holder with nothing but its period's lot.
    pub fn plain(period: LotId) -> Self {
        Self { period, overage: Overage::Deny, spend: None, prepaid: None, rate_state: None }
    }
}

/// Number of parts of period lots, which come first in a charge: a message's usage is counted there, once for each
/// holder.
pub const PERIOD_PARTS: usize = 3;

/// The rows that a batch is decided on; the engine holds them locked.
#[derive(Debug, Default)]
pub struct BatchRows {
    pub lots: IdMap<LotId, Lot>,
    pub holdings: IdMap<Holder, Holding>,
    /// The accounts that had many messages given back lately.
    pub refused: IdMap<AccountId, Refused>,
}

/// One message that is to be charged. [`BatchRows`] must hold the rows of all holders in its chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    pub credits: i64,
    pub chain: Chain,
    /// Price of a credit in micro-units of money, by the policy's pricing at this moment.
    pub unit_price: i64,
}

/// Decides one message and charges `rows` in place. Returns the charged parts (first those of the period lots of key,
/// account and policy, then those of other lots), or the reason of the refusal. Rates come first; a refused message
/// changes nothing.
///
/// Every engine calls it, through the rulebook, with the rows that it holds locked.
pub fn decide(rows: &mut BatchRows, charge: &Charge, now: Timestamp) -> Result<Vec<Part>, Verdict> {
    let arrivals = rows.arrivals(charge.chain, now)?;
    if let Some(shortage) = rows.shortage(charge) {
        return Err(shortage.into_verdict());
    }
    rows.arrive(arrivals);
    Ok(rows.take(charge))
}

/// Judges a message that costs nothing by the rates of its key and account, and counts it there.
pub fn take_rate(rows: &mut BatchRows, chain: Chain, now: Timestamp) -> Result<(), Verdict> {
    let arrivals = rows.arrivals(chain, now)?;
    rows.arrive(arrivals);
    Ok(())
}

/// A meter that lacks credits.
struct Shortage {
    meter: Meter,
    granted: i64,
    remaining: i64,
    reopens_at: Option<Timestamp>,
}

impl Shortage {
    fn into_verdict(self) -> Verdict {
        let Self { meter, granted, remaining, reopens_at } = self;
        Verdict::Short { meter, granted, remaining, reopens_at, pending: false }
    }

    /// Returns the shortage that lasts longer; this one if both last as long.
    fn or_longer(self, other: Self) -> Self {
        let end = |shortage: &Self| shortage.reopens_at.unwrap_or(Timestamp::MAX);
        if end(&other) > end(&self) { other } else { self }
    }
}

impl BatchRows {
    /// Returns the theoretical arrivals after this message, or the verdict that it comes too early.
    fn arrivals(&self, chain: Chain, now: Timestamp) -> Result<[Option<(Holder, Timestamp)>; 2], Verdict> {
        let mut arrivals = [None; 2];
        let shut = self.refused.get(&chain.account).and_then(|refused| refused.shuts(now));
        let mut refused =
            shut.map(|(rate, retry_at)| (retry_at, Verdict::TooFast { scope: RateScope::Refused, rate, retry_at }));
        let paced = [(Holder::Key(chain.key), RateScope::Key), (Holder::Account(chain.account), RateScope::Account)];
        for (slot, (holder, scope)) in arrivals.iter_mut().zip(paced) {
            let Some(RateState { rate, arrival, .. }) = self.holdings[&holder].rate_state else { continue };
            match rate.pass(arrival, now) {
                Ok(arrival) => *slot = Some((holder, arrival)),
                Err(retry_at) if refused.as_ref().is_none_or(|(latest, _)| retry_at > *latest) => {
                    refused = Some((retry_at, Verdict::TooFast { scope, rate, retry_at }));
                }
                Err(_) => {}
            }
        }
        refused.map_or(Ok(arrivals), |(_, verdict)| Err(verdict))
    }

    fn arrive(&mut self, arrivals: [Option<(Holder, Timestamp)>; 2]) {
        for (holder, arrival) in arrivals.into_iter().flatten() {
            if let Some(state) = self.holdings.get_mut(&holder).and_then(|holding| holding.rate_state.as_mut()) {
                *state = RateState { arrival: Some(arrival), moved: true, ..*state };
            }
        }
    }

    /// Returns the shortage that lasts longest of all meters that lack credits.
    fn shortage(&self, charge: &Charge) -> Option<Shortage> {
        let [key, account, policy] = charge.chain.holders().map(|holder| &self.holdings[&holder]);
        let period = |holding: &Holding| self.short_period(&self.lots[&holding.period], charge.credits);
        let prepaid = |holding: &Holding, meter| {
            holding.prepaid.as_ref().and_then(|stock| self.short_stock(stock, meter, charge.credits))
        };
        let in_order = [
            period(key),
            account.spend.and_then(|lot| short_money(&self.lots[&lot], charge)),
            period(account),
            prepaid(account, Meter::AccountPrepaid),
            prepaid(policy, Meter::PolicyPrepaid),
            match policy.overage {
                Overage::Deny => period(policy),
                Overage::Allow => None,
            },
        ];
        in_order.into_iter().flatten().reduce(Shortage::or_longer)
    }

    fn short_period(&self, lot: &Lot, credits: i64) -> Option<Shortage> {
        let granted = lot.granted.filter(|_| !lot.fits(credits))?;
        let remaining = lot.remaining().unwrap_or(0);
        Some(Shortage { meter: lot.meter(), granted, remaining, reopens_at: Some(lot.window.to) })
    }

    fn short_stock(&self, stock: &Stock, meter: Meter, credits: i64) -> Option<Shortage> {
        let lots = || stock.lots.iter().map(|id| &self.lots[id]);
        let remaining: i64 = lots().filter_map(Lot::remaining).sum();
        if credits <= remaining {
            return None;
        }
        let granted = lots().filter_map(|lot| lot.granted).sum();
        Some(Shortage { meter, granted, remaining, reopens_at: stock.next_top_up })
    }

    /// Checks whether a message would pass every limit if `returned` were given back to the lots.
    pub fn would_pass(&self, charge: &Charge, returned: &IdMap<LotId, i64>) -> bool {
        let mut rows = Self::default();
        for holder in charge.chain.holders() {
            let Some(holding) = self.holdings.get(&holder) else { return false };
            let stocked = holding.prepaid.iter().flat_map(|stock| &stock.lots);
            for id in stocked.chain(&holding.spend).chain([&holding.period]) {
                let Some(mut lot) = self.lots.get(id).cloned() else { return false };
                lot.refund(returned.get(id).map_or(0, |amount| lot.used().min(*amount)));
                rows.lots.insert(*id, lot);
            }
            rows.holdings.insert(holder, holding.clone());
        }
        rows.shortage(charge).is_none()
    }

    /// Charges every meter of a message that passed them all.
    fn take(&mut self, charge: &Charge) -> Vec<Part> {
        let holders = charge.chain.holders();
        let mut parts = Vec::with_capacity(holders.len());
        for holder in holders {
            let lot = self.holdings[&holder].period;
            self.charge(lot, charge.credits, &mut parts);
        }
        for holder in holders {
            if let Some(lot) = self.holdings[&holder].spend
                && charge.money() > 0
            {
                self.charge(lot, charge.money(), &mut parts);
            }
            self.take_stock(holder, charge.credits, &mut parts);
        }
        parts
    }

    fn take_stock(&mut self, holder: Holder, credits: i64, parts: &mut Vec<Part>) {
        let Some(stock) = &self.holdings[&holder].prepaid else { return };
        let mut left = credits;
        let mut taken = Vec::new();
        for id in &stock.lots {
            let some = self.lots[id].remaining().unwrap_or(0).min(left);
            if some > 0 {
                taken.push((*id, some));
                left -= some;
            }
        }
        for (id, some) in taken {
            self.charge(id, some, parts);
        }
    }

    fn charge(&mut self, id: LotId, amount: i64, parts: &mut Vec<Part>) {
        if let Some(lot) = self.lots.get_mut(&id) {
            lot.charge(amount);
            parts.push(Part(id, amount));
        }
    }
}

impl Charge {
    /// Returns the cost of the message, in micro-units.
    fn money(&self) -> i64 {
        self.credits.saturating_mul(self.unit_price)
    }
}

/// Returns the shortage of a lot of money, in credits at the message's price.
fn short_money(lot: &Lot, charge: &Charge) -> Option<Shortage> {
    let price = charge.unit_price;
    let granted = lot.granted.filter(|_| price > 0 && !lot.fits(charge.money()))?;
    let remaining = lot.remaining().unwrap_or(0);
    Some(Shortage { meter: lot.meter(), granted: granted / price, remaining: remaining / price, reopens_at: None })
}

#[cfg(test)]
mod tests;
