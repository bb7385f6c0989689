//! The bill of a policy's period: the usage of each account, and its share of the cost.
//!
//! A period is a calendar month in the policy's time zone, from its anchor day. Its terms are written while it runs and
//! stay final, so a later price, zone or anchor changes no closed bill. The price of a credit was fixed when it was
//! reserved. Late outcomes still change the month of their reservation, until they are all known.

mod print;

use std::collections::HashMap;

use jiff::Timestamp;

use super::report::{BillingTerms, USAGE_ROWS_MAX};
use super::store::{Result, Store};
use crate::domain::cost::{Bill, Payer, Used, allocate};
use crate::domain::directory::{AccountEntry, Entry};
use crate::domain::id::{AccountId, PolicyId};
use crate::domain::money::Pricing;
use crate::domain::period::{Calendar, Window};

/// Splits the cost of a policy's period among its accounts, as far as the rollup has counted it.
pub async fn bill(store: &dyn Store, terms: &BillingTerms) -> Result<Bill> {
    let mut used: HashMap<Payer, Used> = HashMap::new();
    let mut after = None;
    loop {
        let rows = store.usage(terms.policy, terms.from, terms.to, after, USAGE_ROWS_MAX).await?;
        for row in &rows {
            let payer = row.spender.0.map_or(Payer::Parent, Payer::Account);
            let sum = used.entry(payer).or_default();
            sum.credits = sum.credits.saturating_add(row.credits);
            sum.priced_micro += i128::from(row.priced_micro);
        }
        after = rows.last().map(|row| row.spender);
        if rows.len() < USAGE_ROWS_MAX {
            return Ok(allocate(terms.base_price_minor, used));
        }
    }
}

/// Returns the terms of the billing period that is running at `now`.
pub fn running_terms(policy: PolicyId, calendar: &Calendar, pricing: &Pricing, now: Timestamp) -> BillingTerms {
    terms_of(policy, calendar.billing().window(now), pricing)
}

fn terms_of(policy: PolicyId, window: Window, pricing: &Pricing) -> BillingTerms {
    BillingTerms {
        policy,
        period: window.key.to_string(),
        from: window.from,
        to: window.to,
        currency: pricing.currency.clone(),
        base_price_minor: pricing.base_price_minor,
        price_per_thousand_minor: pricing.price_per_thousand_minor,
    }
}

/// A bill with names, to be printed.
#[derive(Clone, Debug)]
pub struct Statement {
    pub policy: String,
    pub terms: BillingTerms,
    pub bill: Bill,
    /// The known accounts in it. Purged ones have no name.
    accounts: HashMap<AccountId, AccountEntry>,
}

/// The reason why there is no statement: a sentence for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoStatement(String);

/// Returns the statement of the named policy for a period such as `2026-11`; by default for the running period.
pub async fn statement(
    store: &dyn Store,
    name: &str,
    period: Option<&str>,
    now: Timestamp,
) -> Result<std::result::Result<Statement, NoStatement>> {
    let mut policy = None;
    let mut accounts = HashMap::new();
    for entry in store.changes(0).await?.entries {
        match entry {
            Entry::Policy(entry) if entry.name == name => policy = Some(entry),
            Entry::Account(entry) => drop(accounts.insert(entry.id, entry)),
            Entry::Policy(_) | Entry::Key(_) => {}
        }
    }
    let Some(policy) = policy else {
        return Ok(Err(NoStatement(format!("the ledger knows no policy of the name {name}"))));
    };
    let calendar = policy.pool.calendar.billing();
    let window = match period {
        None => calendar.window(now),
        Some(period) => match calendar.month(period) {
            Some(window) => window,
            None => return Ok(Err(NoStatement(format!("{period} is no month; write one such as 2026-11")))),
        },
    };
    let written = store.terms(policy.id, &window.key).await?;
    let runs = window.from <= now && now < window.to;
    let key = window.key.clone();
    // In the running month the terms are known before the operator has written them.
    let known = || policy.pricing.as_ref().filter(|_| runs).map(|pricing| terms_of(policy.id, window, pricing));
    let Some(terms) = written.or_else(known) else {
        return Ok(Err(NoStatement(format!(
            "the policy {name} had no pricing in {key}, so there is nothing to split"
        ))));
    };
    let bill = bill(store, &terms).await?;
    Ok(Ok(Statement { policy: policy.name, terms, bill, accounts }))
}

impl Statement {
    /// Returns true if the account is no longer the policy's: deleted, refused, or moved to another.
    fn removed(&self, account: AccountId) -> bool {
        self.accounts.get(&account).is_none_or(|entry| entry.removed_at.is_some() || entry.policy != self.terms.policy)
    }
}
