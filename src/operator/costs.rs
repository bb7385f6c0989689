//! The running bill of each policy that has pricing: reckoned from the rollup, remembered for status, its terms written.
//!
//! A reckoning reads all that was used in the month, so it waits twenty times as long as it took: with a large policy it
//! costs a twentieth of a core at most.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::error::{Error, Result};
use super::observe::Context;
use super::plan::cost::Cost;
use super::plan::credit_policy::valid_pricing;
use super::references::Ref;
use super::watch::Name;
use crate::crd::{CostStatus, CreditPolicy, PolicyCostStatus, Pricing, SubAccount};
use crate::domain::cost::{Bill, Payer};
use crate::domain::id::{AccountId, Holder, PolicyId};
use crate::ledger::bill::{bill, running_terms};
use crate::ledger::report::Terms;

const TICK: Duration = Duration::from_secs(2);
/// As often as the rollup at most: nothing is newer.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// So many times as long as it took.
const PAUSE_FACTOR: u32 = 20;
/// A total that moved by less than this part, or sooner than this, is not worth a write to a status.
const TOTAL_PART: i64 = 100;
const TOTAL_AFTER: SignedDuration = SignedDuration::from_secs(60);
/// The same of an account's amount, which moves with everybody's use. Its own use is written with its figures.
const AMOUNT_PART: i64 = 10;
const AMOUNT_AFTER: SignedDuration = SignedDuration::from_mins(15);
/// How often the accounts' statuses are compared with the bill: some milliseconds for 10,000 of them.
const COMPARE_EVERY: Duration = Duration::from_secs(10);

/// What was reckoned.
#[derive(Default)]
pub struct Costs {
    known: Mutex<HashMap<PolicyId, Reckoned>>,
    /// Policies of which something moved since.
    moved: Mutex<HashSet<PolicyId>>,
}

struct Reckoned {
    terms: Terms,
    bill: Bill,
    again_from: Instant,
    compared: Option<Instant>,
}

