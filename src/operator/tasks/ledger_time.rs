//! Checks whether the ledger's time is ahead of the clock, as it is after a clock ran ahead and was corrected.
//!
//! The ledger's time only goes forward, so periods stand until the clock has caught up, and no restart helps. Mail goes
//! on (rates and expiries are judged by the clock meanwhile), but administrators should know why a period began early:
//! `/readyz`, a metric, the log, and a condition on every policy report it.

use std::time::Duration;

use crate::operator::error::{Error, Result};
use crate::operator::state::ledger_client::LedgerClient;
use crate::operator::state::ledger_clock::LedgerClock;
use crate::operator::watch::references::References;
use crate::operator::watch::work_queue::WorkQueues;
use crate::runtime::failure_streak::FailureStreak;

/// Interval of one small read. A difference of a minute is reported within some seconds.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Runs until the future is dropped.
pub async fn run(ledger: &LedgerClient, clock: &LedgerClock, references: &References, queues: &WorkQueues) {
    let mut failures = FailureStreak::default();
    loop {
        let read = read(ledger, clock).await;
        if let Some(error) = failures.first(&read) {
            tracing::warn!(error = error as &dyn std::error::Error, "reading the ledger's time");
        }
        if matches!(read, Ok(true)) {
            references.wake_policies(queues);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Returns true if what is to be said of the ledger's time changed.
async fn read(ledger: &LedgerClient, clock: &LedgerClock) -> Result<bool> {
    let time = ledger.store().time().await.map_err(Error::ledger("reading the ledger's time"))?;
    Ok(clock.found(time))
}
