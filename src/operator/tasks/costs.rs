//! Computes the running bill of each priced policy from the rollup, keeps it for the status, and records its terms.
//!
//! Each computation reads the whole use of the month, so it pauses for twenty times as long as it took: a large policy
//! costs a twentieth of a core at most.

use std::collections::HashSet;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::crd::CreditPolicy;
use crate::domain::cost::Payer;
use crate::domain::id::{Holder, PolicyId};
use crate::ledger::bill::{bill, running_terms};
use crate::ledger::report::BillingTerms;
use crate::operator::error::{Error, Result};
use crate::operator::object_ref::{Name, Ref};
use crate::operator::plan::credit_policy::valid_pricing;
use crate::operator::state::costs::{Costs, Reckoned, is_amount_behind, lock};
use crate::operator::state::ledger_client::LedgerClient;
use crate::operator::state::registered_ids::RegisteredIds;
use crate::operator::watch::references::References;
use crate::runtime::clock::Clock;

const TICK: Duration = Duration::from_secs(2);
/// Minimum interval, equal to the rollup's: there are no newer figures.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Pause as a multiple of the time that the computation took.
const PAUSE_FACTOR: u32 = 20;
/// Interval at which the accounts' statuses are compared with the bill: some milliseconds for 10,000 of them.
const COMPARE_EVERY: Duration = Duration::from_secs(10);

/// The task, with what it uses of the operator.
pub struct RunningBills<'a> {
    pub ledger: &'a LedgerClient,
    pub costs: &'a Costs,
    pub ids: &'a RegisteredIds,
    pub references: &'a References,
    pub clock: &'a dyn Clock,
}

impl RunningBills<'_> {
    /// Runs until the future is dropped.
    pub async fn run(&self) {
        loop {
            tokio::time::sleep(TICK).await;
            let policies = self.references.policies.state();
            // A policy without pricing, or one that is gone, has no cost.
            let priced = policies.iter().filter(|policy| valid_pricing(policy).is_some());
            let priced: HashSet<Holder> = priced
                .filter_map(|policy| self.ids.holder_of(self.references, &Ref::Policy(Name::of(policy.as_ref()))))
                .collect();
            lock(&self.costs.known).retain(|policy, _| priced.contains(&Holder::Policy(*policy)));
            for policy in policies {
                if let Err(error) = self.follow(&policy).await {
                    let name = policy.metadata.name.as_deref();
                    tracing::warn!(
                        policy = name,
                        error = &error as &dyn std::error::Error,
                        "computing a policy's cost"
                    );
                }
            }
        }
    }

    async fn follow(&self, policy: &CreditPolicy) -> Result<()> {
        let (now, what) = (self.clock.now(), Ref::Policy(Name::of(policy)));
        let Ok(spec) = policy.spec.check() else { return Ok(()) };
        if valid_pricing(policy).is_none() {
            return Ok(());
        }
        let (Some(pricing), Some(Holder::Policy(id))) = (&spec.pricing, self.ids.holder_of(self.references, &what))
        else {
            return Ok(());
        };
        let terms = running_terms(id, &spec.pool.calendar, pricing, now);
        if self.costs.due(&terms) {
            self.reckon(terms).await?;
        }
        if self.costs.is_behind(id, policy, now) {
            self.references.recount(what);
        }
        self.compare(id, &Name::of(policy).name, now);
        Ok(())
    }

    /// Queues the accounts whose statuses are behind the bill, periodically and after each computation.
    fn compare(&self, policy: PolicyId, name: &str, now: Timestamp) {
        let mut known = lock(&self.costs.known);
        let Some(known) = known.get_mut(&policy).filter(|known| now < known.terms.to) else { return };
        if known.compared.is_some_and(|compared| compared.elapsed() < COMPARE_EVERY) {
            return;
        }
        known.compared = Some(Instant::now());
        let accounts: Vec<Name> = self.references.index(|index| index.accounts_of_policy(name).cloned().collect());
        for account in accounts {
            let (object, what) = (self.references.account(&account), Ref::Account(account));
            let (Some(object), Some(Holder::Account(id))) = (object, self.ids.holder_of(self.references, &what)) else {
                continue;
            };
            if is_amount_behind(&object, known.bill.amount(Payer::Account(id)), now) {
                self.references.recount(what);
            }
        }
    }

    async fn reckon(&self, terms: BillingTerms) -> Result<()> {
        let (store, started) = (self.ledger.store(), Instant::now());
        let standing =
            store.terms(terms.policy, &terms.period).await.map_err(Error::ledger("reading a bill's terms"))?;
        if standing.as_ref() != Some(&terms) {
            self.ledger.put_terms(&terms).await.map_err(Error::ledger("writing a bill's terms"))?;
        }
        // Cleared before the read: use during the computation causes another one.
        lock(&self.costs.moved).remove(&terms.policy);
        let bill = bill(store, &terms).await.map_err(Error::ledger("reading a policy's usage"))?;
        let pause = (started.elapsed() * PAUSE_FACTOR).max(AGAIN_AFTER);
        let known = Reckoned { bill, again_from: Instant::now() + pause, compared: None, terms };
        lock(&self.costs.known).insert(known.terms.policy, known);
        Ok(())
    }
}