/// Whether an amount that is shown has moved so far, and was written so long ago, that it is to be written again. The
/// first use is news.
fn moved_on(shown: i64, fresh: i64, part: i64, written: Option<SignedDuration>, after: SignedDuration) -> bool {
    let far = (fresh - shown).abs().saturating_mul(part) >= shown.max(1);
    fresh != shown && (shown == 0 || (far && written.is_none_or(|age| age >= after)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
                // Nobody has used anything of a month that has just begun.
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

    /// Whether a policy's status shows a total that has moved on.
    pub fn is_behind(&self, policy: PolicyId, object: &CreditPolicy, now: Timestamp) -> bool {
        let known = lock(&self.known);
        let Some(known) = known.get(&policy).filter(|known| now < known.terms.to) else { return false };
        let Some(status) = &object.status else { return false };
        let Some(shown) = &status.cost else { return status.credits.is_some() };
        let age = status.observed_at.as_ref().map(|at| now.duration_since(at.0));
        moved_on(shown.total_minor, known.bill.total_minor, TOTAL_PART, age, TOTAL_AFTER)
    }

    /// Whether an account's status shows an amount that has moved on.
    pub fn is_amount_behind(&self, policy: PolicyId, account: AccountId, object: &SubAccount, now: Timestamp) -> bool {
        lock(&self.known)
            .get(&policy)
            .filter(|known| now < known.terms.to)
            .is_some_and(|known| is_amount_behind(object, known.bill.amount(Payer::Account(account)), now))
    }

    /// Whether to reckon (again).
    fn due(&self, terms: &Terms) -> bool {
        match lock(&self.known).get(&terms.policy) {
            None => true,
            Some(known) if known.terms != *terms => true,
            Some(known) => known.again_from <= Instant::now() && lock(&self.moved).contains(&terms.policy),
        }
    }
}

fn is_amount_behind(object: &SubAccount, fresh: i64, now: Timestamp) -> bool {
    let Some(status) = &object.status else { return false };
    // What was made before the first reckoning shows none yet. One that is refused shows no figures at all.
    let Some(shown) = &status.cost else { return status.usage.is_some() };
    let age = status.observed_at.as_ref().map(|at| now.duration_since(at.0));
    moved_on(shown.amount_minor, fresh, AMOUNT_PART, age, AMOUNT_AFTER)
}

/// Runs until the future is dropped.
pub async fn run(context: &Context) {
    loop {
        tokio::time::sleep(TICK).await;
        let policies = context.references.policies.state();
        // What has no pricing any more, or is gone, has no cost.
        let priced = policies.iter().filter(|policy| valid_pricing(policy).is_some());
        let priced: HashSet<Holder> =
            priced.filter_map(|policy| context.holder_of(&Ref::Policy(Name::of(policy.as_ref())))).collect();
        lock(&context.costs.known).retain(|policy, _| priced.contains(&Holder::Policy(*policy)));
        for policy in policies {
            if let Err(error) = follow(context, &policy).await {
                let name = policy.metadata.name.as_deref();
                tracing::warn!(
                    policy = name,
                    error = &error as &dyn std::error::Error,
                    "reckoning what a policy costs"
                );
            }
        }
    }
}

async fn follow(context: &Context, policy: &CreditPolicy) -> Result<()> {
    let (now, what) = (context.clock.now(), Ref::Policy(Name::of(policy)));
    let Ok(spec) = policy.spec.check() else { return Ok(()) };
    if valid_pricing(policy).is_none() {
        return Ok(());
    }
    let (Some(pricing), Some(Holder::Policy(id))) = (&spec.pricing, context.holder_of(&what)) else { return Ok(()) };
    let terms = running_terms(id, &spec.pool.calendar, pricing, now);
    if context.costs.due(&terms) {
        reckon(context, terms).await?;
    }
    if context.costs.is_behind(id, policy, now) {
        context.references.recount(what);
    }
    compare(context, id, &Name::of(policy).name, now);
    Ok(())
}

/// Has the accounts judged whose statuses are behind the bill, now and then and after each reckoning.
fn compare(context: &Context, policy: PolicyId, name: &str, now: Timestamp) {
    let mut known = lock(&context.costs.known);
    let Some(known) = known.get_mut(&policy).filter(|known| now < known.terms.to) else { return };
    if known.compared.is_some_and(|compared| compared.elapsed() < COMPARE_EVERY) {
        return;
    }
    known.compared = Some(Instant::now());
    let accounts: Vec<Name> = context.references.index(|index| index.accounts_of_policy(name).cloned().collect());
    for account in accounts {
        let (object, what) = (context.references.account(&account), Ref::Account(account));
        let (Some(object), Some(Holder::Account(id))) = (object, context.holder_of(&what)) else { continue };
        if is_amount_behind(&object, known.bill.amount(Payer::Account(id)), now) {
            context.references.recount(what);
        }
    }
}

async fn reckon(context: &Context, terms: Terms) -> Result<()> {
    let (store, started) = (context.books.store(), Instant::now());
    let standing = store.terms(terms.policy, &terms.period).await.map_err(Error::ledger("reading a bill's terms"))?;
    if standing.as_ref() != Some(&terms) {
        context.books.put_terms(&terms).await.map_err(Error::ledger("writing a bill's terms"))?;
    }
    // Before it is read: what moves while it is reckoned is reckoned again.
    lock(&context.costs.moved).remove(&terms.policy);
    let bill = bill(store, &terms).await.map_err(Error::ledger("reading what a policy used"))?;
    let pause = (started.elapsed() * PAUSE_FACTOR).max(AGAIN_AFTER);
    let known = Reckoned { bill, again_from: Instant::now() + pause, compared: None, terms };
    lock(&context.costs.known).insert(known.terms.policy, known);
    Ok(())
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
