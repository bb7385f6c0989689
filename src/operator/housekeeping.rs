//! The ledger's small periodic work, done by whoever operates.

use std::time::Duration;

use jiff::SignedDuration;

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
/// After a failure, before the next try.
const RETRY: Duration = Duration::from_secs(5);

/// Runs until the future is dropped.
pub async fn run(context: &Context) {
    let books = &context.books;
    tokio::join!(
        every(HEARTBEAT_EVERY, "saying that the operator lives", async || books.heartbeat().await),
        every(ROLLUP_EVERY, "rolling usage up", async || books.rollup().await.map(drop)),
        every(LOTS_EVERY, "making the next lots", async || {
            let until = context.clock.now().saturating_add(LOTS_AHEAD).unwrap_or(jiff::Timestamp::MAX);
            books.prepare_lots(until).await.map(drop)
        }),
        every(SWEEP_EVERY, "giving silent sessions up", async || {
            let since = context.clock.now().saturating_sub(SILENCE).unwrap_or(jiff::Timestamp::MIN);
            let lost = books.sweep_sessions(since).await?;
            if lost > 0 {
                tracing::warn!(messages = lost, "sessions ended without settling; their messages count as unknown");
            }
            Ok(())
        }),
    );
}

async fn every(interval: Duration, doing: &'static str, work: impl AsyncFn() -> Result<()>) {
    loop {
        let pause = match work().await {
            Ok(()) => interval,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "{doing}");
                RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}
