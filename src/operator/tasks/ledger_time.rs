//! Checks whether the ledger's time is ahead of the clock, as it is after a clock ran ahead and was corrected.
//!
//! The ledger's time only goes forward, so periods stand until the clock has caught up, and no restart helps. Mail goes
//! on (rates and expiries are judged by the clock meanwhile), but administrators should know why a period began early:
//! `/readyz`, a metric, the log, and a condition on every policy report it.

use std::time::Duration;

use crate::operator::context::Context;
use crate::operator::error::{Error, Result};
use crate::operator::object_ref::{Name, Ref};
use crate::runtime::failure_streak::FailureStreak;

/// Interval of one small read. A difference of a minute is reported within some seconds.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Runs until the future is dropped.
pub async fn run(context: &Context) {
    let mut failures = FailureStreak::default();
    loop {
        let looked = look(context).await;
        if let Some(error) = failures.first(&looked) {
            tracing::warn!(error = error as &dyn std::error::Error, "reading the ledger's time");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn look(context: &Context) -> Result<()> {
    let time = context.ledger.store().time().await.map_err(Error::ledger("reading the ledger's time"))?;
    if context.ledger_clock.found(time) {
        for policy in context.references.policies.state() {
            context.queues.wake(&Ref::Policy(Name::of(policy.as_ref())));
        }
    }
    Ok(())
}
