//! The schedule of a task that reports to the ledger once a second what the relay has gathered.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::ledger::store::Result;
use crate::runtime::failure_streak::FailureStreak;

const TELL_EVERY: Duration = Duration::from_secs(1);

/// A turn each second, and a last one at the stop.
pub struct Telling {
    /// Subject of the reports, for the log.
    what: &'static str,
    stop: CancellationToken,
    stopped: bool,
    failures: FailureStreak,
}

impl Telling {
    pub fn of(what: &'static str, stop: CancellationToken) -> Self {
        Self { what, stop, stopped: false, failures: FailureStreak::default() }
    }

    /// Waits for the next turn. False after the last one.
    pub async fn next_turn(&mut self) -> bool {
        if self.stopped {
            return false;
        }
        tokio::select! {
            () = sleep(TELL_EVERY) => {}
            () = self.stop.cancelled() => self.stopped = true,
        }
        true
    }

    /// Logs the first failure in a row.
    pub fn note(&mut self, told: &Result<()>) {
        if let Some(error) = self.failures.first(told) {
            tracing::warn!(error = error as &dyn std::error::Error, "telling of {}", self.what);
        }
    }
}
