//! The ledger's small periodic tasks, run by the operator that leads.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tracing::Instrument as _;

use crate::ledger::store::{FINGERPRINT_KEPT, Result};
use crate::operator::report::Report;
use crate::operator::state::guard::Guard;
use crate::operator::state::ledger_client::LedgerClient;
use crate::runtime::clock::Clock;

/// Lost messages of one sweep that are logged one by one; the others are only counted.
const LOST_LOGGED: usize = 1_000;

/// Interval of the rollup, which feeds status and metrics; they promise to be ten seconds behind.
const ROLLUP_EVERY: Duration = Duration::from_secs(10);
const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// Silence after which a session is ended: twelve missed heartbeats of a relay, which beats every five seconds whatever
/// its engine, and several failovers of a database.
const SILENCE: SignedDuration = SignedDuration::from_secs(60);
/// Time for which the ledger must have answered us before a silent session is ended: after an outage of the ledger all
/// sessions were silent. Three heartbeats of a relay.
const ANSWERED: Duration = Duration::from_secs(15);
const LOTS_EVERY: Duration = Duration::from_secs(3600);
/// Lots are prepared this far ahead, so that they exist even if the ledger is down at midnight.
const LOTS_AHEAD: SignedDuration = SignedDuration::from_hours(24);
const RETIRE_EVERY: Duration = Duration::from_secs(6 * 3600);
/// Rows of messages are kept this long, then only their sums: five days, the longest that mail waits for its upstream
/// anywhere, and three in which an administrator may still look at it.
const RETENTION: SignedDuration = SignedDuration::from_hours(8 * 24);
const FORGET_KEYS_EVERY: Duration = Duration::from_secs(24 * 3600);
/// Rows of removed keys are kept this long: longer than any period, so that the key that used up a cap can still be
/// found. Their IDs and their use stay.
const REMOVED_KEY_KEPT: SignedDuration = SignedDuration::from_hours(35 * 24);
/// Expired fingerprints are ignored in any case; this only frees their space.
const FORGET_EVERY: Duration = Duration::from_secs(3600);
/// Delay after a failure before the next try.
const RETRY: Duration = Duration::from_secs(5);

/// One periodic task.
#[derive(Clone, Copy)]
enum PeriodicTask {
    Heartbeat,
    Rollup,
    Lots,
    Sweep,
    Retire,
    Forget,
    ForgetKeys,
}

/// Time since when the ledger has answered every heartbeat of ours.
#[derive(Default)]
struct Liveness(Mutex<Option<Instant>>);

impl Liveness {
    fn felt(&self, beats: bool) {
        let mut since = self.0.lock();
        *since = beats.then(|| since.unwrap_or_else(Instant::now));
    }

    fn is_steady(&self) -> bool {
        let since = self.0.lock();
        since.is_some_and(|since| since.elapsed() >= ANSWERED)
    }
}

/// The tasks, with what they use of the operator.
pub struct Housekeeping<'a> {
    pub ledger_guard: &'a Guard,
    pub ledger: &'a LedgerClient,
    pub report: &'a Report,
    pub clock: &'a dyn Clock,
}

impl Housekeeping<'_> {
    /// Runs until the future is dropped.
    pub async fn run(&self) {
        let liveness = &Liveness::default();
        tokio::join!(
            PeriodicTask::Heartbeat.keep(self, liveness),
            PeriodicTask::Rollup.keep(self, liveness),
            PeriodicTask::Lots.keep(self, liveness),
            PeriodicTask::Sweep.keep(self, liveness),
            PeriodicTask::Retire.keep(self, liveness),
            PeriodicTask::Forget.keep(self, liveness),
            PeriodicTask::ForgetKeys.keep(self, liveness)
        );
    }
}

impl PeriodicTask {
    fn doing(self) -> &'static str {
        match self {
            Self::Heartbeat => "saying that the operator lives",
            Self::Rollup => "rolling usage up",
            Self::Lots => "making the next lots",
            Self::Sweep => "giving silent sessions up",
            Self::Retire => "sealing old messages",
            Self::Forget => "forgetting fingerprints",
            Self::ForgetKeys => "forgetting removed keys",
        }
    }

    fn interval(self) -> Duration {
        match self {
            Self::Heartbeat => HEARTBEAT_EVERY,
            Self::Rollup => ROLLUP_EVERY,
            Self::Lots => LOTS_EVERY,
            Self::Sweep => SWEEP_EVERY,
            Self::Retire => RETIRE_EVERY,
            Self::Forget => FORGET_EVERY,
            Self::ForgetKeys => FORGET_KEYS_EVERY,
        }
    }

    async fn keep(self, housekeeping: &Housekeeping<'_>, liveness: &Liveness) {
        loop {
            // Not while the ledger is held or being rebuilt.
            housekeeping.ledger_guard.opened().await;
            let pause = match self.once(housekeeping, liveness).await {
                Ok(()) => self.interval(),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "{}", self.doing());
                    RETRY
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Runs one round, in a span, so that log lines of lower layers name the task.
    async fn once(self, housekeeping: &Housekeeping<'_>, liveness: &Liveness) -> Result<()> {
        let span = tracing::error_span!("housekeeping", task = self.doing());
        self.round(housekeeping, liveness).instrument(span).await
    }

    async fn round(self, housekeeping: &Housekeeping<'_>, liveness: &Liveness) -> Result<()> {
        let (ledger, now) = (housekeeping.ledger, housekeeping.clock.now());
        match self {
            Self::Heartbeat => {
                let beat = ledger.heartbeat().await;
                liveness.felt(beat.is_ok());
                beat
            }
            Self::Rollup => ledger.rollup().await.map(drop),
            Self::Lots => ledger.prepare_lots(now.saturating_add(LOTS_AHEAD).unwrap_or(Timestamp::MAX)).await.map(drop),
            Self::Retire => {
                let retired = ledger.retire(now.saturating_sub(RETENTION).unwrap_or(Timestamp::MIN)).await?;
                if retired > 0 {
                    tracing::info!(messages = retired, "old messages are sealed");
                }
                Ok(())
            }
            Self::Forget => {
                let before = now.saturating_sub(FINGERPRINT_KEPT).unwrap_or(Timestamp::MIN);
                ledger.forget_fingerprints(before).await.map(drop)
            }
            Self::ForgetKeys => {
                let before = now.saturating_sub(REMOVED_KEY_KEPT).unwrap_or(Timestamp::MIN);
                ledger.forget_keys(before).await.map(drop)
            }
            Self::Sweep => {
                // Messages of a closed or replaced session are known to be abandoned at any time.
                let silence = if liveness.is_steady() { SILENCE } else { SignedDuration::MAX };
                let lost = ledger.sweep_sessions(silence).await?;
                housekeeping.report.unknown(lost.len() as u64);
                for message in lost.iter().take(LOST_LOGGED) {
                    tracing::warn!(message.id = %message, "its relay ended without settling it; it counts as unknown");
                }
                if !lost.is_empty() {
                    let messages = lost.len();
                    tracing::warn!(messages, "sessions ended without settling; their messages count as unknown");
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_given_up_for_a_silence_that_was_the_ledgers() {
        let liveness = Liveness::default();
        assert!(!liveness.is_steady(), "it was not asked yet");
        liveness.felt(true);
        assert!(!liveness.is_steady(), "it has just come back");
        let earlier = Instant::now().checked_sub(ANSWERED);
        *liveness.0.lock() = earlier;
        liveness.felt(true);
        assert!(liveness.is_steady());
        liveness.felt(false);
        liveness.felt(true);
        assert!(!liveness.is_steady(), "it was away");
    }
}
