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
use super::references::Ref;
use super::watch::Name;
use crate::crd::{CostStatus, CreditPolicy, PolicyCostStatus, Pricing};
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
const MOVED_PART: i64 = 100;
const MOVED_AFTER: SignedDuration = SignedDuration::from_secs(60);

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
        let Some(status) = &object.status else { return false };
        let Some((shown, written)) = status.cost.as_ref().zip(status.observed_at.as_ref()) else { return false };
        let known = lock(&self.known);
        let Some(known) = known.get(&policy).filter(|known| now < known.terms.to) else { return false };
        let distance = (known.bill.total_minor - shown.total_minor).abs();
        let old = written.0.checked_add(MOVED_AFTER).is_ok_and(|from| from <= now);
        old && distance > 0 && distance.saturating_mul(MOVED_PART) >= shown.total_minor
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

/// Runs until the future is dropped.
pub async fn run(context: &Context) {
    loop {
        tokio::time::sleep(TICK).await;
        for policy in context.references.policies.state() {
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
    let (Some(pricing), Some(Holder::Policy(id))) = (&spec.pricing, context.holder_of(&what)) else { return Ok(()) };
    let terms = running_terms(id, &spec.pool.calendar, pricing, now);
    if context.costs.due(&terms) {
        reckon(context, terms).await?;
    }
    if context.costs.is_behind(id, policy, now) {
        context.references.recount(what);
    }
    Ok(())
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
    let known = Reckoned { bill, again_from: Instant::now() + pause, terms };
    lock(&context.costs.known).insert(known.terms.policy, known);
    Ok(())
}
