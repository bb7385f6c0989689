//! The ledger's small periodic work, done by whoever operates.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::observe::Context;
use crate::ledger::store::Result;

/// The rollup feeds status and metrics; ten seconds behind is what they promise.
const ROLLUP_EVERY: Duration = Duration::from_secs(10);
const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// A session is given up after this much silence: six missed heartbeats.
const SILENCE: SignedDuration = SignedDuration::from_secs(60);
const LOTS_EVERY: Duration = Duration::from_secs(3600);
/// Lots are made this long ahead, so that a ledger that is down at midnight finds them made.
const LOTS_AHEAD: SignedDuration = SignedDuration::from_hours(24);
const RETIRE_EVERY: Duration = Duration::from_secs(6 * 3600);
/// Rows of messages are kept this long, then only their sums: five days, the longest that mail waits for its upstream
/// anywhere, and three in which somebody may still look at it.
const RETENTION: SignedDuration = SignedDuration::from_hours(8 * 24);
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
}

/// Runs until the future is dropped.
pub async fn run(context: &Context) {
    tokio::join!(
        Chore::Heartbeat.keep(context),
        Chore::Rollup.keep(context),
        Chore::Lots.keep(context),
        Chore::Sweep.keep(context),
        Chore::Retire.keep(context)
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
        }
    }

    fn interval(self) -> Duration {
        match self {
            Self::Heartbeat => HEARTBEAT_EVERY,
            Self::Rollup => ROLLUP_EVERY,
            Self::Lots => LOTS_EVERY,
            Self::Sweep => SWEEP_EVERY,
            Self::Retire => RETIRE_EVERY,
        }
    }

    async fn keep(self, context: &Context) {
        loop {
            // A ledger that is held, or being rebuilt, is left alone.
            context.guard.opened().await;
            let pause = match self.once(context).await {
                Ok(()) => self.interval(),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "{}", self.doing());
                    RETRY
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn once(self, context: &Context) -> Result<()> {
        let (books, now) = (&context.books, context.clock.now());
        match self {
            Self::Heartbeat => books.heartbeat().await,
            Self::Rollup => books.rollup().await.map(drop),
            Self::Lots => books.prepare_lots(now.saturating_add(LOTS_AHEAD).unwrap_or(Timestamp::MAX)).await.map(drop),
            Self::Retire => {
                let retired = books.retire(now.saturating_sub(RETENTION).unwrap_or(Timestamp::MIN)).await?;
                if retired > 0 {
                    tracing::info!(messages = retired, "old messages are sealed");
                }
                Ok(())
            }
            Self::Sweep => {
                let lost = books.sweep_sessions(now.saturating_sub(SILENCE).unwrap_or(Timestamp::MIN)).await?;
                if lost > 0 {
                    tracing::warn!(messages = lost, "sessions ended without settling; their messages count as unknown");
                }
                Ok(())
            }
        }
    }
}
