//! The running bills, as last computed.

use std::collections::{HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::crd::{CostStatus, CreditPolicy, PolicyCostStatus, Pricing, SubAccount};
use crate::domain::cost::{Bill, Payer};
use crate::domain::id::{AccountId, Holder, PolicyId};
use crate::ledger::report::BillingTerms;
use crate::operator::plan::cost::Cost;
/// Minimum change of a policy's total, as a fraction, and minimum interval for a status write.
const TOTAL_PART: i64 = 100;
const TOTAL_AFTER: SignedDuration = SignedDuration::from_secs(60);
/// The same for an account's amount, which changes with all accounts' use. Its own use is written with its figures.
const AMOUNT_PART: i64 = 10;
const AMOUNT_AFTER: SignedDuration = SignedDuration::from_mins(15);

/// The computed bills.
#[derive(Default)]
pub struct Costs {
    pub known: Mutex<HashMap<PolicyId, Reckoned>>,
    /// Policies with use since their bill was computed.
    pub moved: Mutex<HashSet<PolicyId>>,
}

pub struct Reckoned {
    pub terms: BillingTerms,
    pub bill: Bill,
    pub again_from: Instant,
    pub compared: Option<Instant>,
}

/// Checks whether an amount changed enough, and was written long enough ago, to be written again. The first use is
/// always written.
fn moved_on(shown: i64, fresh: i64, part: i64, written: Option<SignedDuration>, after: SignedDuration) -> bool {
    let far = (fresh - shown).abs().saturating_mul(part) >= shown.max(1);
    fresh != shown && (shown == 0 || (far && written.is_none_or(|age| age >= after)))
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

impl Costs {
    pub fn moved(&self, holder: Holder) {
        match holder {
            Holder::Policy(policy) => drop(lock(&self.moved).insert(policy)),
            Holder::Account(_) | Holder::Key(_) => {}
        }
    }

    pub fn of_policy(&self, policy: PolicyId, pricing: Option<&Pricing>, now: Timestamp) -> Cost<PolicyCostStatus> {
        let Some(pricing) = pricing else { return Cost::None };
        match lock(&self.known).get(&policy) {
            None => Cost::Unknown,
            Some(known) => {
                // A month that has just begun has no use yet.
                let total =
                    if now < known.terms.to { known.bill.total_minor } else { pricing.base_price_minor.unwrap_or(0) };
                Cost::Known(PolicyCostStatus { currency: pricing.currency.clone(), total_minor: total })
            }
        }
    }

    pub fn of_account(
        &self,
        policy: PolicyId,
        account: AccountId,
        pricing: Option<&Pricing>,
        now: Timestamp,
    ) -> Cost<CostStatus> {
        let Some(pricing) = pricing else { return Cost::None };
        match lock(&self.known).get(&policy) {
            None => Cost::Unknown,
            Some(known) => {
                let amount = if now < known.terms.to { known.bill.amount(Payer::Account(account)) } else { 0 };
                Cost::Known(CostStatus { currency: pricing.currency.clone(), amount_minor: amount })
            }
        }
    }

    /// True if a policy's status shows an outdated total.
    pub fn is_behind(&self, policy: PolicyId, object: &CreditPolicy, now: Timestamp) -> bool {
        let known = lock(&self.known);
        let Some(known) = known.get(&policy).filter(|known| now < known.terms.to) else { return false };
        let Some(status) = &object.status else { return false };
        let Some(shown) = &status.cost else { return status.credits.is_some() };
        let age = status.observed_at.as_ref().map(|at| now.duration_since(at.0));
        moved_on(shown.total_minor, known.bill.total_minor, TOTAL_PART, age, TOTAL_AFTER)
    }

    /// True if an account's status shows an outdated amount.
    pub fn is_amount_behind(&self, policy: PolicyId, account: AccountId, object: &SubAccount, now: Timestamp) -> bool {
        lock(&self.known)
            .get(&policy)
            .filter(|known| now < known.terms.to)
            .is_some_and(|known| is_amount_behind(object, known.bill.amount(Payer::Account(account)), now))
    }

    /// True if the bill must be computed, for the first time or again.
    pub fn due(&self, terms: &BillingTerms) -> bool {
        match lock(&self.known).get(&terms.policy) {
            None => true,
            Some(known) if known.terms != *terms => true,
            Some(known) => known.again_from <= Instant::now() && lock(&self.moved).contains(&terms.policy),
        }
    }
}

pub fn is_amount_behind(object: &SubAccount, fresh: i64, now: Timestamp) -> bool {
    let Some(status) = &object.status else { return false };
    // An account older than the first bill shows no amount yet. One that is refused shows no figures at all.
    let Some(shown) = &status.cost else { return status.usage.is_some() };
    let age = status.observed_at.as_ref().map(|at| now.duration_since(at.0));
    moved_on(shown.amount_minor, fresh, AMOUNT_PART, age, AMOUNT_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_written_again_when_it_moved_far_and_long_ago() {
        let cases = [
            // shown, fresh, minutes, written again
            (0, 1, 0, true),
            (100, 100, 60, false),
            (100, 109, 60, false),
            (100, 110, 60, true),
            (100, 90, 60, true),
            (100, 110, 14, false),
            (1, 0, 60, true),
        ];
        for (shown, fresh, minutes, expected) in cases {
            let age = Some(SignedDuration::from_mins(minutes));
            let again = moved_on(shown, fresh, AMOUNT_PART, age, AMOUNT_AFTER);
            assert_eq!(again, expected, "{shown} {fresh} after {minutes} min");
        }
    }
}
