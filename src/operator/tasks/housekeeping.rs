//! The ledger's small periodic work, done by whoever operates.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tracing::Instrument as _;

use crate::ledger::store::{FINGERPRINT_KEPT, Result};
use crate::operator::context::Context;

/// Lost messages of one sweep that are named in the log; the rest is counted.
const LOST_LOGGED: usize = 1_000;

/// The rollup feeds status and metrics; ten seconds behind is what they promise.
const ROLLUP_EVERY: Duration = Duration::from_secs(10);
const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// A session is given up after this much silence: twelve missed heartbeats of a relay, which beats every five seconds
/// whatever its engine, and several failovers of a database.
const SILENCE: SignedDuration = SignedDuration::from_secs(60);
/// After an outage of the ledger everybody was silent. Nobody is given up before it has answered us for so long: three
/// heartbeats of a relay.
const ANSWERED: Duration = Duration::from_secs(15);
const LOTS_EVERY: Duration = Duration::from_secs(3600);
/// Lots are made this long ahead, so that a ledger that is down at midnight finds them made.
const LOTS_AHEAD: SignedDuration = SignedDuration::from_hours(24);
const RETIRE_EVERY: Duration = Duration::from_secs(6 * 3600);
/// Rows of messages are kept this long, then only their sums: five days, the longest that mail waits for its upstream
/// anywhere, and three in which somebody may still look at it.
const RETENTION: SignedDuration = SignedDuration::from_hours(8 * 24);
const FORGET_KEYS_EVERY: Duration = Duration::from_secs(24 * 3600);
/// Rows of removed keys are kept this long: longer than any period, so that whoever asks what used up a cap still finds
/// who. Their ids and what they used stay.
const REMOVED_KEY_KEPT: SignedDuration = SignedDuration::from_hours(35 * 24);
/// Fingerprints that are too old are not looked at; this only gives their room back.
const FORGET_EVERY: Duration = Duration::from_secs(3600);
/// After a failure, before the next try.
const RETRY: Duration = Duration::from_secs(5);

/// One piece of periodic work.
#[derive(Clone, Copy)]
enum Chore {
    Heartbeat,
    Rollup,
    Lots,
    Sweep,
    Retire,
    Forget,
    ForgetKeys,
}

/// Since when the ledger has answered every heartbeat of ours.
#[derive(Default)]
struct Pulse(Mutex<Option<Instant>>);

impl Pulse {
    fn felt(&self, beats: bool) {
        let mut since = self.0.lock();
        *since = beats.then(|| since.unwrap_or_else(Instant::now));
    }

    fn is_steady(&self) -> bool {
        let since = self.0.lock();
        since.is_some_and(|since| since.elapsed() >= ANSWERED)
    }
}

/// Runs until the future is dropped.
pub async fn run(context: &Context) {
    let pulse = &Pulse::default();
    tokio::join!(
        Chore::Heartbeat.keep(context, pulse),
        Chore::Rollup.keep(context, pulse),
        Chore::Lots.keep(context, pulse),
        Chore::Sweep.keep(context, pulse),
        Chore::Retire.keep(context, pulse),
        Chore::Forget.keep(context, pulse),
        Chore::ForgetKeys.keep(context, pulse)
    );
}

impl Chore {
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

    async fn keep(self, context: &Context, pulse: &Pulse) {
        loop {
            // A ledger that is held, or being rebuilt, is left alone.
            context.guard.opened().await;
            let pause = match self.once(context, pulse).await {
                Ok(()) => self.interval(),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "{}", self.doing());
                    RETRY
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// One round, in a span, so that what the rooms below log says who asked.
    async fn once(self, context: &Context, pulse: &Pulse) -> Result<()> {
        let span = tracing::error_span!("housekeeping", chore = self.doing());
        self.round(context, pulse).instrument(span).await
    }

    async fn round(self, context: &Context, pulse: &Pulse) -> Result<()> {
        let (books, now) = (&context.books, context.clock.now());
        match self {
            Self::Heartbeat => {
                let beat = books.heartbeat().await;
                pulse.felt(beat.is_ok());
                beat
            }
            Self::Rollup => books.rollup().await.map(drop),
            Self::Lots => books.prepare_lots(now.saturating_add(LOTS_AHEAD).unwrap_or(Timestamp::MAX)).await.map(drop),
            Self::Retire => {
                let retired = books.retire(now.saturating_sub(RETENTION).unwrap_or(Timestamp::MIN)).await?;
                if retired > 0 {
                    tracing::info!(messages = retired, "old messages are sealed");
                }
                Ok(())
            }
            Self::Forget => {
                let before = now.saturating_sub(FINGERPRINT_KEPT).unwrap_or(Timestamp::MIN);
                books.forget_fingerprints(before).await.map(drop)
            }
            Self::ForgetKeys => {
                let before = now.saturating_sub(REMOVED_KEY_KEPT).unwrap_or(Timestamp::MIN);
                books.forget_keys(before).await.map(drop)
            }
            Self::Sweep => {
                // What a closed or replaced session left open is known to be nobody's at any time.
                let silence = if pulse.is_steady() { SILENCE } else { SignedDuration::MAX };
                let lost = books.sweep_sessions(silence).await?;
                context.report.unknown(lost.len() as u64);
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
        let pulse = Pulse::default();
        assert!(!pulse.is_steady(), "it was not asked yet");
        pulse.felt(true);
        assert!(!pulse.is_steady(), "it has just come back");
        let earlier = Instant::now().checked_sub(ANSWERED);
        *pulse.0.lock() = earlier;
        pulse.felt(true);
        assert!(pulse.is_steady());
        pulse.felt(false);
        pulse.felt(true);
        assert!(!pulse.is_steady(), "it was away");
    }
}
